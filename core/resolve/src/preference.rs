//! Which endpoints of a service a client prefers: those that share its region, zone, node.

use std::cmp::Ordering;
use std::sync::Arc;

use model::{LoadBalancing, LoadBalancingMode, Scope, Workload};

use crate::sequence::{Place, Sequence};

/// A service's preferences. A scope named twice counts once, so there are at most six.
///
/// Endpoints are kept sorted by their values of the preferred scopes, so that those which share
/// the client's first values stand together and are found by binary search. The network is not
/// among them: endpoints of each network are kept apart, because how an endpoint is reached
/// depends on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Preferences {
    /// In order, without the network.
    scopes: Vec<Scope>,
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
    pub(crate) fn order(&self, one: &Workload, other: &Workload) -> Ordering {
        compare(&self.scopes, one, other).then_with(|| one.uid.cmp(&other.uid))
    }

    /// The best rank that endpoints have, if any of them may be chosen.
    ///
    /// Sorted, so one that shares most leading values with the client stands where the client
    /// itself would.
    pub(crate) fn best(
        &self,
        endpoints: &Sequence,
        client: &Workload,
        nearness: Nearness,
    ) -> Option<Rank> {
        if endpoints.is_empty() {
            return None;
        }
        let scopes = self.scopes_for(nearness);
        let place = endpoints
            .partition_point(|endpoint| compare(scopes, endpoint, client) == Ordering::Less);
        let neighbours = endpoints.before(place).into_iter().chain(endpoints.after(place));
        let matched = neighbours.map(|endpoint| matching(scopes, endpoint, client)).max()?;
        self.allowed(matched, nearness)
    }

    /// The endpoints of at least that rank: from one place to another.
    pub(crate) fn at_least(
        &self,
        rank: Rank,
        endpoints: &Sequence,
        client: &Workload,
        nearness: Nearness,
    ) -> Option<(Place, Place)> {
        let scopes = self.scopes_for(nearness);
        let matched = (0..=scopes.len())
            .find(|matched| self.allowed(*matched, nearness).is_some_and(|has| has >= rank))?;
        let scopes = scopes.get(..matched)?;
        if scopes.is_empty() {
            return Some((Sequence::start(), endpoints.end()));
        }
        let from = endpoints.partition_point(|endpoint| compare(scopes, endpoint, client).is_lt());
        let to = endpoints.partition_point(|endpoint| compare(scopes, endpoint, client).is_le());
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

fn value(scope: Scope, workload: &Workload) -> &Arc<str> {
    match scope {
        Scope::Region => &workload.locality.region,
        Scope::Zone => &workload.locality.zone,
        Scope::Subzone => &workload.locality.subzone,
        Scope::Node => &workload.node,
        Scope::Cluster => &workload.cluster,
        Scope::Network => &workload.network.0,
    }
}

fn compare(scopes: &[Scope], one: &Workload, other: &Workload) -> Ordering {
    let mut orders = scopes.iter().map(|scope| {
        let (one, other) = (value(*scope, one), value(*scope, other));
        // A snapshot keeps one copy of each text.
        if Arc::ptr_eq(one, other) { Ordering::Equal } else { one.cmp(other) }
    });
    orders.find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

/// Leading scopes of equal value.
fn matching(scopes: &[Scope], one: &Workload, other: &Workload) -> usize {
    scopes.iter().take_while(|scope| value(**scope, one) == value(**scope, other)).count()
}
