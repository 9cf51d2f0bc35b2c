//! What the kernel can do, asked by loading programs that do nothing, then the agent's own.

use model::causes;

use super::report::{Check, Kind, Outcome};
use crate::capture::probe::{self, ProbeError};
use crate::capture::programs::{self, ProgramsError};

pub(super) fn checks() -> Vec<Check> {
    let mut checks: Vec<Check> = probe::required()
        .map(|(feature, since, found)| {
            let name = format!("{feature} (Linux {since})");
            Check::new(Kind::Kernel, name, "capture", helper(found))
        })
        .collect();
    let ingress = if probe::has_ingress_ifindex() {
        Outcome::Fine
    } else {
        Outcome::Limited("what is local to a pod is told by addresses alone".to_owned())
    };
    let name = "the ingress interface in sk_lookup (Linux 5.17)";
    checks.push(Check::new(
        Kind::Kernel,
        name,
        "telling a pod's loopback from its network",
        ingress,
    ));
    let name = "the agent's programs and maps";
    checks.push(Check::new(Kind::Kernel, name, "capture", own(programs::rehearse())));
    checks
}

/// `uname -r`, without trust in what it says: distributions port features back.
pub(super) fn release() -> String {
    nix::sys::utsname::uname()
        .map_or_else(|_| "?".to_owned(), |name| name.release().to_string_lossy().into_owned())
}

fn helper(found: Result<(), ProbeError>) -> Outcome {
    match found {
        Ok(()) => Outcome::Fine,
        Err(error @ ProbeError::Permission { .. }) => Outcome::Unknown(causes(&error)),
        Err(
            error @ (ProbeError::Missing { .. }
            | ProbeError::NotCgroup2 { .. }
            | ProbeError::Cgroup { .. }
            | ProbeError::Pins(_)),
        ) => Outcome::Missing(causes(&error)),
    }
}

fn own(loaded: Result<(), ProgramsError>) -> Outcome {
    match loaded {
        Ok(()) => Outcome::Fine,
        Err(error) => Outcome::Missing(causes(&error)),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_question_that_may_not_be_asked_is_no_answer() {
        let denied = ProbeError::Permission { source: io::Error::from_raw_os_error(1) };
        assert!(matches!(helper(Err(denied)), Outcome::Unknown(why) if why.contains("CAP_BPF")));
        let detail = "unknown func".to_owned();
        let missing = ProbeError::Missing { feature: "socket storage", since: "5.3", detail };
        let why = "the kernel lacks socket storage (Linux 5.3): unknown func";
        assert_eq!(helper(Err(missing)), Outcome::Missing(why.to_owned()));
        assert_eq!(helper(Ok(())), Outcome::Fine);
        let own = own(Err(ProgramsError::NotBuilt));
        assert!(matches!(own, Outcome::Missing(why) if why.contains("built without")));
    }
}
