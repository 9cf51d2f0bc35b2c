//! From an original destination to a route, out of the current state of the mesh.

mod asking;
mod control_plane;
mod hostnames;
mod local_file;
mod source;

pub(crate) use asking::{Answered, Asking};
pub(crate) use control_plane::ControlPlaneSource;
pub(crate) use hostnames::HostNames;
pub(crate) use local_file::{LocalFile, MeshError, MeshSettings};
pub(crate) use source::{Source, SourceStatus};

use std::sync::Arc;
use std::time::Duration;

use model::{Code, Network, OriginalDst, Workload, WorkloadKey};
use resolve::{Ejected, Extent, Query, Route, SameNode};

use crate::mesh::{MeshState, MeshView, Sync};

/// How long a connection waits for the state of the mesh, or for its own workload in it.
const SOURCE_WAIT: Duration = Duration::from_secs(5);

/// What [`route`] needs besides the state.
pub(crate) struct Question<'a> {
    /// This node's network.
    pub(crate) network: &'a Network,
    /// The client's workload.
    pub(crate) source: &'a Workload,
    /// What the application dialled.
    pub(crate) original_dst: OriginalDst,
    /// Whether a workload is one of this agent's verified pods.
    pub(crate) local: &'a dyn Fn(&Workload) -> bool,
    /// How such pods are reached.
    pub(crate) same_node: SameNode,
    /// How much of the mesh the state holds.
    pub(crate) extent: Extent<'a>,
    /// Endpoints that are left alone for now.
    pub(crate) ejected: Ejected<'a>,
}

/// Chooses the route of one connection.
pub(crate) fn route(mesh: &MeshState, question: &Question<'_>) -> Route {
    let query = Query {
        network: question.network,
        source: question.source,
        original_dst: question.original_dst,
        local: question.local,
        same_node: question.same_node,
        extent: question.extent,
        ejected: question.ejected,
        random: rand::random(),
    };
    resolve::resolve(&mesh.snapshot, &query)
}

/// The state of the mesh with the client's workload in it; waits a bounded time for both.
///
/// A pod may start before the control plane tells of it, and an agent before it is synced. Cancel
/// safe.
pub(crate) async fn source(view: MeshView, key: &WorkloadKey) -> Known {
    known(view, key, Code::SourceUnknown).await
}

/// The state of the mesh with the workload in it that a connection came for; waits a bounded time for
/// the workload, but not for the state: not synced is not open. Cancel safe.
pub(crate) async fn server(mut view: MeshView, key: &WorkloadKey) -> Known {
    match view.current().sync {
        Sync::Waiting => Err(not_synced()),
        Sync::Stored | Sync::Live | Sync::Complete => known(view, key, Code::WorkloadUnknown).await,
    }
}

/// A state and a workload in it, or why there is none.
type Known = Result<(Arc<MeshState>, Arc<Workload>), (Code, String)>;

async fn known(mut view: MeshView, key: &WorkloadKey, unknown: Code) -> Known {
    let patience = view.current().sync.patience(SOURCE_WAIT);
    let mut waiting = view.clone();
    let known = async {
        loop {
            let state = waiting.current().clone();
            if let Some(workload) = source_in(&state, key) {
                return Some((state, workload));
            }
            if !waiting.changed().await {
                return None;
            }
        }
    };
    match tokio::time::timeout(patience, known).await {
        Ok(Some(known)) => Ok(known),
        Ok(None) | Err(_) => Err(match view.current().sync {
            Sync::Waiting => not_synced(),
            Sync::Stored | Sync::Live | Sync::Complete => {
                (unknown, format!("no workload {key} in the current state of the mesh"))
            }
        }),
    }
}

fn not_synced() -> (Code, String) {
    (Code::NotSynced, "the control plane's state has not arrived yet".to_owned())
}

/// The workload of a pod, if the state may be used and has it.
pub(crate) fn source_in(state: &MeshState, key: &WorkloadKey) -> Option<Arc<Workload>> {
    match state.sync {
        Sync::Waiting => None,
        Sync::Stored | Sync::Live | Sync::Complete => state.snapshot.workload_by_key(key).cloned(),
    }
}
