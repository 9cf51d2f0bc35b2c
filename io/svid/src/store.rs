//! The SVIDs in use on this node: one per identity, however many pods share it.
//!
//! An identity is held for as long as somebody has a handle. A task of its own renews the SVID at
//! half of its life, with jitter, so that SVIDs issued together do not renew together. When
//! renewing fails, the last good one stays in use until it expires.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use model::{SpiffeId, causes};
use parking_lot::Mutex;
use tls::Svid;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;

use crate::issuer::{IssueError, Issuer};

/// Most identities held at once; a node has a few hundred pods. The next one is refused.
pub const IDENTITIES_MAX: usize = 4096;
/// Most requests to the authority at once; further ones wait for their turn.
pub const ISSUES_AT_ONCE: usize = 8;
/// How long an SVID is valid, unless configured.
pub const TTL_DEFAULT: Duration = Duration::from_hours(24);
/// Pause after the first failed request; it doubles with each further one.
pub const RETRY_MIN: Duration = Duration::from_secs(1);
/// Longest pause between requests.
pub const RETRY_MAX: Duration = Duration::from_mins(1);
/// A pause is this far from its nominal length at most, in both directions.
const JITTER: f64 = 0.1;

/// [`IDENTITIES_MAX`] identities are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{IDENTITIES_MAX} identities are in use on this node already")]
pub struct StoreFull;

/// There was no SVID in time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct NotReady {
    /// Whose.
    pub identity: SpiffeId,
    /// The authority's last answer, if there was one.
    pub last_error: Option<String>,
}

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no certificate yet for {}", self.identity)?;
        match &self.last_error {
            Some(error) => write!(f, ": {error}"),
            None => Ok(()),
        }
    }
}

/// One held identity, for people.
#[derive(Clone, Debug)]
pub struct SvidStatus {
    /// Whose.
    pub identity: SpiffeId,
    /// The SVID in use, if there is one.
    pub current: Option<Arc<Svid>>,
    /// Why the last request failed, if it did.
    pub last_error: Option<String>,
}

/// Issues, renews and forgets. Cheap to clone.
#[derive(Clone)]
pub struct SvidStore {
    inner: Arc<Inner>,
}

struct Inner {
    issuer: Arc<dyn Issuer>,
    ttl: Duration,
    runtime: Handle,
    turns: Arc<Semaphore>,
    held: Mutex<HashMap<SpiffeId, Weak<Entry>>>,
}

#[derive(Clone, Default)]
struct State {
    svid: Option<Arc<Svid>>,
    last_error: Option<String>,
}

impl State {
    /// The SVID, unless it has expired: then no peer would take it.
    fn usable(&self) -> Option<Arc<Svid>> {
        self.svid.clone().filter(|svid| svid.not_after() > SystemTime::now())
    }
}

struct Entry {
    identity: SpiffeId,
    state: watch::Receiver<State>,
    renewal: AbortHandle,
    store: Weak<Inner>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.renewal.abort();
        let Some(store) = self.store.upgrade() else { return };
        let mut held = store.held.lock();
        // A new entry may have taken the place of this one.
        if held.get(&self.identity).is_some_and(|entry| entry.strong_count() == 0) {
            held.remove(&self.identity);
        }
    }
}

/// A claim on an identity's SVID. Usable from any thread.
#[derive(Clone)]
pub struct SvidHandle {
    entry: Arc<Entry>,
}

impl SvidStore {
    /// A store whose renewals run on the current runtime.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(issuer: impl Issuer + 'static, ttl: Duration) -> Self {
        let inner = Inner {
            issuer: Arc::new(issuer),
            ttl,
            runtime: Handle::current(),
            turns: Arc::new(Semaphore::new(ISSUES_AT_ONCE)),
            held: Mutex::new(HashMap::new()),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Claims an identity. The first claim starts a request; the SVID follows.
    pub fn hold(&self, identity: &SpiffeId) -> Result<SvidHandle, StoreFull> {
        let mut held = self.inner.held.lock();
        if let Some(entry) = held.get(identity).and_then(Weak::upgrade) {
            return Ok(SvidHandle { entry });
        }
        if held.len() >= IDENTITIES_MAX {
            return Err(StoreFull);
        }
        let (sender, state) = watch::channel(State::default());
        let renewal = Renewal {
            identity: identity.clone(),
            issuer: self.inner.issuer.clone(),
            ttl: self.inner.ttl,
            turns: self.inner.turns.clone(),
            sender,
        };
        let entry = Arc::new(Entry {
            identity: identity.clone(),
            state,
            // Owned by the entry: dropped with the last handle.
            renewal: self.inner.runtime.spawn(renewal.run()).abort_handle(),
            store: Arc::downgrade(&self.inner),
        });
        held.insert(identity.clone(), Arc::downgrade(&entry));
        Ok(SvidHandle { entry })
    }

    /// Every identity held, sorted.
    #[must_use]
    pub fn list(&self) -> Vec<SvidStatus> {
        let entries: Vec<_> = self.inner.held.lock().values().filter_map(Weak::upgrade).collect();
        let status = |entry: &Arc<Entry>| {
            let state = entry.state.borrow();
            SvidStatus {
                identity: entry.identity.clone(),
                current: state.usable(),
                last_error: state.last_error.clone(),
            }
        };
        let mut list: Vec<_> = entries.iter().map(status).collect();
        list.sort_by(|a, b| a.identity.cmp(&b.identity));
        list
    }
}

impl SvidHandle {
    /// Whose.
    #[must_use]
    pub fn identity(&self) -> &SpiffeId {
        &self.entry.identity
    }

    /// The SVID in use; `None` before the first one and after the last one expired.
    #[must_use]
    pub fn current(&self) -> Option<Arc<Svid>> {
        self.entry.state.borrow().usable()
    }

    /// The SVID in use, or the first one that arrives within `timeout`.
    pub async fn ready(&self, timeout: Duration) -> Result<Arc<Svid>, NotReady> {
        let mut state = self.entry.state.clone();
        let usable = async {
            let state = state.wait_for(|state| state.usable().is_some()).await.ok()?;
            state.usable()
        };
        let in_time = tokio::time::timeout(timeout, usable).await.ok().flatten();
        in_time.ok_or_else(|| NotReady {
            identity: self.entry.identity.clone(),
            last_error: self.entry.state.borrow().last_error.clone(),
        })
    }
}

/// What keeps one identity's SVID fresh.
struct Renewal {
    identity: SpiffeId,
    issuer: Arc<dyn Issuer>,
    ttl: Duration,
    turns: Arc<Semaphore>,
    sender: watch::Sender<State>,
}

impl Renewal {
    async fn run(self) {
        let mut pause = RETRY_MIN;
        loop {
            let next = match self.issue().await {
                Ok(svid) => {
                    let now = SystemTime::now();
                    let life = svid.not_after().duration_since(now).unwrap_or_default();
                    tracing::info!(identity = %self.identity, serial = svid.serial(), ?life, "certificate issued");
                    self.sender
                        .send_replace(State { svid: Some(Arc::new(svid)), last_error: None });
                    pause = RETRY_MIN;
                    // An authority that hands out short lives must not be asked in a loop.
                    (life / 2).max(RETRY_MIN)
                }
                Err(error) => {
                    let text = causes(&error);
                    tracing::warn!(identity = %self.identity, error = %text, "certificate not issued");
                    self.sender.send_modify(|state| state.last_error = Some(text));
                    let nominal = pause;
                    pause = (pause * 2).min(RETRY_MAX);
                    nominal
                }
            };
            tokio::time::sleep(jittered(next)).await;
        }
    }

    async fn issue(&self) -> Result<Svid, IssueError> {
        // The semaphore is never closed; without a turn the request would only be less polite.
        let _turn = self.turns.acquire().await.ok();
        self.issuer.issue(&self.identity, self.ttl).await
    }
}

fn jittered(nominal: Duration) -> Duration {
    nominal.mul_f64(rand::random_range(1.0 - JITTER..=1.0 + JITTER))
}

#[cfg(test)]
mod tests;
