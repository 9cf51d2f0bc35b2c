//! Which endpoint of a service takes a connection.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use model::{
    Health, HealthPolicy, IpFamilies, LoadBalancingMode, Network, Scope, Service, Workload,
};

/// The endpoints that serve one port of a service.
#[derive(Debug, Default)]
pub(crate) struct PortEndpoints {
    networks: HashMap<Network, Vec<Endpoint>>,
    /// Some workload would serve the port, but has no address this version can dial.
    addressless: bool,
}

/// A workload that serves one port of a service.
#[derive(Debug)]
pub(crate) struct Endpoint {
    workload: Arc<Workload>,
    port: u16,
    address: Address,
    /// Sum of the capacities up to and including this one.
    cumulative: u64,
}

/// At least one of the two families.
#[derive(Clone, Copy, Debug)]
enum Address {
    V4(Ipv4Addr),
    V6(Ipv6Addr),
    Both(Ipv4Addr, Ipv6Addr),
}

/// Why no endpoint was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoEndpoint {
    /// The service does not have that port.
    UnknownPort,
    /// None is healthy, with capacity, and as the service's load balancing demands.
    None,
    /// The only ones there are need a gateway or a host name.
    OnlyUnreachable,
}

impl Endpoint {
    pub(crate) fn workload(&self) -> &Arc<Workload> {
        &self.workload
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The dialled address if it is the workload's own, else one of its family if there is one.
    pub(crate) fn ip_for(&self, dialled: IpAddr) -> IpAddr {
        if self.workload.addresses.contains(&dialled) {
            return dialled;
        }
        match (self.address, dialled) {
            (Address::V4(ip), _) | (Address::Both(ip, _), IpAddr::V4(_)) => ip.into(),
            (Address::V6(ip), _) | (Address::Both(_, ip), IpAddr::V6(_)) => ip.into(),
        }
    }

    fn capacity(&self) -> u64 {
        u64::from(self.workload.capacity)
    }
}

impl Address {
    /// The first address of each family that the service offers.
    fn of(workload: &Workload, families: IpFamilies) -> Option<Self> {
        let (want_v4, want_v6) = match families {
            IpFamilies::Automatic | IpFamilies::Dual => (true, true),
            IpFamilies::V4 => (true, false),
            IpFamilies::V6 => (false, true),
        };
        let v4 = workload.addresses.iter().find_map(|ip| match ip {
            IpAddr::V4(ip) => want_v4.then_some(*ip),
            IpAddr::V6(_) => None,
        });
        let v6 = workload.addresses.iter().find_map(|ip| match ip {
            IpAddr::V6(ip) => want_v6.then_some(*ip),
            IpAddr::V4(_) => None,
        });
        match (v4, v6) {
            (Some(v4), Some(v6)) => Some(Self::Both(v4, v6)),
            (Some(v4), None) => Some(Self::V4(v4)),
            (None, Some(v6)) => Some(Self::V6(v6)),
            (None, None) => None,
        }
    }
}

/// The endpoints of a service, for each of its ports. `workloads` must come sorted.
pub(crate) fn endpoints(
    service: &Service,
    workloads: &[Arc<Workload>],
) -> HashMap<u16, PortEndpoints> {
    let ports = service.ports.iter().map(|mapping| {
        let service_port = mapping.service_port.get();
        let mut found = PortEndpoints::default();
        for workload in workloads {
            // The endpoint's own mapping comes first: a named port differs between endpoints.
            let own = workload.target_port(&service.name, service_port);
            let Some(port) = own.or(mapping.target_port) else { continue };
            if !ready(service, workload) {
                continue;
            }
            match Address::of(workload, service.ip_families) {
                Some(address) => found.push(workload, port.get(), address),
                None => found.addressless |= workload.addresses.is_empty(),
            }
        }
        (service_port, found)
    });
    ports.collect()
}

/// Whether a workload takes traffic of a service at all.
pub(crate) fn ready(service: &Service, workload: &Workload) -> bool {
    let healthy = match (service.load_balancing.health, workload.health) {
        (HealthPolicy::AllowAll, _) | (HealthPolicy::OnlyHealthy, Health::Healthy) => true,
        (HealthPolicy::OnlyHealthy, Health::Unhealthy) => false,
    };
    healthy && workload.capacity > 0
}

impl PortEndpoints {
    fn push(&mut self, workload: &Arc<Workload>, port: u16, address: Address) {
        let list = self.networks.entry(workload.network.clone()).or_default();
        let before = list.last().map_or(0, |last| last.cumulative);
        // Saturates after four thousand million endpoints of the highest capacity.
        let cumulative = before.saturating_add(u64::from(workload.capacity));
        list.push(Endpoint { workload: workload.clone(), port, address, cumulative });
    }

    /// Chooses by capacity among the endpoints in `network` that fit best.
    pub(crate) fn choose(
        &self,
        service: &Service,
        network: &Network,
        source: &Workload,
        random: u64,
    ) -> Result<&Endpoint, NoEndpoint> {
        let Some(list) = self.networks.get(network) else {
            let unreachable = self.addressless || !self.networks.is_empty();
            return Err(if unreachable { NoEndpoint::OnlyUnreachable } else { NoEndpoint::None });
        };
        let balancing = &service.load_balancing;
        let chosen = match balancing.mode {
            LoadBalancingMode::Unspecified | LoadBalancingMode::Passthrough => {
                by_capacity(list, random)
            }
            LoadBalancingMode::Strict => {
                let all = balancing.preferences.len();
                let ranked = |endpoint: &&Endpoint| {
                    leading(&balancing.preferences, source, &endpoint.workload).matched == all
                };
                by_capacity_among(list.iter().filter(ranked), random)
            }
            LoadBalancingMode::Failover => {
                let rank = |endpoint: &Endpoint| {
                    leading(&balancing.preferences, source, &endpoint.workload).rank
                };
                let best = list.iter().map(rank).max();
                by_capacity_among(list.iter().filter(|e| Some(rank(e)) == best), random)
            }
        };
        chosen.ok_or(NoEndpoint::None)
    }
}

/// `random` scaled to `0..total`.
fn scale(random: u64, total: u64) -> u64 {
    let product = u128::from(random).saturating_mul(u128::from(total));
    u64::try_from(product >> 64).unwrap_or(0)
}

/// The endpoint whose share of the total capacity holds the random point.
fn by_capacity(list: &[Endpoint], random: u64) -> Option<&Endpoint> {
    let point = scale(random, list.last()?.cumulative);
    list.get(list.partition_point(|endpoint| endpoint.cumulative <= point))
}

/// The same for a subset, in one pass over it for the total and one for the choice.
fn by_capacity_among<'e>(
    subset: impl Iterator<Item = &'e Endpoint> + Clone,
    random: u64,
) -> Option<&'e Endpoint> {
    let total = subset.clone().fold(0_u64, |sum, e| sum.saturating_add(e.capacity()));
    let mut point = scale(random, total);
    let mut subset = subset;
    subset.find(|endpoint| match point.checked_sub(endpoint.capacity()) {
        Some(rest) => {
            point = rest;
            false
        }
        None => true,
    })
}

/// How well an endpoint fits preferences that bind in order.
struct Fit {
    /// Leading preferences that match.
    matched: usize,
    /// The same, weighted so that a leading `Network` is preferred over all others together.
    rank: usize,
}

/// A leading `Network` may be skipped: its mismatch does not end the comparison.
fn leading(preferences: &[Scope], source: &Workload, endpoint: &Workload) -> Fit {
    let mut fit = Fit { matched: 0, rank: 0 };
    for (index, scope) in preferences.iter().enumerate() {
        let matches = match scope {
            Scope::Region => source.locality.region == endpoint.locality.region,
            Scope::Zone => source.locality.zone == endpoint.locality.zone,
            Scope::Subzone => source.locality.subzone == endpoint.locality.subzone,
            Scope::Node => source.node == endpoint.node,
            Scope::Cluster => source.cluster == endpoint.cluster,
            Scope::Network => source.network == endpoint.network,
        };
        let leading_network = index == 0 && *scope == Scope::Network;
        match (matches, leading_network) {
            (true, false) => fit = Fit { matched: fit.matched + 1, rank: fit.rank + 1 },
            (true, true) => fit = Fit { matched: 1, rank: preferences.len() },
            (false, true) => {}
            (false, false) => break,
        }
    }
    fit
}
