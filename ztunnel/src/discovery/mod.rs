//! From an original destination to a route, out of the current state of the mesh.

mod control_plane;
mod local_file;
mod source;

pub(crate) use control_plane::ControlPlaneSource;
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
}

/// Chooses the route of one connection.
pub(crate) fn route(mesh: &MeshState, question: &Question<'_>) -> Route {
    let query = Query {
        network: question.network,
        source: question.source,
        original_dst: question.original_dst,
        local: question.local,
        same_node: question.same_node,
        extent: Extent::Whole,
        ejected: Ejected::NONE,
        random: rand::random(),
    };
    resolve::resolve(&mesh.snapshot, &query)
}

/// The state of the mesh with the client's workload in it; waits a bounded time for both.
///
/// A pod may start before the control plane tells of it, and an agent before it is synced. Cancel
/// safe.
pub(crate) async fn source(
    mut view: MeshView,
    key: &WorkloadKey,
) -> Result<(Arc<MeshState>, Arc<Workload>), (Code, String)> {
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
            Sync::Waiting => {
                (Code::NotSynced, "the control plane's state has not arrived yet".to_owned())
            }
            Sync::Stored | Sync::Live | Sync::Complete => {
                (Code::SourceUnknown, format!("no workload {key} in the current state of the mesh"))
            }
        }),
    }
}

/// The client's workload, if the state may be used and has it.
pub(crate) fn source_in(state: &MeshState, key: &WorkloadKey) -> Option<Arc<Workload>> {
    match state.sync {
        Sync::Waiting => None,
        Sync::Stored | Sync::Live | Sync::Complete => state.snapshot.workload_by_key(key).cloned(),
    }
}
