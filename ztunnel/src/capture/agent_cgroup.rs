//! The agent's own cgroup: what makes its sockets recognisable to the kernel programs.
//!
//! A connection passes to an application because it was opened in exactly this cgroup. So nothing
//! else may be in it: the agent moves itself into a leaf of its own, and refuses to start when it
//! finds company there. A neutral sibling, which has no role, is where the self-test plays the
//! part of a stranger.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

/// How long a predecessor that was just killed may take to leave the cgroup.
const COMPANY_TIMEOUT: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(50);

/// Why the agent has no cgroup of its own. It must not start then.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No cgroup2 is mounted.
    #[error("no cgroup2 file system is mounted")]
    NoCgroup2,
    /// `/proc` does not say which cgroup this process is in.
    #[error("cannot read {path}")]
    Proc {
        /// Which file.
        path: &'static str,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// The path exists and is not a cgroup of the unified hierarchy.
    #[error("{0} is not a cgroup of the unified hierarchy")]
    NotACgroup(PathBuf),
    /// A call on the cgroup failed.
    #[error("cannot {operation} cgroup {path}")]
    Call {
        /// `create`, `enter`, `read` …
        operation: &'static str,
        /// Which cgroup.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// Others are in it: their connections would pass for the agent's.
    #[error("cgroup {path} holds other processes ({pids:?}); the agent needs one of its own")]
    NotAlone {
        /// Which cgroup.
        path: PathBuf,
        /// Who.
        pids: Vec<u32>,
    },
    /// It has children, whose processes could be moved in at any time.
    #[error("cgroup {0} has cgroups below it; the agent needs a leaf")]
    NotALeaf(PathBuf),
}

/// A cgroup of the unified hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    path: PathBuf,
    id: u64,
}

impl Cgroup {
    /// Opens an existing one. The path is made canonical.
    pub fn open(path: &Path) -> Result<Self, CgroupError> {
        let failed = |cause| CgroupError::Call { operation: "open", path: path.to_owned(), cause };
        let canonical = path.canonicalize().map_err(failed)?;
        let filesystem = statfs(&canonical).map_err(|errno| failed(errno.into()))?;
        let metadata = fs::metadata(&canonical).map_err(failed)?;
        if filesystem.filesystem_type() != CGROUP2_SUPER_MAGIC || !metadata.is_dir() {
            return Err(CgroupError::NotACgroup(path.to_owned()));
        }
        // On 64-bit kernels the inode number of the folder is the id that programs compare.
        Ok(Self { path: canonical, id: metadata.ino() })
    }

    /// Opens or creates it.
    pub fn create(path: &Path) -> Result<Self, CgroupError> {
        match fs::create_dir(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(cause) => {
                return Err(CgroupError::Call {
                    operation: "create",
                    path: path.to_owned(),
                    cause,
                });
            }
        }
        Self::open(path)
    }

    /// The path in the mounted hierarchy.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The id that `bpf_get_current_cgroup_id` reports.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether `other` is this cgroup or below it.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        other.path.starts_with(&self.path)
    }

    /// Moves the calling process, with all its threads, here.
    pub fn enter(&self) -> Result<(), CgroupError> {
        let written = fs::write(self.path.join("cgroup.procs"), "0");
        written.map_err(|cause| self.failed("enter", cause))
    }

    /// The processes directly in it. Those outside this process's PID namespace read as 0.
    pub fn processes(&self) -> Result<Vec<u32>, CgroupError> {
        let text = fs::read_to_string(self.path.join("cgroup.procs"))
            .map_err(|cause| self.failed("read", cause))?;
        Ok(text.lines().filter_map(|line| line.trim().parse().ok()).collect())
    }

    /// The cgroups directly below.
    pub fn children(&self) -> Result<Vec<PathBuf>, CgroupError> {
        let failed = |cause| self.failed("list", cause);
        let mut children = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_type().map_err(failed)?.is_dir() {
                children.push(entry.path());
            }
        }
        Ok(children)
    }

    /// Whether its path still names it. A path that cannot be looked at counts.
    #[must_use]
    pub fn exists(&self) -> bool {
        match fs::metadata(&self.path) {
            Ok(metadata) => metadata.ino() == self.id,
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }

    /// Opens its folder, if that is this cgroup still.
    pub fn folder(&self) -> io::Result<File> {
        let folder = File::open(&self.path)?;
        if folder.metadata()?.ino() == self.id {
            Ok(folder)
        } else {
            Err(io::Error::new(io::ErrorKind::NotFound, "another cgroup has its path"))
        }
    }

    /// Whether a process lives in it or below it; `None` if the kernel does not say.
    #[must_use]
    pub fn is_populated(&self) -> Option<bool> {
        let events = fs::read_to_string(self.path.join("cgroup.events")).ok()?;
        events.lines().find_map(|line| line.strip_prefix("populated ")).map(|v| v.trim() != "0")
    }

    fn failed(&self, operation: &'static str, cause: io::Error) -> CgroupError {
        CgroupError::Call { operation, path: self.path.clone(), cause }
    }
}

/// The agent's leaf and its neutral sibling.
#[derive(Clone, Debug)]
pub struct AgentCgroup {
    leaf: Cgroup,
    neutral: Cgroup,
}

impl AgentCgroup {
    /// Moves this process into `configured`, or into `warren-agent-<node>` below its cgroup.
    /// `mount` is where cgroup2 is mounted; `None`: wherever it is found.
    pub fn establish(
        configured: Option<&Path>,
        mount: Option<&Path>,
        node_name: &str,
    ) -> Result<Self, CgroupError> {
        let leaf_path = match configured {
            Some(path) => path.to_owned(),
            None => default_leaf(&own_cgroup(mount)?, node_name),
        };
        let leaf = Cgroup::create(&leaf_path)?;
        leaf.enter()?;
        require_solitude(&leaf)?;
        let sibling = leaf.path().with_file_name(format!("warren-self-test-{node_name}"));
        let neutral = Cgroup::create(&sibling)?;
        Ok(Self { leaf, neutral })
    }

    /// Where the agent is.
    #[must_use]
    pub fn leaf(&self) -> &Cgroup {
        &self.leaf
    }

    /// Moves this process out, to where its leaf is, and removes both. Sockets that it makes from then on
    /// have no role.
    pub(super) fn remove(&self) -> Result<(), CgroupError> {
        let above = self.leaf.path().parent().unwrap_or(self.leaf.path());
        Cgroup::open(above)?.enter()?;
        for cgroup in [&self.leaf, &self.neutral] {
            fs::remove_dir(cgroup.path()).map_err(|cause| cgroup.failed("remove", cause))?;
        }
        Ok(())
    }

    /// A cgroup without a role.
    #[must_use]
    pub fn neutral(&self) -> &Cgroup {
        &self.neutral
    }
}

fn default_leaf(own: &Path, node_name: &str) -> PathBuf {
    let name = format!("warren-agent-{node_name}");
    // A supervisor that restarts the agent from within its leaf must not nest it.
    if own.file_name().is_some_and(|last| last == name.as_str()) {
        return own.to_owned();
    }
    own.join(name)
}

fn require_solitude(leaf: &Cgroup) -> Result<(), CgroupError> {
    if !leaf.children()?.is_empty() {
        return Err(CgroupError::NotALeaf(leaf.path().to_owned()));
    }
    let own = std::process::id();
    let deadline = Instant::now() + COMPANY_TIMEOUT;
    loop {
        let processes = leaf.processes()?;
        // In a PID namespace of its own the agent sees itself under its inner number.
        let others: Vec<u32> = processes.into_iter().filter(|pid| *pid != own).collect();
        if others.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(CgroupError::NotAlone { path: leaf.path().to_owned(), pids: others });
        }
        thread::sleep(POLL);
    }
}

/// The cgroup of this process, as a path below a cgroup2 mount: that at `at`, if the process is in the
/// host's cgroup namespace.
fn own_cgroup(at: Option<&Path>) -> Result<PathBuf, CgroupError> {
    const SELF_CGROUP: &str = "/proc/self/cgroup";
    const MOUNTINFO: &str = "/proc/self/mountinfo";
    let read = |path: &'static str| {
        fs::read_to_string(path).map_err(|cause| CgroupError::Proc { path, cause })
    };
    let mounts = cgroup2_mounts(&read(MOUNTINFO)?);
    let inside = match at {
        // What is mounted over is not what the path shows.
        Some(at) => mounts.iter().rfind(|mount| mount.point == at),
        None => mounts.iter().find(|mount| !mount.shows_outside()),
    };
    let outside = mounts.iter().find(|mount| mount.shows_outside());
    let membership = read(SELF_CGROUP)?;
    let own = unified_path(&membership).ok_or(CgroupError::NoCgroup2)?;
    let seen = inside.map(|mount| {
        // The mount may show only a part of the hierarchy.
        let relative = own.strip_prefix(&mount.root).unwrap_or(own);
        mount.point.join(relative.strip_prefix("/").unwrap_or(relative))
    });
    let Some(outside) = outside else { return seen.ok_or(CgroupError::NoCgroup2) };
    // In a container with a cgroup namespace of its own, that part is usually read-only. The node's whole
    // tree is there to be written, and our place in it has no name here, but a number.
    let seen = seen.ok_or(CgroupError::NoCgroup2)?;
    let failed = |cause| CgroupError::Call { operation: "look at", path: seen.clone(), cause };
    let id = fs::metadata(&seen).map_err(failed)?.ino();
    find_by_id(&outside.point, id).map_err(failed)?.ok_or(CgroupError::NoCgroup2)
}

/// Cgroups looked at, at most, to find one: a node has some for each container. Beyond it nothing is
/// found, and the agent does not start.
const LOOKS_MAX: usize = 65_536;

/// The cgroup of this id below a folder, level by level.
fn find_by_id(top: &Path, id: u64) -> io::Result<Option<PathBuf>> {
    let mut waiting = VecDeque::from([top.to_owned()]);
    let mut looks = 0;
    while let Some(folder) = waiting.pop_front() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            // Cgroups come and go meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let Ok(entry) = entry else { continue };
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if entry.ino() == id {
                return Ok(Some(entry.path()));
            }
            looks += 1;
            if looks >= LOOKS_MAX {
                return Ok(None);
            }
            waiting.push_back(entry.path());
        }
    }
    Ok(None)
}

/// A place where the unified hierarchy is mounted.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    point: PathBuf,
    /// The cgroup at its top, as this process's cgroup namespace names it.
    root: PathBuf,
}

impl Mount {
    /// Whether it shows more than this process's cgroup namespace: its top is above that one's.
    fn shows_outside(&self) -> bool {
        self.root.starts_with("/..")
    }
}

/// The cgroup2 lines of a mountinfo file (proc_pid_mountinfo(5)), in its order.
fn cgroup2_mounts(mountinfo: &str) -> Vec<Mount> {
    let mount = |line: &str| {
        let (mount, filesystem) = line.split_once(" - ")?;
        if !filesystem.starts_with("cgroup2 ") {
            return None;
        }
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        Some(Mount { point: PathBuf::from(point), root: PathBuf::from(root) })
    };
    mountinfo.lines().filter_map(mount).collect()
}

fn unified_path(membership: &str) -> Option<&Path> {
    membership.lines().find_map(|line| line.strip_prefix("0::")).map(Path::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_among_others() {
        let mountinfo = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
            32 31 0:29 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu\n\
            41 31 0:38 /box /sys/fs/cgroup/unified rw,relatime shared:1 - cgroup2 cgroup2 rw\n\
            52 31 0:38 /../../.. /host/cgroup rw,relatime - cgroup2 cgroup2 rw\n";
        let mounts = cgroup2_mounts(mountinfo);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].point, Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(mounts[0].root, Path::new("/box"));
        assert_eq!(mounts.iter().map(Mount::shows_outside).collect::<Vec<_>>(), [false, true]);
        assert!(cgroup2_mounts("1 1 0:1 / / rw - ext4 /dev/vda rw\n").is_empty());
    }

    #[test]
    fn a_place_is_found_by_its_number() {
        let top = tempfile::tempdir().expect("a folder");
        let deep = top.path().join("pods/one/container");
        fs::create_dir_all(&deep).expect("folders");
        fs::create_dir_all(top.path().join("system")).expect("a folder");
        let id = fs::metadata(&deep).expect("its number").ino();
        assert_eq!(find_by_id(top.path(), id).expect("looks"), Some(deep.clone()));
        fs::remove_dir(&deep).expect("removes");
        assert_eq!(find_by_id(top.path(), id).expect("looks"), None);
    }

    #[test]
    fn the_unified_line_names_the_cgroup() {
        let membership = "9:name=systemd:/\n0::/kubepods/pod1\n";
        assert_eq!(unified_path(membership), Some(Path::new("/kubepods/pod1")));
        assert_eq!(unified_path("9:name=systemd:/\n"), None);
    }

    #[test]
    fn the_default_leaf_does_not_nest() {
        let below = default_leaf(Path::new("/cg/a"), "n1");
        assert_eq!(below, Path::new("/cg/a/warren-agent-n1"));
        assert_eq!(default_leaf(&below, "n1"), below);
    }
}
