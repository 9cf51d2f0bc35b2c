//! `GET /config_dump` on port 15000: this node's state in the shape of Istio's ztunnel, so that
//! `istioctl ztunnel-config` reads it.
//!
//! Top-level keys: `workloads`, `services`, `policies`, `stagedServices`, `staticConfig`,
//! `version`, `config`, `certificates`, `workloadState`. Every list is sorted.

mod certificates;
mod mesh;
mod pods;
mod policies;

use std::collections::BTreeMap;

use serde::Serialize;
use std::sync::Arc;

use svid::{SvidStatus, SvidStore};
use tokio::sync::watch;

use self::pods::PodConnections;
use super::PodSet;
use crate::config::Config;
use crate::mesh::MeshState;
use crate::telemetry::Telemetry;

/// Where a dump takes its contents from.
pub(crate) struct ConfigDump {
    pub(crate) mesh: watch::Receiver<Arc<MeshState>>,
    pub(crate) config: Arc<Config>,
    pub(crate) svids: SvidStore,
    pub(crate) pods: PodSet,
    pub(crate) telemetry: Arc<Telemetry>,
}

impl ConfigDump {
    /// The dump as JSON text. Takes a while in a large mesh.
    pub(crate) fn to_json(&self) -> Result<String, serde_json::Error> {
        let mesh = self.mesh.borrow().clone();
        config_dump(&Sources {
            pods: PodConnections::of(&self.pods.current(), &mesh, &self.telemetry.open()),
            mesh: &mesh,
            config: &self.config,
            identities: &self.svids.list(),
        })
    }
}

/// What one dump is made of.
struct Sources<'a> {
    mesh: &'a MeshState,
    config: &'a Config,
    identities: &'a [SvidStatus],
    pods: Vec<PodConnections>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Dump<'a> {
    workloads: Vec<mesh::WorkloadDump<'a>>,
    services: Vec<mesh::ServiceDump<'a>>,
    policies: Vec<policies::PolicyDump<'a>>,
    /// Endpoints of services that are not known; here a workload names its services itself.
    staged_services: BTreeMap<String, String>,
    static_config: StaticConfig,
    version: Version,
    config: SettingsDump<'a>,
    certificates: Vec<certificates::IdentityDump>,
    workload_state: BTreeMap<String, pods::PodDump>,
}

/// What a file adds to a control plane's state: nothing, since a node has one source or the other.
#[derive(Default, Serialize)]
struct StaticConfig {
    workloads: [(); 0],
    services: [(); 0],
    policies: [(); 0],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_field_names, reason = "the names are Istio's")]
struct Version {
    version: &'static str,
    build_profile: &'static str,
    crypto_provider: &'static str,
}

/// The settings that people look for in a dump; none is secret.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SettingsDump<'a> {
    local_node: &'a str,
    cluster_id: &'a str,
    network: &'a str,
    trust_domain: String,
    root_namespace: &'a str,
    num_worker_threads: usize,
    window_size: u32,
    connection_window_size: u32,
    frame_size: u32,
    pool_max_streams_per_conn: usize,
}

impl Version {
    const THIS: Self = Self {
        version: env!("CARGO_PKG_VERSION"),
        build_profile: if cfg!(debug_assertions) { "debug" } else { "release" },
        crypto_provider: "aws-lc",
    };
}

fn config_dump(sources: &Sources<'_>) -> Result<String, serde_json::Error> {
    let Sources { mesh, config, identities, pods } = sources;
    let dump = Dump {
        workloads: mesh::workloads(&mesh.snapshot),
        services: mesh::services(&mesh.snapshot),
        policies: policies::policies(&mesh.policies),
        staged_services: BTreeMap::new(),
        static_config: StaticConfig::default(),
        version: Version::THIS,
        config: SettingsDump {
            local_node: &config.node_name,
            cluster_id: &config.cluster_id,
            network: &config.network.0,
            trust_domain: config.trust_domain.to_string(),
            root_namespace: &config.root_namespace,
            num_worker_threads: config.worker_threads.get(),
            window_size: config.http2.stream_window,
            connection_window_size: config.http2.connection_window,
            frame_size: config.http2.frame_size,
            pool_max_streams_per_conn: config.pool.streams_per_tunnel,
        },
        certificates: certificates::identities(identities),
        workload_state: pods.iter().map(|pod| (pod.uid.clone(), pod.dump())).collect(),
    };
    serde_json::to_string_pretty(&dump)
}

#[cfg(test)]
mod tests;
