//! `policies`: `istio.security.Authorization` as Istio's ztunnel writes it in YAML.

use authz::{
    Action, Clause, Filter, Match, Mode, Policy, Rule, Scope, ServiceAccount, StringMatch,
};
use model::{PolicyName, SpiffeId};

use crate::error::Collector;
use crate::node::{Kind, Node};
use crate::read::{Object, Path, block, boolean, list, owned_text, plain_text, port, word};

const SCOPES: &[(&str, Scope)] = &[
    ("Global", Scope::Global),
    ("Namespace", Scope::Namespace),
    ("WorkloadSelector", Scope::WorkloadSelector),
];
const ACTIONS: &[(&str, Action)] = &[("Allow", Action::Allow), ("Deny", Action::Deny)];

pub(crate) fn policy(errors: &mut Collector<'_>, node: &Node, path: &Path<'_>) -> Option<Policy> {
    let mut object = Object::open(errors, node, path)?;
    let name = policy_key(errors, &mut object, path);
    let scope = object.required(errors, "scope", word(SCOPES));
    let action = object.required(errors, "action", word(ACTIONS));
    let rules = object.required(errors, "rules", list(rule));
    let dry_run = object.optional(errors, "dryRun", boolean).unwrap_or(false);
    object.finish(errors);
    Some(Policy {
        name: name?,
        scope: scope?,
        action: action?,
        mode: if dry_run { Mode::DryRun } else { Mode::Enforce },
        rules: rules?,
    })
}

/// `namespace` and `name`.
pub(crate) fn policy_key(
    errors: &mut Collector<'_>,
    object: &mut Object<'_, '_>,
    path: &Path<'_>,
) -> Option<PolicyName> {
    let name = object.required(errors, "name", owned_text);
    let namespace = object.required(errors, "namespace", owned_text);
    let key = format!("{}/{}", namespace?, name?);
    let parsed = PolicyName::parse(&key);
    if parsed.is_none() {
        let cause = "namespace and name must not be empty, and the name holds no /";
        errors.push(object.peek("name").position, Path::Key(path, "name"), Some(&key), cause);
    }
    parsed
}

fn rule(errors: &mut Collector<'_>, node: &Node, path: &Path<'_>) -> Option<Rule> {
    Some(Rule { clauses: list(clause)(errors, node, path)? })
}

fn clause(errors: &mut Collector<'_>, node: &Node, path: &Path<'_>) -> Option<Clause> {
    Some(Clause { matches: list(a_match)(errors, node, path)? })
}

fn a_match(errors: &mut Collector<'_>, node: &Node, path: &Path<'_>) -> Option<Match> {
    let mut object = Object::open(errors, node, path)?;
    let port = |errors: &mut Collector<'_>, node: &Node, path: &Path<'_>| {
        port(errors, node, path).map(std::num::NonZeroU16::get)
    };
    let o = &mut object;
    let parsed = Match {
        namespaces: filter(errors, o, ["namespaces", "notNamespaces"], string_match),
        principals: filter(errors, o, ["principals", "notPrincipals"], principal),
        service_accounts: filter(
            errors,
            o,
            ["serviceAccounts", "notServiceAccounts"],
            service_account,
        ),
        source_ips: filter(errors, o, ["sourceIps", "notSourceIps"], block),
        destination_ips: filter(errors, o, ["destinationIps", "notDestinationIps"], block),
        destination_ports: filter(errors, o, ["destinationPorts", "notDestinationPorts"], port),
    };
    object.finish(errors);
    Some(parsed)
}

fn filter<T>(
    errors: &mut Collector<'_>,
    object: &mut Object<'_, '_>,
    [positive, negative]: [&'static str; 2],
    item: impl Fn(&mut Collector<'_>, &Node, &Path<'_>) -> Option<T> + Copy,
) -> Filter<T> {
    Filter {
        any_of: object.optional(errors, positive, list(item)).unwrap_or_default(),
        none_of: object.optional(errors, negative, list(item)).unwrap_or_default(),
    }
}

fn service_account(
    errors: &mut Collector<'_>,
    node: &Node,
    path: &Path<'_>,
) -> Option<ServiceAccount> {
    let mut object = Object::open(errors, node, path)?;
    let namespace = object.required(errors, "namespace", owned_text);
    let name = object.required(errors, "serviceAccount", owned_text);
    object.finish(errors);
    Some(ServiceAccount { namespace: namespace?.into(), name: name?.into() })
}

const PATTERNS: &str = "!Exact, !Prefix, !Suffix or !Presence []";

/// `!Exact text`, as the tag of a value, or `Exact: text`, as a mapping with one key.
fn string_match(errors: &mut Collector<'_>, node: &Node, path: &Path<'_>) -> Option<StringMatch> {
    let (variant, value) = match (&node.tag, &node.kind) {
        (Some(tag), _) => (tag.as_str(), node),
        (None, Kind::Map(entries)) => match entries.as_slice() {
            [(key, value)] => (plain_text(errors, key, path)?, value),
            _ => return not_a_pattern(errors, node, path),
        },
        (None, Kind::Text(text)) if text == "Presence" => return Some(StringMatch::Presence),
        (None, Kind::Text(_) | Kind::Null | Kind::Bool(_) | Kind::List(_)) => {
            return not_a_pattern(errors, node, path);
        }
    };
    let mut text = || plain_text(errors, value, path).map(Into::into);
    match variant {
        "Exact" => text().map(StringMatch::Exact),
        "Prefix" => text().map(StringMatch::Prefix),
        "Suffix" => text().map(StringMatch::Suffix),
        "Presence" if is_empty(value) => Some(StringMatch::Presence),
        _ => not_a_pattern(errors, node, path),
    }
}

fn is_empty(node: &Node) -> bool {
    match &node.kind {
        Kind::Null => true,
        Kind::List(items) => items.is_empty(),
        Kind::Map(entries) => entries.is_empty(),
        Kind::Text(text) => text.is_empty(),
        Kind::Bool(_) => false,
    }
}

fn not_a_pattern(errors: &mut Collector<'_>, node: &Node, path: &Path<'_>) -> Option<StringMatch> {
    let value = match &node.kind {
        Kind::Text(text) => Some(text.as_str()),
        Kind::Null | Kind::Bool(_) | Kind::List(_) | Kind::Map(_) => None,
    };
    errors.push(node.position, path, value, format!("expected {PATTERNS}"));
    None
}

/// A pattern for an identity, with or without `spiffe://`. An exact one that no certificate can
/// carry would silently never match.
fn principal(errors: &mut Collector<'_>, node: &Node, path: &Path<'_>) -> Option<StringMatch> {
    let pattern = string_match(errors, node, path)?.into_principal();
    if let StringMatch::Exact(text) = &pattern
        && let Err(error) = SpiffeId::parse(&format!("spiffe://{text}"))
    {
        let cause = format!("no identity can match it: {error}");
        errors.push(node.position, path, None, cause);
        return None;
    }
    Some(pattern)
}
