//! Pods.

mod probe;

use serde::Deserialize;

use crate::meta::{Meta, Text};

pub use probe::{Lifecycle, Probe};

/// `v1/Pod`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// Metadata.
    pub metadata: Meta,
    /// What was asked for.
    pub spec: PodSpec,
    /// What there is.
    pub status: PodStatus,
}

/// `spec` of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// The node it is bound to; empty before that.
    pub node_name: Text,
    /// The account it runs as; an API server fills in `default`.
    pub service_account_name: Text,
    /// Whether it uses its node's network namespace.
    pub host_network: bool,
    /// Containers.
    pub containers: Vec<Container>,
    /// Containers that run before; one that restarts always runs beside.
    pub init_containers: Vec<Container>,
}

/// A container: only its ports matter, and how its kubelet calls it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// Ports it declares.
    pub ports: Vec<ContainerPort>,
    /// `Always` makes an init container a sidecar. Any other text is like none.
    pub restart_policy: Option<Text>,
    /// Decides whether services send it connections.
    pub readiness_probe: Option<Box<Probe>>,
    /// Decides whether it is restarted.
    pub liveness_probe: Option<Box<Probe>>,
    /// Holds the other two back.
    pub startup_probe: Option<Box<Probe>>,
    /// Called after it starts and before it stops.
    pub lifecycle: Option<Box<Lifecycle>>,
}

/// A port that a container declares.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerPort {
    /// What services call it.
    pub name: Text,
    /// Its number.
    pub container_port: u16,
    /// Transport.
    pub protocol: Protocol,
}

/// Transport of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
pub enum Protocol {
    /// TCP.
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
    /// UDP.
    #[serde(rename = "UDP")]
    Udp,
    /// SCTP.
    #[serde(rename = "SCTP")]
    Sctp,
}

/// `status` of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// Where it is in its life.
    pub phase: Phase,
    /// Its addresses.
    #[serde(rename = "podIPs")]
    pub pod_ips: Vec<PodIp>,
    /// The first of them, for objects that have only this.
    #[serde(rename = "podIP")]
    pub pod_ip: Option<Text>,
    /// Conditions, `Ready` among them.
    pub conditions: Vec<Condition>,
}

/// Where a pod is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
pub enum Phase {
    /// Not all containers have started. Also what a manifest without a phase means.
    #[default]
    Pending,
    /// At least one container runs.
    Running,
    /// All ended well.
    Succeeded,
    /// All ended, one of them badly.
    Failed,
    /// The node does not answer.
    Unknown,
}

/// One address of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PodIp {
    /// Text of the address.
    pub ip: Text,
}

/// A condition of a status.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Condition {
    /// Such as `Ready`.
    #[serde(rename = "type")]
    pub kind: Text,
    /// `True`, `False` or `Unknown`.
    pub status: Text,
}

impl Pod {
    /// Texts of its addresses, in order.
    pub fn ips(&self) -> impl Iterator<Item = &str> {
        let single = self.status.pod_ip.as_deref().filter(|_| self.status.pod_ips.is_empty());
        self.status.pod_ips.iter().map(|ip| &*ip.ip).chain(single).filter(|ip| !ip.is_empty())
    }

    /// Whether its `Ready` condition holds and it is not being deleted.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.metadata.deletion_timestamp.is_none()
            && self.status.conditions.iter().any(|c| &*c.kind == "Ready" && &*c.status == "True")
    }

    /// TCP ports that its node's kubelet dials: those of the probes and lifecycle hooks of all its
    /// containers, sorted, each once. A name that its container does not declare is none.
    #[must_use]
    pub fn kubelet_ports(&self) -> Vec<u16> {
        let containers = self.spec.init_containers.iter().chain(&self.spec.containers);
        let mut ports: Vec<u16> = containers.flat_map(Container::kubelet_ports).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    /// Whether a file on the node is its origin: then its kubelet knows it by another uid.
    #[must_use]
    pub fn is_static(&self) -> bool {
        self.metadata.annotation("kubernetes.io/config.mirror").is_some()
    }

    /// Whether it has ended for good.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        matches!(self.status.phase, Phase::Succeeded | Phase::Failed)
    }

    /// The account it runs as.
    #[must_use]
    pub fn service_account(&self) -> &str {
        match &*self.spec.service_account_name {
            "" => "default",
            name => name,
        }
    }

    /// The number of a named TCP port, of a container that runs beside the others.
    #[must_use]
    pub fn named_port(&self, name: &str) -> Option<u16> {
        let sidecars = self.spec.init_containers.iter();
        let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
        let mut ports = self.spec.containers.iter().chain(sidecars).flat_map(|c| &c.ports);
        ports.find(|p| &*p.name == name && p.protocol == Protocol::Tcp).map(|p| p.container_port)
    }
}
