//! What the eBPF programs and the node proxy say to each other: keys, values, limits and the decisions
//! (what a `connect` becomes, where an incoming connection goes, which datagrams are questions) as pure
//! functions.
//!
//! One crate on both sides of the kernel boundary, so the layouts cannot drift, and `no_std` without
//! loops or panics, so the decisions compile for the verifier and run in host tests alike.
//! Integers that the kernel hands over in network order are [`Be16`] and [`Be32`], never bare.
#![no_std]
#![expect(
    clippy::inline_always,
    reason = "eBPF calls take five registers: a function that passes structs has to be inlined"
)]

#[cfg(test)]
extern crate std;

pub mod address;
pub mod connect;
pub mod counter;
pub mod dns;
pub mod limits;
pub mod order;
pub mod plain;
pub mod prefix;
pub mod role;
pub mod settings;
pub mod slot;
pub mod steer;
pub mod tuple;

pub use address::Address;
pub use counter::{Counter, GlobalCounter};
pub use limits::*;
pub use order::{Be16, Be32};
pub use plain::Plain;
pub use prefix::{PrefixFlags, PrefixKey};
pub use role::{Role, Roles, SocketRole};
pub use settings::{Settings, SettingsFlags};
pub use slot::{Family, Kind};
pub use tuple::{Tuple, TupleKey};
