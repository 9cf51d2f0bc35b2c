//! On demand: asking the control plane for what a connection needs and nobody asked for yet.

use std::sync::Arc;
use std::time::Duration;

use model::{Code, NetworkAddress};
use resolve::{Extent, Resource};
use xds_client::{Client, Existence, LookupError, LookupKey};

use crate::mesh::{MeshState, MeshView};

/// Questions of one connection. A route leads through a service, a waypoint and its service, and a
/// gateway and its service at most; one more is refused.
const QUESTIONS_MAX: usize = 8;

/// Pause before a workload of this node is asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Whom to ask: nobody, where the state is whole.
#[derive(Clone, Default)]
pub(crate) struct Asking(Option<Client>);

/// What one connection has asked. The control plane has answered for all of it.
#[derive(Default)]
pub(crate) struct Answered(Vec<Resource>);

impl Asking {
    /// Asks this control plane.
    pub(crate) fn on_demand(client: Client) -> Self {
        Self(Some(client))
    }

    /// Asks for one thing, waits a bounded time, and returns the state with the answer in it. An
    /// answer that does not come is no answer, and refuses. Cancel safe.
    pub(crate) async fn ask(
        &self,
        mut mesh: MeshView,
        resource: Resource,
        answered: &mut Answered,
    ) -> Result<Arc<MeshState>, (Code, String)> {
        let Some(client) = &self.0 else {
            return Err((
                Code::Internal,
                format!("{resource} was to be asked for in a whole state"),
            ));
        };
        if answered.0.len() == QUESTIONS_MAX {
            return Err((Code::LimitReached, "the route leads through too many things".to_owned()));
        }
        let key = match resource.clone() {
            Resource::Address(address) => LookupKey::Address(address),
            Resource::Service(name) => LookupKey::Service(name),
            Resource::Workload(uid) => LookupKey::Workload(uid),
        };
        match client.lookup(key).await {
            // Either way the client's state is the control plane's word on it; here it follows.
            Ok(_) => {
                answered.0.push(resource);
                let revision = client.states().borrow().revision;
                while mesh.current().revision < revision {
                    if !mesh.changed().await {
                        return Err((Code::Draining, "the agent is stopping".to_owned()));
                    }
                }
                Ok(mesh.current().clone())
            }
            Err(error @ (LookupError::TimedOut | LookupError::Ended)) => {
                Err((Code::LookupTimeout, format!("{resource}: {error}")))
            }
        }
    }

    /// Asks for a workload of this node, which a control plane need not tell of by itself, until it
    /// is known by one of its addresses. Ends at once where the state is whole. Cancel safe.
    pub(crate) async fn ask_for_own(&self, addresses: &[NetworkAddress]) {
        let Some(client) = &self.0 else { return };
        loop {
            for address in addresses {
                match client.lookup(LookupKey::Address(address.clone())).await {
                    Ok(Existence::Found) => return,
                    // A pod may be enrolled before the control plane knows of it.
                    Ok(Existence::Absent) => {}
                    Err(error) => {
                        tracing::warn!(%address, %error, "this node's own workload is not known yet");
                    }
                }
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// Calls `use_extent` with how much of the mesh the state holds for a connection that has asked
    /// so much.
    pub(crate) fn within<T>(
        &self,
        answered: &Answered,
        use_extent: impl FnOnce(Extent<'_>) -> T,
    ) -> T {
        match self.0 {
            Some(_) => use_extent(Extent::Asked(&|resource| answered.0.contains(resource))),
            None => use_extent(Extent::Whole),
        }
    }
}
