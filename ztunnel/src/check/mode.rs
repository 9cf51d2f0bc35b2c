//! Which mode of capture an agent would choose here, and why.

use enrol::redirection::{
    Ability, Choice, CniAgent, Facts, Held, Mode, PodCgroups, Unmet, Wish, choose,
};
use model::causes;

use super::places::Places;
use super::report::{Check, Kind, Outcome};
use crate::capture::HostView;
use crate::capture::probe;
use crate::config::setting_default;

const WISH: &str = "WARREN_REDIRECTION";
const CNI_AGENT: &str = "INPOD_UDS";
const NEEDED_FOR: &str = "capture";

/// `kernel` is what the other checks say of it. Nothing is attached: whether the root takes a program is
/// known when the agent starts.
pub(super) fn check(
    places: &Places,
    kernel: Ability,
    variable: impl Fn(&str) -> Option<String>,
) -> Check {
    let value = |name: &str| variable(name).unwrap_or_else(|| setting_default(name).to_owned());
    let wish = Wish::parse(&value(WISH)).unwrap_or_default();
    let pods = match pods(places) {
        Ok(pods) => pods,
        Err(error) => {
            let why = format!("where pods' cgroups are cannot be told: {error}");
            return Check::new(Kind::Mode, "capture", NEEDED_FOR, Outcome::Unknown(why));
        }
    };
    let root = probe::could_use_root(&places.cgroup).map_err(|error| causes(&error));
    let cni_agent = if places.is_kubernetes {
        CniAgent::Excluded
    } else if std::path::Path::new(&value(CNI_AGENT)).exists() {
        CniAgent::Present
    } else {
        CniAgent::Absent
    };
    let works = if root.is_ok() { Ability::Works } else { Ability::Fails };
    // Records are the agent's alone to read; `WARREN_REDIRECTION=auto` stays where its pods are.
    let facts = Facts { kernel, root: works, pods, held: Held::Movable, cni_agent };
    match choose(wish, facts) {
        Ok(choice) => told(choice),
        Err(unmet) => Check::new(Kind::Mode, "capture", NEEDED_FOR, lacking(unmet, root.err())),
    }
}

fn told(Choice { mode, reason }: Choice) -> Check {
    let outcome = match mode {
        Mode::Ebpf => Outcome::Fine,
        Mode::EbpfRoot | Mode::External => {
            let limits = mode.limits().iter().map(|&limit| format!("\n{limit}"));
            Outcome::Limited(format!("{reason}{}", limits.collect::<String>()))
        }
    };
    Check::new(Kind::Mode, format!("capture {mode}"), NEEDED_FOR, outcome)
}

fn lacking(unmet: Unmet, root: Option<String>) -> Outcome {
    Outcome::Missing(match unmet {
        Unmet::Kernel => "hooks of our own do not work here; the kernel's rows say why".to_owned(),
        Unmet::Root => format!(
            "pods have no cgroups that are known in the unified hierarchy, and its root cannot have \
             hooks: {}",
            root.unwrap_or_default()
        ),
    })
}

/// Where pods' cgroups are, as the agent will see it from the host's cgroup namespace.
fn pods(places: &Places) -> Result<PodCgroups, String> {
    if !places.is_kubernetes {
        return Ok(PodCgroups::Told);
    }
    let host = HostView::new(places.proc.clone(), places.cgroup.clone());
    let entered = host.enter_cgroup_namespace();
    entered.and_then(|()| host.pod_cgroups()).map_err(|error| causes(&error))
}

#[cfg(test)]
mod tests {
    use enrol::redirection::Reason;

    use super::*;

    #[test]
    fn a_mode_is_told_with_its_limits() {
        let ebpf = told(Choice { mode: Mode::Ebpf, reason: Reason::PodCgroups });
        assert_eq!(ebpf.outcome, Outcome::Fine);
        let root = told(Choice { mode: Mode::EbpfRoot, reason: Reason::PodsElsewhere });
        let Outcome::Limited(why) = root.outcome else { panic!("it has limits") };
        assert!(why.contains("other cgroup hierarchies") && why.contains("namespace of its own"));
        let lacking = lacking(Unmet::Root, Some("not a cgroup v2 folder".to_owned()));
        assert!(matches!(lacking, Outcome::Missing(why) if why.contains("not a cgroup v2 folder")));
    }
}
