//! X.509-SVIDs of the workloads on this node: asked for, issued, kept fresh, forgotten.
//!
//! Keys are made here and stay in memory. Who issues is behind [`Issuer`]: the embedded
//! development authority ([`DevCa`]) now, a control plane's over gRPC later.

mod csr;
mod dev_ca;
mod issuer;
mod store;

pub use csr::{Csr, CsrError};
pub use dev_ca::{CERTIFICATE_FILE, DevCa, DevCaError, KEY_FILE};
pub use issuer::{IssueError, Issuer, Issuing};
pub use store::{
    IDENTITIES_MAX, ISSUES_AT_ONCE, NotReady, RETRY_MAX, RETRY_MIN, StoreFull, SvidHandle,
    SvidStatus, SvidStore, TTL_DEFAULT,
};
