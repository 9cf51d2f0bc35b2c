//! Endpoints that a slice describes and that are no pods: an API server, or a machine somewhere.

use std::collections::BTreeSet;

use cluster::endpoint_slice::{AddressType, Endpoint};
use cluster::pod::Protocol;
use cluster::{EndpointSlice, Meta, Service, Text};
use proto::workload as wire;

use super::Draft;
use super::served::Served;
use crate::changes::Address;
use crate::names;
use crate::problem::Problem;
use crate::service::{has_host, of_port, tcp_ports};
use crate::store::Space;
use crate::wire_value::parse_ip;
use crate::world::World;

/// Kind of a target that is translated from its own object.
const POD: &str = "Pod";

/// The service of a slice.
pub(super) fn service_of<'s>(space: &'s Space, slice: &EndpointSlice) -> Option<&'s Service> {
    let name = slice.metadata.label(names::SLICE_SERVICE)?;
    space.services.get(name).map(|service| &**service)
}

/// Pods that a slice makes endpoints of its service. A service with a selector has its pods by
/// that.
pub(crate) fn pods_of(space: &Space, slice: &EndpointSlice) -> BTreeSet<Text> {
    let is_by_slices = service_of(space, slice)
        .is_some_and(|service| has_host(service) && service.spec.selector.is_empty());
    let targets = slice.endpoints.iter().filter(|_| is_by_slices).filter_map(|e| pod_of(e, slice));
    targets.cloned().collect()
}

/// The pod of an endpoint.
fn pod_of<'e>(endpoint: &'e Endpoint, slice: &EndpointSlice) -> Option<&'e Text> {
    let target = endpoint.target_ref.as_ref()?;
    let is_near = target.namespace.is_empty() || target.namespace == slice.metadata.namespace;
    (*target.kind == *POD && is_near).then_some(&target.name)
}

/// Whether a slice means this very pod, and not one that had its name before.
pub(super) fn names_pod(slice: &EndpointSlice, pod: &Meta) -> bool {
    slice.endpoints.iter().any(|endpoint| {
        let target = endpoint.target_ref.as_ref();
        let is_same = |uid: &str| uid.is_empty() || pod.uid.is_empty() || *uid == *pod.uid;
        pod_of(endpoint, slice) == Some(&pod.name) && target.is_some_and(|t| is_same(&t.uid))
    })
}

/// Ports of a slice, which have the names of the service's.
pub(super) fn ports(service: &Service, slice: &EndpointSlice) -> wire::PortList {
    let ports = slice.ports.iter().filter(|port| port.protocol == Protocol::Tcp);
    let ports = ports.filter_map(|port| {
        let number = port.port.filter(|number| *number > 0)?;
        let of_service = tcp_ports(&service.spec).find(|each| each.name == port.name)?;
        Some(wire::Port {
            service_port: of_service.port.into(),
            target_port: number.into(),
            app_protocol: of_port(of_service).into(),
        })
    });
    wire::PortList { ports: ports.collect() }
}

/// Endpoints of a slice that are not pods. Nothing is known of them but where they are, so their
/// addresses may be somebody else's too.
pub(crate) fn endpoints_of_slice(
    world: &World,
    slice: &EndpointSlice,
    problems: &mut Vec<Problem>,
) -> Vec<Address> {
    let meta = &slice.metadata;
    let Some(space) = world.store.space(&meta.namespace) else { return Vec::new() };
    let Some(service) = service_of(space, slice) else { return Vec::new() };
    if slice.address_type == AddressType::Fqdn || !world.is_seen(&meta.namespace) {
        return Vec::new();
    }
    let mut served = Served::default();
    served.add_service(world, service, ports(service, slice));
    if served.services.is_empty() {
        return Vec::new();
    }
    let mut seen = BTreeSet::new();
    let mut addresses = Vec::new();
    for endpoint in &slice.endpoints {
        if endpoint.target_ref.as_ref().is_some_and(|target| *target.kind == *POD) {
            continue;
        }
        // A second address of an endpoint has no meaning (Kubernetes documents it so).
        let Some(text) = endpoint.addresses.first() else { continue };
        let Some(ip) = parse_ip(text) else {
            problems.push(Problem::address("endpoints.addresses", text));
            continue;
        };
        if !seen.insert(ip) {
            continue;
        }
        let cluster = &world.settings.cluster;
        let (namespace, name) = (&meta.namespace, &meta.name);
        let uid = format!("{cluster}/discovery.k8s.io/EndpointSlice/{namespace}/{name}/{ip}");
        let mut draft = Draft { ips: vec![ip], ..Draft::new(world, uid, namespace, name) };
        let is_ready = endpoint.conditions.ready.unwrap_or(true);
        let health =
            if is_ready { wire::WorkloadStatus::Healthy } else { wire::WorkloadStatus::Unhealthy };
        draft.message.status = health.into();
        draft.message.network_mode = wire::NetworkMode::HostNetwork.into();
        draft.message.services.clone_from(&served.services);
        addresses.extend(draft.finish(world, Vec::new(), problems));
    }
    addresses
}
