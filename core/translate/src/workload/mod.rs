//! Workloads: what connections end at, wherever it is described.

mod endpoints;
mod entry;
mod gateway;
mod owner;
mod pod;
mod served;
mod slice;

pub(crate) use endpoints::{endpoint_ips, endpoints};
pub(crate) use entry::{entry_ip, labels_of, workload_entry, workload_entry_uid};
pub(crate) use gateway::network_gateway;
pub(crate) use pod::{pod, pod_labels_policies, pod_uid};
pub(crate) use slice::{endpoints_of_slice, pods_of};

use std::net::IpAddr;

use cluster::{Labels, Text};
use prost::Message;
use proto::{security, workload as wire};

use crate::changes::Address;
use crate::names;
use crate::problem::Problem;
use crate::text;
use crate::wire_value::{address_bytes, alias, first_label};
use crate::world::World;

/// Services and policies of one workload that an agent reads. A workload with more services is left
/// out. One with more policies has a single one instead that denies everything: without one of its
/// own it could be reached by more than it should, and left out it would be no part of the mesh.
pub(crate) const LIST_MAX: usize = 4096;
/// Its name has underscores, which no policy has that an object describes.
const DENY_POLICY: &str = "warren_too_many_policies";
/// Addresses of one workload that an agent reads.
const ADDRESSES_MAX: usize = 64;
/// Revision of what does not say one.
const REVISION: &str = "latest";
/// Value of the label for tunnels that a workload ends itself.
const TUNNEL_HTTP: &str = "http";

/// What is known of a workload so far, and its addresses.
struct Draft {
    message: wire::Workload,
    ips: Vec<IpAddr>,
}

impl Draft {
    /// What every workload has.
    fn new(world: &World, uid: String, namespace: &str, name: &str) -> Self {
        let message = wire::Workload {
            uid,
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            network: world.network.to_string(),
            trust_domain: world.trust_domain(),
            cluster_id: world.settings.cluster.to_string(),
            ..wire::Workload::default()
        };
        Self { message, ips: Vec::new() }
    }

    /// What telemetry calls it.
    fn set_canonical(&mut self, labels: &Labels, name: &str) {
        let canonical = first_label(labels, &names::CANONICAL_NAME).unwrap_or(name);
        canonical.clone_into(&mut self.message.canonical_name);
        let revision = first_label(labels, &names::CANONICAL_REVISION).unwrap_or(REVISION);
        revision.clone_into(&mut self.message.canonical_revision);
    }

    /// How it is tunnelled to: by its node's agent if it is captured, or by itself.
    fn set_tunnel(&mut self, labels: &Labels, annotations: &Labels) {
        let tunnels = labels.get(names::TUNNEL).unwrap_or_default();
        let is_native = tunnels.split(',').any(|tunnel| tunnel.trim() == TUNNEL_HTTP);
        if is_native || annotations.get(names::REDIRECTION) == Some("enabled") {
            self.message.tunnel_protocol = wire::TunnelProtocol::Hbone.into();
            self.message.native_tunnel = is_native;
        }
    }

    /// As it is sent, if an agent could read it.
    fn finish(
        self,
        world: &World,
        mut policies: Vec<Text>,
        problems: &mut Vec<Problem>,
    ) -> Option<Address> {
        if policies.len() > LIST_MAX {
            problems.push(Problem::TooManyPolicies { found: policies.len(), max: LIST_MAX });
            policies = vec![deny_policy_name(world)];
        }
        self.encode(policies).map_err(|problem| problems.push(problem)).ok()
    }

    fn encode(mut self, policies: Vec<Text>) -> Result<Address, Problem> {
        let ips = self.ips;
        let message = &mut self.message;
        for (what, found, max) in [
            ("services", message.services.len(), LIST_MAX),
            ("addresses", ips.len(), ADDRESSES_MAX),
        ] {
            if found > max {
                return Err(Problem::TooMany { what, found, max });
            }
        }
        message.addresses = ips.iter().map(|ip| address_bytes(*ip)).collect();
        message.authorization_policies = policies.iter().map(ToString::to_string).collect();
        check(message)?;
        let aliases = ips.into_iter().map(|ip| alias(&message.network, ip)).collect();
        let (name, node) = (message.uid.as_str().into(), message.node.as_str().into());
        let services = message.services.keys().map(|key| key.as_str().into()).collect();
        let r#type = Some(wire::address::Type::Workload(self.message));
        let bytes = wire::Address { r#type }.encode_to_vec().into();
        Ok(Address { name, aliases, bytes, node, services, policies })
    }
}

/// Name of the policy that workloads have in place of more policies than an agent reads.
pub(crate) fn deny_policy_name(world: &World) -> Text {
    format!("{}/{DENY_POLICY}", world.settings.root_namespace).into()
}

/// Whether a workload has that policy alone.
pub(crate) fn has_deny_policy(policies: &[Text]) -> bool {
    let name = |policy: &Text| policy.split_once('/').is_some_and(|(_, name)| name == DENY_POLICY);
    policies.first().is_some_and(name)
}

/// The policy: a rule without clauses matches every connection.
pub(crate) fn deny_policy(world: &World) -> security::Authorization {
    security::Authorization {
        name: DENY_POLICY.to_owned(),
        namespace: world.settings.root_namespace.to_string(),
        scope: security::Scope::WorkloadSelector.into(),
        action: security::Action::Deny.into(),
        rules: vec![security::Rule::default()],
        ..security::Authorization::default()
    }
}

/// Texts that were not checked as names.
fn check(message: &wire::Workload) -> Result<(), Problem> {
    let locality = message.locality.clone().unwrap_or_default();
    for (field, text) in [
        ("the uid", &message.uid),
        ("the network", &message.network),
        ("the node's name", &message.node),
        ("the service account", &message.service_account),
        ("the host name", &message.hostname),
        ("the canonical name", &message.canonical_name),
        ("the canonical revision", &message.canonical_revision),
        ("the workload's name", &message.workload_name),
        ("the region", &locality.region),
        ("the zone", &locality.zone),
        ("the subzone", &locality.subzone),
    ] {
        text::check(field, text)?;
    }
    Ok(())
}

/// `region/zone/subzone`, as far as it goes.
fn locality(text: &str) -> Option<wire::Locality> {
    let mut parts = text.splitn(3, '/').map(str::to_owned);
    let mut next = || parts.next().unwrap_or_default();
    let locality = wire::Locality { region: next(), zone: next(), subzone: next() };
    (!text.is_empty()).then_some(locality)
}
