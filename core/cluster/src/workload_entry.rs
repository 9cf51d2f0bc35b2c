//! Workloads outside the cluster (`networking.istio.io`).

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::meta::{Labels, Meta, Text};

/// `networking.istio.io/v1/WorkloadEntry`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct WorkloadEntry {
    /// Metadata.
    pub metadata: Meta,
    /// What was asked for.
    pub spec: WorkloadEntrySpec,
}

/// `spec` of a workload entry; also an inline endpoint of a service entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadEntrySpec {
    /// An address, or a host name.
    pub address: Text,
    /// Numbers of a service entry's ports, by the port's name.
    pub ports: BTreeMap<Text, u16>,
    /// Labels; those of the metadata are added to them.
    pub labels: Labels,
    /// The network of the address.
    pub network: Text,
    /// `region/zone/subzone`.
    pub locality: Text,
    /// Share of traffic; not given: 1.
    pub weight: Option<u32>,
    /// The account it runs as.
    pub service_account: Text,
}
