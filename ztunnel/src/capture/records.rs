//! Enrolment records: what this agent promised, kept across its restarts.
//!
//! One JSON file a pod under the run folder, readable by root only. A record is a claim, never a
//! proof: adoption compares it with the kernel's own objects. A file that cannot be read costs its
//! pod, not the node.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ebpf_abi::connect::Hooked;
use enrol::{Inbound, Source, Switches};
use ipnet::IpNet;
use model::{PodUid, WorkloadKey};
use netns::MarkSysctls;
use serde::{Deserialize, Serialize};

use super::agent_cgroup::Cgroup;
use super::questions::DnsCapture;

/// Raised when a field changes its meaning; other versions are unreadable.
const VERSION: u32 = 1;
/// A record is a few hundred bytes; a larger file is not one.
const RECORD_BYTES_MAX: u64 = 64 * 1024;
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// How far an enrolment got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Progress {
    /// Hooks may be half attached; a restart takes them off. Whoever asked got no answer, and asks again.
    Enrolling,
    /// The self-test has passed once, or the pod is kept captured until it does.
    Verified,
    /// Hooks are off; routing stays for connections that are still open.
    Leaving,
}

/// A pod's cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedCgroup {
    /// Its path.
    pub path: PathBuf,
    /// Its id.
    pub id: u64,
}

impl From<&Cgroup> for RecordedCgroup {
    fn from(cgroup: &Cgroup) -> Self {
        Self { path: cgroup.path().to_owned(), id: cgroup.id() }
    }
}

/// One pod's enrolment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The pod instance.
    pub uid: PodUid,
    /// Which workload it is.
    pub workload: WorkloadKey,
    /// Its cgroup; with hooks on the root it need not be known.
    pub cgroup: Option<RecordedCgroup>,
    /// Where its hooks are.
    pub hooked: Hooked,
    /// Path of its network namespace.
    pub netns_path: PathBuf,
    /// Inode of its network namespace.
    pub netns_inode: u64,
    /// Cookie of its network namespace: unlike the inode, never used twice in one boot.
    pub netns_cookie: u64,
    /// Who wanted it.
    pub source: Source,
    /// What the kernel was told.
    pub switches: Switches,
    /// Whether its questions to resolvers are captured.
    pub dns: DnsCapture,
    /// How the kernel's settings for marks were before us.
    pub mark_sysctls: MarkSysctls,
    /// How far it got.
    pub progress: Progress,
    /// The boot in which the ids above mean something.
    pub boot_id: String,
}

/// The form on disk. Separate, so that the vocabulary does not depend on serde.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "the form of a file, flat")]
struct OnDisk {
    version: u32,
    uid: String,
    workload: String,
    // Absent where hooks are on the root and nobody told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cgroup_path: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cgroup_id: Option<u64>,
    // Absent in records of agents that knew one place only, which refuse what has it.
    #[serde(default, skip_serializing_if = "OnDiskHooked::is_pod")]
    hooked: OnDiskHooked,
    netns_path: PathBuf,
    netns_inode: u64,
    netns_cookie: u64,
    probe_ports: Vec<u16>,
    // Absent in records of agents that did not know them, and where they would mean the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    bypass_inbound: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    excluded_inbound: Vec<u16>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    excluded_outbound: Vec<u16>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    excluded: Vec<IpNet>,
    /// Absent in records of agents that did not know it, and where they would mean the same.
    #[serde(default, skip_serializing_if = "DnsCapture::is_off")]
    dns: DnsCapture,
    fwmark_accept: bool,
    fwmark_reflect_ipv4: bool,
    fwmark_reflect_ipv6: bool,
    progress: Progress,
    boot_id: String,
}

/// Where the hooks of a pod are, in the words of the file.
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum OnDiskHooked {
    #[default]
    Pod,
    Root,
}

impl OnDiskHooked {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde calls")]
    fn is_pod(&self) -> bool {
        *self == Self::Pod
    }
}

/// What went wrong with a record or its folder.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A file call failed.
    #[error("cannot {operation} {path}")]
    File {
        /// `create`, `write`, …
        operation: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// Somebody else could have written it.
    #[error("{path} belongs to user {owner} with mode {mode:04o}; a record is its agent's alone")]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Its permissions.
        mode: u32,
    },
    /// The file is not a record of this version.
    #[error("{path} is not an enrolment record: {cause}")]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// Why not.
        cause: String,
    },
}

/// One file of the folder: a record, or the reason why it is none.
#[derive(Debug)]
pub struct Entry {
    /// The file's name without its ending; a Pod UID if nobody tampered.
    pub name: String,
    /// The record.
    pub record: Result<Record, RecordError>,
}

/// The folder of records.
#[derive(Clone, Debug)]
pub struct Records {
    folder: PathBuf,
}

impl Records {
    /// Opens `<run_dir>/pods`, making it 0700.
    pub fn open(run_dir: &Path) -> Result<Self, RecordError> {
        let folder = run_dir.join("pods");
        let failed = |cause| RecordError::File { operation: "create", path: folder.clone(), cause };
        DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(failed)?;
        // An older folder may have been made with other rights.
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).map_err(failed)?;
        Ok(Self { folder })
    }

    /// Writes a record so that a crash leaves the old one or the new one, whole. One that is there as it
    /// should be is left alone: so an agent adopts its pods on a full disk, too.
    pub fn save(&self, record: &Record) -> Result<(), RecordError> {
        let path = self.path(&record.uid);
        if read(&path, record.uid.as_str()).is_ok_and(|there| there == *record) {
            return Ok(());
        }
        let temporary = self.folder.join(format!(".{}.new", record.uid));
        let text = serde_json::to_vec_pretty(&OnDisk::from(record)).map_err(|error| {
            RecordError::Malformed { path: path.clone(), cause: error.to_string() }
        })?;
        let written = write_synced(&temporary, &text)
            .and_then(|()| fs::rename(&temporary, &path))
            .and_then(|()| File::open(&self.folder)?.sync_all());
        written.map_err(|cause| RecordError::File { operation: "write", path, cause })
    }

    /// Removes a record; one that is not there is no error.
    pub fn remove(&self, uid: &PodUid) -> Result<(), RecordError> {
        let path = self.path(uid);
        match fs::remove_file(&path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(cause) => Err(RecordError::File { operation: "remove", path, cause }),
        }
    }

    /// Every file of the folder, sorted by name. Leftovers of interrupted writes are removed.
    pub fn load(&self) -> Result<Vec<Entry>, RecordError> {
        let failed =
            |cause| RecordError::File { operation: "list", path: self.folder.clone(), cause };
        let mut entries = Vec::new();
        for file in fs::read_dir(&self.folder).map_err(failed)? {
            let path = file.map_err(failed)?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if name.starts_with('.') {
                // Never renamed, so never promised. If it stays, the next save replaces it.
                let _ = fs::remove_file(&path);
            } else if let Some(stem) = name.strip_suffix(".json") {
                entries.push(Entry { name: stem.to_owned(), record: read(&path, stem) });
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn path(&self, uid: &PodUid) -> PathBuf {
        self.folder.join(format!("{uid}.json"))
    }
}

/// This boot's id (random(4)).
pub(super) fn boot_id() -> Result<String, RecordError> {
    let text = fs::read_to_string(BOOT_ID).map_err(|cause| RecordError::File {
        operation: "read",
        path: BOOT_ID.into(),
        cause,
    })?;
    Ok(text.trim().to_owned())
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn read(path: &Path, stem: &str) -> Result<Record, RecordError> {
    let failed = |cause| RecordError::File { operation: "read", path: path.to_owned(), cause };
    let malformed = |cause: String| RecordError::Malformed { path: path.to_owned(), cause };
    // Of the link itself, if it is one: what is not a plain file of ours was put there.
    let metadata = fs::symlink_metadata(path).map_err(failed)?;
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    if owner != nix::unistd::geteuid().as_raw() || mode & 0o077 != 0 {
        return Err(RecordError::Exposed { path: path.to_owned(), owner, mode });
    }
    if metadata.len() > RECORD_BYTES_MAX {
        return Err(malformed(format!("it is longer than {RECORD_BYTES_MAX} bytes")));
    }
    let bytes = fs::read(path).map_err(failed)?;
    let disk: OnDisk = serde_json::from_slice(&bytes).map_err(|e| malformed(e.to_string()))?;
    let record = disk.into_record().map_err(malformed)?;
    if record.uid.as_str() != stem {
        return Err(malformed(format!("it is named {stem} and says {}", record.uid)));
    }
    Ok(record)
}

impl From<&Record> for OnDisk {
    fn from(record: &Record) -> Self {
        Self {
            version: VERSION,
            uid: record.uid.to_string(),
            workload: record.workload.to_string(),
            cgroup_path: record.cgroup.as_ref().map(|cgroup| cgroup.path.clone()),
            cgroup_id: record.cgroup.as_ref().map(|cgroup| cgroup.id),
            hooked: match record.hooked {
                Hooked::Pod => OnDiskHooked::Pod,
                Hooked::Root => OnDiskHooked::Root,
            },
            netns_path: record.netns_path.clone(),
            netns_inode: record.netns_inode,
            netns_cookie: record.netns_cookie,
            probe_ports: record.switches.probe_ports.clone(),
            source: Some(record.source)
                .filter(|source| *source != Source::default())
                .map(|source| source.as_str().to_owned()),
            bypass_inbound: record.switches.inbound == Inbound::Bypassed,
            excluded_inbound: record.switches.excluded_inbound.clone(),
            excluded_outbound: record.switches.excluded_outbound.clone(),
            excluded: record.switches.excluded.clone(),
            dns: record.dns,
            fwmark_accept: record.mark_sysctls.accept,
            fwmark_reflect_ipv4: record.mark_sysctls.reflect_ipv4,
            fwmark_reflect_ipv6: record.mark_sysctls.reflect_ipv6,
            progress: record.progress,
            boot_id: record.boot_id.clone(),
        }
    }
}

impl OnDisk {
    fn into_record(self) -> Result<Record, String> {
        if self.version != VERSION {
            return Err(format!("version {} is not {VERSION}", self.version));
        }
        let source = match self.source {
            None => Source::default(),
            Some(word) => Source::parse(&word).ok_or(format!("{word:?} is no source"))?,
        };
        Ok(Record {
            uid: PodUid::parse(&self.uid).map_err(|error| error.to_string())?,
            workload: WorkloadKey::parse(&self.workload).map_err(|error| error.to_string())?,
            cgroup: match (self.cgroup_path, self.cgroup_id, self.hooked) {
                (Some(path), Some(id), _) => Some(RecordedCgroup { path, id }),
                (None, None, OnDiskHooked::Root) => None,
                _ => return Err("it has no cgroup, or half of one".to_owned()),
            },
            hooked: match self.hooked {
                OnDiskHooked::Pod => Hooked::Pod,
                OnDiskHooked::Root => Hooked::Root,
            },
            netns_path: self.netns_path,
            netns_inode: self.netns_inode,
            netns_cookie: self.netns_cookie,
            source,
            switches: Switches {
                probe_ports: self.probe_ports,
                inbound: if self.bypass_inbound { Inbound::Bypassed } else { Inbound::Captured },
                excluded_inbound: self.excluded_inbound,
                excluded_outbound: self.excluded_outbound,
                excluded: self.excluded,
            },
            dns: self.dns,
            mark_sysctls: MarkSysctls {
                accept: self.fwmark_accept,
                reflect_ipv4: self.fwmark_reflect_ipv4,
                reflect_ipv6: self.fwmark_reflect_ipv6,
            },
            progress: self.progress,
            boot_id: self.boot_id,
        })
    }
}

#[cfg(test)]
mod tests;
