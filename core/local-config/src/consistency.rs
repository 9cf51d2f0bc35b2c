//! What must hold between the parts of a file.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Display;
use std::hash::Hash;

use authz::Policy;
use ipnet::IpNet;
use model::{Gateway, GatewayDestination, NetworkAddress, NetworkMode, Service, Workload};

use crate::error::Collector;
use crate::node::Position;

/// A value with its place: its index in its list and its position in the file.
pub(crate) struct Placed<T> {
    pub(crate) index: usize,
    pub(crate) position: Position,
    pub(crate) value: T,
}

/// Reports what is there twice, and what refers to something that is not there.
pub(crate) fn check(
    errors: &mut Collector<'_>,
    workloads: &[Placed<Workload>],
    services: &[Placed<Service>],
    policies: &[Placed<Policy>],
) {
    unique(errors, "policies", policies, |policy| vec![("name", policy.name.clone())]);
    unique(errors, "services", services, |service| vec![("hostname", service.name.clone())]);
    unique(errors, "workloads", workloads, |workload| vec![("uid", workload.uid.clone())]);
    unique(errors, "workloads", workloads, |workload| {
        // The network first: an empty one is shown as nothing.
        let of = |ip| format!("{}/{ip}", workload.network);
        match workload.network_mode {
            NetworkMode::Standard => {
                workload.addresses.iter().map(|ip| ("workloadIps", of(ip))).collect()
            }
            // The address of a node belongs to many.
            NetworkMode::HostNetwork => Vec::new(),
        }
    });
    // A pod is enrolled by this name, so it must lead to one workload.
    unique(errors, "workloads", workloads, |workload| {
        vec![("name", format!("{} in cluster {}", workload.key, workload.cluster))]
    });
    let known: HashSet<_> = services.iter().map(|service| &service.value.name).collect();
    for workload in workloads {
        for name in workload.value.services.keys().filter(|name| !known.contains(name)) {
            let field = format!("workloads[{}].services[\"{name}\"]", workload.index);
            errors.push(workload.position, field, None, "no such service in this file");
        }
    }
    gateways(errors, workloads, services);
}

/// Reports waypoints and gateways that are not in the file: every connection that needs one would
/// be refused.
fn gateways(
    errors: &mut Collector<'_>,
    workloads: &[Placed<Workload>],
    services: &[Placed<Service>],
) {
    let names: HashSet<_> = services.iter().map(|service| &service.value.name).collect();
    let found_by_address = |workload: &&Placed<Workload>| match workload.value.network_mode {
        NetworkMode::Standard => true,
        NetworkMode::HostNetwork => false,
    };
    let addresses: HashSet<_> = workloads
        .iter()
        .filter(found_by_address)
        .flat_map(|w| w.value.addresses.iter().map(|ip| (&w.value.network, *ip)))
        .collect();
    let of_services = || services.iter().flat_map(|service| &service.value.addresses);
    let vips: HashSet<_> = of_services().map(|vip| (&vip.network, vip.net)).collect();
    let blocks: Vec<_> =
        of_services().filter(|vip| vip.net.prefix_len() < vip.net.max_prefix_len()).collect();
    let mut check = |at: Position, field: String, gateway: &Gateway| {
        let known = match &gateway.destination {
            GatewayDestination::Service(name) => names.contains(name),
            GatewayDestination::Address(NetworkAddress { network, ip }) => {
                addresses.contains(&(network, *ip))
                    || vips.contains(&(network, IpNet::from(*ip)))
                    || blocks.iter().any(|b| b.network == *network && b.net.contains(ip))
            }
        };
        if !known {
            let cause = "no such service or address in this file";
            errors.push(at, field, Some(&gateway.to_string()), cause);
        }
    };
    for Placed { index, position, value } in workloads {
        for (key, gateway) in
            [("waypoint", &value.waypoint), ("networkGateway", &value.network_gateway)]
        {
            if let Some(gateway) = gateway {
                check(*position, format!("workloads[{index}].{key}"), gateway);
            }
        }
    }
    for Placed { index, position, value } in services {
        let waypoint = value.waypoint.iter().map(|g| (format!("services[{index}].waypoint"), g));
        let weighted = value.weighted_waypoints.iter().enumerate().map(|(nth, waypoint)| {
            (format!("services[{index}].weightedWaypoints[{nth}]"), &waypoint.gateway)
        });
        for (field, gateway) in waypoint.chain(weighted) {
            check(*position, field, gateway);
        }
    }
}

fn unique<T, K: Hash + Eq + Ord + Display>(
    errors: &mut Collector<'_>,
    list: &str,
    values: &[Placed<T>],
    keys: impl Fn(&T) -> Vec<(&'static str, K)>,
) {
    let mut seen: HashMap<K, usize> = HashMap::new();
    for placed in values {
        let keys: BTreeMap<K, &str> =
            keys(&placed.value).into_iter().map(|(field, key)| (key, field)).collect();
        for (key, field) in keys {
            match seen.get(&key) {
                Some(first) => {
                    let cause = format!("the same as that of {list}[{first}]");
                    let field = format!("{list}[{}].{field}", placed.index);
                    errors.push(placed.position, field, Some(&key.to_string()), cause);
                }
                None => {
                    seen.insert(key, placed.index);
                }
            }
        }
    }
}
