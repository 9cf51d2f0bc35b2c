//! What this kernel can do, found by loading and attaching, because distribution kernels make version
//! numbers unreliable. A missing feature is refused by name before anything is touched.

use std::{fs::File, io, os::fd::AsFd, path::Path};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use super::{
    bpf::{self, AttachType, Instruction, ProgramType, Refused},
    pins::{PinError, PinRoot},
};

/// Optional features that were found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KernelFeatures {
    /// `sk_lookup` sees the ingress interface (5.17); without it loopback is told by addresses alone.
    pub ingress_ifindex: bool,
}

/// Why eBPF capture cannot work here.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("the kernel lacks {feature} (Linux {since}): {detail}")]
    Missing { feature: &'static str, since: &'static str, detail: String },
    #[error("eBPF needs CAP_BPF and CAP_NET_ADMIN (run as root)")]
    Permission { source: io::Error },
    #[error("{} is not a cgroup v2 folder", path.display())]
    NotCgroup2 { path: std::path::PathBuf },
    #[error("open the cgroup {}", path.display())]
    Cgroup { path: std::path::PathBuf, source: io::Error },
    #[error(transparent)]
    Pins(#[from] PinError),
}

/// Helper numbers (`enum bpf_func_id`).
const SK_STORAGE_GET: i32 = 107;
const CURRENT_CGROUP_ID: i32 = 80;
const NETNS_COOKIE: i32 = 122;
const SK_ASSIGN: i32 = 124;

/// One feature: a helper in a type of program.
struct Helper {
    feature: &'static str,
    since: &'static str,
    program: ProgramType,
    attach: AttachType,
    number: i32,
}

/// What only hooks on the root need.
const OF_ROOT: Helper = Helper {
    feature: "the current cgroup's id in setsockopt hooks",
    since: "5.7",
    program: ProgramType::CgroupSockopt,
    attach: AttachType::Setsockopt,
    number: CURRENT_CGROUP_ID,
};

const HELPERS: [Helper; 7] = [
    Helper {
        feature: "the current cgroup's id in connect hooks",
        since: "5.7",
        program: ProgramType::CgroupSockAddr,
        attach: AttachType::Connect4,
        number: CURRENT_CGROUP_ID,
    },
    Helper {
        feature: "socket storage in connect hooks",
        since: "5.3",
        program: ProgramType::CgroupSockAddr,
        attach: AttachType::Connect4,
        number: SK_STORAGE_GET,
    },
    Helper {
        feature: "getpeername hooks",
        since: "5.8",
        program: ProgramType::CgroupSockAddr,
        attach: AttachType::Getpeername4,
        number: SK_STORAGE_GET,
    },
    Helper {
        feature: "socket storage in sock_ops",
        since: "5.3",
        program: ProgramType::SockOps,
        attach: AttachType::SockOps,
        number: SK_STORAGE_GET,
    },
    Helper {
        feature: "the network namespace cookie in sock_ops",
        since: "5.15",
        program: ProgramType::SockOps,
        attach: AttachType::SockOps,
        number: NETNS_COOKIE,
    },
    Helper {
        feature: "the network namespace cookie in setsockopt hooks",
        since: "5.15",
        program: ProgramType::CgroupSockopt,
        attach: AttachType::Setsockopt,
        number: NETNS_COOKIE,
    },
    Helper {
        feature: "sk_lookup programs",
        since: "5.9",
        program: ProgramType::SkLookup,
        attach: AttachType::SkLookup,
        number: SK_ASSIGN,
    },
];

/// Probes everything that capture needs. `cgroup` is a cgroup v2 folder that a program without effect
/// may be attached to for a moment (the agent's own); `pin_root` is where pins will be.
pub fn probe(cgroup: &Path, pin_root: &Path) -> Result<KernelFeatures, ProbeError> {
    PinRoot::open(pin_root)?;
    is_cgroup2(cgroup)?;
    for helper in &HELPERS {
        require(helper)?;
    }
    cgroup_link(cgroup)?;
    Ok(KernelFeatures { ingress_ifindex: has_ingress_ifindex() })
}

/// Probes what hooks on the root of the hierarchy need beside that. A program without effect is attached to
/// it for a moment.
pub fn probe_root(root: &Path) -> Result<(), ProbeError> {
    could_use_root(root)?;
    cgroup_link(root)
}

/// The same without attaching anything.
pub fn could_use_root(root: &Path) -> Result<(), ProbeError> {
    is_cgroup2(root)?;
    require(&OF_ROOT)
}

fn is_cgroup2(cgroup: &Path) -> Result<(), ProbeError> {
    let found = statfs(cgroup)
        .map_err(|errno| ProbeError::Cgroup { path: cgroup.to_owned(), source: errno.into() })?;
    if found.filesystem_type() != CGROUP2_SUPER_MAGIC {
        return Err(ProbeError::NotCgroup2 { path: cgroup.to_owned() });
    }
    Ok(())
}

/// What capture needs of the kernel: each feature, the version that brought it, and whether it is here.
/// Unlike [`probe`] it attaches nothing.
pub fn required() -> impl Iterator<Item = (&'static str, &'static str, Result<(), ProbeError>)> {
    HELPERS.iter().map(|helper| (helper.feature, helper.since, require(helper)))
}

/// Whether `sk_lookup` may read the ingress interface.
pub fn has_ingress_ifindex() -> bool {
    /// Offset of `ingress_ifindex` in `struct bpf_sk_lookup`.
    const OFFSET: i16 = 64;
    /// `dst = *(u32 *)(src + offset)`.
    const LOAD_WORD: u8 = 0x61;
    let read =
        [Instruction::new(LOAD_WORD, 0, 1, OFFSET, 0), Instruction::mov(0, 1), Instruction::exit()];
    bpf::load(ProgramType::SkLookup, AttachType::SkLookup, &read).is_ok()
}

/// Loads a program that calls the helper. It may be refused for its arguments; what matters is whether
/// the verifier knows the helper in this type of program.
fn require(helper: &Helper) -> Result<(), ProbeError> {
    let call = [Instruction::call(helper.number), Instruction::mov(0, 1), Instruction::exit()];
    let Err(refused) = bpf::load(helper.program, helper.attach, &call) else { return Ok(()) };
    if refused.source.kind() == io::ErrorKind::PermissionDenied && refused.log.is_empty() {
        return Err(ProbeError::Permission { source: refused.source });
    }
    let unknown = ["unknown func", "invalid func", "cannot use helper"];
    if refused.log.is_empty() || unknown.iter().any(|words| refused.log.contains(words)) {
        return Err(missing(helper.feature, helper.since, &refused));
    }
    Ok(())
}

fn cgroup_link(cgroup: &Path) -> Result<(), ProbeError> {
    let folder = File::open(cgroup)
        .map_err(|source| ProbeError::Cgroup { path: cgroup.to_owned(), source })?;
    let nothing = [Instruction::mov(0, 1), Instruction::exit()];
    let program = bpf::load(ProgramType::SockOps, AttachType::SockOps, &nothing)
        .map_err(|refused| missing("sock_ops programs", "4.13", &refused))?;
    bpf::link_create(&program, folder.as_fd(), AttachType::SockOps).map_err(|source| {
        ProbeError::Missing {
            feature: "BPF links on cgroups",
            since: "5.7",
            detail: source.to_string(),
        }
    })?;
    Ok(())
}

fn missing(feature: &'static str, since: &'static str, refused: &Refused) -> ProbeError {
    let last = refused.log.lines().last().unwrap_or_default();
    ProbeError::Missing { feature, since, detail: format!("{} {last}", refused.source) }
}
