//! `istio.workload.Workload`.

use std::net::IpAddr;

use model::{
    ApplicationProtocol, ApplicationTunnel, Gateway, Health, Locality, Network, NetworkMode,
    PolicyName, ServedServices, TunnelProtocol, Workload, WorkloadKey, WorkloadType, WorkloadUid,
};
use proto::workload as wire;

use super::intern::Interner;
use super::invalid::{Invalid, Problem, Within};
use super::network::{gateway, ip, port_or_unset, ports, service_name};
use super::text::{bounded, own_text, text};
use super::{known, limited};

/// Addresses of one workload. Kubernetes gives a pod two.
const ADDRESSES_MAX: usize = 64;
/// Services of one workload.
const SERVICES_MAX: usize = 4096;
/// Policies that select one workload.
const POLICIES_MAX: usize = 4096;
/// What an empty `service_account` stands for.
const SERVICE_ACCOUNT: &str = "default";
/// What an empty `cluster_id` stands for.
const CLUSTER: &str = "Kubernetes";
/// Share of traffic where none is given.
const CAPACITY: u32 = 1;

/// Reads a workload. `extensions` and what is not known are ignored: they only describe.
pub(super) fn workload(
    interner: &mut Interner,
    wire: &wire::Workload,
) -> Result<Workload, Invalid> {
    if wire.uid.is_empty() {
        return Err(Problem::Missing.at("uid"));
    }
    let i = interner;
    Ok(Workload {
        uid: WorkloadUid(own_text(&wire.uid).within("uid")?),
        key: WorkloadKey {
            namespace: text(i, &wire.namespace).within("namespace")?,
            name: own_text(&wire.name).within("name")?,
            service_account: text(i, or(&wire.service_account, SERVICE_ACCOUNT))
                .within("service_account")?,
        },
        trust_domain: i
            .trust_domain(bounded(&wire.trust_domain).within("trust_domain")?)
            .map_err(Problem::from)
            .within("trust_domain")?,
        addresses: addresses(wire)?,
        network: Network(text(i, &wire.network).within("network")?),
        protocol: protocol(wire.tunnel_protocol).within("tunnel_protocol")?,
        network_mode: network_mode(wire.network_mode).within("network_mode")?,
        node: text(i, &wire.node).within("node")?,
        cluster: text(i, or(&wire.cluster_id, CLUSTER)).within("cluster_id")?,
        canonical_name: text(i, &wire.canonical_name).within("canonical_name")?,
        canonical_revision: text(i, &wire.canonical_revision).within("canonical_revision")?,
        workload_type: workload_type(wire.workload_type),
        workload_name: text(i, &wire.workload_name).within("workload_name")?,
        health: health(wire.status).within("status")?,
        locality: locality(i, wire.locality.as_ref()).within("locality")?,
        policies: policies(i, wire)?,
        services: services(i, wire)?,
        capacity: wire.capacity.unwrap_or(CAPACITY),
        native_tunnel: wire.native_tunnel,
        waypoint: optional_gateway(i, wire.waypoint.as_ref()).within("waypoint")?,
        network_gateway: optional_gateway(i, wire.network_gateway.as_ref())
            .within("network_gateway")?,
        application_tunnel: wire
            .application_tunnel
            .map(application_tunnel)
            .transpose()
            .within("application_tunnel")?,
        hostname: match wire.hostname.as_str() {
            "" => None,
            name => Some(text(i, name).within("hostname")?),
        },
    })
}

fn or<'t>(text: &'t str, default: &'t str) -> &'t str {
    if text.is_empty() { default } else { text }
}

fn addresses(wire: &wire::Workload) -> Result<Vec<IpAddr>, Invalid> {
    let list = limited(&wire.addresses, ADDRESSES_MAX).within("addresses")?;
    list.iter().enumerate().map(|(index, bytes)| ip(bytes).item("addresses", index)).collect()
}

fn protocol(number: i32) -> Result<TunnelProtocol, Problem> {
    match known(number)? {
        wire::TunnelProtocol::None => Ok(TunnelProtocol::None),
        wire::TunnelProtocol::Hbone => Ok(TunnelProtocol::Hbone),
        wire::TunnelProtocol::LegacyIstioMtls => Err(Problem::Unsupported("LEGACY_ISTIO_MTLS")),
    }
}

fn network_mode(number: i32) -> Result<NetworkMode, Problem> {
    Ok(match known(number)? {
        wire::NetworkMode::Standard => NetworkMode::Standard,
        wire::NetworkMode::HostNetwork => NetworkMode::HostNetwork,
    })
}

fn health(number: i32) -> Result<Health, Problem> {
    Ok(match known(number)? {
        wire::WorkloadStatus::Healthy => Health::Healthy,
        wire::WorkloadStatus::Unhealthy => Health::Unhealthy,
    })
}

/// Telemetry only, so a kind that is not known is no reason to lose the workload.
fn workload_type(number: i32) -> WorkloadType {
    match wire::WorkloadType::try_from(number) {
        Ok(wire::WorkloadType::Deployment) | Err(_) => WorkloadType::Deployment,
        Ok(wire::WorkloadType::Cronjob) => WorkloadType::CronJob,
        Ok(wire::WorkloadType::Pod) => WorkloadType::Pod,
        Ok(wire::WorkloadType::Job) => WorkloadType::Job,
    }
}

fn locality(i: &mut Interner, wire: Option<&wire::Locality>) -> Result<Locality, Invalid> {
    let none = wire::Locality::default();
    let wire = wire.unwrap_or(&none);
    Ok(Locality {
        region: text(i, &wire.region).within("region")?,
        zone: text(i, &wire.zone).within("zone")?,
        subzone: text(i, &wire.subzone).within("subzone")?,
    })
}

/// A name that cannot be read is not dropped: the policy may be a DENY.
fn policies(i: &mut Interner, wire: &wire::Workload) -> Result<Vec<PolicyName>, Invalid> {
    let field = "authorization_policies";
    let list = limited(&wire.authorization_policies, POLICIES_MAX).within(field)?;
    list.iter().enumerate().map(|(index, key)| policy_name(i, key).item(field, index)).collect()
}

/// `namespace/name`.
pub(super) fn policy_name(i: &mut Interner, key: &str) -> Result<PolicyName, Problem> {
    match key.split_once('/') {
        Some((namespace, name))
            if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
        {
            Ok(PolicyName { namespace: text(i, namespace)?, name: text(i, name)? })
        }
        Some(_) | None => Err(Problem::key(key)),
    }
}

fn services(i: &mut Interner, wire: &wire::Workload) -> Result<ServedServices, Invalid> {
    if wire.services.len() > SERVICES_MAX {
        let length = wire.services.len();
        return Err(Problem::TooLong { length, max: SERVICES_MAX }.at("services"));
    }
    let entry = |(key, list): (&String, &wire::PortList)| {
        let field = || format!("services[{}]", super::invalid::shortened(key));
        let Some((namespace, hostname)) = key.split_once('/') else {
            return Err(Problem::key(key).at("services"));
        };
        let name = service_name(i, namespace, hostname).map_err(|e| e.within("services"))?;
        let ports = ports(&list.ports).map_err(|e| e.within(&field()))?;
        Ok((name, ports))
    };
    wire.services.iter().map(entry).collect()
}

fn optional_gateway(
    i: &mut Interner,
    wire: Option<&wire::GatewayAddress>,
) -> Result<Option<Gateway>, Invalid> {
    wire.map(|wire| gateway(i, wire)).transpose()
}

fn application_tunnel(wire: wire::ApplicationTunnel) -> Result<ApplicationTunnel, Invalid> {
    let protocol = match known(wire.protocol).within("protocol")? {
        wire::application_tunnel::Protocol::None => ApplicationProtocol::None,
        wire::application_tunnel::Protocol::Proxy => ApplicationProtocol::Proxy,
    };
    Ok(ApplicationTunnel { protocol, port: port_or_unset(wire.port).within("port")? })
}
