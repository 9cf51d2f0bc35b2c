//! `istio.security.Authorization`, read strictly: understood as a whole, or unreadable.

use authz::{
    Action, Binding, Clause, Filter, Match, Mode, Policy, Rule, Scope, ServiceAccount, Stored,
    StringMatch, UnreadablePolicy,
};
use ipnet::IpNet;
use model::PolicyName;
use prost::Message;
use proto::security as wire;

use super::intern::Interner;
use super::invalid::{Invalid, Problem, Within, shortened};
use super::network::{block, port};
use super::text::text;
use super::workload::policy_name;
use super::{known, scan};

/// Largest policy read, in bytes: some ten thousand conditions. A larger one is unreadable.
pub const POLICY_BYTES_MAX: usize = 1 << 20;

/// Reads a policy that was sent under `name`.
///
/// One that cannot be read denies its scope; if its scope cannot be read either, its namespace;
/// and the mesh, if it cannot be told which namespace that is.
#[must_use]
pub fn parse_policy(name: &str, bytes: &[u8], interner: &mut Interner) -> Stored {
    match policy(name, bytes, interner) {
        Ok(policy) => Stored::Policy(policy),
        Err(error) => Stored::Unreadable(unreadable(name, bytes, &error)),
    }
}

/// The same policy, of which another reason says that it cannot be used.
pub(crate) fn unreadable(name: &str, bytes: &[u8], error: &Invalid) -> UnreadablePolicy {
    let outline = scan::outline(bytes);
    let known = PolicyName::parse(name);
    let binding = match (&known, &outline) {
        // Workloads and namespaces are matched by a name that is not this policy's.
        (None, _) => Binding::Mesh,
        (Some(_), None) => Binding::Namespace,
        (Some(known), Some(outline)) if *known.namespace != *outline.namespace => Binding::Mesh,
        (Some(known), Some(outline)) if *known.name != *outline.name => Binding::Namespace,
        (Some(_), Some(outline)) => match outline.scope {
            None => Binding::Namespace,
            Some(scope) => Binding::from(read_scope(scope)),
        },
    };
    UnreadablePolicy {
        name: known.unwrap_or_else(|| PolicyName::new("", &shortened(name))),
        binding,
        cause: error.to_string(),
    }
}

fn policy(name: &str, bytes: &[u8], i: &mut Interner) -> Result<Policy, Invalid> {
    if bytes.len() > POLICY_BYTES_MAX {
        let problem = Problem::TooLong { length: bytes.len(), max: POLICY_BYTES_MAX };
        return Err(problem.into());
    }
    scan::authorization(bytes)?;
    let wire = wire::Authorization::decode(bytes).map_err(|e| Problem::Decode(e.to_string()))?;
    let own = format!("{}/{}", wire.namespace, wire.name);
    if own != name {
        return Err(Problem::Name { sent: shortened(name), own: shortened(&own) }.into());
    }
    let rules = wire.rules.iter().enumerate();
    Ok(Policy {
        name: policy_name(i, name)?,
        scope: read_scope(known(wire.scope).within("scope")?),
        action: match known(wire.action).within("action")? {
            wire::Action::Allow => Action::Allow,
            wire::Action::Deny => Action::Deny,
        },
        mode: if wire.dry_run { Mode::DryRun } else { Mode::Enforce },
        rules: rules.map(|(at, wire)| rule(i, wire).item("rules", at)).collect::<Result<_, _>>()?,
    })
}

fn read_scope(wire: wire::Scope) -> Scope {
    match wire {
        wire::Scope::Global => Scope::Global,
        wire::Scope::Namespace => Scope::Namespace,
        wire::Scope::WorkloadSelector => Scope::WorkloadSelector,
    }
}

fn rule(i: &mut Interner, wire: &wire::Rule) -> Result<Rule, Invalid> {
    let clauses = wire.clauses.iter().enumerate();
    let clauses = clauses.map(|(at, wire)| clause(i, wire).item("clauses", at));
    Ok(Rule { clauses: clauses.collect::<Result<_, _>>()? })
}

fn clause(i: &mut Interner, wire: &wire::Clause) -> Result<Clause, Invalid> {
    let matches = wire.matches.iter().enumerate();
    let matches = matches.map(|(at, wire)| a_match(i, wire).item("matches", at));
    Ok(Clause { matches: matches.collect::<Result<_, _>>()? })
}

fn a_match(i: &mut Interner, wire: &wire::Match) -> Result<Match, Invalid> {
    let mut namespace = |wire: &_| pattern(i, wire);
    let namespaces = Filter {
        any_of: list("namespaces", &wire.namespaces, &mut namespace)?,
        none_of: list("not_namespaces", &wire.not_namespaces, &mut namespace)?,
    };
    let mut principal = |wire: &_| pattern(i, wire).map(StringMatch::into_principal);
    let principals = Filter {
        any_of: list("principals", &wire.principals, &mut principal)?,
        none_of: list("not_principals", &wire.not_principals, &mut principal)?,
    };
    let mut account = |wire: &_| service_account(i, wire);
    let service_accounts = Filter {
        any_of: list("service_accounts", &wire.service_accounts, &mut account)?,
        none_of: list("not_service_accounts", &wire.not_service_accounts, &mut account)?,
    };
    let number = |number: &u32| Ok(port(*number)?.get());
    Ok(Match {
        namespaces,
        principals,
        service_accounts,
        source_ips: Filter {
            any_of: list("source_ips", &wire.source_ips, address)?,
            none_of: list("not_source_ips", &wire.not_source_ips, address)?,
        },
        destination_ips: Filter {
            any_of: list("destination_ips", &wire.destination_ips, address)?,
            none_of: list("not_destination_ips", &wire.not_destination_ips, address)?,
        },
        destination_ports: Filter {
            any_of: list("destination_ports", &wire.destination_ports, number)?,
            none_of: list("not_destination_ports", &wire.not_destination_ports, number)?,
        },
    })
}

fn list<W, T>(
    field: &str,
    wire: &[W],
    mut read: impl FnMut(&W) -> Result<T, Invalid>,
) -> Result<Vec<T>, Invalid> {
    wire.iter().enumerate().map(|(at, wire)| read(wire).item(field, at)).collect()
}

fn pattern(i: &mut Interner, wire: &wire::StringMatch) -> Result<StringMatch, Invalid> {
    use wire::string_match::MatchType;
    Ok(match &wire.match_type {
        None => return Err(Problem::Missing.at("match_type")),
        Some(MatchType::Exact(value)) => StringMatch::Exact(text(i, value).within("exact")?),
        Some(MatchType::Prefix(value)) => StringMatch::Prefix(text(i, value).within("prefix")?),
        Some(MatchType::Suffix(value)) => StringMatch::Suffix(text(i, value).within("suffix")?),
        Some(MatchType::Presence(())) => StringMatch::Presence,
    })
}

fn address(wire: &wire::Address) -> Result<IpNet, Invalid> {
    block(&wire.address, wire.length)
}

/// Both parts are compared as they are, so an empty one would match nothing, and in a negated
/// list exempt nobody: not what its author meant.
fn service_account(
    i: &mut Interner,
    wire: &wire::ServiceAccountMatch,
) -> Result<ServiceAccount, Invalid> {
    let part = |i: &mut Interner, value: &str, field| match value {
        "" => Err(Problem::Missing.at(field)),
        value => text(i, value).within(field),
    };
    Ok(ServiceAccount {
        namespace: part(i, &wire.namespace, "namespace")?,
        name: part(i, &wire.service_account, "serviceAccount")?,
    })
}
