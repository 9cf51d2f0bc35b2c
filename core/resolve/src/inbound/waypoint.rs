//! Did a connection come through the waypoint that it had to take?
//!
//! Istio leaves this to authorization policies. A mesh that does not want to write one for each
//! workload sets [`RequireWaypoint::Enforce`]: then a workload that has a waypoint, or a service
//! with one, takes connections from nobody else. What policies say comes on top.

use std::net::{IpAddr, SocketAddr};

use model::{Code, Gateway, GatewayDestination, Network, Service, ServiceName, SpiffeId, Workload};

use super::{InboundRefusal, refusal, waypoints};
use crate::Snapshot;
use crate::snapshot::Meaning;

/// Whether waypoints can be gone past.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RequireWaypoint {
    /// Yes, where policy allows it: as in Istio.
    #[default]
    Off,
    /// No.
    Enforce,
}

/// How a connection arrived at a pod.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'q> {
    /// The network of this node.
    pub network: &'q Network,
    /// The client's identity; none for plaintext.
    pub peer: Option<&'q SpiffeId>,
    /// The client's address.
    pub source: IpAddr,
    /// Whether it came through a gateway, so that the address says nothing.
    pub from_gateway: bool,
    /// The pod's address, and the port after resolution.
    pub destination: SocketAddr,
}

/// Checks that a connection came through a waypoint of its destination, if that has one.
///
/// The workload's own waypoint counts for all its ports, a service's for those that serve it: what
/// is no port of the service cannot be its traffic. The waypoint is known by its identity, and by
/// its address where that belongs to a workload: another one with the same service account is none.
/// A waypoint that is not known has no identity, so nobody passes; nor does anybody to a workload of
/// a service that is not known, because that may have a waypoint.
pub fn require_waypoint(
    snapshot: &Snapshot,
    workload: &Workload,
    arrival: &Arrival<'_>,
    setting: RequireWaypoint,
) -> Result<(), InboundRefusal> {
    match setting {
        RequireWaypoint::Off => return Ok(()),
        RequireWaypoint::Enforce => {}
    }
    // Whether a service that is not known has a waypoint cannot be told.
    if let Some(name) = workload.services.keys().find(|name| snapshot.service(name).is_none()) {
        let detail = format!("{} serves {name}, which is not known here", workload.key);
        return Err(refusal(Code::WaypointUnknown, detail));
    }
    let port = arrival.destination.port();
    let services = workload.services.keys().filter_map(|name| snapshot.service(name));
    let concerned = services.filter(|service| serves(workload, service, port));
    let of_services = concerned.flat_map(|service| waypoints(service));
    let mut required = workload.waypoint.iter().chain(of_services).peekable();
    let Some(first) = required.peek().copied() else { return Ok(()) };
    if required.any(|gateway| is_from(snapshot, arrival, gateway)) {
        return Ok(());
    }
    let who = arrival.peer.map_or("a client without identity", SpiffeId::as_str);
    let detail = format!("{} must be reached through {first}, not from {who}", workload.key);
    Err(refusal(Code::WaypointRequired, detail))
}

/// Whether a port of a workload serves a service. Where one port takes everything, it serves all.
fn serves(workload: &Workload, service: &Service, port: u16) -> bool {
    let fixed = workload.application_tunnel.is_some_and(|tunnel| tunnel.port.is_some());
    let mut mappings = service.ports.iter();
    fixed
        || mappings.any(|mapping| {
            let own = workload.target_port(&service.name, mapping.service_port.get());
            own.or(mapping.target_port).is_some_and(|target| target.get() == port)
        })
}

/// Whether the client is that waypoint.
fn is_from(snapshot: &Snapshot, arrival: &Arrival<'_>, gateway: &Gateway) -> bool {
    let Some(peer) = arrival.peer else { return false };
    let is_peer = |workload: &Workload| workload.identity().is_ok_and(|id| id == *peer);
    if !arrival.from_gateway
        && let Some(client) = snapshot.workload_by_address(arrival.network, arrival.source)
    {
        return snapshot.is_gateway(gateway, client) && is_peer(client);
    }
    // The address is a gateway's, or that of a node. An instance that is not ready still ends what it
    // began, and others may know later than this node that it is ready.
    let any_instance = |service: &ServiceName| {
        let mut instances = snapshot.members_of(service);
        instances.any(|workload| is_peer(workload))
    };
    match &gateway.destination {
        GatewayDestination::Service(name) => any_instance(name),
        GatewayDestination::Address(address) => {
            match snapshot.meaning(&address.network, address.ip.to_canonical(), peer.namespace()) {
                Meaning::Service(entry) => any_instance(&entry.service.name),
                Meaning::Workload(workload) => is_peer(workload),
                Meaning::Block(_) | Meaning::Unknown => false,
            }
        }
    }
}
