//! A policy in the form that is evaluated.

use crate::policy::{Action, Policy};
use crate::principals::Domains;
use crate::rules::{Facts, Rules};
use crate::settings::{Settings, UnenforceableDeny};

/// A policy and its rules, number by number the same.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) policy: Policy,
    pub(crate) rules: Rules,
    unenforceable: Unenforceable,
}

/// What becomes of a match without conditions, which stands for one that layer 4 cannot check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unenforceable {
    Matches,
    NeverMatches,
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
        let unenforceable = match (policy.action, settings.unenforceable_deny) {
            (Action::Deny, UnenforceableDeny::Deny) => Unenforceable::Matches,
            (Action::Allow, _) | (Action::Deny, UnenforceableDeny::Ignore) => {
                Unenforceable::NeverMatches
            }
        };
        Self { rules: Rules::new(&policy.rules, &Domains::of(settings)), policy, unenforceable }
    }

    /// The first rule that matches and was checked; otherwise the first that counts as matching.
    pub(crate) fn matches(&self, facts: &Facts<'_>) -> Option<RuleMatch> {
        let mut unenforceable = None;
        for rule in 0..self.rules.len() {
            match self.rule_matches(rule, facts) {
                Some(ground @ Ground::Checked) => return Some(RuleMatch { rule, ground }),
                Some(ground @ Ground::Unenforceable) => {
                    unenforceable = unenforceable.or(Some(RuleMatch { rule, ground }));
                }
                None => {}
            }
        }
        unenforceable
    }

    fn rule_matches(&self, rule: usize, facts: &Facts<'_>) -> Option<Ground> {
        let mut ground = Ground::Checked;
        for clause in self.rules.clauses(rule) {
            match (self.clause_matches(clause, facts)?, self.unenforceable) {
                (Ground::Checked, _) => {}
                (Ground::Unenforceable, Unenforceable::Matches) => ground = Ground::Unenforceable,
                (Ground::Unenforceable, Unenforceable::NeverMatches) => return None,
            }
        }
        Some(ground)
    }

    /// A match that holds; otherwise one that cannot be checked, if there is one.
    fn clause_matches(&self, clause: usize, facts: &Facts<'_>) -> Option<Ground> {
        let matches = self.rules.matches(clause);
        if matches.is_empty() {
            return Some(Ground::Checked);
        }
        let mut unenforceable = None;
        for number in matches {
            let conditions = self.rules.conditions(number);
            if conditions.is_empty() {
                unenforceable = Some(Ground::Unenforceable);
            } else if conditions.iter().all(|condition| self.rules.admits(condition, facts)) {
                return Some(Ground::Checked);
            }
        }
        unenforceable
    }
}
