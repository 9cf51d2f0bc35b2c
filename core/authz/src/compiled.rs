//! A policy in the form that is evaluated.

use std::net::IpAddr;

use model::{Connection, SpiffeId};

use crate::decide::Question;
use crate::policy::{Action, Filter, Match, MatchType, Policy, Rule, StringMatch};
use crate::principals::Domains;
use crate::sets::{Accounts, Blocks, Ports, Strings};
use crate::settings::{Settings, UnenforceableDeny};

/// What conditions look at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts<'c> {
    pub(crate) identity: Option<&'c SpiffeId>,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) port: u16,
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
    pub(crate) rules: Box<[Box<[Alternatives]>]>,
    unenforceable: Unenforceable,
}

/// One compiled clause.
pub(crate) type Alternatives = Box<[Alternative]>;

/// What becomes of an [`Alternative::Unenforceable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unenforceable {
    Matches,
    NeverMatches,
}

/// One compiled [`Match`].
#[derive(Debug)]
pub(crate) enum Alternative {
    /// It holds no condition that layer 4 can check.
    Unenforceable,
    /// Those that it holds, the cheapest first.
    Conditions(Box<[Condition]>),
}

/// One type of condition.
#[derive(Debug)]
pub(crate) enum Condition {
    Namespaces(Pair<Strings>),
    Principals(Pair<Strings>),
    ServiceAccounts(Pair<Accounts>),
    SourceIps(Pair<Blocks>),
    DestinationIps(Pair<Blocks>),
    DestinationPorts(Pair<Ports>),
}

/// The compiled form of a [`Filter`]: `None` where it names nothing.
#[derive(Debug)]
pub(crate) struct Pair<S> {
    any_of: Option<S>,
    none_of: Option<S>,
}

impl<S> Pair<S> {
    /// `None` if the filter constrains nothing.
    fn new<T>(filter: &Filter<T>, build: impl Fn(&[T]) -> S) -> Option<Self> {
        let build = |values: &[T]| (!values.is_empty()).then(|| build(values));
        (!filter.is_empty())
            .then(|| Self { any_of: build(&filter.any_of), none_of: build(&filter.none_of) })
    }

    fn admits(&self, contains: impl Fn(&S) -> bool) -> bool {
        self.any_of.as_ref().is_none_or(&contains) && !self.none_of.as_ref().is_some_and(&contains)
    }
}

/// The rule that matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RuleMatch {
    pub(crate) rule: usize,
    pub(crate) ground: Ground,
}

/// What a match rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ground {
    /// Every clause was checked and holds.
    Checked,
    /// A clause cannot be checked, and so counts as matching.
    Unenforceable,
}

impl Compiled {
    pub(crate) fn new(policy: Policy, settings: &Settings) -> Self {
        let domains = Domains::of(settings);
        let clause = |matches: &[Match]| {
            matches.iter().map(|source| Alternative::new(source, &domains)).collect()
        };
        let rule = |rule: &Rule| rule.clauses.iter().map(|c| clause(&c.matches)).collect();
        let unenforceable = match (policy.action, settings.unenforceable_deny) {
            (Action::Deny, UnenforceableDeny::Deny) => Unenforceable::Matches,
            (Action::Allow, _) | (Action::Deny, UnenforceableDeny::Ignore) => {
                Unenforceable::NeverMatches
            }
        };
        Self { rules: policy.rules.iter().map(rule).collect(), policy, unenforceable }
    }

    /// The first rule that matches and was checked; otherwise the first that counts as matching.
    pub(crate) fn matches(&self, facts: &Facts<'_>) -> Option<RuleMatch> {
        let mut unenforceable = None;
        for (rule, clauses) in self.rules.iter().enumerate() {
            match self.rule_matches(clauses, facts) {
                Some(ground @ Ground::Checked) => return Some(RuleMatch { rule, ground }),
                Some(ground @ Ground::Unenforceable) => {
                    unenforceable = unenforceable.or(Some(RuleMatch { rule, ground }));
                }
                None => {}
            }
        }
        unenforceable
    }

    fn rule_matches(&self, clauses: &[Alternatives], facts: &Facts<'_>) -> Option<Ground> {
        let mut ground = Ground::Checked;
        for clause in clauses {
            if clause.is_empty() || clause.iter().any(|alternative| alternative.admits(facts)) {
                continue;
            }
            let cannot_tell = clause.iter().any(|a| matches!(a, Alternative::Unenforceable));
            if !(cannot_tell && self.unenforceable == Unenforceable::Matches) {
                return None;
            }
            ground = Ground::Unenforceable;
        }
        Some(ground)
    }
}

impl Alternative {
    fn new(source: &Match, domains: &Domains<'_>) -> Self {
        // Both forms of a principal mean the same, however the policy came here.
        let principals = |patterns: &[StringMatch]| {
            let patterns = patterns.iter().cloned().map(StringMatch::into_principal);
            let patterns: Vec<_> = patterns.flat_map(|pattern| domains.widen(pattern)).collect();
            Strings::new(&patterns)
        };
        let conditions = [
            Pair::new(&source.destination_ports, Ports::new).map(Condition::DestinationPorts),
            Pair::new(&source.source_ips, Blocks::new).map(Condition::SourceIps),
            Pair::new(&source.destination_ips, Blocks::new).map(Condition::DestinationIps),
            Pair::new(&source.namespaces, Strings::new).map(Condition::Namespaces),
            Pair::new(&source.service_accounts, Accounts::new).map(Condition::ServiceAccounts),
            Pair::new(&source.principals, principals).map(Condition::Principals),
        ];
        let conditions: Box<[_]> = conditions.into_iter().flatten().collect();
        if conditions.is_empty() { Self::Unenforceable } else { Self::Conditions(conditions) }
    }

    fn admits(&self, facts: &Facts<'_>) -> bool {
        match self {
            Self::Unenforceable => false,
            Self::Conditions(conditions) => conditions.iter().all(|c| c.admits(facts)),
        }
    }
}

impl Condition {
    pub(crate) fn kind(&self) -> MatchType {
        match self {
            Self::Namespaces(_) => MatchType::Namespaces,
            Self::Principals(_) => MatchType::Principals,
            Self::ServiceAccounts(_) => MatchType::ServiceAccounts,
            Self::SourceIps(_) => MatchType::SourceIps,
            Self::DestinationIps(_) => MatchType::DestinationIps,
            Self::DestinationPorts(_) => MatchType::DestinationPorts,
        }
    }

    pub(crate) fn admits(&self, facts: &Facts<'_>) -> bool {
        let id = facts.identity;
        match self {
            Self::Namespaces(pair) => {
                let namespace = id.map_or("", SpiffeId::namespace);
                pair.admits(|set| set.contains(namespace))
            }
            Self::Principals(pair) => {
                pair.admits(|set| id.is_some_and(|id| set.contains(id.principal())))
            }
            Self::ServiceAccounts(pair) => pair.admits(|set| id.is_some_and(|id| set.contains(id))),
            Self::SourceIps(pair) => pair.admits(|set| set.contains(facts.source)),
            Self::DestinationIps(pair) => pair.admits(|set| set.contains(facts.destination)),
            Self::DestinationPorts(pair) => pair.admits(|set| set.contains(facts.port)),
        }
    }
}
