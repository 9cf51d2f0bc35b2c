//! The difference between what is wanted and what there is, as actions.
//!
//! Three parties are heard: the API server (objects), the container runtime (sandboxes) and the kernel
//! (what is captured, shown at each look). A pod has two lanes of work, one on the node and one at the
//! API server, each with one act at a time, its own back-off, and no memory of success: the kernel and
//! the object say that.

mod entry;
mod facts;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::{Namespace, Pod, Text};
use model::PodUid;

use crate::code::{Code, Failure};
use crate::select::{Selection, select};
use crate::switches::{self, NamespaceSwitches, Switches};
use entry::{Desire, Entry};
pub use facts::{
    Act, Action, Actual, Captured, Event, EventKind, Place, Sandbox, Source, State, Target, Wanted,
    Why,
};
pub use report::{Report, Standing};

/// Pods worked on at once: each costs a self-test's process. The others wait for their turn, those of
/// waiting sandboxes first.
const NODE_ACTS_MAX: usize = 16;
/// Annotations changed at once; the others wait for their turn.
const API_ACTS_MAX: usize = 16;
/// How long a pod must be unwanted before it is let go. A label that flips faster costs nothing, and
/// the pod stays captured.
const RELEASE_SETTLE: Duration = Duration::from_secs(1);
/// Between two acts on one pod, unless a sandbox waits for it. A label that flips slower than
/// [`RELEASE_SETTLE`] costs no more than this.
const ACT_PAUSE: Duration = Duration::from_secs(1);
/// After the first failure; doubled for each further one.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// Longest pause after failures.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Before something that has not started yet is looked for again.
const START_PAUSE: Duration = Duration::from_millis(500);
/// Between two events about one pod.
const EVENT_PAUSE: Duration = Duration::from_secs(10);
/// Before the same thing is told again.
const EVENT_REPEAT: Duration = Duration::from_mins(10);
/// How long a pod that a sandbox is made for may be missing from what is read of the API server, which
/// may be a little behind.
const READING_LAG: Duration = Duration::from_secs(10);

/// What holds for all pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Namespaces whose pods are never captured.
    pub excluded_namespaces: BTreeSet<Text>,
    /// Whether DNS questions are captured of pods that do not say.
    pub dns_capture: bool,
}

/// What is known, and what is being done.
#[derive(Debug)]
pub struct Reconciler {
    settings: Settings,
    entries: BTreeMap<PodUid, Entry>,
    namespaces: BTreeMap<Text, KnownNamespace>,
    /// Every pod of this node was read once. Before that nothing is known to be gone.
    pods_read: bool,
}

#[derive(Debug)]
struct KnownNamespace {
    object: Arc<Namespace>,
    switches: NamespaceSwitches,
    /// When it was read for a sandbox.
    read_by_request: Option<Instant>,
    /// A list lacked it after that.
    is_unlisted: bool,
}

impl Reconciler {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, entries: BTreeMap::new(), namespaces: BTreeMap::new(), pods_read: false }
    }

    /// All pods of this node, as the API server has them.
    pub fn replace_pods(&mut self, pods: impl IntoIterator<Item = Pod>, now: Instant) {
        let mut left: BTreeSet<PodUid> = self.entries.keys().cloned().collect();
        for pod in pods {
            let Ok(uid) = PodUid::parse(&pod.metadata.uid) else { continue };
            left.remove(&uid);
            let known = self.entries.get(&uid).filter(|entry| is_fresh(entry.read_by_request, now));
            let known = known.and_then(|entry| entry.object.clone());
            if known.is_none_or(|known| !is_older(&pod.metadata, &known.metadata)) {
                self.put_pod(pod);
            }
        }
        for uid in left {
            if let Some(entry) = self.entries.get_mut(&uid) {
                entry.is_unlisted = true;
            }
        }
        self.forget_unlisted(now);
        self.pods_read = true;
    }

    /// One pod, as it is now. An older state than the one that is known changes nothing.
    pub fn upsert_pod(&mut self, pod: Pod) {
        let known = PodUid::parse(&pod.metadata.uid).ok();
        let known = known.and_then(|uid| self.entries.get(&uid)?.object.clone());
        if known.is_none_or(|known| !is_older(&pod.metadata, &known.metadata)) {
            self.put_pod(pod);
        }
    }

    /// A pod that is no longer there.
    pub fn remove_pod(&mut self, uid: &PodUid) {
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.forget_object();
        }
    }

    /// All namespaces, as the API server has them.
    pub fn replace_namespaces(
        &mut self,
        namespaces: impl IntoIterator<Item = Namespace>,
        now: Instant,
    ) {
        let mut left: BTreeSet<Text> = self.namespaces.keys().cloned().collect();
        for namespace in namespaces {
            left.remove(&namespace.metadata.name);
            let known = self.namespaces.get(&namespace.metadata.name);
            let is_newer = known.is_some_and(|known| {
                is_fresh(known.read_by_request, now)
                    && is_older(&namespace.metadata, &known.object.metadata)
            });
            if !is_newer {
                self.put_namespace(namespace);
            }
        }
        for name in left {
            if let Some(known) = self.namespaces.get_mut(&name) {
                known.is_unlisted = true;
            }
        }
        self.forget_unlisted(now);
    }

    /// One namespace, as it is now. An older state than the one that is known changes nothing.
    pub fn upsert_namespace(&mut self, namespace: Namespace) {
        let known = self.namespaces.get(&namespace.metadata.name);
        let older =
            known.is_some_and(|known| is_older(&namespace.metadata, &known.object.metadata));
        if !older {
            self.put_namespace(namespace);
        }
    }

    /// A namespace that is no longer there.
    pub fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    /// A sandbox is being made, and waits for its pod's capture: [`Action::Answer`] tells it. The pod and
    /// its namespace have just been read, and may be newer than what is known otherwise.
    pub fn claim(&mut self, pod: Pod, namespace: Namespace, sandbox: Sandbox, now: Instant) {
        let Ok(uid) = PodUid::parse(&pod.metadata.uid) else { return };
        let name = namespace.metadata.name.clone();
        self.upsert_namespace(namespace);
        if let Some(known) = self.namespaces.get_mut(&name) {
            known.read_by_request = Some(now);
        }
        self.upsert_pod(pod);
        if let Some(entry) = self.entries.get_mut(&uid) {
            entry.claim(sandbox, now);
        }
    }

    /// A sandbox is gone: its runtime takes it down.
    pub fn end_sandbox(&mut self, sandbox: &str) {
        for entry in self.entries.values_mut() {
            entry.unclaim(sandbox);
        }
    }

    /// Forgets the sandboxes that `is_valid` does not know, unless somebody waits for them. Nothing ends by
    /// that: a list may be another runtime's, and where a pod's end was not told, the kernel tells it.
    pub fn keep_sandboxes(&mut self, is_valid: impl Fn(&str) -> bool) {
        for entry in self.entries.values_mut() {
            entry.forget_sandbox_unless(&is_valid);
        }
    }

    /// What to do now. Each node or API act that is returned is in flight until
    /// [`finished`](Self::finished).
    pub fn reconcile(&mut self, actual: &Actual, now: Instant) -> Vec<Action> {
        self.forget_unlisted(now);
        for uid in actual.keys() {
            if !self.entries.contains_key(uid) {
                self.entries.insert(uid.clone(), Entry::default());
            }
        }
        let in_flight = |act: fn(&Entry) -> bool| self.entries.values().filter(|e| act(e)).count();
        let mut room = Room {
            node: NODE_ACTS_MAX.saturating_sub(in_flight(|entry| entry.node.is_some())),
            api: API_ACTS_MAX.saturating_sub(in_flight(|entry| entry.api.is_some())),
        };
        let mut order: Vec<PodUid> = self.entries.keys().cloned().collect();
        order.sort_by_key(|uid| self.entries.get(uid).is_none_or(|entry| !entry.is_waited_for()));
        let mut actions = Vec::new();
        for uid in order {
            let desire = self.desire(&uid, actual.get(&uid), now);
            let Some(entry) = self.entries.get_mut(&uid) else { continue };
            let captured = actual.get(&uid);
            entry.heed(&desire, captured, now);
            step(&uid, entry, &desire, captured, now, &mut room, &mut actions);
        }
        self.entries.retain(|uid, entry| actual.contains_key(uid) || !entry.is_idle());
        actions
    }

    /// When to look again though nothing happens. `None`: not before something happens.
    #[must_use]
    pub fn wake(&self, now: Instant) -> Option<Instant> {
        self.entries.values().flat_map(Entry::times).filter(|time| *time > now).min()
    }

    /// An act has ended.
    pub fn finished(&mut self, uid: &PodUid, act: Act, result: Result<(), Failure>, now: Instant) {
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.finished(act, result, now);
        }
    }

    /// Whether somebody else than the API server may enrol the pod or let it go.
    pub fn leaves_to_others(&self, uid: &PodUid) -> Result<(), Failure> {
        let Some(pod) = self.entries.get(uid).and_then(|entry| entry.object.as_ref()) else {
            return Ok(());
        };
        match self.select(pod) {
            Selection::Refused(why) if !why.is_said() => Ok(()),
            Selection::Refused(why) => Err(Failure::new(
                Code::ApiDecides,
                format!("the pod stays outside: {}", why.as_str()),
            )),
            Selection::Selected => Err(Failure::new(
                Code::ApiDecides,
                "the pod is in the mesh by its labels or its namespace's",
            )),
            Selection::Undecided => {
                Err(Failure::new(Code::ApiDecides, "the pod's namespace is not known yet"))
            }
        }
    }

    /// How each pod stands, for people and metrics.
    #[must_use]
    pub fn report(&self, actual: &Actual, now: Instant) -> Vec<Report> {
        let uids: BTreeSet<&PodUid> = self.entries.keys().chain(actual.keys()).collect();
        let report = |uid: &PodUid| {
            let captured = actual.get(uid);
            let desire = self.desire(uid, captured, now);
            report::report(uid, self.entries.get(uid), &desire, captured)
        };
        uids.into_iter().map(report).collect()
    }

    fn put_pod(&mut self, pod: Pod) {
        // Nothing that the kernel shows could be matched to another uid.
        if let Ok(uid) = PodUid::parse(&pod.metadata.uid) {
            self.entries.entry(uid).or_default().put(Arc::new(pod));
        }
    }

    fn put_namespace(&mut self, namespace: Namespace) {
        let switches = NamespaceSwitches::of(&namespace);
        let name = namespace.metadata.name.clone();
        let read_by_request = self.namespaces.get(&name).and_then(|known| known.read_by_request);
        let object = Arc::new(namespace);
        let known = KnownNamespace { object, switches, read_by_request, is_unlisted: false };
        self.namespaces.insert(name, known);
    }

    /// Forgets what a list lacked, once it was not read just before that list came.
    fn forget_unlisted(&mut self, now: Instant) {
        for entry in self.entries.values_mut() {
            if entry.is_unlisted && !is_fresh(entry.read_by_request, now) {
                entry.forget_object();
            }
        }
        self.namespaces
            .retain(|_, known| !known.is_unlisted || is_fresh(known.read_by_request, now));
    }

    fn select(&self, pod: &Pod) -> Selection {
        let namespace = self.namespaces.get(&pod.metadata.namespace);
        let object = namespace.map(|namespace| &*namespace.object);
        select(pod, object, &self.settings.excluded_namespaces)
    }

    fn desire(&self, uid: &PodUid, captured: Option<&Captured>, now: Instant) -> Desire {
        let Some(entry) = self.entries.get(uid) else { return Desire::Unknown };
        if let (Some(ended), Some(captured)) = (entry.ended_netns, captured)
            && captured.netns == ended
        {
            return Desire::Out(Why::SandboxGone);
        }
        let Some(pod) = &entry.object else { return self.desire_unread(captured) };
        match self.select(pod) {
            Selection::Undecided => Desire::Unknown,
            Selection::Refused(why) => match captured.map(|captured| captured.source) {
                // It belongs to whoever enrolled it; the API server says nothing of it.
                Some(Source::Cli) if !why.is_said() => Desire::Others,
                Some(Source::Cli | Source::Api | Source::Cni) | None => {
                    Desire::Out(Why::Refused(why))
                }
            },
            Selection::Selected => self.wanted(uid, entry, pod, now),
        }
    }

    /// What becomes of a captured pod that the API server does not know, or not any more: as long as
    /// something of it runs it stays captured, as its workload may be gone for everybody else.
    fn desire_unread(&self, captured: Option<&Captured>) -> Desire {
        let Some(captured) = captured else { return Desire::Unknown };
        match (captured.source, captured.place) {
            (Source::Api | Source::Cni, Place::Empty) if self.pods_read => Desire::Out(Why::Gone),
            (Source::Api | Source::Cni | Source::Cli, _) => Desire::Unknown,
        }
    }

    fn wanted(&self, uid: &PodUid, entry: &Entry, pod: &Arc<Pod>, now: Instant) -> Desire {
        let Some(workload) = facts::workload(pod) else { return Desire::Unknown };
        let none = NamespaceSwitches::default();
        let namespace = self.namespaces.get(&pod.metadata.namespace);
        let of_namespace = namespace.map_or(&none, |namespace| &namespace.switches);
        let (switches, problems) = Switches::of(pod, of_namespace);
        let sandbox = entry.sandbox().cloned();
        let told = facts::addresses(pod);
        let given = sandbox.as_ref().map(|s| s.addresses.clone()).unwrap_or_default();
        // The kubelet tells them only when the sandbox is there. Until then its word is of none, or of
        // the sandbox before this one.
        let is_given = !given.is_empty() && (entry.is_waited_for() || told.is_empty());
        let addresses = if is_given { given } else { told };
        let waits = entry.is_waited_for() && entry.claimed_at.is_some_and(|at| at <= now);
        Desire::In(Box::new(Wanted {
            uid: uid.clone(),
            workload,
            addresses,
            source: if waits { Source::Cni } else { Source::Api },
            sandbox,
            dns: switches::dns_capture(pod).unwrap_or(self.settings.dns_capture),
            switches,
            problems,
            is_running: facts::is_running(pod),
        }))
    }
}

/// Acts that may be started now.
struct Room {
    node: usize,
    api: usize,
}

impl Room {
    fn take(slots: &mut usize) -> bool {
        let free = *slots > 0;
        *slots = slots.saturating_sub(1);
        free
    }
}

/// Decides for one pod.
fn step(
    uid: &PodUid,
    entry: &mut Entry,
    desire: &Desire,
    captured: Option<&Captured>,
    now: Instant,
    room: &mut Room,
    actions: &mut Vec<Action>,
) {
    let there = captured.filter(|captured| captured.state != State::Leaving);
    if let Some(act) = node_act(entry, desire, there, now)
        && Room::take(&mut room.node)
    {
        let (kind, action) = match act {
            NodeAct::Enrol(wanted) => (Act::Enrol, Action::Enrol(wanted)),
            NodeAct::Update(wanted) => (Act::Update, Action::Update(wanted)),
            NodeAct::Release(why) => (Act::Release, Action::Release { uid: uid.clone(), why }),
        };
        entry.begin(kind);
        actions.push(action);
    }
    if let Some((act, target)) = api_act(uid, entry, desire, there, now)
        && Room::take(&mut room.api)
    {
        entry.begin(act);
        actions.push(match act {
            Act::Unannotate => Action::Unannotate(target),
            Act::Annotate | Act::Enrol | Act::Update | Act::Release => Action::Annotate(target),
        });
    }
    if let Some((sandbox, result)) = entry.answer(desire, there) {
        actions.push(Action::Answer { uid: uid.clone(), sandbox, result });
    }
    entry.note_state(desire, there, now);
    if let Some(event) = entry.event(uid, desire, there, now) {
        actions.push(Action::Event(event));
    }
}

enum NodeAct {
    Enrol(Box<Wanted>),
    Update(Box<Wanted>),
    Release(Why),
}

fn node_act(
    entry: &Entry,
    desire: &Desire,
    captured: Option<&Captured>,
    now: Instant,
) -> Option<NodeAct> {
    // Somebody works on it: this one, or the CLI.
    if entry.node.is_some() || captured.is_some_and(|c| c.state == State::Enrolling) {
        return None;
    }
    if !entry.may_act(now) {
        return None;
    }
    match (desire, captured) {
        (Desire::In(wanted), None) => Some(NodeAct::Enrol(wanted.clone())),
        (Desire::In(wanted), Some(captured)) => {
            // Its hooks stay on until it is found: what cannot be found stays closed.
            if captured.place == Place::Lost {
                return Some(NodeAct::Enrol(wanted.clone()));
            }
            let moved = captured.place == Place::Moved
                || wanted.sandbox.as_ref().is_some_and(|s| s.netns_inode != captured.netns);
            if moved {
                return Some(NodeAct::Release(Why::Moved));
            }
            let differs = captured.source == Source::Cli || captured.switches != wanted.switches;
            differs.then(|| NodeAct::Update(wanted.clone()))
        }
        (Desire::Out(why), Some(_)) => {
            // The annotation goes first: what it promises ends with the release.
            let is_promised = entry.is_annotated() && !why.is_end();
            let settled = entry.has_settled(*why, now);
            (settled && !is_promised && entry.api.is_none()).then_some(NodeAct::Release(*why))
        }
        (Desire::Out(_), None) | (Desire::Others | Desire::Unknown, _) => None,
    }
}

fn api_act(
    uid: &PodUid,
    entry: &Entry,
    desire: &Desire,
    captured: Option<&Captured>,
    now: Instant,
) -> Option<(Act, Target)> {
    if entry.api.is_some() || !entry.may_patch(now) {
        return None;
    }
    let target = entry.target(uid)?;
    let act = match (desire, captured) {
        (Desire::In(_), Some(captured)) => {
            let is_whole = captured.state == State::Verified && entry.node.is_none();
            (is_whole && !entry.is_annotated()).then_some(Act::Annotate)?
        }
        (Desire::Out(why), _) => {
            (entry.is_annotated() && entry.has_settled(*why, now)).then_some(Act::Unannotate)?
        }
        // An annotation without capture stays where the pod is wanted: peers that dial HBONE in vain
        // are better than peers that send plaintext.
        (Desire::In(_), None) | (Desire::Others | Desire::Unknown, _) => return None,
    };
    Some((act, target))
}

/// Whether what was read for a sandbox may be newer than a list that comes now.
fn is_fresh(read: Option<Instant>, now: Instant) -> bool {
    read.is_some_and(|at| now < at + READING_LAG)
}

/// Whether `new` is an earlier state of an object than `known`. Versions are numbers in all API servers;
/// what is not one is never older.
fn is_older(new: &cluster::Meta, known: &cluster::Meta) -> bool {
    let version = |meta: &cluster::Meta| meta.resource_version.parse::<u64>().ok();
    matches!((version(new), version(known)), (Some(new), Some(known)) if new < known)
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
