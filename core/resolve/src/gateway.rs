//! Proxies on the way: waypoints, and gateways to other networks.

use std::net::SocketAddr;
use std::sync::Arc;

use model::{Code, DialledService, Gateway, GatewayDestination, NetworkAddress, Service, Workload};

use crate::balance::Hop;
use crate::endpoints::{Rare, ServiceEntry};
use crate::lookup::Next;
use crate::preference::Nearness;
use crate::random::{Draw, drawn, scaled};
use crate::route::{Resource, Route};
use crate::snapshot::{Meaning, Snapshot};
use crate::trip::{Leg, Trip, no_endpoint, refused};

/// Why a gateway leads nowhere.
enum DeadEnd {
    /// The control plane was not asked for it yet.
    Ask(Resource),
    /// In words.
    Because(String),
}

impl Snapshot {
    /// Whether a workload is that gateway, or one of its instances.
    #[must_use]
    pub fn is_gateway(&self, gateway: &Gateway, workload: &Workload) -> bool {
        let serves = |service: &Service| workload.services.get(&service.name).is_some();
        match &gateway.destination {
            GatewayDestination::Service(name) => workload.services.get(name).is_some(),
            GatewayDestination::Address(NetworkAddress { network, ip }) => {
                match self.meaning(network, ip.to_canonical(), &workload.key.namespace) {
                    Meaning::Service(entry) => serves(&entry.service),
                    Meaning::Workload(found) => found.uid == workload.uid,
                    Meaning::Block(_) | Meaning::Unknown => false,
                }
            }
        }
    }
}

impl<'r> Trip<'r> {
    /// The waypoint that connections to a service take: one of several by weight, or the one. A service
    /// with waypoints is never reached past them, also if none of them has a weight.
    ///
    /// None for a client that is a waypoint of that service: it would get its own connection back.
    pub(crate) fn waypoint_of_service(&self, entry: &'r ServiceEntry) -> Option<&'r Gateway> {
        let service = match entry.rare {
            Rare::Nothing => return None,
            Rare::Something => &entry.service,
        };
        let weighted = &service.weighted_waypoints;
        let mut all = weighted.iter().map(|w| &w.gateway).chain(&service.waypoint);
        if all.any(|waypoint| self.snapshot.is_gateway(waypoint, self.query.source)) {
            return None;
        }
        let total = weighted.iter().map(|waypoint| u64::from(waypoint.weight)).sum();
        let mut point = scaled(drawn(self.query.random, Draw::Waypoint), total);
        let chosen =
            weighted.iter().find(|waypoint| match point.checked_sub(u64::from(waypoint.weight)) {
                Some(rest) => {
                    point = rest;
                    false
                }
                None => true,
            });
        let weightless = || weighted.first().map(|waypoint| &waypoint.gateway);
        chosen.map(|waypoint| &waypoint.gateway).or(service.waypoint.as_ref()).or_else(weightless)
    }

    /// The waypoint that connections to a workload's address take, unless the client is it.
    pub(crate) fn waypoint_of_workload(&self, workload: &'r Workload) -> Option<&'r Gateway> {
        let waypoint = workload.waypoint.as_ref()?;
        let client_is_it = self.snapshot.is_gateway(waypoint, self.query.source);
        (!client_is_it).then_some(waypoint)
    }

    pub(crate) fn to_service_waypoint(
        &self,
        entry: &'r ServiceEntry,
        waypoint: &'r Gateway,
    ) -> Route {
        let service = Some(entry.dialled.clone());
        let leg = match self.gateway(waypoint, Hop::Waypoint, self.query.random) {
            Ok(leg) => leg,
            Err(dead_end) => {
                let what = format!("waypoint {waypoint} of service {}", entry.dialled.name);
                return dead_end.route(Code::WaypointUnknown, &what, service, None);
            }
        };
        match leg.nearness {
            Nearness::SameNetwork => self.to_waypoint(&leg, service),
            Nearness::OtherNetwork => {
                self.across(leg.workload, entry, leg.picked.map(|(entry, _)| entry))
            }
        }
    }

    pub(crate) fn to_workload_waypoint(
        &self,
        workload: &Arc<Workload>,
        waypoint: &'r Gateway,
    ) -> Route {
        let what = || format!("waypoint {waypoint} of workload {}", workload.uid);
        let leg = match self.gateway(waypoint, Hop::Waypoint, self.query.random) {
            Ok(leg) => leg,
            Err(dead_end) => {
                let workload = Some(workload.clone());
                return dead_end.route(Code::WaypointUnknown, &what(), None, workload);
            }
        };
        if leg.nearness == Nearness::SameNetwork {
            return self.to_waypoint(&leg, None);
        }
        // A gateway is asked for a service by its host name: it does not know addresses.
        let detail = format!(
            "{} is in network {}, where only a service can be asked for",
            what(),
            leg.workload.network
        );
        refused(Code::RouteUnsupported, detail, None, Some(workload.clone()))
    }

    /// To a waypoint, whatever its protocol says, for what the application dialled.
    fn to_waypoint(&self, leg: &Leg<'_>, service: Option<DialledService>) -> Route {
        let (waypoint, authority) = (leg.workload.clone(), self.dialled);
        if let (true, Some(ip)) = (self.is_own(&waypoint), self.address_of(leg)) {
            return Route::Local {
                workload: waypoint,
                address: SocketAddr::new(ip, authority.port()),
                authority,
                service,
                choice: leg.choice.clone(),
            };
        }
        match leg.expected() {
            Ok(expected) => {
                let next = Next::Waypoint { waypoint, port: leg.port, authority, expected };
                self.dial(leg, next, service)
            }
            Err(detail) => refused(Code::PeerIdentity, detail, service, Some(waypoint)),
        }
    }

    /// To a service by way of another network: through the gateway of `upstream`, an endpoint or a
    /// waypoint there. `named` is the service whose identities the other side may have.
    pub(crate) fn across(
        &self,
        upstream: &'r Arc<Workload>,
        entry: &ServiceEntry,
        named: Option<&ServiceEntry>,
    ) -> Route {
        let service = Some(entry.dialled.clone());
        let workload = upstream.clone();
        let network = &upstream.network;
        let Some(gateway) = &upstream.network_gateway else {
            let detail = format!("{} is in network {network} and has no gateway", upstream.uid);
            return refused(Code::GatewayUnknown, detail, service, Some(workload));
        };
        let random = drawn(self.query.random, Draw::Gateway);
        let leg = match self.gateway(gateway, Hop::Gateway, random) {
            Ok(leg) => leg,
            Err(dead_end) => {
                let what = format!("gateway {gateway} to network {network}");
                return dead_end.route(Code::GatewayUnknown, &what, service, Some(workload));
            }
        };
        let inner_expected =
            named.map(|entry| entry.service.subject_alt_names.clone()).unwrap_or_default();
        if inner_expected.is_empty() {
            // The gateway chooses who answers, so the identity of `upstream` would say nothing.
            let name = &named.unwrap_or(entry).dialled.name;
            let detail = format!("{name} names no identity that may answer in network {network}");
            return refused(Code::PeerIdentity, detail, service, Some(workload));
        }
        let outer_expected = match leg.expected() {
            Ok(expected) => expected,
            Err(detail) => return refused(Code::PeerIdentity, detail, service, Some(workload)),
        };
        let next = Next::Gateway {
            workload,
            gateway: leg.workload.clone(),
            port: leg.port,
            authority: (entry.dialled.name.hostname.clone(), self.dialled.port()),
            outer_expected,
            inner_expected,
        };
        self.dial(&leg, next, service)
    }

    /// The workload that is a gateway, or one of several that are.
    fn gateway(&self, gateway: &'r Gateway, hop: Hop, random: u64) -> Result<Leg<'r>, DeadEnd> {
        let port = gateway.hbone_port.get();
        let of_service = |entry: &'r ServiceEntry| {
            self.pick(entry, port, hop, random).map_err(|none| {
                DeadEnd::Because(no_endpoint(&entry.service, port, none, self.query.network))
            })
        };
        match &gateway.destination {
            GatewayDestination::Service(name) => match self.snapshot.entry(name) {
                Some(entry) => of_service(entry),
                None => Err(self.unknown(Resource::Service(name.clone()))),
            },
            GatewayDestination::Address(address) => {
                let ip = address.ip.to_canonical();
                let namespace = &self.query.source.key.namespace;
                match self.snapshot.meaning(&address.network, ip, namespace) {
                    Meaning::Service(entry) => of_service(entry),
                    Meaning::Workload(workload) => {
                        let nearness = Nearness::of(&workload.network, self.query.network);
                        let (picked, choice) = (None, None);
                        Ok(Leg { workload, port, ip: Some(ip), nearness, picked, choice })
                    }
                    // Whoever is anywhere in a block is no gateway.
                    Meaning::Block(_) | Meaning::Unknown => {
                        Err(self.unknown(Resource::Address(address.clone())))
                    }
                }
            }
        }
    }

    fn unknown(&self, resource: Resource) -> DeadEnd {
        if self.query.extent.covers(&resource) {
            DeadEnd::Because("nothing with that address or name is known".to_owned())
        } else {
            DeadEnd::Ask(resource)
        }
    }
}

impl DeadEnd {
    fn route(
        self,
        code: Code,
        what: &str,
        service: Option<DialledService>,
        workload: Option<Arc<Workload>>,
    ) -> Route {
        match self {
            Self::Ask(resource) => Route::Ask { resource, service },
            Self::Because(why) => refused(code, format!("{what}: {why}"), service, workload),
        }
    }
}

#[cfg(test)]
mod tests;
