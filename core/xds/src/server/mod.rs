//! The server's half of delta xDS, without I/O, clock or randomness.
//!
//! A [`Catalog`] is what there is: an immutable value whose copies share memory. One
//! [`Connection`] for each stream knows what its client holds, and makes the responses that lead
//! from there to the catalogue. The driver hands each request to [`Connection::receive`] and each
//! new catalogue to [`Connection::advance`], then sends what [`Connection::respond`] gives.
//!
//! - **Only differences are sent**, also after a reconnect.
//! - **One response of a type is in flight**; what changes meanwhile is a set of names, so a slow
//!   client holds nobody back and costs at most a name for each resource.
//! - **Policies come before the addresses that name them, and go after** those that no longer do.

mod catalog;
mod connection;
mod kind;
mod pending;
mod request;
mod resource;
mod response;
mod sharded;
mod status;
mod subscription;
#[cfg(test)]
mod tests;

pub use catalog::{Catalog, RECENT_CHANGES_MAX, RECENT_NAMES_MAX, Update};
pub use connection::{Answered, Connection, ConnectionSettings, Heard};
pub use kind::{Collection, ResourceType, WORKLOAD_TYPE};
pub use request::{
    NAME_BYTES_MAX, OTHER_BYTES_MAX, REQUEST_BYTES_MAX, RequestViolation, SUBSCRIBED_MAX,
    VERSION_BYTES_MAX, VERSIONS_MAX, decode,
};
pub use resource::Resource;
pub use response::{FIRST_RESPONSE_BYTES_MAX, LARGE_BYTES, RESPONSE_BYTES_MAX, Response};
pub use status::{REJECTION_BYTES_MAX, Reach, TypeStatus};
