//! Workload entries.

use std::net::IpAddr;

use cluster::workload_entry::WorkloadEntrySpec;
use cluster::{Kind, Labels, ObjectKey, ObjectName, WorkloadEntry};
use proto::workload as wire;

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

/// The address that an entry says is its own.
pub(crate) fn entry_ip(entry: &WorkloadEntry) -> Option<IpAddr> {
    parse_ip(&entry.spec.address).filter(|_| entry.spec.network.is_empty())
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
    place(&mut draft, &entry.spec).map_err(|problem| problems.push(problem)).ok()?;
    let key = ObjectKey { kind: Kind::WorkloadEntry, name: meta.object_name() };
    problems.extend(entry_ip(entry).and_then(|ip| shared(world, ip, &key)));
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
    draft.finish(names).map_err(|problem| problems.push(problem)).ok()
}

/// Where an endpoint is and who it is.
pub(super) fn place(draft: &mut Draft, spec: &WorkloadEntrySpec) -> Result<(), Problem> {
    match parse_ip(&spec.address) {
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
    }
    draft.message.locality = locality(&spec.locality);
    draft.message.capacity = spec.weight.filter(|weight| *weight > 0);
    Ok(())
}

/// Another workload with the same address.
fn shared(world: &World, address: IpAddr, key: &ObjectKey) -> Option<Problem> {
    let claimants = world.store.by_address.get(&address)?;
    let mut others = claimants.iter().filter(|other| *other != key);
    let with = others.find(|other| world.is_seen(&other.name.namespace))?.clone();
    Some(Problem::AddressShared { address, with })
}
