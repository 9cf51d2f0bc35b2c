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
use enrol::{Act, Action, Actual, Failure, Reconciler, Report, Sandbox, Settings, Standing};
use futures_util::FutureExt;
use model::PodUid;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::kernel::Kernel;
use super::objects::{Annotation, Objects};
use super::sandboxes::Certificates;

/// Requests of sandboxes and of the CLI that wait for the loop. When it is full, they wait to be heard.
const INPUTS_MAX: usize = 256;
/// The longest between two looks at the kernel: a difference is repaired within twice that.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// What comes within this is looked at together.
const LOOK_PAUSE: Duration = Duration::from_millis(10);
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

/// What the loop tells of itself.
#[derive(Clone)]
pub(crate) struct EnrolmentView {
    told: watch::Receiver<Arc<Told>>,
    inputs: mpsc::Sender<Input>,
}

/// How all pods stand.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Each pod that is known or captured.
    pub(crate) pods: Vec<Report>,
}

impl Told {
    /// Pods that should be captured, run, and are not proved to be.
    pub(crate) fn gap(&self) -> usize {
        self.pods.iter().filter(|report| report.is_gap).count()
    }

    /// Pods in a state.
    pub(crate) fn count(&self, standing: Standing) -> usize {
        self.pods.iter().filter(|report| report.standing == standing).count()
    }
}

impl EnrolmentView {
    /// How all pods stand now.
    pub(crate) fn told(&self) -> Arc<Told> {
        self.told.borrow().clone()
    }

    /// Whether the CLI may enrol a pod or let it go: the API server outranks it.
    pub(crate) async fn may_others(&self, uid: &PodUid) -> Result<(), Failure> {
        let (answer, answered) = oneshot::channel();
        let asked = self.inputs.send(Input::MayOthers { uid: uid.clone(), answer }).await;
        let stopping = || Failure::new(enrol::Code::TooLate, "the agent is stopping");
        asked.map_err(|_| stopping())?;
        answered.await.map_err(|_| stopping())?
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
        (driver, sender.clone(), EnrolmentView { told: receiver, inputs: sender })
    }

    /// Runs until the task is aborted.
    pub(super) async fn run(
        mut self,
        mut pods: mpsc::Receiver<Change>,
        mut namespaces: mpsc::Receiver<Change>,
    ) {
        let mut look_at = Instant::now();
        loop {
            // Each arm takes one thing whole, and what is not taken stays where it is.
            tokio::select! {
                Some(change) = pods.recv() => {
                    super::watch::pods(&mut self.reconciler, change, now());
                    look_at = look_at.min(Instant::now() + LOOK_PAUSE);
                }
                Some(change) = namespaces.recv() => {
                    super::watch::namespaces(&mut self.reconciler, change, now());
                    look_at = look_at.min(Instant::now() + LOOK_PAUSE);
                }
                Some(input) = self.inputs.recv() => {
                    self.hear(input);
                    look_at = look_at.min(Instant::now() + LOOK_PAUSE);
                }
                Some(ended) = self.acts.join_next(), if !self.acts.is_empty() => {
                    if let Ok((uid, act, result)) = ended {
                        self.reconciler.finished(&uid, act, result, now());
                    }
                    look_at = look_at.min(Instant::now());
                }
                Some(_) = self.events.join_next(), if !self.events.is_empty() => {}
                () = sleep_until(look_at) => {
                    self.look().await;
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
                self.reconciler.keep_sandboxes(|id| id != gone);
                self.waiting.retain(|(_, id), _| *id != gone);
            }
            Input::KeepSandboxes(valid) => {
                self.reconciler.keep_sandboxes(|id| valid.contains(id));
                self.waiting.retain(|(_, id), _| valid.contains(id));
            }
            Input::MayOthers { uid, answer } => {
                // Whoever asked may be gone.
                let _ = answer.send(self.reconciler.leaves_to_others(&uid));
            }
        }
    }

    /// Compares what is wanted with what there is, and starts what is to be done.
    async fn look(&mut self) {
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
            let changed = told.pods != pods;
            if changed {
                *told = Arc::new(Told { pods });
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
                self.act(uid, Act::Release, async move { kernel.release(released).await });
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
