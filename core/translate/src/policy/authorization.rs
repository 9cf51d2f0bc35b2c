//! An authorization policy, as nodes are told.

use cluster::authorization_policy::{
    Action, AuthorizationPolicySpec, Binding, PolicyTarget, Selector,
};
use cluster::{AuthorizationPolicy, ObjectName, Readable, Text, WorkloadSelector};
use prost::Message;
use proto::security as wire;

use super::Attachment;
use super::principals::Domains;
use super::problem::{Cause, Effect, PROBLEMS_MAX, Problem, Remarks};
use super::rule::{self, Context};
use crate::Settings;
use crate::ledger::print;

/// Largest policy that is sent, in bytes: larger ones are unreadable for a node. One that would be
/// larger denies its scope instead.
pub const POLICY_BYTES_MAX: usize = 1 << 20;

/// Longest name that is sent as it is, in bytes.
const NAME_BYTES_MAX: usize = 253;
/// What is sent of a longer one, beside its hash.
const NAME_START_BYTES: usize = 200;

/// Only records what it would decide.
const DRY_RUN: &str = "istio.io/dry-run";

/// What became of a policy.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Converted {
    /// What is sent, if anything is.
    pub(super) policy: Option<wire::Authorization>,
    /// If it is sent: what selects the workloads that have to name it, if they have to.
    pub(super) selector: Option<WorkloadSelector>,
    pub(super) remarks: Remarks,
}

/// `namespace/name` as it is sent.
///
/// A policy that comes from a file may have any name. What no Kubernetes name has is escaped, so
/// that a name holds no slash and is none of those of converted policies, which have underscores.
/// One that is longer than a Kubernetes name is cut, and told from others by a hash.
pub(super) fn sent_name(name: &ObjectName) -> Text {
    format!("{}/{}", name.namespace, escaped(&name.name)).into()
}

pub(super) fn escaped(name: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    if name.len() <= NAME_BYTES_MAX && name.bytes().all(is_plain) {
        return name.to_owned();
    }
    let escape = |byte: u8| match byte {
        byte if is_plain(byte) => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    let escaped: String = name.bytes().map(escape).collect();
    if escaped.len() <= NAME_BYTES_MAX {
        return escaped;
    }
    // It is of ASCII only.
    let start = escaped.get(..NAME_START_BYTES).unwrap_or_default();
    format!("{start}%%{:032x}", print(name.as_bytes()))
}

/// What a policy is bound to.
enum Reach {
    Mesh,
    Namespace,
    Selected(WorkloadSelector),
    Waypoint,
}

/// What nodes are to do for a policy.
enum Meaning {
    Rules(wire::Action, Vec<wire::Rule>),
    DenyAll,
    Nothing,
}

/// Converts a policy; of any, something is said.
pub(super) fn convert(object: &AuthorizationPolicy, settings: &Settings) -> Converted {
    let mut problems = Vec::new();
    let reach = reach(object, settings, &mut problems);
    let is_dry_run = dry_run(object, &mut problems);
    let (meaning, effect) = match (&reach, &object.spec) {
        (Reach::Waypoint, _) => (Meaning::Nothing, Effect::Waypoint),
        _ if is_dry_run && !settings.dry_run => {
            let cause = Cause::Said("is a dry run, which this mesh does not send to nodes");
            problems.push(cause.at(""));
            (Meaning::Nothing, Effect::None)
        }
        (_, Readable::Unreadable(_)) => (Meaning::DenyAll, Effect::DeniesScope),
        (_, Readable::Read(spec)) => meaning(object, spec, settings, &mut problems),
    };
    let policy = match meaning {
        Meaning::Nothing => None,
        Meaning::DenyAll => Some(deny_all()),
        Meaning::Rules(action, rules) => Some((action, rules)),
    };
    let mut remarks = Remarks::new(problems, effect);
    let mut policy = policy.map(|content| message(object, &reach, is_dry_run, content));
    if let Some(large) = &policy
        && let length @ POLICY_BYTES_TOO_MANY.. = large.encoded_len()
    {
        let cause = Cause::TooLong { length, max: POLICY_BYTES_MAX };
        remarks.problems.push(cause.at("rules"));
        remarks.effect = Effect::DeniesScope;
        policy = Some(message(object, &reach, is_dry_run, deny_all()));
    }
    if is_dry_run && remarks.effect == Effect::DeniesScope {
        remarks.effect = Effect::WouldDenyScope;
    }
    let selector = match reach {
        Reach::Selected(selector) if policy.is_some() => Some(selector),
        Reach::Selected(_) | Reach::Mesh | Reach::Namespace | Reach::Waypoint => None,
    };
    Converted { policy, selector, remarks }
}

const POLICY_BYTES_TOO_MANY: usize = POLICY_BYTES_MAX + 1;

fn message(
    object: &AuthorizationPolicy,
    reach: &Reach,
    dry_run: bool,
    (action, rules): (wire::Action, Vec<wire::Rule>),
) -> wire::Authorization {
    let scope = match reach {
        Reach::Mesh => wire::Scope::Global,
        Reach::Namespace => wire::Scope::Namespace,
        Reach::Selected(_) | Reach::Waypoint => wire::Scope::WorkloadSelector,
    };
    wire::Authorization {
        name: escaped(&object.metadata.name),
        namespace: object.metadata.namespace.to_string(),
        scope: scope.into(),
        action: action.into(),
        rules,
        dry_run,
        extensions: Vec::new(),
    }
}

/// A rule without clauses matches every connection, in every proxy.
fn deny_all() -> (wire::Action, Vec<wire::Rule>) {
    (wire::Action::Deny, vec![wire::Rule::default()])
}

/// What a policy is attached to, if it is: as [`reach`] has it.
pub(super) fn attachment(object: &AuthorizationPolicy) -> Option<Attachment> {
    let (binding, doubt) = match &object.spec {
        Readable::Read(spec) => (binding(spec), doubt(object, spec)),
        Readable::Unreadable(unread) => {
            let problem = Cause::unreadable(&unread.cause).at("spec");
            (unread.salvage()?, Some(format!("{problem}: no waypoint can enforce it")))
        }
    };
    let targets: Vec<_> = binding.target_ref.into_iter().chain(binding.target_refs).collect();
    let is_attached = binding.selector.is_none() && !targets.is_empty();
    is_attached.then_some(Attachment { targets, doubt })
}

/// What a waypoint may not enforce as it is written: we do not know what it makes of it.
fn doubt(object: &AuthorizationPolicy, spec: &AuthorizationPolicySpec) -> Option<String> {
    let mut problems = Vec::new();
    match spec.action {
        Action::Audit => problems.push(Cause::Said("AUDIT denies nothing").at("action")),
        Action::Custom => problems.push(Cause::Said("CUSTOM asks an extension").at("action")),
        Action::Allow | Action::Deny => {}
    }
    if dry_run(object, &mut problems) {
        problems.push(Cause::Said("is a dry run, which denies nothing").at(""));
    }
    problems.extend(spec.unknown.iter().map(|name| Cause::Unknown.at(&**name)));
    for (at, rule) in spec.rules.iter().enumerate() {
        problems.extend(rule::unknown_of(rule, &format!("rules[{at}]")));
    }
    if problems.is_empty() {
        return None;
    }
    let more = problems.len().saturating_sub(PROBLEMS_MAX);
    let shown: Vec<_> = problems.iter().take(PROBLEMS_MAX).map(ToString::to_string).collect();
    let more = if more > 0 { format!(", and {more} more") } else { String::new() };
    let shown = shown.join(", ");
    Some(format!("{shown}{more}: it is not known what a waypoint makes of it"))
}

fn binding(spec: &AuthorizationPolicySpec) -> Binding {
    Binding {
        selector: spec.selector.clone(),
        target_ref: spec.target_ref.clone(),
        target_refs: spec.target_refs.clone(),
    }
}

/// Where it is bound; if that cannot be told, all of its namespace.
fn reach(object: &AuthorizationPolicy, settings: &Settings, problems: &mut Vec<Problem>) -> Reach {
    let everything = if object.metadata.namespace == settings.root_namespace {
        Reach::Mesh
    } else {
        Reach::Namespace
    };
    let binding = match &object.spec {
        Readable::Read(spec) => Some(binding(spec)),
        Readable::Unreadable(unread) => {
            problems.push(Cause::unreadable(&unread.cause).at("spec"));
            unread.salvage()
        }
    };
    let Some(Binding { selector, target_ref, target_refs }) = binding else { return everything };
    let targets: Vec<PolicyTarget> = target_ref.into_iter().chain(target_refs).collect();
    match (selector, targets.is_empty()) {
        (None, false) => Reach::Waypoint,
        (None, true) => everything,
        (Some(selector), has_no_target) => {
            if !has_no_target {
                let cause = Cause::Said("and targetRefs exclude each other");
                problems.push(cause.at("selector"));
            }
            problems.extend(unknown_of(&selector));
            // Without a pair it selects all that it can.
            if selector.match_labels.is_empty() {
                everything
            } else {
                Reach::Selected(selector.match_labels)
            }
        }
    }
}

/// What a selector holds besides labels would select fewer workloads.
pub(super) fn unknown_of(selector: &Selector) -> impl Iterator<Item = Problem> {
    selector.unknown.iter().map(|name| Cause::Unknown.at(format!("selector.{name}")))
}

/// As Go's `ParseBool` reads it. Empty: not written.
fn dry_run(object: &AuthorizationPolicy, problems: &mut Vec<Problem>) -> bool {
    match object.metadata.annotation(DRY_RUN) {
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => true,
        None | Some("" | "0" | "f" | "F" | "false" | "FALSE" | "False") => false,
        Some(other) => {
            let cause = Cause::value(other, "true or false");
            problems.push(cause.at(format!("metadata.annotations[{DRY_RUN}]")));
            false
        }
    }
}

/// What a policy that was read asks of nodes. Problems that were found before make it one that is
/// not understood.
fn meaning(
    object: &AuthorizationPolicy,
    spec: &AuthorizationPolicySpec,
    settings: &Settings,
    problems: &mut Vec<Problem>,
) -> (Meaning, Effect) {
    let action = match spec.action {
        Action::Audit => {
            problems.push(Cause::Said("AUDIT is not known to nodes").at("action"));
            return (Meaning::Nothing, Effect::None);
        }
        Action::Custom => {
            let cause = Cause::Said("CUSTOM asks an extension, and nodes ask none");
            problems.push(cause.at("action"));
            return (Meaning::DenyAll, Effect::DeniesScope);
        }
        Action::Allow => wire::Action::Allow,
        Action::Deny => wire::Action::Deny,
    };
    problems.extend(spec.unknown.iter().map(|name| Cause::Unknown.at(&**name)));
    if !problems.is_empty() {
        return (Meaning::DenyAll, Effect::DeniesScope);
    }
    let context = Context { namespace: &object.metadata.namespace, domains: Domains::of(settings) };
    let mut rules = Vec::with_capacity(spec.rules.len());
    for (at, written) in spec.rules.iter().enumerate() {
        match (rule::read(written, &format!("rules[{at}]"), &context), action) {
            (Ok(rule), _) => rules.push(rule),
            (Err(found), wire::Action::Allow) => problems.extend(found),
            (Err(found), wire::Action::Deny) => {
                problems.extend(found);
                rules.push(wire::Rule::default());
            }
        }
    }
    let effect = match (problems.is_empty(), action) {
        (true, _) => Effect::AsWritten,
        (false, wire::Action::Deny) => Effect::DeniesScope,
        (false, wire::Action::Allow) if rules.is_empty() => Effect::NothingAllowed,
        (false, wire::Action::Allow) => Effect::RulesLeftOut,
    };
    (Meaning::Rules(action, rules), effect)
}
