//! The one place that owns the translation: takes what sources say, and tells what became of it.
//!
//! It has a thread of its own. Events are taken in batches, so that a storm costs one look at what
//! depends on it; nothing is published before every source has said all that was there at the
//! start, since proxies take the first response for the whole mesh.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::{Kind, Object, ObjectKey, ObjectName};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use translate::{Change, Changes, Condition, Settings, Translator};
use xds::server::{Collection, Resource, Update};

use crate::ca::pods::Pods;
use crate::serve::Publisher;
use crate::status::StatusWriter;
use crate::watch::{Event, Source};

/// Events that are taken at once. More wait in their channel.
const BATCH_MAX: usize = 1024;
/// A translation that took this long is logged.
const SLOW: Duration = Duration::from_secs(1);

/// What is told of changes.
pub struct Outputs {
    /// Proxies.
    pub publisher: Arc<Publisher>,
    /// Statuses of objects.
    pub statuses: StatusWriter,
    /// Who may have which certificate.
    pub pods: Pods,
}

/// What the translation knows, for those who ask. Cheap to clone; all clones are one.
///
/// Only [`Knowledge::counts`] never waits. The others wait for a translation that is going on, up to
/// seconds for a whole cluster: they are for a thread that may block.
#[derive(Clone)]
pub struct Knowledge {
    state: Arc<Mutex<State>>,
    counts: Arc<Mutex<Counts>>,
}

struct State {
    translator: Translator,
    /// How many objects of each kind there are.
    present: BTreeMap<Kind, BTreeSet<ObjectKey>>,
    policies: BTreeMap<ObjectKey, Object>,
}

/// What was done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Objects that are there.
    pub objects: usize,
    /// Events taken.
    pub events: u64,
    /// Resources that changed.
    pub changed: u64,
    /// Time spent.
    pub busy: Duration,
}

/// A policy.
#[derive(Clone, Debug)]
pub struct PolicyState {
    /// As it is written.
    pub object: Object,
    /// What became of it.
    pub conditions: Vec<Condition>,
    /// The waypoints that enforce it.
    pub waypoints: Vec<ObjectName>,
}

/// An object with something to say about it.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// What became of it.
    pub conditions: Vec<Condition>,
    /// What is wrong with it.
    pub problems: Vec<String>,
}

impl Knowledge {
    /// A cluster without objects.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let state = State {
            translator: Translator::new(settings),
            present: BTreeMap::new(),
            policies: BTreeMap::new(),
        };
        Self { state: Arc::new(Mutex::new(state)), counts: Arc::default() }
    }

    /// What was done so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        *self.counts.lock()
    }

    /// Every policy, and what became of it.
    #[must_use]
    pub fn policies(&self) -> Vec<PolicyState> {
        let state = self.state.lock();
        let mut conditions: HashMap<&ObjectKey, &[Condition]> =
            state.translator.statuses().collect();
        let policy = |(key, object): (&ObjectKey, &Object)| {
            let conditions = conditions.remove(key).unwrap_or_default().to_vec();
            let waypoints = state.translator.enforcers(key);
            PolicyState { object: object.clone(), conditions, waypoints }
        };
        state.policies.iter().map(policy).collect()
    }

    /// Every object with something to say about it, and how many problems are not kept.
    #[must_use]
    pub fn findings(&self) -> (BTreeMap<ObjectKey, Findings>, usize) {
        let state = self.state.lock();
        let mut found: BTreeMap<ObjectKey, Findings> = BTreeMap::new();
        for (key, conditions) in state.translator.statuses() {
            found.entry(key.clone()).or_default().conditions = conditions.to_vec();
        }
        for (key, problem) in state.translator.problems() {
            found.entry(key.clone()).or_default().problems.push(problem.to_string());
        }
        (found, state.translator.problems_omitted())
    }
}

/// Translates until every source is gone. Blocks: it wants a thread. `sources` are those that have
/// to be synced before anything is published; `synced` becomes true then.
pub fn run(
    knowledge: &Knowledge,
    mut events: mpsc::Receiver<Event>,
    mut sources: BTreeSet<Source>,
    outputs: &Outputs,
    synced: &watch::Sender<bool>,
) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while events.blocking_recv_many(&mut batch, BATCH_MAX) > 0 {
        let start = Instant::now();
        let events = batch.len();
        let mut state = knowledge.state.lock();
        outputs.pods.write(|pods| {
            for event in batch.drain(..) {
                match event {
                    Event::Set(object) => state.set(object, pods),
                    Event::Delete(key) => state.delete(key, pods, &outputs.statuses),
                    Event::Synced(source) => {
                        sources.remove(&source);
                    }
                }
            }
        });
        if !sources.is_empty() {
            continue;
        }
        let changes = state.translator.settle();
        let changed = changes.addresses.len() + changes.policies.len();
        let busy = start.elapsed();
        let objects = state.present.values().map(BTreeSet::len).sum();
        drop(state);
        {
            let mut counts = knowledge.counts.lock();
            counts.objects = objects;
            counts.events += u64::try_from(events).unwrap_or(u64::MAX);
            counts.changed += u64::try_from(changed).unwrap_or(u64::MAX);
            counts.busy += busy;
        }
        if busy > SLOW {
            tracing::info!(events, changed, ms = busy.as_millis(), "translated");
        }
        tell(changes, outputs);
        // Only a change is told to who waits.
        synced.send_if_modified(|synced| !std::mem::replace(synced, true));
    }
}

impl State {
    fn set(&mut self, object: Object, pods: &mut crate::ca::pods::PodIndex) {
        let key = object.key();
        match &object {
            Object::Pod(pod) => pods.upsert_pod(pod),
            Object::Namespace(namespace) => pods.upsert_namespace(namespace),
            Object::Gateway(gateway) => {
                pods.upsert_gateway(&gateway.metadata.namespace, &gateway.metadata.name);
            }
            Object::AuthorizationPolicy(_)
            | Object::PeerAuthentication(_)
            | Object::RequestAuthentication(_) => {
                self.policies.insert(key.clone(), object.clone());
            }
            Object::Node(_)
            | Object::GatewayClass(_)
            | Object::Service(_)
            | Object::ServiceEntry(_)
            | Object::EndpointSlice(_)
            | Object::WorkloadEntry(_) => {}
        }
        self.present.entry(key.kind).or_default().insert(key);
        self.translator.apply(Change::Set(object));
    }

    fn delete(
        &mut self,
        key: ObjectKey,
        pods: &mut crate::ca::pods::PodIndex,
        statuses: &StatusWriter,
    ) {
        match key.kind {
            Kind::Pod => pods.remove_pod(&key.name),
            Kind::Namespace => pods.remove_namespace(&key.name.name),
            Kind::Gateway => pods.remove_gateway(&key.name.namespace, &key.name.name),
            Kind::AuthorizationPolicy | Kind::PeerAuthentication | Kind::RequestAuthentication => {
                self.policies.remove(&key);
            }
            Kind::Node
            | Kind::GatewayClass
            | Kind::Service
            | Kind::ServiceEntry
            | Kind::EndpointSlice
            | Kind::WorkloadEntry => {}
        }
        statuses.forget(&key);
        self.present.entry(key.kind).or_default().remove(&key);
        self.translator.apply(Change::Delete(key));
    }
}

fn tell(changes: Changes, outputs: &Outputs) {
    let mut update = Update::default();
    for (name, address) in changes.addresses {
        let Some(address) = address else {
            update.removed.push((Collection::Addresses, name));
            continue;
        };
        let node = Some(address.node).filter(|node| !node.is_empty());
        let resource = Resource::encoded_address(
            address.name,
            address.aliases,
            node,
            address.services,
            &address.bytes,
        );
        if let Some(resource) = resource {
            update.set.push(resource);
        } else {
            // The translation makes workloads and services only.
            tracing::error!(name = &*name, "neither a workload nor a service");
        }
    }
    for (name, policy) in changes.policies {
        match policy {
            Some(policy) => update.set.push(Resource::encoded_policy(policy.name, &policy.bytes)),
            None => update.removed.push((Collection::Policies, name)),
        }
    }
    outputs.publisher.publish(update);
    for (key, conditions) in changes.conditions {
        for condition in conditions.iter().filter(|condition| !condition.status) {
            let (reason, message) = (condition.reason, &*condition.message);
            tracing::warn!(object = %key, condition = condition.kind, reason, "{message}");
        }
        outputs.statuses.conditions(key, conditions);
    }
    for (key, assignments) in changes.assignments {
        outputs.statuses.assignments(key, assignments);
    }
    for (key, problems) in changes.problems {
        for problem in problems {
            tracing::warn!(object = %key, "{problem}");
        }
    }
}
