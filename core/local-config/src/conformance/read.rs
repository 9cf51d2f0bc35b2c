//! The shape of a file of cases.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use authz::{Binding, PolicyStore, Settings, Stored, UnenforceableDeny, UnreadablePolicy};
use model::{Code, PolicyName, SpiffeId, TrustDomain, Workload};

use crate::Defaults;
use crate::conformance::{Asked, Case, Expected, Situation};
use crate::error::Collector;
use crate::node::{Node, Position};
use crate::policy::{policy, policy_key};
use crate::read::{
    Object, Path, Read, decimal, entries, explained, list, owned_text, parsed, text, word,
};
use crate::workload::{policy_name, workload};

/// What a verdict can say.
const CODES: [Code; 6] = [
    Code::Ok,
    Code::PolicyDenied,
    Code::PolicyNotEnforceable,
    Code::PolicyUnreadable,
    Code::PolicyUnknown,
    Code::PolicyNoMatch,
];
const UNENFORCEABLE: &[(&str, UnenforceableDeny)] =
    &[("deny", UnenforceableDeny::Deny), ("ignore", UnenforceableDeny::Ignore)];
const BINDINGS: &[(&str, Binding)] =
    &[("Workload", Binding::Workload), ("Namespace", Binding::Namespace), ("Mesh", Binding::Mesh)];
const ROOT_NAMESPACE: &str = "istio-system";
/// What a case has that does not name it.
const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
const DESTINATION: ([u8; 4], u16) = ([10, 0, 0, 2], 80);

/// What the situations of a file share.
struct Shared {
    /// Identities by the short names that cases use.
    peers: HashMap<String, SpiffeId>,
    /// Where the connections go, unless a situation says otherwise.
    workload: Option<Workload>,
}

pub(super) fn cases(errors: &mut Collector<'_>, root: &Node) -> Option<Vec<Case>> {
    let mut object = Object::open(errors, root, &Path::Root)?;
    let peers = object.optional(errors, "peers", entries(named_peer)).unwrap_or_default();
    let workload = object.optional(errors, "workload", a_workload);
    let shared = Shared { peers: peers.into_iter().collect(), workload };
    let situation = |errors: &mut Collector<'_>, node: &Node, path: &Path<'_>| {
        situation(errors, node, path, &shared)
    };
    let situations = object.required(errors, "situations", list(situation));
    object.finish(errors);
    let cases: Vec<(Position, String, Case)> = situations?.into_iter().flatten().collect();
    // Cases that could not be read were reported.
    if cases.is_empty() && errors.is_empty() {
        errors.push(root.position, "situations", None, "no cases");
    }
    let mut seen = HashMap::new();
    for (position, field, case) in &cases {
        if let Some(first) = seen.insert(&case.name, field) {
            let cause = format!("the same as that of {first}");
            errors.push(*position, format!("{field}.name"), Some(&case.name), cause);
        }
    }
    Some(cases.into_iter().map(|(_, _, case)| case).collect())
}

/// The cases of one situation, each with its place.
fn situation(
    errors: &mut Collector<'_>,
    node: &Node,
    path: &Path<'_>,
    shared: &Shared,
) -> Option<Vec<(Position, String, Case)>> {
    let mut object = Object::open(errors, node, path)?;
    let o = &mut object;
    let name = o.required(errors, "name", filled);
    let settings = match o.optional(errors, "settings", settings) {
        Some(settings) => settings,
        None => Settings::rooted(ROOT_NAMESPACE),
    };
    let workload = match &shared.workload {
        Some(workload) => {
            o.optional(errors, "workload", a_workload).or_else(|| Some(workload.clone()))
        }
        None => o.required(errors, "workload", a_workload),
    };
    let policies = o.optional(errors, "policies", list(policy)).unwrap_or_default();
    let unreadable = o.optional(errors, "unreadable", list(unreadable)).unwrap_or_default();
    let read = |errors: &mut Collector<'_>, node: &Node, path: &Path<'_>| {
        Some((node.position, path.to_string(), case(errors, node, path, shared)?))
    };
    let cases = o.required(errors, "cases", list(read));
    object.finish(errors);

    let stored = policies.into_iter().map(Stored::Policy);
    let stored = stored.chain(unreadable.into_iter().map(Stored::Unreadable)).collect();
    let store = PolicyStore::compile(stored, &settings);
    let situation = Arc::new(Situation { store, workload: workload? });
    let name = name?;
    let cases = cases?.into_iter().map(|(position, field, (case, connection, expected))| {
        let name = format!("{name}: {case}");
        let situation = situation.clone();
        let case = Case { name, line: position.line, situation, connection, expected };
        (position, field, case)
    });
    Some(cases.collect())
}

fn filled(errors: &mut Collector<'_>, node: &Node, path: &Path<'_>) -> Option<String> {
    parsed("a text", |text| (!text.is_empty()).then(|| text.to_owned()))(errors, node, path)
}

fn settings(errors: &mut Collector<'_>, node: &Node, path: &Path<'_>) -> Option<Settings> {
    let mut object = Object::open(errors, node, path)?;
    let o = &mut object;
    let domain = |errors: &mut Collector<'_>, node: &Node, path: &Path<'_>| {
        explained(TrustDomain::parse)(errors, node, path)
    };
    let root = o.optional(errors, "rootNamespace", owned_text);
    let unenforceable = o.optional(errors, "unenforceableDeny", word(UNENFORCEABLE));
    let trust_domain = o.optional(errors, "trustDomain", domain);
    let aliases = o.optional(errors, "trustDomainAliases", list(domain));
    object.finish(errors);
    Some(Settings {
        root_namespace: root.unwrap_or_else(|| ROOT_NAMESPACE.to_owned()).into(),
        unenforceable_deny: unenforceable.unwrap_or_default(),
        trust_domain: trust_domain.unwrap_or_default(),
        trust_domain_aliases: aliases.unwrap_or_default(),
    })
}

fn a_workload(errors: &mut Collector<'_>, node: &Node, path: &Path<'_>) -> Option<Workload> {
    workload(errors, node, path, &Defaults::default())
}

/// A policy of which only this is known.
fn unreadable(
    errors: &mut Collector<'_>,
    node: &Node,
    path: &Path<'_>,
) -> Option<UnreadablePolicy> {
    let mut object = Object::open(errors, node, path)?;
    let name = policy_key(errors, &mut object, path);
    let binding = object.required(errors, "binding", word(BINDINGS));
    let cause = object.required(errors, "cause", owned_text);
    object.finish(errors);
    Some(UnreadablePolicy { name: name?, binding: binding?, cause: cause? })
}

fn case(
    errors: &mut Collector<'_>,
    node: &Node,
    path: &Path<'_>,
    shared: &Shared,
) -> Option<(String, Asked, Expected)> {
    let mut object = Object::open(errors, node, path)?;
    let o = &mut object;
    let name = o.required(errors, "name", filled);
    let peer = o.required(errors, "peer", peer(shared));
    // As it is written: that the v4-mapped form counts as IPv4 is something to test.
    let address = |text: &str| text.parse::<IpAddr>().ok();
    let source = o.optional(errors, "source", parsed("an IP address", address));
    let socket = |text: &str| text.parse::<SocketAddr>().ok();
    let destination = o.optional(errors, "destination", parsed("address:port", socket));
    let expected = o.required(errors, "expect", expected);
    object.finish(errors);
    let connection = Asked {
        source: source.unwrap_or(SOURCE),
        peer: peer?,
        destination: destination.unwrap_or_else(|| DESTINATION.into()),
    };
    Some((name?, connection, expected?))
}

/// `plaintext`, a SPIFFE identity, or one that the file gave a name.
fn peer(shared: &Shared) -> impl Read<Option<SpiffeId>> {
    move |errors: &mut Collector<'_>, node: &Node, path: &Path<'_>| {
        let text = text(errors, node, path)?;
        match shared.peers.get(text) {
            _ if text == "plaintext" => Some(None),
            Some(id) => Some(Some(id.clone())),
            None => explained(SpiffeId::parse)(errors, node, path).map(Some),
        }
    }
}

fn named_peer(
    errors: &mut Collector<'_>,
    key: &str,
    node: &Node,
    path: &Path<'_>,
) -> Option<(String, SpiffeId)> {
    Some((key.to_owned(), explained(SpiffeId::parse)(errors, node, path)?))
}

fn expected(errors: &mut Collector<'_>, node: &Node, path: &Path<'_>) -> Option<Expected> {
    let mut object = Object::open(errors, node, path)?;
    let o = &mut object;
    let named = |text: &str| CODES.into_iter().find(|code| code.as_str() == text);
    let what = "OK, POLICY_DENIED, POLICY_NOT_ENFORCEABLE, POLICY_UNREADABLE, POLICY_UNKNOWN or \
                POLICY_NO_MATCH";
    let code = o.required(errors, "code", parsed(what, named));
    let policy: Option<PolicyName> = o.optional(errors, "policy", policy_name);
    let rule = o.optional(errors, "rule", parsed("a number from 0", decimal::<usize>));
    let nearest_miss = o.optional(errors, "nearestMiss", owned_text);
    let dry_run = o.optional(errors, "dryRun", list(owned_text)).unwrap_or_default();
    object.finish(errors);
    Some(Expected { code: code?, policy, rule, nearest_miss, dry_run })
}
