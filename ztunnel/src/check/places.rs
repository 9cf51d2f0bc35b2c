//! Mounts, folders and sysctls: there, of the right kind, and writable where the agent writes.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, FsType, PROC_SUPER_MAGIC, statfs};
use nix::unistd::{AccessFlags, access};

use super::report::{Check, Kind, Outcome};
use crate::config::SETTINGS;

/// Magic of bpffs (`BPF_FS_MAGIC`).
const BPF_FS: FsType = FsType(0xcafe_4a11);
/// Where hierarchies are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";
/// What makes answers leave a pod by the way that its question came, and whether every pod needs it.
const SYSCTLS: [(&str, bool); 3] = [
    ("sys/net/ipv4/tcp_fwmark_accept", true),
    ("sys/net/ipv4/fwmark_reflect", true),
    // Not there on a node without IPv6.
    ("sys/net/ipv6/fwmark_reflect", false),
];

/// Where the agent's settings say that everything is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Places {
    /// Whether pods come by the API server and the CNI plugin.
    pub(super) is_kubernetes: bool,
    pins: PathBuf,
    run: PathBuf,
    state: PathBuf,
    pub(super) cgroup: PathBuf,
    own_cgroup: Option<PathBuf>,
    kubelet_cgroup: Option<PathBuf>,
    pub(super) proc: PathBuf,
    netns: PathBuf,
    cni: Option<Cni>,
}

/// Where the plugin goes, on a node where the agent installs it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cni {
    conf: PathBuf,
    bin: Option<PathBuf>,
    program: PathBuf,
}

impl Places {
    /// Reads them one by one, since they are to be checked even where other settings are wrong.
    pub(super) fn read(variable: impl Fn(&str) -> Option<String>) -> Self {
        let path = |name: &str, default: &str| {
            let of_table = SETTINGS.iter().find(|setting| setting.name == name);
            let default = of_table
                .map(|setting| setting.default)
                .filter(|text| !text.is_empty())
                .unwrap_or(default);
            PathBuf::from(variable(name).unwrap_or_else(|| default.to_owned()))
        };
        let optional = |name: &str| variable(name).map(PathBuf::from);
        let cni = optional("WARREN_CNI_CONF_DIR").map(|conf| Cni {
            conf,
            bin: optional("WARREN_CNI_BIN_DIR"),
            program: path("WARREN_CNI_PROGRAM", "/usr/local/bin/warren-cni"),
        });
        Self {
            is_kubernetes: variable("WARREN_ENROLMENT").as_deref() == Some("kubernetes"),
            pins: path("WARREN_BPF_PIN_DIR", "/sys/fs/bpf/warren"),
            run: path("WARREN_RUN_DIR", "/run/warren"),
            state: path("WARREN_STATE_DIR", "/var/lib/warren"),
            cgroup: unified(optional("WARREN_HOST_CGROUP").unwrap_or_else(|| CGROUPS.into())),
            own_cgroup: optional("WARREN_CGROUP"),
            kubelet_cgroup: optional("WARREN_KUBELET_CGROUP"),
            proc: path("WARREN_HOST_PROC", "/proc"),
            netns: path("WARREN_HOST_NETNS_DIR", "/var/run/netns"),
            cni,
        }
    }

    pub(super) fn checks(&self) -> Vec<Check> {
        let of = |kind, path: &Path, needed_for, outcome| {
            Check::new(kind, path.display().to_string(), needed_for, outcome)
        };
        let mut checks = vec![
            of(Kind::Mount, &self.cgroup, "pods' cgroups, hooks on them", cgroup2(&self.cgroup)),
            of(Kind::Mount, &self.pins, "hooks that outlive the agent", bpffs(&self.pins)),
            of(Kind::Folder, &self.run, "enrolment records, sockets", writable(&self.run)),
            of(
                Kind::Folder,
                &self.state,
                "a start without the control plane",
                writable(&self.state),
            ),
        ];
        if let Some(own) = &self.own_cgroup {
            checks.push(of(Kind::Mount, own, "the agent's own cgroup", cgroup2(own)));
        }
        checks.extend(self.kubelet());
        if self.is_kubernetes {
            let outcome = process_files(&self.proc);
            checks.push(of(Kind::Mount, &self.proc, "finding pods' processes", outcome));
            let outcome = folder(&self.netns);
            checks.push(of(Kind::Mount, &self.netns, "pods' network namespaces", outcome));
        }
        if let Some(Cni { conf, bin, program }) = &self.cni {
            let folders = std::iter::once(conf).chain(bin);
            checks.extend(folders.map(|path| {
                of(Kind::Folder, path, "the CNI plugin, before any pod starts", existing(path))
            }));
            checks.push(of(Kind::Folder, program, "the CNI plugin", executable(program)));
        }
        checks.extend(SYSCTLS.iter().map(|(name, is_needed)| {
            let path = self.proc.join(name);
            of(Kind::Sysctl, &path, "answers to captured connections", sysctl(&path, *is_needed))
        }));
        checks
    }

    /// Without it everything works but what the kubelet does.
    fn kubelet(&self) -> Option<Check> {
        let needed_for = "the kubelet's probes of pods under STRICT";
        // Without a path the agent looks for the kubelet's process itself.
        let path = self.kubelet_cgroup.as_ref()?;
        let outcome = if path.exists() {
            is_cgroup2(path)
        } else {
            Outcome::Limited("not there now: probes are refused until it is".to_owned())
        };
        Some(Check::new(Kind::Mount, path.display().to_string(), needed_for, outcome))
    }
}

/// The unified hierarchy in a folder: itself, or where the old ones are beside it.
fn unified(folder: PathBuf) -> PathBuf {
    let is_there = |path: &Path| magic(path) == Ok(CGROUP2_SUPER_MAGIC);
    let beside = folder.join("unified");
    if !is_there(&folder) && is_there(&beside) { beside } else { folder }
}

fn magic(path: &Path) -> Result<FsType, nix::Error> {
    statfs(path).map(|found| found.filesystem_type())
}

/// The path itself, or the next one above that is there: what the agent would create it in.
fn nearest(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(path)
}

fn cgroup2(path: &Path) -> Outcome {
    let place = nearest(path);
    let kind = is_cgroup2(place);
    if kind != Outcome::Fine {
        return kind;
    }
    may_write(place, "mount it read-write: the agent makes a cgroup of its own")
}

fn is_cgroup2(path: &Path) -> Outcome {
    match magic(path) {
        Ok(CGROUP2_SUPER_MAGIC) => Outcome::Fine,
        Ok(_) => Outcome::Missing(
            "it is not cgroup v2: boot with systemd.unified_cgroup_hierarchy=1, or mount the \
             node's cgroup2 here"
                .to_owned(),
        ),
        Err(error) => Outcome::Missing(error.desc().to_owned()),
    }
}

fn bpffs(path: &Path) -> Outcome {
    let place = nearest(path);
    match magic(place) {
        Ok(BPF_FS) => may_write(place, "mount bpffs read-write"),
        Ok(_) => Outcome::Missing(format!(
            "{} is not on bpffs: mount -t bpf bpf /sys/fs/bpf on the node",
            place.display()
        )),
        Err(error) => Outcome::Missing(error.desc().to_owned()),
    }
}

/// A folder that the agent makes if it is not there.
fn writable(path: &Path) -> Outcome {
    let place = nearest(path);
    if !place.is_dir() {
        return Outcome::Missing(format!("{} is no folder", place.display()));
    }
    may_write(place, "mount it read-write")
}

/// A folder that others make.
fn existing(path: &Path) -> Outcome {
    if path.is_dir() { writable(path) } else { folder(path) }
}

fn folder(path: &Path) -> Outcome {
    match fs::read_dir(path) {
        Ok(_) => Outcome::Fine,
        Err(error) => Outcome::Missing(format!("{error}: mount the node's folder here")),
    }
}

fn executable(path: &Path) -> Outcome {
    match access(path, AccessFlags::R_OK | AccessFlags::X_OK) {
        Ok(()) if path.is_file() => Outcome::Fine,
        Ok(()) => Outcome::Missing("it is no file".to_owned()),
        Err(error) => Outcome::Missing(error.desc().to_owned()),
    }
}

/// Whether the process files are there and tell of processes that are not ours.
fn process_files(path: &Path) -> Outcome {
    match magic(path) {
        Ok(PROC_SUPER_MAGIC) => {}
        Ok(_) => return Outcome::Missing("mount the node's /proc here".to_owned()),
        Err(error) => return Outcome::Missing(error.desc().to_owned()),
    }
    match fs::read_link(path.join("1/ns/net")) {
        Ok(_) => Outcome::Fine,
        Err(error) => Outcome::Missing(format!(
            "{error} for 1/ns/net: it takes SYS_PTRACE, and no profile that forbids it"
        )),
    }
}

fn sysctl(path: &Path, is_needed: bool) -> Outcome {
    if !path.exists() && !is_needed {
        return Outcome::Limited("not there: this node has no IPv6".to_owned());
    }
    may_write(path, "mount the node's /proc read-write and set WARREN_HOST_PROC")
}

fn may_write(path: &Path, what_to_do: &str) -> Outcome {
    match access(path, AccessFlags::W_OK) {
        Ok(()) => Outcome::Fine,
        Err(error) => {
            Outcome::Missing(format!("{}: {}: {what_to_do}", path.display(), error.desc()))
        }
    }
}

#[cfg(test)]
mod tests;
