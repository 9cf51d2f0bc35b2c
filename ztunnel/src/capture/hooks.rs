//! The hooks of one pod: attached all or nothing, adopted without a gap, detached without a trace.
//!
//! Attaching has two steps, because `sk_lookup` drops what finds no listener: [`PodHooks::prepare`]
//! makes the pod's maps, the caller puts its listeners in, [`Prepared::activate`] attaches. While the
//! hooks go on one by one the pod's settings say "inactive": calls to itself are registered from the
//! first moment, connections are captured only when everything is in place.
//!
//! With hooks on the root (`root`) a pod has `sk_lookup` of its own, and the rest in common with all others.
//! A pod that an agent of the other kind left is moved over when it is adopted: it has both for a moment, and
//! those on the root change nothing after its own.

mod maps;
mod mend;

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use ebpf_abi::connect::Hooked;
use model::PodUid;

pub use self::maps::{PodMaps, PodPrefixes, PodSettings, SettingsError};
pub(super) use self::mend::keep_link_pinned;
use super::{
    bpf::{self, LinkTarget, Map, Update},
    pins::{Completeness, PinError, PodLink, PodPins},
    programs::{OuterMaps, Programs, ProgramsError},
    questions::{DnsCapture, DnsPorts},
};

/// What the programs need to know about a pod.
#[derive(Clone, Debug)]
pub struct AttachSpec {
    /// `SO_NETNS_COOKIE` of a socket in the pod's network namespace.
    pub netns_cookie: u64,
    pub settings: PodSettings,
    pub prefixes: PodPrefixes,
}

/// What a pod's pinned links must be attached to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expected {
    /// Id of the pod's cgroup (its inode); `None` if it need not have one.
    pub cgroup_id: Option<u64>,
    /// Inode of the pod's network namespace.
    pub netns_inode: u64,
    /// Whether its datagrams have hooks.
    pub dns: DnsCapture,
}

/// Whether a pod's hooks still have something to hook.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HookState {
    Attached,
    /// The cgroup was removed, and its links are dead; or somebody took one off it.
    CgroupGone,
    /// The network namespace was removed, and its link is dead; or somebody took it off.
    NetnsGone,
    /// Somebody took a hook off the root.
    RootUnhooked,
}

/// Why hooks could not be attached, changed or detached.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    #[error("pod {uid} has hooks already")]
    AlreadyAttached { uid: PodUid },
    #[error("another pod is enrolled with the same network namespace")]
    NetnsTaken,
    #[error("its hooks go onto its cgroup, and none is known")]
    NoCgroup,
    #[error("the node has no room for another pod's maps")]
    TooManyPods,
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Pins(#[from] PinError),
    #[error(transparent)]
    Programs(#[from] ProgramsError),
    #[error("{operation}")]
    Kernel { operation: &'static str, source: io::Error },
}

/// Why pinned hooks could not be taken over. Nothing was changed, except after `Hook`.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    #[error("pod {uid} has no pinned hooks")]
    NotFound { uid: PodUid },
    #[error("the pinned hooks of pod {uid} are incomplete: {missing} is missing")]
    Incomplete { uid: PodUid, missing: &'static str },
    #[error("{link} of pod {uid} is attached to {found:?} instead of {expected:?}")]
    Mismatch { uid: PodUid, link: &'static str, found: LinkTarget, expected: Expected },
    #[error("the cgroup of pod {uid} is gone")]
    CgroupGone { uid: PodUid },
    #[error("the network namespace of pod {uid} is gone")]
    NetnsGone { uid: PodUid },
    #[error(transparent)]
    Hook(#[from] HookError),
}

/// A pod whose maps exist and whose hooks are not attached yet. Dropping it removes the maps.
#[derive(Debug)]
#[must_use = "dropping it undoes the preparation"]
pub struct Prepared {
    /// Taken by `activate`.
    parts: Option<Parts>,
    dns: DnsCapture,
}

/// A pod with attached hooks. Dropping it leaves them in place, for the next agent.
#[derive(Debug)]
pub struct PodHooks {
    parts: Parts,
    dns: DnsCapture,
    links: Vec<(PodLink, OwnedFd)>,
}

#[derive(Debug)]
struct Parts {
    programs: Programs,
    pins: PodPins,
    maps: PodMaps,
    steer: OwnedFd,
}

impl PodHooks {
    /// Makes the maps of a pod and the entries that find them. A folder that an earlier attempt left
    /// half written is cleared first; a whole one is refused, adopt it or [`purge`] it.
    pub fn prepare(
        programs: &Programs,
        uid: &PodUid,
        spec: &AttachSpec,
    ) -> Result<Prepared, HookError> {
        let pins = programs.pins().pod(uid);
        let dns = spec.settings.dns_capture();
        match pins.completeness(dns, programs.hooked()) {
            Completeness::Absent => {}
            Completeness::Partial { .. } => purge(programs, uid)?,
            Completeness::Whole => return Err(HookError::AlreadyAttached { uid: uid.clone() }),
        }
        let settings = spec.settings.inactive()?;
        pins.create()?;
        let made = make_parts(programs, pins, spec, settings);
        if made.is_err() {
            // The first error is the one to tell; what this cannot clear, the next `prepare` will.
            drop(purge(programs, uid));
        }
        made.map(|parts| Prepared { parts: Some(parts), dns })
    }

    /// Takes over the pinned hooks of a pod: checks what they are attached to, then replaces their
    /// programs in place. Listeners of the earlier agent are gone with it; until new ones are set,
    /// connections are dropped.
    pub fn adopt(
        programs: &Programs,
        uid: &PodUid,
        expected: Expected,
    ) -> Result<Self, AdoptError> {
        let pins = programs.pins().pod(uid);
        let links = inspect(programs, uid, expected)?;
        programs.attach_root(expected.dns).map_err(HookError::from)?;
        let maps =
            PodMaps::open(&pins, programs.cpus()).map_err(failed("open the pod's pinned maps"))?;
        if !maps.is_in(programs.pods()).map_err(failed("look for the pod in the outer maps"))? {
            let missing = "its entry in the outer maps";
            return Err(AdoptError::Incomplete { uid: uid.clone(), missing });
        }
        let steer = programs.load_pod(&pins).map_err(HookError::from)?;
        for (link, fd) in &links {
            let program = programs.link_program(*link).unwrap_or(steer.as_fd());
            bpf::link_update(fd, program).map_err(|source| match source.raw_os_error() {
                Some(libc::ENOLINK) if *link == PodLink::SkLookup => {
                    AdoptError::NetnsGone { uid: uid.clone() }
                }
                Some(libc::ENOLINK) => AdoptError::CgroupGone { uid: uid.clone() },
                _ => failed("replace the program of a link")(source).into(),
            })?;
        }
        if programs.hooked() == Hooked::Root {
            remove_own(&pins)?;
        }
        let parts = Parts { programs: programs.clone(), pins, maps, steer };
        let hooks = Self { parts, dns: expected.dns, links };
        hooks.maps().set_active(true).map_err(failed("activate capture"))?;
        hooks.maps().sweep().map_err(failed("sweep the registry"))?;
        Ok(hooks)
    }

    /// The pod's maps.
    pub fn maps(&self) -> &PodMaps {
        &self.parts.maps
    }

    /// Whether cgroup and network namespace still exist.
    pub fn state(&self) -> Result<HookState, HookError> {
        for (_, fd) in &self.links {
            let info = bpf::link_info(fd).map_err(failed("inspect a link"))?;
            match info.target {
                LinkTarget::Cgroup { id: 0 } => return Ok(HookState::CgroupGone),
                LinkTarget::Netns { inode: 0 } => return Ok(HookState::NetnsGone),
                LinkTarget::Cgroup { .. } | LinkTarget::Netns { .. } | LinkTarget::Other { .. } => {
                }
            }
        }
        if self.parts.programs.is_root_attached(self.dns) {
            Ok(HookState::Attached)
        } else {
            Ok(HookState::RootUnhooked)
        }
    }

    /// Puts back what somebody took off the root.
    pub fn mend_root(&self) -> Result<(), HookError> {
        Ok(self.parts.programs.attach_root(self.dns)?)
    }

    /// Detaches the hooks and removes every pin; those on the root if no other pod needs them. Established
    /// connections live on; outbound capture
    /// stops first, inbound steering next. Links whose target is gone are just removed. After a failure
    /// what is still attached captures again, and the call can be repeated.
    pub fn detach(&self) -> Result<(), HookError> {
        self.maps().set_active(false).map_err(failed("end capture"))?;
        let detached = self.links.iter().rev().try_for_each(|(_, fd)| detach_link(fd));
        let detached = detached.and_then(|()| self.parts.remove());
        let programs = &self.parts.programs;
        let detached = detached.and_then(|()| Ok(programs.settle_root()?));
        if detached.is_err() {
            // The first error is the one to tell.
            drop(self.maps().set_active(true));
        }
        detached
    }
}

impl Prepared {
    /// The pod's maps; set its listeners here.
    pub fn maps(&self) -> &PodMaps {
        &self.parts().maps
    }

    /// Attaches the hooks, then switches capture on. On failure nothing stays attached or pinned.
    /// `cgroup` is the pod's cgroup v2 folder, `netns` its network namespace, both opened. With hooks on
    /// the root the cgroup is no matter.
    pub fn activate(
        mut self,
        cgroup: Option<BorrowedFd<'_>>,
        netns: BorrowedFd<'_>,
    ) -> Result<PodHooks, HookError> {
        let mut links = Vec::with_capacity(PodLink::ALL.len());
        let attach_all = |links: &mut Vec<(PodLink, OwnedFd)>| {
            let parts = self.parts();
            parts.programs.attach_root(self.dns)?;
            for link in PodLink::in_folder(self.dns, parts.programs.hooked()) {
                links.push((link, parts.attach(link, cgroup, netns)?));
                let (_, fd) = links.last().expect("just pushed");
                bpf::pin(fd, &parts.pins.link(link)).map_err(failed("pin a link"))?;
            }
            parts.maps.set_active(true).map_err(failed("activate capture"))
        };
        if let Err(error) = attach_all(&mut links) {
            for (_, fd) in links.iter().rev() {
                // The first error is the one to tell; dropping descriptor and pin detaches as well.
                drop(bpf::link_detach(fd));
            }
            return Err(error);
        }
        let parts = self.parts.take().expect("taken only here");
        Ok(PodHooks { parts, dns: self.dns, links })
    }

    fn parts(&self) -> &Parts {
        self.parts.as_ref().expect("taken only by `activate`, which consumes self")
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if let Some(parts) = self.parts.take() {
            // Nothing to do about a failure here: the next `prepare` clears what is left.
            drop(parts.remove().map(|()| parts.programs.settle_root()));
        }
    }
}

impl Parts {
    fn attach(
        &self,
        link: PodLink,
        cgroup: Option<BorrowedFd<'_>>,
        netns: BorrowedFd<'_>,
    ) -> Result<OwnedFd, HookError> {
        let (program, target) = match self.programs.link_program(link) {
            Some(program) => (program, cgroup.ok_or(HookError::NoCgroup)?),
            None => (self.steer.as_fd(), netns),
        };
        bpf::link_create(program, target, link.attach_type()).map_err(failed("attach a hook"))
    }

    /// Outer entries first: no program finds maps that are about to go.
    fn remove(&self) -> Result<(), HookError> {
        forget(&self.programs, &self.maps)?;
        self.pins.remove()?;
        Ok(())
    }
}

/// Opens a pod's pinned links and checks what they are attached to. Changes nothing.
pub fn inspect(
    programs: &Programs,
    uid: &PodUid,
    expected: Expected,
) -> Result<Vec<(PodLink, OwnedFd)>, AdoptError> {
    let pins = programs.pins().pod(uid);
    let hooked = programs.hooked();
    match pins.completeness(expected.dns, hooked) {
        Completeness::Absent => return Err(AdoptError::NotFound { uid: uid.clone() }),
        Completeness::Partial { missing } => {
            return Err(AdoptError::Incomplete { uid: uid.clone(), missing });
        }
        Completeness::Whole => {}
    }
    let mut links = Vec::with_capacity(PodLink::ALL.len());
    for link in PodLink::in_folder(expected.dns, hooked) {
        let fd = bpf::get(&pins.link(link)).map_err(failed("open a pinned link"))?;
        let found = bpf::link_info(&fd).map_err(failed("inspect a pinned link"))?.target;
        verify(uid, link, found, expected)?;
        links.push((link, fd));
    }
    Ok(links)
}

/// Attaches hooks to the cgroup of a pod that has none of its own, because an earlier agent had them on the
/// root. Those stay until no pod needs them. Can be repeated after a failure.
pub fn attach_own(
    programs: &Programs,
    uid: &PodUid,
    dns: DnsCapture,
    cgroup: (u64, BorrowedFd<'_>),
) -> Result<(), HookError> {
    let pins = programs.pins().pod(uid);
    let (id, folder) = cgroup;
    for link in PodLink::on_cgroup(dns) {
        let Some(program) = programs.link_program(link) else { continue };
        let path = pins.link(link);
        if let Ok(old) = bpf::get(&path) {
            let found = bpf::link_info(&old).map_err(failed("inspect a pinned link"))?.target;
            if found == (LinkTarget::Cgroup { id }) {
                continue;
            }
            std::fs::remove_file(&path).map_err(failed("unpin a link"))?;
        }
        let fd = bpf::link_create(program, folder, link.attach_type())
            .map_err(failed("attach a hook"))?;
        bpf::pin(&fd, &path).map_err(failed("pin a link"))?;
    }
    Ok(())
}

/// Takes the hooks off a pod's own cgroup, where those on the root have taken over.
fn remove_own(pins: &PodPins) -> Result<(), HookError> {
    for link in PodLink::on_cgroup(DnsCapture::On).rev() {
        let path = pins.link(link);
        match bpf::get(&path) {
            Ok(fd) => detach_link(&fd)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed("open a pinned link")(error)),
        }
        std::fs::remove_file(&path).map_err(failed("unpin a link"))?;
    }
    Ok(())
}

/// The ports that an earlier agent told a pod's hooks for questions, as far as they are pinned. Sockets
/// of the pod may be connected to them.
pub(super) fn pinned_dns_ports(programs: &Programs, uid: &PodUid) -> Option<DnsPorts> {
    let path = programs.pins().pod(uid).map("SETTINGS");
    let settings = Map::<u32, ebpf_abi::Settings>::open(&path).ok()?.get(&0).ok()??;
    settings.flags.captures_dns().then_some(DnsPorts(settings.dns_ports))
}

/// Removes whatever is left of a pod, whole or half written, without looking at what it is attached to.
/// Detaches live links. No error when there is nothing.
pub fn purge(programs: &Programs, uid: &PodUid) -> Result<(), HookError> {
    let pins = programs.pins().pod(uid);
    for link in PodLink::ALL.into_iter().rev() {
        match bpf::get(&pins.link(link)) {
            Ok(fd) => detach_link(&fd)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("open a pinned link")(error)),
        }
    }
    let outer = programs.pods();
    let inner = ["TUPLES", "PREFIXES", "SETTINGS", "COUNTERS"];
    for (map, name) in outer.all().into_iter().zip(inner) {
        match bpf::get(&pins.map(name)) {
            Ok(fd) => {
                let id = bpf::map_info(&fd).map_err(failed("inspect a pinned map"))?.id;
                remove_inner(programs, map, id)
                    .map_err(failed("remove a pod from an outer map"))?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("open a pinned map")(error)),
        }
    }
    pins.remove()?;
    programs.settle_root()?;
    Ok(())
}

fn make_parts(
    programs: &Programs,
    pins: PodPins,
    spec: &AttachSpec,
    settings: ebpf_abi::Settings,
) -> Result<Parts, HookError> {
    let steer = programs.load_pod(&pins)?;
    let maps = PodMaps::open(&pins, programs.cpus()).map_err(failed("open the pod's new maps"))?;
    maps.write_settings(&settings).map_err(failed("write the pod's settings"))?;
    maps.replace_prefixes(&spec.prefixes)?;
    let add = |outer: &Map<u64, u32>, inner: BorrowedFd<'_>| {
        outer.set(&spec.netns_cookie, &bpf::descriptor(inner), Update::Insert)
    };
    each_outer(programs.pods(), &maps, add).map_err(|source| match source.raw_os_error() {
        Some(libc::EEXIST) => HookError::NetnsTaken,
        Some(libc::E2BIG) => HookError::TooManyPods,
        _ => failed("add the pod to an outer map")(source),
    })?;
    Ok(Parts { programs: programs.clone(), pins, maps, steer })
}

fn verify(
    uid: &PodUid,
    link: PodLink,
    found: LinkTarget,
    expected: Expected,
) -> Result<(), AdoptError> {
    let matches = match (link, found) {
        (PodLink::SkLookup, LinkTarget::Netns { inode: 0 }) => {
            return Err(AdoptError::NetnsGone { uid: uid.clone() });
        }
        (PodLink::SkLookup, LinkTarget::Netns { inode }) => {
            u64::from(inode) == expected.netns_inode
        }
        (PodLink::SkLookup, _) => false,
        (_, LinkTarget::Cgroup { id: 0 }) => {
            return Err(AdoptError::CgroupGone { uid: uid.clone() });
        }
        (_, LinkTarget::Cgroup { id }) => Some(id) == expected.cgroup_id,
        (_, _) => false,
    };
    if matches {
        return Ok(());
    }
    Err(AdoptError::Mismatch { uid: uid.clone(), link: link.name(), found, expected })
}

/// Removes the entries of a namespace from the outer maps: what [`purge`] cannot find when the pins
/// of a pod are lost.
pub fn forget_namespace(programs: &Programs, netns_cookie: u64) -> Result<(), HookError> {
    for outer in programs.pods().all() {
        outer.delete(&netns_cookie).map_err(failed("remove a namespace from an outer map"))?;
    }
    programs.forget_resolvers(netns_cookie).map_err(failed("forget a namespace's resolvers"))?;
    Ok(())
}

/// Removes a pod's entries from the outer maps, whatever cookie they have.
fn forget(programs: &Programs, maps: &PodMaps) -> Result<(), HookError> {
    let remove = |outer: &Map<u64, u32>, inner: BorrowedFd<'_>| {
        remove_inner(programs, outer, bpf::map_info(inner)?.id)
    };
    each_outer(programs.pods(), maps, remove).map_err(failed("remove the pod from an outer map"))
}

/// Changes the outer maps at once. The kernel ends every change of an outer map with a grace period of
/// 10 to 20 ms, and several waits together take no longer than one. The first error is returned
/// after all have run.
fn each_outer(
    outer: &OuterMaps,
    maps: &PodMaps,
    change: impl Fn(&Map<u64, u32>, BorrowedFd<'_>) -> io::Result<()> + Sync,
) -> io::Result<()> {
    let change = &change;
    std::thread::scope(|scope| {
        let mut running = Vec::with_capacity(maps.inner().len());
        for (outer, inner) in outer.all().into_iter().zip(maps.inner()) {
            let name = "outer-map".to_owned();
            let spawned = std::thread::Builder::new()
                .name(name)
                .spawn_scoped(scope, move || change(outer, inner))?;
            running.push(spawned);
        }
        let results: Vec<_> = running
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into())))
            .collect();
        results.into_iter().collect()
    })
}

/// Removes a pod's inner map from an outer one, and what else the node's maps hold under its cookie.
fn remove_inner(programs: &Programs, outer: &Map<u64, u32>, id: u32) -> io::Result<()> {
    for cookie in outer.keys()? {
        if outer.get(&cookie)? == Some(id) {
            outer.delete(&cookie)?;
            programs.forget_resolvers(cookie)?;
        }
    }
    Ok(())
}

/// Names the operation that the kernel refused.
fn failed(operation: &'static str) -> impl FnOnce(io::Error) -> HookError {
    move |source| HookError::Kernel { operation, source }
}

/// Detaches a link; one whose target is gone has nothing to detach.
fn detach_link(link: &OwnedFd) -> Result<(), HookError> {
    match bpf::link_detach(link) {
        Ok(()) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => Ok(()),
        Err(source) => Err(HookError::Kernel { operation: "detach a link", source }),
    }
}
