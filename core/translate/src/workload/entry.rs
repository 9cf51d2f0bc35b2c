//! Workload entries.

use std::net::IpAddr;

use cluster::workload_entry::WorkloadEntrySpec;
use cluster::{Kind, Labels, ObjectKey, ObjectName, WorkloadEntry};
use proto::workload as wire;

use super::pod::pod_at;
use super::served::Served;
use super::{Draft, locality};
use crate::bind::Policies;
use crate::changes::Address;
use crate::problem::Problem;
use crate::text;
use crate::waypoint::{Traffic, bind};
use crate::wire_value::parse_ip;
use crate::world::World;

/// A workload entry's uid.
pub(crate) fn workload_entry_uid(world: &World, name: &ObjectName) -> String {
    let ObjectName { namespace, name } = name;
    let cluster = &world.settings.cluster;
    format!("{cluster}/networking.istio.io/WorkloadEntry/{namespace}/{name}")
}

/// Labels of the workload: the spec's and the object's, which count where both have one.
pub(crate) fn labels_of(entry: &WorkloadEntry) -> Labels {
    if entry.spec.labels.is_empty() {
        return entry.metadata.labels.clone();
    }
    entry.spec.labels.iter().chain(entry.metadata.labels.iter()).collect()
}

/// The address that an entry says is its own, of whatever network.
pub(crate) fn entry_ip(entry: &WorkloadEntry) -> Option<IpAddr> {
    parse_ip(&entry.spec.address)
}

/// Whether an address is one of this cluster's network.
fn is_near(world: &World, spec: &WorkloadEntrySpec) -> bool {
    spec.network.is_empty() || spec.network == world.network
}

/// A workload entry: always taken to be healthy.
pub(crate) fn workload_entry(
    world: &World,
    policies: &Policies,
    entry: &WorkloadEntry,
    problems: &mut Vec<Problem>,
) -> Option<Address> {
    let meta = &entry.metadata;
    let space = world.store.space(&meta.namespace)?;
    if !world.counts(meta) {
        return None;
    }
    let uid = workload_entry_uid(world, &meta.object_name());
    let mut draft = Draft::new(world, uid, &meta.namespace, &meta.name);
    place(world, &mut draft, &entry.spec).map_err(|problem| problems.push(problem)).ok()?;
    let key = ObjectKey { kind: Kind::WorkloadEntry, name: meta.object_name() };
    let own = entry_ip(entry).filter(|_| is_near(world, &entry.spec));
    problems.extend(own.and_then(|ip| shared(world, ip, &key)));
    let labels = labels_of(entry);
    draft.set_canonical(&labels, &meta.name);
    draft.set_tunnel(&labels, &meta.annotations);
    let mut served = Served::default();
    let number = |name: &str| entry.spec.ports.get(name).copied();
    served.add_selecting(world, space, &meta.namespace, &labels, &number);
    let binding = bind(world, meta, Traffic::Workload);
    served.add_binding(world, &binding);
    let names = served.policies(policies, &meta.namespace, &labels);
    draft.message.workload_name = meta.name.to_string();
    draft.message.workload_type = wire::WorkloadType::Pod.into();
    draft.message.waypoint = binding.destination();
    draft.message.services = served.services;
    draft.finish(world, names, problems)
}

/// Where an endpoint is and who it is. Whoever may write an entry says so without proof, so it gets
/// no address that is a pod's own: what is sent there would meet another's policies.
pub(super) fn place(
    world: &World,
    draft: &mut Draft,
    spec: &WorkloadEntrySpec,
) -> Result<(), Problem> {
    let address = parse_ip(&spec.address);
    if let Some(address) = address.filter(|_| is_near(world, spec))
        && let Some(pod) = pod_at(world, address)
    {
        return Err(Problem::AddressOfPod { address, pod });
    }
    match address {
        Some(ip) => draft.ips.push(ip),
        // It is reached through a gateway of its network.
        None if spec.address.is_empty() && !spec.network.is_empty() => {}
        None if text::is_host(&spec.address) => {
            draft.message.hostname = spec.address.to_string();
        }
        None => return Err(Problem::name("address", &spec.address)),
    }
    let account = &spec.service_account;
    if !account.is_empty() && !text::is_name(account) {
        return Err(Problem::name("serviceAccount", account));
    }
    draft.message.service_account = account.to_string();
    if !spec.network.is_empty() {
        draft.message.network = spec.network.to_string();
        draft.message.network_gateway = world.networks.destination(&spec.network).cloned();
    }
    draft.message.locality = locality(&spec.locality);
    draft.message.capacity = spec.weight.filter(|weight| *weight > 0);
    Ok(())
}

/// Another workload entry with the same address.
fn shared(world: &World, address: IpAddr, key: &ObjectKey) -> Option<Problem> {
    let claimants = world.store.by_address.get(&address)?;
    let with = claimants.iter().find(|other| {
        let entry = world.store.workload_entry(&other.name);
        let is_entry = other.kind == Kind::WorkloadEntry && *other != key;
        let is_near = entry.is_some_and(|entry| is_near(world, &entry.spec));
        is_entry && is_near && world.is_seen(&other.name.namespace)
    })?;
    Some(Problem::AddressShared { address, with: with.clone() })
}
