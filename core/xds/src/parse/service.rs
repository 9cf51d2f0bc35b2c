//! `istio.workload.Service`.

use model::{
    HealthPolicy, IpFamilies, LoadBalancing, LoadBalancingMode, Network, Scope, Service,
    ServiceAddress, SpiffeId, Visibility, WeightedWaypoint,
};
use proto::workload as wire;
use wire::load_balancing as balancing;

use super::intern::Interner;
use super::invalid::{Invalid, Problem, Within};
use super::network::{block, gateway, ip, ports, service_name};
use super::text::text;
use super::{known, limited};

/// Virtual addresses of one service.
const ADDRESSES_MAX: usize = 4096;
/// Identities of one service.
const IDENTITIES_MAX: usize = 4096;
/// Preferences of one service; there are six to choose from.
const PREFERENCES_MAX: usize = 16;
/// Waypoints of one service.
const WAYPOINTS_MAX: usize = 64;

/// Reads a service. `extensions`, `ingress_use_waypoint` and what is not known are ignored: they
/// are for others.
pub(super) fn service(interner: &mut Interner, wire: &wire::Service) -> Result<Service, Invalid> {
    let i = interner;
    Ok(Service {
        name: service_name(i, &wire.namespace, &wire.hostname).within("hostname")?,
        short_name: text(i, &wire.name).within("name")?,
        addresses: addresses(i, wire)?,
        ports: ports(&wire.ports)?,
        subject_alt_names: identities(wire)?,
        load_balancing: match &wire.load_balancing {
            None => LoadBalancing::default(),
            Some(wire) => load_balancing(wire).within("load_balancing")?,
        },
        ip_families: ip_families(wire.ip_families).within("ip_families")?,
        canonical: wire.canonical,
        visibility: visibility(wire.visibility),
        waypoint: wire.waypoint.as_ref().map(|w| gateway(i, w)).transpose().within("waypoint")?,
        weighted_waypoints: weighted_waypoints(i, wire)?,
    })
}

fn addresses(i: &mut Interner, wire: &wire::Service) -> Result<Vec<ServiceAddress>, Invalid> {
    let list = limited(&wire.addresses, ADDRESSES_MAX).within("addresses")?;
    let mut address = |(index, wire)| address(i, wire).item("addresses", index);
    list.iter().enumerate().map(&mut address).collect()
}

fn address(i: &mut Interner, wire: &wire::NetworkAddress) -> Result<ServiceAddress, Invalid> {
    let network = Network(text(i, &wire.network).within("network")?);
    Ok(match wire.length {
        None => ServiceAddress::host(network, ip(&wire.address).within("address")?),
        Some(length) => ServiceAddress { network, net: block(&wire.address, length)? },
    })
}

/// Identities an endpoint may present besides its own. One that is no SPIFFE ID of a service
/// account can never be presented, so leaving it out admits nobody.
fn identities(wire: &wire::Service) -> Result<Vec<SpiffeId>, Invalid> {
    let list = limited(&wire.subject_alt_names, IDENTITIES_MAX).within("subject_alt_names")?;
    Ok(list.iter().filter_map(|name| SpiffeId::parse(name).ok()).collect())
}

fn load_balancing(wire: &wire::LoadBalancing) -> Result<LoadBalancing, Invalid> {
    let field = "routing_preference";
    let list = limited(&wire.routing_preference, PREFERENCES_MAX).within(field)?;
    let preferences = list.iter().enumerate().map(|(index, n)| scope(*n).item(field, index));
    Ok(LoadBalancing {
        preferences: preferences.collect::<Result<_, _>>()?,
        mode: match known(wire.mode).within("mode")? {
            balancing::Mode::UnspecifiedMode => LoadBalancingMode::Unspecified,
            balancing::Mode::Strict => LoadBalancingMode::Strict,
            balancing::Mode::Failover => LoadBalancingMode::Failover,
            balancing::Mode::Passthrough => LoadBalancingMode::Passthrough,
        },
        health: match known(wire.health_policy).within("health_policy")? {
            balancing::HealthPolicy::OnlyHealthy => HealthPolicy::OnlyHealthy,
            balancing::HealthPolicy::AllowAll => HealthPolicy::AllowAll,
        },
    })
}

fn scope(number: i32) -> Result<Scope, Problem> {
    Ok(match known(number)? {
        balancing::Scope::UnspecifiedScope => {
            return Err(Problem::Unsupported("UNSPECIFIED_SCOPE"));
        }
        balancing::Scope::Region => Scope::Region,
        balancing::Scope::Zone => Scope::Zone,
        balancing::Scope::Subzone => Scope::Subzone,
        balancing::Scope::Node => Scope::Node,
        balancing::Scope::Cluster => Scope::Cluster,
        balancing::Scope::Network => Scope::Network,
    })
}

fn ip_families(number: i32) -> Result<IpFamilies, Problem> {
    Ok(match known(number)? {
        wire::IpFamilies::Automatic => IpFamilies::Automatic,
        wire::IpFamilies::Ipv4Only => IpFamilies::V4,
        wire::IpFamilies::Ipv6Only => IpFamilies::V6,
        wire::IpFamilies::Dual => IpFamilies::Dual,
    })
}

/// A value that is not known is public, as in Istio's ztunnel: visibility picks a service among
/// several, it protects none.
fn visibility(number: i32) -> Visibility {
    match wire::service::Visibility::try_from(number) {
        Ok(wire::service::Visibility::Public) | Err(_) => Visibility::Public,
        Ok(wire::service::Visibility::Namespace) => Visibility::Namespace,
    }
}

fn weighted_waypoints(
    i: &mut Interner,
    wire: &wire::Service,
) -> Result<Vec<WeightedWaypoint>, Invalid> {
    let field = "weighted_waypoints";
    let list = limited(&wire.weighted_waypoints, WAYPOINTS_MAX).within(field)?;
    let mut waypoint = |(index, wire): (usize, &wire::WeightedWaypoint)| {
        let gateway = match &wire.destination {
            None => Err(Problem::Missing.into()),
            Some(wire) => gateway(i, wire),
        };
        let gateway = gateway.within("destination").item(field, index)?;
        Ok(WeightedWaypoint { gateway, weight: wire.weight })
    };
    list.iter().enumerate().map(&mut waypoint).collect()
}
