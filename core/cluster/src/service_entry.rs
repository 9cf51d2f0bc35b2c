//! Services outside the cluster (`networking.istio.io`).

use serde::Deserialize;

use crate::meta::{Labels, Meta, Text};
use crate::workload_entry::WorkloadEntrySpec;

/// `networking.istio.io/v1/ServiceEntry`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ServiceEntry {
    /// Metadata.
    pub metadata: Meta,
    /// What was asked for.
    pub spec: ServiceEntrySpec,
    /// What there is.
    pub status: ServiceEntryStatus,
}

/// `spec` of a service entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceEntrySpec {
    /// Host names, each a service of its own.
    pub hosts: Vec<Text>,
    /// Virtual addresses or CIDR blocks.
    pub addresses: Vec<Text>,
    /// Ports.
    pub ports: Vec<ServiceEntryPort>,
    /// Inside or outside the mesh.
    pub location: Location,
    /// How endpoints are found.
    pub resolution: Resolution,
    /// Endpoints given here.
    pub endpoints: Vec<WorkloadEntrySpec>,
    /// Pods and workload entries of the namespace that are endpoints.
    pub workload_selector: Option<EntrySelector>,
    /// Identities that endpoints may present.
    pub subject_alt_names: Vec<Text>,
}

/// `workloadSelector` of a service entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct EntrySelector {
    /// Equality on every pair; empty selects all.
    pub labels: Labels,
}

/// A port of a service entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceEntryPort {
    /// The number clients dial.
    pub number: u16,
    /// What is spoken: `HTTP`, `HTTP2`, `GRPC`, `TCP`, `TLS`, `HTTPS`, `MONGO`, `UDP`…
    pub protocol: Text,
    /// Its name.
    pub name: Text,
    /// The number at the endpoints; not given: `number`.
    pub target_port: Option<u16>,
}

/// Inside or outside the mesh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Location {
    /// Outside.
    #[default]
    #[serde(rename = "MESH_EXTERNAL")]
    External,
    /// Inside.
    #[serde(rename = "MESH_INTERNAL")]
    Internal,
}

/// How endpoints are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
pub enum Resolution {
    /// The address that was dialled is the endpoint.
    #[default]
    #[serde(rename = "NONE")]
    None,
    /// They are given.
    #[serde(rename = "STATIC")]
    Static,
    /// By DNS.
    #[serde(rename = "DNS")]
    Dns,
    /// By DNS, one address at a time.
    #[serde(rename = "DNS_ROUND_ROBIN")]
    DnsRoundRobin,
    /// By DNS of the name that was asked for.
    #[serde(rename = "DYNAMIC_DNS")]
    DynamicDns,
}

/// `status` of a service entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ServiceEntryStatus {
    /// Addresses that were assigned to it.
    pub addresses: Vec<AssignedAddress>,
}

/// An address that was assigned to a host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct AssignedAddress {
    /// Text of the address.
    pub value: Text,
    /// The host; not given: every host.
    pub host: Option<Text>,
}
