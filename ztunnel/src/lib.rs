//! The node proxy, as a library so that its stages can be tested one by one.
//!
//! `main → app → flow → stages`. Stages never import one another; they exchange the vocabulary of
//! `model`, and only `flow` knows their order.

pub mod app;
pub mod capture;
pub mod check;
pub mod config;
mod control;
mod discovery;
mod dns;
mod enrolment;
mod flow;
mod identity;
mod mesh;
mod policy;
mod relay;
mod telemetry;
mod tunnel;
