//! How far a policy is from matching, and why it does not.

use std::cmp::Reverse;
use std::fmt::{self, Write};

use ipnet::IpNet;
use model::SpiffeId;

use crate::compiled::Compiled;
use crate::policy::{Filter, Match, MatchType, MatchTypes, Quoted, Rule};
use crate::rules::{Facts, Rules};
use crate::verdict::{Miss, NearestMiss, TypeMiss};

/// Values of one condition shown to people; the rest are counted.
const VALUES_SHOWN_MAX: usize = 3;

/// How far a rule is from matching: fewer failed conditions are nearer, then more that held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Distance(u32, Reverse<u32>);

impl Distance {
    /// Further away than any rule.
    pub(crate) const MAX: Self = Self(u32::MAX, Reverse(0));

    /// Of a rule; `None` if it matches, or fails by more conditions than `limit`.
    fn of(rules: &Rules, rule: usize, facts: &Facts<'_>, limit: Self) -> Option<Self> {
        let (mut failed, mut held) = (0_u32, 0_u32);
        for clause in rules.clauses(rule) {
            if let Some(nearest) = rules.nearest(clause, facts) {
                failed = failed.saturating_add(nearest.missed.len());
                held = held.saturating_add(nearest.held.len());
            } else {
                // Only matches that cannot be checked: one failure.
                failed = failed.saturating_add(u32::from(!rules.matches(clause).is_empty()));
            }
            if failed > limit.0 {
                return None;
            }
        }
        (failed > 0).then_some(Self(failed, Reverse(held)))
    }
}

/// The match of a clause with the fewest conditions that do not hold.
#[derive(Clone, Copy, Debug, Default)]
struct Nearest {
    /// Its number within the clause.
    number: usize,
    held: MatchTypes,
    missed: MatchTypes,
}

impl Rules {
    /// `None` if the clause holds no match that can be checked.
    fn nearest(&self, clause: usize, facts: &Facts<'_>) -> Option<Nearest> {
        let mut nearest: Option<Nearest> = None;
        for (number, position) in self.matches(clause).enumerate() {
            let conditions = self.conditions(position);
            let (mut admitted, mut missed) = (MatchTypes::default(), MatchTypes::default());
            for condition in conditions {
                let holds = self.admits(condition, facts);
                let kinds = if holds { &mut admitted } else { &mut missed };
                kinds.insert(condition.kind());
            }
            let nearer = nearest.is_none_or(|other| missed.len() < other.missed.len());
            if nearer && !conditions.is_empty() {
                // Of a type with positive and negative values, one side may hold.
                nearest = Some(Nearest { number, held: admitted.without(missed), missed });
            }
        }
        nearest
    }
}

impl Compiled {
    /// The first of the rules that came closest, if it came closer than `than`. Called for every
    /// policy of a refused connection, and so builds nothing.
    pub(crate) fn nearer(&self, facts: &Facts<'_>, than: Distance) -> Option<(Distance, usize)> {
        let mut nearest: Option<(Distance, usize)> = None;
        for rule in 0..self.rules.len() {
            let limit = nearest.map_or(than, |(distance, _)| distance);
            let distance = Distance::of(&self.rules, rule, facts, limit);
            nearest = distance.filter(|d| *d < limit).map(|d| (d, rule)).or(nearest);
        }
        nearest
    }

    /// Why a rule does not match; none, for a policy that has none.
    pub(crate) fn miss(&self, rule: Option<usize>, facts: &Facts<'_>) -> NearestMiss {
        let miss =
            rule.and_then(|index| self.rule_miss(index, self.policy.rules.get(index)?, facts));
        NearestMiss { policy: self.policy.name.clone(), miss: miss.unwrap_or(Miss::NoRules) }
    }

    /// In each clause that fails, the match with the fewest failures counts.
    fn rule_miss(&self, index: usize, rule: &Rule, facts: &Facts<'_>) -> Option<Miss> {
        let (mut matched, mut also_failed) = (MatchTypes::default(), MatchTypes::default());
        let mut first: Option<(MatchType, &Match)> = None;
        for (clause, number) in rule.clauses.iter().zip(self.rules.clauses(index)) {
            let Some(Nearest { number, held, missed }) = self.rules.nearest(number, facts) else {
                if clause.matches.is_empty() {
                    continue;
                }
                return Some(Miss::NotEnforceable { rule: index });
            };
            matched = matched.with(held);
            for kind in missed.iter() {
                match first {
                    None => first = Some((kind, clause.matches.get(number)?)),
                    Some(_) => also_failed.insert(kind),
                }
            }
        }
        let (failed, source) = first?;
        Some(Miss::Type(TypeMiss {
            rule: index,
            matched,
            failed,
            got: facts.show(failed),
            want: want(source, failed),
            also_failed,
        }))
    }
}

impl Facts<'_> {
    /// What a condition of that type sees, for people.
    fn show(&self, kind: MatchType) -> String {
        let id = self.identity.map(|identity| identity.id);
        let of_identity = |parts: fn(&SpiffeId) -> String| {
            id.map_or_else(|| "no identity (plaintext)".to_owned(), parts)
        };
        match kind {
            MatchType::Namespaces => of_identity(|id| Quoted(&[id.namespace()]).to_string()),
            MatchType::Principals => of_identity(|id| Quoted(&[id.principal()]).to_string()),
            MatchType::ServiceAccounts => {
                of_identity(|id| Quoted(&[id.namespace(), "/", id.service_account()]).to_string())
            }
            MatchType::SourceIps => self.source.to_string(),
            MatchType::DestinationIps => self.destination.to_string(),
            MatchType::DestinationPorts => self.port.to_string(),
        }
    }
}

/// What a match asks for, for people.
fn want(source: &Match, kind: MatchType) -> String {
    match kind {
        MatchType::Namespaces => want_values(&source.namespaces),
        MatchType::Principals => want_values(&source.principals),
        MatchType::ServiceAccounts => want_values(&source.service_accounts),
        MatchType::SourceIps => want_values::<IpNet>(&source.source_ips),
        MatchType::DestinationIps => want_values::<IpNet>(&source.destination_ips),
        MatchType::DestinationPorts => want_values(&source.destination_ports),
    }
}

fn want_values<T: fmt::Display>(filter: &Filter<T>) -> String {
    let mut text = String::with_capacity(WANT_BYTES);
    if !filter.any_of.is_empty() {
        list(&mut text, &filter.any_of, " or ");
    }
    if !filter.none_of.is_empty() {
        text.push_str(if text.is_empty() { "not " } else { " and not " });
        list(&mut text, &filter.none_of, " nor ");
    }
    text
}

/// Room for the usual text, so that it is not moved while it grows.
const WANT_BYTES: usize = 192;

fn list<T: fmt::Display>(text: &mut String, values: &[T], separator: &str) {
    for (number, value) in values.iter().take(VALUES_SHOWN_MAX).enumerate() {
        let separator = if number == 0 { "" } else { separator };
        // Writing to a string cannot fail.
        let _ = write!(text, "{separator}{value}");
    }
    let rest = values.len().saturating_sub(VALUES_SHOWN_MAX);
    if rest > 0 {
        let _ = write!(text, " ({rest} more)");
    }
}
