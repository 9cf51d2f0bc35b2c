//! The hooks on the root of the hierarchy, where pods have none of their own: attached before the first pod
//! that needs them is captured, and taken off after the last one has left.
//!
//! They are pinned among what is shared. What a pod needs of them is read from its pins and not counted, so
//! that an agent that was killed leaves nothing wrong. Callers own the pins, so there is one at a time.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, OwnedFd},
};

use ebpf_abi::{Settings, connect::Hooked};
use parking_lot::Mutex;

use super::{
    agent_cgroup::Cgroup,
    bpf::{self, LinkTarget, Map},
    hooks::keep_link_pinned,
    pins::{PodLink, PodPins},
    programs::{HookPlace, Programs, ProgramsError},
    questions::DnsCapture,
};

/// Hooks on the root that this agent holds.
pub(super) type RootLinks = Mutex<Vec<(PodLink, OwnedFd)>>;

/// What pods need of the hooks on the root.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Need {
    Nothing,
    Connections,
    Questions,
}

impl Need {
    fn includes(self, link: PodLink) -> bool {
        match self {
            Self::Nothing => false,
            Self::Connections => !link.is_for_datagrams(),
            Self::Questions => true,
        }
    }
}

impl Programs {
    /// Where the pods' hooks are.
    pub fn hooked(&self) -> Hooked {
        self.place().hooked()
    }

    /// Attaches what a pod needs on the root and is not there. Nothing where pods have their own hooks.
    pub fn attach_root(&self, dns: DnsCapture) -> Result<(), ProgramsError> {
        match self.place() {
            HookPlace::Pods => Ok(()),
            HookPlace::Root { cgroup } => {
                PodLink::on_cgroup(dns).try_for_each(|link| self.attach_root_link(cgroup, link))
            }
        }
    }

    /// Replaces the programs of the hooks that an earlier agent has pinned.
    pub(super) fn adopt_root(&self) -> Result<(), ProgramsError> {
        let HookPlace::Root { cgroup } = self.place() else { return Ok(()) };
        PodLink::on_cgroup(DnsCapture::On)
            .filter(|link| self.pins().root_link(*link).exists())
            .try_for_each(|link| self.attach_root_link(cgroup, link))
    }

    /// Pins the hooks that this agent has on the root again, as far as their pins are not there. What was not.
    pub(super) fn repin_root(&self) -> Result<Vec<&'static str>, ProgramsError> {
        let mut back = Vec::new();
        for (link, held) in self.root().lock().iter() {
            let pinned = keep_link_pinned(held, &self.pins().root_link(*link));
            if pinned.map_err(failed("pin a hook on the root"))? {
                back.push(link.name());
            }
        }
        Ok(back)
    }

    /// Takes off what no pod needs any more.
    pub fn settle_root(&self) -> Result<(), ProgramsError> {
        let need = self.need_of_root()?;
        for link in PodLink::on_cgroup(DnsCapture::On).rev().filter(|link| !need.includes(*link)) {
            self.root().lock().retain(|(held, _)| *held != link);
            let path = self.pins().root_link(link);
            match bpf::get(&path) {
                Ok(fd) => detach(&fd)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(failed("open a hook on the root")(source)),
            }
            fs::remove_file(&path).map_err(failed("unpin a hook on the root"))?;
        }
        Ok(())
    }

    /// Whether every hook on the root that a pod needs is on it.
    pub fn is_root_attached(&self, dns: DnsCapture) -> bool {
        let HookPlace::Root { cgroup } = self.place() else { return true };
        let held = self.root().lock();
        PodLink::on_cgroup(dns)
            .all(|link| held.iter().any(|(other, fd)| *other == link && is_on(fd, cgroup)))
    }

    /// The new one is on before an old one that is elsewhere goes.
    fn attach_root_link(&self, cgroup: &Cgroup, link: PodLink) -> Result<(), ProgramsError> {
        let mut held = self.root().lock();
        if held.iter().any(|(other, fd)| *other == link && is_on(fd, cgroup)) {
            return Ok(());
        }
        held.retain(|(other, _)| *other != link);
        let program = self.link_program(link).expect("only sk_lookup is not shared");
        let path = self.pins().root_link(link);
        let old = match bpf::get(&path) {
            Ok(old) => Some(old),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(failed("open a hook on the root")(source)),
        };
        if let Some(old) = old {
            if is_on(&old, cgroup) && bpf::link_update(&old, program).is_ok() {
                held.push((link, old));
                return Ok(());
            }
            let new = self.new_root_link(cgroup, link)?;
            fs::remove_file(&path).map_err(failed("unpin a hook on the root"))?;
            bpf::pin(&new, &path).map_err(failed("pin a hook on the root"))?;
            held.push((link, new));
            return detach(&old);
        }
        let new = self.new_root_link(cgroup, link)?;
        bpf::pin(&new, &path).map_err(failed("pin a hook on the root"))?;
        held.push((link, new));
        Ok(())
    }

    fn new_root_link(&self, cgroup: &Cgroup, link: PodLink) -> Result<OwnedFd, ProgramsError> {
        let folder = File::open(cgroup.path()).map_err(ProgramsError::Root)?;
        let program = self.link_program(link).expect("only sk_lookup is not shared");
        bpf::link_create(program, folder.as_fd(), link.attach_type())
            .map_err(failed("attach a hook to the root"))
    }

    fn need_of_root(&self) -> Result<Need, ProgramsError> {
        let pins = self.pins();
        let mut need = Need::Nothing;
        for uid in pins.pods()? {
            let pod = pins.pod(&uid);
            if !pod.needs_root() {
                continue;
            }
            if asks_questions(&pod) {
                return Ok(Need::Questions);
            }
            need = Need::Connections;
        }
        Ok(need)
    }
}

/// Whether a pod's questions are captured, as its pinned settings say. Unknown is yes.
fn asks_questions(pod: &PodPins) -> bool {
    let settings = Map::<u32, Settings>::open(&pod.map("SETTINGS")).and_then(|map| map.get(&0));
    settings.ok().flatten().is_none_or(|settings| settings.flags.captures_dns())
}

fn is_on(link: &OwnedFd, cgroup: &Cgroup) -> bool {
    bpf::link_info(link).is_ok_and(|info| info.target == LinkTarget::Cgroup { id: cgroup.id() })
}

/// One that somebody has taken off already has nothing to detach.
fn detach(link: &OwnedFd) -> Result<(), ProgramsError> {
    match bpf::link_detach(link) {
        Err(error) if error.raw_os_error() != Some(nix::libc::ENOLINK) => {
            Err(failed("detach a hook from the root")(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn failed(operation: &'static str) -> impl FnOnce(io::Error) -> ProgramsError {
    move |source| ProgramsError::Kernel { operation, source }
}
