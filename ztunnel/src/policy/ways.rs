//! How a connection must have come, whatever the policies say of who made it.

use std::sync::Arc;

use authz::{Denial, Question};
use model::{Connection, Network, Workload};
use resolve::{Arrival, InboundRefusal, RequireWaypoint, Snapshot};

use crate::config::Config;

/// By which way a connection came to its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    /// From the client's address.
    Direct,
    /// Through a gateway of another network, whose address it has.
    Gateway,
}

/// The rules of this agent.
#[derive(Clone, Debug)]
pub(crate) struct Ways {
    config: Arc<Config>,
}

impl Ways {
    pub(crate) fn new(config: Arc<Config>) -> Self {
        Self { config }
    }

    /// Denies a connection that went past its waypoint, or that could forge a PROXY header.
    pub(crate) fn judge(
        &self,
        snapshot: &Snapshot,
        workload: &Workload,
        question: &Question<'_>,
        via: Via,
    ) -> Result<(), Denial> {
        let (network, setting): (&Network, RequireWaypoint) =
            (&self.config.network, self.config.require_waypoint);
        let arrival = Arrival {
            network,
            peer: question.identity,
            source: question.source,
            from_gateway: via == Via::Gateway,
            destination: question.destination,
        };
        let plaintext = match question.identity {
            None => resolve::plaintext_target(workload, question.destination.port()),
            Some(_) => Ok(()),
        };
        plaintext
            .and_then(|()| resolve::require_waypoint(snapshot, workload, &arrival, setting))
            .map_err(denial)
    }
}

/// The question that a connection asks.
pub(super) fn question(connection: &Connection) -> Question<'_> {
    Question {
        source: connection.source.ip(),
        identity: connection.peer.identity().map(model::VerifiedIdentity::id),
        destination: connection.destination,
    }
}

fn denial(refusal: InboundRefusal) -> Denial {
    let InboundRefusal { code, detail } = refusal;
    Denial { code, policy: None, rule: None, nearest_miss: None, detail: Some(detail) }
}
