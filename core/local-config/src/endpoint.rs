//! `endpoints` of a service: the same facts as `services` of its workloads, from the other side.
//!
//! They become entries of the workloads' own `services`, so that there is one place where an
//! endpoint is kept. What the two sides say of one endpoint must agree.

use std::collections::HashMap;

use model::{Health, PortMapping, ServiceName, Workload, WorkloadUid};

use crate::consistency::Placed;
use crate::error::Collector;
use crate::node::{Node, Position};
use crate::read::{Object, Path, owned_text, port_mappings, word};
use crate::workload::STATUS;

/// One endpoint as its service names it.
pub(crate) struct Endpoint {
    position: Position,
    /// Its path in the file.
    field: String,
    uid: WorkloadUid,
    ports: Vec<PortMapping>,
    health: Health,
}

/// `uid: {workloadUid: the same, port: ports, status: word}`.
pub(crate) fn endpoint(
    errors: &mut Collector<'_>,
    key: &str,
    node: &Node,
    path: &Path<'_>,
) -> Option<Endpoint> {
    let mut object = Object::open(errors, node, path)?;
    let uid = object.required(errors, "workloadUid", owned_text);
    let ports = object.required(errors, "port", port_mappings);
    let health = object.required(errors, "status", word(STATUS));
    if let Some(uid) = uid.as_deref().filter(|uid| *uid != key) {
        let at = object.peek("workloadUid").position;
        let cause = "expected the key of the entry";
        errors.push(at, Path::Key(path, "workloadUid"), Some(uid), cause);
    }
    object.finish(errors);
    Some(Endpoint {
        position: node.position,
        field: path.to_string(),
        uid: WorkloadUid(uid?.into()),
        ports: ports?,
        health: health?,
    })
}

/// Adds the endpoints that services name to the services that workloads name.
pub(crate) fn attach(
    errors: &mut Collector<'_>,
    workloads: &mut [Placed<Workload>],
    endpoints: Vec<(ServiceName, Endpoint)>,
) {
    let mut by_uid: HashMap<WorkloadUid, &mut Placed<Workload>> = HashMap::new();
    for placed in workloads {
        by_uid.entry(placed.value.uid.clone()).or_insert(placed);
    }
    for (service, endpoint) in endpoints {
        let Endpoint { position, field, uid, ports, health } = endpoint;
        let Some(placed) = by_uid.get_mut(&uid) else {
            errors.push(position, field, Some(&uid.0), "no such workload in this file");
            continue;
        };
        let index = placed.index;
        if placed.value.health != health {
            // Health is a workload's here, and so it is in what a control plane sends.
            let cause = format!("the status of workloads[{index}] is another");
            errors.push(position, &field, None, cause);
        }
        match placed.value.services.get(&service) {
            None => placed.value.services.insert(service, ports),
            Some(own) if own != ports => {
                let cause = format!("workloads[{index}].services says other ports of it");
                errors.push(position, field, None, cause);
            }
            Some(_) => {}
        }
    }
}
