//! The endpoints of one service, kept ready to choose from.

use std::cmp::Ordering;
use std::net::IpAddr;
use std::sync::Arc;

use model::{Health, HealthPolicy, IpFamilies, Network, PortMapping, Service, Workload};

use crate::preference::Preferences;
use crate::sequence::Sequence;

/// A service and the workloads that may take its connections.
#[derive(Clone, Debug)]
pub(crate) struct ServiceEntry {
    pub(crate) service: Arc<Service>,
    preferences: Arc<Preferences>,
    /// Sorted by the service's port, each once.
    ports: Arc<[PortMapping]>,
    pools: Vec<Pool>,
}

/// Which of a service's ports endpoints serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Serves {
    /// Every port to which the service itself gives a target.
    Targets,
    /// A port that each endpoint resolves for itself; some may not.
    Named(u16),
    /// Whatever is asked for: their application takes all of it on one port.
    Anything,
}

/// The endpoints that serve the same ports, by network.
#[derive(Clone, Debug)]
struct Pool {
    serves: Serves,
    /// Sorted by name.
    networks: Vec<(Network, Reach)>,
}

/// The endpoints in one network, by how they are reached. One may stand in both sequences.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reach {
    /// From within the network: those with an address or a host name.
    pub(crate) direct: Sequence,
    /// From other networks: those with a gateway.
    pub(crate) gateway: Sequence,
    /// How many have neither address nor host name.
    pub(crate) addressless: usize,
}

impl ServiceEntry {
    /// `workloads` are all that name the service.
    pub(crate) fn new<'w>(
        service: Arc<Service>,
        workloads: impl Iterator<Item = &'w Arc<Workload>>,
    ) -> Self {
        let preferences = Preferences::of(&service.load_balancing);
        let mut ports = service.ports.clone();
        // Stable: of two mappings for one port, the last counts.
        ports.reverse();
        ports.sort_by_key(|mapping| mapping.service_port);
        ports.dedup_by_key(|mapping| mapping.service_port);
        let mut serves: Vec<_> = ports.iter().copied().map(Serves::of).collect();
        serves.push(Serves::Anything);
        serves.sort_unstable();
        serves.dedup();
        let mut entry = Self {
            service,
            preferences: Arc::new(preferences),
            ports: ports.into(),
            pools: serves.into_iter().map(Pool::new).collect(),
        };
        let mut ready: Vec<_> =
            workloads.filter(|workload| ready(&entry.service, workload)).cloned().collect();
        ready.sort_by(|one, other| entry.preferences.order(one, other));
        for pool in &mut entry.pools {
            pool.fill(&entry.service, &ready);
        }
        entry
    }

    /// The entry of another version of the service, if the same endpoints serve it.
    pub(crate) fn with_service(&self, service: Arc<Service>) -> Option<Self> {
        let old = &self.service;
        let same = old.load_balancing == service.load_balancing
            && old.ports == service.ports
            && old.ip_families == service.ip_families;
        same.then(|| Self { service, ..self.clone() })
    }

    pub(crate) fn insert(&mut self, workload: &Arc<Workload>) {
        if ready(&self.service, workload) {
            for pool in &mut self.pools {
                pool.insert(&self.service, &self.preferences, workload);
            }
        }
    }

    pub(crate) fn remove(&mut self, workload: &Workload) {
        if ready(&self.service, workload) {
            for pool in &mut self.pools {
                pool.remove(&self.service, &self.preferences, workload);
            }
        }
    }

    pub(crate) fn preferences(&self) -> &Preferences {
        &self.preferences
    }

    /// How the service's port maps, if it has that port.
    pub(crate) fn port(&self, port: u16) -> Option<&PortMapping> {
        let found = self.ports.binary_search_by_key(&port, |mapping| mapping.service_port.get());
        self.ports.get(found.ok()?)
    }

    /// The networks of the endpoints that serve those ports, sorted by name.
    pub(crate) fn networks(&self, serves: Serves) -> &[(Network, Reach)] {
        let pool = self.pools.iter().find(|pool| pool.serves == serves);
        pool.map_or(&[], |pool| &pool.networks)
    }
}

/// Whether a workload may take connections of a service at all.
pub(crate) fn ready(service: &Service, workload: &Workload) -> bool {
    let healthy = match (service.load_balancing.health, workload.health) {
        (HealthPolicy::AllowAll, _) | (HealthPolicy::OnlyHealthy, Health::Healthy) => true,
        (HealthPolicy::OnlyHealthy, Health::Unhealthy) => false,
    };
    healthy && workload.capacity > 0
}

impl Serves {
    /// What an endpoint must serve to take connections to a port.
    pub(crate) fn of(mapping: PortMapping) -> Self {
        match mapping.target_port {
            Some(_) => Self::Targets,
            None => Self::Named(mapping.service_port.get()),
        }
    }

    fn holds(self, service: &Service, workload: &Workload) -> bool {
        match self {
            Self::Targets => true,
            Self::Named(port) => workload.target_port(&service.name, port).is_some(),
            Self::Anything => workload.application_tunnel.is_some(),
        }
    }
}

impl Pool {
    fn new(serves: Serves) -> Self {
        Self { serves, networks: Vec::new() }
    }

    /// From ready workloads in order.
    fn fill(&mut self, service: &Service, ready: &[Arc<Workload>]) {
        let serving = ready.iter().filter(|workload| self.serves.holds(service, workload));
        let mut networks: Vec<(Network, Vec<Arc<Workload>>)> = Vec::new();
        for workload in serving {
            match networks.binary_search_by(|(network, _)| network.cmp(&workload.network)) {
                Ok(found) => {
                    if let Some((_, workloads)) = networks.get_mut(found) {
                        workloads.push(workload.clone());
                    }
                }
                Err(place) => {
                    networks.insert(place, (workload.network.clone(), vec![workload.clone()]));
                }
            }
        }
        self.networks = networks
            .into_iter()
            .map(|(network, workloads)| (network, Reach::of(service, &workloads)))
            .collect();
    }

    fn insert(&mut self, service: &Service, preferences: &Preferences, workload: &Arc<Workload>) {
        if !self.serves.holds(service, workload) {
            return;
        }
        let search = self.networks.binary_search_by(|(network, _)| network.cmp(&workload.network));
        let index = search.unwrap_or_else(|place| {
            self.networks.insert(place, (workload.network.clone(), Reach::default()));
            place
        });
        if let Some((_, reach)) = self.networks.get_mut(index) {
            reach.insert(service, workload, |one, other| preferences.order(one, other));
        }
    }

    fn remove(&mut self, service: &Service, preferences: &Preferences, workload: &Workload) {
        let search = self.networks.binary_search_by(|(network, _)| network.cmp(&workload.network));
        let Ok(index) = search else { return };
        if !self.serves.holds(service, workload) {
            return;
        }
        let Some((_, reach)) = self.networks.get_mut(index) else { return };
        reach.remove(service, workload, |one, other| preferences.order(one, other));
        if reach.is_empty() {
            self.networks.remove(index);
        }
    }
}

impl Reach {
    fn of(service: &Service, workloads: &[Arc<Workload>]) -> Self {
        let part = |wanted: &dyn Fn(&Workload) -> bool| {
            let part: Vec<_> = workloads.iter().filter(|w| wanted(w)).cloned().collect();
            Sequence::from_sorted(&part)
        };
        Self {
            direct: part(&|workload| dialled(service, workload)),
            gateway: part(&|workload| workload.network_gateway.is_some()),
            addressless: workloads.iter().filter(|workload| addressless(workload)).count(),
        }
    }

    fn insert(
        &mut self,
        service: &Service,
        workload: &Arc<Workload>,
        order: impl Fn(&Workload, &Workload) -> Ordering,
    ) {
        if dialled(service, workload) {
            self.direct.insert(workload.clone(), &order);
        }
        if workload.network_gateway.is_some() {
            self.gateway.insert(workload.clone(), &order);
        }
        self.addressless += usize::from(addressless(workload));
    }

    fn remove(
        &mut self,
        service: &Service,
        workload: &Workload,
        order: impl Fn(&Workload, &Workload) -> Ordering,
    ) {
        if dialled(service, workload) {
            self.direct.remove(workload, &order);
        }
        if workload.network_gateway.is_some() {
            self.gateway.remove(workload, &order);
        }
        self.addressless = self.addressless.saturating_sub(usize::from(addressless(workload)));
    }

    fn is_empty(&self) -> bool {
        self.direct.is_empty() && self.gateway.is_empty() && self.addressless == 0
    }
}

fn addressless(workload: &Workload) -> bool {
    workload.addresses.is_empty() && workload.hostname.is_none()
}

/// Whether a workload has an address of the service's families, or a host name instead of any.
fn dialled(service: &Service, workload: &Workload) -> bool {
    if workload.addresses.is_empty() {
        return workload.hostname.is_some();
    }
    workload.addresses.iter().any(|ip| offers(service.ip_families, *ip))
}

/// Whether a service offers addresses of that family.
pub(crate) fn offers(families: IpFamilies, ip: IpAddr) -> bool {
    match families {
        IpFamilies::Automatic | IpFamilies::Dual => true,
        IpFamilies::V4 => ip.is_ipv4(),
        IpFamilies::V6 => ip.is_ipv6(),
    }
}

/// The address of a workload that a connection to `dialled` goes to: that very address if it is
/// the workload's own, else the first of its family, else the first that the service offers.
pub(crate) fn address_for(
    workload: &Workload,
    families: IpFamilies,
    dialled: IpAddr,
) -> Option<IpAddr> {
    if workload.addresses.contains(&dialled) {
        return Some(dialled);
    }
    let offered = || workload.addresses.iter().filter(|ip| offers(families, **ip));
    let same = offered().find(|ip| ip.is_ipv4() == dialled.is_ipv4());
    same.or_else(|| offered().next()).copied()
}
