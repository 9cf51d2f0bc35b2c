//! A root of our own: made on the first start, kept in a store, rotated by command.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use authority::{Authority, AuthorityError, AuthorityPem, Fingerprint, KeyAlgorithm, make_root};
use model::{TrustDomain, causes};
use parking_lot::Mutex;

use super::current::{Current, InForce};
use super::ledger::{Ledger, Left};
use super::rotation::{
    CaStatus, Care, Rotate, Rotating, RotationError, RotationStage, Standing, check, status,
};
use super::store::{SecretStore, Stored, Texts};

/// Names of the texts; the first two as Istio has them.
const CERTIFICATE: &str = "ca-cert.pem";
const KEY: &str = "ca-key.pem";
const NEXT_CERTIFICATE: &str = "next-ca-cert.pem";
const NEXT_KEY: &str = "next-ca-key.pem";
const OLD_ROOT: &str = "old-root-cert.pem";
/// How often a store is looked at: another control plane may have rotated.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// An authority with its own root.
pub struct OwnRoot {
    store: Arc<dyn SecretStore>,
    trust_domain: TrustDomain,
    algorithm: KeyAlgorithm,
    ledger: Arc<Ledger>,
    ledger_store: Arc<dyn SecretStore>,
    current: Current,
    seen: Mutex<Seen>,
}

struct Seen {
    stored: Stored,
    problem: Option<String>,
}

/// Where an authority and its ledger are kept.
#[derive(Clone)]
pub struct Places {
    /// Keys and certificates.
    pub keys: Arc<dyn SecretStore>,
    /// The ledger.
    pub ledger: Arc<dyn SecretStore>,
}

impl OwnRoot {
    /// Opens the authority of a store, and makes one if there is none. Continues a rotation where
    /// it stood.
    pub async fn open(
        places: Places,
        trust_domain: TrustDomain,
        algorithm: KeyAlgorithm,
        ledger: Arc<Ledger>,
    ) -> Result<Self, RotationError> {
        let Places { keys: store, ledger: ledger_store } = places;
        let now = SystemTime::now();
        let stored = if let Some(stored) = store.get().await? {
            stored
        } else {
            let root = make_root(&trust_domain, algorithm, now)?;
            let texts = [(CERTIFICATE, root.certificate), (KEY, root.key)];
            store.create(texts.map(|(name, text)| (name.to_owned(), text)).into()).await?
        };
        let in_force = in_force(&stored.texts, &store.place(), &trust_domain, now)?;
        let current = Current::new(in_force);
        ledger.merge(&*ledger_store, now).await?;
        let seen = Mutex::new(Seen { stored, problem: None });
        Ok(Self { store, trust_domain, algorithm, ledger, ledger_store, current, seen })
    }

    /// What it signs with.
    #[must_use]
    pub fn current(&self) -> &Current {
        &self.current
    }

    /// Looks at the store again. What cannot be used leaves the last good authority in force.
    pub async fn look(&self) {
        let looked = match self.store.get().await {
            Ok(Some(stored)) => self.apply(stored),
            Ok(None) => Err(self.missing(CERTIFICATE)),
            Err(error) => Err(error.into()),
        };
        let problem = looked.err().map(|error| causes(&error));
        let mut seen = self.seen.lock();
        if problem.is_some() && problem != seen.problem {
            tracing::error!(problem, "the authority was changed and cannot be used");
        }
        seen.problem = problem;
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

    fn apply(&self, stored: Stored) -> Result<(), RotationError> {
        if self.seen.lock().stored == stored {
            return Ok(());
        }
        let in_force =
            in_force(&stored.texts, &self.store.place(), &self.trust_domain, SystemTime::now())?;
        self.current.replace(in_force);
        self.seen.lock().stored = stored;
        Ok(())
    }

    /// What is there now, not what was seen last.
    async fn stored(&self) -> Result<Stored, RotationError> {
        let stored = self.store.get().await?.ok_or_else(|| self.missing(CERTIFICATE))?;
        self.apply(stored.clone())?;
        Ok(stored)
    }

    async fn replace(&self, texts: Texts, known: Stored) -> Result<CaStatus, RotationError> {
        // Nothing is stored that could not be loaded again.
        in_force(&texts, &self.store.place(), &self.trust_domain, SystemTime::now())?;
        let replaced = self.store.replace(texts, known.version).await?;
        self.apply(replaced.ok_or(RotationError::Conflict)?)?;
        Ok(self.status())
    }

    async fn prepare(&self) -> Result<CaStatus, RotationError> {
        let stored = self.stored().await?;
        require(&stored.texts, "prepare", RotationStage::Steady)?;
        let root = make_root(&self.trust_domain, self.algorithm, SystemTime::now())?;
        let mut texts = stored.texts.clone();
        texts.insert(NEXT_CERTIFICATE.to_owned(), root.certificate);
        texts.insert(NEXT_KEY.to_owned(), root.key);
        self.replace(texts, stored).await
    }

    async fn switch(&self, care: Care) -> Result<CaStatus, RotationError> {
        let stored = self.stored().await?;
        require(&stored.texts, "switch", RotationStage::Prepared)?;
        let now = SystemTime::now();
        self.ledger.merge(&*self.ledger_store, now).await?;
        check("switch", care, self.left(RotationStage::Prepared, now))?;
        let mut texts = stored.texts.clone();
        let mut take = |name| texts.remove(name).ok_or_else(|| self.missing(name));
        let (next, key, old) = (take(NEXT_CERTIFICATE)?, take(NEXT_KEY)?, take(CERTIFICATE)?);
        let renamed = [(CERTIFICATE, next), (KEY, key), (OLD_ROOT, old)];
        texts.extend(renamed.map(|(name, text)| (name.to_owned(), text)));
        self.replace(texts, stored).await
    }

    async fn finish(&self, care: Care) -> Result<CaStatus, RotationError> {
        let stored = self.stored().await?;
        require(&stored.texts, "finish", RotationStage::Switched)?;
        let now = SystemTime::now();
        self.ledger.merge(&*self.ledger_store, now).await?;
        check("finish", care, self.left(RotationStage::Switched, now))?;
        let mut texts = stored.texts.clone();
        texts.remove(OLD_ROOT);
        self.replace(texts, stored).await
    }

    /// Whom the next step would leave behind.
    fn left(&self, stage: RotationStage, now: SystemTime) -> Vec<Left> {
        let in_force = self.current.get();
        match stage {
            RotationStage::Steady => Vec::new(),
            RotationStage::Prepared => self.ledger.without(in_force.mark, now),
            RotationStage::Switched => {
                let signing = in_force.authority.root();
                let old = in_force.bundle.certificates().map(Fingerprint::of);
                old.filter(|root| *root != signing)
                    .flat_map(|root| self.ledger.presenting(root, now))
                    .collect()
            }
        }
    }

    fn missing(&self, what: &'static str) -> RotationError {
        RotationError::Missing { place: self.store.place(), what }
    }
}

impl Rotate for OwnRoot {
    fn prepare(&self) -> Rotating<'_> {
        Box::pin(self.prepare())
    }

    fn switch(&self, care: Care) -> Rotating<'_> {
        Box::pin(self.switch(care))
    }

    fn finish(&self, care: Care) -> Rotating<'_> {
        Box::pin(self.finish(care))
    }

    fn status(&self) -> CaStatus {
        let (texts, problem) = {
            let seen = self.seen.lock();
            (seen.stored.texts.clone(), seen.problem.clone())
        };
        let stage = stage(&texts);
        let now = SystemTime::now();
        let next = texts.get(NEXT_CERTIFICATE).zip(texts.get(NEXT_KEY));
        // It was loaded before it was told.
        let next = next
            .and_then(|(certificate, key)| load(&self.trust_domain, certificate, key, now).ok());
        status(Standing {
            source: format!("own root in {}", self.store.place()),
            stage,
            in_force: &self.current.get(),
            next: next.as_ref(),
            ledger: &self.ledger,
            left: &self.left(stage, now),
            problem,
        })
    }
}

fn stage(texts: &Texts) -> RotationStage {
    if texts.contains_key(NEXT_CERTIFICATE) {
        RotationStage::Prepared
    } else if texts.contains_key(OLD_ROOT) {
        RotationStage::Switched
    } else {
        RotationStage::Steady
    }
}

fn require(texts: &Texts, step: &'static str, want: RotationStage) -> Result<(), RotationError> {
    let found = stage(texts);
    if found == want {
        return Ok(());
    }
    let why = match found {
        RotationStage::Steady => "prepare comes first",
        RotationStage::Prepared => "a new root is prepared: switch comes next",
        RotationStage::Switched => "the old root is told yet: finish comes next",
    };
    Err(RotationError::Turn { step, why })
}

fn load(
    trust_domain: &TrustDomain,
    certificate: &str,
    key: &str,
    now: SystemTime,
) -> Result<Authority, AuthorityError> {
    let pem = AuthorityPem { certificate, key, chain: "", roots: certificate };
    Authority::from_pem(trust_domain, &pem, now)
}

fn in_force(
    texts: &Texts,
    place: &str,
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<InForce, RotationError> {
    let text = |what: &'static str| {
        let missing = || RotationError::Missing { place: place.to_owned(), what };
        texts.get(what).map(String::as_str).ok_or_else(missing)
    };
    let load = |certificate: &str, key: &str| load(trust_domain, certificate, key, now);
    let signing = load(text(CERTIFICATE)?, text(KEY)?)?;
    let mut more = Vec::new();
    if texts.contains_key(NEXT_CERTIFICATE) {
        // Loaded whole: what could not sign must not be told.
        let next = load(text(NEXT_CERTIFICATE)?, text(NEXT_KEY)?)?;
        more.extend(next.bundle().certificates().cloned());
    }
    if let Some(old) = texts.get(OLD_ROOT) {
        let old = tls::TrustBundle::from_pem(trust_domain.clone(), old.as_bytes())?;
        more.extend(old.certificates().cloned());
    }
    Ok(InForce::new(Arc::new(signing), more)?)
}
