//! From an original destination to a route, out of the current state of the mesh.

mod local_file;

pub(crate) use local_file::{LocalFile, MeshError, MeshSettings};

use model::{Code, Network, OriginalDst, Workload};
use resolve::{Query, Route, SameNode};

use crate::mesh::MeshState;

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
        random: rand::random(),
    };
    resolve::resolve(&mesh.snapshot, &query)
}

/// The reason and text of a client whose workload this node does not know.
pub(crate) fn unknown_source(key: &model::WorkloadKey) -> (Code, String) {
    (Code::SourceUnknown, format!("no workload {key} in the current state of the mesh"))
}
