//! The roots of a trust domain.

use std::fmt;
use std::sync::Arc;

use model::TrustDomain;
use rustls::RootCertStore;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls_pki_types::CertificateDer;

use crate::provider::{Compliance, provider};

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
    /// A root that cannot be parsed. Leaving it out would be a silent change of trust.
    #[error("root {index} of the trust bundle cannot be parsed")]
    Root {
        /// Which one, from 0.
        index: usize,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// rustls refused the roots.
    #[error("the trust bundle cannot be used")]
    Unusable(#[source] VerifierBuilderError),
}

/// Which certificate authorities speak for a trust domain. Cheap to clone.
#[derive(Clone)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    roots: Arc<RootCertStore>,
    /// Verifies clients' chains and their usage, not their identity.
    clients: Arc<dyn ClientCertVerifier>,
}

impl TrustBundle {
    /// Builds a bundle of at least one root.
    pub fn new<'a>(
        trust_domain: TrustDomain,
        roots: impl IntoIterator<Item = CertificateDer<'a>>,
    ) -> Result<Self, BundleError> {
        let mut store = RootCertStore::empty();
        for (index, root) in roots.into_iter().enumerate() {
            if index == ROOTS_MAX {
                return Err(BundleError::TooMany);
            }
            store.add(root).map_err(|source| BundleError::Root { index, source })?;
        }
        if store.is_empty() {
            return Err(BundleError::Empty);
        }
        let roots = Arc::new(store);
        let clients = WebPkiClientVerifier::builder_with_provider(
            roots.clone(),
            provider(Compliance::Default),
        )
        .build()
        .map_err(BundleError::Unusable)?;
        Ok(Self { trust_domain, roots, clients })
    }

    /// The trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    pub(crate) fn roots(&self) -> &RootCertStore {
        &self.roots
    }

    pub(crate) fn clients(&self) -> &dyn ClientCertVerifier {
        &*self.clients
    }
}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roots = self.roots.len();
        f.debug_struct("TrustBundle")
            .field("domain", &self.trust_domain)
            .field("roots", &roots)
            .finish_non_exhaustive()
    }
}
