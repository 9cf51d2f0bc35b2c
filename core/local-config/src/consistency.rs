//! What must hold between the parts of a file.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Display;
use std::hash::Hash;

use authz::Policy;
use model::{NetworkMode, Service, Workload};

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
