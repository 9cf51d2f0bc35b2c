//! The eBPF objects: loads the node's programs once, pod by pod the `sk_lookup` of each, and attaches
//! the hooks of the agent's and the kubelet's cgroups.
//!
//! Maps that must survive the agent are pinned and reused by name. Programs are not pinned: links hold
//! them, and a new agent replaces them link by link.

use std::{
    collections::HashMap,
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::Arc,
};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    programs::{Program, ProgramError},
};
use ebpf_abi::{
    Address, DNS_RESOLVERS, GlobalCounter, Roles, SocketRole, connect::Hooked, dns::ResolverKey,
};
use parking_lot::Mutex;

use super::{
    agent_cgroup::Cgroup,
    bpf::{self, AttachType, LinkTarget, Map, Update},
    pins::{POD_MAPS, PinError, PinRoot, PodLink, PodPins, SHARED_MAPS},
    probe,
    root::RootLinks,
};

/// Built by `cargo xtask ebpf`, embedded by `build.rs`; empty when they were missing then.
static POD_CGROUP: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/pod-cgroup.o"));
static POD_NETNS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/pod-netns.o"));

/// Links on a cgroup whose sockets have a role: pin, attach type, program.
type RoleLinks = [(&'static str, AttachType, &'static str); 3];

const AGENT_LINKS: RoleLinks = [
    ("link_agent_sock_ops", AttachType::SockOps, "role_sock_ops"),
    ("link_agent_connect4", AttachType::Connect4, "role_connect4"),
    ("link_agent_connect6", AttachType::Connect6, "role_connect6"),
];

const KUBELET_LINKS: RoleLinks = [
    ("link_kubelet_sock_ops", AttachType::SockOps, "role_sock_ops"),
    ("link_kubelet_connect4", AttachType::Connect4, "role_connect4"),
    ("link_kubelet_connect6", AttachType::Connect6, "role_connect6"),
];

/// Whether an agent that had the role before may still need it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Predecessor {
    /// It has ended, or there was none.
    Gone,
    /// It has given its place to this one, serves the connections that it has, and keeps its role until
    /// [`Programs::retired`].
    Retiring,
    /// The same, but the one that it gave its place to has died.
    Orphaned,
}

impl Predecessor {
    /// Whose connections count as an agent's too, by what the roles were before.
    fn retiring_cgroup(self, before: Roles) -> u64 {
        match (self, before) {
            (Self::Gone, _) => 0,
            // The one that died had no time to set the roles.
            (Self::Orphaned, Roles { agent_cgroup, retiring_cgroup: 0, .. })
            | (Self::Retiring, Roles { agent_cgroup, .. }) => agent_cgroup,
            (Self::Orphaned, Roles { retiring_cgroup, .. }) => retiring_cgroup,
        }
    }
}

/// Where the hooks of pods go that are not in their network namespaces.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HookPlace {
    /// On each pod's own cgroup.
    Pods,
    /// Once, on the root of the hierarchy, for all pods.
    Root {
        /// The root.
        cgroup: Cgroup,
    },
}

impl HookPlace {
    /// The same without the details.
    pub const fn hooked(&self) -> Hooked {
        match self {
            Self::Pods => Hooked::Pod,
            Self::Root { .. } => Hooked::Root,
        }
    }
}

/// Who has a role on this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RolesConfig {
    pub predecessor: Predecessor,
    /// Id of the agent's own leaf cgroup.
    pub agent_cgroup_id: u64,
    /// Where the self-test plays a stranger, see [`ebpf_abi::Roles::is_exempt`]. Hooks on the root that an agent
    /// before this one has left must know it, too.
    pub neutral_cgroup_id: u64,
    /// Id of the kubelet's cgroup, when it is known.
    pub kubelet_cgroup_id: Option<u64>,
    /// `SO_NETNS_COOKIE` of the host's network namespace.
    pub host_netns_cookie: u64,
}

/// Why programs could not be loaded or attached.
#[derive(Debug, thiserror::Error)]
pub enum ProgramsError {
    #[error("built without eBPF programs: run cargo xtask ebpf")]
    NotBuilt,
    #[error(transparent)]
    Pins(#[from] PinError),
    #[error("load the eBPF object {object}")]
    Object { object: &'static str, source: EbpfError },
    #[error("the eBPF object {object} has no program {program}")]
    NoProgram { object: &'static str, program: &'static str },
    #[error("load the eBPF program {program}")]
    Program { program: &'static str, source: ProgramError },
    #[error("open the shared map {map}")]
    Map { map: &'static str, source: io::Error },
    #[error("the root of the hierarchy cannot be opened")]
    Root(#[source] io::Error),
    #[error("{operation}")]
    Kernel { operation: &'static str, source: io::Error },
}

/// The node's programs and shared maps. Clones share them.
#[derive(Clone, Debug)]
pub struct Programs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pins: PinRoot,
    place: HookPlace,
    /// The hooks on the root that this agent holds.
    root: RootLinks,
    programs: HashMap<&'static str, OwnedFd>,
    pods: OuterMaps,
    resolvers: Map<ResolverKey, Address>,
    roles: Map<u32, Roles>,
    neutral: Map<u32, u64>,
    sockets: Map<u32, SocketRole>,
    globals: Map<u32, u64>,
    /// The links on this agent's own cgroup. A successor replaces their pins, and they must live as
    /// long as this agent's sockets.
    role_links: Mutex<Vec<OwnedFd>>,
    /// Kept, because making one reads the kernel's BTF (tens of milliseconds).
    pod_loader: Mutex<EbpfLoader<'static>>,
    cpus: usize,
}

/// Pods' maps by the cookie of their network namespace.
#[derive(Debug)]
pub(super) struct OuterMaps {
    pub(super) tuples: Map<u64, u32>,
    pub(super) prefixes: Map<u64, u32>,
    pub(super) settings: Map<u64, u32>,
    pub(super) counters: Map<u64, u32>,
}

impl OuterMaps {
    pub(super) fn all(&self) -> [&Map<u64, u32>; 4] {
        [&self.tuples, &self.prefixes, &self.settings, &self.counters]
    }
}

const CGROUP_PROGRAMS: [&str; 13] = [
    "connect4",
    "connect6",
    "getpeername4",
    "getpeername6",
    "recvmsg4",
    "recvmsg6",
    "sendmsg4",
    "sendmsg6",
    "setsockopt",
    "sock_ops",
    "role_connect4",
    "role_connect6",
    "role_sock_ops",
];

impl Programs {
    /// Loads the shared programs, reusing pinned maps under `pin_root`, sets the roles, and replaces the
    /// programs of hooks that an earlier agent has left on the root.
    pub fn load(
        pin_root: &Path,
        place: HookPlace,
        roles: RolesConfig,
    ) -> Result<Self, ProgramsError> {
        if POD_CGROUP.is_empty() || POD_NETNS.is_empty() {
            return Err(ProgramsError::NotBuilt);
        }
        let pins = PinRoot::open(pin_root)?;
        let programs = load_shared(&pins, &place)?;
        let mut loader = bare_loader();
        for map in SHARED_MAPS {
            loader.map_pin_path(map, pins.shared(map));
        }
        loader.override_global("HAS_INGRESS", has_ingress(), true);
        let cpus = aya::util::nr_cpus().map_err(|(_, source)| ProgramsError::Kernel {
            operation: "count the possible CPUs",
            source,
        })?;
        let inner = Inner {
            place,
            root: RootLinks::default(),
            programs,
            pods: OuterMaps {
                tuples: open(&pins, "POD_TUPLES")?,
                prefixes: open(&pins, "POD_PREFIXES")?,
                settings: open(&pins, "POD_SETTINGS")?,
                counters: open(&pins, "POD_COUNTERS")?,
            },
            resolvers: open(&pins, "RESOLVERS")?,
            roles: open(&pins, "ROLES")?,
            neutral: open(&pins, "NEUTRAL")?,
            sockets: open(&pins, "SOCKETS")?,
            globals: open(&pins, "GLOBALS")?,
            role_links: Mutex::default(),
            pod_loader: Mutex::new(loader),
            cpus,
            pins,
        };
        inner.set_roles(roles)?;
        let programs = Self(Arc::new(inner));
        programs.adopt_root()?;
        Ok(programs)
    }

    /// The predecessor has ended: nobody in its cgroup has a role any more.
    pub fn retired(&self) -> Result<(), ProgramsError> {
        let failed = |operation| move |source| ProgramsError::Kernel { operation, source };
        let roles = self.0.roles.get(&0).map_err(failed("read the roles"))?.unwrap_or_default();
        let roles = Roles { retiring_cgroup: 0, ..roles };
        self.0.roles.set(&0, &roles, Update::Any).map_err(failed("set the roles"))
    }

    /// Attaches the role hooks to the cgroups that [`load`](Self::load) was told, both pinned: the
    /// kubelet's so that probes pass without an agent, the agent's so that its registrations go with
    /// its sockets even when it is killed. An entry that stayed would let a stranger's connection
    /// with the same addresses and ports pass for the agent's.
    pub fn attach_roles(
        &self,
        agent: BorrowedFd<'_>,
        kubelet: Option<BorrowedFd<'_>>,
    ) -> Result<(), ProgramsError> {
        let failed = |operation| move |source| ProgramsError::Kernel { operation, source };
        let roles = self.0.roles.get(&0).map_err(failed("read the roles"))?.unwrap_or_default();
        *self.0.role_links.lock() = self.attach_role(AGENT_LINKS, agent, roles.agent_cgroup)?;
        match kubelet {
            Some(cgroup) => self.attach_role(KUBELET_LINKS, cgroup, roles.kubelet_cgroup).map(drop),
            None => self.remove_kubelet(),
        }
    }

    /// Gives the kubelet's role to another cgroup: its own was made anew when it restarted.
    pub fn move_kubelet(&self, cgroup: BorrowedFd<'_>, id: u64) -> Result<(), ProgramsError> {
        let failed = |operation| move |source| ProgramsError::Kernel { operation, source };
        let roles = self.0.roles.get(&0).map_err(failed("read the roles"))?.unwrap_or_default();
        let roles = Roles { kubelet_cgroup: id, ..roles };
        self.0.roles.set(&0, &roles, Update::Any).map_err(failed("set the roles"))?;
        self.attach_role(KUBELET_LINKS, cgroup, id).map(drop)
    }

    /// Keeps a pinned link when it is on the cgroup `id`, and replaces it otherwise: that of a cgroup
    /// which was removed is dead.
    fn attach_role(
        &self,
        links: RoleLinks,
        cgroup: BorrowedFd<'_>,
        id: u64,
    ) -> Result<Vec<OwnedFd>, ProgramsError> {
        let failed = |operation| move |source| ProgramsError::Kernel { operation, source };
        let mut attached = Vec::with_capacity(links.len());
        for (name, attach, program) in links {
            let path = self.0.pins.shared(name);
            let program = self.program(program);
            if let Ok(link) = bpf::get(&path) {
                let info = bpf::link_info(&link).map_err(failed("inspect a role link"))?;
                if info.target == (LinkTarget::Cgroup { id })
                    && bpf::link_update(&link, program).is_ok()
                {
                    attached.push(link);
                    continue;
                }
                fs::remove_file(&path).map_err(failed("unpin an old role link"))?;
            }
            let link = bpf::link_create(program, cgroup, attach)
                .map_err(failed("attach the role hooks to a cgroup"))?;
            bpf::pin(&link, &path).map_err(failed("pin a role link"))?;
            attached.push(link);
        }
        Ok(attached)
    }

    fn remove_kubelet(&self) -> Result<(), ProgramsError> {
        for (name, _, _) in KUBELET_LINKS {
            match fs::remove_file(self.0.pins.shared(name)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => {
                    let operation = "unpin an old role link";
                    return Err(ProgramsError::Kernel { operation, source });
                }
            }
        }
        Ok(())
    }

    /// Original destination of a connection that the agent accepted from a pod, read from the accepted
    /// socket. It outlives the application's socket, which the pod's registry does not. `None` for a
    /// socket that did not come through the outbound capture of a pod, or was accepted outside the
    /// agent's cgroup.
    pub fn accepted_dst(&self, accepted: impl AsFd) -> io::Result<Option<std::net::SocketAddr>> {
        let stored = self.0.sockets.get(&bpf::descriptor(accepted.as_fd()))?;
        Ok(stored.filter(|stored| stored.role == ebpf_abi::Role::OUTBOUND).map(|stored| {
            std::net::SocketAddr::new(stored.original.into(), stored.original_port.get())
        }))
    }

    /// The resolver that has a slot of the pod with this namespace cookie; `None` while none has. It stays
    /// for as long as the pod is enrolled.
    pub fn resolver(&self, netns_cookie: u64, slot: u32) -> io::Result<Option<std::net::IpAddr>> {
        let found = self.0.resolvers.get(&ResolverKey::new(netns_cookie, slot))?;
        Ok(found.map(std::net::IpAddr::from))
    }

    /// Takes all slots of a pod back.
    pub(super) fn forget_resolvers(&self, netns_cookie: u64) -> io::Result<()> {
        for slot in (0_u32..).take(DNS_RESOLVERS) {
            self.0.resolvers.delete(&ResolverKey::new(netns_cookie, slot))?;
        }
        Ok(())
    }

    /// Counters that belong to no pod.
    pub fn counters(&self) -> io::Result<Vec<(&'static str, u64)>> {
        let sum = |counter: &GlobalCounter| {
            Ok((counter.name(), self.0.globals.sum(counter.index(), self.0.cpus)?))
        };
        GlobalCounter::ALL.iter().map(sum).collect()
    }

    /// The folder of pins.
    pub fn pins(&self) -> &PinRoot {
        &self.0.pins
    }

    /// Where the pods' hooks go.
    pub fn place(&self) -> &HookPlace {
        &self.0.place
    }

    pub(super) fn root(&self) -> &RootLinks {
        &self.0.root
    }

    pub(super) fn pods(&self) -> &OuterMaps {
        &self.0.pods
    }

    pub(super) fn cpus(&self) -> usize {
        self.0.cpus
    }

    /// The shared program of a pod's link; `SkLookup` is not shared, see [`Self::load_pod`].
    pub(super) fn link_program(&self, link: PodLink) -> Option<BorrowedFd<'_>> {
        let name = match link {
            PodLink::SockOps => "sock_ops",
            PodLink::Setsockopt => "setsockopt",
            PodLink::Getpeername4 => "getpeername4",
            PodLink::Getpeername6 => "getpeername6",
            PodLink::Recvmsg4 => "recvmsg4",
            PodLink::Recvmsg6 => "recvmsg6",
            PodLink::Sendmsg4 => "sendmsg4",
            PodLink::Sendmsg6 => "sendmsg6",
            PodLink::Connect4 => "connect4",
            PodLink::Connect6 => "connect6",
            PodLink::SkLookup => return None,
        };
        Some(self.program(name))
    }

    /// Loads the `sk_lookup` of one pod. Maps pinned in its folder are reused, missing ones are created
    /// and pinned there.
    pub(super) fn load_pod(&self, pod: &PodPins) -> Result<OwnedFd, ProgramsError> {
        let object = "pod-netns";
        let mut loader = self.0.pod_loader.lock();
        for map in POD_MAPS {
            loader.map_pin_path(map, pod.map(map));
        }
        let mut loaded =
            loader.load(POD_NETNS).map_err(|source| ProgramsError::Object { object, source })?;
        load_program(&mut loaded, object, "steer")
    }

    pub(super) fn program(&self, name: &'static str) -> BorrowedFd<'_> {
        self.0.programs.get(name).expect("every name of CGROUP_PROGRAMS was loaded").as_fd()
    }
}

impl Inner {
    fn set_roles(&self, config: RolesConfig) -> Result<(), ProgramsError> {
        let failed = |operation| move |source| ProgramsError::Kernel { operation, source };
        let before = self.roles.get(&0).map_err(failed("read the roles"))?.unwrap_or_default();
        let set =
            |roles: &Roles| self.roles.set(&0, roles, Update::Any).map_err(failed("set the roles"));
        let neutral = self.neutral.set(&0, &config.neutral_cgroup_id, Update::Any);
        neutral.map_err(failed("set the self-test's cgroup"))?;
        let retiring_cgroup = config.predecessor.retiring_cgroup(before);
        // The kernel copies field by field. The predecessor has its second place before it loses
        // the first.
        set(&Roles { retiring_cgroup, ..before })?;
        set(&Roles {
            agent_cgroup: config.agent_cgroup_id,
            retiring_cgroup,
            kubelet_cgroup: config.kubelet_cgroup_id.unwrap_or(0),
            host_netns_cookie: config.host_netns_cookie,
        })
    }
}

/// Loads every program with maps of its own and lets all go again: what the kernel would say to an
/// agent. Nothing is pinned or attached.
pub fn rehearse() -> Result<(), ProgramsError> {
    if POD_CGROUP.is_empty() || POD_NETNS.is_empty() {
        return Err(ProgramsError::NotBuilt);
    }
    let mut loader = bare_loader();
    let object = "pod-cgroup";
    let mut loaded =
        loader.load(POD_CGROUP).map_err(|source| ProgramsError::Object { object, source })?;
    for name in CGROUP_PROGRAMS {
        load_program(&mut loaded, object, name)?;
    }
    let object = "pod-netns";
    loader.override_global("HAS_INGRESS", has_ingress(), true);
    let mut loaded =
        loader.load(POD_NETNS).map_err(|source| ProgramsError::Object { object, source })?;
    load_program(&mut loaded, object, "steer").map(drop)
}

/// Programs use only stable contexts, so the kernel's own BTF is not needed; it is megabytes.
fn bare_loader<'a>() -> EbpfLoader<'a> {
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    loader
}

/// The programs of cgroups, made for where they will be.
fn load_shared(
    pins: &PinRoot,
    place: &HookPlace,
) -> Result<HashMap<&'static str, OwnedFd>, ProgramsError> {
    let object = "pod-cgroup";
    let mut loader = bare_loader();
    for map in SHARED_MAPS {
        loader.map_pin_path(map, pins.shared(map));
    }
    if let HookPlace::Root { .. } = place {
        loader.override_global("AT_ROOT", &1_u32, true);
    }
    let mut loaded =
        loader.load(POD_CGROUP).map_err(|source| ProgramsError::Object { object, source })?;
    let mut programs = HashMap::new();
    for name in CGROUP_PROGRAMS {
        programs.insert(name, load_program(&mut loaded, object, name)?);
    }
    Ok(programs)
}

/// Value of the programs' HAS_INGRESS.
fn has_ingress() -> &'static u32 {
    if probe::has_ingress_ifindex() { &1 } else { &0 }
}

fn load_program(
    loaded: &mut Ebpf,
    object: &'static str,
    name: &'static str,
) -> Result<OwnedFd, ProgramsError> {
    let missing = || ProgramsError::NoProgram { object, program: name };
    let failed = |source| ProgramsError::Program { program: name, source };
    let program = loaded.program_mut(name).ok_or_else(missing)?;
    #[expect(clippy::wildcard_enum_match_arm, reason = "aya's enum has every kind of program")]
    match program {
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSockopt(program) => program.load(),
        Program::SockOps(program) => program.load(),
        Program::SkLookup(program) => program.load(),
        _ => return Err(missing()),
    }
    .map_err(failed)?;
    let fd = program.fd().map_err(failed)?;
    fd.as_fd().try_clone_to_owned().map_err(|source| ProgramsError::Kernel {
        operation: "duplicate a program's descriptor",
        source,
    })
}

fn open<K: ebpf_abi::Plain, V: ebpf_abi::Plain>(
    pins: &PinRoot,
    map: &'static str,
) -> Result<Map<K, V>, ProgramsError> {
    Map::open(&pins.shared(map)).map_err(|source| ProgramsError::Map { map, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_retires_keeps_the_role_until_it_has_ended() {
        const FIRST: u64 = 11;
        const DIED: u64 = 22;
        let roles = |agent_cgroup, retiring_cgroup| Roles {
            agent_cgroup,
            retiring_cgroup,
            ..Roles::default()
        };
        for (predecessor, before, expected) in [
            (Predecessor::Gone, roles(FIRST, 0), 0),
            (Predecessor::Gone, roles(DIED, FIRST), 0),
            (Predecessor::Retiring, roles(FIRST, 0), FIRST),
            // The role of one before that, which has ended, is left behind.
            (Predecessor::Retiring, roles(FIRST, 5), FIRST),
            // The second one died before it set its role, between the two steps, and after.
            (Predecessor::Orphaned, roles(FIRST, 0), FIRST),
            (Predecessor::Orphaned, roles(FIRST, FIRST), FIRST),
            (Predecessor::Orphaned, roles(DIED, FIRST), FIRST),
        ] {
            assert_eq!(predecessor.retiring_cgroup(before), expected, "{predecessor:?} {before:?}");
        }
    }
}
