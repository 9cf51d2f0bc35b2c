//! From a `Gateway` to a waypoint.

use std::net::IpAddr;

use cluster::gateway::{From, RouteNamespaces};
use cluster::{Gateway, GatewayClass, Meta, ObjectName};
use proto::workload as wire;

use crate::names;
use crate::problem::Problem;
use crate::text;
use crate::wire_value::address_bytes;

/// Port of HBONE, wherever it is spoken.
const HBONE_PORT: u16 = 15008;
/// Protocol of a listener for HBONE.
pub(crate) const HBONE: &str = "HBONE";
/// Type of a gateway's address.
pub(crate) const HOSTNAME: &str = "Hostname";
/// Type of a gateway's address; also what one without a type is.
pub(crate) const IP_ADDRESS: &str = "IPAddress";

/// What a gateway is for the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GatewayState {
    /// Whether it is a waypoint (or a gateway between networks), ready or not: what was made for it
    /// is never behind one.
    pub(crate) is_waypoint: bool,
    /// How it takes traffic for others.
    pub(crate) waypoint: Waypoint,
    /// How its pods take what was tunnelled to them.
    pub(crate) tunnel: Option<wire::ApplicationTunnel>,
}

/// A gateway as one that takes traffic for others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waypoint {
    pub(crate) name: ObjectName,
    /// Set when it has an address.
    pub(crate) destination: Option<wire::GatewayAddress>,
    pub(crate) traffic: TrafficType,
    pub(crate) routes: RouteNamespaces,
}

/// Which traffic a waypoint takes (`istio.io/waypoint-for`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TrafficType {
    Service,
    Workload,
    All,
    None,
}

/// Reads a gateway. Every gateway with an address can be a waypoint, whoever implements it.
pub(crate) fn read(
    network: &str,
    gateway: &Gateway,
    class: Option<&GatewayClass>,
    problems: &mut Vec<Problem>,
) -> GatewayState {
    let meta = &gateway.metadata;
    let class = class.map(|class| &class.metadata);
    let (has_binding, tunnel) = inbound_binding(meta, class, problems);
    let listener = gateway.spec.listeners.iter().find(|listener| *listener.protocol == *HBONE);
    // A waypoint that leaves HBONE to its node's agent has a listener of another protocol.
    let bound = tunnel.as_ref().and_then(|tunnel| {
        gateway.spec.listeners.iter().find(|l| u32::from(l.port) == tunnel.port && tunnel.port > 0)
    });
    let listener = listener.or(bound);
    let routes = listener.map(|l| l.allowed_routes.namespaces.clone()).unwrap_or_default();
    let waypoint = Waypoint {
        name: meta.object_name(),
        destination: destination(network, gateway, problems),
        traffic: traffic(meta, class, problems),
        routes,
    };
    GatewayState { is_waypoint: listener.is_some() || has_binding, waypoint, tunnel }
}

/// Where it is reached: by name, if it has one.
fn destination(
    network: &str,
    gateway: &Gateway,
    problems: &mut Vec<Problem>,
) -> Option<wire::GatewayAddress> {
    use wire::gateway_address::Destination;
    const FIELD: &str = "status.addresses";
    let of_kind = |kind: &'static str| {
        let addresses = gateway.status.addresses.iter();
        addresses.filter(move |each| each.kind.as_deref().unwrap_or(IP_ADDRESS) == kind)
    };
    let by_name = of_kind(HOSTNAME).find_map(|each| {
        if !text::is_host(&each.value) {
            problems.push(Problem::name(FIELD, &each.value));
            return None;
        }
        let namespace = gateway.metadata.namespace.to_string();
        let hostname = each.value.to_string();
        Some(Destination::Hostname(wire::NamespacedHostname { namespace, hostname }))
    });
    let destination = by_name.or_else(|| {
        of_kind(IP_ADDRESS).find_map(|each| {
            let Ok(ip) = each.value.parse::<IpAddr>() else {
                problems.push(Problem::address(FIELD, &each.value));
                return None;
            };
            let (network, address) = (network.to_owned(), address_bytes(ip));
            Some(Destination::Address(wire::NetworkAddress { network, address, length: None }))
        })
    });
    let hbone_mtls_port = HBONE_PORT.into();
    Some(wire::GatewayAddress { destination: Some(destination?), hbone_mtls_port })
}

/// The gateway's own word, then its class's, then that of services.
fn traffic(meta: &Meta, class: Option<&Meta>, problems: &mut Vec<Problem>) -> TrafficType {
    let own = meta.label(names::WAYPOINT_FOR);
    match own.or_else(|| class?.label(names::WAYPOINT_FOR)) {
        None | Some("service") => TrafficType::Service,
        Some("workload") => TrafficType::Workload,
        Some("all") => TrafficType::All,
        Some("none") => TrafficType::None,
        Some(value) => {
            problems.push(Problem::value(names::WAYPOINT_FOR, value));
            TrafficType::None
        }
    }
}

/// `NONE`, or `PROXY` with or without a port. Whether there is a binding, and the tunnel.
fn inbound_binding(
    meta: &Meta,
    class: Option<&Meta>,
    problems: &mut Vec<Problem>,
) -> (bool, Option<wire::ApplicationTunnel>) {
    use wire::application_tunnel::Protocol;
    let own = meta.annotation(names::INBOUND_BINDING);
    let Some(value) = own.or_else(|| class?.annotation(names::INBOUND_BINDING)) else {
        return (false, None);
    };
    let (protocol, port) = match value.split_once('/') {
        None => (value, Some(0)),
        Some((protocol, port)) => (protocol, port.parse::<u16>().ok().filter(|port| *port > 0)),
    };
    match (protocol, port) {
        ("NONE", Some(_)) => (true, None),
        ("PROXY", Some(port)) => {
            let (protocol, port) = (Protocol::Proxy.into(), port.into());
            (true, Some(wire::ApplicationTunnel { protocol, port }))
        }
        _ => {
            problems.push(Problem::value(names::INBOUND_BINDING, value));
            (false, None)
        }
    }
}

impl Waypoint {
    /// Whether objects of a namespace may be behind it.
    pub(crate) fn admits(&self, namespace: &str, labels: &cluster::Labels) -> bool {
        match self.routes.from {
            From::Same => *self.name.namespace == *namespace,
            From::All => true,
            From::None => false,
            From::Selector => {
                self.routes.selector.as_ref().is_some_and(|selector| selector.matches(labels))
            }
        }
    }
}
