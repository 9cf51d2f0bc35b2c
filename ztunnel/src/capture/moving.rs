//! Pods that an agent of the other kind has left: from hooks on their own cgroups to those on the root, and
//! back. Each has both for a moment and is captured all the while; see `ebpf_abi::connect::is_captured`.
//!
//! What is written before what is done: after a crash in between, the next agent of either kind goes on.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use ebpf_abi::connect::Hooked;
use enrol::redirection::Held;
use model::{PodUid, causes};
use netns::NetnsFd;

use super::agent_cgroup::Cgroup;
use super::enrol::stranger;
use super::home::Home;
use super::hooks;
use super::host::HostView;
use super::node::Node;
use super::records::{Progress, Record, RecordedCgroup, Records};

/// Why an agent with hooks on pods' own cgroups cannot have the pods of one with hooks on the root.
#[derive(Debug, thiserror::Error)]
#[error(
    "CAPTURE_MODE_PINNED: pod {uid} is captured by hooks on the root, and no cgroup in the unified hierarchy \
     is known for it; cordon and drain the node first, or let it go if it was enrolled by hand \
     (`warren pods unenrol`), or set WARREN_REDIRECTION=ebpf-root"
)]
pub struct CannotMove {
    uid: PodUid,
}

/// Refuses a start that would leave pods behind.
pub(super) fn check(
    records: &Records,
    hooked: Hooked,
    host: Option<&HostView>,
) -> Result<(), CannotMove> {
    match (hooked, on_root_only(records, host)) {
        (Hooked::Pod, Some(uid)) => Err(CannotMove { uid }),
        (Hooked::Root, _) | (Hooked::Pod, None) => Ok(()),
    }
}

/// The same for who has not chosen yet.
pub(super) fn held(records: &Records, host: Option<&HostView>) -> Held {
    on_root_only(records, host).map_or(Held::Movable, |_| Held::OnRootOnly)
}

/// A pod that only hooks on the root can have. What cannot be read is adopted by nobody, and no reason; nor is
/// a pod that has gone, or was about to.
fn on_root_only(records: &Records, host: Option<&HostView>) -> Option<PodUid> {
    let entries = records.load().unwrap_or_default();
    let mut records = entries.into_iter().filter_map(|entry| entry.record.ok());
    let found = records.find(|record| {
        record.hooked == Hooked::Root
            && record.progress == Progress::Verified
            && NetnsFd::open(&record.netns_path).is_ok_and(|n| n.inode() == record.netns_inode)
            && known_cgroup(record, host).is_none()
            && !is_deserted(record, host)
    });
    found.map(|record| record.uid)
}

/// Whether the cgroup of a pod on the root was removed. No link of its own tells.
pub(super) fn has_lost_cgroup(record: &Record) -> bool {
    let Some(RecordedCgroup { path, id }) = &record.cgroup else { return false };
    let is_gone = match fs::metadata(path) {
        Ok(found) => found.ino() != *id,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    record.hooked == Hooked::Root && is_gone
}

/// Whether a pod on the root has lost its cgroup and its last process, where no link of its own tells: its
/// namespace lives on by its name, and so does `sk_lookup`. Unknown is no.
pub(super) fn is_deserted(record: &Record, host: Option<&HostView>) -> bool {
    let host = host.cloned().unwrap_or_else(HostView::of_this_process);
    has_lost_cgroup(record) && matches!(host.is_inhabited(record.netns_inode), Ok(false))
}

/// A pod's cgroup in the unified hierarchy, from its record or by its name.
fn known_cgroup(record: &Record, host: Option<&HostView>) -> Option<Cgroup> {
    if let Some(RecordedCgroup { path, id }) = &record.cgroup {
        return Cgroup::open(path).ok().filter(|cgroup| cgroup.id() == *id);
    }
    match host?.pod_folders(&record.uid).as_slice() {
        [folder] => Cgroup::open(folder).ok(),
        _ => None,
    }
}

impl Node {
    /// Where a pod's processes are that has a record; `None`: its cgroup is not the one that it was.
    pub(super) fn home(&self, record: &Record) -> Option<Home> {
        let known = || known_cgroup(record, self.host.as_ref()).map(Home::Cgroup);
        match (self.programs.hooked(), &record.cgroup) {
            (Hooked::Root, None) => Some(self.home_by_names(&record.uid, record.netns_inode)),
            (Hooked::Root, Some(_)) | (Hooked::Pod, _) => known(),
        }
    }

    /// The same for a pod without a cgroup of its own.
    pub(super) fn home_by_names(&self, uid: &PodUid, netns_inode: u64) -> Home {
        let host = self.host.clone().unwrap_or_else(HostView::of_this_process);
        Home::Names { uid: uid.clone(), netns_inode, host }
    }

    /// Makes a pod of the other kind one of this kind, as far as it must be before it is adopted. The record
    /// as it is then, or why not.
    pub(super) fn move_over(&self, record: Record, home: &Home) -> Result<Record, String> {
        let hooked = self.programs.hooked();
        if record.hooked == hooked {
            return Ok(record);
        }
        tracing::info!(pod = %record.uid, to = ?hooked, "moving a pod's hooks");
        let moved =
            Record { cgroup: home.cgroup().map(RecordedCgroup::from), hooked, ..record.clone() };
        let work = self.seats.while_owner(|| {
            if hooked == Hooked::Pod {
                self.attach_own(&record, home)?;
            }
            // Those on the root come, and its own go, when it is adopted.
            self.records.save(&moved).map_err(|error| causes(&error))
        });
        work.map_err(|error| causes(&error)).flatten()?;
        Ok(moved)
    }

    fn attach_own(&self, record: &Record, home: &Home) -> Result<(), String> {
        let cgroup = home.cgroup().ok_or("its cgroup is not known, and its hooks go there")?;
        // Hooks there would refuse what is not of its namespace.
        let found = stranger(self.host.as_ref(), cgroup, record.netns_inode);
        if let Some((pid, inode)) = found.map_err(|failure| failure.message)? {
            return Err(format!("process {pid} of its cgroup is in network namespace {inode}"));
        }
        let folder = File::open(cgroup.path()).map_err(|error| causes(&error))?;
        let target = (cgroup.id(), folder.as_fd());
        hooks::attach_own(&self.programs, &record.uid, record.dns, target)
            .map_err(|error| causes(&error))
    }

    /// Takes off the root what no pod needs, once every pod was looked at.
    pub(super) fn settle_root(&self) {
        if let Ok(Err(error)) = self.seats.while_owner(|| self.programs.settle_root()) {
            // They change nothing for pods with hooks of their own. The next pod that leaves tries again.
            tracing::warn!(error = %causes(&error), "hooks stay on the root");
        }
    }
}
