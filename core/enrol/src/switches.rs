//! How a pod is captured: what its own annotations may say, and what only its namespace's may.
//!
//! A pod's owner may turn off capture of what comes in (as in Istio) and of DNS questions. What opens a
//! way past the mesh for particular ports or addresses, or lets a pod run uncaptured, is the
//! namespace's: its annotations are changed by whoever may change the namespace. What cannot be read
//! changes nothing, so more is captured than was meant, and it is reported.

use std::collections::BTreeSet;

use cluster::{Meta, Namespace, Pod};
use ipnet::IpNet;

/// Ports of each list: the kernel's settings of a pod hold no more. Further ones are reported and have
/// no effect.
pub const PORTS_MAX: usize = 8;
/// Excluded CIDRs of a namespace; they are copied into a map of every pod. A longer list is reported and
/// has no effect.
pub const EXCLUDED_CIDRS_MAX: usize = 64;

/// On a pod, as in Istio: `true` leaves what comes in alone. HBONE is served all the same.
const BYPASS_INBOUND: &str = "ambient.istio.io/bypass-inbound-capture";
/// On a pod, as in Istio: whether its DNS questions are captured.
const DNS_CAPTURE: &str = "ambient.istio.io/dns-capture";
/// On a namespace: TCP ports of its pods that anybody reaches past the mesh.
const EXCLUDED_INBOUND: &str = "warren.dev/exclude-inbound-ports";
/// On a namespace: TCP ports that its pods reach past the mesh, wherever they are.
const EXCLUDED_OUTBOUND: &str = "warren.dev/exclude-outbound-ports";
/// On a namespace: destinations that its pods reach past the mesh.
const EXCLUDED_CIDRS: &str = "warren.dev/exclude-cidrs";
/// On a namespace: `true` lets its pods start though they could not be captured.
const FAIL_OPEN: &str = "warren.dev/fail-open";

/// Whether what comes in is captured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Inbound {
    /// It is.
    #[default]
    Captured,
    /// Only HBONE; everything else reaches the application.
    Bypassed,
}

/// What becomes of a starting pod that cannot be captured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnFailure {
    /// It does not start.
    #[default]
    Closed,
    /// It starts outside the mesh, and is captured as soon as it can be.
    Open,
}

/// What the kernel is told of a pod, beside where it is. It can be changed while the pod is captured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Switches {
    /// Ports that the kubelet reaches directly.
    pub probe_ports: Vec<u16>,
    /// Whether what comes in is captured.
    pub inbound: Inbound,
    /// The pod's ports that anybody reaches past the mesh.
    pub excluded_inbound: Vec<u16>,
    /// Ports that the pod reaches past the mesh.
    pub excluded_outbound: Vec<u16>,
    /// Destinations that the pod reaches past the mesh.
    pub excluded: Vec<IpNet>,
}

/// What a namespace says of all its pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceSwitches {
    /// See [`Switches::excluded_inbound`].
    pub excluded_inbound: Vec<u16>,
    /// See [`Switches::excluded_outbound`].
    pub excluded_outbound: Vec<u16>,
    /// See [`Switches::excluded`].
    pub excluded: Vec<IpNet>,
    /// What becomes of a pod that cannot be captured.
    pub on_failure: OnFailure,
    /// What could not be read, for people.
    pub problems: Vec<String>,
}

impl NamespaceSwitches {
    /// Reads a namespace's annotations.
    #[must_use]
    pub fn of(namespace: &Namespace) -> Self {
        let meta = &namespace.metadata;
        let mut problems = Vec::new();
        Self {
            excluded_inbound: read(meta, EXCLUDED_INBOUND, ports, &mut problems),
            excluded_outbound: read(meta, EXCLUDED_OUTBOUND, ports, &mut problems),
            excluded: read(meta, EXCLUDED_CIDRS, cidrs, &mut problems),
            on_failure: match read(meta, FAIL_OPEN, boolean, &mut problems) {
                Some(true) => OnFailure::Open,
                Some(false) | None => OnFailure::Closed,
            },
            problems,
        }
    }
}

impl Switches {
    /// What holds for a pod, and what could not be read.
    #[must_use]
    pub fn of(pod: &Pod, namespace: &NamespaceSwitches) -> (Self, Vec<String>) {
        let mut problems = namespace.problems.clone();
        let mut probe_ports = pod.kubelet_ports();
        if probe_ports.len() > PORTS_MAX {
            problems.push(format!(
                "it has {} probe ports; the kubelet's connections to those above the first \
                 {PORTS_MAX} are judged like any other",
                probe_ports.len()
            ));
            probe_ports.truncate(PORTS_MAX);
        }
        let bypassed = read(&pod.metadata, BYPASS_INBOUND, boolean, &mut problems);
        let switches = Self {
            probe_ports,
            inbound: match bypassed {
                Some(true) => Inbound::Bypassed,
                Some(false) | None => Inbound::Captured,
            },
            excluded_inbound: namespace.excluded_inbound.clone(),
            excluded_outbound: namespace.excluded_outbound.clone(),
            excluded: namespace.excluded.clone(),
        };
        (switches, problems)
    }
}

/// Whether a pod says that its DNS questions are captured, or not.
pub(crate) fn dns_capture(pod: &Pod) -> Option<bool> {
    read(&pod.metadata, DNS_CAPTURE, boolean, &mut Vec::new())
}

fn read<T: Default>(
    meta: &Meta,
    key: &str,
    parse: impl Fn(&str) -> Result<T, String>,
    problems: &mut Vec<String>,
) -> T {
    let Some(text) = meta.annotation(key) else { return T::default() };
    parse(text).unwrap_or_else(|cause| {
        problems.push(format!("{key}: {cause}"));
        T::default()
    })
}

fn boolean(text: &str) -> Result<Option<bool>, String> {
    match text.trim() {
        "true" => Ok(Some(true)),
        "false" => Ok(Some(false)),
        "" => Ok(None),
        _ => Err("expected true or false".to_owned()),
    }
}

fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

fn ports(text: &str) -> Result<Vec<u16>, String> {
    let port = |item: &str| match item.parse::<u16>() {
        Ok(port) if port != 0 => Ok(port),
        Ok(_) | Err(_) => Err(format!("{item:?} is not a port")),
    };
    let ports: BTreeSet<u16> = items(text).map(port).collect::<Result<_, _>>()?;
    if ports.len() > PORTS_MAX {
        return Err(format!("{} ports; {PORTS_MAX} are possible", ports.len()));
    }
    Ok(ports.into_iter().collect())
}

fn cidrs(text: &str) -> Result<Vec<IpNet>, String> {
    let cidr = |item: &str| {
        let parsed = item.parse::<IpNet>().map(|net| net.trunc());
        parsed.map_err(|_| format!("{item:?} is not a CIDR such as 10.0.0.0/8"))
    };
    let cidrs: BTreeSet<IpNet> = items(text).map(cidr).collect::<Result<_, _>>()?;
    if cidrs.len() > EXCLUDED_CIDRS_MAX {
        return Err(format!("{} CIDRs; {EXCLUDED_CIDRS_MAX} are possible", cidrs.len()));
    }
    Ok(cidrs.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotated(annotations: &[(&str, &str)]) -> Meta {
        Meta { annotations: annotations.iter().copied().collect(), ..Meta::default() }
    }

    fn namespace(annotations: &[(&str, &str)]) -> NamespaceSwitches {
        NamespaceSwitches::of(&Namespace { metadata: annotated(annotations) })
    }

    #[test]
    fn a_namespace_excludes() {
        let switches = namespace(&[
            (EXCLUDED_INBOUND, "9090, 22"),
            (EXCLUDED_OUTBOUND, "3306,"),
            (EXCLUDED_CIDRS, "10.1.2.3/16,fd00::/8"),
            (FAIL_OPEN, "true"),
        ]);
        assert_eq!(switches.excluded_inbound, [22, 9090]);
        assert_eq!(switches.excluded_outbound, [3306]);
        let nets: Vec<_> = switches.excluded.iter().map(ToString::to_string).collect();
        assert_eq!(nets, ["10.1.0.0/16", "fd00::/8"]);
        assert_eq!(switches.on_failure, OnFailure::Open);
        assert!(switches.problems.is_empty());
    }

    #[test]
    fn what_cannot_be_read_excludes_nothing_and_is_reported() {
        for (key, value) in [
            (EXCLUDED_INBOUND, "0"),
            (EXCLUDED_INBOUND, "80,http"),
            (EXCLUDED_OUTBOUND, "1,2,3,4,5,6,7,8,9"),
            (EXCLUDED_CIDRS, "10.0.0.1"),
            (FAIL_OPEN, "yes"),
        ] {
            let switches = namespace(&[(key, value)]);
            assert_eq!(switches.problems.len(), 1, "{key}={value}");
            let nothing =
                NamespaceSwitches { problems: switches.problems.clone(), ..Default::default() };
            assert_eq!(switches, nothing, "{key}={value}");
        }
    }

    #[test]
    fn a_pod_has_two_switches_and_no_exclusions() {
        let pod = Pod {
            metadata: annotated(&[
                (BYPASS_INBOUND, "true"),
                (EXCLUDED_INBOUND, "80"),
                (EXCLUDED_CIDRS, "0.0.0.0/0"),
                (FAIL_OPEN, "true"),
            ]),
            ..Pod::default()
        };
        let (switches, problems) = Switches::of(&pod, &NamespaceSwitches::default());
        assert!(problems.is_empty());
        assert_eq!(switches, Switches { inbound: Inbound::Bypassed, ..Switches::default() });
        let wrong = Pod { metadata: annotated(&[(BYPASS_INBOUND, "1")]), ..Pod::default() };
        let (switches, problems) = Switches::of(&wrong, &NamespaceSwitches::default());
        assert_eq!(switches, Switches::default());
        assert_eq!(problems.len(), 1);
    }

    #[test]
    fn probe_ports_beyond_the_bound_are_reported() {
        let container =
            |port: u16| format!(r#"{{"readinessProbe":{{"tcpSocket":{{"port":{port}}}}}}}"#);
        let containers: Vec<_> = (1..=9).map(container).collect();
        let text = format!(r#"{{"spec":{{"containers":[{}]}}}}"#, containers.join(","));
        let pod: Pod = serde_json::from_str(&text).expect("a pod");
        let (switches, problems) = Switches::of(&pod, &NamespaceSwitches::default());
        assert_eq!(switches.probe_ports, [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(problems.len(), 1);
    }
}
