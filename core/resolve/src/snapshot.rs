//! Workloads and services at one moment, indexed for look-ups that cost the same at any size.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use model::{
    Network, NetworkMode, Service, ServiceName, TunnelProtocol, Workload, WorkloadKey, WorkloadUid,
};

use crate::balance::{Endpoint, NoEndpoint, PortEndpoints, endpoints, ready};
use crate::vip::Vips;

/// What a node knows of the mesh. Immutable: a change builds a new one.
#[derive(Debug, Default)]
pub struct Snapshot {
    by_uid: HashMap<WorkloadUid, Arc<Workload>>,
    by_key: HashMap<WorkloadKey, Arc<Workload>>,
    services: HashMap<ServiceName, Arc<ServiceEntry>>,
    by_hostname: HashMap<Arc<str>, Vec<Arc<Service>>>,
    networks: HashMap<Network, NetworkIndex>,
}

#[derive(Debug, Default)]
struct NetworkIndex {
    workloads: HashMap<IpAddr, Arc<Workload>>,
    vips: Vips,
}

/// One difference between two states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A workload is new, or another than before.
    Workload(Workload),
    /// A service is new, or another than before.
    Service(Service),
    /// A workload is gone.
    RemoveWorkload(WorkloadUid),
    /// A service is gone.
    RemoveService(ServiceName),
}

/// A service and the workloads that serve its ports.
#[derive(Debug)]
pub(crate) struct ServiceEntry {
    pub(crate) service: Arc<Service>,
    workloads: Vec<Arc<Workload>>,
    ports: HashMap<u16, PortEndpoints>,
}

impl ServiceEntry {
    pub(crate) fn choose(
        &self,
        network: &Network,
        source: &Workload,
        port: u16,
        random: u64,
    ) -> Result<&Endpoint, NoEndpoint> {
        let endpoints = self.ports.get(&port).ok_or(NoEndpoint::UnknownPort)?;
        endpoints.choose(&self.service, network, source, random)
    }
}

/// What an address stands for; see the crate's documentation for the order.
#[derive(Debug)]
pub(crate) enum Meaning<'s> {
    Service(&'s ServiceEntry),
    Workload(&'s Arc<Workload>),
    Unknown,
}

impl Snapshot {
    /// Builds the indexes. Of two workloads with one uid, and of two services with one name, the
    /// last counts. A workload that uses the host's network is not found by address.
    #[must_use]
    pub fn build(workloads: Vec<Workload>, services: Vec<Service>) -> Self {
        // Sorted, so that every choice between equals is the same on every node.
        let workloads: BTreeMap<_, _> =
            workloads.into_iter().map(|w| (w.uid.clone(), Arc::new(w))).collect();
        let services: BTreeMap<_, _> = services.into_iter().map(|s| (s.name.clone(), s)).collect();

        let mut serving: HashMap<ServiceName, Vec<Arc<Workload>>> = HashMap::new();
        let mut snapshot = Self::default();
        for workload in workloads.into_values() {
            for name in workload.services.keys() {
                serving.entry(name.clone()).or_default().push(workload.clone());
            }
            snapshot.insert_workload(workload);
        }
        for (name, service) in services {
            let workloads = serving.remove(&name).unwrap_or_default();
            let ports = endpoints(&service, &workloads);
            let service = Arc::new(service);
            let entry = Arc::new(ServiceEntry { service: service.clone(), workloads, ports });
            snapshot.by_hostname.entry(name.hostname.clone()).or_default().push(service);
            for address in &entry.service.addresses {
                let network = snapshot.networks.entry(address.network.clone()).or_default();
                network.vips.insert(address.net, &entry);
            }
            snapshot.services.insert(name, entry);
        }
        snapshot
    }

    /// The state after these changes, in order. What is removed need not be there.
    ///
    /// The result depends only on what is there in the end, never on the order or the number of
    /// the changes that led to it.
    #[must_use]
    pub fn apply(&self, changes: Vec<Change>) -> Self {
        let mut workloads: HashMap<_, _> =
            self.workloads().map(|w| (w.uid.clone(), Workload::clone(w))).collect();
        let mut services: HashMap<_, _> =
            self.services().map(|s| (s.name.clone(), Service::clone(s))).collect();
        for change in changes {
            match change {
                Change::Workload(workload) => {
                    workloads.insert(workload.uid.clone(), workload);
                }
                Change::Service(service) => {
                    services.insert(service.name.clone(), service);
                }
                Change::RemoveWorkload(uid) => {
                    workloads.remove(&uid);
                }
                Change::RemoveService(name) => {
                    services.remove(&name);
                }
            }
        }
        Self::build(workloads.into_values().collect(), services.into_values().collect())
    }

    fn insert_workload(&mut self, workload: Arc<Workload>) {
        let addresses = match workload.network_mode {
            NetworkMode::Standard => workload.addresses.as_slice(),
            NetworkMode::HostNetwork => &[],
        };
        for ip in addresses {
            let network = self.networks.entry(workload.network.clone()).or_default();
            let slot = network.workloads.entry(ip.to_canonical()).or_insert(workload.clone());
            if precedence(&workload) > precedence(slot) {
                *slot = workload.clone();
            }
        }
        self.by_key.entry(workload.key.clone()).or_insert(workload.clone());
        self.by_uid.insert(workload.uid.clone(), workload);
    }

    pub(crate) fn meaning(&self, network: &Network, ip: IpAddr, namespace: &str) -> Meaning<'_> {
        let Some(index) = self.networks.get(network) else { return Meaning::Unknown };
        if let Some(entry) = index.vips.exact(ip, namespace) {
            return Meaning::Service(entry);
        }
        if let Some(workload) = index.workloads.get(&ip) {
            return Meaning::Workload(workload);
        }
        index.vips.block(ip, namespace).map_or(Meaning::Unknown, |e| Meaning::Service(e))
    }

    /// The workload with that address.
    #[must_use]
    pub fn workload_by_address(&self, network: &Network, ip: IpAddr) -> Option<&Arc<Workload>> {
        self.networks.get(network)?.workloads.get(&ip.to_canonical())
    }

    /// The workload with that namespace, name and service account; of several, the first by uid.
    #[must_use]
    pub fn workload_by_key(&self, key: &WorkloadKey) -> Option<&Arc<Workload>> {
        self.by_key.get(key)
    }

    /// The workload with that control-plane name.
    #[must_use]
    pub fn workload_by_uid(&self, uid: &WorkloadUid) -> Option<&Arc<Workload>> {
        self.by_uid.get(uid)
    }

    /// Every workload, in no particular order.
    pub fn workloads(&self) -> impl ExactSizeIterator<Item = &Arc<Workload>> {
        self.by_uid.values()
    }

    /// The service of that name.
    #[must_use]
    pub fn service(&self, name: &ServiceName) -> Option<&Arc<Service>> {
        self.services.get(name).map(|entry| &entry.service)
    }

    /// Every service, in no particular order.
    pub fn services(&self) -> impl ExactSizeIterator<Item = &Arc<Service>> {
        self.services.values().map(|entry| &entry.service)
    }

    /// The services with that host name, at most one of each namespace, sorted by namespace.
    /// Hidden ones too: see [`Service::visibility`].
    #[must_use]
    pub fn services_by_hostname(&self, hostname: &str) -> &[Arc<Service>] {
        self.by_hostname.get(hostname).map_or(&[], Vec::as_slice)
    }

    /// The workloads that take traffic of a service: with capacity, and healthy enough for it; in any
    /// network, in no particular order.
    pub fn endpoints_of(&self, service: &ServiceName) -> impl Iterator<Item = &Arc<Workload>> {
        let entry = self.services.get(service).into_iter();
        entry.flat_map(|entry| {
            let ready = |workload: &&Arc<Workload>| ready(&entry.service, workload);
            entry.workloads.iter().filter(ready)
        })
    }

    /// The service that a client of `namespace` means by that address: one with exactly that
    /// virtual address, or one with a block around it.
    #[must_use]
    pub fn service_by_vip(
        &self,
        network: &Network,
        ip: IpAddr,
        namespace: &str,
    ) -> Option<&Arc<Service>> {
        let vips = &self.networks.get(network)?.vips;
        let ip = ip.to_canonical();
        let entry = vips.exact(ip, namespace).or_else(|| vips.block(ip, namespace))?;
        Some(&entry.service)
    }
}

/// Which of two workloads with one address counts: a pod's address is the CNI's word, that of a
/// `WorkloadEntry` is its author's.
fn precedence(workload: &Workload) -> (bool, bool) {
    let pod = workload.uid.0.contains("//Pod/");
    (pod, workload.protocol == TunnelProtocol::Hbone)
}
