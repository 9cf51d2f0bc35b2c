//! Root, and what root is good for in this container.

use std::fs;

use super::report::{Check, Kind, Outcome};

const STATUS: &str = "/proc/self/status";
const ALL: &str = "root";

/// One capability (capabilities(7)).
struct Capability {
    name: &'static str,
    number: u32,
    /// An older or larger one that includes it.
    or: Option<u32>,
    needed_for: &'static str,
    only_on_kubernetes: bool,
}

const NET_ADMIN: u32 = 12;
const SYS_ADMIN: u32 = 21;

const CAPABILITIES: [Capability; 6] = [
    Capability {
        name: "CAP_SYS_ADMIN",
        number: SYS_ADMIN,
        or: None,
        needed_for: "entering pods' network namespaces, links on cgroups",
        only_on_kubernetes: false,
    },
    Capability {
        name: "CAP_NET_ADMIN",
        number: NET_ADMIN,
        or: None,
        needed_for: "network programs, transparent sockets, marks, rules and routes in pods",
        only_on_kubernetes: false,
    },
    Capability {
        name: "CAP_NET_RAW",
        number: 13,
        or: Some(NET_ADMIN),
        needed_for: "transparent sockets and marks",
        only_on_kubernetes: false,
    },
    Capability {
        name: "CAP_BPF",
        number: 39,
        or: Some(SYS_ADMIN),
        needed_for: "loading programs and making maps",
        only_on_kubernetes: false,
    },
    Capability {
        name: "CAP_PERFMON",
        number: 38,
        or: Some(SYS_ADMIN),
        needed_for: "programs that compare pointers",
        only_on_kubernetes: false,
    },
    Capability {
        name: "CAP_SYS_PTRACE",
        number: 19,
        or: None,
        needed_for: "reading in which network namespace a pod's process is",
        only_on_kubernetes: true,
    },
];

pub(super) fn checks(is_kubernetes: bool) -> Vec<Check> {
    let status = fs::read_to_string(STATUS);
    let text = status.as_deref().unwrap_or_default();
    let mut checks = vec![root(nix::unistd::geteuid().is_root())];
    let wanted = CAPABILITIES.iter().filter(|c| is_kubernetes || !c.only_on_kubernetes);
    checks.extend(wanted.map(|capability| {
        let outcome = match (effective(text), &status) {
            (Some(bits), _) => capability.outcome(bits),
            (None, Ok(_)) => Outcome::Unknown(format!("{STATUS} has no CapEff")),
            (None, Err(error)) => Outcome::Unknown(format!("{STATUS}: {error}")),
        };
        Check::new(Kind::Capability, capability.name, capability.needed_for, outcome)
    }));
    checks
}

fn root(is_root: bool) -> Check {
    let outcome = if is_root {
        Outcome::Fine
    } else {
        Outcome::Missing("run the agent as user 0".to_owned())
    };
    Check::new(Kind::Capability, ALL, "sockets and folders that only root may use", outcome)
}

impl Capability {
    fn outcome(&self, effective: u64) -> Outcome {
        let has = |number: u32| effective & (1 << number) != 0;
        if has(self.number) || self.or.is_some_and(has) {
            return Outcome::Fine;
        }
        let name = self.name.trim_start_matches("CAP_");
        Outcome::Missing(format!(
            "add {name} to the container's capabilities, or {} to the unit's \
             CapabilityBoundingSet",
            self.name
        ))
    }
}

/// The effective set, from `/proc/PID/status`.
fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capability_is_there_or_is_named() {
        let with =
            |numbers: &[u32]| numbers.iter().fold(0, |bits, number| bits | (1_u64 << number));
        for (bits, missing) in [
            (0, "CAP_SYS_ADMIN CAP_NET_ADMIN CAP_NET_RAW CAP_BPF CAP_PERFMON CAP_SYS_PTRACE"),
            (u64::MAX, ""),
            (with(&[SYS_ADMIN, NET_ADMIN]), "CAP_SYS_PTRACE"),
            (with(&[SYS_ADMIN, 13, 39, 38, 19]), "CAP_NET_ADMIN"),
            (with(&[NET_ADMIN, 39, 38, 19]), "CAP_SYS_ADMIN"),
        ] {
            let names: Vec<&str> = CAPABILITIES
                .iter()
                .filter(|capability| capability.outcome(bits) != Outcome::Fine)
                .map(|capability| capability.name)
                .collect();
            assert_eq!(names.join(" "), missing, "{bits:x}");
        }
    }

    #[test]
    fn the_effective_set_is_read() {
        let status = "Name:\tx\nCapPrm:\t00000000000000ff\nCapEff:\t000001ffffffffff\n";
        assert_eq!(effective(status), Some(0x1ff_ffff_ffff));
        assert_eq!(effective("CapEff:\tx\n"), None);
        assert_eq!(effective(""), None);
    }
}
