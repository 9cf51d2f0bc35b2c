//! Policies. One that could not be read is there too, with its cause.

use authz::{
    Action, Binding, Clause, Filter, Match, Mode, Policy, PolicyStore, Scope, StoredRef,
    StringMatch, UnreadablePolicy,
};
use model::PolicyName;
use serde::Serialize;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PolicyDump<'a> {
    name: &'a str,
    namespace: &'a str,
    scope: &'static str,
    action: &'static str,
    rules: Vec<Vec<Vec<MatchDump<'a>>>>,
    dry_run: bool,
    /// Why it could not be read; it then denies its scope.
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MatchDump<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    namespaces: Vec<PatternDump<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_namespaces: Vec<PatternDump<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    service_accounts: Vec<AccountDump<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_service_accounts: Vec<AccountDump<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    principals: Vec<PatternDump<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_principals: Vec<PatternDump<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    source_ips: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_source_ips: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    destination_ips: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_destination_ips: Vec<String>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    destination_ports: &'a [u16],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    not_destination_ports: &'a [u16],
}

/// `{"Exact": "text"}` and so on; `{"Presence": []}`.
#[derive(Serialize)]
enum PatternDump<'a> {
    Exact(&'a str),
    Prefix(&'a str),
    Suffix(&'a str),
    Presence([(); 0]),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AccountDump<'a> {
    namespace: &'a str,
    service_account: &'a str,
}

/// Every policy, by namespace and name.
pub(super) fn policies(store: &PolicyStore) -> Vec<PolicyDump<'_>> {
    let mut all: Vec<_> = store.iter().collect();
    all.sort_by_key(|(name, _)| *name);
    all.into_iter()
        .map(|(name, stored)| match stored {
            StoredRef::Policy(policy) => readable(name, policy),
            StoredRef::Unreadable(policy) => unreadable(name, policy),
        })
        .collect()
}

fn readable<'a>(name: &'a PolicyName, policy: &'a Policy) -> PolicyDump<'a> {
    let clause = |clause: &'a Clause| clause.matches.iter().map(a_match).collect();
    let rules = policy.rules.iter().map(|rule| rule.clauses.iter().map(clause).collect());
    PolicyDump {
        name: &name.name,
        namespace: &name.namespace,
        scope: match policy.scope {
            Scope::Global => "Global",
            Scope::Namespace => "Namespace",
            Scope::WorkloadSelector => "WorkloadSelector",
        },
        action: match policy.action {
            Action::Allow => "Allow",
            Action::Deny => "Deny",
        },
        rules: rules.collect(),
        dry_run: policy.mode == Mode::DryRun,
        unreadable: None,
    }
}

fn unreadable<'a>(name: &'a PolicyName, policy: &'a UnreadablePolicy) -> PolicyDump<'a> {
    PolicyDump {
        name: &name.name,
        namespace: &name.namespace,
        scope: match policy.binding {
            Binding::Mesh => "Global",
            Binding::Namespace => "Namespace",
            Binding::Workload => "WorkloadSelector",
        },
        action: "Deny",
        rules: Vec::new(),
        dry_run: false,
        unreadable: Some(&policy.cause),
    }
}

fn a_match(found: &Match) -> MatchDump<'_> {
    let blocks = |nets: &[ipnet::IpNet]| nets.iter().map(ToString::to_string).collect();
    let Filter { any_of: ports, none_of: not_ports } = &found.destination_ports;
    MatchDump {
        namespaces: patterns(&found.namespaces.any_of),
        not_namespaces: patterns(&found.namespaces.none_of),
        service_accounts: accounts(&found.service_accounts.any_of),
        not_service_accounts: accounts(&found.service_accounts.none_of),
        principals: patterns(&found.principals.any_of),
        not_principals: patterns(&found.principals.none_of),
        source_ips: blocks(&found.source_ips.any_of),
        not_source_ips: blocks(&found.source_ips.none_of),
        destination_ips: blocks(&found.destination_ips.any_of),
        not_destination_ips: blocks(&found.destination_ips.none_of),
        destination_ports: ports,
        not_destination_ports: not_ports,
    }
}

fn accounts(accounts: &[authz::ServiceAccount]) -> Vec<AccountDump<'_>> {
    accounts
        .iter()
        .map(|account| AccountDump {
            namespace: &account.namespace,
            service_account: &account.name,
        })
        .collect()
}

fn patterns(patterns: &[StringMatch]) -> Vec<PatternDump<'_>> {
    patterns
        .iter()
        .map(|pattern| match pattern {
            StringMatch::Exact(text) => PatternDump::Exact(text),
            StringMatch::Prefix(text) => PatternDump::Prefix(text),
            StringMatch::Suffix(text) => PatternDump::Suffix(text),
            StringMatch::Presence => PatternDump::Presence([]),
        })
        .collect()
}
