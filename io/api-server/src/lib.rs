//! A small client of the Kubernetes API for a node's agent: lists, watches, reads, patches.
//!
//! HTTP/1.1 over TLS 1.3 to the one API server of the settings, whose certificate must carry its
//! name. Objects stay the JSON that they came as; `core/cluster` reads them. What an answer means
//! is decided by functions without I/O (`event.rs`, `list.rs`, `status.rs`); the rest performs it.
//! Everything that the wire can make large, slow or endless has a bound.

mod access;
mod address;
mod back_off;
mod client;
mod connection;
mod error;
mod event;
mod exchange;
mod lines;
mod list;
mod query;
mod settings;
mod status;
mod watch;

pub use access::Access;
pub use client::ApiClient;
pub use error::{ApiError, Cause, Operation};
pub use event::EventError;
pub use list::ListError;
pub use query::Query;
pub use serde_json::value::RawValue;
pub use settings::{ApiSettings, Timing};
pub use status::Refusal;
pub use watch::{CHANGES_MAX, Change, watch};
