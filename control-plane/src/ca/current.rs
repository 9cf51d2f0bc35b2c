//! What signs and what is believed, at one moment; replaced as a whole.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use authority::{Authority, CertificateDer, Fingerprint, certificates_pem};
use model::TrustDomain;
use tls::{BundleError, TrustBundle};
use tokio::sync::watch;

use super::ledger::bundle_mark;

/// An authority, and every root that answers tell of.
#[derive(Debug)]
pub struct InForce {
    /// Signs.
    pub authority: Arc<Authority>,
    /// Roots that are told: those of the authority, of the one to come, and of the one before.
    pub bundle: TrustBundle,
    /// The same, PEM.
    pub bundle_pem: Arc<str>,
    /// The same, as the ledger names it.
    pub mark: u64,
}

impl InForce {
    /// An authority with its roots, and more roots.
    pub fn new(
        authority: Arc<Authority>,
        more: impl IntoIterator<Item = CertificateDer<'static>>,
    ) -> Result<Self, BundleError> {
        let domain: TrustDomain = authority.bundle().trust_domain().clone();
        let mut seen = BTreeSet::new();
        let all: Vec<_> = authority
            .bundle()
            .certificates()
            .cloned()
            .chain(more)
            .filter(|root| seen.insert(Fingerprint::of(root)))
            .collect();
        let bundle = TrustBundle::new(domain, all)?;
        let bundle_pem = certificates_pem(bundle.certificates()).into();
        let mark = bundle_mark(&bundle);
        Ok(Self { authority, bundle, bundle_pem, mark })
    }

    /// Whether a root is told.
    #[must_use]
    pub fn tells(&self, root: Fingerprint) -> bool {
        self.bundle.certificates().any(|one| Fingerprint::of(one) == root)
    }
}

/// What is in force, now and later. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Current {
    in_force: Arc<watch::Sender<Arc<InForce>>>,
    bundle_pem: Arc<watch::Sender<Arc<str>>>,
}

impl Current {
    /// Beginning with this.
    #[must_use]
    pub fn new(in_force: InForce) -> Self {
        let bundle_pem = in_force.bundle_pem.clone();
        Self {
            in_force: Arc::new(watch::channel(Arc::new(in_force)).0),
            bundle_pem: Arc::new(watch::channel(bundle_pem).0),
        }
    }

    /// Replaces it.
    pub fn replace(&self, in_force: InForce) {
        let pem = in_force.bundle_pem.clone();
        let until = in_force.authority.not_after();
        let root = in_force.authority.root();
        self.in_force.send_replace(Arc::new(in_force));
        self.bundle_pem.send_if_modified(|told| {
            let is_other = *told != pem;
            *told = pem;
            is_other
        });
        let left = until.duration_since(SystemTime::now()).unwrap_or_default();
        tracing::info!(%root, days_left = left.as_secs() / 86_400, "authority in force");
    }

    /// What is in force.
    #[must_use]
    pub fn get(&self) -> Arc<InForce> {
        self.in_force.borrow().clone()
    }

    /// What is in force, now and later.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<InForce>> {
        self.in_force.subscribe()
    }

    /// PEM of every root that is told, now and later: for whoever publishes it.
    #[must_use]
    pub fn bundle_pem(&self) -> watch::Receiver<Arc<str>> {
        self.bundle_pem.subscribe()
    }
}
