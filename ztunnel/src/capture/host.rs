//! The host, as an agent in a pod sees it: its processes and its cgroups, each by a mount.
//!
//! Where a node has other hierarchies beside the unified one, a pod's processes may be told apart only there.
//! Which pods' folders a process's paths lead through is kept of all of them.
//!
//! The agent has a network and a PID namespace of its own. `cgroup.procs` shows it other processes as 0,
//! so who is in a cgroup is read from the host's `/proc`. The paths there are relative to the reader's
//! cgroup namespace, and a process may be moved only within it: so the agent enters the host's before
//! anything else.

mod folders;

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use enrol::kubelet_names::{is_pod_named, pod_in_path};
use enrol::redirection::PodCgroups;
use model::PodUid;
use netns::{NetnsFd, OpenError};
use nix::libc;
use nix::sched::{CloneFlags, setns};
use parking_lot::Mutex;

use super::agent_cgroup::CgroupError;
pub(crate) use folders::{kubelet_roots, pod_folders};

/// The network namespace of the first process that is visible: the host's, with `hostPID`.
pub(super) const INIT_NETNS: &str = "/proc/1/ns/net";
/// How old a list of all processes may be. Making one costs milliseconds, and a hundred pods that start
/// together ask for it together.
const LIST_AGE_MAX: Duration = Duration::from_millis(100);
/// Processes of a node that are looked at. A pod has none of its own beyond the limit of its PIDs; more
/// than this are an error, and what it would have told is unknown.
const PROCESSES_MAX: usize = 262_144;
/// What kubelets are called. Distributions that are one program have theirs in it.
const KUBELETS: [&str; 6] = ["kubelet", "kubelite", "k3s-server", "k3s-agent", "k3s", "k0s"];

/// What cannot be seen of the host.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A file of `/proc`, or a folder.
    #[error("cannot {operation} {path}")]
    File {
        /// `read`, `list`, `open`.
        operation: &'static str,
        /// What.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// The cgroup namespace.
    #[error("cannot enter the host's cgroup namespace {path}")]
    CgroupNamespace {
        /// Its file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        cause: nix::Error,
    },
    /// More than are looked at.
    #[error("there are more than {most} processes")]
    TooManyProcesses {
        /// The bound.
        most: usize,
    },
    /// A folder that is not of the host's hierarchy.
    #[error("{path} is not below {root}")]
    Elsewhere {
        /// Which.
        path: PathBuf,
        /// The root.
        root: PathBuf,
    },
    /// A cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

/// Why no cgroup is taken for the kubelet's.
#[derive(Debug, thiserror::Error)]
pub(super) enum KubeletError {
    /// The processes of the host.
    #[error("cannot look for the kubelet")]
    Host(#[from] HostError),
    /// There is none.
    #[error("no process of the host's root is called like a kubelet")]
    Absent,
    /// The root is everybody's.
    #[error("the kubelet is in the root cgroup")]
    Root,
    /// One of them may be an impostor.
    #[error("processes {one} and {other} are called like a kubelet, and are in different cgroups")]
    Ambiguous {
        /// One of them.
        one: u32,
        /// Another one.
        other: u32,
    },
    /// Its cgroup.
    #[error("cannot open the kubelet's cgroup")]
    Cgroup(#[from] CgroupError),
}

/// The host's mounts. Clones share the list of processes.
#[derive(Clone, Debug)]
pub struct HostView {
    proc: PathBuf,
    cgroup: PathBuf,
    processes: Arc<Mutex<Option<List>>>,
}

/// All processes at a moment.
type List = (Instant, Arc<[Process]>);

/// A process of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number in the host's PID namespace.
    pub pid: u32,
    /// Its cgroup in the unified hierarchy, from the root; `None` if it has none that can be told.
    pub cgroup: Option<PathBuf>,
    /// The folders of pods that its paths lead through, in whichever hierarchy: one, unless somebody plays
    /// tricks.
    pub pods: Vec<String>,
}

impl Process {
    fn is_below(&self, cgroup: &Path) -> bool {
        self.cgroup.as_ref().is_some_and(|own| own.starts_with(cgroup))
    }

    /// Of which it may be only one, but counts for each: a contradiction must not make it nobody's.
    fn is_of(&self, uid: &PodUid) -> bool {
        self.pods.iter().any(|pod| is_pod_named(pod, uid))
    }

    /// Whether its cgroup in the unified hierarchy is a pod's, or below it.
    fn is_in_pod_cgroup(&self) -> bool {
        let path = self.cgroup.as_deref().and_then(Path::to_str);
        path.and_then(pod_in_path).is_some()
    }
}

impl HostView {
    /// `proc` is the host's, `cgroup` the root of its unified hierarchy.
    #[must_use]
    pub fn new(proc: PathBuf, cgroup: PathBuf) -> Self {
        Self { proc, cgroup, processes: Arc::default() }
    }

    /// As this process sees it, for who asks for processes alone.
    pub(super) fn of_this_process() -> Self {
        Self::new("/proc".into(), "/".into())
    }

    /// The folders in the unified hierarchy that kubelets made for a pod.
    pub(super) fn pod_folders(&self, uid: &PodUid) -> Vec<PathBuf> {
        pod_folders(&kubelet_roots(&self.cgroup), uid)
    }

    /// Where the root of the unified hierarchy is mounted.
    #[must_use]
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Where the host's processes are.
    #[must_use]
    pub fn proc(&self) -> &Path {
        &self.proc
    }

    /// Moves the calling thread into the host's cgroup namespace. Threads that it starts are there too,
    /// so it is called before there are any.
    pub fn enter_cgroup_namespace(&self) -> Result<(), HostError> {
        let path = self.proc.join("1/ns/cgroup");
        let file = File::open(&path).map_err(failed("open", &path))?;
        setns(file.as_fd(), CloneFlags::CLONE_NEWCGROUP)
            .map_err(|cause| HostError::CgroupNamespace { path, cause })
    }

    /// The host's network namespace.
    pub fn netns(&self) -> Result<NetnsFd, OpenError> {
        NetnsFd::open(&self.proc.join("1/ns/net"))
    }

    /// The network namespace of a process.
    #[must_use]
    pub fn netns_path(&self, pid: u32) -> PathBuf {
        self.proc.join(pid.to_string()).join("ns/net")
    }

    /// The processes in or below the cgroup of a folder, and the inodes of their network namespaces. One
    /// that has ended meanwhile is left out.
    pub fn namespaces_below(&self, folder: &Path) -> Result<Vec<(u32, u64)>, HostError> {
        let processes = self.processes_below(folder)?;
        let namespace =
            |process: &Process| Some((process.pid, namespace_of(&self.proc, process.pid)?));
        Ok(processes.iter().filter_map(namespace).collect())
    }

    /// The processes in or below the cgroup of a folder.
    pub fn processes_below(&self, folder: &Path) -> Result<Vec<Process>, HostError> {
        let Ok(relative) = folder.strip_prefix(&self.cgroup) else { return Ok(Vec::new()) };
        let cgroup = Path::new("/").join(relative);
        let all = self.processes()?;
        Ok(all.iter().filter(|process| process.is_below(&cgroup)).cloned().collect())
    }

    /// The same, read anew and whole, for who must not miss one: what cannot be read is an error. Only a
    /// process that has ended is left out.
    pub(super) fn namespaces_now(&self, folder: &Path) -> Result<Vec<(u32, u64)>, HostError> {
        let relative = folder.strip_prefix(&self.cgroup).map_err(|_| HostError::Elsewhere {
            path: folder.to_owned(),
            root: self.cgroup.clone(),
        })?;
        let cgroup = Path::new("/").join(relative);
        let mut found = Vec::new();
        for process in list_processes(&self.proc)? {
            if process.is_below(&cgroup)
                && let Some(inode) = namespace_unless_ended(&self.proc, process.pid)?
            {
                found.push((process.pid, inode));
            }
        }
        Ok(found)
    }

    /// The processes that any hierarchy's path calls the pod's, and the inodes of their network namespaces,
    /// read anew and whole. Only a process that has ended is left out.
    pub fn namespaces_of_pod(&self, uid: &PodUid) -> Result<Vec<(u32, u64)>, HostError> {
        let mut found = Vec::new();
        for process in list_processes(&self.proc)?.iter().filter(|process| process.is_of(uid)) {
            if let Some(inode) = namespace_unless_ended(&self.proc, process.pid)? {
                found.push((process.pid, inode));
            }
        }
        Ok(found)
    }

    /// Whether any process is in this network namespace.
    pub(super) fn is_inhabited(&self, netns_inode: u64) -> Result<bool, HostError> {
        let all = self.processes()?;
        Ok(all.iter().any(|process| namespace_of(&self.proc, process.pid) == Some(netns_inode)))
    }

    /// Where pods' cgroups are, by the hierarchies of the first process and by the pods that are there.
    pub fn pod_cgroups(&self) -> Result<PodCgroups, HostError> {
        let path = self.proc.join("1/cgroup");
        let init = fs::read_to_string(&path).map_err(failed("read", &path))?;
        if init.lines().all(|line| line.starts_with("0::")) {
            return Ok(PodCgroups::NoOther);
        }
        let all = self.processes()?;
        let mut of_pods = all.iter().filter(|process| !process.pods.is_empty()).peekable();
        Ok(if of_pods.peek().is_none() {
            PodCgroups::NoneSeen
        } else if of_pods.all(Process::is_in_pod_cgroup) {
            PodCgroups::Seen
        } else {
            PodCgroups::Elsewhere
        })
    }

    /// When a process started, in the kernel's ticks since the boot; `None`: it has ended.
    #[must_use]
    pub fn started(&self, pid: u32) -> Option<u64> {
        let stat = fs::read_to_string(self.proc.join(pid.to_string()).join("stat")).ok()?;
        // The second field is in parentheses, and may hold anything (proc_pid_stat(5)).
        let (_, rest) = stat.rsplit_once(')')?;
        rest.split_ascii_whitespace().nth(19)?.parse().ok()
    }

    /// The folder of the kubelet's cgroup: that of the processes of its name that are root's, in the
    /// host's network namespace and outside all pods. They must agree: any of them could be somebody who
    /// took the name to get the role.
    pub(super) fn kubelet(&self, host: &NetnsFd) -> Result<PathBuf, KubeletError> {
        let all = self.processes()?;
        let is_kubelet = |process: &&Process| {
            let folder = self.proc.join(process.pid.to_string());
            let comm = fs::read_to_string(folder.join("comm"));
            let named = comm.is_ok_and(|comm| KUBELETS.contains(&comm.trim_end()));
            let path = process.cgroup.as_ref().map(|path| path.to_string_lossy());
            let in_pod =
                !process.pods.is_empty() || path.is_some_and(|path| path.contains("kubepods"));
            named
                && !in_pod
                && is_root(&folder)
                && namespace_of(&self.proc, process.pid) == Some(host.inode())
        };
        let mut kubelets = all.iter().filter(is_kubelet);
        let kubelet = kubelets.next().ok_or(KubeletError::Absent)?;
        if let Some(other) = kubelets.find(|other| other.cgroup != kubelet.cgroup) {
            return Err(KubeletError::Ambiguous { one: kubelet.pid, other: other.pid });
        }
        let cgroup = kubelet.cgroup.as_ref().ok_or(KubeletError::Root)?;
        match cgroup.strip_prefix("/") {
            Ok(relative) if !relative.as_os_str().is_empty() => Ok(self.cgroup.join(relative)),
            Ok(_) | Err(_) => Err(KubeletError::Root),
        }
    }

    fn processes(&self) -> Result<Arc<[Process]>, HostError> {
        let mut list = self.processes.lock();
        if let Some((at, processes)) = &*list
            && at.elapsed() < LIST_AGE_MAX
        {
            return Ok(Arc::clone(processes));
        }
        let processes: Arc<[Process]> = list_processes(&self.proc)?.into();
        *list = Some((Instant::now(), Arc::clone(&processes)));
        Ok(processes)
    }
}

fn list_processes(proc: &Path) -> Result<Vec<Process>, HostError> {
    let mut processes = Vec::new();
    for entry in fs::read_dir(proc).map_err(failed("list", proc))? {
        let name = entry.map_err(failed("list", proc))?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if processes.len() >= PROCESSES_MAX {
            return Err(HostError::TooManyProcesses { most: PROCESSES_MAX });
        }
        let path = proc.join(name).join("cgroup");
        let membership = match fs::read_to_string(&path) {
            Ok(membership) => membership,
            // Ended meanwhile: it is in no cgroup.
            Err(error) if has_ended(&error) => continue,
            Err(error) => return Err(failed("read", &path)(error)),
        };
        processes.push(process(pid, &membership));
    }
    Ok(processes)
}

/// Reads a `/proc/PID/cgroup`: a line for each hierarchy, with its number, its controllers and the path
/// (cgroups(7)).
fn process(pid: u32, membership: &str) -> Process {
    let mut found = Process { pid, cgroup: None, pods: Vec::new() };
    for line in membership.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(number), Some(_), Some(path)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let Some(path) = plain(path) else { continue };
        if let Some(pod) = path.to_str().and_then(pod_in_path)
            && !found.pods.iter().any(|other| other == pod)
        {
            found.pods.push(pod.to_owned());
        }
        if number == "0" {
            found.cgroup = Some(path);
        }
    }
    found
}

/// A path from the root. One that leads above it belongs to no pod of this node.
fn plain(cgroup: &str) -> Option<PathBuf> {
    // The kernel's word for a cgroup that was removed under a process that ends.
    let cgroup = cgroup.strip_suffix(" (deleted)").unwrap_or(cgroup);
    let is_plain = cgroup.starts_with('/') && cgroup.split('/').all(|part| part != "..");
    is_plain.then(|| cgroup.into())
}

/// The inode of a process's network namespace; `None`: it has ended, or may not be looked at.
pub(super) fn namespace_of(proc: &Path, pid: u32) -> Option<u64> {
    namespace_unless_ended(proc, pid).ok().flatten()
}

/// The inode of a process's network namespace; `None`: it has ended.
pub(super) fn namespace_unless_ended(proc: &Path, pid: u32) -> Result<Option<u64>, HostError> {
    let process = proc.join(pid.to_string());
    let path = process.join("ns/net");
    let target = match fs::read_link(&path) {
        Ok(target) => target,
        // Of a process that ends between look-up and reading the kernel says "permission denied".
        Err(error) if has_ended(&error) || !process.exists() => return Ok(None),
        Err(error) => return Err(failed("read", &path)(error)),
    };
    let inode = target.to_str().and_then(|name| name.strip_prefix("net:[")?.strip_suffix(']'));
    let inode = inode.and_then(|inode| inode.parse().ok());
    inode.map(Some).ok_or_else(|| failed("read", &path)(io::ErrorKind::InvalidData.into()))
}

/// Whether a file of `/proc` could not be read because its process is gone, or about to be.
fn has_ended(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// Whether a process is root's, by all its user ids. The owner of its folder does not tell: a process
/// may make that root.
fn is_root(process: &Path) -> bool {
    let status = fs::read_to_string(process.join("status")).unwrap_or_default();
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    ids.is_some_and(|ids| {
        let mut ids = ids.split_ascii_whitespace().peekable();
        ids.peek().is_some() && ids.all(|id| id == "0")
    })
}

fn failed(operation: &'static str, path: &Path) -> impl Fn(io::Error) -> HostError {
    let path = path.to_owned();
    move |cause| HostError::File { operation, path: path.clone(), cause }
}

#[cfg(test)]
mod tests;
