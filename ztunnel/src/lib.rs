//! The node proxy, as a library so that its stages can be tested one by one.
pub mod capture;
