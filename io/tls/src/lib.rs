//! Mutual TLS between workloads: the only place where a certificate becomes a
//! [`model::VerifiedIdentity`].
//!
//! TLS 1.3 only, X25519MLKEM768 preferred, ALPN `h2` on both sides, no server name, no resumption
//! and no early data: both would skip the verifier. Built on rustls with aws-lc-rs (ADR 0003).

mod bundle;
mod error;
mod handshake;
mod provider;
mod server_trust;
mod spiffe;
mod svid;
mod verifier;

pub use bundle::{BundleError, ROOTS_MAX, TrustBundle};
pub use error::{IdentityProblem, TlsError};
pub use handshake::{ALPN, TlsStream, accept, connect};
pub use provider::Compliance;
pub use server_trust::{ROOTS_FILE_MAX, RootSource, ServerRootsError, ServerTrust, ServerVerifier};
pub use svid::{CHAIN_MAX, Svid, SvidError};
