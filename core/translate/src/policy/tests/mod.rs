//! Objects as YAML, what is sent for them, and what an agent makes of that.

mod authorization;
mod index;
mod peer;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use authz::{PolicyStore, Question, Stored, explain};
use cluster::{Labels, Object, ObjectKey, Text};
use ipnet::IpNet;
use model::{Network, PolicyName, SpiffeId, TrustDomain, Workload, WorkloadKey, WorkloadUid};
use prost::Message;
use proto::security as wire;

use super::*;

fn settings() -> Settings {
    Settings::new(TrustDomain::default())
}

fn settings_of(trust_domain: &str, aliases: &[&str]) -> Settings {
    let domain = |name: &str| TrustDomain::parse(name).expect("literal");
    Settings {
        trust_domain_aliases: aliases.iter().map(|name| domain(name)).collect(),
        ..Settings::new(domain(trust_domain))
    }
}

fn objects(text: &str) -> Vec<Object> {
    let manifest = cluster::manifest::read(text);
    assert_eq!(manifest.errors, [], "{text}");
    manifest.objects
}

/// One policy of the namespace `shop`; `spec` is in flow style.
fn policy(kind: &str, namespace: &str, name: &str, spec: &str) -> Object {
    let text = format!(
        "apiVersion: security.istio.io/v1\nkind: {kind}\n\
         metadata: {{name: '{name}', namespace: {namespace}}}\nspec: {spec}\n"
    );
    objects(&text).remove(0)
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().copied().collect()
}

/// What whoever follows the changes of an index knows.
struct Follower {
    index: PolicyIndex,
    policies: BTreeMap<Text, wire::Authorization>,
    conditions: BTreeMap<ObjectKey, Vec<Condition>>,
}

impl Follower {
    fn new(settings: &Settings) -> Self {
        let index = PolicyIndex::new(settings);
        Self { index, policies: BTreeMap::new(), conditions: BTreeMap::new() }
    }

    fn with(settings: &Settings, objects: &[Object]) -> Self {
        let mut follower = Self::new(settings);
        for object in objects {
            follower.index.set(object);
        }
        follower.follow();
        follower
    }

    fn follow(&mut self) -> PolicyChanges {
        let changes = self.index.take_changes();
        for (name, policy) in &changes.policies {
            let before = match policy {
                Some(policy) => self.policies.insert(name.clone(), policy.clone()),
                None => self.policies.remove(name),
            };
            assert_ne!(before.as_ref(), policy.as_ref(), "{name} did not change");
        }
        self.conditions.extend(changes.conditions.iter().cloned());
        assert!(self.index.take_changes().is_empty());
        changes
    }

    fn condition(&self, kind: Kind, namespace: &str, name: &str) -> &Condition {
        let name = cluster::ObjectName::new(namespace, name);
        let [condition] = &*self.conditions[&ObjectKey { kind, name }] else {
            panic!("one condition")
        };
        condition
    }

    /// As an agent has them that reads strictly. What is sent can be read, and does not rely on an
    /// agent that denies what it cannot check.
    fn store(&self, settings: &Settings) -> PolicyStore {
        let mut interner = xds::Interner::default();
        let policies = self.policies.iter().map(|(name, policy)| {
            let stored = xds::parse_policy(name, &policy.encode_to_vec(), &mut interner);
            assert!(matches!(stored, Stored::Policy(_)), "{name}: {stored:?}");
            stored
        });
        let settings = authz::Settings {
            root_namespace: settings.root_namespace.clone(),
            trust_domain: settings.trust_domain.clone(),
            trust_domain_aliases: settings.trust_domain_aliases.clone(),
            unenforceable_deny: authz::UnenforceableDeny::Ignore,
        };
        PolicyStore::compile(policies.collect(), &settings)
    }

    /// Whether such a workload would be reached.
    fn admits(&self, namespace: &str, of: &Labels, from: &From<'_>) -> bool {
        let workload = workload(namespace, &self.index.bound(namespace, of));
        admits(&self.store(&settings()), &workload, from)
    }
}

/// Who connects to which port.
#[derive(Clone, Copy, Debug)]
struct From<'f> {
    principal: Option<&'f str>,
    ip: &'f str,
    port: u16,
}

fn plain(port: u16) -> From<'static> {
    From { principal: None, ip: "10.0.0.1", port }
}

fn mutual(principal: &str, port: u16) -> From<'_> {
    From { principal: Some(principal), ..plain(port) }
}

fn admits(store: &PolicyStore, workload: &Workload, from: &From<'_>) -> bool {
    let id = from
        .principal
        .map(|principal| SpiffeId::parse(&format!("spiffe://{principal}")).expect("a principal"));
    let question = Question {
        source: from.ip.parse().expect("an address"),
        identity: id.as_ref(),
        destination: (IpAddr::from([10, 0, 0, 2]), from.port).into(),
    };
    explain(store, workload, &question).0.is_ok()
}

fn workload(namespace: &str, policies: &[Text]) -> Workload {
    let policies = policies.iter().map(|key| PolicyName::parse(key).expect("a name"));
    Workload {
        uid: WorkloadUid("Kubernetes//Pod/shop/cart-1".into()),
        key: WorkloadKey::parse(&format!("{namespace}/cart-1/cart")).expect("a key"),
        trust_domain: TrustDomain::default(),
        addresses: Vec::new(),
        network: Network::default(),
        protocol: model::TunnelProtocol::Hbone,
        network_mode: model::NetworkMode::Standard,
        node: Arc::from(""),
        cluster: Arc::from("Kubernetes"),
        canonical_name: Arc::from(""),
        canonical_revision: Arc::from(""),
        workload_type: model::WorkloadType::Pod,
        workload_name: Arc::from(""),
        health: model::Health::Healthy,
        locality: model::Locality::default(),
        policies: policies.collect(),
        services: model::ServedServices::default(),
        capacity: 1,
        native_tunnel: false,
        waypoint: None,
        network_gateway: None,
        application_tunnel: None,
        hostname: None,
    }
}

/// A policy as one line: rules by `|`, clauses by `&`, matches by `or`, types by `;`.
fn shown(policy: &wire::Authorization) -> String {
    let rules = policy.rules.iter().map(|rule| {
        let clauses = rule.clauses.iter().map(|clause| {
            let matches: Vec<String> = clause.matches.iter().map(shown_match).collect();
            matches.join(" or ")
        });
        let clauses: Vec<String> = clauses.collect();
        if clauses.is_empty() { "everything".to_owned() } else { clauses.join(" & ") }
    });
    let rules: Vec<String> = rules.collect();
    let dry_run = if policy.dry_run { " dry" } else { "" };
    let (action, scope) = (policy.action(), policy.scope());
    format!(
        "{}/{} {}{dry_run} {}: {}",
        policy.namespace,
        policy.name,
        action.as_str_name(),
        scope.as_str_name(),
        rules.join(" | ")
    )
}

fn shown_match(found: &wire::Match) -> String {
    use wire::string_match::MatchType;
    let mut parts = Vec::new();
    let mut part = |name: &str, values: Vec<String>| {
        if !values.is_empty() {
            parts.push(format!("{name} {}", values.join(",")));
        }
    };
    let texts = |values: &[wire::StringMatch]| {
        let text = |value: &wire::StringMatch| match &value.match_type {
            Some(MatchType::Exact(text)) => text.clone(),
            Some(MatchType::Prefix(text)) => format!("{text}*"),
            Some(MatchType::Suffix(text)) => format!("*{text}"),
            Some(MatchType::Presence(())) => "*".to_owned(),
            None => "nothing".to_owned(),
        };
        values.iter().map(text).collect::<Vec<_>>()
    };
    let blocks = |values: &[wire::Address]| {
        let block = |value: &wire::Address| {
            let address = match value.address.len() {
                4 => <[u8; 4]>::try_from(&*value.address).map(IpAddr::from),
                _ => <[u8; 16]>::try_from(&*value.address).map(IpAddr::from),
            };
            let length = u8::try_from(value.length).expect("a length");
            IpNet::new(address.expect("an address"), length).expect("a block").to_string()
        };
        values.iter().map(block).collect::<Vec<_>>()
    };
    let accounts = |values: &[wire::ServiceAccountMatch]| {
        let account = |value: &wire::ServiceAccountMatch| {
            format!("{}/{}", value.namespace, value.service_account)
        };
        values.iter().map(account).collect::<Vec<_>>()
    };
    let ports = |values: &[u32]| values.iter().map(ToString::to_string).collect::<Vec<_>>();
    part("ns", texts(&found.namespaces));
    part("!ns", texts(&found.not_namespaces));
    part("id", texts(&found.principals));
    part("!id", texts(&found.not_principals));
    part("sa", accounts(&found.service_accounts));
    part("!sa", accounts(&found.not_service_accounts));
    part("ip", blocks(&found.source_ips));
    part("!ip", blocks(&found.not_source_ips));
    part("to", blocks(&found.destination_ips));
    part("!to", blocks(&found.not_destination_ips));
    part("port", ports(&found.destination_ports));
    part("!port", ports(&found.not_destination_ports));
    if parts.is_empty() { "nothing".to_owned() } else { parts.join("; ") }
}
