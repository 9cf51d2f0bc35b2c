//! Tables: objects as YAML, and what is sent of them.

mod attachments;
mod hosts;
mod incremental;
mod networks;
mod scale;
mod services;
mod waypoints;
mod workloads;

use std::collections::BTreeMap;

use cluster::manifest;
use cluster::{Kind, Object, ObjectKey, ObjectName, Text};
use model::TrustDomain;
use prost::Message;
use proto::workload as wire;
use proto::workload::address::Type;

use crate::{Change, Changes, Settings, Translator};

/// A translator and the mesh as a client has it.
struct Mesh {
    translator: Translator,
    addresses: BTreeMap<Text, crate::Address>,
    policies: BTreeMap<Text, crate::Authorization>,
}

impl Mesh {
    fn new(settings: Settings) -> Self {
        let translator = Translator::new(settings);
        Self { translator, addresses: BTreeMap::new(), policies: BTreeMap::new() }
    }

    /// A mesh with these objects.
    fn of(text: &str) -> Self {
        Self::with(settings(), text)
    }

    fn with(settings: Settings, text: &str) -> Self {
        let mut mesh = Self::new(settings);
        mesh.set(text);
        mesh
    }

    /// Applies objects; what changed.
    fn set(&mut self, text: &str) -> Changes {
        for object in objects(text) {
            self.translator.apply(Change::Set(object));
        }
        self.settle()
    }

    fn delete(&mut self, kind: Kind, namespace: &str, name: &str) -> Changes {
        self.translator.apply(Change::Delete(key(kind, namespace, name)));
        self.settle()
    }

    /// Takes what changed, as a client does: what it cannot read is an error.
    fn settle(&mut self) -> Changes {
        let changes = self.translator.settle();
        let mut interner = xds::Interner::default();
        for (name, address) in &changes.addresses {
            match address {
                None => assert!(self.addresses.remove(name).is_some(), "{name} was not there"),
                Some(address) => {
                    assert_eq!(*name, address.name);
                    let read = xds::parse_address(name, &address.bytes, &mut interner);
                    read.unwrap_or_else(|invalid| panic!("{name}: {invalid}"));
                    self.addresses.insert(name.clone(), address.clone());
                }
            }
        }
        for (name, policy) in &changes.policies {
            match policy {
                None => drop(self.policies.remove(name)),
                Some(policy) => drop(self.policies.insert(name.clone(), policy.clone())),
            }
        }
        changes
    }

    fn message(&self, name: &str) -> Type {
        let address = self.addresses.get(name);
        let address = address.unwrap_or_else(|| panic!("no {name} in {:?}", self.names()));
        let message = wire::Address::decode(&*address.bytes).expect("decodes");
        message.r#type.expect("is one of both")
    }

    fn workload(&self, name: &str) -> wire::Workload {
        match self.message(name) {
            Type::Workload(workload) => workload,
            Type::Service(service) => panic!("{service:?}"),
        }
    }

    fn pod(&self, name: &str) -> wire::Workload {
        self.workload(&format!("Kubernetes//Pod/{name}"))
    }

    fn service(&self, name: &str) -> wire::Service {
        match self.message(name) {
            Type::Service(service) => service,
            Type::Workload(workload) => panic!("{workload:?}"),
        }
    }

    fn names(&self) -> Vec<&str> {
        self.addresses.keys().map(|name| &**name).collect()
    }

    /// `kind status reason` of each condition of an object.
    fn conditions(&self, kind: Kind, namespace: &str, name: &str) -> Vec<String> {
        let conditions = self.translator.status(&key(kind, namespace, name)).unwrap_or_default();
        conditions.iter().map(|c| format!("{} {} {}", c.kind, c.status, c.reason)).collect()
    }

    /// What is wrong, each with its object.
    fn problems(&self) -> Vec<String> {
        self.translator.problems().map(|(key, problem)| format!("{key}: {problem}")).collect()
    }
}

fn settings() -> Settings {
    Settings::new(TrustDomain::default())
}

fn key(kind: Kind, namespace: &str, name: &str) -> ObjectKey {
    ObjectKey { kind, name: ObjectName::new(namespace, name) }
}

fn objects(text: &str) -> Vec<Object> {
    let manifest = manifest::read(text);
    assert_eq!(manifest.errors, []);
    manifest.objects
}

/// Names of the addresses that changed, those that are gone with a `-`.
fn changed(changes: &Changes) -> Vec<String> {
    let name = |(name, address): &(Text, Option<crate::Address>)| match address {
        Some(_) => name.to_string(),
        None => format!("-{name}"),
    };
    changes.addresses.iter().map(name).collect()
}

/// `port->target` of each port.
fn ports(ports: &[wire::Port]) -> String {
    let port = |port: &wire::Port| format!("{}->{}", port.service_port, port.target_port);
    ports.iter().map(port).collect::<Vec<_>>().join(" ")
}

/// `service: ports` of each service of a workload.
fn served(workload: &wire::Workload) -> Vec<String> {
    let services = workload.services.iter();
    services.map(|(name, list)| format!("{name}: {}", ports(&list.ports))).collect()
}

/// A destination as text.
fn gateway(gateway: Option<&wire::GatewayAddress>) -> String {
    use wire::gateway_address::Destination;
    let Some(gateway) = gateway else { return "-".to_owned() };
    let port = gateway.hbone_mtls_port;
    match gateway.destination.as_ref().expect("has one") {
        Destination::Hostname(name) => format!("{}/{}:{port}", name.namespace, name.hostname),
        Destination::Address(address) => format!("{}:{port}", ip(&address.address)),
    }
}

fn ip(bytes: &[u8]) -> String {
    let v4 = <[u8; 4]>::try_from(bytes).map(std::net::IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(std::net::IpAddr::from))
        .expect("an address")
        .to_string()
}

/// Addresses of a service as text.
fn vips(service: &wire::Service) -> Vec<String> {
    let vip = |address: &wire::NetworkAddress| match address.length {
        None => ip(&address.address),
        Some(length) => format!("{}/{length}", ip(&address.address)),
    };
    service.addresses.iter().map(vip).collect()
}
