//! Gateways and their classes (`gateway.networking.k8s.io`): waypoints are such.

use serde::Deserialize;

use crate::meta::{Meta, Text};
use crate::selector::LabelSelector;

/// `gateway.networking.k8s.io/v1/Gateway`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Gateway {
    /// Metadata.
    pub metadata: Meta,
    /// What was asked for.
    pub spec: GatewaySpec,
    /// What there is.
    pub status: GatewayStatus,
}

/// `spec` of a gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewaySpec {
    /// Name of its class.
    pub gateway_class_name: Text,
    /// Listeners.
    pub listeners: Vec<Listener>,
    /// Where it is to be reached; of one that is not made from the object, where it is.
    pub addresses: Vec<GatewayAddress>,
}

/// A listener of a gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Listener {
    /// Its name.
    pub name: Text,
    /// Port.
    pub port: u16,
    /// Protocol, such as `HBONE`.
    pub protocol: Text,
    /// Who may attach.
    pub allowed_routes: AllowedRoutes,
}

/// Who may attach to a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct AllowedRoutes {
    /// From which namespaces.
    pub namespaces: RouteNamespaces,
}

/// From which namespaces one may attach to a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RouteNamespaces {
    /// The rule.
    pub from: From,
    /// For [`From::Selector`].
    pub selector: Option<LabelSelector>,
}

/// Rule of [`RouteNamespaces`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum From {
    /// The gateway's own.
    #[default]
    Same,
    /// Any.
    All,
    /// Those selected.
    Selector,
    /// None.
    None,
}

/// `status` of a gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct GatewayStatus {
    /// Where it is reached. Empty: it is not ready.
    pub addresses: Vec<GatewayAddress>,
}

/// Where a gateway is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct GatewayAddress {
    /// `IPAddress` (also where it is not given) or `Hostname`; any other kind is not used.
    #[serde(rename = "type")]
    pub kind: Option<Text>,
    /// The address or name.
    pub value: Text,
}

/// `gateway.networking.k8s.io/v1/GatewayClass`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct GatewayClass {
    /// Metadata.
    pub metadata: Meta,
    /// What was asked for.
    pub spec: GatewayClassSpec,
}

/// `spec` of a class.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayClassSpec {
    /// Who implements it.
    pub controller_name: Text,
}
