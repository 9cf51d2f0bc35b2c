//! Waypoints, gateways to other networks and application tunnels, as Istio's ztunnel writes them.

use std::net::IpAddr;

use model::{
    ApplicationProtocol, ApplicationTunnel, Gateway, GatewayDestination, Network, NetworkAddress,
    WeightedWaypoint,
};

use crate::error::Collector;
use crate::node::Node;
use crate::read::{Object, Path, decimal, parsed, port, service_name, word};

const PROTOCOLS: &[(&str, ApplicationProtocol)] =
    &[("NONE", ApplicationProtocol::None), ("PROXY", ApplicationProtocol::Proxy)];

/// `{destination: network/address or namespace/hostname, hboneMtlsPort: port}`.
pub(crate) fn gateway(errors: &mut Collector<'_>, node: &Node, path: &Path<'_>) -> Option<Gateway> {
    let mut object = Object::open(errors, node, path)?;
    let what = "network/address, such as /10.0.0.1, or namespace/hostname";
    let destination = object.required(errors, "destination", parsed(what, destination));
    let hbone_port = object.required(errors, "hboneMtlsPort", port);
    object.finish(errors);
    Some(Gateway { destination: destination?, hbone_port: hbone_port? })
}

/// What follows the slash decides: an address is never taken for a host name.
fn destination(text: &str) -> Option<GatewayDestination> {
    let (network, host) = text.split_once('/')?;
    match host.parse::<IpAddr>() {
        Ok(ip) => {
            let (network, ip) = (Network(network.into()), model::canonical_ip(ip));
            Some(GatewayDestination::Address(NetworkAddress { network, ip }))
        }
        Err(_) => service_name(text).map(GatewayDestination::Service),
    }
}

/// `{destination: a gateway, weight: number}`.
pub(crate) fn weighted_waypoint(
    errors: &mut Collector<'_>,
    node: &Node,
    path: &Path<'_>,
) -> Option<WeightedWaypoint> {
    let mut object = Object::open(errors, node, path)?;
    let gateway = object.required(errors, "destination", gateway);
    let number = parsed("a number from 0 to 4294967295", decimal::<u32>);
    let weight = object.required(errors, "weight", number);
    object.finish(errors);
    Some(WeightedWaypoint { gateway: gateway?, weight: weight? })
}

/// `{protocol: NONE or PROXY, port: port}`; the port may be left out.
pub(crate) fn application_tunnel(
    errors: &mut Collector<'_>,
    node: &Node,
    path: &Path<'_>,
) -> Option<ApplicationTunnel> {
    let mut object = Object::open(errors, node, path)?;
    let protocol = object.required(errors, "protocol", word(PROTOCOLS));
    let port = object.nullable(errors, "port", port);
    object.finish(errors);
    Some(ApplicationTunnel { protocol: protocol?, port })
}
