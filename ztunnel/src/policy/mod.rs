//! From a connection to a verdict, and again whenever the mesh changes while it is open.

mod ways;

use std::sync::Arc;
use std::time::Duration;

use authz::{Decision, Denial, Verdict};
use model::{Code, Connection, Workload, WorkloadKey};
use tokio::sync::watch;

pub(crate) use ways::{Via, Ways, denial};

use crate::mesh::{MeshState, Sync};

/// A connection that is watched from before it was first judged.
pub(crate) struct Judged {
    state: Arc<MeshState>,
    receiver: watch::Receiver<Arc<MeshState>>,
    key: WorkloadKey,
    connection: Connection,
    via: Via,
    ways: Ways,
}

impl Judged {
    /// Registers the connection. Nothing was decided yet.
    pub(crate) fn register(
        watched: (Arc<MeshState>, watch::Receiver<Arc<MeshState>>),
        key: WorkloadKey,
        (connection, via): (Connection, Via),
        ways: Ways,
    ) -> Self {
        let (state, receiver) = watched;
        Self { state, receiver, key, connection, via, ways }
    }

    /// The destination's workload in the state the verdict is based on.
    pub(crate) fn workload(&self) -> Option<Arc<Workload>> {
        self.state.snapshot.workload_by_key(&self.key).cloned()
    }

    /// Decides on the state at hand.
    pub(crate) fn judge(&self) -> Verdict {
        if self.state.sync == Sync::Waiting {
            return Verdict::Deny(not_synced());
        }
        let Some(workload) = self.workload() else {
            return Verdict::Deny(unknown_workload(&self.key));
        };
        let question = ways::question(&self.connection);
        let way = self.ways.judge(&self.state.snapshot, &workload, &question, self.via);
        if let Err(denial) = way {
            return Verdict::Deny(denial);
        }
        let Decision { verdict, dry_run } =
            authz::authorize(&self.state.policies, &workload, &self.connection);
        for note in dry_run {
            tracing::info!(
                target: "policy",
                source = %self.connection.source,
                destination = %self.connection.destination,
                workload = %self.key,
                "{note}"
            );
        }
        verdict
    }

    /// How long it is worth waiting for what the state at hand lacks.
    pub(crate) fn patience(&self) -> Duration {
        self.state.sync.patience(hbone::HOLD_MAX)
    }

    /// Decides again as soon as the state of the mesh changes. Cancel safe.
    pub(crate) async fn judge_again(&mut self) -> Verdict {
        if self.receiver.changed().await.is_err() {
            // The source of states is gone: the agent is stopping, and draining ends this.
            return std::future::pending().await;
        }
        self.state = self.receiver.borrow_and_update().clone();
        self.judge()
    }
}

/// The denial while this node does not know what applies.
fn not_synced() -> Denial {
    Denial {
        code: Code::NotSynced,
        policy: None,
        rule: None,
        nearest_miss: None,
        detail: Some("the control plane's state has not arrived yet".to_owned()),
    }
}

/// The denial for a pod whose workload is not in the state of the mesh.
fn unknown_workload(key: &WorkloadKey) -> Denial {
    Denial {
        code: Code::WorkloadUnknown,
        policy: None,
        rule: None,
        nearest_miss: None,
        detail: Some(format!("no workload {key} in the current state of the mesh")),
    }
}
