//! A policy in the form that is evaluated.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use model::{Connection, SpiffeId};

use crate::decide::Question;
use crate::policy::{Action, Filter, Match, MatchType, Policy, Rule, ServiceAccount, StringMatch};
use crate::sets::{Blocks, Strings};
use crate::verdict::{Miss, NearestMiss, TypeMiss};

/// Values of one condition shown to people; the rest are counted.
const VALUES_SHOWN_MAX: usize = 3;

/// What conditions look at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts<'c> {
    identity: Option<&'c SpiffeId>,
    source: IpAddr,
    destination: IpAddr,
    port: u16,
}

impl<'c> Facts<'c> {
    pub(crate) fn of(conn: &'c Connection) -> Self {
        Self {
            identity: conn.peer.identity().map(model::VerifiedIdentity::id),
            source: conn.source.ip().to_canonical(),
            destination: conn.destination.ip().to_canonical(),
            port: conn.destination.port(),
        }
    }

    pub(crate) fn of_question(question: &Question<'c>) -> Self {
        Self {
            identity: question.identity,
            source: question.source.to_canonical(),
            destination: question.destination.ip().to_canonical(),
            port: question.destination.port(),
        }
    }
}

/// A policy and its sets. `rules` is parallel to `policy.rules`, level by level.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) policy: Policy,
    rules: Vec<Vec<Vec<Alternative>>>,
}

/// One compiled [`Match`].
#[derive(Debug)]
enum Alternative {
    /// It holds only conditions that layer 4 cannot check.
    NotEnforceable,
    Conditions(Box<Conditions>),
}

#[derive(Debug)]
struct Conditions {
    namespaces: Pair<Strings>,
    principals: Pair<Strings>,
    service_accounts: Pair<Accounts>,
    source_ips: Pair<Blocks>,
    destination_ips: Pair<Blocks>,
    destination_ports: Pair<HashSet<u16>>,
}

/// Service accounts by namespace, so that a look-up builds no key.
#[derive(Debug, Default)]
struct Accounts(HashMap<Arc<str>, HashSet<Arc<str>>>);

impl Accounts {
    fn new(accounts: &[ServiceAccount]) -> Self {
        let mut set = Self::default();
        for account in accounts {
            set.0.entry(account.namespace.clone()).or_default().insert(account.name.clone());
        }
        set
    }

    fn contains(&self, id: &SpiffeId) -> bool {
        self.0.get(id.namespace()).is_some_and(|names| names.contains(id.service_account()))
    }
}

/// The compiled form of a [`Filter`]: `None` where it names nothing.
#[derive(Debug)]
struct Pair<S> {
    any_of: Option<S>,
    none_of: Option<S>,
}

impl<S> Pair<S> {
    fn new<T>(filter: &Filter<T>, build: impl Fn(&[T]) -> S) -> Self {
        let build = |values: &[T]| (!values.is_empty()).then(|| build(values));
        Self { any_of: build(&filter.any_of), none_of: build(&filter.none_of) }
    }

    fn is_empty(&self) -> bool {
        self.any_of.is_none() && self.none_of.is_none()
    }

    fn admits(&self, contains: impl Fn(&S) -> bool) -> bool {
        self.any_of.as_ref().is_none_or(&contains) && !self.none_of.as_ref().is_some_and(&contains)
    }
}

/// The first rule that matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RuleMatch {
    pub(crate) rule: usize,
    /// It matched only because a DENY that cannot be checked counts as matching.
    pub(crate) unchecked: bool,
}

/// How far a rule is from matching: fewer failed conditions are nearer, then more that held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Distance(usize, Reverse<usize>);

impl Distance {
    const MAX: Self = Self(usize::MAX, Reverse(0));

    fn new(failed: usize, held: usize) -> Self {
        Self(failed, Reverse(held))
    }
}

impl Compiled {
    pub(crate) fn new(policy: Policy) -> Self {
        let clause = |matches: &[Match]| matches.iter().map(Alternative::new).collect();
        let rule = |rule: &Rule| rule.clauses.iter().map(|c| clause(&c.matches)).collect();
        Self { rules: policy.rules.iter().map(rule).collect(), policy }
    }

    /// The first rule that matches, if one does.
    pub(crate) fn matches(&self, facts: &Facts<'_>) -> Option<RuleMatch> {
        let empty_matches = match self.policy.action {
            Action::Allow => false,
            Action::Deny => true,
        };
        self.rules.iter().enumerate().find_map(|(rule, clauses)| {
            let mut unchecked = false;
            for clause in clauses {
                if clause.is_empty() || clause.iter().any(|match_| match_.admits(facts)) {
                    continue;
                }
                let escapes = clause.iter().any(|m| matches!(m, Alternative::NotEnforceable));
                if !(empty_matches && escapes) {
                    return None;
                }
                unchecked = true;
            }
            Some(RuleMatch { rule, unchecked })
        })
    }

    /// Of the rules that did not match, the one that came closest, and how close it came. Called
    /// for every policy of a refused connection, and so builds nothing.
    pub(crate) fn nearest(&self, facts: &Facts<'_>) -> (Distance, Option<usize>) {
        let distances = self.rules.iter().enumerate();
        let nearest = distances
            .filter_map(|(index, clauses)| Some((distance(clauses, facts)?, Some(index))))
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
                    Alternative::NotEnforceable => None,
                    Alternative::Conditions(conditions) => {
                        let (held, missed) = conditions.split(facts);
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

/// How far a rule is from matching; `None` if it matches.
fn distance(clauses: &[Vec<Alternative>], facts: &Facts<'_>) -> Option<Distance> {
    let (mut failed, mut held) = (0_usize, 0_usize);
    for clause in clauses {
        let counts = clause.iter().filter_map(|alternative| match alternative {
            Alternative::NotEnforceable => None,
            Alternative::Conditions(conditions) => Some(conditions.count(facts)),
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
    (failed > 0).then(|| Distance::new(failed, held))
}

impl Alternative {
    fn new(source: &Match) -> Self {
        if source.is_empty() {
            return Self::NotEnforceable;
        }
        // Both forms of a principal mean the same, however the policy came here.
        let principals = |patterns: &[StringMatch]| {
            let patterns: Vec<_> =
                patterns.iter().cloned().map(StringMatch::into_principal).collect();
            Strings::new(&patterns)
        };
        Self::Conditions(Box::new(Conditions {
            namespaces: Pair::new(&source.namespaces, Strings::new),
            principals: Pair::new(&source.principals, principals),
            service_accounts: Pair::new(&source.service_accounts, Accounts::new),
            source_ips: Pair::new(&source.source_ips, Blocks::new),
            destination_ips: Pair::new(&source.destination_ips, Blocks::new),
            destination_ports: Pair::new(&source.destination_ports, |ports| {
                ports.iter().copied().collect()
            }),
        }))
    }

    fn admits(&self, facts: &Facts<'_>) -> bool {
        match self {
            Self::NotEnforceable => false,
            // The cheapest conditions come first.
            Self::Conditions(conditions) => [
                MatchType::DestinationPorts,
                MatchType::SourceIps,
                MatchType::DestinationIps,
                MatchType::Namespaces,
                MatchType::ServiceAccounts,
                MatchType::Principals,
            ]
            .into_iter()
            .all(|kind| conditions.admits(kind, facts)),
        }
    }
}

impl Conditions {
    fn admits(&self, kind: MatchType, facts: &Facts<'_>) -> bool {
        let (id, port) = (facts.identity, facts.port);
        match kind {
            MatchType::Namespaces => {
                let namespace = id.map_or("", SpiffeId::namespace);
                self.namespaces.admits(|set| set.contains(namespace))
            }
            MatchType::Principals => {
                self.principals.admits(|set| id.is_some_and(|id| set.contains(id.principal())))
            }
            MatchType::ServiceAccounts => {
                self.service_accounts.admits(|set| id.is_some_and(|id| set.contains(id)))
            }
            MatchType::SourceIps => self.source_ips.admits(|set| set.contains(facts.source)),
            MatchType::DestinationIps => {
                self.destination_ips.admits(|set| set.contains(facts.destination))
            }
            MatchType::DestinationPorts => self.destination_ports.admits(|set| set.contains(&port)),
        }
    }

    fn constrains(&self, kind: MatchType) -> bool {
        !match kind {
            MatchType::Namespaces => self.namespaces.is_empty(),
            MatchType::Principals => self.principals.is_empty(),
            MatchType::ServiceAccounts => self.service_accounts.is_empty(),
            MatchType::SourceIps => self.source_ips.is_empty(),
            MatchType::DestinationIps => self.destination_ips.is_empty(),
            MatchType::DestinationPorts => self.destination_ports.is_empty(),
        }
    }

    /// How many conditions do not hold, and how many do.
    fn count(&self, facts: &Facts<'_>) -> (usize, usize) {
        let constraining = MatchType::ALL.into_iter().filter(|kind| self.constrains(*kind));
        constraining.fold((0, 0), |(missed, held), kind| {
            let admits = usize::from(self.admits(kind, facts));
            (missed + 1 - admits, held + admits)
        })
    }

    /// The conditions that hold, and those that do not.
    fn split(&self, facts: &Facts<'_>) -> (Vec<MatchType>, Vec<MatchType>) {
        let constraining = MatchType::ALL.into_iter().filter(|kind| self.constrains(*kind));
        constraining.partition(|kind| self.admits(*kind, facts))
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
