//! The choice of a route.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use model::{
    Code, DialledService, IpFamilies, LoadBalancingMode, Network, NetworkAddress, NetworkMode,
    Service, SpiffeId, TunnelProtocol, Workload, canonical_socket,
};

use crate::balance::{Choosing, Chosen, Hop, NoEndpoint};
use crate::ejection::Choice;
use crate::endpoints::{Endpoint, Rare, ServiceEntry, address_for};
use crate::lookup::{Lookup, Next, Origin, self_call};
use crate::preference::Nearness;
use crate::route::{MESH_PORTS, Query, Resource, Route, SameNode};
use crate::snapshot::{Meaning, Snapshot};

/// Chooses the route of one connection. Total.
#[must_use]
pub fn resolve(snapshot: &Snapshot, query: &Query<'_>) -> Route {
    let dialled = canonical_socket(query.original_dst.0);
    Trip { snapshot, query, dialled }.route()
}

/// One connection on its way through the rules.
pub(crate) struct Trip<'r> {
    pub(crate) snapshot: &'r Snapshot,
    pub(crate) query: &'r Query<'r>,
    pub(crate) dialled: SocketAddr,
}

/// A workload that was picked as the next hop, and how.
pub(crate) struct Leg<'r> {
    pub(crate) workload: &'r Arc<Workload>,
    pub(crate) port: u16,
    /// Its address, where that is settled already.
    pub(crate) ip: Option<IpAddr>,
    pub(crate) nearness: Nearness,
    /// The service that it was picked out of, and as which of its endpoints.
    pub(crate) picked: Option<(&'r ServiceEntry, &'r Endpoint)>,
    pub(crate) choice: Option<Choice>,
}

impl<'r> Trip<'r> {
    fn route(&self) -> Route {
        if self.dialled.ip().is_loopback() && MESH_PORTS.contains(&self.dialled.port()) {
            return self_call(self.dialled, None, None);
        }
        let (query, ip) = (self.query, self.dialled.ip());
        let meaning = self.snapshot.meaning(query.network, ip, &query.source.key.namespace);
        match meaning {
            Meaning::Workload(workload) => self.to_dialled_workload(workload),
            Meaning::Block(_) | Meaning::Unknown if self.must_ask(ip) => Route::Ask {
                resource: Resource::Address(NetworkAddress { network: query.network.clone(), ip }),
                service: None,
            },
            Meaning::Service(entry) | Meaning::Block(entry) => self.to_service(entry),
            Meaning::Unknown => Route::Passthrough {
                address: self.dialled,
                workload: None,
                service: None,
                choice: None,
            },
        }
    }

    /// Whether something else may have that address. Nothing in the mesh has one of these kinds.
    fn must_ask(&self, ip: IpAddr) -> bool {
        let network = self.query.network.clone();
        let address = Resource::Address(NetworkAddress { network, ip });
        !ip.is_loopback()
            && !ip.is_unspecified()
            && !ip.is_multicast()
            && !self.query.extent.covers(&address)
    }

    /// A service's own waypoint comes first, then its endpoints; their waypoints do not count.
    fn to_service(&self, entry: &'r ServiceEntry) -> Route {
        if let Some(waypoint) = self.waypoint_of_service(entry) {
            return self.to_service_waypoint(entry, waypoint);
        }
        match entry.mode {
            LoadBalancingMode::Passthrough => {
                return Route::Passthrough {
                    address: self.dialled,
                    workload: None,
                    service: Some(entry.dialled.clone()),
                    choice: None,
                };
            }
            LoadBalancingMode::Unspecified
            | LoadBalancingMode::Strict
            | LoadBalancingMode::Failover => {}
        }
        let port = self.dialled.port();
        let leg = match self.pick(entry, port, Hop::Destination, self.query.random) {
            Ok(leg) => leg,
            Err(none) => {
                let code = match none {
                    NoEndpoint::UnknownPort => Code::NoServicePort,
                    NoEndpoint::None | NoEndpoint::Addressless => Code::NoHealthyEndpoint,
                    NoEndpoint::Gatewayless => Code::GatewayUnknown,
                };
                let detail = no_endpoint(&entry.service, port, none, self.query.network);
                return refused(code, detail, Some(entry.dialled.clone()), None);
            }
        };
        match leg.nearness {
            Nearness::SameNetwork => self.to_destination(leg),
            Nearness::OtherNetwork => self.across(leg.workload, entry, Some(entry)),
        }
    }

    /// The dialled address is a workload's: its waypoint comes first.
    fn to_dialled_workload(&self, workload: &'r Arc<Workload>) -> Route {
        let leg = Leg {
            workload,
            port: self.dialled.port(),
            ip: Some(self.dialled.ip()),
            nearness: Nearness::SameNetwork,
            picked: None,
            choice: None,
        };
        let in_mesh = self.is_own(workload) || workload.protocol == TunnelProtocol::Hbone;
        match self.waypoint_of_workload(workload) {
            // Nothing but the mesh answers there, waypoint or not.
            Some(_) if in_mesh && MESH_PORTS.contains(&leg.port) => self.to_destination(leg),
            Some(waypoint) => self.to_workload_waypoint(workload, waypoint),
            None => self.to_destination(leg),
        }
    }

    /// Straight to the destination.
    fn to_destination(&self, leg: Leg<'_>) -> Route {
        let service = leg.picked.map(|(entry, _)| entry.dialled.clone());
        let workload = leg.workload.clone();
        let own = self.is_own(&workload);
        if !own && workload.protocol == TunnelProtocol::None {
            let next = Next::Plain { workload, port: leg.port };
            return self.dial(&leg, next, service);
        }
        let ip = self.address_of(&leg);
        if MESH_PORTS.contains(&leg.port) {
            let address = SocketAddr::new(ip.unwrap_or(self.dialled.ip()), leg.port);
            return self_call(address, service, Some(workload));
        }
        if let (true, Some(ip)) = (own, ip) {
            let address = SocketAddr::new(ip, leg.port);
            return Route::Local {
                workload,
                address,
                authority: address,
                service,
                choice: leg.choice,
            };
        }
        match leg.expected() {
            Ok(expected) => {
                let next = Next::Direct { workload, port: leg.port, expected };
                self.dial(&leg, next, service)
            }
            Err(detail) => refused(Code::PeerIdentity, detail, service, Some(workload)),
        }
    }

    /// Whether a workload is one of this agent's pods, and the agent is what serves it.
    pub(crate) fn is_own(&self, workload: &Workload) -> bool {
        match (self.query.same_node, workload.network_mode, workload.native_tunnel) {
            (SameNode::Relay, NetworkMode::Standard, false) => (self.query.local)(workload),
            // A proxy in the pod terminates the tunnel: the agent must not go past it.
            (SameNode::Relay, NetworkMode::Standard, true)
            | (SameNode::Relay, NetworkMode::HostNetwork, _)
            | (SameNode::Tunnel, ..) => false,
        }
    }

    /// An endpoint of a service.
    pub(crate) fn pick(
        &self,
        entry: &'r ServiceEntry,
        service_port: u16,
        hop: Hop,
        random: u64,
    ) -> Result<Leg<'r>, NoEndpoint> {
        let Query { network, source: client, ejected, .. } = *self.query;
        let Chosen { endpoint, nearness, port } = entry.choose(&Choosing {
            snapshot: self.snapshot,
            network,
            client,
            port: service_port,
            hop,
            random,
            ejected,
        })?;
        let workload = &endpoint.workload;
        let service = entry.dialled.name.clone();
        let choice = Some(Choice { service, port: service_port, workload: workload.clone() });
        let picked = Some((entry, endpoint));
        Ok(Leg { workload, port, ip: None, nearness, picked, choice })
    }

    /// The address of a hop, if it has one.
    pub(crate) fn address_of(&self, leg: &Leg<'_>) -> Option<IpAddr> {
        leg.ip.or_else(|| {
            let only = leg.picked.and_then(|(_, endpoint)| endpoint.only_address);
            only.or_else(|| address_for(leg.workload, leg.families(), self.dialled.ip()))
        })
    }

    /// The route to the next hop, by its address or through its host name.
    pub(crate) fn dial(&self, leg: &Leg<'_>, next: Next, service: Option<DialledService>) -> Route {
        let origin = Origin { service, choice: leg.choice.clone() };
        match (self.address_of(leg), &leg.workload.hostname) {
            (Some(ip), _) => next.at(ip, origin),
            (None, Some(hostname)) => {
                let like = (leg.families(), self.dialled.ip());
                let hostname = hostname.clone();
                let lookup = Lookup::new(hostname, like, self.query.random, next, origin);
                Route::Lookup(Box::new(lookup))
            }
            (None, None) => {
                let detail = format!("workload {} has no address", leg.workload.uid);
                refused(Code::NoHealthyEndpoint, detail, origin.service, Some(leg.workload.clone()))
            }
        }
    }
}

impl Leg<'_> {
    /// The address families that count.
    pub(crate) fn families(&self) -> IpFamilies {
        self.picked.map_or_else(IpFamilies::default, |(entry, _)| entry.families)
    }

    /// The identities that the hop's certificate may carry: its own, and those that the service
    /// names besides.
    pub(crate) fn expected(&self) -> Result<Vec<SpiffeId>, String> {
        let known = self.picked.and_then(|(_, endpoint)| endpoint.identity.clone());
        let own = match known {
            Some(identity) => identity,
            None => self.workload.identity().map_err(|error| {
                format!("workload {} can have no identity: {error}", self.workload.key)
            })?,
        };
        let mut expected = vec![own];
        if let Some((entry, _)) = self.picked
            && entry.rare == Rare::Something
        {
            expected.extend(entry.service.subject_alt_names.iter().cloned());
        }
        Ok(expected)
    }
}

/// Why a service has no endpoint for a connection, in words.
pub(crate) fn no_endpoint(
    service: &Service,
    port: u16,
    none: NoEndpoint,
    network: &Network,
) -> String {
    let name = &service.name;
    let fits = match service.load_balancing.mode {
        LoadBalancingMode::Strict => " that matches every load-balancing preference",
        LoadBalancingMode::Unspecified
        | LoadBalancingMode::Failover
        | LoadBalancingMode::Passthrough => "",
    };
    let place = match &*network.0 {
        "" => String::new(),
        name => format!(" that network {name} can reach"),
    };
    match none {
        NoEndpoint::UnknownPort => format!("{name} has no port {port}"),
        NoEndpoint::None => format!("{name} has no healthy endpoint for port {port}{place}{fits}"),
        NoEndpoint::Addressless => {
            format!("no healthy endpoint of {name} for port {port} has an address or a host name")
        }
        NoEndpoint::Gatewayless => format!(
            "every healthy endpoint of {name} for port {port} is in another network and has no \
             gateway"
        ),
    }
}

pub(crate) fn refused(
    code: Code,
    detail: String,
    service: Option<DialledService>,
    workload: Option<Arc<Workload>>,
) -> Route {
    Route::Refused { code, detail, service, workload }
}
