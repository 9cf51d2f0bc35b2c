//! Mutual TLS between workloads: the only place where a certificate becomes a
//! [`model::VerifiedIdentity`].
//!
//! TLS 1.3 only, X25519MLKEM768 preferred, ALPN `h2` on both sides, no server name, no resumption
//! and no early data: both would skip the verifier. Built on rustls with aws-lc-rs (ADR 0003).
//! Whom a handshake believes is a value of its own, [`Trust`], which changes while certificates and
//! connections stand. TLS to a control plane, which has a name and no SPIFFE ID, is [`ServerTrust`];
//! its other end, where a client may come without a certificate, is [`ServerTls`].

mod bundle;
mod chain;
mod error;
mod facts;
mod handshake;
mod provider;
mod response;
mod revocation;
mod server_identity;
mod server_trust;
mod spiffe;
mod svid;
mod trust;
mod verifier;

pub use bundle::{BundleError, ROOTS_MAX, TrustBundle};
pub use chain::{CHAIN_MAX, PeerChain};
pub use error::{IdentityProblem, TlsError};
pub use facts::CertificateFacts;
pub use handshake::{ALPN, TlsStream, VerifiedPeer, accept, connect};
pub use provider::Compliance;
pub use response::{IssuedChain, RESPONSE_BYTES_MAX, ResponseError, issued_chain};
pub use revocation::{CRL_FILE_MAX, CRLS_MAX, CrlError, RevocationLists};
pub use server_identity::{ServerIdentity, ServerIdentityError, ServerTls};
pub use server_trust::{ROOTS_FILE_MAX, RootSource, ServerRootsError, ServerTrust, ServerVerifier};
pub use svid::{Svid, SvidError};
pub use trust::{
    BUNDLE_FILE_MAX, CrlStatus, DomainStatus, FEDERATED_MAX, LIFETIME_MAX, Origin, Revoked, Trust,
    TrustSettings, TrustStatus, TrustStore, TrustView,
};
