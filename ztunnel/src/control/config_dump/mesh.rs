//! Workloads and services.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use model::{
    ApplicationProtocol, Gateway, GatewayDestination, Health, HealthPolicy, IpFamilies,
    LoadBalancingMode, Locality, NetworkMode, PortMapping, Scope, Service, ServiceName,
    TunnelProtocol, Visibility, Workload,
};
use resolve::Snapshot;
use serde::Serialize;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WorkloadDump<'a> {
    workload_ips: &'a [IpAddr],
    #[serde(skip_serializing_if = "Option::is_none")]
    waypoint: Option<GatewayDump>,
    #[serde(skip_serializing_if = "Option::is_none")]
    network_gateway: Option<GatewayDump>,
    protocol: &'static str,
    network_mode: &'static str,
    uid: &'a str,
    name: &'a str,
    namespace: &'a str,
    trust_domain: String,
    service_account: &'a str,
    network: &'a str,
    workload_name: &'a str,
    workload_type: &'static str,
    canonical_name: &'a str,
    canonical_revision: &'a str,
    hostname: &'a str,
    node: &'a str,
    native_tunnel: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    application_tunnel: Option<ApplicationTunnelDump>,
    authorization_policies: Vec<String>,
    status: &'static str,
    cluster_id: &'a str,
    locality: LocalityDump<'a>,
    services: Vec<String>,
    capacity: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GatewayDump {
    destination: String,
    hbone_mtls_port: u16,
}

#[derive(Serialize)]
struct ApplicationTunnelDump {
    protocol: &'static str,
    port: Option<u16>,
}

#[derive(Serialize)]
struct LocalityDump<'a> {
    region: &'a str,
    zone: &'a str,
    subzone: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServiceDump<'a> {
    name: &'a str,
    namespace: &'a str,
    hostname: &'a str,
    vips: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cidr_vips: Vec<BlockDump<'a>>,
    ports: BTreeMap<u16, u16>,
    endpoints: BTreeMap<&'a str, EndpointDump<'a>>,
    subject_alt_names: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waypoint: Option<GatewayDump>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    weighted_waypoints: Vec<WeightedDump>,
    #[serde(skip_serializing_if = "Option::is_none")]
    load_balancer: Option<LoadBalancerDump>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip_families: Option<&'static str>,
    canonical: bool,
    visibility: &'static str,
}

#[derive(Serialize)]
struct BlockDump<'a> {
    network: &'a str,
    cidr: String,
}

#[derive(Serialize)]
struct WeightedDump {
    destination: GatewayDump,
    weight: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EndpointDump<'a> {
    workload_uid: &'a str,
    port: BTreeMap<u16, u16>,
    status: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LoadBalancerDump {
    routing_preferences: Vec<&'static str>,
    mode: &'static str,
    health_policy: &'static str,
}

/// Every workload, by uid.
pub(super) fn workloads(snapshot: &Snapshot) -> Vec<WorkloadDump<'_>> {
    let mut list: Vec<_> = snapshot.workloads().map(|w| workload(w)).collect();
    list.sort_by(|a, b| a.uid.cmp(b.uid));
    list
}

fn workload(workload: &Workload) -> WorkloadDump<'_> {
    let tunnel = workload.application_tunnel.map(|tunnel| ApplicationTunnelDump {
        protocol: match tunnel.protocol {
            ApplicationProtocol::None => "NONE",
            ApplicationProtocol::Proxy => "PROXY",
        },
        port: tunnel.port.map(std::num::NonZeroU16::get),
    });
    let Locality { region, zone, subzone } = &workload.locality;
    WorkloadDump {
        workload_ips: &workload.addresses,
        waypoint: workload.waypoint.as_ref().map(gateway),
        network_gateway: workload.network_gateway.as_ref().map(gateway),
        protocol: match workload.protocol {
            TunnelProtocol::None => "TCP",
            TunnelProtocol::Hbone => "HBONE",
        },
        network_mode: match workload.network_mode {
            NetworkMode::Standard => "Standard",
            NetworkMode::HostNetwork => "HostNetwork",
        },
        uid: &workload.uid.0,
        name: &workload.key.name,
        namespace: &workload.key.namespace,
        trust_domain: workload.trust_domain.to_string(),
        service_account: &workload.key.service_account,
        network: &workload.network.0,
        workload_name: &workload.workload_name,
        workload_type: workload.workload_type.as_str(),
        canonical_name: &workload.canonical_name,
        canonical_revision: &workload.canonical_revision,
        hostname: workload.hostname.as_deref().unwrap_or_default(),
        node: &workload.node,
        native_tunnel: workload.native_tunnel,
        application_tunnel: tunnel,
        authorization_policies: workload.policies.iter().map(ToString::to_string).collect(),
        status: health(workload.health),
        cluster_id: &workload.cluster,
        locality: LocalityDump { region, zone, subzone },
        services: workload.services.keys().map(ToString::to_string).collect(),
        capacity: workload.capacity,
    }
}

fn gateway(gateway: &Gateway) -> GatewayDump {
    GatewayDump {
        destination: match &gateway.destination {
            GatewayDestination::Address(address) => address.to_string(),
            GatewayDestination::Service(name) => name.to_string(),
        },
        hbone_mtls_port: gateway.hbone_port.get(),
    }
}

fn health(health: Health) -> &'static str {
    match health {
        Health::Healthy => "Healthy",
        Health::Unhealthy => "Unhealthy",
    }
}

/// Every service, by namespace and host name, with its endpoints whatever their health.
pub(super) fn services(snapshot: &Snapshot) -> Vec<ServiceDump<'_>> {
    let mut serving: HashMap<&ServiceName, BTreeMap<&str, EndpointDump<'_>>> = HashMap::new();
    for workload in snapshot.workloads() {
        for (name, mappings) in workload.services.iter() {
            let endpoint = EndpointDump {
                workload_uid: &workload.uid.0,
                port: ports(mappings),
                status: health(workload.health),
            };
            serving.entry(name).or_default().insert(&workload.uid.0, endpoint);
        }
    }
    let mut named: Vec<_> = snapshot.services().collect();
    named.sort_by(|a, b| a.name.cmp(&b.name));
    named
        .into_iter()
        .map(|named| service(named, serving.remove(&named.name).unwrap_or_default()))
        .collect()
}

fn service<'a>(
    service: &'a Service,
    endpoints: BTreeMap<&'a str, EndpointDump<'a>>,
) -> ServiceDump<'a> {
    let is_block = |net: &ipnet::IpNet| net.prefix_len() != net.max_prefix_len();
    let (blocks, hosts): (Vec<_>, Vec<_>) =
        service.addresses.iter().partition(|address| is_block(&address.net));
    let weighted = service.weighted_waypoints.iter();
    ServiceDump {
        name: &service.short_name,
        namespace: &service.name.namespace,
        hostname: &service.name.hostname,
        vips: hosts.iter().map(|vip| format!("{}/{}", vip.network, vip.net.addr())).collect(),
        cidr_vips: blocks
            .iter()
            .map(|vip| BlockDump { network: &vip.network.0, cidr: vip.net.to_string() })
            .collect(),
        ports: ports(&service.ports),
        endpoints,
        subject_alt_names: service.subject_alt_names.iter().map(ToString::to_string).collect(),
        waypoint: service.waypoint.as_ref().map(gateway),
        weighted_waypoints: weighted
            .map(|w| WeightedDump { destination: gateway(&w.gateway), weight: w.weight })
            .collect(),
        load_balancer: load_balancer(service),
        ip_families: match service.ip_families {
            IpFamilies::Automatic => None,
            IpFamilies::V4 => Some("IPv4"),
            IpFamilies::V6 => Some("IPv6"),
            IpFamilies::Dual => Some("Dual"),
        },
        canonical: service.canonical,
        visibility: match service.visibility {
            Visibility::Public => "Public",
            Visibility::Namespace => "Namespace",
        },
    }
}

fn ports(mappings: &[PortMapping]) -> BTreeMap<u16, u16> {
    // 0 stands for a named port.
    let target = |mapping: &PortMapping| mapping.target_port.map_or(0, std::num::NonZeroU16::get);
    mappings.iter().map(|mapping| (mapping.service_port.get(), target(mapping))).collect()
}

fn load_balancer(service: &Service) -> Option<LoadBalancerDump> {
    let balancing = &service.load_balancing;
    if *balancing == model::LoadBalancing::default() {
        return None;
    }
    let scope = |scope: &Scope| match scope {
        Scope::Region => "Region",
        Scope::Zone => "Zone",
        Scope::Subzone => "Subzone",
        Scope::Node => "Node",
        Scope::Cluster => "Cluster",
        Scope::Network => "Network",
    };
    Some(LoadBalancerDump {
        routing_preferences: balancing.preferences.iter().map(scope).collect(),
        mode: match balancing.mode {
            LoadBalancingMode::Unspecified => "Standard",
            LoadBalancingMode::Strict => "Strict",
            LoadBalancingMode::Failover => "Failover",
            LoadBalancingMode::Passthrough => "Passthrough",
        },
        health_policy: match balancing.health {
            HealthPolicy::OnlyHealthy => "OnlyHealthy",
            HealthPolicy::AllowAll => "AllowAll",
        },
    })
}
