//! Who brings pods' connections to the proxy on this node: chosen once, at start, from what was found.

use std::fmt;

/// What the operator wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// What the node can.
    #[default]
    Auto,
    /// Hooks on each pod's own cgroup, or nothing.
    Ebpf,
    /// Hooks on the root of the hierarchy, or nothing.
    EbpfRoot,
    /// What a CNI agent redirects.
    External,
}

impl Wish {
    /// As `WARREN_REDIRECTION` has it.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "auto" => Some(Self::Auto),
            "ebpf" => Some(Self::Ebpf),
            "ebpf-root" => Some(Self::EbpfRoot),
            "external" => Some(Self::External),
            _ => None,
        }
    }
}

/// How connections are captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Hooks on each pod's own cgroup.
    Ebpf,
    /// Hooks on the root of the unified hierarchy, which see every socket of the node.
    EbpfRoot,
    /// The rules of a CNI agent.
    External,
}

impl Mode {
    /// Its name, as `WARREN_REDIRECTION` and `warren status` have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ebpf => "ebpf",
            Self::EbpfRoot => "ebpf-root",
            Self::External => "external",
        }
    }

    /// What this mode does not do and the first one does, for people. Never silent: `warren status` has it.
    #[must_use]
    pub fn limits(self) -> &'static [&'static str] {
        match self {
            Self::Ebpf => &[],
            Self::EbpfRoot => &[
                "a process that makes a network namespace of its own inside a pod is not captured \
                 there (ebpf: refused)",
                "whoever enters a pod's network namespace counts as the pod, such as \
                 `kubectl port-forward` (ebpf: judged)",
                "programs of others that were on the root before rewrite destinations first (ebpf: \
                 after capture)",
                "the hooks run for every socket of the node while a pod is captured",
            ],
            Self::External => &["a pod with NET_ADMIN can take the rules off (ebpf: cannot)"],
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether something was found to work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ability {
    Works,
    Fails,
}

/// Whether pods have cgroups in the unified hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodCgroups {
    /// Whoever enrols a pod names its cgroup.
    Told,
    /// There is no other hierarchy.
    NoOther,
    /// There are others, and every pod that was seen is in the unified one.
    Seen,
    /// There are others, and a pod that was seen is not in the unified one.
    Elsewhere,
    /// There are others, and no pod was seen.
    NoneSeen,
}

/// Whether a CNI agent could redirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CniAgent {
    /// Its socket is there.
    Present,
    /// It is not.
    Absent,
    /// Pods come from elsewhere, and two would say which there are.
    Excluded,
}

/// Pods that an agent before this one has left captured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Held {
    /// None, or each may have hooks on its own cgroup.
    #[default]
    Movable,
    /// One is captured by hooks on the root, and no cgroup of its own is known.
    OnRootOnly,
}

/// What was found on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Our programs in this kernel, on a cgroup of ours.
    pub kernel: Ability,
    /// A program on the root of the unified hierarchy.
    pub root: Ability,
    pub pods: PodCgroups,
    pub held: Held,
    pub cni_agent: CniAgent,
}

/// The mode and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    pub mode: Mode,
    pub reason: Reason,
}

/// Why a mode was chosen. The codes are an interface, the texts are for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The setting says so.
    Forced,
    /// The best mode, and nothing is against it.
    PodCgroups,
    /// Pods are in other hierarchies.
    PodsElsewhere,
    /// Nothing tells where pods will be, and beside other hierarchies they may be there.
    PodsUnknown,
    /// A pod that is captured already could not be in a better mode.
    PodsHeld,
    /// Our hooks do not work here.
    HooksFail,
}

impl Reason {
    /// The stable word.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Forced => "FORCED",
            Self::PodCgroups => "POD_CGROUPS",
            Self::PodsElsewhere => "PODS_ELSEWHERE",
            Self::PodsUnknown => "PODS_UNKNOWN",
            Self::PodsHeld => "PODS_HELD",
            Self::HooksFail => "HOOKS_FAIL",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forced => "WARREN_REDIRECTION says so",
            Self::PodCgroups => "pods have cgroups in the unified hierarchy",
            Self::PodsElsewhere => {
                "pods of this node are in other cgroup hierarchies than the unified one"
            }
            Self::PodsUnknown => {
                "there are other cgroup hierarchies than the unified one, and no pod to tell which is used"
            }
            Self::PodsHeld => {
                "a pod that hooks on the root capture has no cgroup that is known in the unified hierarchy"
            }
            Self::HooksFail => "hooks of our own do not work here, and a CNI agent is there",
        })
    }
}

/// What the only possible mode lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmet {
    /// Our programs do not work in this kernel.
    Kernel,
    /// Nothing can be attached to the root, and pods have no cgroups.
    Root,
}

/// Chooses. What is forced is that or nothing; what is not is the first that works of hooks on pods'
/// cgroups, hooks on the root, and a CNI agent.
pub fn choose(wish: Wish, facts: Facts) -> Result<Choice, Unmet> {
    let forced = |mode| Choice { mode, reason: Reason::Forced };
    match wish {
        Wish::External => return Ok(forced(Mode::External)),
        Wish::Ebpf => return kernel(facts).map(|()| forced(Mode::Ebpf)),
        Wish::EbpfRoot => {
            return kernel(facts).and_then(|()| root(facts)).map(|()| forced(Mode::EbpfRoot));
        }
        Wish::Auto => {}
    }
    let hooks = kernel(facts).and_then(|()| match (facts.pods, facts.held) {
        (PodCgroups::Told | PodCgroups::NoOther | PodCgroups::Seen, Held::Movable) => {
            Ok(Choice { mode: Mode::Ebpf, reason: Reason::PodCgroups })
        }
        // Without the root that pod is in nobody's reach. The start in this mode refuses, and names it.
        (PodCgroups::Told | PodCgroups::NoOther | PodCgroups::Seen, Held::OnRootOnly) => {
            Ok(on_root(facts, Reason::PodsHeld)
                .unwrap_or(Choice { mode: Mode::Ebpf, reason: Reason::PodCgroups }))
        }
        (PodCgroups::Elsewhere, _) => on_root(facts, Reason::PodsElsewhere),
        (PodCgroups::NoneSeen, _) => on_root(facts, Reason::PodsUnknown),
    });
    match (hooks, facts.cni_agent) {
        (Err(_), CniAgent::Present) => {
            Ok(Choice { mode: Mode::External, reason: Reason::HooksFail })
        }
        (hooks, _) => hooks,
    }
}

fn on_root(facts: Facts, reason: Reason) -> Result<Choice, Unmet> {
    root(facts).map(|()| Choice { mode: Mode::EbpfRoot, reason })
}

fn kernel(facts: Facts) -> Result<(), Unmet> {
    match facts.kernel {
        Ability::Works => Ok(()),
        Ability::Fails => Err(Unmet::Kernel),
    }
}

fn root(facts: Facts) -> Result<(), Unmet> {
    match facts.root {
        Ability::Works => Ok(()),
        Ability::Fails => Err(Unmet::Root),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL_PODS: [PodCgroups; 5] = [
        PodCgroups::Told,
        PodCgroups::NoOther,
        PodCgroups::Seen,
        PodCgroups::Elsewhere,
        PodCgroups::NoneSeen,
    ];

    fn facts(pods: PodCgroups) -> Facts {
        let works = Ability::Works;
        let held = Held::Movable;
        Facts { kernel: works, root: works, pods, held, cni_agent: CniAgent::Absent }
    }

    #[test]
    fn the_mode_follows_from_where_pods_are() {
        let expected = [
            (Mode::Ebpf, Reason::PodCgroups),
            (Mode::Ebpf, Reason::PodCgroups),
            (Mode::Ebpf, Reason::PodCgroups),
            (Mode::EbpfRoot, Reason::PodsElsewhere),
            (Mode::EbpfRoot, Reason::PodsUnknown),
        ];
        for (pods, (mode, reason)) in ALL_PODS.into_iter().zip(expected) {
            // A CNI agent that is there changes nothing where hooks work.
            for cni_agent in [CniAgent::Absent, CniAgent::Present, CniAgent::Excluded] {
                let facts = Facts { cni_agent, ..facts(pods) };
                assert_eq!(choose(Wish::Auto, facts), Ok(Choice { mode, reason }), "{facts:?}");
            }
        }
    }

    #[test]
    fn a_pod_that_only_the_root_can_hold_keeps_the_mode_there() {
        let held = |pods, root| Facts { held: Held::OnRootOnly, root, ..facts(pods) };
        for (pods, root, mode, reason) in [
            (PodCgroups::Told, Ability::Works, Mode::EbpfRoot, Reason::PodsHeld),
            (PodCgroups::NoOther, Ability::Works, Mode::EbpfRoot, Reason::PodsHeld),
            (PodCgroups::Seen, Ability::Works, Mode::EbpfRoot, Reason::PodsHeld),
            // Pods that are elsewhere anyhow are the better reason.
            (PodCgroups::Elsewhere, Ability::Works, Mode::EbpfRoot, Reason::PodsElsewhere),
            (PodCgroups::NoneSeen, Ability::Works, Mode::EbpfRoot, Reason::PodsUnknown),
            // The start names the pod; a CNI agent could not take it over either.
            (PodCgroups::Seen, Ability::Fails, Mode::Ebpf, Reason::PodCgroups),
        ] {
            for cni_agent in [CniAgent::Absent, CniAgent::Present] {
                let facts = Facts { cni_agent, ..held(pods, root) };
                assert_eq!(choose(Wish::Auto, facts), Ok(Choice { mode, reason }), "{facts:?}");
            }
        }
        let forced = Choice { mode: Mode::Ebpf, reason: Reason::Forced };
        assert_eq!(choose(Wish::Ebpf, held(PodCgroups::Seen, Ability::Works)), Ok(forced));
    }

    #[test]
    fn what_is_forced_is_that_or_nothing() {
        for pods in ALL_PODS {
            let good = facts(pods);
            let no_root = Facts { root: Ability::Fails, ..good };
            let no_kernel = Facts { kernel: Ability::Fails, cni_agent: CniAgent::Present, ..good };
            for (wish, facts, expected) in [
                (Wish::Ebpf, good, Ok(Mode::Ebpf)),
                (Wish::Ebpf, no_root, Ok(Mode::Ebpf)),
                (Wish::Ebpf, no_kernel, Err(Unmet::Kernel)),
                (Wish::EbpfRoot, good, Ok(Mode::EbpfRoot)),
                (Wish::EbpfRoot, no_root, Err(Unmet::Root)),
                (Wish::EbpfRoot, no_kernel, Err(Unmet::Kernel)),
                (Wish::External, no_kernel, Ok(Mode::External)),
                (Wish::External, good, Ok(Mode::External)),
            ] {
                let expected = expected.map(|mode| Choice { mode, reason: Reason::Forced });
                assert_eq!(choose(wish, facts), expected, "{wish:?} {facts:?}");
            }
        }
    }

    #[test]
    fn a_cni_agent_is_the_last_resort() {
        for (pods, kernel, root, unmet) in [
            (PodCgroups::NoOther, Ability::Fails, Ability::Works, Unmet::Kernel),
            (PodCgroups::Elsewhere, Ability::Works, Ability::Fails, Unmet::Root),
            (PodCgroups::NoneSeen, Ability::Works, Ability::Fails, Unmet::Root),
        ] {
            let facts = Facts { kernel, root, ..facts(pods) };
            assert_eq!(choose(Wish::Auto, facts), Err(unmet));
            let excluded = Facts { cni_agent: CniAgent::Excluded, ..facts };
            assert_eq!(choose(Wish::Auto, excluded), Err(unmet));
            let present = Facts { cni_agent: CniAgent::Present, ..facts };
            let external = Choice { mode: Mode::External, reason: Reason::HooksFail };
            assert_eq!(choose(Wish::Auto, present), Ok(external));
        }
    }

    #[test]
    fn a_wish_has_the_name_of_its_mode() {
        assert_eq!(Wish::parse("auto"), Some(Wish::Auto));
        for (wish, mode) in [
            (Wish::Ebpf, Mode::Ebpf),
            (Wish::EbpfRoot, Mode::EbpfRoot),
            (Wish::External, Mode::External),
        ] {
            assert_eq!(Wish::parse(mode.as_str()), Some(wish));
        }
        assert_eq!(Wish::parse("ebpf_root"), None);
    }

    #[test]
    fn only_the_first_mode_has_no_limits() {
        assert!(Mode::Ebpf.limits().is_empty());
        assert!(!Mode::EbpfRoot.limits().is_empty() && !Mode::External.limits().is_empty());
    }
}
