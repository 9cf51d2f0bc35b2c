//! The policy that lets a waypoint reach what is behind it, and nobody else.

use cluster::{ObjectName, Text};
use proto::security as wire;

use crate::names;
use crate::world::World;

/// Name of the policy of a waypoint: `namespace/name`.
pub(crate) fn allow_policy_name(waypoint: &ObjectName) -> Text {
    let ObjectName { namespace, name } = waypoint;
    format!("{namespace}/istio_allow_waypoint_{namespace}_{name}").into()
}

/// The policy: connections from the accounts of the waypoint's pods. As long as it has no pods it
/// allows nobody, since what is behind a waypoint was not meant to be reached past it; and it stays while
/// the gateway has no address.
pub(crate) fn allow_policy(world: &World, waypoint: &ObjectName) -> Option<wire::Authorization> {
    world.waypoints.gateway(waypoint)?;
    let settings = &world.settings;
    let pods = world.store.pods_by_gateway.get(waypoint).into_iter().flatten();
    let mut principals: Vec<String> = pods
        .filter_map(|name| {
            let pod = world.store.space(&waypoint.namespace)?.pods.get(name)?;
            (!pod.has_ended()).then(|| pod.service_account().to_owned())
        })
        .flat_map(|account| {
            let domains =
                [&settings.trust_domain].into_iter().chain(&settings.trust_domain_aliases);
            let namespace = &waypoint.namespace;
            let principal = move |domain| format!("{domain}/ns/{namespace}/sa/{account}");
            domains.map(principal).collect::<Vec<_>>()
        })
        .collect();
    principals.sort();
    principals.dedup();
    let exact = |principal| wire::StringMatch {
        match_type: Some(wire::string_match::MatchType::Exact(principal)),
    };
    let principals: Vec<_> = principals.into_iter().map(exact).collect();
    let rules = if principals.is_empty() {
        Vec::new()
    } else {
        let matches = vec![wire::Match { principals, ..wire::Match::default() }];
        vec![wire::Rule { clauses: vec![wire::Clause { matches }] }]
    };
    let name = allow_policy_name(waypoint);
    let (_, name) = name.split_once('/')?;
    Some(wire::Authorization {
        name: name.to_owned(),
        namespace: waypoint.namespace.to_string(),
        scope: wire::Scope::WorkloadSelector.into(),
        action: wire::Action::Allow.into(),
        rules,
        ..wire::Authorization::default()
    })
}

/// The gateway whose pods' accounts a pod's labels add to.
pub(crate) fn gateway_of(meta: &cluster::Meta) -> Option<ObjectName> {
    let name = meta.label(names::GATEWAY_NAME)?;
    Some(ObjectName { namespace: meta.namespace.clone(), name: name.into() })
}
