//! Delta xDS as machines, the client's and the server's, and what its resources mean: the only
//! reader of the wire types.

mod client;
mod kind;
mod parse;
pub mod server;

pub use client::{
    ABSENT_FOR, ALIASES_MAX, Answer, Client, ClientSettings, Expired, LOOKUP_WAIT, Lookup,
    LookupKey, Mode, NACK_BYTES_MAX, NAMES_MAX, RESOURCES_HELD_MAX, RETRY_MAX, RETRY_MIN,
    RETURN_MAX, Received, Record, RecordBody, Refusal, RejectedResource, Sync, Termination,
    Violation, WAITERS_MAX, WaiterId,
};
pub use kind::Kind;
pub use parse::{
    Address, Interner, Invalid, POLICY_BYTES_MAX, Problem, TEXT_BYTES_MAX, parse_address,
    parse_policy,
};
