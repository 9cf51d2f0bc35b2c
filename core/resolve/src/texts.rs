//! One copy of each text that many workloads share: names of namespaces, nodes, zones.

use std::collections::HashSet;
use std::sync::Arc;

use model::{
    Gateway, GatewayDestination, Locality, Network, PolicyName, Service, ServiceName, SpiffeId,
    TrustDomain, Workload, WorkloadKey,
};

use crate::sharded::{SHARDS, Sharded};
use crate::site::Site;

/// Most trust domains kept. A mesh has one or a few; at the bound the set starts anew, which costs
/// some memory for those that come again.
const TRUST_DOMAINS_MAX: usize = 256;

/// Texts in use. Whoever parses workloads may make a new text for each field: a snapshot keeps
/// only the first of equal ones. With 100,000 workloads that is most of the texts there are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Texts {
    known: Sharded<Arc<str>, ()>,
    identities: Sharded<SpiffeId, ()>,
    sites: Sharded<Arc<Site>, ()>,
    trust_domains: Arc<HashSet<TrustDomain>>,
    /// The part that is swept next.
    next: usize,
}

impl Texts {
    /// Replaces every text of a workload that others may share. Not its uid and name.
    pub(crate) fn share_workload(&mut self, workload: &mut Workload) {
        let Workload {
            uid: _,
            key: WorkloadKey { namespace, name: _, service_account },
            trust_domain,
            addresses: _,
            network: Network(network),
            protocol: _,
            network_mode: _,
            node,
            cluster,
            canonical_name,
            canonical_revision,
            workload_type: _,
            workload_name,
            health: _,
            locality: Locality { region, zone, subzone },
            policies,
            services,
            capacity: _,
            native_tunnel: _,
            waypoint,
            network_gateway,
            application_tunnel: _,
            hostname: _,
        } = workload;
        for text in [namespace, service_account, network, node, cluster] {
            self.share(text);
        }
        for text in [canonical_name, canonical_revision, workload_name, region, zone, subzone] {
            self.share(text);
        }
        for PolicyName { namespace, name } in policies {
            self.share(namespace);
            self.share(name);
        }
        services.share_names(|name| {
            let mut name = name.clone();
            self.share_name(&mut name);
            name
        });
        for gateway in waypoint.iter_mut().chain(network_gateway) {
            self.share_gateway(gateway);
        }
        self.share_trust_domain(trust_domain);
    }

    /// Replaces every text of a service that others may share.
    pub(crate) fn share_service(&mut self, service: &mut Service) {
        self.share_name(&mut service.name);
        for address in &mut service.addresses {
            self.share(&mut address.network.0);
        }
        let weighted = service.weighted_waypoints.iter_mut().map(|waypoint| &mut waypoint.gateway);
        for gateway in service.waypoint.iter_mut().chain(weighted) {
            self.share_gateway(gateway);
        }
    }

    /// The identity of a workload, if it can have one.
    pub(crate) fn identity(&mut self, workload: &Workload) -> Option<SpiffeId> {
        let identity = workload.identity().ok()?;
        if let Some(known) = self.identities.key(&identity) {
            return Some(known.clone());
        }
        self.identities.insert(identity.clone(), ());
        Some(identity)
    }

    /// Where a workload runs.
    pub(crate) fn site(&mut self, workload: &Workload) -> Arc<Site> {
        let site = Site::of(workload);
        if let Some(known) = self.sites.key(&site) {
            return known.clone();
        }
        let site = Arc::new(site);
        self.sites.insert(site.clone(), ());
        site
    }

    fn share_gateway(&mut self, gateway: &mut Gateway) {
        match &mut gateway.destination {
            GatewayDestination::Address(address) => self.share(&mut address.network.0),
            GatewayDestination::Service(name) => self.share_name(name),
        }
    }

    fn share_name(&mut self, name: &mut ServiceName) {
        self.share(&mut name.namespace);
        self.share(&mut name.hostname);
    }

    fn share(&mut self, text: &mut Arc<str>) {
        if let Some(known) = self.known.key(&**text) {
            *text = known.clone();
        } else {
            self.known.insert(text.clone(), ());
        }
    }

    fn share_trust_domain(&mut self, domain: &mut TrustDomain) {
        if let Some(known) = self.trust_domains.get(domain) {
            *domain = known.clone();
            return;
        }
        if self.trust_domains.len() >= TRUST_DOMAINS_MAX {
            self.trust_domains = Arc::default();
        }
        Arc::make_mut(&mut self.trust_domains).insert(domain.clone());
    }

    /// Drops texts that nobody uses any more, a part at a time: what is unused goes within as many
    /// calls as there are parts.
    pub(crate) fn sweep(&mut self) {
        self.known.sweep(self.next, |text, others| Arc::strong_count(text) <= 1 + others);
        self.sites.sweep(self.next, |site, others| Arc::strong_count(site) <= 1 + others);
        self.identities.sweep(self.next, |identity, others| identity.holders() <= 1 + others);
        self.next = (self.next + 1) % SHARDS;
    }
}

#[cfg(test)]
mod tests;
