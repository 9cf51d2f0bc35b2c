//! Finding a pod by what the kernel shows: the cgroup that its kubelet made for its uid, the network
//! namespace that all its processes share, and the addresses in it. With hooks on the root no cgroup in the
//! unified hierarchy is asked for: whom any hierarchy's path calls the pod's is one of its processes.
//!
//! Each is checked again before every act. What contradicts another is a conflict, and the pod is not
//! served; what is not there is not there, and never taken for good.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ebpf_abi::connect::Hooked;
use enrol::{Code, Failure, Sandbox, Wanted};
use ipnet::IpNet;
use model::{PodUid, causes};
use netns::NetnsFd;
use parking_lot::Mutex;

use crate::capture::{HostError, HostView, kubelet_roots, pod_folders};

/// What a self-test's leaf is called. Its process is the agent's, for as long as it is on its way.
const SELF_TEST: &str = "warren-self-test-";
/// Where runtimes keep named network namespaces, as they name it. Both are one folder.
const NETNS_DIRS: [&str; 2] = ["/run/netns", "/var/run/netns"];

/// Where a pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Its cgroup; none with hooks on the root.
    pub(crate) cgroup: Option<PathBuf>,
    /// A path of its network namespace that stays.
    pub(crate) netns: PathBuf,
    /// What that path named.
    pub(crate) netns_inode: u64,
}

/// Looks for pods.
pub(crate) struct Finder {
    host: HostView,
    /// Where hooks go, and so what has to be found.
    hooked: Hooked,
    netns_dir: PathBuf,
    /// Addresses that are nobody's business: secondary networks.
    bypass: Vec<IpNet>,
    /// Folders of kubelets, as they were seen last. Looked for anew when a pod is not below them.
    roots: Mutex<Vec<PathBuf>>,
}

impl Finder {
    pub(crate) fn new(
        host: HostView,
        hooked: Hooked,
        netns_dir: PathBuf,
        bypass: Vec<IpNet>,
    ) -> Self {
        Self { host, hooked, netns_dir, bypass, roots: Mutex::default() }
    }

    /// Where a pod is, or why it cannot be told.
    pub(crate) fn find(&self, wanted: &Wanted) -> Result<Found, Failure> {
        let (cgroup, processes) = match self.hooked {
            Hooked::Pod => {
                let cgroup = self.cgroup(wanted)?;
                let processes = self.processes(&cgroup)?;
                (Some(cgroup), processes)
            }
            Hooked::Root => {
                (None, self.host.namespaces_of_pod(&wanted.uid).map_err(|error| unknown(&error))?)
            }
        };
        let (netns, netns_inode) = match &wanted.sandbox {
            Some(sandbox) => self.of_sandbox(sandbox, &processes)?,
            None => self.of_processes(wanted, &processes)?,
        };
        let namespace = NetnsFd::open(&netns)
            .map_err(|error| Failure::new(Code::NetnsInvalid, causes(&error)))?;
        if namespace.inode() != netns_inode {
            return Err(conflict(format!("{} names another namespace by now", netns.display())));
        }
        self.check_addresses(wanted, &namespace)?;
        Ok(Found { cgroup, netns, netns_inode })
    }

    /// What a runtime's path of a network namespace is to this process, and what it names.
    pub(crate) fn netns(&self, given: &Path) -> Result<(PathBuf, u64), Failure> {
        let invalid =
            |why: &str| Failure::new(Code::NetnsInvalid, format!("{}: {why}", given.display()));
        let name = given.file_name().ok_or_else(|| invalid("not a file"))?;
        let parent = given.parent().unwrap_or(Path::new("/"));
        let is_named =
            parent == self.netns_dir || NETNS_DIRS.iter().any(|dir| parent == Path::new(dir));
        let path = if is_named {
            let path = self.netns_dir.join(name);
            let metadata =
                fs::symlink_metadata(&path).map_err(|error| invalid(&error.to_string()))?;
            // What it leads to could be changed between two looks.
            if metadata.file_type().is_symlink() {
                return Err(invalid("a symbolic link"));
            }
            path
        } else {
            let parts: Vec<_> = given.iter().map(|part| part.to_string_lossy()).collect();
            let parts: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
            let ["/", "proc", pid, "ns", "net"] = parts[..] else {
                return Err(invalid("not a place where runtimes keep namespaces"));
            };
            self.host.netns_path(pid.parse().map_err(|_| invalid("not a process"))?)
        };
        let namespace = NetnsFd::open(&path).map_err(|error| invalid(&causes(&error)))?;
        Ok((path, namespace.inode()))
    }

    fn cgroup(&self, wanted: &Wanted) -> Result<PathBuf, Failure> {
        let mut found = self.folders(&wanted.uid);
        match (found.pop(), found.is_empty()) {
            (Some(folder), true) => Ok(folder),
            (None, _) => Err(absent(wanted, "it has no cgroup")),
            (Some(_), false) => Err(conflict("several cgroups have its uid".to_owned())),
        }
    }

    fn folders(&self, uid: &PodUid) -> Vec<PathBuf> {
        let mut roots = self.roots.lock();
        let known = pod_folders(&roots, uid);
        if !known.is_empty() {
            return known;
        }
        *roots = kubelet_roots(self.host.cgroup());
        pod_folders(&roots, uid)
    }

    fn processes(&self, cgroup: &Path) -> Result<Vec<(u32, u64)>, Failure> {
        let all = self.host.processes_below(cgroup).map_err(|error| unknown(&error))?;
        let own: BTreeSet<u32> = all
            .iter()
            .filter(|process| {
                let path = process.cgroup.as_ref().map(|path| path.to_string_lossy());
                path.is_some_and(|path| path.contains(SELF_TEST))
            })
            .map(|process| process.pid)
            .collect();
        let namespaces = self.host.namespaces_below(cgroup).map_err(|error| unknown(&error))?;
        Ok(namespaces.into_iter().filter(|(pid, _)| !own.contains(pid)).collect())
    }

    /// The runtime's word, which no process of the pod may contradict.
    fn of_sandbox(
        &self,
        sandbox: &Sandbox,
        processes: &[(u32, u64)],
    ) -> Result<(PathBuf, u64), Failure> {
        let (path, inode) = self.netns(&sandbox.netns)?;
        if inode != sandbox.netns_inode {
            return Err(conflict(format!("{} names another namespace by now", path.display())));
        }
        if let Some((pid, other)) = processes.iter().find(|(_, other)| *other != inode) {
            return Err(conflict(format!(
                "process {pid} of its cgroup is in network namespace {other}, and its sandbox is {inode}"
            )));
        }
        Ok((path, inode))
    }

    /// What all its processes agree on.
    fn of_processes(
        &self,
        wanted: &Wanted,
        processes: &[(u32, u64)],
    ) -> Result<(PathBuf, u64), Failure> {
        let Some((_, inode)) = processes.first() else {
            return Err(absent(wanted, "no process is in its cgroup"));
        };
        if let Some((pid, other)) = processes.iter().find(|(_, other)| other != inode) {
            return Err(conflict(format!(
                "processes of its cgroup are in network namespaces {inode} and {other} (process {pid})"
            )));
        }
        let host = self.host.netns().map_err(|e| Failure::new(Code::NetnsInvalid, causes(&e)))?;
        if host.inode() == *inode {
            return Err(conflict("its processes are in the host's network namespace".to_owned()));
        }
        if let Some(named) = named(&self.netns_dir, *inode) {
            return Ok((named, *inode));
        }
        // The first one holds the sandbox, and lives as long as it.
        let started = |(pid, _): &&(u32, u64)| self.host.started(*pid).unwrap_or(u64::MAX);
        let oldest = processes.iter().min_by_key(started);
        let oldest = oldest.ok_or_else(|| absent(wanted, "no process is in its cgroup"))?;
        Ok((self.host.netns_path(oldest.0), *inode))
    }

    /// The namespace must hold the pod's addresses and no others: with one of another pod, it could be
    /// that one's.
    fn check_addresses(&self, wanted: &Wanted, namespace: &NetnsFd) -> Result<(), Failure> {
        let found = netns::addresses(namespace);
        let found = found.map_err(|error| Failure::new(Code::NoAddress, causes(&error)))?;
        let global = found.into_iter().filter(netns::LocalAddress::is_global_unicast);
        let own = self.own(global.map(|address| address.ip));
        let expected = self.own(wanted.addresses.iter().copied());
        if own.is_empty() {
            return Err(Failure::new(Code::NoAddress, "its network namespace has no address"));
        }
        if expected.is_empty() {
            // A runtime need not tell. Then the namespace is the sandbox's by the runtime's word.
            return match wanted.sandbox {
                Some(_) => Ok(()),
                None => Err(absent(wanted, "its addresses are not known yet")),
            };
        }
        if own != expected {
            return Err(conflict(format!(
                "its network namespace holds {own:?}, and it has {expected:?}"
            )));
        }
        Ok(())
    }

    /// Those of addresses that are not of a secondary network. What a namespace excludes are destinations,
    /// and says nothing of its pods.
    fn own(&self, addresses: impl Iterator<Item = IpAddr>) -> BTreeSet<IpAddr> {
        let bypassed = |ip: &IpAddr| self.bypass.iter().any(|net| net.contains(ip));
        addresses.map(|ip| ip.to_canonical()).filter(|ip| !bypassed(ip)).collect()
    }
}

fn unknown(error: &HostError) -> Failure {
    Failure::new(Code::PodNotFound, causes(error))
}

fn conflict(message: String) -> Failure {
    Failure::new(Code::IdentityConflict, message)
}

/// What is not there: as it should be before the start, and wrong after it.
fn absent(wanted: &Wanted, message: &str) -> Failure {
    let code = if wanted.is_running { Code::PodNotFound } else { Code::NotStarted };
    Failure::new(code, message)
}

/// A file of the folder that names the namespace.
fn named(folder: &Path, inode: u64) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?;
    entries.filter_map(Result::ok).map(|entry| entry.path()).find(|path| {
        fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.ino() == inode)
    })
}

#[cfg(test)]
mod tests;
