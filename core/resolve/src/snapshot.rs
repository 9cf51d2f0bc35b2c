//! Workloads and services at one moment, indexed for look-ups that cost the same at any size.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use model::{Network, Service, ServiceName, TunnelProtocol, Workload, WorkloadKey, WorkloadUid};

use crate::claims::Claims;
use crate::endpoints::{ServiceEntry, ready};
use crate::sequence::Sequence;
use crate::sharded::Sharded;
use crate::texts::Texts;
use crate::vip::{Vips, first_best};

/// What a node knows of the mesh. Immutable: a change makes a new one, which shares the memory of
/// what did not change. Copies are cheap.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub(crate) by_uid: Sharded<WorkloadUid, Arc<Workload>>,
    /// Sorted by uid.
    pub(crate) by_key: Sharded<WorkloadKey, Claims<Workload>>,
    pub(crate) services: Sharded<ServiceName, Arc<ServiceEntry>>,
    /// The workloads that name a service, sorted by uid, whether or not the service is known.
    pub(crate) members: Sharded<ServiceName, Sequence<Arc<Workload>>>,
    /// Sorted by namespace.
    pub(crate) by_hostname: Sharded<Arc<str>, Claims<Service>>,
    pub(crate) networks: Arc<HashMap<Network, NetworkIndex>>,
    pub(crate) texts: Texts,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct NetworkIndex {
    /// The one that counts first, see [`precedence`].
    pub(crate) workloads: Sharded<IpAddr, Claims<Workload>>,
    pub(crate) vips: Vips,
}

/// What an address stands for; see the crate's documentation for the order.
#[derive(Debug)]
pub(crate) enum Meaning<'s> {
    /// A service with that very address.
    Service(&'s ServiceEntry),
    Workload(&'s Arc<Workload>),
    /// A service with a block around it.
    Block(&'s ServiceEntry),
    Unknown,
}

impl Snapshot {
    pub(crate) fn meaning(&self, network: &Network, ip: IpAddr, namespace: &str) -> Meaning<'_> {
        let Some(index) = self.networks.get(network) else { return Meaning::Unknown };
        if let Some(entry) = index.vips.exact(ip, namespace) {
            return Meaning::Service(entry);
        }
        if let Some(workload) = index.workloads.get(&ip).and_then(Claims::first) {
            return Meaning::Workload(workload);
        }
        index.vips.block(ip, namespace).map_or(Meaning::Unknown, |entry| Meaning::Block(entry))
    }

    pub(crate) fn entry(&self, name: &ServiceName) -> Option<&ServiceEntry> {
        self.services.get(name).map(|entry| &**entry)
    }

    /// The workload with that address; of several, a pod, then one that speaks HBONE, then the
    /// first by uid. One that uses the host's network is not found by address.
    #[must_use]
    pub fn workload_by_address(&self, network: &Network, ip: IpAddr) -> Option<&Arc<Workload>> {
        self.networks.get(network)?.workloads.get(&ip.to_canonical())?.first()
    }

    /// The workload with that namespace, name and service account; of several, the first by uid.
    #[must_use]
    pub fn workload_by_key(&self, key: &WorkloadKey) -> Option<&Arc<Workload>> {
        self.by_key.get(key)?.first()
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
        self.by_hostname.get(hostname).map_or(&[], Claims::all)
    }

    /// The service that a client of `namespace` means by that host name: one of its own
    /// namespace, then the canonical one, then the first by namespace. Hidden ones do not count.
    #[must_use]
    pub fn service_by_hostname(&self, hostname: &str, namespace: &str) -> Option<&Arc<Service>> {
        let entries = self.services_by_hostname(hostname).iter().filter_map(|service| {
            self.services.get(&service.name).filter(|entry| entry.seen_from(namespace))
        });
        let ranked = entries.map(|entry| ((entry.is_of(namespace), entry.canonical), entry));
        first_best(ranked).map(|entry| &entry.service)
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

    /// The workloads that may take connections of a service, sorted by uid: healthy enough for it,
    /// and with capacity.
    pub fn endpoints_of(&self, service: &ServiceName) -> impl Iterator<Item = &Arc<Workload>> {
        let entry = self.entry(service);
        self.members_of(service)
            .filter(move |workload| entry.is_some_and(|entry| ready(&entry.service, workload)))
    }

    /// The workloads that serve a service, sorted by uid, those that may take no connections too.
    pub fn members_of(&self, service: &ServiceName) -> impl Iterator<Item = &Arc<Workload>> {
        let known = self.entry(service).and_then(|_| self.members.get(service));
        known.into_iter().flat_map(Sequence::iter).map(|(_, workload)| workload)
    }

    /// How many of them may take connections to a port, in all networks together.
    #[must_use]
    pub fn endpoint_count(&self, service: &ServiceName, port: u16) -> usize {
        self.entry(service).map_or(0, |entry| entry.count(port))
    }
}

/// Which of two workloads with one address counts: a pod's address is the CNI's word, that of a
/// `WorkloadEntry` is its author's. More is better.
pub(crate) fn precedence(workload: &Workload) -> (bool, bool) {
    let pod = workload.uid.0.contains("//Pod/");
    (pod, workload.protocol == TunnelProtocol::Hbone)
}
