//! X.509-SVIDs of the workloads on this node: asked for, issued, kept fresh, forgotten.
//!
//! Keys are made here. They stay in memory, and on tmpfs for an agent that restarts ([`SvidFolder`],
//! ADR 0007). Who issues is behind [`Issuer`]: a control plane's authority over gRPC
//! ([`CaClient`]), or the embedded development authority ([`DevCa`]).

mod ca_client;
mod csr;
mod dev_ca;
mod folder;
mod issuer;
mod schedule;
mod store;

pub use ca_client::{CALL_TIMEOUT, CaClient, CaClientError};
pub use csr::{Csr, CsrError};
pub use dev_ca::{CERTIFICATE_FILE, DevCa, DevCaError, KEY_FILE};
pub use folder::{FolderError, SvidFolder};
pub use issuer::{IssueError, Issued, Issuer, Issuing, Unusable};
pub use schedule::{ISSUES_AT_ONCE, RETRY_MAX, RETRY_MIN, RETRY_WAITED_FOR};
pub use store::{
    IDENTITIES_MAX, NotReady, StoreFull, SvidHandle, SvidStatus, SvidStore, TTL_DEFAULT,
    UNCLAIMED_MAX,
};
