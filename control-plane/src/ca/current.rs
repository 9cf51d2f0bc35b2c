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

    fn issuing_pem(&self) -> Arc<str> {
        (certificates_pem(self.authority.intermediates()) + &*self.bundle_pem).into()
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
    issuing_pem: Arc<watch::Sender<Arc<str>>>,
}

impl Current {
    /// Beginning with this.
    #[must_use]
    pub fn new(in_force: InForce) -> Self {
        let bundle_pem = in_force.bundle_pem.clone();
        let issuing_pem = in_force.issuing_pem();
        Self {
            in_force: Arc::new(watch::channel(Arc::new(in_force)).0),
            bundle_pem: Arc::new(watch::channel(bundle_pem).0),
            issuing_pem: Arc::new(watch::channel(issuing_pem).0),
        }
    }

    /// Replaces it.
    pub fn replace(&self, in_force: InForce) {
        let (pem, issuing) = (in_force.bundle_pem.clone(), in_force.issuing_pem());
        let until = in_force.authority.not_after();
        let root = in_force.authority.root();
        self.in_force.send_replace(Arc::new(in_force));
        tell(&self.bundle_pem, pem);
        tell(&self.issuing_pem, issuing);
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

    /// PEM of the certificates below the root that sign, and of every root that is told, now and
    /// later: when it changes, what was signed before comes with another way to a root.
    #[must_use]
    pub fn issuing_pem(&self) -> watch::Receiver<Arc<str>> {
        self.issuing_pem.subscribe()
    }
}

fn tell(told: &watch::Sender<Arc<str>>, text: Arc<str>) {
    told.send_if_modified(|told| {
        let is_other = *told != text;
        *told = text;
        is_other
    });
}
