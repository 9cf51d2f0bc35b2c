//! Where a workload runs.

use std::sync::Arc;

use model::{Scope, Workload};

/// What load balancing compares, but for the network. One value for all workloads of a node, so
/// that comparing many endpoints reads little memory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Site {
    region: Arc<str>,
    zone: Arc<str>,
    subzone: Arc<str>,
    node: Arc<str>,
    cluster: Arc<str>,
}

impl Site {
    pub(crate) fn of(workload: &Workload) -> Self {
        Self {
            region: workload.locality.region.clone(),
            zone: workload.locality.zone.clone(),
            subzone: workload.locality.subzone.clone(),
            node: workload.node.clone(),
            cluster: workload.cluster.clone(),
        }
    }

    /// The same of a workload, without building one.
    pub(crate) fn value_of(scope: Scope, workload: &Workload) -> Option<&Arc<str>> {
        match scope {
            Scope::Region => Some(&workload.locality.region),
            Scope::Zone => Some(&workload.locality.zone),
            Scope::Subzone => Some(&workload.locality.subzone),
            Scope::Node => Some(&workload.node),
            Scope::Cluster => Some(&workload.cluster),
            Scope::Network => None,
        }
    }

    /// Its value of a scope. The network has none: endpoints of each are kept apart.
    pub(crate) fn value(&self, scope: Scope) -> Option<&Arc<str>> {
        match scope {
            Scope::Region => Some(&self.region),
            Scope::Zone => Some(&self.zone),
            Scope::Subzone => Some(&self.subzone),
            Scope::Node => Some(&self.node),
            Scope::Cluster => Some(&self.cluster),
            Scope::Network => None,
        }
    }
}
