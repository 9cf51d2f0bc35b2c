//! Where the traffic of a service should go first.

use cluster::Meta;
use cluster::service::{InternalTrafficPolicy, ServiceSpec};
use proto::workload::LoadBalancing;
use proto::workload::load_balancing::{HealthPolicy, Mode, Scope};

use crate::names;

/// What was asked for by a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Distribution {
    Any,
    SameZone,
    SameNode,
}

/// Of a Kubernetes Service.
pub(crate) fn of_service(
    spec: &ServiceSpec,
    meta: &Meta,
    namespace: Option<&Meta>,
) -> Option<LoadBalancing> {
    let health = if spec.publish_not_ready_addresses {
        HealthPolicy::AllowAll
    } else {
        HealthPolicy::OnlyHealthy
    };
    if spec.internal_traffic_policy == Some(InternalTrafficPolicy::Local) {
        return Some(balancing(Mode::Strict, &[Scope::Node], health));
    }
    let own = spec.traffic_distribution.as_deref().and_then(distribution);
    let preset = preset(own.or_else(|| annotated(meta, namespace)), health);
    preset.or_else(|| {
        let is_default = health == HealthPolicy::OnlyHealthy;
        (!is_default).then(|| balancing(Mode::UnspecifiedMode, &[], health))
    })
}

/// Of a service entry whose endpoints are known.
pub(crate) fn of_entry(meta: &Meta, namespace: Option<&Meta>) -> Option<LoadBalancing> {
    preset(annotated(meta, namespace), HealthPolicy::OnlyHealthy)
}

/// Of a service entry that goes where it was dialled.
pub(crate) fn passthrough() -> LoadBalancing {
    balancing(Mode::Passthrough, &[], HealthPolicy::AllowAll)
}

/// The object's own word, else its namespace's.
fn annotated(meta: &Meta, namespace: Option<&Meta>) -> Option<Distribution> {
    let of = |meta: &Meta| meta.annotation(names::TRAFFIC_DISTRIBUTION).and_then(distribution);
    of(meta).or_else(|| namespace.and_then(of))
}

/// A word that is not known is as none: a later version of Kubernetes may have more of them.
fn distribution(word: &str) -> Option<Distribution> {
    match &*word.to_ascii_lowercase() {
        "any" => Some(Distribution::Any),
        "preferclose" | "prefersamezone" => Some(Distribution::SameZone),
        "prefersamenode" => Some(Distribution::SameNode),
        _ => None,
    }
}

fn preset(distribution: Option<Distribution>, health: HealthPolicy) -> Option<LoadBalancing> {
    let scopes: &[Scope] = match distribution? {
        Distribution::Any => return None,
        Distribution::SameZone => &[Scope::Network, Scope::Region, Scope::Zone],
        Distribution::SameNode => {
            &[Scope::Network, Scope::Region, Scope::Zone, Scope::Subzone, Scope::Node]
        }
    };
    Some(balancing(Mode::Failover, scopes, health))
}

fn balancing(mode: Mode, scopes: &[Scope], health: HealthPolicy) -> LoadBalancing {
    LoadBalancing {
        routing_preference: scopes.iter().map(|scope| (*scope).into()).collect(),
        mode: mode.into(),
        health_policy: health.into(),
    }
}
