//! Drives `core/xds` over gRPC and publishes the state of the mesh.
//!
//! [`new`] makes a [`Client`], for those who use the state, and a [`Driver`], which some task runs.
//! Each response is decoded and applied on a thread of its own, and makes one new [`State`]; nobody
//! who reads states ever waits for that.

mod client;
mod codec;
mod driver;
mod lines;
mod node;
mod session;
mod state;
mod status;
mod stored;

pub use client::{Client, Existence, LookupError};
pub use driver::{Driver, Settings, new};
pub use node::{Node, NodeError, NodeFacts, node};
pub use state::{State, Sync};
pub use status::{LastError, Messages, Status, TERMINATIONS};
pub use stored::{StoredSettings, StoredStatus};
pub use xds::{LookupKey, Mode, RejectedResource, Termination};
