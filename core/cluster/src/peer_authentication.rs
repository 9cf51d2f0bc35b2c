//! Whether peers must prove who they are (`security.istio.io`).

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::authorization_policy::Selector;
use crate::meta::{Meta, Text};
use crate::readable::Readable;

/// `security.istio.io/v1/PeerAuthentication`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PeerAuthentication {
    /// Metadata.
    pub metadata: Meta,
    /// What was asked for.
    pub spec: Readable<PeerAuthenticationSpec>,
}

/// `spec` of a peer authentication.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PeerAuthenticationSpec {
    /// Workloads; none: all of the namespace, or of the mesh in the root namespace.
    pub selector: Option<Selector>,
    /// For all ports.
    #[serde(deserialize_with = "crate::meta::nullable")]
    pub mtls: MutualTls,
    /// For single ports of the workload, by number.
    pub port_level_mtls: BTreeMap<Text, MutualTls>,
}

/// How it is for a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct MutualTls {
    /// The mode.
    pub mode: Mode,
}

/// Whether mutual TLS is demanded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
pub enum Mode {
    /// As the level above says.
    #[default]
    #[serde(rename = "UNSET")]
    Unset,
    /// Not used. Inbound this is like [`Mode::Permissive`].
    #[serde(rename = "DISABLE")]
    Disable,
    /// Both are accepted.
    #[serde(rename = "PERMISSIVE")]
    Permissive,
    /// Demanded.
    #[serde(rename = "STRICT")]
    Strict,
}
