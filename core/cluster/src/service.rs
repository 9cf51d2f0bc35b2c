//! Services.

use serde::Deserialize;

use crate::meta::{Meta, Text};
use crate::pod::Protocol;
use crate::selector::WorkloadSelector;

/// `v1/Service`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Service {
    /// Metadata.
    pub metadata: Meta,
    /// What was asked for.
    pub spec: ServiceSpec,
}

/// `spec` of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// Kind of service.
    #[serde(rename = "type")]
    pub kind: ServiceKind,
    /// Its first virtual address, `None` for a headless one, or empty.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Text,
    /// All of them.
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Vec<Text>,
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// Which pods of its namespace are its endpoints; empty: none are selected.
    pub selector: WorkloadSelector,
    /// Whether endpoints that are not ready take traffic.
    pub publish_not_ready_addresses: bool,
    /// Whether traffic must stay on the node.
    pub internal_traffic_policy: Option<InternalTrafficPolicy>,
    /// Where traffic should go first, such as `PreferClose`.
    pub traffic_distribution: Option<Text>,
    /// Families of its addresses.
    pub ip_families: Vec<IpFamily>,
    /// Whether it has one family or two.
    pub ip_family_policy: Option<Text>,
}

/// Kind of service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum ServiceKind {
    /// A virtual address within the cluster.
    #[default]
    ClusterIP,
    /// That, and a port of each node.
    NodePort,
    /// That, and an address outside.
    LoadBalancer,
    /// An alias in DNS.
    ExternalName,
}

/// `internalTrafficPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum InternalTrafficPolicy {
    /// All endpoints.
    Cluster,
    /// Those on the client's node.
    Local,
}

/// Family of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum IpFamily {
    /// IPv4.
    IPv4,
    /// IPv6.
    IPv6,
}

/// A port of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    /// Its name.
    pub name: Text,
    /// The number clients dial.
    pub port: u16,
    /// The number or name at the endpoints; like `port` where it is not given.
    pub target_port: Option<PortRef>,
    /// Transport.
    pub protocol: Protocol,
    /// What is spoken, such as `http` or `kubernetes.io/h2c`.
    pub app_protocol: Option<Text>,
}

/// A port by number or by name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum PortRef {
    /// Number; 0 is as if it were not given.
    Number(u16),
    /// Name.
    Name(Text),
}
