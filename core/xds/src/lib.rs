//! Delta xDS as a machine, and what its resources mean: the only reader of the wire types.

mod parse;

pub use parse::{
    Address, Interner, Invalid, POLICY_BYTES_MAX, Problem, TEXT_BYTES_MAX, parse_address,
    parse_policy,
};
