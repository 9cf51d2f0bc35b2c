//! X.509-SVIDs of the workloads on this node: asked for, issued, kept fresh, forgotten.
//!
//! Keys are made here. Who issues is behind [`Issuer`]: a control plane's authority over gRPC
//! ([`CaClient`]), or the embedded development authority ([`DevCa`]).

mod ca_client;
mod csr;
mod dev_ca;
mod issuer;
mod response;
mod store;

pub use ca_client::{CALL_TIMEOUT, CaClient, CaClientError};
pub use csr::{Csr, CsrError};
pub use dev_ca::{CERTIFICATE_FILE, DevCa, DevCaError, KEY_FILE};
pub use issuer::{IssueError, Issuer, Issuing};
pub use response::{IssuedChain, RESPONSE_BYTES_MAX, ResponseError, issued_chain};
pub use store::{
    IDENTITIES_MAX, ISSUES_AT_ONCE, NotReady, RETRY_MAX, RETRY_MIN, StoreFull, SvidHandle,
    SvidStatus, SvidStore, TTL_DEFAULT,
};
