//! Enrolling a pod: the request, its refusals, and the way in.
//!
//! A request names kernel objects by path. Each is opened once, judged by what was opened, and
//! never looked up by path again. Two pods may not share one, and the agent's own and the host's are
//! nobody's pod. A refusal leaves nothing attached.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ebpf_abi::connect::Hooked;
pub use enrol::{Code as EnrolCode, Failure as EnrolError};
use enrol::{Source, Switches};
use model::{PodUid, WorkloadKey, causes};
use netns::{MarkSysctls, NetnsFd};
use nix::libc;

use super::agent_cgroup::{Cgroup, CgroupError};
use super::home::Home;
use super::hooks::HookError;
use super::host::{self, HostError, HostView};
use super::leave::{Rest, unenrol};
use super::live::{self, AttachError, Origin};
use super::node::{Capture, Node, ROUTING, Slot, Status};
use super::questions::DnsCapture;
use super::records::{Progress, Record, RecordedCgroup};

/// Processes of a pod that are compared with its namespace. One with more is refused.
const PROCESSES_MAX: usize = 1_024;

/// A pod to be captured.
#[derive(Clone, Debug)]
pub struct EnrolRequest {
    /// The pod instance.
    pub uid: PodUid,
    /// Which workload it is.
    pub workload: WorkloadKey,
    /// Its network namespace, such as `/run/netns/x` or `/proc/PID/ns/net`.
    pub netns: PathBuf,
    /// What that path named when it was chosen, if whoever asks has looked.
    pub netns_inode: Option<u64>,
    /// Its cgroup: the pod's, not a container's. With hooks on the root it need not be known.
    pub cgroup: Option<PathBuf>,
    /// Who wants it.
    pub source: Source,
    /// What the kernel is told.
    pub switches: Switches,
    /// Whether its questions to resolvers are captured.
    pub dns: DnsCapture,
}

impl From<AttachError> for EnrolError {
    fn from(error: AttachError) -> Self {
        let code = match &error {
            AttachError::NoAddress => EnrolCode::NoAddress,
            AttachError::Record(_) => EnrolCode::RecordFailed,
            AttachError::Hooks(HookError::NetnsTaken) => EnrolCode::NetnsTaken,
            AttachError::Hooks(HookError::TooManyPods) => EnrolCode::NodeFull,
            AttachError::Hooks(HookError::AlreadyAttached { .. }) => EnrolCode::UidTaken,
            AttachError::Hooks(HookError::NoCgroup) => EnrolCode::CgroupInvalid,
            AttachError::Addresses(_)
            | AttachError::Listener(_)
            | AttachError::Routing(_)
            | AttachError::Cgroup(_)
            | AttachError::Hooks(_)
            | AttachError::Adopt(_)
            | AttachError::Slot(_)
            | AttachError::Questions(_)
            | AttachError::DataPlane
            | AttachError::NotOwner(_) => EnrolCode::AttachFailed,
        };
        Self::new(code, causes(&error))
    }
}

impl Capture {
    /// Captures a running pod; returns once its self-test has passed. Established connections are
    /// left alone. The work goes on if the future is dropped: half an enrolment helps nobody.
    pub async fn enrol(&self, request: EnrolRequest) -> Result<(), EnrolError> {
        let node = Arc::clone(&self.0);
        let uid = request.uid.clone();
        let work = self.0.tasks.spawn(async move { enrol(&node, request).await });
        let result = work.await.unwrap_or_else(|error| {
            Err(EnrolError::new(EnrolCode::AttachFailed, format!("the work ended: {error}")))
        });
        match &result {
            Ok(()) => tracing::info!(pod = %uid, "pod enrolled"),
            Err(error) => tracing::warn!(pod = %uid, %error, "pod not enrolled"),
        }
        result
    }
}

async fn enrol(node: &Arc<Node>, request: EnrolRequest) -> Result<(), EnrolError> {
    let (namespace, home) = open(node, &request)?;
    let mut record = Record {
        uid: request.uid,
        workload: request.workload,
        cgroup: home.cgroup().map(RecordedCgroup::from),
        hooked: node.programs.hooked(),
        netns_path: request.netns,
        netns_inode: namespace.inode(),
        netns_cookie: namespace.cookie(),
        source: request.source,
        switches: request.switches,
        dns: request.dns,
        mark_sysctls: MarkSysctls::default(),
        progress: Progress::Enrolling,
        boot_id: node.boot_id.clone(),
    };
    if node.is_lost(&record.uid) {
        if let Some(result) = node.recover(&record).await {
            return result;
        }
        // What is on is not this pod's, or not whole: it goes only now, when the pod was found.
        unenrol(node, &record.uid, Rest::GoesOn).await?;
    }
    reserve(node, &mut record, &home, &namespace)?;
    let uid = record.uid.clone();
    let brought_up = live::bring_up(node, &record, &namespace, &home, Origin::Fresh).await;
    let live = match brought_up {
        Ok(live) => live,
        Err(error) => {
            node.abandon(&record, &namespace, None).await;
            return Err(error.into());
        }
    };
    if let Some(slot) = node.pods.lock().get_mut(uid.as_str()) {
        slot.live = Some(Arc::clone(&live));
    }
    let proved = live::prove(node, &live).await;
    let proved = proved.map_err(|e| EnrolError::new(EnrolCode::SelfTestFailed, causes(&e)));
    if let Err(failure) = &proved
        && !is_kept_unproved(record.source)
    {
        node.abandon(&record, &namespace, Some(&live)).await;
        return Err(failure.clone());
    }
    record.progress = Progress::Verified;
    // If the pods are another agent's by now, it has undone this: whoever asked asks again.
    let saved = node.seats.while_owner(|| node.records.save(&record)).map_err(AttachError::from)?;
    if let Err(error) = saved {
        node.abandon(&record, &namespace, Some(&live)).await;
        return Err(EnrolError::new(EnrolCode::RecordFailed, causes(&error)));
    }
    if let Some(slot) = node.pods.lock().get_mut(uid.as_str()) {
        slot.record = Some(record.clone());
        slot.set_status(match &proved {
            Ok(()) => Status::Verified,
            Err(failure) => Status::Degraded(failure.message.clone()),
        });
    }
    node.watch(record, live, Origin::Fresh);
    proved
}

/// Whether hooks that are on stay on though the test failed. A pod that runs can spoil its own test, and
/// must not keep itself outside by that: what it opens is captured, and its watch tests again. One that
/// does not run yet is refused instead, and an operator is told at once.
fn is_kept_unproved(source: Source) -> bool {
    match source {
        Source::Api => true,
        Source::Cni | Source::Cli => false,
    }
}

/// Opens what the request names and refuses what is nobody's pod.
fn open(node: &Node, request: &EnrolRequest) -> Result<(NetnsFd, Home), EnrolError> {
    let namespace = NetnsFd::open(&request.netns)
        .map_err(|error| EnrolError::new(EnrolCode::NetnsInvalid, causes(&error)))?;
    if node.foreign.contains(&namespace) {
        let message = format!("{} is the host's or the agent's", request.netns.display());
        return Err(EnrolError::new(EnrolCode::NetnsIsHost, message));
    }
    if request.netns_inode.is_some_and(|inode| inode != namespace.inode()) {
        let message = format!("{} names another namespace by now", request.netns.display());
        return Err(EnrolError::new(EnrolCode::IdentityConflict, message));
    }
    let home = match &request.cgroup {
        Some(path) => Home::Cgroup(open_cgroup(node, path)?),
        None => node.home_by_names(&request.uid, namespace.inode()),
    };
    let stranger = match (&home, node.programs.hooked()) {
        (Home::Cgroup(cgroup), _) => stranger(node.host.as_ref(), cgroup, namespace.inode())?,
        (Home::Names { host, .. }, Hooked::Root) => {
            named_stranger(host, &request.uid, namespace.inode())?
        }
        (Home::Names { .. }, Hooked::Pod) => {
            let message = "its cgroup has to be told: its hooks go there";
            return Err(EnrolError::new(EnrolCode::CgroupInvalid, message));
        }
    };
    if let Some((pid, inode)) = stranger {
        let place = home.cgroup().map_or(Path::new("the pod"), Cgroup::path);
        let message = format!(
            "process {pid} of {} is in network namespace {inode} and not in {}",
            place.display(),
            request.netns.display()
        );
        return Err(EnrolError::new(EnrolCode::NetnsMismatch, message));
    }
    Ok((namespace, home))
}

/// Opens a pod's cgroup, and refuses one with somebody else in it.
fn open_cgroup(node: &Node, path: &Path) -> Result<Cgroup, EnrolError> {
    let cgroup = Cgroup::open(path)
        .map_err(|error| EnrolError::new(EnrolCode::CgroupInvalid, causes(&error)))?;
    let kubelet = node.kubelet.lock().clone();
    let reserved = [Some(node.cgroup.leaf()), Some(node.cgroup.neutral()), kubelet.as_ref()];
    for theirs in reserved.into_iter().flatten() {
        if cgroup.contains(theirs) || theirs.contains(&cgroup) {
            let message = format!(
                "{} and {} overlap; a pod's cgroup holds only the pod",
                cgroup.path().display(),
                theirs.path().display()
            );
            return Err(EnrolError::new(EnrolCode::CgroupHoldsAgent, message));
        }
    }
    Ok(cgroup)
}

/// Claims uid, cgroup and namespace for this request, or says who has them.
fn reserve(
    node: &Node,
    record: &mut Record,
    home: &Home,
    namespace: &NetnsFd,
) -> Result<(), EnrolError> {
    let routing = ROUTING
        .inspect(namespace)
        .map_err(|error| EnrolError::new(EnrolCode::AttachFailed, causes(&error)))?;
    record.mark_sysctls = routing.sysctls;
    let mut pods = node.pods.lock();
    if let Some(slot) = pods.get(record.uid.as_str())
        && slot.status != Status::Leaving
    {
        return Err(EnrolError::new(EnrolCode::UidTaken, format!("{} is enrolled", record.uid)));
    }
    let mut returning = None;
    for (name, slot) in pods.iter() {
        let Some(other) = &slot.record else { continue };
        let same_netns = other.netns_cookie == record.netns_cookie;
        if slot.status == Status::Leaving {
            if same_netns {
                returning = Some(name.clone());
            }
            continue;
        }
        if same_netns {
            let message = format!("{} is enrolled with this network namespace", other.uid);
            return Err(EnrolError::new(EnrolCode::NetnsTaken, message));
        }
        let (Some(theirs), Some(cgroup)) = (&other.cgroup, home.cgroup()) else { continue };
        if theirs.path.starts_with(cgroup.path()) || cgroup.path().starts_with(&theirs.path) {
            let message = format!("it overlaps the cgroup of {}", other.uid);
            return Err(EnrolError::new(EnrolCode::CgroupTaken, message));
        }
    }
    // A pod that returns before its last connection closed takes its routing over, and with it the
    // memory of what the sysctls were before.
    if let Some(slot) = returning.and_then(|name| pods.remove(&name)) {
        slot.superseded.cancel();
        if let Some(before) = slot.record {
            record.mark_sysctls = before.mark_sysctls;
        }
    } else if let Some(slot) = pods.remove(record.uid.as_str()) {
        // The same uid leaves another namespace. Its routing there stays until the namespace goes.
        slot.superseded.cancel();
    }
    let slot = Slot::new(Status::Enrolling, Some(record.clone()));
    pods.insert(record.uid.to_string(), slot);
    Ok(())
}

/// A process in or below a cgroup, as far as visible, that lives in another network namespace than
/// `expected`, and which. Hooks on the cgroup would refuse its connections: several pods are below it,
/// or it is another pod's. Where that cannot be told, nothing is enrolled.
pub(super) fn stranger(
    host: Option<&HostView>,
    cgroup: &Cgroup,
    expected: u64,
) -> Result<Option<(u32, u64)>, EnrolError> {
    let found = match host {
        // Processes of the host's PID namespace, which `cgroup.procs` would show as 0.
        Some(host) => host.namespaces_now(cgroup.path()),
        None => visible_below(cgroup),
    };
    let found = found.map_err(|error| {
        let (path, error) = (cgroup.path().display(), causes(&error));
        let message = format!("the network namespaces of {path} cannot be told: {error}");
        EnrolError::new(EnrolCode::NetnsMismatch, message)
    })?;
    Ok(found.into_iter().find(|(_, inode)| *inode != expected))
}

/// The same of the processes that the paths of all hierarchies call the pod's.
fn named_stranger(
    host: &HostView,
    uid: &PodUid,
    expected: u64,
) -> Result<Option<(u32, u64)>, EnrolError> {
    let found = host.namespaces_of_pod(uid).map_err(|error| {
        let message = format!("its network namespaces cannot be told: {}", causes(&error));
        EnrolError::new(EnrolCode::NetnsMismatch, message)
    })?;
    Ok(found.into_iter().find(|(_, inode)| *inode != expected))
}

/// The processes in or below a cgroup that this process can see, and their network namespaces.
fn visible_below(cgroup: &Cgroup) -> Result<Vec<(u32, u64)>, HostError> {
    let mut found = Vec::new();
    let mut folders = vec![cgroup.path().to_owned()];
    while let Some(folder) = folders.pop() {
        let read = members(&folder);
        let read = if folder == cgroup.path() { Some(read?) } else { unless_gone(read)? };
        let Some((children, processes)) = read else { continue };
        folders.extend(children);
        for pid in processes {
            if found.len() >= PROCESSES_MAX {
                return Err(HostError::TooManyProcesses { most: PROCESSES_MAX });
            }
            // Processes of other PID namespaces read as 0, and have no folder.
            let inode = host::namespace_unless_ended(Path::new("/proc"), pid)?;
            found.extend(inode.map(|inode| (pid, inode)));
        }
    }
    Ok(found)
}

/// The cgroups directly below a folder, and its own processes.
fn members(folder: &Path) -> Result<(Vec<PathBuf>, Vec<u32>), CgroupError> {
    let cgroup = Cgroup::open(folder)?;
    Ok((cgroup.children()?, cgroup.processes()?))
}

/// A cgroup below that was removed while it was looked at has no processes. The kernel also has no list for one
/// of threads: its processes are listed further up.
fn unless_gone<T>(read: Result<T, CgroupError>) -> Result<Option<T>, CgroupError> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(CgroupError::Call { cause, .. })
            if matches!(
                cause.raw_os_error(),
                Some(libc::ENOENT | libc::ENODEV | libc::EOPNOTSUPP)
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
