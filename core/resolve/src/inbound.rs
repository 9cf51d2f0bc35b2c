//! Where does a connection go that came in for a pod? And did it come the way it had to?
//!
//! The pod is settled: the tunnel ended at one of its addresses, with its certificate. What a
//! CONNECT may choose is the port, and for a waypoint the destination beyond it. So the target is
//! always an address of the pod; an authority that names anything else is refused, unless this pod
//! is there to take it.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;

use model::{
    ApplicationProtocol, ApplicationTunnel, Code, Gateway, Network, Service, Workload,
    canonical_socket,
};

use crate::snapshot::Meaning;
use crate::{MESH_PORTS, Snapshot};

/// What a peer asked for in a CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked<'q> {
    /// An address and a port.
    Address(SocketAddr),
    /// A host name of a service, in lower case, and the service's port: through a gateway.
    Host(&'q str, u16),
}

/// Where an application tunnel with a PROXY header is dialled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TunnelAddress {
    /// On the pod's loopback, from loopback: nothing outside the pod can forge a header there.
    #[default]
    Loopback,
    /// On the pod's address, from the client's.
    Pod,
}

/// One connection that came in a tunnel.
#[derive(Clone, Copy)]
pub struct InboundQuery<'q> {
    /// The network of this node.
    pub network: &'q Network,
    /// The pod's workload.
    pub workload: &'q Workload,
    /// The pod's address that the tunnel ends at.
    pub local: IpAddr,
    /// Whether an address is another one of that pod.
    pub own: &'q dyn Fn(IpAddr) -> bool,
    /// What was asked for.
    pub asked: Asked<'q>,
    /// Where application tunnels with a PROXY header are.
    pub tunnel_address: TunnelAddress,
}

/// Where a connection goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundTarget {
    /// An address of the pod, and the port that takes the connection: what policy judges.
    pub destination: SocketAddr,
    /// Where and how the application is handed the connection.
    pub handover: Handover,
    /// The service that was asked for by host name.
    pub service: Option<Arc<Service>>,
}

/// How an application is handed a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handover {
    /// The bytes alone, from the client's address.
    Plain,
    /// A PROXY header first.
    Proxy {
        /// Where the application listens.
        address: TunnelAddress,
        /// What the header says was asked for.
        asked: SocketAddr,
        /// The host name it was asked for by.
        host: Option<Arc<str>>,
    },
}

/// Why a connection goes nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundRefusal {
    /// The stable reason.
    pub code: Code,
    /// What the code does not say.
    pub detail: String,
}

/// Refuses plaintext to a port on which the application takes PROXY headers: it believes them, and
/// the client could write any.
pub fn plaintext_target(workload: &Workload, port: u16) -> Result<(), InboundRefusal> {
    match workload.application_tunnel {
        Some(ApplicationTunnel { protocol: ApplicationProtocol::Proxy, port: fixed })
            if fixed.is_none_or(|fixed| fixed.get() == port) =>
        {
            let detail = format!("port {port} of {} takes PROXY headers", workload.key);
            Err(refusal(Code::SelfCall, detail))
        }
        Some(_) | None => Ok(()),
    }
}

/// Finds the target of a connection that came in a tunnel.
pub fn inbound_target(
    snapshot: &Snapshot,
    query: &InboundQuery<'_>,
) -> Result<InboundTarget, InboundRefusal> {
    let tunnel = query.workload.application_tunnel;
    let (ip, port, service) = match query.asked {
        Asked::Address(address) => {
            let address = canonical_socket(address);
            (addressed(snapshot, query, address)?, address.port(), None)
        }
        Asked::Host(host, port) => {
            let service = named(snapshot, query, host)?;
            let target = port_behind(query.workload, service, port)?;
            (query.local.to_canonical(), target, Some(service))
        }
    };
    let fixed = tunnel.and_then(|tunnel| tunnel.port).map(NonZeroU16::get);
    if MESH_PORTS.contains(&port) || fixed.is_some_and(|port| MESH_PORTS.contains(&port)) {
        let port = fixed.filter(|fixed| MESH_PORTS.contains(fixed)).unwrap_or(port);
        return Err(refusal(Code::SelfCall, format!("port {port} belongs to the mesh")));
    }
    Ok(InboundTarget {
        destination: SocketAddr::new(ip, fixed.unwrap_or(port)),
        handover: match tunnel {
            None | Some(ApplicationTunnel { protocol: ApplicationProtocol::None, .. }) => {
                Handover::Plain
            }
            Some(ApplicationTunnel { protocol: ApplicationProtocol::Proxy, .. }) => {
                proxied(query, service)?
            }
        },
        service: service.cloned(),
    })
}

/// The pod's address to dial for an authority with an address.
fn addressed(
    snapshot: &Snapshot,
    query: &InboundQuery<'_>,
    asked: SocketAddr,
) -> Result<IpAddr, InboundRefusal> {
    let local = query.local.to_canonical();
    if asked.ip() == local || (query.own)(asked.ip()) {
        return Ok(asked.ip());
    }
    // Its application knows what to do with an address that is not the pod's.
    let tunnelled = query.workload.application_tunnel.is_some();
    if tunnelled || is_waypoint_of(snapshot, query, asked.ip()) {
        return Ok(local);
    }
    let detail = format!("{asked} is not an address of {}, nor behind it", query.workload.key);
    Err(refusal(Code::DestinationMismatch, detail))
}

/// Whether a workload or service with that address names this workload as a waypoint.
fn is_waypoint_of(snapshot: &Snapshot, query: &InboundQuery<'_>, ip: IpAddr) -> bool {
    let names_it = |waypoint: &Gateway| snapshot.is_gateway(waypoint, query.workload);
    match snapshot.meaning(query.network, ip, &query.workload.key.namespace) {
        Meaning::Service(entry) | Meaning::Block(entry) => waypoints(&entry.service).any(names_it),
        Meaning::Workload(workload) => workload.waypoint.as_ref().is_some_and(names_it),
        Meaning::Unknown => false,
    }
}

/// The waypoints of a service, the weighted ones too: whichever a client chose, it chose rightly.
fn waypoints(service: &Service) -> impl Iterator<Item = &Gateway> {
    service.waypoint.iter().chain(service.weighted_waypoints.iter().map(|one| &one.gateway))
}

/// The service that a peer of a workload means by a host name, in lower case: of those that the
/// workload serves or takes as a waypoint, the one of its own namespace, then the canonical one, then
/// the first by namespace.
#[must_use]
pub fn service_behind<'s>(
    snapshot: &'s Snapshot,
    workload: &Workload,
    host: &str,
) -> Option<&'s Arc<Service>> {
    let concerned = |service: &&Arc<Service>| {
        workload.services.get(&service.name).is_some()
            || workload.application_tunnel.is_some()
            || waypoints(service).any(|waypoint| snapshot.is_gateway(waypoint, workload))
    };
    let rank =
        |service: &Service| (service.name.namespace == workload.key.namespace, service.canonical);
    let candidates = snapshot.services_by_hostname(host).iter().filter(concerned);
    candidates.reduce(|best, next| if rank(next) > rank(best) { next } else { best })
}

fn named<'s>(
    snapshot: &'s Snapshot,
    query: &InboundQuery<'_>,
    host: &str,
) -> Result<&'s Arc<Service>, InboundRefusal> {
    service_behind(snapshot, query.workload, host).ok_or_else(|| {
        let detail = format!("{} serves no service {host}", query.workload.key);
        refusal(Code::DestinationMismatch, detail)
    })
}

/// The port of this workload behind a service's: its own mapping first, then the service's. Where
/// all goes to one port, the service must have the port that was asked for, and no more.
fn port_behind(workload: &Workload, service: &Service, port: u16) -> Result<u16, InboundRefusal> {
    let mapping = service.ports.iter().find(|mapping| mapping.service_port.get() == port);
    let own = workload.target_port(&service.name, port);
    let fixed = workload.application_tunnel.and_then(|tunnel| tunnel.port);
    let target = own.or_else(|| mapping.and_then(|mapping| mapping.target_port));
    let target = target.or_else(|| mapping.and(fixed));
    target.map(NonZeroU16::get).ok_or_else(|| {
        let detail = format!("{} has no port {port} for {}", service.name, workload.key);
        refusal(Code::NoServicePort, detail)
    })
}

/// What the PROXY header says. It has no room for a host name but beside an address: then it is a
/// virtual one of the service, of this network before others, and IPv4 before IPv6.
fn proxied(
    query: &InboundQuery<'_>,
    service: Option<&Arc<Service>>,
) -> Result<Handover, InboundRefusal> {
    let (asked, host) = match (query.asked, service) {
        (Asked::Host(host, port), Some(service)) => {
            let plain = service
                .addresses
                .iter()
                .filter(|address| address.net.prefix_len() == address.net.max_prefix_len());
            let best = plain.min_by_key(|address| {
                (address.network != *query.network, address.net.addr().is_ipv6())
            });
            let Some(vip) = best else {
                let detail = format!("{host} has no address to tell the application");
                return Err(refusal(Code::DestinationMismatch, detail));
            };
            let asked = SocketAddr::new(vip.net.addr().to_canonical(), port);
            (asked, Some(service.name.hostname.clone()))
        }
        (Asked::Host(_, port), None) => (SocketAddr::new(query.local, port), None),
        (Asked::Address(address), _) => (canonical_socket(address), None),
    };
    Ok(Handover::Proxy { address: query.tunnel_address, asked, host })
}

fn refusal(code: Code, detail: impl Into<String>) -> InboundRefusal {
    InboundRefusal { code, detail: detail.into() }
}

mod waypoint;

pub use waypoint::{Arrival, RequireWaypoint, require_waypoint};

#[cfg(test)]
mod tests;
