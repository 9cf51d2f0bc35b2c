//! Services that a workload is an endpoint of.

use std::collections::{BTreeMap, BTreeSet};

use cluster::service::PortRef;
use cluster::{Kind, Labels, Meta, ObjectKey, ObjectName, Service, ServiceEntry, Text};
use proto::workload as wire;

use crate::bind::Policies;
use crate::service::{
    entry_target_port, entry_tcp_ports, of_name, of_port, target_port, tcp_ports,
};
use crate::store::{Selecting, Space};
use crate::waypoint::{Binding, Traffic, allow_policy_name, bind};
use crate::wire_value::service_name;
use crate::world::World;

/// Services, and the waypoints in front of them.
#[derive(Default)]
pub(super) struct Served {
    pub(super) services: BTreeMap<String, wire::PortList>,
    /// Only where the policies of waypoints are made.
    waypoints: BTreeSet<ObjectName>,
}

impl Served {
    /// Adds the services of the namespace that select these labels. `number` is the number of a
    /// port's name at this workload.
    pub(super) fn add_selecting(
        &mut self,
        world: &World,
        space: &Space,
        namespace: &Text,
        labels: &Labels,
        number: &dyn Fn(&str) -> Option<u16>,
    ) {
        for selecting in space.selectors.matching(labels) {
            match selecting {
                Selecting::Service(name) => {
                    if let Some(service) = space.services.get(name) {
                        let ports = service_ports(service, number);
                        self.add_service(world, service, ports);
                    }
                }
                Selecting::Entry(name) => {
                    if let Some(entry) = space.entries.get(name) {
                        let key = key(Kind::ServiceEntry, namespace, name);
                        for host in world.hosts.owned(&key) {
                            self.add_host(world, entry, host, number);
                        }
                    }
                }
            }
        }
    }

    /// Adds a Kubernetes Service, if its host is its own.
    pub(super) fn add_service(&mut self, world: &World, service: &Service, ports: wire::PortList) {
        let Meta { namespace, name, .. } = &service.metadata;
        let host = world.service_host(namespace, name);
        if world.hosts.owns(&key(Kind::Service, namespace, name), &host) {
            self.services.insert(service_name(namespace, &host), ports);
            self.add_waypoints(world, &service.metadata);
        }
    }

    /// Adds one host of an entry.
    pub(super) fn add_host(
        &mut self,
        world: &World,
        entry: &ServiceEntry,
        host: &str,
        number: &dyn Fn(&str) -> Option<u16>,
    ) {
        let ports = entry_ports(entry, number);
        self.services.insert(service_name(&entry.metadata.namespace, host), ports);
        self.add_waypoints(world, &entry.metadata);
    }

    fn add_waypoints(&mut self, world: &World, meta: &Meta) {
        if world.settings.allow_waypoints {
            self.add_binding(world, &bind(world, meta, Traffic::Service));
        }
    }

    /// Adds the waypoints of a binding.
    pub(super) fn add_binding(&mut self, world: &World, binding: &Binding<'_>) {
        if world.settings.allow_waypoints {
            self.waypoints.extend(binding.waypoints().cloned());
        }
    }

    /// Policies of a workload: those that select it, and those of its waypoints.
    pub(super) fn policies(
        &self,
        policies: &Policies,
        namespace: &str,
        labels: &Labels,
    ) -> Vec<Text> {
        let mut names = policies.bound(namespace, labels);
        names.extend(self.waypoints.iter().map(allow_policy_name));
        names.sort_unstable();
        names.dedup();
        names
    }
}

fn key(kind: Kind, namespace: &Text, name: &Text) -> ObjectKey {
    ObjectKey { kind, name: ObjectName { namespace: namespace.clone(), name: name.clone() } }
}

/// A port whose name the workload does not have is none of its own.
fn service_ports(service: &Service, number: &dyn Fn(&str) -> Option<u16>) -> wire::PortList {
    let ports = tcp_ports(&service.spec).filter_map(|port| {
        let target = match &port.target_port {
            Some(PortRef::Name(name)) => number(name).filter(|number| *number > 0)?,
            Some(PortRef::Number(_)) | None => target_port(port),
        };
        Some(wire::Port {
            service_port: port.port.into(),
            target_port: target.into(),
            app_protocol: of_port(port).into(),
        })
    });
    wire::PortList { ports: ports.collect() }
}

/// A port that the workload has under the same name is that one.
fn entry_ports(entry: &ServiceEntry, number: &dyn Fn(&str) -> Option<u16>) -> wire::PortList {
    let ports = entry_tcp_ports(entry).map(|port| {
        let named = number(&port.name).filter(|number| *number > 0);
        wire::Port {
            service_port: port.number.into(),
            target_port: named.unwrap_or_else(|| entry_target_port(port)).into(),
            app_protocol: of_name(&port.protocol).into(),
        }
    });
    wire::PortList { ports: ports.collect() }
}
