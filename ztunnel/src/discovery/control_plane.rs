//! The state of the mesh from a control plane over delta xDS.

use std::sync::Arc;

use tokio::sync::watch;
use xds_client::{Client, Driver, State};

use super::Asking;
use crate::mesh::{MeshState, Sync};

/// What `io/xds-client` publishes, as this agent's one kind of state.
pub(crate) struct ControlPlaneSource {
    client: Client,
    /// Whether the state holds only what was asked for.
    on_demand: bool,
    states: watch::Sender<Arc<MeshState>>,
}

impl ControlPlaneSource {
    /// A source that [`Self::run`] keeps up to date.
    pub(crate) fn new(client: Client, on_demand: bool) -> Arc<Self> {
        let first = mesh_state(&client.states().borrow());
        Arc::new(Self { client, on_demand, states: watch::channel(Arc::new(first)).0 })
    }

    /// A receiver of every state from the current one on.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<MeshState>> {
        self.states.subscribe()
    }

    /// The state in force.
    pub(crate) fn current(&self) -> Arc<MeshState> {
        self.states.borrow().clone()
    }

    /// Whom connections ask for what the state does not hold.
    pub(crate) fn asking(&self) -> Asking {
        if self.on_demand { Asking::on_demand(self.client.clone()) } else { Asking::default() }
    }

    /// For people.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Follows the control plane. Runs until dropped.
    pub(crate) async fn run(self: Arc<Self>, driver: Driver) {
        let mut states = self.client.states();
        let publishing = async {
            loop {
                let state = mesh_state(&states.borrow_and_update());
                self.states.send_replace(Arc::new(state));
                if states.changed().await.is_err() {
                    return;
                }
            }
        };
        // Both end with the process: the driver lives as long as its clients, and one is here.
        tokio::join!(driver.run(), publishing);
    }
}

fn mesh_state(state: &State) -> MeshState {
    MeshState {
        snapshot: state.snapshot.clone(),
        policies: state.policies.clone(),
        revision: state.revision,
        applied_at: state.applied_at,
        sync: match state.sync {
            xds_client::Sync::Waiting => Sync::Waiting,
            xds_client::Sync::Stored { .. } => Sync::Stored,
            xds_client::Sync::Live => Sync::Live,
        },
    }
}
