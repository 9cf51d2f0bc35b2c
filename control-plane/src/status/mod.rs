//! What is written back: conditions and addresses of objects ([`writer`]) and the trust bundle of
//! every namespace ([`trust_bundle`]).
//!
//! Several replicas run and one of them writes, the one that holds the lease ([`lease`]).

pub mod conditions;
pub mod lease;
pub mod trust_bundle;
pub mod writer;

pub use lease::Leadership;
pub use writer::StatusWriter;
