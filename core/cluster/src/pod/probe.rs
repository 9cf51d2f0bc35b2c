//! How a kubelet calls the containers of a pod: probes and lifecycle hooks.

use serde::{Deserialize, Deserializer};

use super::{Container, Protocol};
use crate::meta::Text;
use crate::service::PortRef;

/// Calls at a container's start and end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Lifecycle {
    /// After the start.
    pub post_start: Probe,
    /// Before the end.
    pub pre_stop: Probe,
}

/// What is dialled for one probe or hook.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probe {
    /// The pod's TCP port; none if it runs a command, waits, or dials another host.
    pub port: Option<PortRef>,
}

/// The shape on the wire; of `exec` and `sleep` nothing is read.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Wire {
    http_get: Option<Dialled>,
    tcp_socket: Option<Dialled>,
    grpc: Option<Dialled>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Dialled {
    port: Option<PortRef>,
    /// Where the kubelet dials, if not to the pod.
    host: Option<Text>,
}

impl<'de> Deserialize<'de> for Probe {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let Some(wire) = Option::<Wire>::deserialize(from)? else { return Ok(Self::default()) };
        let dialled = wire.http_get.or(wire.tcp_socket).or(wire.grpc);
        let own = dialled.filter(|to| to.host.as_deref().is_none_or(str::is_empty));
        Ok(Self { port: own.and_then(|to| to.port) })
    }
}

impl Container {
    /// TCP ports that its kubelet dials, in no order. A port's name is one of this container's own.
    pub(super) fn kubelet_ports(&self) -> impl Iterator<Item = u16> {
        let probes = [&self.readiness_probe, &self.liveness_probe, &self.startup_probe];
        let probes = probes.into_iter().flatten();
        let hooks = self.lifecycle.iter().flat_map(|hooks| [&hooks.post_start, &hooks.pre_stop]);
        let ports = probes.map(|probe| &**probe).chain(hooks).filter_map(|p| p.port.as_ref());
        ports.filter_map(|port| self.port_number(port)).filter(|port| *port != 0)
    }

    fn port_number(&self, port: &PortRef) -> Option<u16> {
        match port {
            PortRef::Number(number) => Some(*number),
            PortRef::Name(name) => {
                let mut declared = self.ports.iter();
                let named = declared.find(|p| p.name == *name && p.protocol == Protocol::Tcp);
                // The kubelet takes a name that is a number for that number.
                named.map(|p| p.container_port).or_else(|| name.parse().ok())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::Pod;

    fn ports(containers: &str, init: &str) -> Vec<u16> {
        let text = format!(
            r#"{{"metadata":{{"name":"p"}},"spec":{{"containers":[{containers}],"initContainers":[{init}]}}}}"#
        );
        serde_json::from_str::<Pod>(&text).expect(&text).kubelet_ports()
    }

    #[test]
    fn ports_of_every_kind_of_probe_of_every_container() {
        for (containers, init, expected) in [
            (r#"{"readinessProbe":{"httpGet":{"port":8080,"path":"/"}}}"#, "", &[8080][..]),
            (r#"{"livenessProbe":{"tcpSocket":{"port":9000}}}"#, "", &[9000]),
            (r#"{"startupProbe":{"grpc":{"port":9001,"service":null}}}"#, "", &[9001]),
            (r#"{"readinessProbe":{"exec":{"command":["true"]}}}"#, "", &[]),
            (r#"{"readinessProbe":null,"lifecycle":null}"#, "", &[]),
            (r#"{"readinessProbe":{"httpGet":{"port":80,"host":"10.0.0.9"}}}"#, "", &[]),
            (r#"{"readinessProbe":{"httpGet":{"port":80,"host":""}}}"#, "", &[80]),
            (
                r#"{"ports":[{"name":"web","containerPort":8081},{"name":"u","containerPort":9,"protocol":"UDP"}],
                    "readinessProbe":{"httpGet":{"port":"web"}},"livenessProbe":{"tcpSocket":{"port":"u"}}}"#,
                "",
                &[8081],
            ),
            (r#"{"readinessProbe":{"tcpSocket":{"port":"8082"}}}"#, "", &[8082]),
            (
                r#"{"lifecycle":{"preStop":{"httpGet":{"port":7}},"postStart":{"exec":{}}}}"#,
                r#"{"restartPolicy":"Always","readinessProbe":{"tcpSocket":{"port":6}}},
                   {"startupProbe":{"tcpSocket":{"port":7}}}"#,
                &[6, 7],
            ),
            // The name is another container's.
            (
                r#"{"ports":[{"name":"web","containerPort":1}]},{"livenessProbe":{"tcpSocket":{"port":"web"}}}"#,
                "",
                &[],
            ),
        ] {
            assert_eq!(ports(containers, init), expected, "{containers} {init}");
        }
    }
}
