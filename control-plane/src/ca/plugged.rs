//! An operator's intermediate: files in a folder, or the same texts in a Secret.
//!
//! Named as Istio's `cacerts` or as cert-manager's secrets. Looked at every second; what is broken
//! or half there leaves the last good authority in force and is told. A new root takes over by
//! itself as a rotation does: it is told first, signs when every living certificate came with it,
//! and the one before is dropped when no living certificate leads to it, with the revocation lists
//! that only it signed. One that came while we were away signs at once, because the key before is
//! gone; the roots before are told on.

mod place;
mod revocations;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use authority::{Authority, AuthorityPem, CertificateDer, Fingerprint, certificates_pem};
use model::{TrustDomain, causes};
use parking_lot::Mutex;
use tls::{RevocationLists, TrustBundle};

use super::current::{Current, InForce};
use super::ledger::{Ledger, Left};
use super::rotation::{
    CaStatus, Care, Rotate, Rotating, RotationError, RotationStage, Standing, check, status,
};
use super::store::{SecretStore, Texts};
use revocations::{Lists, Signers};

pub use place::PluggedPlace;

/// How often the texts are looked at.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Of the object that remembers every root that is told. A root that the operator replaces while
/// no control plane runs is known from there only.
const TOLD: &str = "told-root-cert.pem";
/// Of the same object: the revocation lists in force, so that a restart does not take older ones.
/// There and empty: the root of the last one was dropped.
const TOLD_CRL: &str = "told-ca-crl.pem";
/// Tries to write against others who write.
const TRIES_MAX: usize = 5;

const CA_CERT: &str = "ca-cert.pem";
const CA_KEY: &str = "ca-key.pem";
const CERT_CHAIN: &str = "cert-chain.pem";
const ROOT_CERT: &str = "root-cert.pem";
const CRL: &str = "ca-crl.pem";
const TLS_CERT: &str = "tls.crt";
const TLS_KEY: &str = "tls.key";
const CA_ROOT: &str = "ca.crt";

/// An operator's authority.
pub struct Plugged {
    place: PluggedPlace,
    memory: Arc<dyn SecretStore>,
    trust_domain: TrustDomain,
    ledger: Arc<Ledger>,
    ledger_store: Arc<dyn SecretStore>,
    current: Current,
    state: Mutex<State>,
}

struct State {
    texts: Texts,
    /// A new authority whose root is told, and which does not sign yet.
    next: Option<Arc<Authority>>,
    /// Roots that the operator has removed and certificates still lead to.
    retained: Vec<CertificateDer<'static>>,
    lists: Lists,
    problem: Option<String>,
}

/// Where the things beside the operator's texts are kept.
#[derive(Clone)]
pub struct PluggedMemory {
    /// Every root that is told, also those that the operator has removed, and the revocation lists
    /// in force.
    pub roots: Arc<dyn SecretStore>,
    /// The ledger.
    pub ledger: Arc<dyn SecretStore>,
}

impl Plugged {
    /// Loads the authority. Here what is missing is an error; later it is a problem to be shown.
    pub async fn open(
        place: PluggedPlace,
        memory: PluggedMemory,
        trust_domain: TrustDomain,
        ledger: Arc<Ledger>,
    ) -> Result<Self, RotationError> {
        let PluggedMemory { roots: memory, ledger: ledger_store } = memory;
        let now = SystemTime::now();
        let texts = place.read().await?;
        let authority = Arc::new(load(&texts, &place.name(), &trust_domain, now)?);
        let remembered = memory.get().await?.map(|stored| stored.texts).unwrap_or_default();
        let told = match remembered.get(TOLD).filter(|pem| !pem.is_empty()) {
            Some(pem) => roots(&trust_domain, pem)?,
            None => Vec::new(),
        };
        let retained: Vec<_> =
            told.into_iter().filter(|root| !has(authority.bundle(), root)).collect();
        ledger.merge(&*ledger_store, now).await?;
        let in_force = InForce::new(authority, retained.clone())?;
        let below = in_force.authority.intermediates();
        let signers = Signers { roots: &in_force.bundle, below };
        let before = remembered.get(TOLD_CRL).map(|text| revocations::restore(text, &signers));
        let before = before.transpose()?;
        let (lists, texts) = match revocations::next(before.as_ref(), &texts, &signers, now) {
            Ok(lists) => (lists, texts),
            // The ones before stay in force. The next look takes the texts for new, and tells why.
            Err(_) if before.is_some() => (before, Texts::new()),
            Err(error) => return Err(error.into()),
        };
        remember(&*memory, &in_force.bundle, lists.as_ref()).await?;
        let current = Current::new(in_force);
        let lists = Lists::new(lists);
        let state = Mutex::new(State { texts, next: None, retained, lists, problem: None });
        Ok(Self { place, memory, trust_domain, ledger, ledger_store, current, state })
    }

    /// What it signs with.
    #[must_use]
    pub fn current(&self) -> &Current {
        &self.current
    }

    /// The revocation lists in force, PEM, now and later; empty if there is none. One that the
    /// operator takes away stays in force: what it revoked is still revoked.
    #[must_use]
    pub fn crl(&self) -> tokio::sync::watch::Receiver<Arc<str>> {
        self.state.lock().lists.pem()
    }

    /// The same as they are applied; `None`: there never was one.
    #[must_use]
    pub fn revocations(&self) -> Option<RevocationLists> {
        self.state.lock().lists.get().cloned()
    }

    /// Looks at the texts again, and takes the steps of a rotation whose time has come.
    pub async fn look(&self) {
        let looked = match self.place.read().await {
            Ok(texts) => self.apply(texts).await,
            Err(error) => Err(error.into()),
        };
        let stepped = match looked {
            Ok(()) => self.advance(Care::Check).await,
            Err(error) => Err(error),
        };
        let problem = stepped.err().map(|error| causes(&error)).or_else(|| self.lists_ending());
        let mut state = self.state.lock();
        if problem.is_some() && problem != state.problem {
            tracing::error!(problem, "the plugged-in authority cannot be used as it is");
        }
        state.problem = problem;
    }

    /// Looks from time to time and writes the ledger down, until it is dropped. Cancel safe.
    pub async fn watch(&self) {
        let look = async {
            loop {
                tokio::time::sleep(LOOK_INTERVAL).await;
                self.look().await;
            }
        };
        tokio::join!(look, self.ledger.keep(&*self.ledger_store));
    }

    async fn apply(&self, texts: Texts) -> Result<(), RotationError> {
        if self.state.lock().texts == texts {
            return Ok(());
        }
        let loaded = load(&texts, &self.place.name(), &self.trust_domain, SystemTime::now())?;
        let loaded = Arc::new(loaded);
        let before = self.current.get();
        let told: Vec<_> = before.bundle.certificates().cloned().collect();
        // Roots that were told and are removed stay until nobody needs them.
        let retained: Vec<_> =
            told.into_iter().filter(|root| !has(loaded.bundle(), root)).collect();
        let is_same_root = before.authority.root() == loaded.root();
        let more = retained.iter().cloned();
        let in_force = if is_same_root {
            InForce::new(loaded.clone(), more)?
        } else {
            // Not everybody believes its root yet: the authority before signs on.
            let more = more.chain(loaded.bundle().certificates().cloned());
            InForce::new(before.authority.clone(), more)?
        };
        let below =
            [&before.authority, &loaded].map(|authority| authority.intermediates()).concat();
        let signers = Signers { roots: &in_force.bundle, below: &below };
        let lists = self.revocations();
        let lists = revocations::next(lists.as_ref(), &texts, &signers, SystemTime::now())?;
        remember(&*self.memory, &in_force.bundle, lists.as_ref()).await?;
        self.current.replace(in_force);
        let mut state = self.state.lock();
        state.lists.replace(lists);
        state.next = (!is_same_root).then_some(loaded);
        state.retained = retained;
        state.texts = texts;
        Ok(())
    }

    /// Takes each step that leaves nobody behind.
    async fn advance(&self, care: Care) -> Result<(), RotationError> {
        let now = SystemTime::now();
        let (next, retained) = {
            let state = self.state.lock();
            (state.next.clone(), state.retained.clone())
        };
        if let Some(next) = next {
            self.ledger.merge(&*self.ledger_store, now).await?;
            let in_force = self.current.get();
            let has_ended = in_force.authority.not_after() <= now;
            if care == Care::Force || has_ended || self.left_by_switch(now).is_empty() {
                self.current.replace(InForce::new(next, retained)?);
                self.state.lock().next = None;
            }
            return Ok(());
        }
        if retained.is_empty() {
            return Ok(());
        }
        self.ledger.merge(&*self.ledger_store, now).await?;
        let needed: Vec<_> = retained
            .iter()
            .filter(|root| {
                let root = Fingerprint::of(root);
                care == Care::Check && !self.ledger.presenting(root, now).is_empty()
            })
            .cloned()
            .collect();
        if needed.len() < retained.len() {
            self.drop_roots(&retained, needed).await?;
        }
        Ok(())
    }

    /// Drops those of the roots before that are not needed, and the lists that only they signed.
    async fn drop_roots(
        &self,
        retained: &[CertificateDer<'static>],
        needed: Vec<CertificateDer<'static>>,
    ) -> Result<(), RotationError> {
        let authority = self.current.get().authority.clone();
        let in_force = InForce::new(authority, needed.iter().cloned())?;
        let dropped: Vec<_> =
            retained.iter().filter(|root| !needed.contains(root)).cloned().collect();
        let before = self.revocations();
        let lists = before.as_ref().map(|lists| lists.without(&dropped, &in_force.bundle));
        remember(&*self.memory, &in_force.bundle, lists.as_ref()).await?;
        self.current.replace(in_force);
        if before.is_some_and(|before| !before.is_empty())
            && lists.as_ref().is_some_and(RevocationLists::is_empty)
        {
            tracing::warn!("the last revocation list went with the root that signed it");
        }
        let mut state = self.state.lock();
        state.lists.replace(lists);
        state.retained = needed;
        Ok(())
    }

    /// What an operator has to do before the roots before go, and with them the last list: agents
    /// that follow one and find none at their start refuse everybody.
    fn lists_ending(&self) -> Option<String> {
        let in_force = self.current.get();
        let state = self.state.lock();
        let lists = state.lists.get().filter(|lists| !lists.is_empty())?;
        let is_ending = state.next.is_none()
            && !state.retained.is_empty()
            && lists.without(&state.retained, in_force.authority.bundle()).is_empty();
        is_ending.then(|| {
            format!(
                "the revocation lists go with the root before: put one of the new root into {CRL}"
            )
        })
    }

    fn left_by_switch(&self, now: SystemTime) -> Vec<Left> {
        self.ledger.without(self.current.get().mark, now)
    }

    fn left_by_finish(&self, now: SystemTime) -> Vec<Left> {
        let retained = self.state.lock().retained.clone();
        retained
            .iter()
            .flat_map(|root| self.ledger.presenting(Fingerprint::of(root), now))
            .collect()
    }

    fn stage(&self) -> RotationStage {
        let state = self.state.lock();
        match (&state.next, state.retained.is_empty()) {
            (Some(_), _) => RotationStage::Prepared,
            (None, false) => RotationStage::Switched,
            (None, true) => RotationStage::Steady,
        }
    }

    async fn step(
        &self,
        step: &'static str,
        at: RotationStage,
        care: Care,
    ) -> Result<CaStatus, RotationError> {
        self.look().await;
        let now = SystemTime::now();
        if self.stage() != at {
            let why = "files or Secret say what is told and what signs";
            return Err(RotationError::Turn { step, why });
        }
        let left = match at {
            RotationStage::Steady => Vec::new(),
            RotationStage::Prepared => self.left_by_switch(now),
            RotationStage::Switched => self.left_by_finish(now),
        };
        check(step, care, left)?;
        self.advance(care).await?;
        Ok(self.status())
    }
}

impl Rotate for Plugged {
    fn prepare(&self) -> Rotating<'_> {
        let why = "put the new certificate, key and roots in place of the old ones";
        Box::pin(async move { Err(RotationError::Turn { step: "prepare", why }) })
    }

    fn switch(&self, care: Care) -> Rotating<'_> {
        Box::pin(self.step("switch", RotationStage::Prepared, care))
    }

    fn finish(&self, care: Care) -> Rotating<'_> {
        Box::pin(self.step("finish", RotationStage::Switched, care))
    }

    fn status(&self) -> CaStatus {
        let now = SystemTime::now();
        let stage = self.stage();
        let left = match stage {
            RotationStage::Steady => Vec::new(),
            RotationStage::Prepared => self.left_by_switch(now),
            RotationStage::Switched => self.left_by_finish(now),
        };
        let (problem, next) = {
            let state = self.state.lock();
            (state.problem.clone(), state.next.clone())
        };
        status(Standing {
            source: format!("plugged in from {}", self.place.name()),
            stage,
            in_force: &self.current.get(),
            next: next.as_deref(),
            ledger: &self.ledger,
            left: &left,
            problem,
        })
    }
}

/// Writes down what is told, before it is.
async fn remember(
    memory: &dyn SecretStore,
    told: &TrustBundle,
    lists: Option<&RevocationLists>,
) -> Result<(), RotationError> {
    let mut texts = Texts::from([(TOLD.to_owned(), certificates_pem(told.certificates()))]);
    texts.extend(lists.map(|lists| (TOLD_CRL.to_owned(), revocations::pem(lists))));
    for _ in 0..TRIES_MAX {
        let is_written = match memory.get().await? {
            Some(stored) if stored.texts == texts => true,
            Some(stored) => memory.replace(texts.clone(), stored.version).await?.is_some(),
            None => memory.create(texts.clone()).await?.texts == texts,
        };
        if is_written {
            return Ok(());
        }
    }
    Err(RotationError::Conflict)
}

fn has(bundle: &TrustBundle, root: &CertificateDer<'_>) -> bool {
    bundle.certificates().any(|one| one == root)
}

fn roots(
    trust_domain: &TrustDomain,
    pem: &str,
) -> Result<Vec<CertificateDer<'static>>, RotationError> {
    let bundle = TrustBundle::from_pem(trust_domain.clone(), pem.as_bytes())?;
    Ok(bundle.certificates().cloned().collect())
}

fn load(
    texts: &Texts,
    place: &str,
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<Authority, RotationError> {
    let text = |what: &'static str| {
        let found = texts.get(what).map(String::as_str).filter(|text| !text.trim().is_empty());
        found.ok_or_else(|| RotationError::Missing { place: place.to_owned(), what })
    };
    let is_cert_manager = [CA_CERT, CA_KEY].iter().all(|name| !texts.contains_key(*name))
        && [TLS_CERT, TLS_KEY].iter().any(|name| texts.contains_key(*name));
    let pem = if is_cert_manager {
        let (certificate, key) = (text(TLS_CERT)?, text(TLS_KEY)?);
        AuthorityPem { certificate, key, chain: "", roots: text(CA_ROOT)? }
    } else {
        let (certificate, key) = (text(CA_CERT)?, text(CA_KEY)?);
        AuthorityPem { certificate, key, chain: text(CERT_CHAIN)?, roots: text(ROOT_CERT)? }
    };
    Ok(Authority::from_pem(trust_domain, &pem, now)?)
}

#[cfg(test)]
mod tests;
