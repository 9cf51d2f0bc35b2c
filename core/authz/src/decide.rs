//! The decision.

use std::net::{IpAddr, SocketAddr};

use model::{Code, Connection, SpiffeId, Workload};

use crate::compiled::{Compiled, Ground, RuleMatch};
use crate::group::Bound;
use crate::miss::Distance;
use crate::policy::{Action, Mode};
use crate::rules::Facts;
use crate::store::PolicyStore;
use crate::verdict::{AllowReason, Decision, Denial, DryRunNote, NearestMiss, Permit, Verdict};

/// Notes of dry-run policies kept per decision; further ones are left out.
pub const DRY_RUN_NOTES_MAX: usize = 16;

/// Decides one connection to `workload`. Total: every input has a verdict, every verdict its
/// reason.
///
/// The order: a DENY that matches, one that was checked before one that cannot be; a policy that
/// cannot be read; a policy the workload names and the store does not have; no ALLOW policy at all
/// (allow); an ALLOW that matches (allow).
#[must_use]
pub fn authorize(store: &PolicyStore, workload: &Workload, conn: &Connection) -> Decision {
    let (result, dry_run) = decide(&store.bound_to(workload), &Facts::of(conn));
    let verdict = match result {
        Ok(reason) => Verdict::Allow(Permit::issue(conn, reason)),
        Err(denial) => Verdict::Deny(denial),
    };
    Decision { verdict, dry_run }
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
    decide(&store.bound_to(workload), &Facts::of_question(question))
}

fn decide(bound: &Bound<'_>, facts: &Facts<'_>) -> (Result<AllowReason, Denial>, Vec<DryRunNote>) {
    let mut notes = Vec::new();
    note_denies(&mut notes, bound, facts);
    if let Some(denial) = refusal(bound, facts) {
        return (Err(denial), notes);
    }
    note_allows(&mut notes, bound, facts);
    (admission(bound, facts), notes)
}

/// What denies whatever the ALLOW policies say.
fn refusal(bound: &Bound<'_>, facts: &Facts<'_>) -> Option<Denial> {
    let denial = |code| Denial { code, policy: None, rule: None, nearest_miss: None, detail: None };
    if let Some((policy, found)) = first_deny(bound, facts) {
        let policy = Some(policy.policy.name.clone());
        return Some(Denial { policy, rule: Some(found.rule), ..denial(code_of(found)) });
    }
    if let Some(policy) = bound.unreadable() {
        return Some(Denial {
            policy: Some(policy.name.clone()),
            detail: Some(policy.cause.clone()),
            ..denial(Code::PolicyUnreadable)
        });
    }
    let unknown = bound.unknown?;
    Some(Denial { policy: Some(unknown.clone()), ..denial(Code::PolicyUnknown) })
}

/// The first DENY that matches and was checked; otherwise the first that counts as matching.
fn first_deny<'b>(bound: &Bound<'b>, facts: &Facts<'_>) -> Option<(&'b Compiled, RuleMatch)> {
    let mut unenforceable = None;
    for policy in bound.policies(Action::Deny, Mode::Enforce) {
        match policy.matches(facts) {
            Some(found @ RuleMatch { ground: Ground::Checked, .. }) => {
                return Some((policy, found));
            }
            Some(found @ RuleMatch { ground: Ground::Unenforceable, .. }) => {
                unenforceable = unenforceable.or(Some((policy, found)));
            }
            None => {}
        }
    }
    unenforceable
}

fn code_of(found: RuleMatch) -> Code {
    match found.ground {
        Ground::Checked => Code::PolicyDenied,
        Ground::Unenforceable => Code::PolicyNotEnforceable,
    }
}

fn admission(bound: &Bound<'_>, facts: &Facts<'_>) -> Result<AllowReason, Denial> {
    let mut none = true;
    for policy in bound.policies(Action::Allow, Mode::Enforce) {
        none = false;
        if let Some(found) = policy.matches(facts) {
            let policy = policy.policy.name.clone();
            return Ok(AllowReason::PolicyMatched { policy, rule: found.rule });
        }
    }
    if none {
        return Ok(AllowReason::NoAllowPolicy);
    }
    Err(Denial {
        code: Code::PolicyNoMatch,
        policy: None,
        rule: None,
        nearest_miss: nearest_miss(bound, Mode::Enforce, facts),
        detail: None,
    })
}

/// Of the ALLOW policies, the rule with the fewest failed conditions; the first of equals. If none
/// has rules, the first policy.
fn nearest_miss(bound: &Bound<'_>, mode: Mode, facts: &Facts<'_>) -> Option<Box<NearestMiss>> {
    let mut distance = Distance::MAX;
    let mut nearest = None;
    for policy in bound.policies(Action::Allow, mode) {
        if let Some((nearer, rule)) = policy.nearer(facts, distance) {
            distance = nearer;
            nearest = Some((policy, Some(rule)));
        }
        nearest = nearest.or(Some((policy, None)));
    }
    let (policy, rule) = nearest?;
    Some(Box::new(policy.miss(rule, facts)))
}

fn note_denies(notes: &mut Vec<DryRunNote>, bound: &Bound<'_>, facts: &Facts<'_>) {
    for policy in bound.policies(Action::Deny, Mode::DryRun) {
        if let Some(found) = policy.matches(facts) {
            let (code, policy) = (code_of(found), policy.policy.name.clone());
            note(notes, DryRunNote::WouldDeny { code, policy, rule: found.rule });
        }
    }
}

fn note_allows(notes: &mut Vec<DryRunNote>, bound: &Bound<'_>, facts: &Facts<'_>) {
    let (mut any, mut matched) = (false, false);
    for policy in bound.policies(Action::Allow, Mode::DryRun) {
        any = true;
        if let Some(found) = policy.matches(facts) {
            matched = true;
            let policy = policy.policy.name.clone();
            note(notes, DryRunNote::WouldAllow { policy, rule: found.rule });
        }
    }
    if !any || matched || bound.policies(Action::Allow, Mode::Enforce).next().is_some() {
        return;
    }
    let nearest_miss = nearest_miss(bound, Mode::DryRun, facts);
    note(notes, DryRunNote::WouldNotMatch { nearest_miss });
}

/// Keeps a note, unless there are enough, or a workload that names a policy twice left it already.
fn note(notes: &mut Vec<DryRunNote>, note: DryRunNote) {
    if notes.len() < DRY_RUN_NOTES_MAX && !notes.contains(&note) {
        notes.push(note);
    }
}
