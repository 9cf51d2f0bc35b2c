//! The SVIDs in use on this node: one per identity, however many pods share it.
//!
//! An identity is held for as long as somebody has a handle. One task asks the authority, in the
//! order that `schedule` decides, and publishes what it answers. When renewing fails, the last good
//! SVID stays in use until it expires.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use model::{SpiffeId, causes};
use parking_lot::Mutex;
use tls::{Svid, TrustStore, TrustView};
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::Instant;

use crate::folder::{Kept, SvidFolder};
use crate::issuer::{IssueError, Issued, Issuer};
use crate::schedule::{Attempt, End, ISSUES_AT_ONCE, Life, Next, Schedule};

/// Most identities held at once; a node has a few hundred pods. The next one is refused.
pub const IDENTITIES_MAX: usize = 4096;
/// How long an SVID is valid, unless configured.
pub const TTL_DEFAULT: Duration = Duration::from_hours(24);
/// How long keys of an earlier agent are kept for pods that have not come back yet.
pub const UNCLAIMED_MAX: Duration = Duration::from_mins(10);

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
    running: Arc<Running>,
}

/// The store's task, which ends with the last of store and handles.
struct Running {
    inner: Arc<Inner>,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Inner {
    issuer: Arc<dyn Issuer>,
    ttl: Duration,
    trust: TrustStore,
    folder: Option<SvidFolder>,
    held: Mutex<Held>,
    /// The schedule has changed.
    changed: Notify,
}

struct Held {
    schedule: Schedule,
    entries: HashMap<SpiffeId, Weak<Entry>>,
    /// The process is stopping: whoever lets go now is not leaving the mesh.
    is_stopping: bool,
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
    state: watch::Sender<State>,
    running: Arc<Running>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let inner = &self.running.inner;
        let mut held = inner.held.lock();
        // A new entry may have taken the place of this one.
        if held.entries.get(&self.identity).is_some_and(|entry| entry.strong_count() == 0) {
            held.entries.remove(&self.identity);
            held.schedule.release(&self.identity);
            if let Some(folder) = inner.folder.as_ref().filter(|_| !held.is_stopping) {
                folder.forget(&self.identity);
            }
        }
    }
}

/// A claim on an identity's SVID. Usable from any thread.
#[derive(Clone)]
pub struct SvidHandle {
    entry: Arc<Entry>,
}

impl SvidStore {
    /// A store whose renewals run on the current runtime. `trust` learns the roots of each answer;
    /// `folder` keeps SVIDs for the next agent.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(
        issuer: Arc<dyn Issuer>,
        ttl: Duration,
        trust: TrustStore,
        folder: Option<SvidFolder>,
    ) -> Self {
        let schedule = Schedule::new(ISSUES_AT_ONCE);
        let held = Held { schedule, entries: HashMap::new(), is_stopping: false };
        let inner = Arc::new(Inner {
            issuer,
            ttl,
            trust,
            folder,
            held: Mutex::new(held),
            changed: Notify::new(),
        });
        inner.forget_useless();
        let task = tokio::spawn(inner.clone().run()).abort_handle();
        Self { running: Arc::new(Running { inner, task }) }
    }

    /// Claims an identity. The first claim takes what an earlier agent kept, or starts a request;
    /// the SVID follows.
    pub fn hold(&self, identity: &SpiffeId) -> Result<SvidHandle, StoreFull> {
        let inner = &self.running.inner;
        if let Some(entry) = inner.held.lock().entries.get(identity).and_then(Weak::upgrade) {
            return Ok(SvidHandle { entry });
        }
        let kept = inner.kept(identity);
        let mut held = inner.held.lock();
        if let Some(entry) = held.entries.get(identity).and_then(Weak::upgrade) {
            return Ok(SvidHandle { entry });
        }
        if held.entries.len() >= IDENTITIES_MAX {
            return Err(StoreFull);
        }
        // An entry that is being dropped leaves its place to this one.
        held.schedule.release(identity);
        let life = kept.as_ref().map(|(_, life)| *life);
        held.schedule.hold(identity, life, Instant::now().into_std(), rand::random());
        let state = State { svid: kept.map(|(svid, _)| svid), last_error: None };
        let entry = Arc::new(Entry {
            identity: identity.clone(),
            state: watch::Sender::new(state),
            running: self.running.clone(),
        });
        held.entries.insert(identity.clone(), Arc::downgrade(&entry));
        drop(held);
        inner.changed.notify_one();
        Ok(SvidHandle { entry })
    }

    /// Every identity held, sorted.
    #[must_use]
    pub fn list(&self) -> Vec<SvidStatus> {
        let held = self.running.inner.held.lock();
        let entries: Vec<_> = held.entries.values().filter_map(Weak::upgrade).collect();
        drop(held);
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

    /// The process is about to stop: from now on a handle that is dropped is no pod that leaves,
    /// and what is kept stays for the next agent.
    pub fn stop(&self) {
        self.running.inner.held.lock().is_stopping = true;
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

    /// The SVID in use, or the first one that arrives within `timeout`. Waiting makes it urgent.
    pub async fn ready(&self, timeout: Duration) -> Result<Arc<Svid>, NotReady> {
        if let Some(svid) = self.current() {
            return Ok(svid);
        }
        self.entry.running.inner.demand(&self.entry.identity);
        let mut state = self.entry.state.subscribe();
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

/// A request's end, as its task tells it.
struct Answer {
    identity: SpiffeId,
    issued: Result<Issued, IssueError>,
}

/// An SVID that was accepted, with what it was made of.
struct Accepted {
    svid: Arc<Svid>,
    life: Life,
    issued: Issued,
}

impl Inner {
    async fn run(self: Arc<Self>) {
        let mut trust = self.trust.view();
        let mut requests: JoinSet<Answer> = JoinSet::new();
        let mut attempts: HashMap<Id, Attempt> = HashMap::new();
        let unclaimed = tokio::time::sleep(UNCLAIMED_MAX);
        tokio::pin!(unclaimed);
        let mut may_have_unclaimed = self.folder.is_some();
        loop {
            let until = self.start_due(&mut requests, &mut attempts);
            let wake = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            // Each arm leaves what it waited for as it was, but for the one that is taken.
            tokio::select! {
                Some(ended) = requests.join_next_with_id(), if !requests.is_empty() => {
                    let (task, answer) = match ended {
                        Ok((task, answer)) => (task, Some(answer)),
                        // It panicked, and the log has it.
                        Err(error) => (error.id(), None),
                    };
                    if let Some(attempt) = attempts.remove(&task) {
                        self.finish(attempt, answer);
                    }
                }
                () = wake => {}
                () = self.changed.notified() => {}
                true = trust.changed() => self.check_own(&mut trust),
                () = &mut unclaimed, if may_have_unclaimed => {
                    may_have_unclaimed = false;
                    self.forget_unclaimed();
                }
            }
        }
    }

    /// Starts what may start; tells when to look again.
    fn start_due(
        &self,
        requests: &mut JoinSet<Answer>,
        attempts: &mut HashMap<Id, Attempt>,
    ) -> Option<Instant> {
        loop {
            let next = self.held.lock().schedule.next(Instant::now().into_std());
            match next {
                Next::Start(identity, attempt) => {
                    let (issuer, ttl) = (self.issuer.clone(), self.ttl);
                    let request = async move {
                        let issued = issuer.issue(&identity, ttl).await;
                        Answer { identity, issued }
                    };
                    attempts.insert(requests.spawn(request).id(), attempt);
                }
                Next::Sleep(until) => return until.map(Instant::from_std),
            }
        }
    }

    fn finish(&self, attempt: Attempt, answer: Option<Answer>) {
        let accepted = answer
            .ok_or_else(|| "the request panicked".to_owned())
            .and_then(|answer| self.accept(answer).map_err(|error| causes(&error)));
        let end = accepted.as_ref().map_or(End::Failed, |accepted| End::Issued(accepted.life));
        let mut held = self.held.lock();
        let now = Instant::now().into_std();
        let identity = held.schedule.finished(attempt, end, now, rand::random());
        let entry = identity.and_then(|id| held.entries.get(&id).and_then(Weak::upgrade));
        drop(held);
        // Otherwise nobody wants it any more.
        let Some(entry) = entry else { return };
        match accepted {
            Ok(accepted) => self.publish(&entry, accepted),
            Err(error) => {
                tracing::warn!(identity = %entry.identity, %error, "certificate not issued");
                entry.state.send_modify(|state| state.last_error = Some(error));
            }
        }
    }

    /// Makes an answer ready for handshakes.
    fn accept(&self, Answer { identity, issued }: Answer) -> Result<Accepted, IssueError> {
        let issued = issued?;
        let copy = Issued {
            chain: issued.chain.clone(),
            key: issued.key.clone_key(),
            bundle: issued.bundle.clone(),
        };
        let svid = copy.into_svid(&identity, &self.trust.view());
        let svid = svid.map_err(|error| IssueError::new(&identity, error))?;
        let left = svid.not_after().duration_since(SystemTime::now()).unwrap_or_default();
        Ok(Accepted { svid: Arc::new(svid), life: Life { age: Duration::ZERO, left }, issued })
    }

    fn publish(&self, entry: &Entry, accepted: Accepted) {
        let Accepted { svid, life: Life { left, .. }, issued } = accepted;
        let (identity, serial) = (&entry.identity, svid.serial());
        tracing::info!(%identity, serial, life = ?left, "certificate issued");
        // First, so that whoever uses the certificate knows the roots of those who have such a one.
        self.trust.observe(&issued.bundle, left);
        if let Some(folder) = &self.folder
            && let Err(error) = folder.keep(identity, &issued, SystemTime::now())
        {
            tracing::warn!(%identity, %error, "certificate not kept for the next agent");
        }
        entry.state.send_replace(State { svid: Some(svid), last_error: None });
    }

    /// What an earlier agent kept, if it is still good.
    fn kept(&self, identity: &SpiffeId) -> Option<(Arc<Svid>, Life)> {
        let folder = self.folder.as_ref()?;
        let kept = folder.load(identity)?;
        let bundle = kept.issued.bundle.clone();
        let Some((svid, life)) = self.reuse(identity, kept) else {
            folder.forget(identity);
            return None;
        };
        self.trust.restore(&bundle, svid.not_after());
        tracing::info!(%identity, serial = svid.serial(), life = ?life.left, "certificate of the earlier agent taken over");
        Some((Arc::new(svid), life))
    }

    fn reuse(&self, identity: &SpiffeId, kept: Kept) -> Option<(Svid, Life)> {
        let now = SystemTime::now();
        let svid = kept.issued.into_svid(identity, &self.trust.view()).ok()?;
        // Its own domain may be known only once its roots are restored; a revocation is final.
        if let Err(tls::Revoked::Certificate(_)) = svid.check(&self.trust.view().current()) {
            return None;
        }
        let left = svid.not_after().duration_since(now).ok().filter(|left| !left.is_zero())?;
        // A clock that was set back makes it new, and it is renewed late, but in time.
        let age = now.duration_since(kept.at).unwrap_or_default();
        Some((svid, Life { age, left }))
    }

    /// Asks for another in place of one that was revoked.
    fn check_own(&self, trust: &mut TrustView) {
        let trust = trust.current_and_update();
        let entries: Vec<_> = self.held.lock().entries.values().filter_map(Weak::upgrade).collect();
        for entry in entries {
            let revoked = entry.state.borrow().usable().and_then(|svid| svid.check(&trust).err());
            if let Some(error) = revoked {
                tracing::warn!(identity = %entry.identity, %error, "our own certificate; asking for another");
                self.demand(&entry.identity);
            }
        }
    }

    fn demand(&self, identity: &SpiffeId) {
        self.held.lock().schedule.demand(identity, Instant::now().into_std());
        self.changed.notify_one();
    }

    /// Removes kept files that are of no use to anybody.
    fn forget_useless(&self) {
        if let Some(folder) = &self.folder {
            folder.sweep(|identity, kept| self.reuse(&identity, kept).is_some());
        }
    }

    /// Removes the keys of pods that have not come back.
    fn forget_unclaimed(&self) {
        if let Some(folder) = &self.folder {
            folder.sweep(|identity, _| self.held.lock().entries.contains_key(&identity));
        }
    }
}

#[cfg(test)]
mod tests;
