//! Slices of a service's endpoints.

use serde::Deserialize;

use crate::meta::{Meta, Text};
use crate::pod::Protocol;

/// `discovery.k8s.io/v1/EndpointSlice`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSlice {
    /// Metadata; the label `kubernetes.io/service-name` names the service.
    pub metadata: Meta,
    /// What its addresses are.
    pub address_type: AddressType,
    /// Endpoints.
    #[serde(deserialize_with = "crate::meta::nullable")]
    pub endpoints: Vec<Endpoint>,
    /// Ports of each endpoint.
    #[serde(deserialize_with = "crate::meta::nullable")]
    pub ports: Vec<EndpointPort>,
}

/// What the addresses of a slice are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum AddressType {
    /// IPv4.
    #[default]
    IPv4,
    /// IPv6.
    IPv6,
    /// Host names.
    #[serde(rename = "FQDN")]
    Fqdn,
}

/// One endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    /// Its addresses, all of them the same endpoint.
    pub addresses: Vec<Text>,
    /// How it is.
    pub conditions: EndpointConditions,
    /// The object behind it.
    pub target_ref: Option<TargetRef>,
    /// Its node.
    pub node_name: Option<Text>,
    /// Its zone.
    pub zone: Option<Text>,
}

/// How an endpoint is. What is not said is as if it were true, for `ready` and `serving`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct EndpointConditions {
    /// Whether it takes traffic.
    pub ready: Option<bool>,
    /// Whether it could.
    pub serving: Option<bool>,
    /// Whether it is ending.
    pub terminating: Option<bool>,
}

/// The object behind an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct TargetRef {
    /// Such as `Pod`.
    pub kind: Text,
    /// Namespace.
    pub namespace: Text,
    /// Name.
    pub name: Text,
    /// The instance.
    pub uid: Text,
}

/// A port of the endpoints of a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointPort {
    /// The service port's name.
    pub name: Text,
    /// Number; none stands for all ports.
    pub port: Option<u16>,
    /// Transport.
    pub protocol: Protocol,
    /// What is spoken.
    pub app_protocol: Option<Text>,
}
