//! Which endpoint of a service takes a connection.

use std::num::NonZeroU16;

use model::{Network, Workload};

use crate::ejection::Ejected;
use crate::endpoints::{Endpoint, Ports, Reach, Serves, ServiceEntry};
use crate::preference::{Nearness, Preferences, Rank};
use crate::random::{Draw, drawn, scaled};
use crate::sequence::{Position, Sequence};
use crate::site::Site;
use crate::snapshot::Snapshot;

/// Who asks for an endpoint, and of what kind.
#[derive(Clone, Copy)]
pub(crate) struct Choosing<'q> {
    pub(crate) snapshot: &'q Snapshot,
    /// The client's network.
    pub(crate) network: &'q Network,
    pub(crate) client: &'q Workload,
    /// The service's port.
    pub(crate) port: u16,
    pub(crate) hop: Hop,
    /// Uniform over its whole range.
    pub(crate) random: u64,
    pub(crate) ejected: Ejected<'q>,
}

/// What the endpoint is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hop {
    /// It is the destination.
    Destination,
    /// It is a waypoint: one whose application takes everything on one port need not serve the
    /// port of the tunnel.
    Waypoint,
    /// It is a gateway to another network: dialled directly, whichever network it counts to.
    Gateway,
}

/// The endpoint that takes a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chosen<'s> {
    pub(crate) endpoint: &'s Endpoint,
    pub(crate) nearness: Nearness,
    /// Its own port.
    pub(crate) port: u16,
}

/// Why no endpoint was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoEndpoint {
    /// The service does not have that port.
    UnknownPort,
    /// None is healthy, with capacity, and as the service's load balancing demands.
    None,
    /// The only ones there are have neither address nor host name.
    Addressless,
    /// The only ones there are belong to other networks and have no gateway.
    Gatewayless,
}

/// Choices are made out of these: endpoints of one network that are equally good.
struct Part<'s> {
    nearness: Nearness,
    endpoints: &'s Sequence<Endpoint>,
    from: Position,
    to: Position,
}

impl ServiceEntry {
    /// Chooses by capacity among the endpoints that fit best.
    ///
    /// The cost is a few binary searches for each network that the service has endpoints in.
    pub(crate) fn choose(&self, choosing: &Choosing<'_>) -> Result<Chosen<'_>, NoEndpoint> {
        let mapping = self.port(choosing.port);
        let serves = mapping.copied().map(Serves::of);
        let chosen = match (serves.map(|serves| self.choose_of(serves, choosing)), choosing.hop) {
            (Some(Ok(workload)), _) => Ok(workload),
            (other, Hop::Waypoint) => self
                .choose_of(Serves::Anything, choosing)
                .map_err(|none| other.and_then(Result::err).unwrap_or(none)),
            (Some(Err(none)), Hop::Destination | Hop::Gateway) => Err(none),
            (None, Hop::Destination | Hop::Gateway) => return Err(NoEndpoint::UnknownPort),
        };
        let (endpoint, nearness) = chosen?;
        // The endpoint's own mapping comes first: a named port differs between endpoints.
        let own = match endpoint.ports {
            Ports::OfService => None,
            Ports::Own => endpoint.workload.target_port(&self.dialled.name, choosing.port),
        };
        let target = own.or_else(|| mapping.and_then(|mapping| mapping.target_port));
        Ok(Chosen { endpoint, nearness, port: target.map_or(choosing.port, NonZeroU16::get) })
    }

    /// How many endpoints serve a port, wherever they are.
    pub(crate) fn count(&self, port: u16) -> usize {
        let serves = self.port(port).copied().map_or(Serves::Anything, Serves::of);
        let networks = self.networks(serves).iter();
        networks.map(|(_, reach)| reach.direct.len().max(reach.gateway.len())).sum()
    }

    fn choose_of(
        &self,
        serves: Serves,
        choosing: &Choosing<'_>,
    ) -> Result<(&Endpoint, Nearness), NoEndpoint> {
        let networks = self.networks(serves);
        let best = networks.iter().filter_map(|(network, reach)| {
            let nearness = choosing.nearness(network);
            let endpoints = choosing.reachable(reach, nearness);
            self.preferences().best(endpoints, choosing.client, nearness)
        });
        let Some(best) = best.max() else { return Err(unreachable(networks, choosing)) };
        let parts = self.parts(networks, best, choosing);
        let first = at(&parts, choosing.random).ok_or(NoEndpoint::None)?;
        if !choosing.ejected.holds(&self.dialled.name, choosing.port, &first.0.workload.uid) {
            return Ok(first);
        }
        // Chosen again without the ejected ones, and among less preferred ones if need be. With
        // all of them ejected, ejection means nothing.
        let ranks = std::iter::once(best).chain(self.preferences().below(best));
        let mut others = ranks.filter_map(|rank| {
            let parts = self.parts(networks, rank, choosing);
            self.among_others(&parts, choosing)
        });
        Ok(others.next().unwrap_or(first))
    }

    fn parts<'s>(
        &self,
        networks: &'s [(Network, Reach)],
        rank: Rank,
        choosing: &Choosing<'_>,
    ) -> Vec<Part<'s>> {
        let part = |(network, reach): &'s (Network, Reach)| {
            let nearness = choosing.nearness(network);
            let endpoints = choosing.reachable(reach, nearness);
            let (from, to) =
                self.preferences().at_least(rank, endpoints, choosing.client, nearness)?;
            Some(Part { nearness, endpoints, from, to })
        };
        networks.iter().filter_map(part).collect()
    }

    /// Chooses among those that are not ejected, if there are any.
    fn among_others<'s>(
        &self,
        parts: &[Part<'s>],
        choosing: &Choosing<'_>,
    ) -> Option<(&'s Endpoint, Nearness)> {
        let ejected = choosing.ejected.of(&self.dialled.name, choosing.port);
        let ejected: Vec<_> =
            ejected.filter_map(|uid| choosing.snapshot.workload_by_uid(uid)).collect();
        let mut gaps = Vec::new();
        let mut total = 0_u64;
        for part in parts {
            let shares = ejected.iter().filter_map(|w| part.share(self.preferences(), w));
            gaps.extend(shares.map(|(start, share)| (total.saturating_add(start), share)));
            total = total.saturating_add(part.capacity());
        }
        gaps.sort_unstable();
        let gone: u64 = gaps.iter().map(|(_, share)| share).sum();
        let rest = total.checked_sub(gone).filter(|rest| *rest > 0)?;
        let mut point = scaled(drawn(choosing.random, Draw::Other), rest);
        for (start, share) in gaps {
            if point >= start {
                point = point.saturating_add(share);
            }
        }
        at_point(parts, point)
    }
}

impl Choosing<'_> {
    fn nearness(&self, network: &Network) -> Nearness {
        Nearness::of(network, self.network)
    }

    fn reachable<'s>(&self, reach: &'s Reach, nearness: Nearness) -> &'s Sequence<Endpoint> {
        match (self.hop, nearness) {
            (Hop::Gateway, _) | (_, Nearness::SameNetwork) => &reach.direct,
            (Hop::Destination | Hop::Waypoint, Nearness::OtherNetwork) => &reach.gateway,
        }
    }
}

/// Why none can be chosen out of those networks.
fn unreachable(networks: &[(Network, Reach)], choosing: &Choosing<'_>) -> NoEndpoint {
    let any = |wanted: &dyn Fn(&Network, &Reach) -> bool| {
        networks.iter().any(|(network, reach)| wanted(network, reach))
    };
    let reachable = |network: &Network, reach: &Reach| {
        !choosing.reachable(reach, choosing.nearness(network)).is_empty()
    };
    if any(&reachable) {
        // But not as the service's load balancing demands.
        NoEndpoint::None
    } else if any(&|network, reach| network != choosing.network && !reach.direct.is_empty()) {
        NoEndpoint::Gatewayless
    } else if any(&|_, reach| reach.addressless > 0) {
        NoEndpoint::Addressless
    } else {
        NoEndpoint::None
    }
}

impl Part<'_> {
    fn start(&self) -> u64 {
        self.endpoints.capacity_before(self.from)
    }

    fn capacity(&self) -> u64 {
        self.endpoints.capacity_before(self.to).saturating_sub(self.start())
    }

    /// Where in this part a workload's share of the capacity starts, and how large it is.
    fn share(&self, preferences: &Preferences, workload: &Workload) -> Option<(u64, u64)> {
        let order =
            |one: (&Site, &Workload), other: (&Site, &Workload)| preferences.order(one, other);
        let position = self.endpoints.find((&Site::of(workload), workload), order)?;
        let within = self.from <= position && position < self.to;
        let start = self.endpoints.capacity_before(position).saturating_sub(self.start());
        within.then_some((start, u64::from(workload.capacity)))
    }
}

/// The endpoint whose share of the total capacity holds the random point.
fn at<'s>(parts: &[Part<'s>], random: u64) -> Option<(&'s Endpoint, Nearness)> {
    let total = parts.iter().fold(0_u64, |sum, part| sum.saturating_add(part.capacity()));
    at_point(parts, scaled(random, total))
}

fn at_point<'s>(parts: &[Part<'s>], point: u64) -> Option<(&'s Endpoint, Nearness)> {
    let mut point = point;
    for part in parts {
        if let Some(beyond) = point.checked_sub(part.capacity()) {
            point = beyond;
            continue;
        }
        let endpoint = part.endpoints.at(part.start().saturating_add(point))?;
        return Some((endpoint, part.nearness));
    }
    None
}

#[cfg(test)]
mod tests;
