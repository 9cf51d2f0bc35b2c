//! Which endpoints of a service a client prefers: those that share its region, zone, node.

use std::cmp::Ordering;
use std::sync::Arc;

use model::{LoadBalancing, LoadBalancingMode, Network, Scope, Workload};
use smallvec::SmallVec;

use crate::sequence::{Member, Position, Sequence};
use crate::site::Site;

/// A service's preferences. A scope named twice counts once, so there are at most six.
///
/// Endpoints are kept sorted by their values of the preferred scopes, so that those which share
/// the client's first values stand together and are found by binary search. The network is not
/// among them: endpoints of each network are kept apart, because how an endpoint is reached
/// depends on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Preferences {
    /// In order, without the network. In place: it is read at every choice.
    scopes: SmallVec<[Scope; 5]>,
    /// How many of `scopes` stand before the network.
    network: Option<usize>,
    bind: Bind,
}

/// How preferences bind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Bind {
    /// Not at all: every endpoint is as good as any other.
    #[default]
    Loosely,
    /// The best there are.
    Failover,
    /// All of them.
    Strictly,
}

/// How good endpoints are to a client; more is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank(usize);

/// Whether endpoints are in the client's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nearness {
    SameNetwork,
    OtherNetwork,
}

impl Nearness {
    pub(crate) fn of(network: &Network, own: &Network) -> Self {
        if network == own { Self::SameNetwork } else { Self::OtherNetwork }
    }
}

impl Preferences {
    pub(crate) fn of(balancing: &LoadBalancing) -> Self {
        let bind = match balancing.mode {
            LoadBalancingMode::Unspecified | LoadBalancingMode::Passthrough => {
                return Self::default();
            }
            LoadBalancingMode::Strict => Bind::Strictly,
            LoadBalancingMode::Failover => Bind::Failover,
        };
        let mut preferences = Self { bind, ..Self::default() };
        for scope in &balancing.preferences {
            match scope {
                Scope::Network => {
                    preferences.network.get_or_insert(preferences.scopes.len());
                }
                Scope::Region | Scope::Zone | Scope::Subzone | Scope::Node | Scope::Cluster => {
                    if !preferences.scopes.contains(scope) {
                        preferences.scopes.push(*scope);
                    }
                }
            }
        }
        preferences
    }

    /// The order in which a service's endpoints are kept.
    pub(crate) fn order(
        &self,
        (site, one): (&Site, &Workload),
        (other_site, other): (&Site, &Workload),
    ) -> Ordering {
        let scopes = self.scopes.iter();
        let orders =
            scopes.map(|scope| compare_texts(site.value(*scope), other_site.value(*scope)));
        first_difference(orders).then_with(|| one.uid.cmp(&other.uid))
    }

    /// The best rank that endpoints have, if any of them may be chosen.
    ///
    /// Sorted, so one that shares most leading values with the client stands where the client
    /// itself would.
    pub(crate) fn best<T: Member>(
        &self,
        endpoints: &Sequence<T>,
        client: &Workload,
        nearness: Nearness,
    ) -> Option<Rank> {
        if endpoints.is_empty() {
            return None;
        }
        let scopes = self.scopes_for(nearness);
        if scopes.is_empty() {
            return self.allowed(0, nearness);
        }
        let position = endpoints.partition_point(|site| compare(scopes, site, client).is_lt());
        let neighbours = endpoints.around(position).into_iter().flatten();
        let matched = neighbours.map(|site| matching(scopes, site, client)).max()?;
        self.allowed(matched, nearness)
    }

    /// The endpoints of at least that rank: from one place to another.
    pub(crate) fn at_least<T: Member>(
        &self,
        rank: Rank,
        endpoints: &Sequence<T>,
        client: &Workload,
        nearness: Nearness,
    ) -> Option<(Position, Position)> {
        let scopes = self.scopes_for(nearness);
        let matched = (0..=scopes.len())
            .find(|matched| self.allowed(*matched, nearness).is_some_and(|has| has >= rank))?;
        let scopes = scopes.get(..matched)?;
        if scopes.is_empty() {
            return Some((Position::START, endpoints.end()));
        }
        let from = endpoints.partition_point(|site| compare(scopes, site, client).is_lt());
        let to = endpoints.partition_point(|site| compare(scopes, site, client).is_le());
        Some((from, to))
    }

    /// The ranks below that one, the best first.
    pub(crate) fn below(&self, rank: Rank) -> impl Iterator<Item = Rank> {
        let lowest = match self.bind {
            Bind::Loosely | Bind::Failover => 0,
            Bind::Strictly => rank.0,
        };
        (lowest..rank.0).rev().map(Rank)
    }

    /// The scopes that can count for endpoints of a network. Another network ends the comparison
    /// where the network is preferred, unless it is preferred before all else.
    fn scopes_for(&self, nearness: Nearness) -> &[Scope] {
        let end = match (nearness, self.network) {
            (Nearness::SameNetwork, _) | (_, None | Some(0)) => self.scopes.len(),
            (Nearness::OtherNetwork, Some(before)) => before,
        };
        self.scopes.get(..end).unwrap_or_default()
    }

    /// The rank of endpoints with so many leading matches, if they may be chosen at all.
    fn allowed(&self, matched: usize, nearness: Nearness) -> Option<Rank> {
        let same = nearness == Nearness::SameNetwork;
        let all = matched == self.scopes.len() && (same || self.network.is_none());
        match self.bind {
            Bind::Strictly if !all => None,
            Bind::Loosely | Bind::Failover | Bind::Strictly => Some(Rank(match self.network {
                // Preferred over all else together.
                Some(0) if same => self.scopes.len() + 1 + matched,
                Some(before) if same && matched >= before => matched + 1,
                _ => matched,
            })),
        }
    }
}

/// How a site stands to that of a client, by some scopes.
fn compare(scopes: &[Scope], site: &Site, client: &Workload) -> Ordering {
    let scopes = scopes.iter();
    let orders =
        scopes.map(|scope| compare_texts(site.value(*scope), Site::value_of(*scope, client)));
    first_difference(orders)
}

/// Leading scopes of equal value.
fn matching(scopes: &[Scope], site: &Site, client: &Workload) -> usize {
    let same = |scope: &&Scope| site.value(**scope) == Site::value_of(**scope, client);
    scopes.iter().take_while(same).count()
}

fn compare_texts(one: Option<&Arc<str>>, other: Option<&Arc<str>>) -> Ordering {
    match (one, other) {
        // A snapshot keeps one copy of each text.
        (Some(one), Some(other)) if Arc::ptr_eq(one, other) => Ordering::Equal,
        _ => one.cmp(&other),
    }
}

fn first_difference(mut orders: impl Iterator<Item = Ordering>) -> Ordering {
    orders.find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}
