//! The loop: hears, looks, acts.
//!
//! One task owns the reconciler. Acts run beside it, each in a task of its own that ends with the loop;
//! what capture has begun it ends by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use api_server::Change;
use cluster::{Namespace, Pod};
use daemon::Pending;
use enrol::{Act, Action, Actual, Failure, Reconciler, Sandbox, Settings};
use futures_util::FutureExt;
use model::PodUid;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::kernel::Kernel;
use super::objects::{Annotation, Objects};
use super::sandboxes::Certificates;
use super::view::{Behind, EnrolmentView, Told};
use crate::capture::Rest;

/// Requests of sandboxes and of the CLI that wait for the loop. When it is full, they wait to be heard.
const INPUTS_MAX: usize = 256;
/// The longest between two looks at the kernel: a difference is repaired within twice that.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// What comes within this is looked at together.
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// The same where somebody waits: a pod's start.
const CLAIM_PAUSE: Duration = Duration::from_millis(1);
/// Events being written; a further one is dropped, and the log has it.
const EVENTS_MAX: usize = 16;

/// What the loop is asked.
pub(super) enum Input {
    /// A sandbox waits for its pod's capture.
    Claim {
        pod: Box<Pod>,
        namespace: Box<Namespace>,
        sandbox: Sandbox,
        answer: oneshot::Sender<Result<(), Failure>>,
    },
    /// A sandbox is gone.
    SandboxGone(String),
    /// All others are gone.
    KeepSandboxes(BTreeSet<String>),
    /// May somebody else enrol the pod, or let it go?
    MayOthers { uid: PodUid, answer: oneshot::Sender<Result<(), Failure>> },
}

/// A collection of the API server, and how well it is followed.
pub(super) struct Followed {
    changes: mpsc::Receiver<Change>,
    /// Keeps the agent unready until all of it was read once.
    unread: Option<Pending>,
    /// Since when what is known of it may be old.
    behind: Option<Instant>,
}

impl Followed {
    pub(super) fn new(changes: mpsc::Receiver<Change>, unread: Pending) -> Self {
        Self { changes, unread: Some(unread), behind: Some(Instant::now()) }
    }

    /// The next change. Cancel safe.
    async fn next(&mut self) -> Option<Change> {
        let change = self.changes.recv().await?;
        match &change {
            Change::Replace(_) => (self.unread, self.behind) = (None, None),
            Change::Away(_) => _ = self.behind.get_or_insert_with(Instant::now),
            Change::Upsert(_) | Change::Remove(_) => {}
        }
        Some(change)
    }
}

/// Whoever waits for a sandbox: the runtime may ask twice.
type Waiting = BTreeMap<(PodUid, String), Vec<oneshot::Sender<Result<(), Failure>>>>;

/// The loop's state.
pub(super) struct Driver<K, O> {
    reconciler: Reconciler,
    kernel: Arc<K>,
    objects: O,
    certificates: Certificates,
    inputs: mpsc::Receiver<Input>,
    told: watch::Sender<Arc<Told>>,
    waiting: Waiting,
    acts: JoinSet<(PodUid, Act, Result<(), Failure>)>,
    events: JoinSet<()>,
}

impl<K: Kernel, O: Objects> Driver<K, O> {
    pub(super) fn new(
        settings: Settings,
        kernel: Arc<K>,
        objects: O,
        certificates: Certificates,
    ) -> (Self, mpsc::Sender<Input>, EnrolmentView) {
        let (sender, inputs) = mpsc::channel(INPUTS_MAX);
        let (told, receiver) = watch::channel(Arc::default());
        let driver = Self {
            reconciler: Reconciler::new(settings),
            kernel,
            objects,
            certificates,
            inputs,
            told,
            waiting: Waiting::new(),
            acts: JoinSet::new(),
            events: JoinSet::new(),
        };
        let view = EnrolmentView::new(receiver, sender.clone());
        (driver, sender, view)
    }

    /// Runs until the task is aborted.
    pub(super) async fn run(mut self, mut pods: Followed, mut namespaces: Followed) {
        let mut look_at = Instant::now();
        loop {
            // Each arm takes one thing whole, and what is not taken stays where it is.
            tokio::select! {
                Some(change) = pods.next() => {
                    super::watch::pods(&mut self.reconciler, change, now());
                    look_at = look_at.min(Instant::now() + LOOK_PAUSE);
                }
                Some(change) = namespaces.next() => {
                    super::watch::namespaces(&mut self.reconciler, change, now());
                    look_at = look_at.min(Instant::now() + LOOK_PAUSE);
                }
                Some(input) = self.inputs.recv() => {
                    let pause = match &input {
                        Input::Claim { .. } => CLAIM_PAUSE,
                        Input::SandboxGone(_)
                        | Input::KeepSandboxes(_)
                        | Input::MayOthers { .. } => LOOK_PAUSE,
                    };
                    self.hear(input);
                    look_at = look_at.min(Instant::now() + pause);
                }
                Some(ended) = self.acts.join_next(), if !self.acts.is_empty() => {
                    if let Ok((uid, act, result)) = ended {
                        self.reconciler.finished(&uid, act, result, now());
                    }
                    look_at = look_at.min(Instant::now());
                }
                Some(_) = self.events.join_next(), if !self.events.is_empty() => {}
                () = sleep_until(look_at) => {
                    let behind = Behind { pods: pods.behind, namespaces: namespaces.behind };
                    self.look(behind).await;
                    let wake = self.reconciler.wake(now()).map(Instant::from_std);
                    let latest = Instant::now() + LOOK_INTERVAL;
                    look_at = wake.map_or(latest, |wake| wake.min(latest));
                }
            }
        }
    }

    fn hear(&mut self, input: Input) {
        match input {
            Input::Claim { pod, namespace, sandbox, answer } => {
                let Ok(uid) = PodUid::parse(&pod.metadata.uid) else { return };
                let waiting = self.waiting.entry((uid, sandbox.id.clone())).or_default();
                // Those who have given up.
                waiting.retain(|sender| !sender.is_closed());
                waiting.push(answer);
                self.reconciler.claim(*pod, *namespace, sandbox, now());
            }
            Input::SandboxGone(gone) => {
                self.reconciler.end_sandbox(&gone);
                self.waiting.retain(|(_, id), _| *id != gone);
            }
            Input::KeepSandboxes(valid) => {
                self.reconciler.keep_sandboxes(|id| valid.contains(id));
                self.waiting.retain(|(_, id), asked| {
                    valid.contains(id) || asked.iter().any(|sender| !sender.is_closed())
                });
            }
            Input::MayOthers { uid, answer } => {
                // Whoever asked may be gone.
                let _ = answer.send(self.reconciler.leaves_to_others(&uid));
            }
        }
    }

    /// Compares what is wanted with what there is, and starts what is to be done.
    async fn look(&mut self, behind: Behind) {
        let kernel = Arc::clone(&self.kernel);
        let actual: Actual = match tokio::task::spawn_blocking(move || kernel.actual()).await {
            Ok(actual) => actual,
            Err(error) => {
                tracing::error!(%error, "looking at the captured pods failed");
                return sleep(LOOK_PAUSE).await;
            }
        };
        for action in self.reconciler.reconcile(&actual, now()) {
            self.start(action);
        }
        self.certificates.keep(&actual);
        let pods = self.reconciler.report(&actual, now());
        self.told.send_if_modified(|told| {
            let changed = told.pods != pods || told.behind != behind;
            if changed {
                *told = Arc::new(Told { pods, behind });
            }
            changed
        });
    }

    fn start(&mut self, action: Action) {
        let (kernel, objects) = (Arc::clone(&self.kernel), self.objects.clone());
        match action {
            Action::Enrol(wanted) => {
                let uid = wanted.uid.clone();
                self.act(uid, Act::Enrol, async move { kernel.enrol(*wanted).await });
            }
            Action::Update(wanted) => {
                let uid = wanted.uid.clone();
                self.act(uid, Act::Update, async move { kernel.update(*wanted).await });
            }
            Action::Release { uid, why } => {
                tracing::info!(pod = %uid, why = why.as_str(), "letting a pod go");
                let released = uid.clone();
                let rest = if why.is_end() { Rest::Ends } else { Rest::GoesOn };
                self.act(uid, Act::Release, async move { kernel.release(released, rest).await });
            }
            Action::Annotate(target) => {
                let uid = target.uid.clone();
                let annotate = async move { objects.annotate(&target, Annotation::Present).await };
                self.act(uid, Act::Annotate, annotate);
            }
            Action::Unannotate(target) => {
                let uid = target.uid.clone();
                let annotate = async move { objects.annotate(&target, Annotation::Absent).await };
                self.act(uid, Act::Unannotate, annotate);
            }
            Action::Answer { uid, sandbox, result } => {
                for waiting in self.waiting.remove(&(uid, sandbox)).unwrap_or_default() {
                    // Whoever asked may have given up.
                    let _ = waiting.send(result.clone());
                }
            }
            Action::Event(event) => {
                let (pod, reason, message) = (&event.target.uid, event.reason, &event.message);
                tracing::info!(%pod, reason, message, "telling a pod's owner");
                if self.events.len() < EVENTS_MAX {
                    self.events.spawn(async move { objects.tell(&event).await });
                }
            }
        }
    }

    fn act(
        &mut self,
        uid: PodUid,
        act: Act,
        work: impl Future<Output = Result<(), Failure>> + Send + 'static,
    ) {
        self.acts.spawn(async move {
            // One that panicked must not stay in flight for ever; the hook has written the panic.
            let result = AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| {
                Err(Failure::new(enrol::Code::AttachFailed, "the work on it panicked"))
            });
            if let Err(failure) = &result
                && failure.code != enrol::Code::NotStarted
            {
                tracing::warn!(pod = %uid, ?act, %failure, "an act of enrolment failed");
            }
            (uid, act, result)
        });
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

#[cfg(test)]
mod tests;
