//! Where capture lives in bpffs: `<root>/v<layout>/shared/…` and `<root>/v<layout>/pods/<uid>/…`.
//!
//! Pins keep hooks alive while no agent runs. Another layout has another folder, which is never touched;
//! with pods in it, this one is not opened, because each pod would be captured twice.
//! A pod's folder counts as whole only when every pin of [`POD_MAPS`] and [`PodLink::of`] is in it, or with
//! hooks on the root, which are pinned among what is shared, of the maps and `sk_lookup`;
//! links are pinned after the maps, so a crash leaves a folder that is recognised and cleared.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use ebpf_abi::{LAYOUT, connect::Hooked};
use model::PodUid;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::statfs::{FsType, statfs};

use super::bpf::AttachType;
use super::questions::DnsCapture;

/// The owner of every folder here.
const ROOT: u32 = 0;

/// Magic of bpffs (`BPF_FS_MAGIC`).
const BPF_FS: FsType = FsType(0xcafe_4a11);

/// Mode of the folders: a lock on one of them is a seat, and needs no more than to open it.
const FOLDER_MODE: u32 = 0o700;

/// Attempts to take a seat; a predecessor that was just killed may not be gone yet, and one that lives
/// looks now and then.
const SEAT_ATTEMPTS: u32 = 20;
/// Pause between them.
const SEAT_PAUSE: Duration = Duration::from_millis(50);

/// A pod's maps, by their names in the object and in bpffs.
pub const POD_MAPS: [&str; 5] = ["TUPLES", "PREFIXES", "SETTINGS", "COUNTERS", "LISTENERS"];

/// The node's maps, by their names in the object and in bpffs.
pub const SHARED_MAPS: [&str; 10] = [
    "POD_TUPLES",
    "POD_PREFIXES",
    "POD_SETTINGS",
    "POD_COUNTERS",
    "RESOLVERS",
    "ROLES",
    "NEUTRAL",
    "SOCKETS",
    "PROBES",
    "GLOBALS",
];

/// A pod's links.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PodLink {
    SockOps,
    Setsockopt,
    Getpeername4,
    Getpeername6,
    Recvmsg4,
    Recvmsg6,
    Sendmsg4,
    Sendmsg6,
    Connect4,
    Connect6,
    SkLookup,
}

impl PodLink {
    /// In the order of attaching: each one is useful or harmless without the later ones.
    pub const ALL: [Self; 11] = [
        Self::SockOps,
        Self::Setsockopt,
        Self::Getpeername4,
        Self::Getpeername6,
        Self::Recvmsg4,
        Self::Recvmsg6,
        Self::Sendmsg4,
        Self::Sendmsg6,
        Self::Connect4,
        Self::Connect6,
        Self::SkLookup,
    ];

    /// Those of a pod, in the order of attaching. Without the capture of questions its datagrams have
    /// no hooks.
    pub fn of(dns: DnsCapture) -> impl DoubleEndedIterator<Item = Self> {
        Self::ALL.into_iter().filter(move |link| match dns {
            DnsCapture::On => true,
            DnsCapture::Off => !link.is_for_datagrams(),
        })
    }

    /// Those of a pod's cgroup, or of the root in its place.
    pub fn on_cgroup(dns: DnsCapture) -> impl DoubleEndedIterator<Item = Self> {
        Self::of(dns).filter(|link| *link != Self::SkLookup)
    }

    /// Those in a pod's own folder.
    pub fn in_folder(dns: DnsCapture, hooked: Hooked) -> impl DoubleEndedIterator<Item = Self> {
        Self::of(dns).filter(move |link| match hooked {
            Hooked::Pod => true,
            Hooked::Root => *link == Self::SkLookup,
        })
    }

    pub(super) const fn is_for_datagrams(self) -> bool {
        matches!(self, Self::Recvmsg4 | Self::Recvmsg6 | Self::Sendmsg4 | Self::Sendmsg6)
    }

    /// Name of the pin.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SockOps => "link_sock_ops",
            Self::Setsockopt => "link_setsockopt",
            Self::Getpeername4 => "link_getpeername4",
            Self::Getpeername6 => "link_getpeername6",
            Self::Recvmsg4 => "link_recvmsg4",
            Self::Recvmsg6 => "link_recvmsg6",
            Self::Sendmsg4 => "link_sendmsg4",
            Self::Sendmsg6 => "link_sendmsg6",
            Self::Connect4 => "link_connect4",
            Self::Connect6 => "link_connect6",
            Self::SkLookup => "link_sk_lookup",
        }
    }

    /// How the kernel attaches it.
    pub const fn attach_type(self) -> AttachType {
        match self {
            Self::SockOps => AttachType::SockOps,
            Self::Setsockopt => AttachType::Setsockopt,
            Self::Getpeername4 => AttachType::Getpeername4,
            Self::Getpeername6 => AttachType::Getpeername6,
            Self::Recvmsg4 => AttachType::Recvmsg4,
            Self::Recvmsg6 => AttachType::Recvmsg6,
            Self::Sendmsg4 => AttachType::Sendmsg4,
            Self::Sendmsg6 => AttachType::Sendmsg6,
            Self::Connect4 => AttachType::Connect4,
            Self::Connect6 => AttachType::Connect6,
            Self::SkLookup => AttachType::SkLookup,
        }
    }
}

/// Why the pin folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    #[error(
        "{} is not on a BPF file system; mount one (`mount -t bpf bpf /sys/fs/bpf`) or set \
         WARREN_BPF_PIN_DIR", path.display()
    )]
    NotBpffs { path: PathBuf },
    #[error(
        "{} is in use by another agent; each needs a WARREN_BPF_PIN_DIR of its own, or \
         WARREN_TAKE_OVER=true to take its place", path.display()
    )]
    InUse { path: PathBuf },
    #[error(
        "{} is in use by another agent, which does not give its place: another one has asked for it \
         already, or it is of a version that cannot; end it first", path.display()
    )]
    NotGiven { path: PathBuf },
    #[error(
        "{} belongs to user {owner}, not to root: who owns it could stop capture; remove it, or set \
         WARREN_BPF_PIN_DIR", path.display()
    )]
    NotRoots { path: PathBuf, owner: u32 },
    #[error(
        "{} holds pods that an agent of another version captured: let it go on while the node is drained; or \
         let it un-enrol those that were enrolled by hand (`warren pods unenrol`); or remove that folder, \
         which lets all out of the mesh",
        path.display()
    )]
    OtherLayout { path: PathBuf },
    #[error("{operation} {}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
}

/// A part that only one agent of a node may have. Each is a lock on one of the folders: the kernel
/// gives it back, whatever happens to its holder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seat {
    /// Changes what is pinned. Two would replace each other's roles, programs and listeners.
    Owner,
    /// Has asked the owner for its seat, or has it already and adopts the pods.
    Successor,
    /// Has given the owner's seat away and serves the connections that it has.
    Retiring,
}

/// A seat that is taken, until it is dropped.
#[derive(Debug)]
pub struct Taken {
    _lock: Flock<File>,
}

impl Taken {
    /// Locks a folder, if nobody has.
    pub(super) fn lock(path: &Path) -> Result<Option<Self>, PinError> {
        let file = File::open(path).map_err(io_error("open", path))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(Self { _lock: lock })),
            Err((_, nix::Error::EWOULDBLOCK)) => Ok(None),
            Err((_, error)) => Err(io_error("lock", path)(error.into())),
        }
    }
}

/// The folder of this layout.
#[derive(Clone, Debug)]
pub struct PinRoot(PathBuf);

impl PinRoot {
    /// Opens or creates the folder. `root` or, when it does not exist, its parent must be on bpffs.
    pub fn open(root: &Path) -> Result<Self, PinError> {
        let existing = if root.exists() { root } else { root.parent().unwrap_or(root) };
        let found = statfs(existing).map_err(|errno| PinError::Io {
            operation: "look at the file system of",
            path: existing.to_owned(),
            source: errno.into(),
        })?;
        if found.filesystem_type() != BPF_FS {
            return Err(PinError::NotBpffs { path: root.to_owned() });
        }
        let versioned = root.join(format!("v{LAYOUT}"));
        let (shared, pods) = (versioned.join("shared"), versioned.join("pods"));
        // Anybody may create a folder in bpffs as it is mounted by default, and whoever can open one
        // of these can take its seat.
        for folder in [root, &versioned, &shared, &pods] {
            private(folder)?;
        }
        fs::set_permissions(&versioned, fs::Permissions::from_mode(FOLDER_MODE))
            .map_err(io_error("set the mode of", &versioned))?;
        no_other_layout(root, &versioned)?;
        Ok(Self(versioned))
    }

    /// Takes a seat that is free, or will be in a moment; `None` if somebody keeps it.
    pub async fn take(&self, seat: Seat) -> Result<Option<Taken>, PinError> {
        for _ in 0..SEAT_ATTEMPTS {
            let taken = self.try_take(seat)?;
            if taken.is_some() {
                return Ok(taken);
            }
            tokio::time::sleep(SEAT_PAUSE).await;
        }
        Ok(None)
    }

    /// Takes a seat as soon as it is free.
    pub async fn wait_for(&self, seat: Seat) -> Result<Taken, PinError> {
        loop {
            if let Some(taken) = self.try_take(seat)? {
                return Ok(taken);
            }
            tokio::time::sleep(SEAT_PAUSE).await;
        }
    }

    /// Takes a seat if it is free.
    pub fn try_take(&self, seat: Seat) -> Result<Option<Taken>, PinError> {
        let path = match seat {
            Seat::Owner => self.0.clone(),
            Seat::Successor => self.0.join("pods"),
            Seat::Retiring => self.0.join("shared"),
        };
        Taken::lock(&path)
    }

    /// The error of an agent that finds the owner's seat taken, and may not ask for it.
    pub fn in_use(&self) -> PinError {
        PinError::InUse { path: self.0.clone() }
    }

    /// The error of an agent that has asked for a seat in vain.
    pub fn not_given(&self) -> PinError {
        PinError::NotGiven { path: self.0.clone() }
    }

    /// Path of a shared pin.
    pub fn shared(&self, name: &str) -> PathBuf {
        self.0.join("shared").join(name)
    }

    /// Path of the pin of a hook on the root.
    pub fn root_link(&self, link: PodLink) -> PathBuf {
        self.shared(&format!("root_{}", link.name()))
    }

    /// The folder of a pod, which need not exist.
    pub fn pod(&self, uid: &PodUid) -> PodPins {
        PodPins(self.0.join("pods").join(uid.as_str()))
    }

    /// Pods that have a folder, whole or not. Names that are no pod uid were not made here and are left
    /// out.
    pub fn pods(&self) -> Result<Vec<PodUid>, PinError> {
        let folder = self.0.join("pods");
        let mut pods = Vec::new();
        for entry in fs::read_dir(&folder).map_err(io_error("list", &folder))? {
            let entry = entry.map_err(io_error("list", &folder))?;
            if let Some(uid) = entry.file_name().to_str().and_then(|name| PodUid::parse(name).ok())
            {
                pods.push(uid);
            }
        }
        Ok(pods)
    }
}

/// The folder of one pod.
#[derive(Clone, Debug)]
pub struct PodPins(PathBuf);

/// How much of a pod's folder is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Completeness {
    Absent,
    /// Names a pin that is missing.
    Partial {
        missing: &'static str,
    },
    Whole,
}

impl PodPins {
    /// Path of a map's pin.
    pub fn map(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Path of a link's pin.
    pub fn link(&self, link: PodLink) -> PathBuf {
        self.0.join(link.name())
    }

    /// Creates the folder, which must not exist.
    pub fn create(&self) -> Result<(), PinError> {
        fs::create_dir(&self.0).map_err(io_error("create", &self.0))
    }

    /// Whether hooks on the root capture this pod, because some of its own are missing.
    pub fn needs_root(&self) -> bool {
        PodLink::on_cgroup(DnsCapture::Off).any(|link| !self.link(link).exists())
    }

    /// Looks for every pin by name. Links that the pod should not have count as missing ones: both are
    /// mended by attaching all anew. With hooks on the root those of its own cgroup are no matter.
    pub fn completeness(&self, dns: DnsCapture, hooked: Hooked) -> Completeness {
        if !self.0.exists() {
            return Completeness::Absent;
        }
        let links = PodLink::in_folder(dns, hooked).map(PodLink::name);
        let names = POD_MAPS.into_iter().chain(links);
        for name in names {
            if !self.0.join(name).exists() {
                return Completeness::Partial { missing: name };
            }
        }
        let surplus = |link: &PodLink| {
            hooked == Hooked::Pod && dns == DnsCapture::Off && link.is_for_datagrams()
        };
        if PodLink::ALL.iter().filter(|link| surplus(link)).any(|link| self.link(*link).exists()) {
            return Completeness::Partial { missing: "the switch for its questions" };
        }
        Completeness::Whole
    }

    /// Whether links on its own cgroup capture its questions.
    pub fn dns_capture(&self) -> DnsCapture {
        let is_pinned = |link: &PodLink| link.is_for_datagrams() && self.link(*link).exists();
        if PodLink::ALL.iter().any(is_pinned) { DnsCapture::On } else { DnsCapture::Off }
    }

    /// Removes every pin and the folder. Objects go when nothing else holds them.
    pub fn remove(&self) -> Result<(), PinError> {
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(io_error("list", &self.0)(error)),
        };
        for entry in entries {
            let path = entry.map_err(io_error("list", &self.0))?.path();
            fs::remove_file(&path).map_err(io_error("remove", &path))?;
        }
        fs::remove_dir(&self.0).map_err(io_error("remove", &self.0))
    }
}

/// Creates a folder for root alone, or checks that root owns the one that is there.
fn private(folder: &Path) -> Result<(), PinError> {
    let create = DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder);
    create.map_err(io_error("create", folder))?;
    let owner = fs::symlink_metadata(folder).map_err(io_error("look at", folder))?.uid();
    if owner == ROOT { Ok(()) } else { Err(PinError::NotRoots { path: folder.to_owned(), owner }) }
}

/// Fails if pods are pinned under `root` in another folder than `own`.
fn no_other_layout(root: &Path, own: &Path) -> Result<(), PinError> {
    for entry in fs::read_dir(root).map_err(io_error("list", root))? {
        let folder = entry.map_err(io_error("list", root))?.path();
        let is_layout =
            |name: &str| name.strip_prefix('v').is_some_and(|number| number.parse::<u32>().is_ok());
        let name = folder.file_name().and_then(|name| name.to_str());
        if folder == own || !name.is_some_and(is_layout) {
            continue;
        }
        let pods = folder.join("pods");
        if fs::read_dir(&pods).is_ok_and(|mut pods| pods.next().is_some()) {
            return Err(PinError::OtherLayout { path: pods });
        }
    }
    Ok(())
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PinError {
    let path = path.to_owned();
    move |source| PinError::Io { operation, path, source }
}
