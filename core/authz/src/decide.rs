//! The decision.

use std::net::{IpAddr, SocketAddr};

use model::{Code, Connection, SpiffeId, Workload};

use crate::compiled::{Compiled, Facts, RuleMatch};
use crate::store::{Bound, Group, PolicyStore};
use crate::verdict::{AllowReason, Decision, Denial, DryRunNote, NearestMiss, Permit, Verdict};

/// Notes of dry-run policies kept per decision; further ones are left out.
pub const DRY_RUN_NOTES_MAX: usize = 16;

/// Decides one connection to `workload`. Total: every input has a verdict, every verdict its
/// reason.
///
/// The order: a DENY that matches; a policy that cannot be read; a policy the workload names and
/// the store does not have; no ALLOW policy at all (allow); an ALLOW that matches (allow).
#[must_use]
pub fn authorize(store: &PolicyStore, workload: &Workload, conn: &Connection) -> Decision {
    let bound = store.bound_to(workload);
    let facts = Facts::of(conn);
    let verdict = match judge(&bound, &facts) {
        Ok(reason) => Verdict::Allow(Permit::issue(conn, reason)),
        Err(denial) => Verdict::Deny(denial),
    };
    Decision { verdict, dry_run: dry_run(&bound, &facts) }
}

/// A connection that does not exist, to ask what would become of it.
#[derive(Clone, Copy, Debug)]
pub struct Question<'q> {
    /// The client's address.
    pub source: IpAddr,
    /// Who the client would prove to be; `None` for plaintext.
    pub identity: Option<&'q SpiffeId>,
    /// The workload's address and port.
    pub destination: SocketAddr,
}

/// Answers like [`authorize`], for people: nothing can be dialled with the answer, so nobody has to
/// have proven the identity.
pub fn explain(
    store: &PolicyStore,
    workload: &Workload,
    question: &Question<'_>,
) -> (Result<AllowReason, Denial>, Vec<DryRunNote>) {
    let bound = store.bound_to(workload);
    let facts = Facts::of_question(question);
    (judge(&bound, &facts), dry_run(&bound, &facts))
}

fn judge(bound: &Bound<'_>, facts: &Facts<'_>) -> Result<AllowReason, Denial> {
    if let Some((policy, found)) = first_match(bound, |group| &group.deny, facts) {
        return Err(denied(policy, found));
    }
    if let Some(policy) = bound.groups().find_map(|group| group.unreadable.first()) {
        return Err(Denial {
            code: Code::PolicyUnreadable,
            policy: Some(policy.name.clone()),
            rule: None,
            nearest_miss: None,
            detail: Some(policy.cause.clone()),
        });
    }
    if let Some(name) = &bound.unknown {
        return Err(Denial {
            code: Code::PolicyUnknown,
            policy: Some(name.clone()),
            rule: None,
            nearest_miss: None,
            detail: None,
        });
    }
    if bound.groups().all(|group| group.allow.is_empty()) {
        return Ok(AllowReason::NoAllowPolicy);
    }
    match first_match(bound, |group| &group.allow, facts) {
        Some((policy, found)) => {
            Ok(AllowReason::PolicyMatched { policy: policy.policy.name.clone(), rule: found.rule })
        }
        None => Err(Denial {
            code: Code::PolicyNoMatch,
            policy: None,
            rule: None,
            nearest_miss: nearest_miss(bound, |group| &group.allow, facts),
            detail: None,
        }),
    }
}

fn denied(policy: &Compiled, found: RuleMatch) -> Denial {
    let detail = found.unchecked.then(|| {
        "it has a condition that layer 4 cannot check, so it counts as matching".to_owned()
    });
    Denial {
        code: Code::PolicyDenied,
        policy: Some(policy.policy.name.clone()),
        rule: Some(found.rule),
        nearest_miss: None,
        detail,
    }
}

type List = fn(&Group) -> &Vec<std::sync::Arc<Compiled>>;

fn first_match<'b>(
    bound: &'b Bound<'_>,
    list: List,
    facts: &Facts<'_>,
) -> Option<(&'b Compiled, RuleMatch)> {
    let mut policies = bound.groups().flat_map(list);
    policies.find_map(|policy| Some((&**policy, policy.matches(facts)?)))
}

/// The rule with the fewest failed conditions; the first of equals.
fn nearest_miss(bound: &Bound<'_>, list: List, facts: &Facts<'_>) -> Option<Box<NearestMiss>> {
    let policies = bound.groups().flat_map(list);
    let nearest = policies.map(|policy| (policy, policy.nearest(facts)));
    let (policy, (_, rule)) = nearest.min_by_key(|(_, (distance, _))| *distance)?;
    Some(Box::new(policy.miss(rule, facts)))
}

fn dry_run(bound: &Bound<'_>, facts: &Facts<'_>) -> Vec<DryRunNote> {
    let mut notes = Vec::new();
    let denies = bound.groups().flat_map(|group| &group.dry_run_deny);
    notes.extend(denies.filter_map(|policy| {
        let rule = policy.matches(facts)?.rule;
        Some(DryRunNote::WouldDeny { policy: policy.policy.name.clone(), rule })
    }));
    let allows: Vec<_> = bound.groups().flat_map(|group| &group.dry_run_allow).collect();
    let before = notes.len();
    notes.extend(allows.iter().filter_map(|policy| {
        let rule = policy.matches(facts)?.rule;
        Some(DryRunNote::WouldAllow { policy: policy.policy.name.clone(), rule })
    }));
    let none_enforced = bound.groups().all(|group| group.allow.is_empty());
    if !allows.is_empty() && notes.len() == before && none_enforced {
        let nearest_miss = nearest_miss(bound, |group| &group.dry_run_allow, facts);
        notes.push(DryRunNote::WouldNotMatch { nearest_miss });
    }
    notes.truncate(DRY_RUN_NOTES_MAX);
    notes
}
