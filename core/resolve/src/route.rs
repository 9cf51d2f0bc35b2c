//! What is asked, and where a connection may go.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use model::{
    Code, DialledService, Network, NetworkAddress, OriginalDst, ServiceName, SpiffeId, Workload,
    WorkloadUid,
};

use crate::ejection::{Choice, Ejected};
use crate::lookup::Lookup;

/// The port of the HBONE tunnel.
pub(crate) const HBONE_PORT: u16 = 15008;

/// Ports that belong to the mesh in every pod: the rewrite target of captured connections and
/// the tunnel. A connection to one of them through the mesh would come back to the mesh.
pub const MESH_PORTS: [u16; 2] = [15001, HBONE_PORT];

/// How a destination on this node is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SameNode {
    /// Joined in this process.
    #[default]
    Relay,
    /// Through a tunnel, as on any other node.
    Tunnel,
}

/// One captured connection.
#[derive(Clone, Copy)]
pub struct Query<'q> {
    /// The network of this node.
    pub network: &'q Network,
    /// The client.
    pub source: &'q Workload,
    /// What it dialled.
    pub original_dst: OriginalDst,
    /// Whether a workload is one of this agent's verified pods. Never guessed from its node name.
    pub local: &'q dyn Fn(&Workload) -> bool,
    /// How such a workload is reached.
    pub same_node: SameNode,
    /// How much of the mesh the snapshot holds.
    pub extent: Extent<'q>,
    /// Endpoints that are left alone for now.
    pub ejected: Ejected<'q>,
    /// Uniform over its whole range; chooses among endpoints and waypoints.
    pub random: u64,
}

/// How much of the mesh a snapshot holds.
#[derive(Clone, Copy)]
pub enum Extent<'q> {
    /// All of it: what is not there does not exist.
    Whole,
    /// What the control plane was asked for, and what came with it. What is not there exists as
    /// far as anybody knows, unless this says that the control plane has answered for it.
    ///
    /// A workload or a service with exactly the dialled address is used without asking.
    Asked(&'q dyn Fn(&Resource) -> bool),
}

impl Extent<'_> {
    /// Whether the snapshot holds all there is of a resource.
    pub(crate) fn covers(self, resource: &Resource) -> bool {
        match self {
            Self::Whole => true,
            Self::Asked(answered) => answered(resource),
        }
    }
}

/// Something to ask the control plane for. Displayed as the name to subscribe to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    /// Whatever has an address.
    Address(NetworkAddress),
    /// A service.
    Service(ServiceName),
    /// A workload.
    Workload(WorkloadUid),
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Service(name) => name.fmt(f),
            Self::Workload(uid) => uid.fmt(f),
        }
    }
}

/// Where a connection goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// Plain TCP.
    Passthrough {
        /// What to dial.
        address: SocketAddr,
        /// The workload behind it, if the mesh knows one.
        workload: Option<Arc<Workload>>,
        /// The service that was dialled.
        service: Option<DialledService>,
        /// The choice among endpoints that this is; see [`Ejections`](crate::Ejections).
        choice: Option<Choice>,
    },
    /// An HBONE tunnel.
    Hbone {
        /// Who ends the tunnel: the destination, or its waypoint.
        workload: Arc<Workload>,
        /// What to dial.
        tunnel: SocketAddr,
        /// What to ask the tunnel for; of a waypoint, what the application dialled.
        authority: SocketAddr,
        /// Identities of which the tunnel's certificate must carry one.
        expected: Vec<SpiffeId>,
        /// The service that was dialled.
        service: Option<DialledService>,
        /// The choice among endpoints that this is.
        choice: Option<Choice>,
    },
    /// An HBONE tunnel through a gateway to another network, and in it one to the destination.
    DoubleHbone {
        /// The destination, or its waypoint, as this network knows it. The gateway chooses anew.
        workload: Arc<Workload>,
        /// The gateway.
        gateway: Arc<Workload>,
        /// What to dial: the gateway's tunnel.
        tunnel: SocketAddr,
        /// What to ask both tunnels for: the host name of the dialled service, and its port.
        authority: (Arc<str>, u16),
        /// Identities of which the gateway's certificate must carry one.
        outer_expected: Vec<SpiffeId>,
        /// Identities of which the certificate in the inner tunnel must carry one. Never empty.
        inner_expected: Vec<SpiffeId>,
        /// The service that was dialled.
        service: Option<DialledService>,
        /// The choice among gateways that this is.
        choice: Option<Choice>,
    },
    /// A pod of this agent.
    Local {
        /// The destination, or its waypoint.
        workload: Arc<Workload>,
        /// Its address, and the port that was asked for.
        address: SocketAddr,
        /// What a tunnel would be asked for: the same, or of a waypoint, what the application
        /// dialled.
        authority: SocketAddr,
        /// The service that was dialled.
        service: Option<DialledService>,
        /// The choice among endpoints that this is.
        choice: Option<Choice>,
    },
    /// To a host name, which has to be looked up first.
    Lookup(Box<Lookup>),
    /// Nobody knows yet: ask the control plane for this, and then again.
    Ask {
        /// What to ask for.
        resource: Resource,
        /// The service that was dialled.
        service: Option<DialledService>,
    },
    /// Nowhere.
    Refused {
        /// The stable reason.
        code: Code,
        /// What the code does not say.
        detail: String,
        /// The service that was dialled.
        service: Option<DialledService>,
        /// The destination, if it got that far.
        workload: Option<Arc<Workload>>,
    },
}

impl Route {
    /// The choice among endpoints that it is.
    #[must_use]
    pub fn choice(&self) -> Option<&Choice> {
        match self {
            Self::Passthrough { choice, .. }
            | Self::Hbone { choice, .. }
            | Self::DoubleHbone { choice, .. }
            | Self::Local { choice, .. } => choice.as_ref(),
            Self::Lookup(lookup) => lookup.choice(),
            Self::Ask { .. } | Self::Refused { .. } => None,
        }
    }
}
