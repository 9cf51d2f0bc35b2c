//! The roots of a trust domain.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use model::{SpiffeId, TrustDomain};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};

use crate::chain::CHAIN_MAX;
use crate::trust::{Usage, verify_path};
use crate::{SvidError, spiffe};

/// Most roots of one trust domain: more than any rotation needs. A larger bundle is refused.
pub const ROOTS_MAX: usize = 32;

/// Why roots were refused.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// None at all: nothing could be verified.
    #[error("the trust bundle is empty")]
    Empty,
    /// More than [`ROOTS_MAX`].
    #[error("the trust bundle has more than {ROOTS_MAX} roots")]
    TooMany,
    /// Not PEM, or cut off.
    #[error("the trust bundle is not whole PEM")]
    Pem(#[source] rustls_pki_types::pem::Error),
    /// A root that cannot be parsed. Leaving it out would be a silent change of trust.
    #[error("root {index} of the trust bundle cannot be used")]
    Root {
        /// Which one, from 0.
        index: usize,
        /// What is wrong with it.
        source: webpki::Error,
    },
}

/// One certificate authority.
#[derive(Clone)]
pub(crate) struct Root {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) not_after: SystemTime,
    anchor: TrustAnchor<'static>,
}

impl Root {
    pub(crate) fn parse(certificate: CertificateDer<'_>) -> Result<Self, webpki::Error> {
        let anchor = webpki::anchor_from_trusted_cert(&certificate)?.to_owned();
        let parsed = spiffe::parse(&certificate).map_err(|_| webpki::Error::BadDer)?;
        let not_after = spiffe::validity(&parsed).1;
        Ok(Self { anchor, not_after, certificate: certificate.into_owned() })
    }
}

impl PartialEq for Root {
    fn eq(&self, other: &Self) -> bool {
        self.certificate == other.certificate
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Root").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

/// Which certificate authorities speak for a trust domain. Cheap to clone.
#[derive(Clone)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    roots: Arc<[Root]>,
    /// Those of `roots`, as the verification wants them.
    anchors: Arc<[TrustAnchor<'static>]>,
}

impl TrustBundle {
    /// Builds a bundle of at least one root. The same root twice counts once.
    pub fn new<'a>(
        trust_domain: TrustDomain,
        roots: impl IntoIterator<Item = CertificateDer<'a>>,
    ) -> Result<Self, BundleError> {
        let mut all: Vec<Root> = Vec::new();
        for (index, root) in roots.into_iter().enumerate() {
            let root = Root::parse(root).map_err(|source| BundleError::Root { index, source })?;
            if all.contains(&root) {
                continue;
            }
            if all.len() == ROOTS_MAX {
                return Err(BundleError::TooMany);
            }
            all.push(root);
        }
        Self::of(trust_domain, all).ok_or(BundleError::Empty)
    }

    /// Reads a bundle of PEM certificates; other text between them is ignored.
    pub fn from_pem(trust_domain: TrustDomain, pem: &[u8]) -> Result<Self, BundleError> {
        // One more than are taken, so that too many are seen as such.
        let roots = CertificateDer::pem_slice_iter(pem).take(ROOTS_MAX * 2);
        let roots: Vec<_> = roots.collect::<Result<_, _>>().map_err(BundleError::Pem)?;
        Self::new(trust_domain, roots)
    }

    /// A bundle of roots that were read before; `None` without any.
    pub(crate) fn of(trust_domain: TrustDomain, roots: Vec<Root>) -> Option<Self> {
        if roots.is_empty() {
            return None;
        }
        let anchors = roots.iter().map(|root| root.anchor.clone()).collect();
        Some(Self { trust_domain, roots: roots.into(), anchors })
    }

    /// The trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The roots' certificates.
    pub fn certificates(&self) -> impl ExactSizeIterator<Item = &CertificateDer<'static>> {
        self.roots.iter().map(|root| &root.certificate)
    }

    /// What a peer with these roots would say to a chain, the leaf first, as client and as server:
    /// whom it speaks for. For an authority that looks at what it signs; a peer's own certificate
    /// is judged in the handshake.
    pub fn verify_chain(
        &self,
        chain: &[CertificateDer<'static>],
        now: SystemTime,
    ) -> Result<SpiffeId, SvidError> {
        let (leaf, intermediates) = chain
            .split_first()
            .filter(|_| chain.len() <= CHAIN_MAX)
            .ok_or(SvidError::Chain(chain.len()))?;
        let parsed = spiffe::parse(leaf).map_err(SvidError::Identity)?;
        let id = spiffe::identity(&parsed).map_err(SvidError::Identity)?;
        if id.trust_domain() != self.trust_domain.as_str() {
            return Err(SvidError::TrustDomain);
        }
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = UnixTime::since_unix_epoch(since);
        for usage in [Usage::Client, Usage::Server] {
            verify_path(self, None, leaf, intermediates, now, usage)
                .map_err(SvidError::Untrusted)?;
        }
        Ok(id)
    }

    pub(crate) fn roots(&self) -> &[Root] {
        &self.roots
    }

    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }
}

impl PartialEq for TrustBundle {
    fn eq(&self, other: &Self) -> bool {
        self.trust_domain == other.trust_domain && self.roots == other.roots
    }
}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustBundle")
            .field("domain", &self.trust_domain)
            .field("roots", &self.roots.len())
            .finish_non_exhaustive()
    }
}
