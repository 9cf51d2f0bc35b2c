//! Services: from Kubernetes' and from service entries.

mod balancing;
mod entry;
mod protocol;

pub(crate) use entry::{
    assignments, conditions, entry, hosts, pins, target_port as entry_target_port,
    tcp_ports as entry_tcp_ports, traffic, wants_address,
};
pub(crate) use protocol::{of_name, of_port};

use cluster::pod::Protocol;
use cluster::service::{IpFamily, PortRef, ServiceKind, ServicePort, ServiceSpec};
use cluster::{Meta, Service};
use ipnet::IpNet;
use proto::workload as wire;

use crate::condition::Condition;
use crate::names;
use crate::problem::Problem;
use crate::waypoint::{Traffic, bind, condition};
use crate::wire_value::{network_address, parse_ip};
use crate::world::World;

/// Virtual addresses of one service that an agent reads. Of a service with more, none is sent.
const ADDRESSES_MAX: usize = 4096;
/// What a headless service has for an address.
const HEADLESS: &str = "None";

/// A service as it is sent, and the blocks of addresses it has.
pub(crate) struct Translated {
    pub(crate) message: wire::Service,
    pub(crate) nets: Vec<IpNet>,
    pub(crate) problems: Vec<Problem>,
}

/// Whether a Service is one of the mesh. An `ExternalName` is only an alias in DNS.
pub(crate) fn has_host(service: &Service) -> bool {
    service.spec.kind != ServiceKind::ExternalName
}

/// Ports that carry connections, by number; there is no other transport in a mesh. A port 0 is
/// nobody's.
pub(crate) fn tcp_ports(spec: &ServiceSpec) -> impl Iterator<Item = &ServicePort> {
    spec.ports.iter().filter(|port| port.protocol == Protocol::Tcp && port.port > 0)
}

/// The number at endpoints; 0 for a name, which each endpoint resolves for itself.
pub(crate) fn target_port(port: &ServicePort) -> u16 {
    match &port.target_port {
        Some(PortRef::Name(_)) => 0,
        Some(PortRef::Number(number)) if *number > 0 => *number,
        Some(PortRef::Number(_)) | None => port.port,
    }
}

/// A Kubernetes Service.
pub(crate) fn service(world: &World, service: &Service, host: &str, canonical: bool) -> Translated {
    let meta = &service.metadata;
    let namespace = world.store.namespace(&meta.namespace);
    let mut problems = Vec::new();
    if service.spec.ports.iter().any(|port| port.port == 0) {
        problems.push(Problem::Port { field: "spec.ports" });
    }
    let port = |port| wire::Port {
        service_port: port_number(port),
        target_port: target_port(port).into(),
        app_protocol: of_port(port).into(),
    };
    let binding = bind(world, meta, Traffic::Service);
    let nets = cluster_ips(&service.spec, &mut problems);
    let message = wire::Service {
        name: meta.name.to_string(),
        namespace: meta.namespace.to_string(),
        hostname: host.to_owned(),
        addresses: nets.iter().map(|net| network_address(&world.network, *net)).collect(),
        ports: tcp_ports(&service.spec).map(port).collect(),
        waypoint: binding.destination(),
        load_balancing: balancing::of_service(&service.spec, meta, namespace),
        ip_families: ip_families(&service.spec).into(),
        canonical,
        ingress_use_waypoint: ingress_use_waypoint(meta, namespace),
        weighted_waypoints: binding.weighted(),
        ..wire::Service::default()
    };
    Translated { message, nets, problems }
}

/// What a Service's status says.
pub(crate) fn service_conditions(world: &World, service: &Service) -> Vec<Condition> {
    let meta = &service.metadata;
    let binding = bind(world, meta, Traffic::Service);
    let serves_ingress = ingress_use_waypoint(meta, world.store.namespace(&meta.namespace));
    condition(&binding, serves_ingress).into_iter().collect()
}

fn port_number(port: &ServicePort) -> u32 {
    port.port.into()
}

fn cluster_ips(spec: &ServiceSpec, problems: &mut Vec<Problem>) -> Vec<IpNet> {
    let single = Some(&spec.cluster_ip).filter(|_| spec.cluster_ips.is_empty());
    let texts = spec.cluster_ips.iter().chain(single);
    let texts = texts.filter(|text| !text.is_empty() && ***text != *HEADLESS);
    let mut nets: Vec<IpNet> = Vec::new();
    for text in texts {
        match parse_ip(text) {
            None => problems.push(Problem::address("spec.clusterIPs", text)),
            Some(ip) if nets.contains(&ip.into()) => {}
            Some(ip) => nets.push(ip.into()),
        }
    }
    bounded(nets, problems)
}

fn bounded(nets: Vec<IpNet>, problems: &mut Vec<Problem>) -> Vec<IpNet> {
    if nets.len() <= ADDRESSES_MAX {
        return nets;
    }
    let (what, found, max) = ("addresses", nets.len(), ADDRESSES_MAX);
    problems.push(Problem::TooMany { what, found, max });
    Vec::new()
}

fn ip_families(spec: &ServiceSpec) -> wire::IpFamilies {
    let has = |family| spec.ip_families.contains(&family);
    match (has(IpFamily::IPv4), has(IpFamily::IPv6)) {
        (true, true) => wire::IpFamilies::Dual,
        (true, false) => wire::IpFamilies::Ipv4Only,
        (false, true) => wire::IpFamilies::Ipv6Only,
        (false, false) => wire::IpFamilies::Automatic,
    }
}

/// The object's label, else its namespace's.
fn ingress_use_waypoint(meta: &Meta, namespace: Option<&Meta>) -> bool {
    let of = |meta: &Meta| {
        meta.label(names::INGRESS_USE_WAYPOINT).and_then(|value| value.parse::<bool>().ok())
    };
    of(meta).or_else(|| namespace.and_then(of)).unwrap_or_default()
}
