//! Writes conditions and addresses into the status of objects, when this replica leads.
//!
//! What each object should say is kept here, the latest word only: whoever translates never waits.
//! A new leader looks at everything once, since the one before may have died in the middle.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::{Kind, ObjectKey};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use translate::{Assignment, Condition};

use super::conditions::{ADDRESSES_MANAGER, CONDITIONS_MANAGER, addresses, conditions};
use super::lease::Leadership;
use crate::backoff::Backoff;
use crate::watch::{resource_of, served_version};

/// Objects that are written at once. More wait, each with its latest word only.
const WRITES_MAX: usize = 8;
/// Time between the beginnings of two writes: 100 a second, for the sake of the API server.
const WRITE_INTERVAL: Duration = Duration::from_millis(10);
/// Longest one request may take. It is tried again.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Waits between attempts at one object.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Attempts at one object. Then it is left alone until it should say something else or another
/// replica leads, and the failure is counted.
const ATTEMPTS_MAX: u32 = 10;

/// Takes what objects should say. Clones share it. Bounded by the number of objects.
#[derive(Clone, Default)]
pub struct StatusWriter {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// There is something to write.
    woken: Notify,
}

#[derive(Default)]
struct State {
    desired: HashMap<ObjectKey, Desired>,
    /// Objects that are to be looked at.
    waiting: BTreeSet<ObjectKey>,
    /// Objects that failed, and when they are tried again.
    failed: HashMap<ObjectKey, Failed>,
    /// Objects that are being written: none is written twice at once, or the older word could win.
    in_flight: HashSet<ObjectKey>,
    /// Versions that kinds are served in, where that is not the usual one.
    versions: HashMap<Kind, &'static str>,
    counts: Counts,
}

/// What an object should say.
#[derive(Clone, Debug, Default, PartialEq)]
struct Desired {
    conditions: Option<Vec<Condition>>,
    assignments: Vec<Assignment>,
}

struct Failed {
    attempts: u32,
    backoff: Backoff,
    again_at: Instant,
}

/// What became of writes, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Statuses that were changed.
    pub written: u64,
    /// Looks that found nothing to change.
    pub unchanged: u64,
    /// Attempts that failed and are made again.
    pub retried: u64,
    /// Objects that were given up.
    pub given_up: u64,
}

/// What became of one object.
enum Outcome {
    Written,
    Unchanged,
    /// The object is gone.
    Gone,
    /// We no longer lead: the next leader writes it.
    NotLeading,
    /// The kind is not served in the version that was used, but in this one.
    OtherVersion(&'static str),
    Failed(String),
}

impl StatusWriter {
    /// States all conditions of an object.
    pub fn conditions(&self, key: ObjectKey, conditions: Vec<Condition>) {
        self.want(key, |desired| desired.conditions = Some(conditions));
    }

    /// States the addresses that hosts of a service entry have and its status does not yet.
    pub fn assignments(&self, key: ObjectKey, assignments: Vec<Assignment>) {
        self.want(key, |desired| desired.assignments = assignments);
    }

    /// An object is gone: nothing is said about it any more.
    pub fn forget(&self, key: &ObjectKey) {
        let mut state = self.shared.state.lock();
        state.desired.remove(key);
        state.waiting.remove(key);
        state.failed.remove(key);
    }

    /// What became of writes so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.state.lock().counts
    }

    /// How many objects wait to be written.
    #[must_use]
    pub fn waiting(&self) -> usize {
        let state = self.shared.state.lock();
        state.waiting.len() + state.failed.len()
    }

    fn want(&self, key: ObjectKey, change: impl FnOnce(&mut Desired)) {
        let mut state = self.shared.state.lock();
        change(state.desired.entry(key.clone()).or_default());
        state.failed.remove(&key);
        state.waiting.insert(key);
        drop(state);
        self.shared.woken.notify_one();
    }

    /// Writes whenever this replica leads, until it is cancelled.
    pub async fn run(
        self,
        client: Client,
        mut leadership: Leadership,
        shutdown: CancellationToken,
    ) {
        // Cancelling is safe: what was not written is looked at by the next leader.
        let writing = async {
            loop {
                leadership.acquired().await;
                self.begin();
                let mut lost = leadership.clone();
                tokio::select! {
                    // Requests under way end with it; they may or may not take effect, and the
                    // next leader looks.
                    () = lost.lost() => {}
                    () = self.write(&client, &leadership) => {}
                }
            }
        };
        let _: Option<()> = shutdown.run_until_cancelled(writing).await;
    }

    /// Everything is looked at by a new leader.
    fn begin(&self) {
        let mut state = self.shared.state.lock();
        let state = &mut *state;
        state.failed.clear();
        state.in_flight.clear();
        state.waiting.extend(state.desired.keys().cloned());
    }

    async fn write(&self, client: &Client, leadership: &Leadership) {
        let mut writes = JoinSet::new();
        loop {
            while let Some((key, desired)) =
                (writes.len() < WRITES_MAX).then(|| self.next()).flatten()
            {
                let version = self.version(key.kind);
                let api = api(client, &key, version);
                let (client, leadership) = (client.clone(), leadership.clone());
                let write = Write { client, api, version, key, desired, leadership };
                writes.spawn(write.perform());
                tokio::time::sleep(WRITE_INTERVAL).await;
            }
            let again = self.next_attempt();
            tokio::select! {
                // All of them are cancel safe: the loop looks again at everything.
                Some(ended) = writes.join_next() => match ended {
                    Ok((key, desired, outcome)) => self.ended(&key, &desired, outcome),
                    Err(error) if error.is_panic() => {
                        std::panic::resume_unwind(error.into_panic())
                    }
                    Err(_) => {}
                },
                () = self.shared.woken.notified() => {}
                () = sleep_until(again) => {}
            }
        }
    }

    fn version(&self, kind: Kind) -> &'static str {
        let state = self.shared.state.lock();
        state.versions.get(&kind).copied().unwrap_or(kind.names().version)
    }

    /// The next object to look at.
    fn next(&self) -> Option<(ObjectKey, Desired)> {
        let mut state = self.shared.state.lock();
        let state = &mut *state;
        let now = Instant::now();
        // Each turn takes an object away.
        loop {
            let is_free = |key: &&ObjectKey| !state.in_flight.contains(*key);
            let waiting = state.waiting.iter().find(is_free);
            let failed = state.failed.iter().filter(|(_, failed)| failed.again_at <= now);
            let key = waiting.or_else(|| failed.map(|(key, _)| key).find(is_free))?.clone();
            state.waiting.remove(&key);
            if let Some(desired) = state.desired.get(&key).cloned() {
                state.in_flight.insert(key.clone());
                return Some((key, desired));
            }
            // Nothing is said about it any more.
            state.failed.remove(&key);
        }
    }

    /// When the next failed object is tried again.
    fn next_attempt(&self) -> Option<Instant> {
        let state = self.shared.state.lock();
        let failed = state.failed.iter().filter(|(key, _)| !state.in_flight.contains(*key));
        failed.map(|(_, failed)| failed.again_at).min()
    }

    fn ended(&self, key: &ObjectKey, written: &Desired, outcome: Outcome) {
        let mut state = self.shared.state.lock();
        let is_current = state.desired.get(key) == Some(written);
        state.in_flight.remove(key);
        match outcome {
            Outcome::Written => state.counts.written += 1,
            Outcome::Unchanged => state.counts.unchanged += 1,
            Outcome::NotLeading => {}
            Outcome::OtherVersion(version) => {
                tracing::info!(kind = %key.kind, version, "statuses are written in this version");
                state.versions.insert(key.kind, version);
                if state.desired.contains_key(key) {
                    state.waiting.insert(key.clone());
                }
            }
            // Its deletion is on its way to whoever translates; a new one is said anew.
            Outcome::Gone => {
                if is_current {
                    state.desired.remove(key);
                }
            }
            Outcome::Failed(error) => {
                if is_current {
                    state.fail(key, &error);
                }
                return;
            }
        }
        state.failed.remove(key);
    }
}

impl State {
    fn fail(&mut self, key: &ObjectKey, error: &str) {
        let now = Instant::now();
        let failed = self.failed.entry(key.clone()).or_insert_with(|| Failed {
            attempts: 0,
            backoff: Backoff::new(RETRY.0, RETRY.1),
            again_at: now,
        });
        failed.attempts += 1;
        failed.again_at = now + failed.backoff.wait();
        if failed.attempts == 1 {
            tracing::info!(object = %key, error, "its status was not written, and is tried again");
        }
        if failed.attempts < ATTEMPTS_MAX {
            self.counts.retried += 1;
            return;
        }
        tracing::warn!(object = %key, error, attempts = ATTEMPTS_MAX, "its status is given up");
        self.counts.given_up += 1;
        self.failed.remove(key);
    }
}

/// One object to be written.
struct Write {
    client: Client,
    api: Api<DynamicObject>,
    version: &'static str,
    key: ObjectKey,
    desired: Desired,
    leadership: Leadership,
}

impl Write {
    async fn perform(self) -> (ObjectKey, Desired, Outcome) {
        let outcome = match self.look_and_write().await {
            Err(Outcome::Gone) => self.gone().await,
            Ok(outcome) | Err(outcome) => outcome,
        };
        (self.key, self.desired, outcome)
    }

    /// An object that is not found is gone, unless its kind is served in another version.
    async fn gone(&self) -> Outcome {
        if self.key.kind.names().also.is_empty() {
            return Outcome::Gone;
        }
        let asked = served_version(&self.client, self.key.kind);
        match self.request("asking which versions there are", asked).await {
            Ok(Some(version)) if version != self.version => Outcome::OtherVersion(version),
            Ok(_) => Outcome::Gone,
            Err(outcome) => outcome,
        }
    }

    async fn look_and_write(&self) -> Result<Outcome, Outcome> {
        let name = &*self.key.name.name;
        let object = self.request("reading it", self.api.get(name)).await?;
        let object = serde_json::to_value(object)
            .map_err(|error| Outcome::Failed(format!("reading it: {error}")))?;
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let desired = self.desired.conditions.as_deref();
        let conditions = desired.and_then(|desired| conditions(&object, desired, &now));
        let addresses = if self.desired.assignments.is_empty() {
            None
        } else {
            addresses(&object, &self.desired.assignments)
        };
        let mut outcome = Outcome::Unchanged;
        let patches = [(CONDITIONS_MANAGER, conditions), (ADDRESSES_MANAGER, addresses)];
        for (manager, patch) in patches {
            let Some(patch) = patch else { continue };
            self.apply(name, manager, patch).await?;
            outcome = Outcome::Written;
        }
        Ok(outcome)
    }

    async fn apply(&self, name: &str, manager: &str, patch: Value) -> Result<(), Outcome> {
        // Another writer's claim to a condition of ours yields.
        let parameters = PatchParams::apply(manager).force();
        let patch = Patch::Apply(patch);
        let write = self.api.patch_status(name, &parameters, &patch);
        self.request("writing its status", write).await.map(drop)
    }

    /// Makes a request that ends before our lease does.
    async fn request<T>(
        &self,
        what: &str,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Outcome> {
        let until = self.leadership.until().ok_or(Outcome::NotLeading)?;
        let limit = until.min(Instant::now() + REQUEST_TIMEOUT);
        match tokio::time::timeout_at(limit.into(), request).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => Err(Outcome::Gone),
            Ok(Err(error)) => Err(Outcome::Failed(format!("{what}: {error}"))),
            Err(_) => Err(Outcome::Failed(format!("{what}: no answer in time"))),
        }
    }
}

fn api(client: &Client, key: &ObjectKey, version: &str) -> Api<DynamicObject> {
    let resource = resource_of(key.kind, version);
    if key.kind.names().is_namespaced {
        Api::namespaced_with(client.clone(), &key.name.namespace, &resource)
    } else {
        Api::all_with(client.clone(), &resource)
    }
}

async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
