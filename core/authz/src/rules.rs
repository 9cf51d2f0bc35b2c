//! The rules of a policy in the form that is evaluated: four lists instead of a tree.

use std::net::IpAddr;
use std::ops::Range;

use model::{Connection, SpiffeId};

use crate::decide::Question;
use crate::policy::{Filter, Match, MatchType, Rule, StringMatch};
use crate::principals::Domains;
use crate::sets::{Hashed, Pools, Position, Set, between};

/// What conditions look at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts<'c> {
    pub(crate) identity: Option<Identity<'c>>,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) port: u16,
    /// Of the identity; the empty text without one.
    namespace: Hashed<'c>,
}

/// Who the peer is, in each of the forms that conditions compare.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity<'c> {
    pub(crate) id: &'c SpiffeId,
    principal: Hashed<'c>,
    /// What follows the trust domain.
    account: Hashed<'c>,
}

impl<'c> Facts<'c> {
    pub(crate) fn of(conn: &'c Connection) -> Self {
        let id = conn.peer.identity().map(model::VerifiedIdentity::id);
        Self::new(id, conn.source.ip(), conn.destination.ip(), conn.destination.port())
    }

    pub(crate) fn of_question(question: &Question<'c>) -> Self {
        let Question { source, identity, destination } = question;
        Self::new(*identity, *source, destination.ip(), destination.port())
    }

    fn new(id: Option<&'c SpiffeId>, source: IpAddr, destination: IpAddr, port: u16) -> Self {
        let identity = id.map(|id| {
            let principal = id.principal();
            let account = principal.get(id.trust_domain().len()..).unwrap_or_default();
            Identity { id, principal: Hashed::new(principal), account: Hashed::new(account) }
        });
        Self {
            identity,
            source: source.to_canonical(),
            destination: destination.to_canonical(),
            port,
            namespace: Hashed::new(id.map_or("", SpiffeId::namespace)),
        }
    }
}

/// Rules, clauses and matches by their number.
#[derive(Debug)]
pub(crate) struct Rules {
    /// By rule: where its clauses end.
    clause_ends: Ends,
    /// By clause: where its matches end.
    match_ends: Ends,
    /// By match: where its conditions end.
    condition_ends: Ends,
    conditions: Box<[Condition]>,
    pools: Pools,
}

/// The ends of consecutive ranges.
#[derive(Debug, Default)]
struct Ends(Box<[Position]>);

impl Ends {
    fn range(&self, number: usize) -> Range<usize> {
        let end = |number: usize| self.0.get(number).copied().unwrap_or_default();
        between(number.checked_sub(1).map_or_else(Position::default, end), end(number))
    }
}

/// One side of the values of one type: the positive one, if there is one, before the negative.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Condition {
    kind: MatchType,
    sense: Sense,
    set: Set,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sense {
    AnyOf,
    NoneOf,
}

impl Condition {
    pub(crate) fn kind(&self) -> MatchType {
        self.kind
    }
}

impl Rules {
    pub(crate) fn new(source: &[Rule], domains: &Domains<'_>) -> Self {
        let (mut clause_ends, mut match_ends) = (Vec::new(), Vec::new());
        let mut condition_ends = Vec::new();
        let mut builder = Builder { domains, conditions: Vec::new(), pools: Pools::default() };
        for rule in source {
            for clause in &rule.clauses {
                for a_match in &clause.matches {
                    builder.add(a_match);
                    condition_ends.push(Position::end_of(&builder.conditions));
                }
                match_ends.push(Position::end_of(&condition_ends));
            }
            clause_ends.push(Position::end_of(&match_ends));
        }
        let Builder { conditions, mut pools, .. } = builder;
        pools.close();
        Self {
            clause_ends: Ends(clause_ends.into()),
            match_ends: Ends(match_ends.into()),
            condition_ends: Ends(condition_ends.into()),
            conditions: conditions.into(),
            pools,
        }
    }

    /// How many rules there are.
    pub(crate) fn len(&self) -> usize {
        self.clause_ends.0.len()
    }

    /// The numbers of a rule's clauses.
    pub(crate) fn clauses(&self, rule: usize) -> Range<usize> {
        self.clause_ends.range(rule)
    }

    /// The numbers of a clause's matches.
    pub(crate) fn matches(&self, clause: usize) -> Range<usize> {
        self.match_ends.range(clause)
    }

    /// The conditions of a match. Without any, it is one that layer 4 cannot check.
    pub(crate) fn conditions(&self, number: usize) -> &[Condition] {
        self.conditions.get(self.condition_ends.range(number)).unwrap_or_default()
    }

    pub(crate) fn admits(&self, condition: &Condition, facts: &Facts<'_>) -> bool {
        let Condition { kind, sense, set } = condition;
        let id = facts.identity.as_ref();
        let has = match kind {
            MatchType::Namespaces => self.pools.has_text(set, &facts.namespace),
            MatchType::Principals => id.is_some_and(|id| self.pools.has_text(set, &id.principal)),
            MatchType::ServiceAccounts => {
                id.is_some_and(|id| self.pools.has_text(set, &id.account))
            }
            MatchType::SourceIps => self.pools.has_ip(set, facts.source),
            MatchType::DestinationIps => self.pools.has_ip(set, facts.destination),
            MatchType::DestinationPorts => self.pools.has_port(set, facts.port),
        };
        match sense {
            Sense::AnyOf => has,
            Sense::NoneOf => !has,
        }
    }
}

struct Builder<'d> {
    domains: &'d Domains<'d>,
    conditions: Vec<Condition>,
    pools: Pools,
}

impl Builder<'_> {
    /// The conditions of one match, the cheapest first.
    fn add(&mut self, source: &Match) {
        let domains = self.domains;
        self.filter(MatchType::DestinationPorts, &source.destination_ports, Pools::add_ports);
        self.filter(MatchType::SourceIps, &source.source_ips, Pools::add_blocks);
        self.filter(MatchType::DestinationIps, &source.destination_ips, Pools::add_blocks);
        self.filter(MatchType::Namespaces, &source.namespaces, Pools::add_patterns);
        self.filter(MatchType::ServiceAccounts, &source.service_accounts, Pools::add_accounts);
        self.filter(
            MatchType::Principals,
            &source.principals,
            |pools, patterns: &[StringMatch]| {
                // Both forms of a principal mean the same, however the policy came here.
                let patterns = patterns.iter().cloned().map(StringMatch::into_principal);
                let patterns: Vec<_> =
                    patterns.flat_map(|pattern| domains.widen(pattern)).collect();
                pools.add_patterns(&patterns)
            },
        );
    }

    fn filter<T>(
        &mut self,
        kind: MatchType,
        filter: &Filter<T>,
        add: impl Fn(&mut Pools, &[T]) -> Set,
    ) {
        for (sense, values) in [(Sense::AnyOf, &filter.any_of), (Sense::NoneOf, &filter.none_of)] {
            if !values.is_empty() {
                let set = add(&mut self.pools, values);
                self.conditions.push(Condition { kind, sense, set });
            }
        }
    }
}
