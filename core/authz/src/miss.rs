//! How far a policy is from matching, and why it does not.

use std::cmp::Reverse;
use std::fmt;

use ipnet::IpNet;
use model::SpiffeId;

use crate::compiled::{Alternative, Alternatives, Compiled, Condition, Facts};
use crate::policy::{Filter, Match, MatchType, Rule};
use crate::verdict::{Miss, NearestMiss, TypeMiss};

/// Values of one condition shown to people; the rest are counted.
const VALUES_SHOWN_MAX: usize = 3;

/// How far a rule is from matching: fewer failed conditions are nearer, then more that held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Distance(usize, Reverse<usize>);

impl Distance {
    const MAX: Self = Self(usize::MAX, Reverse(0));

    /// Of a rule; `None` if it matches.
    fn of(clauses: &[Alternatives], facts: &Facts<'_>) -> Option<Self> {
        let (mut failed, mut held) = (0_usize, 0_usize);
        for clause in clauses {
            let counts = clause.iter().filter_map(|alternative| match alternative {
                Alternative::Unenforceable => None,
                Alternative::Conditions(conditions) => Some(count(conditions, facts)),
            });
            match counts.min_by_key(|(missed, _)| *missed) {
                Some((missed, matched)) => {
                    failed = failed.saturating_add(missed);
                    held = held.saturating_add(matched);
                }
                // Only conditions that cannot be checked: one failure.
                None => failed = failed.saturating_add(usize::from(!clause.is_empty())),
            }
        }
        (failed > 0).then_some(Self(failed, Reverse(held)))
    }
}

/// How many conditions do not hold, and how many do.
fn count(conditions: &[Condition], facts: &Facts<'_>) -> (usize, usize) {
    let held = conditions.iter().filter(|condition| condition.admits(facts)).count();
    (conditions.len().saturating_sub(held), held)
}

/// The conditions that hold, and those that do not, each in the order of reports.
fn split(conditions: &[Condition], facts: &Facts<'_>) -> (Vec<MatchType>, Vec<MatchType>) {
    let mut sorted: Vec<_> = conditions.iter().map(|c| (c.kind(), c.admits(facts))).collect();
    sorted.sort_unstable_by_key(|(kind, _)| *kind);
    let of = |wanted: bool| {
        sorted.iter().filter(move |(_, admits)| *admits == wanted).map(|(kind, _)| *kind).collect()
    };
    (of(true), of(false))
}

impl Compiled {
    /// Of the rules that did not match, the one that came closest, and how close it came. Called
    /// for every policy of a refused connection, and so builds nothing.
    pub(crate) fn nearest(&self, facts: &Facts<'_>) -> (Distance, Option<usize>) {
        let distances = self.rules.iter().enumerate();
        let nearest = distances
            .filter_map(|(index, clauses)| Some((Distance::of(clauses, facts)?, Some(index))))
            .min_by_key(|(distance, _)| *distance);
        // A policy without rules is further away than any rule.
        nearest.unwrap_or((Distance::MAX, None))
    }

    /// Why the rule that [`Self::nearest`] found does not match.
    pub(crate) fn miss(&self, rule: Option<usize>, facts: &Facts<'_>) -> NearestMiss {
        let miss =
            rule.and_then(|index| self.rule_miss(index, self.policy.rules.get(index)?, facts));
        NearestMiss { policy: self.policy.name.clone(), miss: miss.unwrap_or(Miss::NoRules) }
    }

    /// In each clause that fails, the alternative with the fewest failures counts.
    fn rule_miss(&self, index: usize, rule: &Rule, facts: &Facts<'_>) -> Option<Miss> {
        let (mut matched, mut failed) = (Vec::new(), Vec::new());
        let mut unenforceable = false;
        for (clause, compiled) in rule.clauses.iter().zip(self.rules.get(index)?) {
            let alternatives = clause.matches.iter().zip(compiled);
            let nearest = alternatives
                .filter_map(|(source, alternative)| match alternative {
                    Alternative::Unenforceable => None,
                    Alternative::Conditions(conditions) => {
                        let (held, missed) = split(conditions, facts);
                        Some((missed.len(), source, held, missed))
                    }
                })
                .min_by_key(|(missed, ..)| *missed);
            match nearest {
                Some((_, source, held, missed)) => {
                    matched.extend(held);
                    failed.extend(missed.into_iter().map(|kind| (kind, source)));
                }
                None => unenforceable |= !clause.matches.is_empty(),
            }
        }
        if unenforceable {
            return Some(Miss::NotEnforceable { rule: index });
        }
        let matched = MatchType::ALL.into_iter().filter(|kind| matched.contains(kind)).collect();
        let (kind, source) = failed.first().copied()?;
        let miss = TypeMiss {
            rule: index,
            matched,
            failed: kind,
            got: facts.show(kind),
            want: want(source, kind),
            also_failed: failed.iter().skip(1).map(|(kind, _)| *kind).collect(),
        };
        Some(Miss::Type(miss))
    }
}

impl Facts<'_> {
    /// What a condition of that type sees, for people.
    fn show(&self, kind: MatchType) -> String {
        let of_identity = |part: fn(&SpiffeId) -> String| {
            self.identity.map_or_else(|| "no identity (plaintext)".to_owned(), part)
        };
        match kind {
            MatchType::Namespaces => of_identity(|id| format!("{:?}", id.namespace())),
            MatchType::Principals => of_identity(|id| format!("{:?}", id.principal())),
            MatchType::ServiceAccounts => {
                of_identity(|id| format!("\"{}/{}\"", id.namespace(), id.service_account()))
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
    let mut wants = Vec::new();
    if !filter.any_of.is_empty() {
        wants.push(list(&filter.any_of, " or "));
    }
    if !filter.none_of.is_empty() {
        wants.push(format!("not {}", list(&filter.none_of, " nor ")));
    }
    wants.join(" and ")
}

fn list<T: fmt::Display>(values: &[T], separator: &str) -> String {
    let shown: Vec<_> = values.iter().take(VALUES_SHOWN_MAX).map(ToString::to_string).collect();
    let rest = values.len().saturating_sub(VALUES_SHOWN_MAX);
    let shown = shown.join(separator);
    if rest == 0 { shown } else { format!("{shown} ({rest} more)") }
}
