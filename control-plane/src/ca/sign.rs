//! Who signs: an authority of this process, or one elsewhere.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use authority::{CertificateRequest, ExternalError, Fingerprint, Names, RequestError, SignError};

use super::current::Current;
use super::kubernetes_signer::KubernetesSignerError;

/// A certificate with its way to a root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedChain {
    /// PEM of each certificate, the leaf first, without roots.
    pub chain: Vec<String>,
    /// PEM of every root that is told.
    pub roots: String,
    /// Which root it leads to, if that is known.
    pub root: Option<Fingerprint>,
    /// The roots, as the ledger names them.
    pub mark: u64,
    /// When the leaf ends.
    pub not_after: SystemTime,
}

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// The request is not good enough for this authority.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// Our authority.
    #[error(transparent)]
    Own(#[from] SignError),
    /// The API server's signer.
    #[error(transparent)]
    Kubernetes(#[from] KubernetesSignerError),
    /// What it answered.
    #[error(transparent)]
    External(#[from] ExternalError),
}

impl SigningError {
    /// The label of the metric.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Request(_) | Self::Own(SignError::TrustDomain(_)) => "CSR_ERROR",
            Self::Kubernetes(_) | Self::Own(SignError::Expired) => "CA_NOT_READY",
            Self::External(_) | Self::Own(SignError::Make(_)) => "CERT_GEN_ERROR",
        }
    }

    /// Whether it is the caller's fault.
    #[must_use]
    pub fn is_callers(&self) -> bool {
        matches!(self, Self::Request(_))
    }
}

/// The answer of a signer.
pub type Signing<'a> = Pin<Box<dyn Future<Output = Result<SignedChain, SigningError>> + Send + 'a>>;

/// Asked for a certificate: `pem` is the request as it came.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The request, verified.
    pub request: &'a CertificateRequest,
    /// The same, as it came.
    pub pem: &'a str,
    /// For whom it is.
    pub names: &'a Names,
    /// For how long.
    pub ttl: Duration,
}

/// Signs what was authorised before.
pub trait Sign: Send + Sync {
    /// Never waits longer than some seconds.
    fn sign<'a>(&'a self, asked: Asked<'a>) -> Signing<'a>;
}

/// An authority of this process.
impl Sign for Current {
    fn sign<'a>(&'a self, asked: Asked<'a>) -> Signing<'a> {
        Box::pin(async move {
            asked.request.require(asked.names)?;
            let in_force = self.get();
            let authority = &in_force.authority;
            let now = SystemTime::now();
            let signed = authority.sign(asked.request, asked.names, asked.ttl, now)?;
            Ok(SignedChain {
                chain: authority.chain_pem(&signed),
                roots: in_force.bundle_pem.to_string(),
                root: Some(authority.root()),
                mark: in_force.mark,
                not_after: signed.validity.not_after,
            })
        })
    }
}
