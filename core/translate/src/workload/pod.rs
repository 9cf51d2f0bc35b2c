//! Pods.

use std::net::IpAddr;

use cluster::{Kind, ObjectKey, ObjectName, Pod, Text};
use proto::workload as wire;

use super::served::Served;
use super::{Draft, owner, slice};
use crate::bind::Policies;
use crate::changes::Address;
use crate::names;
use crate::problem::Problem;
use crate::store::{Space, Store};
use crate::waypoint::{Traffic, bind};
use crate::wire_value::parse_ip;
use crate::world::World;

/// A pod's uid.
pub(crate) fn pod_uid(world: &World, name: &ObjectName) -> String {
    let ObjectName { namespace, name } = name;
    format!("{}//Pod/{namespace}/{name}", world.settings.cluster)
}

/// A pod that has an address and has not ended. One that is pending counts: its init containers
/// already have an identity.
pub(crate) fn pod(
    world: &World,
    policies: &Policies,
    pod: &Pod,
    problems: &mut Vec<Problem>,
) -> Option<Address> {
    let meta = &pod.metadata;
    let space = world.store.space(&meta.namespace)?;
    if pod.has_ended() || !world.is_seen(&meta.namespace) {
        return None;
    }
    let ips = ips(world, pod, problems);
    if ips.is_empty() {
        return None;
    }
    let uid = pod_uid(world, &meta.object_name());
    let mut draft = Draft { ips, ..Draft::new(world, uid, &meta.namespace, &meta.name) };
    let (workload_name, workload_type) = owner::owner(pod);
    draft.set_canonical(&meta.labels, &workload_name);
    draft.set_tunnel(&meta.labels, &meta.annotations);
    let binding = bind(world, meta, Traffic::Workload);
    let mut served = served(world, space, pod);
    served.add_binding(world, &binding);
    let names = served.policies(policies, &meta.namespace, &meta.labels);
    let health = if pod.is_ready() {
        wire::WorkloadStatus::Healthy
    } else {
        wire::WorkloadStatus::Unhealthy
    };
    let mode = if pod.spec.host_network {
        wire::NetworkMode::HostNetwork
    } else {
        wire::NetworkMode::Standard
    };
    let message = &mut draft.message;
    pod.service_account().clone_into(&mut message.service_account);
    message.node = pod.spec.node_name.to_string();
    message.workload_name = workload_name.to_string();
    message.workload_type = workload_type.into();
    message.status = health.into();
    message.network_mode = mode.into();
    message.waypoint = binding.destination();
    message.application_tunnel = world.waypoints.made_for(meta).and_then(|gateway| gateway.tunnel);
    message.locality = node_locality(&world.store, &pod.spec.node_name);
    message.services = served.services;
    draft.finish(world, names, problems)
}

/// Policies that select a pod by its labels: what a change of policies is compared with.
pub(crate) fn pod_labels_policies(policies: &Policies, pod: &Pod) -> Vec<Text> {
    policies.bound(&pod.metadata.namespace, &pod.metadata.labels)
}

/// Addresses that are the pod's own, or its node's. One that a newer pod has is not its any more.
fn ips(world: &World, pod: &Pod, problems: &mut Vec<Problem>) -> Vec<IpAddr> {
    let mut ips = Vec::new();
    for text in pod.ips() {
        let Some(ip) = parse_ip(text) else {
            problems.push(Problem::address("status.podIPs", text));
            continue;
        };
        if ips.contains(&ip) {
            continue;
        }
        if !pod.spec.host_network
            && let Some(newer) = holder(world, ip, pod)
        {
            problems.push(Problem::AddressLost { address: ip, to: newer });
            continue;
        }
        ips.push(ip);
    }
    ips
}

/// The other pod that an address belongs to.
fn holder(world: &World, ip: IpAddr, pod: &Pod) -> Option<ObjectKey> {
    pod_at(world, ip).filter(|holder| holder.name != pod.metadata.object_name())
}

/// The pod that an address of this cluster's network belongs to: the newest that has not ended.
pub(super) fn pod_at(world: &World, ip: IpAddr) -> Option<ObjectKey> {
    let claimants = world.store.by_address.get(&ip)?;
    let pods = claimants.iter().filter(|key| key.kind == Kind::Pod);
    let pods = pods.filter(|key| world.is_seen(&key.name.namespace));
    let pods = pods.filter_map(|key| world.store.pod(&key.name));
    let newest =
        pods.max_by_key(|pod| (pod.metadata.deletion_timestamp.is_none(), pod.metadata.age()))?;
    Some(ObjectKey { kind: Kind::Pod, name: newest.metadata.object_name() })
}

/// Where a node is.
fn node_locality(store: &Store, node: &str) -> Option<wire::Locality> {
    let meta = &store.nodes.get(node)?.metadata;
    let label = |key| meta.label(key).unwrap_or_default().to_owned();
    let (region, zone, subzone) = (label(names::REGION), label(names::ZONE), label(names::SUBZONE));
    let is_known = !(region.is_empty() && zone.is_empty() && subzone.is_empty());
    is_known.then_some(wire::Locality { region, zone, subzone })
}

/// Services that select the pod, and those without a selector whose slices name it.
fn served(world: &World, space: &Space, pod: &Pod) -> Served {
    let meta = &pod.metadata;
    let mut served = Served::default();
    let number = |name: &str| pod.named_port(name);
    served.add_selecting(world, space, &meta.namespace, &meta.labels, &number);
    for name in space.slices_by_pod.get(&meta.name).into_iter().flatten() {
        let Some(endpoints) = space.slices.get(name) else { continue };
        if slice::names_pod(endpoints, meta)
            && let Some(service) = slice::service_of(space, endpoints)
        {
            served.add_service(world, service, slice::ports(service, endpoints));
        }
    }
    served
}
