//! Capture on one node: what is loaded once, and the table of its pods.
//!
//! The table is the only shared state, behind one lock that is held for table work, and for the end
//! of a leaving pod. Work on a pod runs in tasks of its
//! own, so that a pod which hangs or breaks costs no other pod anything.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ebpf_abi::connect::Hooked;
use enrol::redirection::Choice;
use ipnet::IpNet;
use model::{PodUid, causes};
use netns::{MarkRouting, NetnsFd, OpenError};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::agent_cgroup::{AgentCgroup, Cgroup, CgroupError};
use super::ground::Ground;
use super::host::{self, HostError, HostView, KubeletError};
use super::live::LivePod;
use super::moving::{self, CannotMove};
use super::pending::PendingTests;
use super::pins::{PinError, PinRoot};
use super::pod::{CapturedPod, ThreadAcceptors};
use super::probe::{KernelFeatures, ProbeError};
use super::programs::{HookPlace, Predecessor, Programs, ProgramsError, RolesConfig};
use super::records::{self, Record, RecordError, Records};
use super::succession::{self, Claim, Incumbent, Seats};

/// Events that wait for the data plane. When it is full, enrolment waits; see [`EVENT_TIMEOUT`].
const EVENTS_MAX: usize = 64;
/// How long the data plane may take to receive an event. After that an enrolment fails.
const EVENT_TIMEOUT: Duration = Duration::from_secs(5);

/// The routing that brings preserved client addresses back to the proxy, in every pod.
pub(super) const ROUTING: MarkRouting = MarkRouting {
    mark: ebpf_abi::PROXY_MARK,
    mask: ebpf_abi::PROXY_MARK_MASK,
    table: 0x5752,
    priority: 100,
};

/// What capture is told at start.
#[derive(Clone, Debug)]
pub struct CaptureConfig {
    /// Name of this node; part of the agent's cgroup's name.
    pub node_name: String,
    /// Folder of enrolment records.
    pub run_dir: PathBuf,
    /// Folder on bpffs.
    pub pin_dir: PathBuf,
    /// The agent's own leaf cgroup; `None`: below the one it was started in.
    pub cgroup: Option<PathBuf>,
    /// The kubelet's cgroup, whose probes pass; `None`: found by its process, where the host's are
    /// visible.
    pub kubelet_cgroup: Option<PathBuf>,
    /// The host, seen from a pod; `None`: this process is one of the host's.
    pub host: Option<HostView>,
    /// The root of the unified hierarchy, for hooks that go there.
    pub cgroup_root: PathBuf,
    /// Addresses that are not captured.
    pub bypass: Vec<IpNet>,
    /// Data-plane threads with listeners, 1 to [`ebpf_abi::MAX_THREADS`].
    pub threads: u16,
    /// The program with the `self-test` subcommand: this one.
    pub program: PathBuf,
    /// What becomes of an agent that runs on the same pins.
    pub incumbent: Incumbent,
}

/// What the data plane is told.
#[derive(Debug)]
pub enum PodEvent {
    /// Serve these acceptors; one element for each thread. Comes again for a pod whose listeners had to
    /// be replaced; the earlier acceptors end by themselves.
    Up {
        /// The pod.
        pod: Arc<CapturedPod>,
        /// Index: thread.
        acceptors: Vec<ThreadAcceptors>,
    },
    /// The pod left. Its acceptors end by themselves; its open connections end when
    /// [`CapturedPod::gone`] says so.
    Down {
        /// The pod.
        uid: PodUid,
    },
}

/// Why capture cannot start on this node.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The agent's own cgroup.
    #[error("the agent has no cgroup of its own")]
    Cgroup(#[source] CgroupError),
    /// The kubelet's cgroup.
    #[error("the kubelet's cgroup cannot be used")]
    KubeletCgroup(#[source] CgroupError),
    /// A kernel feature.
    #[error("this node cannot capture with eBPF")]
    Probe(#[from] ProbeError),
    /// The root of the hierarchy, where it is needed.
    #[error("this node cannot capture with hooks on the root of the cgroup hierarchy")]
    Root(#[source] ProbeError),
    /// None was left to choose.
    #[error("no mode of capture works on this node")]
    NoMode,
    /// The processes of the host.
    #[error("cannot tell where pods' cgroups are")]
    Host(#[from] HostError),
    /// Pods that this mode cannot have.
    #[error(transparent)]
    CannotMove(#[from] CannotMove),
    /// The folder of pins.
    #[error("cannot use the folder of pins")]
    Pins(#[from] PinError),
    /// The programs.
    #[error("cannot load the eBPF programs")]
    Programs(#[from] ProgramsError),
    /// The folder of records.
    #[error("cannot open the enrolment records")]
    Records(#[from] RecordError),
    /// The agent's own network namespace.
    #[error("cannot open the agent's network namespace")]
    Netns(#[from] OpenError),
    /// The folder of a cgroup.
    #[error("cannot open cgroup {path}")]
    Open {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
}

/// A process that could be the agent of this node, and is not yet.
pub struct Candidate {
    config: CaptureConfig,
    cgroup: AgentCgroup,
    features: KernelFeatures,
    choice: Choice,
    place: HookPlace,
    kubelet: Option<Cgroup>,
    kubelet_problem: Option<String>,
    own: NetnsFd,
    host_netns: NetnsFd,
    pins: PinRoot,
}

/// Capture on this node. Clones share it.
#[derive(Clone)]
pub struct Capture(pub(super) Arc<Node>);

pub(super) struct Node {
    pub(super) config: CaptureConfig,
    pub(super) cgroup: AgentCgroup,
    pub(super) host: Option<HostView>,
    pub(super) kubelet: Mutex<Option<Cgroup>>,
    /// Why nobody has its role, where somebody should.
    pub(super) kubelet_problem: Mutex<Option<String>>,
    pub(super) host_netns: NetnsFd,
    /// Namespaces that are nobody's pod: the agent's own and the host's.
    pub(super) foreign: Vec<NetnsFd>,
    pub(super) programs: Programs,
    pub(super) features: KernelFeatures,
    /// How this node captures, and why so.
    pub(super) choice: Choice,
    pub(super) records: Records,
    pub(super) pending: PendingTests,
    pub(super) boot_id: String,
    pub(super) pods: Mutex<BTreeMap<String, Slot>>,
    /// Serialises work on pods without objects: adopting them again, un-enrolling them.
    pub(super) rescue: tokio::sync::Mutex<()>,
    pub(super) tasks: TaskTracker,
    pub(super) shutdown: CancellationToken,
    events: mpsc::Sender<PodEvent>,
    /// Keeps other agents away from the pins.
    pub(super) seats: Seats,
    /// The agent before this one, when it started.
    pub(super) predecessor: Predecessor,
}

/// One row of the table. The key is the Pod UID, or the name of a record that says none.
pub(super) struct Slot {
    pub(super) status: Status,
    /// What was promised; absent if the record is unreadable or missing.
    pub(super) record: Option<Record>,
    /// The pod's objects; absent if it could not be adopted.
    pub(super) live: Option<Arc<LivePod>>,
    /// Ends the task that waits for a leaving pod's last connection.
    pub(super) superseded: CancellationToken,
}

/// How a pod stands, as `warren pods` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Being attached and tested.
    Enrolling,
    /// Captured, and proved so by its self-test.
    Verified,
    /// Not proved; hooks that are there stay, so nothing passes unjudged.
    Degraded(String),
    /// Un-enrolled; waiting for its last relayed connection.
    Leaving,
}

impl Slot {
    pub(super) fn new(status: Status, record: Option<Record>) -> Self {
        Self { status, record, live: None, superseded: CancellationToken::new() }
    }
}

impl Slot {
    /// The record of a pod that should be captured or cleaned up, and has no objects for it.
    pub(super) fn to_be_rescued(&self) -> Option<Record> {
        match (&self.status, &self.live) {
            (Status::Degraded(_), None) => self.record.clone(),
            (
                Status::Degraded(_) | Status::Enrolling | Status::Verified | Status::Leaving,
                Some(_) | None,
            ) => None,
        }
    }

    /// Changes the status, and tells the data plane whether the pod is proved.
    pub(super) fn set_status(&mut self, status: Status) {
        if let Some(live) = &self.live {
            live.pod.set_verified(status == Status::Verified);
        }
        self.status = status;
    }
}

impl Capture {
    /// Makes this process fit to be an agent on ground that was surveyed. Nothing that is pinned is touched.
    pub(super) fn prepare(
        config: CaptureConfig,
        ground: Ground,
        choice: Choice,
    ) -> Result<Candidate, CaptureError> {
        let place = ground.place(choice.mode);
        let Ground { cgroup, kernel, .. } = ground;
        let features = kernel?;
        let kubelet = config.kubelet_cgroup.as_deref().map(Cgroup::open);
        let kubelet = kubelet.transpose().map_err(CaptureError::KubeletCgroup)?;
        let own = NetnsFd::current()?;
        let (host_netns, kubelet) = match &config.host {
            None => (host_namespace(kubelet.as_ref(), &own), Ok(kubelet)),
            Some(host) => {
                let netns = host.netns()?;
                let found = || Ok::<_, KubeletError>(Cgroup::open(&host.kubelet(&netns)?)?);
                let kubelet = kubelet.map_or_else(found, Ok).map(Some);
                (netns, kubelet)
            }
        };
        let (kubelet, kubelet_problem) = match kubelet {
            Ok(kubelet) => (kubelet, None),
            Err(error) => (None, Some(causes(&error))),
        };
        let pins = PinRoot::open(&config.pin_dir)?;
        let candidate = Candidate {
            config,
            cgroup,
            features,
            choice,
            place,
            kubelet,
            kubelet_problem,
            own,
            host_netns,
            pins,
        };
        Ok(candidate)
    }

    /// Optional kernel features that were found.
    pub fn features(&self) -> KernelFeatures {
        self.0.features
    }

    /// How this node captures, and why so.
    pub fn choice(&self) -> Choice {
        self.0.choice
    }

    /// Where the pods' hooks are.
    pub fn hooked(&self) -> Hooked {
        self.0.programs.hooked()
    }

    /// Counters of the programs that belong to no pod.
    pub fn counters(&self) -> io::Result<Vec<(&'static str, u64)>> {
        self.0.programs.counters()
    }

    /// Removes the agent's own cgroups, when the product leaves the node and no pod is left. With hooks on
    /// the root they may be in nobody's folder; elsewhere they go with the agent's container.
    pub fn remove_cgroups(&self) {
        // A pod that could not be let go is served still, and the agent's role is its cgroup.
        let is_free = self.0.programs.pins().pods().is_ok_and(|pods| pods.is_empty());
        if self.hooked() == Hooked::Root
            && is_free
            && let Err(error) = self.0.cgroup.remove()
        {
            tracing::warn!(error = %causes(&error), "the agent's cgroups stay on the node");
        }
    }

    /// Ends the watching of pods. Hooks stay, for the next agent.
    pub async fn stop(&self) {
        self.0.shutdown.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

impl Candidate {
    /// Makes it the agent: takes the owner's seat, from another agent if it may, and loads the programs.
    /// Pods of an earlier agent are adopted by [`Capture::adopt_all`], once somebody receives the
    /// events.
    pub async fn start(self) -> Result<(Capture, mpsc::Receiver<PodEvent>), CaptureError> {
        // What can fail without the seat comes before it: a predecessor does not come back.
        let records = Records::open(&self.config.run_dir)?;
        let boot_id = records::boot_id()?;
        moving::check(&records, self.place.hooked(), self.config.host.as_ref())?;
        let Claim { owner, succession, predecessor } =
            succession::claim(&self.pins, self.config.incumbent).await?;
        let Self { config, cgroup, features, choice, place, .. } = self;
        let Self { kubelet, kubelet_problem, own, host_netns, .. } = self;
        let roles = RolesConfig {
            predecessor,
            agent_cgroup_id: cgroup.leaf().id(),
            neutral_cgroup_id: cgroup.neutral().id(),
            kubelet_cgroup_id: kubelet.as_ref().map(Cgroup::id),
            host_netns_cookie: host_netns.cookie(),
        };
        let programs = Programs::load(&config.pin_dir, place, roles)?;
        let agent_folder = open_folder(cgroup.leaf().path())?;
        let kubelet_folder =
            kubelet.as_ref().map(|kubelet| open_folder(kubelet.path())).transpose()?;
        let kubelet_fd = kubelet_folder.as_ref().map(AsFd::as_fd);
        programs.attach_roles(agent_folder.as_fd(), kubelet_fd)?;
        let mut foreign = vec![own, host_netns.clone()];
        // Not the host's in a PID namespace of the agent's own; nobody's pod all the same.
        foreign.extend(NetnsFd::open(Path::new(host::INIT_NETNS)).ok());
        let (events, receiver) = mpsc::channel(EVENTS_MAX);
        let node = Node {
            host: config.host.clone(),
            records,
            boot_id,
            pending: PendingTests::default(),
            pods: Mutex::new(BTreeMap::new()),
            rescue: tokio::sync::Mutex::new(()),
            tasks: TaskTracker::new(),
            shutdown: CancellationToken::new(),
            seats: Seats::new(owner, succession),
            predecessor,
            config,
            cgroup,
            kubelet: Mutex::new(kubelet),
            kubelet_problem: Mutex::default(),
            host_netns,
            foreign,
            programs,
            features,
            choice,
            events,
        };
        let node = Arc::new(node);
        if let Some(why) = kubelet_problem {
            node.miss_kubelet(why);
        }
        if node.host.is_some() {
            let following = Arc::clone(&node);
            node.tasks.spawn(async move { following.follow_kubelet().await });
        }
        Ok((Capture(node), receiver))
    }
}

impl Node {
    /// Hands an event to the data plane; `false` if it does not take it in time.
    pub(super) async fn emit(&self, event: PodEvent) -> bool {
        self.events.send_timeout(event, EVENT_TIMEOUT).await.is_ok()
    }

    pub(super) fn set_status(&self, uid: &PodUid, status: Status) {
        if let Some(slot) = self.pods.lock().get_mut(uid.as_str()) {
            if let Status::Degraded(reason) = &status
                && slot.status != status
            {
                tracing::warn!(pod = %uid, %reason, "pod is degraded");
            }
            slot.set_status(status);
        }
    }
}

pub(super) fn open_folder(path: &Path) -> Result<File, CaptureError> {
    File::open(path).map_err(|cause| CaptureError::Open { path: path.to_owned(), cause })
}

/// The namespace that probes come from: that of the kubelet's processes, if any is visible, else that
/// of the host's first process, else the agent's own, as of a `hostNetwork` pod. Without `hostPID` the
/// first process is the agent's own container's.
fn host_namespace(kubelet: Option<&Cgroup>, own: &NetnsFd) -> NetnsFd {
    let processes = kubelet.and_then(|cgroup| cgroup.processes().ok()).unwrap_or_default();
    let kubelets = processes.iter().map(|pid| PathBuf::from(format!("/proc/{pid}/ns/net")));
    let mut candidates = kubelets.chain([PathBuf::from(host::INIT_NETNS)]);
    candidates.find_map(|path| NetnsFd::open(&path).ok()).unwrap_or_else(|| own.clone())
}
