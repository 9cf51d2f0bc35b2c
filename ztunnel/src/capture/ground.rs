//! What capture finds on a node before it begins: whether our programs work here, and where pods are.

use std::path::Path;

use enrol::redirection::{Ability, CniAgent, Facts, Held, Mode, PodCgroups, Wish};

use super::agent_cgroup::{AgentCgroup, Cgroup};
use super::host::HostView;
use super::moving;
use super::node::{CaptureConfig, CaptureError};
use super::probe::{self, KernelFeatures, ProbeError};
use super::programs::HookPlace;
use super::records::Records;

/// What was found.
pub(super) struct Ground {
    pub(super) cgroup: AgentCgroup,
    pub(super) kernel: Result<KernelFeatures, ProbeError>,
    pods: PodCgroups,
    held: Held,
    /// The root, where hooks could be on it; `None`: it was not looked at, because none will be.
    root: Option<Result<Cgroup, ProbeError>>,
}

impl Ground {
    /// Moves this process into its cgroup and probes the kernel, and the root if hooks may have to go there.
    ///
    /// Must run before any socket of the data plane exists, because sockets keep the cgroup they
    /// were made in.
    pub(super) fn survey(wish: Wish, config: &CaptureConfig) -> Result<Self, CaptureError> {
        let mount = config.host.as_ref().map(HostView::cgroup);
        let cgroup = AgentCgroup::establish(config.cgroup.as_deref(), mount, &config.node_name)
            .map_err(CaptureError::Cgroup)?;
        let kernel = probe::probe(cgroup.leaf().path(), &config.pin_dir);
        let pods = pods(config.host.as_ref())?;
        let held = moving::held(&Records::open(&config.run_dir)?, config.host.as_ref());
        let root = may_need_root(wish, pods, held).then(|| root(&config.cgroup_root));
        Ok(Self { cgroup, kernel, pods, held, root })
    }

    pub(super) fn facts(&self, cni_agent: CniAgent) -> Facts {
        let works = |works| if works { Ability::Works } else { Ability::Fails };
        Facts {
            kernel: works(self.kernel.is_ok()),
            root: works(matches!(self.root, Some(Ok(_)))),
            pods: self.pods,
            held: self.held,
            cni_agent,
        }
    }

    /// Where hooks go in a mode with hooks of our own.
    pub(super) fn place(&self, mode: Mode) -> HookPlace {
        match (mode, &self.root) {
            (Mode::EbpfRoot, Some(Ok(root))) => HookPlace::Root { cgroup: root.clone() },
            (Mode::Ebpf | Mode::EbpfRoot | Mode::External, _) => HookPlace::Pods,
        }
    }

    /// Why no hooks of our own work.
    pub(super) fn error(self) -> Option<ProbeError> {
        let root = self.root.and_then(Result::err);
        self.kernel.err().or(root)
    }

    /// Why nothing can be on the root.
    pub(super) fn root_error(self) -> Option<ProbeError> {
        self.root.and_then(Result::err)
    }
}

/// Where pods' cgroups are. An agent that is told each pod's asks nobody.
pub(super) fn pods(host: Option<&HostView>) -> Result<PodCgroups, CaptureError> {
    Ok(host.map(HostView::pod_cgroups).transpose()?.unwrap_or(PodCgroups::Told))
}

fn may_need_root(wish: Wish, pods: PodCgroups, held: Held) -> bool {
    match (wish, pods, held) {
        (Wish::EbpfRoot, _, _)
        | (Wish::Auto, PodCgroups::Elsewhere | PodCgroups::NoneSeen, _)
        | (Wish::Auto, _, Held::OnRootOnly) => true,
        (Wish::Auto | Wish::Ebpf | Wish::External, _, _) => false,
    }
}

fn root(path: &Path) -> Result<Cgroup, ProbeError> {
    probe::probe_root(path)?;
    Cgroup::open(path).map_err(|_| ProbeError::NotCgroup2 { path: path.to_owned() })
}
