//! What tests have a control plane say of their pods.

use proto::security::{Action, Authorization, Clause, Match, Rule, Scope, StringMatch};
use proto::workload::{TunnelProtocol, Workload};
use proto::{security, workload};

use crate::pod::Pod;

/// A pod as Istio's control plane describes it.
#[must_use]
pub fn workload(pod: &Pod) -> Workload {
    let bytes = |ip: std::net::IpAddr| match ip {
        std::net::IpAddr::V4(ip) => ip.octets().to_vec().into(),
        std::net::IpAddr::V6(ip) => ip.octets().to_vec().into(),
    };
    Workload {
        uid: format!("Kubernetes//Pod/{}/{}", pod.namespace(), pod.name()),
        name: pod.name().to_owned(),
        namespace: pod.namespace().to_owned(),
        addresses: vec![bytes(pod.ipv4()), bytes(pod.ipv6())],
        tunnel_protocol: if pod.is_hbone() {
            TunnelProtocol::Hbone.into()
        } else {
            TunnelProtocol::None.into()
        },
        service_account: pod.account().to_owned(),
        node: format!("node-{}", pod.node()),
        canonical_name: pod.name().to_owned(),
        workload_name: pod.name().to_owned(),
        workload_type: workload::WorkloadType::Pod.into(),
        ..Workload::default()
    }
}

/// A policy for the workloads that name it, with one rule: one of these principals, or nobody.
#[must_use]
pub fn policy(name: &str, action: Action, principals: &[&str]) -> Authorization {
    let exact = |principal: &&str| StringMatch {
        match_type: Some(security::string_match::MatchType::Exact((*principal).to_owned())),
    };
    let a_match = Match { principals: principals.iter().map(exact).collect(), ..Match::default() };
    Authorization {
        name: name.to_owned(),
        namespace: "shop".to_owned(),
        scope: Scope::WorkloadSelector.into(),
        action: action.into(),
        rules: vec![Rule { clauses: vec![Clause { matches: vec![a_match] }] }],
        ..Authorization::default()
    }
}

/// The principal of a pod: its identity without the scheme.
#[must_use]
pub fn principal(pod: &Pod) -> String {
    pod.identity().trim_start_matches("spiffe://").to_owned()
}
