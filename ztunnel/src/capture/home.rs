//! Where a pod's processes are, for the question whether it still lives: below its cgroup, or where none is
//! known (hooks on the root need none), what the names of all hierarchies say, and who is in its namespace.

use model::PodUid;

use super::agent_cgroup::Cgroup;
use super::host::HostView;

/// Where a pod's processes are looked for.
#[derive(Clone, Debug)]
pub(super) enum Home {
    /// Below its cgroup in the unified hierarchy.
    Cgroup(Cgroup),
    /// By its uid in the paths of any hierarchy, and by its network namespace.
    Names { uid: PodUid, netns_inode: u64, host: HostView },
}

impl Home {
    /// Its cgroup, if it is known.
    pub(super) fn cgroup(&self) -> Option<&Cgroup> {
        match self {
            Self::Cgroup(cgroup) => Some(cgroup),
            Self::Names { .. } => None,
        }
    }

    /// Whether it was not removed. What has no place of its own cannot be.
    pub(super) fn exists(&self) -> bool {
        match self {
            Self::Cgroup(cgroup) => cgroup.exists(),
            Self::Names { .. } => true,
        }
    }

    /// Whether a process of the pod lives; `None` if the kernel does not say. Looks at all processes where
    /// no cgroup is known.
    pub(super) fn is_populated(&self) -> Option<bool> {
        match self {
            Self::Cgroup(cgroup) => cgroup.is_populated(),
            Self::Names { uid, netns_inode, host } => {
                if !host.namespaces_of_pod(uid).ok()?.is_empty() {
                    return Some(true);
                }
                host.is_inhabited(*netns_inode).ok()
            }
        }
    }
}
