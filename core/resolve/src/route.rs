//! The choice of a route.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use model::{
    Code, DialledService, LoadBalancingMode, Network, NetworkMode, OriginalDst, Service, SpiffeId,
    TunnelProtocol, Workload, canonical_socket,
};

use crate::balance::NoEndpoint;
use crate::snapshot::{Meaning, ServiceEntry, Snapshot};

/// The port of the HBONE tunnel.
const HBONE_PORT: u16 = 15008;

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
    /// Uniform over its whole range; chooses among endpoints.
    pub random: u64,
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
    },
    /// An HBONE tunnel.
    Hbone {
        /// The destination.
        workload: Arc<Workload>,
        /// What to dial.
        tunnel: SocketAddr,
        /// What to ask the tunnel for.
        authority: SocketAddr,
        /// Identities of which the tunnel's certificate must carry one.
        expected: Vec<SpiffeId>,
        /// The service that was dialled.
        service: Option<DialledService>,
    },
    /// A pod of this agent.
    Local {
        /// The destination.
        workload: Arc<Workload>,
        /// Its address and port.
        address: SocketAddr,
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

/// Chooses the route of one connection. Total.
#[must_use]
pub fn resolve(snapshot: &Snapshot, query: &Query<'_>) -> Route {
    let dialled = canonical_socket(query.original_dst.0);
    if dialled.ip().is_loopback() && MESH_PORTS.contains(&dialled.port()) {
        return self_call(dialled, None, None);
    }
    match snapshot.meaning(query.network, dialled.ip(), &query.source.key.namespace) {
        Meaning::Service(entry) => to_service(entry, query, dialled),
        Meaning::Workload(workload) => to_workload(query, workload, dialled, None),
        Meaning::Unknown => Route::Passthrough { address: dialled, workload: None, service: None },
    }
}

fn to_service(entry: &ServiceEntry, query: &Query<'_>, dialled: SocketAddr) -> Route {
    let service = &entry.service;
    let refused = |code, detail| Route::Refused {
        code,
        detail,
        service: Some(service.dialled()),
        workload: None,
    };
    match service.load_balancing.mode {
        LoadBalancingMode::Passthrough => {
            let service = Some(service.dialled());
            return Route::Passthrough { address: dialled, workload: None, service };
        }
        LoadBalancingMode::Unspecified
        | LoadBalancingMode::Strict
        | LoadBalancingMode::Failover => {}
    }
    let port = dialled.port();
    match entry.choose(query.network, query.source, port, query.random) {
        Ok(endpoint) => {
            let address = SocketAddr::new(endpoint.ip_for(dialled.ip()), endpoint.port());
            to_workload(query, endpoint.workload(), address, Some(entry))
        }
        Err(NoEndpoint::UnknownPort) => {
            refused(Code::NoServicePort, format!("{} has no port {port}", service.name))
        }
        Err(NoEndpoint::None) => {
            refused(Code::NoHealthyEndpoint, no_endpoint(service, port, query.network))
        }
        Err(NoEndpoint::OnlyUnreachable) => refused(
            Code::RouteUnsupported,
            format!("every endpoint of {} is in another network or has no address", service.name),
        ),
    }
}

fn no_endpoint(service: &Service, port: u16, network: &Network) -> String {
    let place = match &*network.0 {
        "" => String::new(),
        name => format!(" in network {name}"),
    };
    let fits = match service.load_balancing.mode {
        LoadBalancingMode::Strict => " that matches every load-balancing preference",
        LoadBalancingMode::Unspecified
        | LoadBalancingMode::Failover
        | LoadBalancingMode::Passthrough => "",
    };
    format!("{} has no healthy endpoint for port {port}{place}{fits}", service.name)
}

fn to_workload(
    query: &Query<'_>,
    workload: &Arc<Workload>,
    address: SocketAddr,
    service: Option<&ServiceEntry>,
) -> Route {
    let name = service.map(|entry| entry.service.dialled());
    let own = match (query.same_node, workload.network_mode) {
        (SameNode::Relay, NetworkMode::Standard) => (query.local)(workload),
        (SameNode::Relay, NetworkMode::HostNetwork) | (SameNode::Tunnel, _) => false,
    };
    if !own && workload.protocol == TunnelProtocol::None {
        return Route::Passthrough { address, workload: Some(workload.clone()), service: name };
    }
    if MESH_PORTS.contains(&address.port()) {
        return self_call(address, name, Some(workload.clone()));
    }
    if own {
        return Route::Local { workload: workload.clone(), address, service: name };
    }
    let identity = match workload.identity() {
        Ok(identity) => identity,
        Err(error) => {
            return Route::Refused {
                code: Code::PeerIdentity,
                detail: format!("workload {} can have no identity: {error}", workload.key),
                service: name,
                workload: Some(workload.clone()),
            };
        }
    };
    let mut expected = vec![identity];
    expected.extend(service.iter().flat_map(|s| s.service.subject_alt_names.iter().cloned()));
    Route::Hbone {
        workload: workload.clone(),
        tunnel: SocketAddr::new(address.ip(), HBONE_PORT),
        authority: address,
        expected,
        service: name,
    }
}

fn self_call(
    address: SocketAddr,
    service: Option<DialledService>,
    workload: Option<Arc<Workload>>,
) -> Route {
    Route::Refused {
        code: Code::SelfCall,
        detail: format!("port {} of {} belongs to the mesh", address.port(), show(address.ip())),
        service,
        workload,
    }
}

fn show(ip: IpAddr) -> String {
    if ip.is_loopback() { "the pod".to_owned() } else { ip.to_string() }
}
