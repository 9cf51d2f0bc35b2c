//! What goes in and what comes out.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use cluster::Pod;
use cluster::pod::Phase;
use model::{PodUid, WorkloadKey};

use crate::code::{Code, Failure};
use crate::select::Refused;
use crate::switches::Switches;

/// Who enrolled a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// An operator, by the admin socket.
    #[default]
    Cli,
    /// Its labels, while it ran.
    Api,
    /// Its labels, before anything of it ran.
    Cni,
}

impl Source {
    /// The word in tables and records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cli => "cli",
            Self::Api => "api",
            Self::Cni => "cni",
        }
    }

    /// Reads that word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Cli, Self::Api, Self::Cni].into_iter().find(|source| source.as_str() == word)
    }
}

/// A sandbox that the container runtime makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// The runtime's id of it.
    pub id: String,
    /// Path of its network namespace.
    pub netns: PathBuf,
    /// What that path named when the runtime asked.
    pub netns_inode: u64,
    /// The addresses that it was given.
    pub addresses: Vec<IpAddr>,
}

/// How a pod is to be captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The pod instance.
    pub uid: PodUid,
    /// Which workload it is.
    pub workload: WorkloadKey,
    /// The addresses that its network namespace must hold, and no others. Empty: none are known yet.
    pub addresses: Vec<IpAddr>,
    /// Who wants it.
    pub source: Source,
    /// The sandbox that the runtime told of, if it did.
    pub sandbox: Option<Sandbox>,
    /// Whether its DNS questions are captured; read when it is enrolled.
    pub dns: bool,
    /// What can change while it is captured.
    pub switches: Switches,
    /// What could not be read of its switches, for people.
    pub problems: Vec<String>,
    /// Whether the API server says that something of it runs, and is to go on.
    pub is_running: bool,
}

/// One captured pod, as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// Who enrolled it.
    pub source: Source,
    /// How it stands.
    pub state: State,
    /// Inode of its network namespace.
    pub netns: u64,
    /// Whether it is still where it was enrolled.
    pub place: Place,
    /// What the kernel was told.
    pub switches: Switches,
}

/// How a captured pod stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It is being attached and tested.
    Enrolling,
    /// Its self-test has passed.
    Verified,
    /// Not as it should be; its hooks stay, and it is repaired by itself.
    Degraded(String),
    /// Let go; its last connections go on.
    Leaving,
}

/// Where a captured pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Where it was enrolled.
    Same,
    /// In another network namespace: its sandbox was made anew.
    Moved,
    /// Nothing of it runs.
    Empty,
    /// Not known: hooks are there, and what was written of them cannot be used.
    Lost,
}

/// All captured pods.
pub type Actual = BTreeMap<PodUid, Captured>;

/// Why a pod is let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is not wanted.
    Refused(Refused),
    /// Its sandbox was taken down.
    SandboxGone,
    /// It is in another network namespace, and will be enrolled there.
    Moved,
    /// The API server does not know it, and nothing of it runs.
    Gone,
}

impl Why {
    /// The words in the log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused(why) => why.as_str(),
            Self::SandboxGone => "sandbox gone",
            Self::Moved => "sandbox made anew",
            Self::Gone => "gone",
        }
    }

    /// Whether nothing of the pod goes on: nobody has to be told before it is let go, and its connections
    /// end with it.
    #[must_use]
    pub fn is_end(self) -> bool {
        match self {
            Self::SandboxGone | Self::Gone | Self::Moved => true,
            Self::Refused(_) => false,
        }
    }

    /// Whether it may be different in a moment.
    pub(super) fn may_flip(self) -> bool {
        match self {
            Self::Refused(Refused::Ended) | Self::SandboxGone | Self::Gone | Self::Moved => false,
            Self::Refused(_) => true,
        }
    }
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Find the pod and capture it.
    Enrol(Box<Wanted>),
    /// Tell the kernel other switches, and note who wants the pod now.
    Update(Box<Wanted>),
    /// Let the pod go; its open connections go on.
    Release {
        /// Which.
        uid: PodUid,
        /// Why.
        why: Why,
    },
    /// Write the redirection annotation.
    Annotate(Target),
    /// Remove it.
    Unannotate(Target),
    /// Answer whoever waits for a sandbox.
    Answer {
        /// Which pod.
        uid: PodUid,
        /// Which sandbox.
        sandbox: String,
        /// The answer.
        result: Result<(), Failure>,
    },
    /// Tell the pod's owner.
    Event(Event),
}

/// The kinds of acts that are in flight until they are finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// [`Action::Enrol`].
    Enrol,
    /// [`Action::Update`].
    Update,
    /// [`Action::Release`].
    Release,
    /// [`Action::Annotate`].
    Annotate,
    /// [`Action::Unannotate`].
    Unannotate,
}

/// An object at the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The instance; another one of the same name is not meant.
    pub uid: PodUid,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A word to the pod's owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// About which pod.
    pub target: Target,
    /// Whether something is wrong.
    pub kind: EventKind,
    /// What it is.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// The two types of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// All is well.
    Normal,
    /// Something is wrong; the reason is a [`Code`].
    Warning,
}

impl Event {
    /// The reason of the event that ends a warning.
    pub(super) const ENROLLED: &str = "Enrolled";

    pub(super) fn warning(target: Target, code: Code, message: &str) -> Self {
        let (kind, message) = (EventKind::Warning, message.to_owned());
        Self { target, kind, reason: code.as_str(), message }
    }
}

/// The workload of a pod; `None`: its names cannot be ones.
pub(super) fn workload(pod: &Pod) -> Option<WorkloadKey> {
    let meta = &pod.metadata;
    WorkloadKey::parse(&format!("{}/{}/{}", meta.namespace, meta.name, pod.service_account())).ok()
}

/// The addresses that the kubelet told. One that cannot be read makes them all unknown: a part of them
/// would be taken for the whole.
pub(super) fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let parsed: Result<Vec<IpAddr>, _> = pod.ips().map(str::parse).collect();
    parsed.unwrap_or_default()
}

/// Whether something of it should be found. One that is being deleted may end at any moment.
pub(super) fn is_running(pod: &Pod) -> bool {
    match pod.status.phase {
        Phase::Running => pod.metadata.deletion_timestamp.is_none(),
        Phase::Pending | Phase::Succeeded | Phase::Failed | Phase::Unknown => false,
    }
}
