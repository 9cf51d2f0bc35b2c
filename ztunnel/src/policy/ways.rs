//! How a connection must have come, whatever the policies say of who made it.

use authz::{Denial, Question};
use model::{Connection, Network, Workload};
use resolve::{
    Arrival, InboundRefusal, RequireWaypoint, Snapshot, plaintext_target, require_waypoint,
};

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
    network: Network,
    require_waypoint: RequireWaypoint,
}

impl Ways {
    pub(crate) fn new(config: &Config) -> Self {
        Self { network: config.network.clone(), require_waypoint: config.require_waypoint }
    }

    /// Denies a connection that went past its waypoint, or that could forge a PROXY header.
    pub(crate) fn judge(
        &self,
        snapshot: &Snapshot,
        workload: &Workload,
        question: &Question<'_>,
        via: Via,
    ) -> Result<(), Denial> {
        let arrival = Arrival {
            network: &self.network,
            peer: question.identity,
            source: question.source,
            from_gateway: via == Via::Gateway,
            destination: question.destination,
        };
        if question.identity.is_none() {
            plaintext_target(workload, question.destination.port()).map_err(denial)?;
        }
        require_waypoint(snapshot, workload, &arrival, self.require_waypoint).map_err(denial)
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

/// What came in wrongly, as a verdict says it.
pub(crate) fn denial(refusal: InboundRefusal) -> Denial {
    let InboundRefusal { code, detail } = refusal;
    Denial { code, policy: None, rule: None, nearest_miss: None, detail: Some(detail) }
}
