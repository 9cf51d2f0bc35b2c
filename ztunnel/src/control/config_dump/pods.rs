//! This node's pods and their open connections.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use model::{Direction, Path, WorkloadKey};
use serde::Serialize;

use crate::flow::{LocalPods, Pod};
use crate::mesh::MeshState;
use crate::telemetry::OpenConnection;

/// One pod with what is open to and from it.
pub(super) struct PodConnections {
    /// The Pod UID.
    pub(super) uid: String,
    /// Which workload it is.
    pub(super) workload: WorkloadKey,
    /// Its trust domain, where the mesh knows it.
    pub(super) trust_domain: String,
    /// Whether its self-test has passed.
    pub(super) verified: bool,
    /// Its open connections.
    pub(super) open: Vec<Arc<OpenConnection>>,
}

#[derive(Serialize)]
pub(super) struct PodDump {
    state: &'static str,
    connections: Connections,
    info: Info,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Info {
    name: String,
    namespace: String,
    trust_domain: String,
    service_account: String,
}

#[derive(Default, Serialize)]
struct Connections {
    inbound: Vec<ConnectionDump>,
    outbound: Vec<ConnectionDump>,
}

/// `originalDst`: of an inbound connection the dialled service, of an outbound one the address.
#[derive(PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
struct ConnectionDump {
    src: SocketAddr,
    original_dst: Option<String>,
    actual_dst: SocketAddr,
    protocol: &'static str,
}

impl PodConnections {
    /// Every enrolled pod, each with the open connections of its workload.
    pub(super) fn of(
        pods: &LocalPods,
        mesh: &MeshState,
        open: &[Arc<OpenConnection>],
    ) -> Vec<Self> {
        let mut by_key: HashMap<&WorkloadKey, Vec<Arc<OpenConnection>>> = HashMap::new();
        for connection in open {
            if let Some(key) = &connection.workload {
                by_key.entry(key).or_default().push(connection.clone());
            }
        }
        let pod = |pod: &Arc<Pod>| {
            let captured = &pod.captured;
            let workload = mesh.snapshot.workload_by_key(captured.workload());
            Self {
                uid: captured.uid().to_string(),
                workload: captured.workload().clone(),
                trust_domain: workload.map(|w| w.trust_domain.to_string()).unwrap_or_default(),
                verified: captured.is_verified(),
                open: by_key.get(captured.workload()).cloned().unwrap_or_default(),
            }
        };
        pods.iter().map(pod).collect()
    }

    pub(super) fn dump(&self) -> PodDump {
        let mut connections = Connections::default();
        for open in &self.open {
            let (list, original_dst) = match open.direction {
                Direction::Inbound => (&mut connections.inbound, open.service.clone()),
                Direction::Outbound => {
                    (&mut connections.outbound, Some(open.original_dst.to_string()))
                }
            };
            list.push(ConnectionDump {
                src: open.source,
                original_dst,
                actual_dst: open.actual_dst,
                protocol: match open.path {
                    Path::Hbone | Path::Local => "HBONE",
                    Path::Passthrough | Path::Plaintext | Path::Dns => "TCP",
                },
            });
        }
        connections.inbound.sort();
        connections.outbound.sort();
        let WorkloadKey { namespace, name, service_account } = &self.workload;
        PodDump {
            state: if self.verified { "Up" } else { "Pending" },
            connections,
            info: Info {
                name: name.to_string(),
                namespace: namespace.to_string(),
                trust_domain: self.trust_domain.clone(),
                service_account: service_account.to_string(),
            },
        }
    }
}
