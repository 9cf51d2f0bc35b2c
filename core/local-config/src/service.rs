//! `services`: `istio.workload.Service` as Istio's ztunnel writes it in YAML.

use std::net::IpAddr;

use model::{
    HealthPolicy, IpFamilies, LoadBalancing, LoadBalancingMode, Network, Scope, Service,
    ServiceAddress, SpiffeId, Visibility,
};

use crate::endpoint::{Endpoint, endpoint};
use crate::error::Collector;
use crate::gateway::{gateway, weighted_waypoint};
use crate::node::Node;
use crate::read::{
    Object, Path, block, boolean, entries, explained, list, owned_text, parsed, port_mappings,
    service_name, word,
};

const MODES: &[(&str, LoadBalancingMode)] = &[
    ("Standard", LoadBalancingMode::Unspecified),
    ("Strict", LoadBalancingMode::Strict),
    ("Failover", LoadBalancingMode::Failover),
    ("Passthrough", LoadBalancingMode::Passthrough),
];
const SCOPES: &[(&str, Scope)] = &[
    ("Region", Scope::Region),
    ("Zone", Scope::Zone),
    ("Subzone", Scope::Subzone),
    ("Node", Scope::Node),
    ("Cluster", Scope::Cluster),
    ("Network", Scope::Network),
];
const HEALTH: &[(&str, HealthPolicy)] =
    &[("OnlyHealthy", HealthPolicy::OnlyHealthy), ("AllowAll", HealthPolicy::AllowAll)];
const FAMILIES: &[(&str, IpFamilies)] =
    &[("Dual", IpFamilies::Dual), ("IPv4", IpFamilies::V4), ("IPv6", IpFamilies::V6)];
const VISIBILITIES: &[(&str, Visibility)] =
    &[("Public", Visibility::Public), ("Namespace", Visibility::Namespace)];

/// A service, and the endpoints that it names itself.
pub(crate) fn service(
    errors: &mut Collector<'_>,
    node: &Node,
    path: &Path<'_>,
) -> Option<(Service, Vec<Endpoint>)> {
    let mut object = Object::open(errors, node, path)?;
    let o = &mut object;
    let short_name = o.required(errors, "name", owned_text);
    let namespace = o.required(errors, "namespace", owned_text);
    let hostname = o.required(errors, "hostname", owned_text);
    let vips = o.required(errors, "vips", list(vip));
    let blocks = o.optional(errors, "cidrVips", list(vip_block)).unwrap_or_default();
    let ports = o.required(errors, "ports", port_mappings);
    let sans = o.optional(errors, "subjectAltNames", list(san)).unwrap_or_default();
    let balancing = o.nullable(errors, "loadBalancer", load_balancing).unwrap_or_default();
    let families = o.nullable(errors, "ipFamilies", word(FAMILIES)).unwrap_or_default();
    let canonical = o.optional(errors, "canonical", boolean).unwrap_or(false);
    let visibility = o.optional(errors, "visibility", word(VISIBILITIES)).unwrap_or_default();
    let endpoints = o.optional(errors, "endpoints", entries(endpoint)).unwrap_or_default();
    let waypoint = o.nullable(errors, "waypoint", gateway);
    let weighted_waypoints =
        o.optional(errors, "weightedWaypoints", list(weighted_waypoint)).unwrap_or_default();
    let key = namespace.zip(hostname).map(|(ns, host)| format!("{ns}/{host}"));
    let name = key.as_deref().map(service_name);
    if name == Some(None) {
        let cause = "namespace and hostname must not be empty, and the hostname holds no /";
        let at = o.peek("hostname").position;
        errors.push(at, Path::Key(path, "hostname"), key.as_deref(), cause);
    }
    object.finish(errors);
    let service = Service {
        name: name??,
        short_name: short_name?.into(),
        addresses: vips?.into_iter().chain(blocks).collect(),
        ports: ports?,
        subject_alt_names: sans,
        load_balancing: balancing,
        ip_families: families,
        canonical,
        visibility,
        waypoint,
        weighted_waypoints,
    };
    Some((service, endpoints))
}

/// `network/address`; the network may be empty.
fn vip(errors: &mut Collector<'_>, node: &Node, path: &Path<'_>) -> Option<ServiceAddress> {
    let parse = |text: &str| {
        let (network, ip) = text.split_once('/')?;
        let ip: IpAddr = ip.parse().ok()?;
        Some(ServiceAddress::host(Network(network.into()), model::canonical_ip(ip)))
    };
    parsed("network/address, such as /10.0.0.1", parse)(errors, node, path)
}

fn vip_block(errors: &mut Collector<'_>, node: &Node, path: &Path<'_>) -> Option<ServiceAddress> {
    let mut object = Object::open(errors, node, path)?;
    let network = object.required(errors, "network", owned_text);
    let net = object.required(errors, "cidr", block);
    object.finish(errors);
    Some(ServiceAddress { network: Network(network?.into()), net: net? })
}

fn san(errors: &mut Collector<'_>, node: &Node, path: &Path<'_>) -> Option<SpiffeId> {
    explained(SpiffeId::parse)(errors, node, path)
}

fn load_balancing(
    errors: &mut Collector<'_>,
    node: &Node,
    path: &Path<'_>,
) -> Option<LoadBalancing> {
    let mut object = Object::open(errors, node, path)?;
    let scopes =
        |errors: &mut Collector<'_>, node: &Node, path: &Path<'_>| word(SCOPES)(errors, node, path);
    let preferences = object.optional(errors, "routingPreferences", list(scopes));
    let mode = object.optional(errors, "mode", word(MODES));
    let health = object.optional(errors, "healthPolicy", word(HEALTH));
    object.finish(errors);
    Some(LoadBalancing {
        preferences: preferences.unwrap_or_default(),
        mode: mode.unwrap_or_default(),
        health: health.unwrap_or_default(),
    })
}
