//! Endpoints of service entries: those that are given in the entry, and hosts that DNS resolves.

use std::collections::BTreeSet;
use std::net::IpAddr;

use cluster::service_entry::Resolution;
use cluster::workload_entry::WorkloadEntrySpec;
use cluster::{Kind, ObjectKey, ServiceEntry, Text};
use proto::workload as wire;

use super::Draft;
use super::entry::place;
use super::served::Served;
use crate::bind::Policies;
use crate::changes::Address;
use crate::problem::Problem;
use crate::waypoint::{Traffic, bind};
use crate::wire_value::parse_ip;
use crate::world::World;

/// Endpoints of one entry that are published. Those after them are left out.
const ENDPOINTS_MAX: usize = 10_000;

/// An endpoint and the hosts it serves.
struct Endpoint<'e> {
    spec: std::borrow::Cow<'e, WorkloadEntrySpec>,
    hosts: Vec<&'e Text>,
}

/// Workloads of a service entry, as long as it has one of its hosts. All have the entry's labels:
/// it is the entry that policies select.
pub(crate) fn endpoints(
    world: &World,
    policies: &Policies,
    entry: &ServiceEntry,
    problems: &mut Vec<Problem>,
) -> Vec<Address> {
    let meta = &entry.metadata;
    let key = ObjectKey { kind: Kind::ServiceEntry, name: meta.object_name() };
    let hosts: Vec<&Text> = world.hosts.owned(&key).collect();
    let mut seen = BTreeSet::new();
    let mut addresses = Vec::new();
    for Endpoint { spec, hosts } in list(entry, &hosts) {
        if addresses.len() >= ENDPOINTS_MAX {
            let found = entry.spec.endpoints.len();
            problems.push(Problem::TooMany { what: "endpoints", found, max: ENDPOINTS_MAX });
            break;
        }
        if !seen.insert(spec.address.clone()) {
            problems.push(Problem::twice("spec.endpoints.address", &spec.address));
            continue;
        }
        addresses.extend(endpoint(world, policies, entry, &spec, &hosts, problems));
    }
    addresses
}

/// Addresses that an entry may say are those of its endpoints: also a host may be written as one.
pub(crate) fn endpoint_ips(entry: &ServiceEntry) -> Vec<IpAddr> {
    let given = entry.spec.endpoints.iter().map(|endpoint| &endpoint.address);
    let mut ips: Vec<IpAddr> =
        given.chain(&entry.spec.hosts).filter_map(|text| parse_ip(text)).collect();
    ips.sort_unstable();
    ips.dedup();
    ips
}

/// Endpoints that are given; a DNS entry without any is its own hosts.
fn list<'e>(entry: &'e ServiceEntry, hosts: &[&'e Text]) -> Vec<Endpoint<'e>> {
    use std::borrow::Cow::{Borrowed, Owned};
    if hosts.is_empty() {
        return Vec::new();
    }
    let given = &entry.spec.endpoints;
    if !given.is_empty() {
        let endpoint = |spec| Endpoint { spec: Borrowed(spec), hosts: hosts.to_vec() };
        return given.iter().map(endpoint).collect();
    }
    let is_resolved = match entry.spec.resolution {
        Resolution::Dns | Resolution::DnsRoundRobin => true,
        // The name is known only when somebody asks for it; a waypoint resolves it.
        Resolution::DynamicDns | Resolution::None | Resolution::Static => false,
    };
    if !is_resolved || entry.spec.workload_selector.is_some() {
        return Vec::new();
    }
    // A wildcard cannot be looked up.
    let named = hosts.iter().filter(|host| !host.starts_with('*'));
    let endpoint = |host: &&'e Text| {
        let spec = WorkloadEntrySpec { address: (*host).clone(), ..WorkloadEntrySpec::default() };
        Endpoint { spec: Owned(spec), hosts: vec![*host] }
    };
    named.map(endpoint).collect()
}

fn endpoint(
    world: &World,
    policies: &Policies,
    entry: &ServiceEntry,
    spec: &WorkloadEntrySpec,
    hosts: &[&Text],
    problems: &mut Vec<Problem>,
) -> Option<Address> {
    let meta = &entry.metadata;
    let (namespace, name) = (&meta.namespace, &meta.name);
    let (cluster, address) = (&world.settings.cluster, &spec.address);
    let uid = format!("{cluster}/networking.istio.io/ServiceEntry/{namespace}/{name}/{address}");
    let mut draft = Draft::new(world, uid, namespace, name);
    place(world, &mut draft, spec).map_err(|problem| problems.push(problem)).ok()?;
    draft.set_canonical(&meta.labels, name);
    draft.set_tunnel(&meta.labels, &meta.annotations);
    let mut served = Served::default();
    let number = |name: &str| spec.ports.get(name).copied();
    for host in hosts {
        served.add_host(world, entry, host, &number);
    }
    let binding = bind(world, meta, Traffic::Workload);
    served.add_binding(world, &binding);
    let names = served.policies(policies, namespace, &meta.labels);
    draft.message.workload_name = name.to_string();
    draft.message.workload_type = wire::WorkloadType::Pod.into();
    draft.message.waypoint = binding.destination();
    draft.message.services = served.services;
    draft.finish(world, names, problems)
}
