//! What the store needs of a certificate authority.

use std::error::Error;
use std::pin::Pin;
use std::time::Duration;

use model::SpiffeId;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tls::{Svid, SvidError, TrustBundle, TrustView};

/// A request under way.
pub type Issuing<'a> = Pin<Box<dyn Future<Output = Result<Issued, IssueError>> + Send + 'a>>;

/// Issues certificates for workloads of this node, each with a fresh key.
pub trait Issuer: Send + Sync {
    /// Asks for a certificate that is valid for about `ttl`; the authority may choose less.
    fn issue<'a>(&'a self, identity: &'a SpiffeId, ttl: Duration) -> Issuing<'a>;
}

/// An authority's answer, with the key that we made for it.
pub struct Issued {
    /// The leaf first, without roots.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: PrivateKeyDer<'static>,
    /// The roots that the authority names.
    pub bundle: TrustBundle,
}

impl Issued {
    /// Checks that it is a certificate for `identity` and our key that peers would take, and makes it
    /// ready for handshakes that judge peers by `trust`.
    pub fn into_svid(self, identity: &SpiffeId, trust: &TrustView) -> Result<Svid, Unusable> {
        let svid = Svid::new(self.chain, self.key, self.bundle, trust)?;
        let got = svid.identity().id();
        if got == identity { Ok(svid) } else { Err(Unusable::OtherIdentity(got.clone())) }
    }
}

/// Why a certificate is not used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// No peer would take it, or it is not for our key.
    #[error("the certificate in the authority's answer")]
    Svid(#[from] SvidError),
    /// It is somebody else's.
    #[error("the authority's certificate is for {0}")]
    OtherIdentity(SpiffeId),
}

/// Why there is no SVID. The cause names the authority's own error.
#[derive(Debug, thiserror::Error)]
#[error("no certificate for {identity}")]
pub struct IssueError {
    /// Who it was for.
    pub identity: SpiffeId,
    /// What went wrong.
    #[source]
    pub cause: Box<dyn Error + Send + Sync>,
}

impl IssueError {
    /// The error of one identity's request.
    pub fn new(identity: &SpiffeId, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { identity: identity.clone(), cause: cause.into() }
    }
}
