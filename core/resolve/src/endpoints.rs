//! The endpoints of one service, kept ready to choose from.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use model::{
    DialledService, Health, HealthPolicy, IpFamilies, LoadBalancingMode, Network, PortMapping,
    Service, SpiffeId, Visibility, Workload,
};
use smallvec::SmallVec;

use crate::preference::Preferences;
use crate::sequence::{Member, Sequence};
use crate::site::Site;

/// A service and the workloads that may take its connections.
///
/// Every route to a service reads this, mostly out of far memory. So what a route needs stands
/// here, in place; the service itself is read for what most services do not have.
#[derive(Clone, Debug)]
pub(crate) struct ServiceEntry {
    pub(crate) dialled: DialledService,
    pub(crate) mode: LoadBalancingMode,
    pub(crate) families: IpFamilies,
    pub(crate) visibility: Visibility,
    pub(crate) canonical: bool,
    pub(crate) rare: Rare,
    preferences: Preferences,
    /// Sorted by the service's port, each once.
    ports: SmallVec<[PortMapping; 4]>,
    /// Those that have endpoints: nearly always one.
    pools: SmallVec<[Pool; 1]>,
    pub(crate) service: Arc<Service>,
}

/// What few services have, so that the others need not be read for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rare {
    /// Neither waypoint nor further identities.
    Nothing,
    /// Look at the service.
    Something,
}

/// An endpoint, with what a route needs of it every time.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub(crate) workload: Arc<Workload>,
    /// `None`: it can have none.
    pub(crate) identity: Option<SpiffeId>,
    /// Its address, if it has exactly one.
    pub(crate) only_address: Option<IpAddr>,
    pub(crate) ports: Ports,
}

/// Which ports an endpoint serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ports {
    /// Those that the service says.
    OfService,
    /// Its own, for some of them.
    Own,
}

/// Which of a service's ports endpoints serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    networks: SmallVec<[(Network, Reach); 1]>,
}

/// The endpoints in one network, by how they are reached. One may stand in both sequences.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reach {
    /// From within the network: those with an address or a host name.
    pub(crate) direct: Sequence<Endpoint>,
    /// From other networks: those with a gateway.
    pub(crate) gateway: Sequence<Endpoint>,
    /// How many have neither address nor host name.
    pub(crate) addressless: usize,
}

impl ServiceEntry {
    /// `endpoints` are all workloads that name the service.
    pub(crate) fn new(
        service: Arc<Service>,
        endpoints: impl Iterator<Item = (Arc<Site>, Endpoint)>,
    ) -> Self {
        let mut ports = service.ports.clone();
        // Stable: of two mappings for one port, the last counts.
        ports.reverse();
        ports.sort_by_key(|mapping| mapping.service_port);
        ports.dedup_by_key(|mapping| mapping.service_port);
        let mut entry = Self::without_endpoints(service, ports.into());
        let mut ready: Vec<_> =
            endpoints.filter(|(_, endpoint)| ready(&entry.service, &endpoint.workload)).collect();
        for (_, endpoint) in &mut ready {
            endpoint.ports = entry.ports_of(&endpoint.workload);
        }
        let preferences = &entry.preferences;
        ready.sort_by(|(site, one), (other_site, other)| {
            preferences.order((site, &one.workload), (other_site, &other.workload))
        });
        entry.pools = entry
            .serves()
            .map(|serves| Pool::of(serves, &entry.service, &ready))
            .filter(|pool| !pool.networks.is_empty())
            .collect();
        entry
    }

    /// The entry of another version of the service, if the same endpoints serve it.
    pub(crate) fn with_service(&self, service: Arc<Service>) -> Option<Self> {
        let old = &self.service;
        let same = old.load_balancing == service.load_balancing
            && old.ports == service.ports
            && old.ip_families == service.ip_families;
        same.then(|| Self {
            pools: self.pools.clone(),
            ..Self::without_endpoints(service, self.ports.clone())
        })
    }

    fn without_endpoints(service: Arc<Service>, ports: SmallVec<[PortMapping; 4]>) -> Self {
        let plain = service.waypoint.is_none()
            && service.weighted_waypoints.is_empty()
            && service.subject_alt_names.is_empty();
        Self {
            dialled: service.dialled(),
            mode: service.load_balancing.mode,
            families: service.ip_families,
            visibility: service.visibility,
            canonical: service.canonical,
            rare: if plain { Rare::Nothing } else { Rare::Something },
            preferences: Preferences::of(&service.load_balancing),
            ports,
            pools: SmallVec::new(),
            service,
        }
    }

    pub(crate) fn insert(&mut self, site: &Arc<Site>, endpoint: &Endpoint) {
        let workload = &endpoint.workload;
        if !ready(&self.service, workload) {
            return;
        }
        let endpoint = Endpoint { ports: self.ports_of(workload), ..endpoint.clone() };
        let serves = self.serves();
        let Self { service, pools, preferences, .. } = self;
        for serves in serves.filter(|serves| serves.holds(service, workload)) {
            let index = pools.iter().position(|pool| pool.serves == serves);
            let index = index.unwrap_or_else(|| {
                pools.push(Pool { serves, networks: SmallVec::new() });
                pools.len() - 1
            });
            if let Some(pool) = pools.get_mut(index) {
                pool.insert(service, preferences, (site, &endpoint));
            }
        }
    }

    pub(crate) fn remove(&mut self, site: &Site, workload: &Workload) {
        if !ready(&self.service, workload) {
            return;
        }
        let Self { service, pools, preferences, .. } = self;
        for pool in pools.iter_mut().filter(|pool| pool.serves.holds(service, workload)) {
            pool.remove(service, preferences, (site, workload));
        }
        pools.retain(|pool| !pool.networks.is_empty());
    }

    /// Everything that endpoints may serve.
    fn serves(&self) -> impl Iterator<Item = Serves> + use<> {
        let ports = self.ports.clone();
        let targets = ports.iter().any(|mapping| mapping.target_port.is_some());
        let named = ports.into_iter().filter(|mapping| mapping.target_port.is_none());
        let targets = targets.then_some(Serves::Targets);
        targets.into_iter().chain(named.map(Serves::of)).chain([Serves::Anything])
    }

    /// Whether a workload maps one of the ports in another way than the service does.
    fn ports_of(&self, workload: &Workload) -> Ports {
        let own = workload.services.get(&self.service.name).unwrap_or_default();
        let as_service = own.iter().all(|mapping| {
            let of_service = self.port(mapping.service_port.get());
            mapping.target_port.is_none() || of_service == Some(mapping)
        });
        if as_service { Ports::OfService } else { Ports::Own }
    }

    /// Whether a client of that namespace may see the service.
    pub(crate) fn seen_from(&self, namespace: &str) -> bool {
        match self.visibility {
            Visibility::Public => true,
            Visibility::Namespace => self.is_of(namespace),
        }
    }

    pub(crate) fn is_of(&self, namespace: &str) -> bool {
        *self.dialled.name.namespace == *namespace
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

impl Endpoint {
    pub(crate) fn new(workload: Arc<Workload>, identity: Option<SpiffeId>) -> Self {
        let only_address = match *workload.addresses {
            [ip] => Some(ip),
            _ => None,
        };
        Self { workload, identity, only_address, ports: Ports::OfService }
    }
}

impl Member for Endpoint {
    fn workload(&self) -> &Arc<Workload> {
        &self.workload
    }
}

impl Pool {
    /// From ready endpoints in order.
    fn of(serves: Serves, service: &Service, ready: &[(Arc<Site>, Endpoint)]) -> Self {
        let serving = ready.iter().filter(|(_, one)| serves.holds(service, &one.workload));
        let mut networks: BTreeMap<&Network, Vec<(Arc<Site>, Endpoint)>> = BTreeMap::new();
        for (site, endpoint) in serving {
            let of_network = networks.entry(&endpoint.workload.network).or_default();
            of_network.push((site.clone(), endpoint.clone()));
        }
        let networks = networks
            .into_iter()
            .map(|(network, endpoints)| (network.clone(), Reach::of(service, &endpoints)));
        Self { serves, networks: networks.collect() }
    }

    fn insert(
        &mut self,
        service: &Service,
        preferences: &Preferences,
        (site, endpoint): (&Arc<Site>, &Endpoint),
    ) {
        let network = &endpoint.workload.network;
        let search = self.networks.binary_search_by(|(other, _)| other.cmp(network));
        let index = search.unwrap_or_else(|place| {
            self.networks.insert(place, (network.clone(), Reach::default()));
            place
        });
        let Some((_, reach)) = self.networks.get_mut(index) else { return };
        let reached = Reached::of(service, &endpoint.workload);
        if reached.direct {
            reach.direct.insert(site, endpoint.clone(), |a, b| preferences.order(a, b));
        }
        if reached.gateway {
            reach.gateway.insert(site, endpoint.clone(), |a, b| preferences.order(a, b));
        }
        reach.addressless += usize::from(reached.addressless);
    }

    fn remove(
        &mut self,
        service: &Service,
        preferences: &Preferences,
        (site, workload): (&Site, &Workload),
    ) {
        let search = self.networks.binary_search_by(|(other, _)| other.cmp(&workload.network));
        let Ok(index) = search else { return };
        let Some((_, reach)) = self.networks.get_mut(index) else { return };
        let reached = Reached::of(service, workload);
        if reached.direct {
            reach.direct.remove((site, workload), |a, b| preferences.order(a, b));
        }
        if reached.gateway {
            reach.gateway.remove((site, workload), |a, b| preferences.order(a, b));
        }
        reach.addressless = reach.addressless.saturating_sub(usize::from(reached.addressless));
        if reach.is_empty() {
            self.networks.remove(index);
        }
    }
}

/// How a workload is reached.
struct Reached {
    direct: bool,
    gateway: bool,
    addressless: bool,
}

impl Reached {
    fn of(service: &Service, workload: &Workload) -> Self {
        let (addresses, hostname) = (&workload.addresses, &workload.hostname);
        let offered = addresses.iter().any(|ip| offers(service.ip_families, *ip));
        Self {
            // A host name counts only where there is no address.
            direct: offered || (addresses.is_empty() && hostname.is_some()),
            gateway: workload.network_gateway.is_some(),
            addressless: addresses.is_empty() && hostname.is_none(),
        }
    }
}

impl Reach {
    fn of(service: &Service, endpoints: &[(Arc<Site>, Endpoint)]) -> Self {
        let reached = |(_, one): &(_, Endpoint)| Reached::of(service, &one.workload);
        let part = |wanted: fn(&Reached) -> bool| {
            let part: Vec<_> =
                endpoints.iter().filter(|one| wanted(&reached(one))).cloned().collect();
            Sequence::from_sorted(&part)
        };
        Self {
            direct: part(|reached| reached.direct),
            gateway: part(|reached| reached.gateway),
            addressless: endpoints.iter().filter(|one| reached(one).addressless).count(),
        }
    }

    fn is_empty(&self) -> bool {
        self.direct.is_empty() && self.gateway.is_empty() && self.addressless == 0
    }
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
