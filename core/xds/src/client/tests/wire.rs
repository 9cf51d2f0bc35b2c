//! Responses as a control plane sends them.

use std::time::Instant;

use prost::Message;
use proto::discovery::{Any, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use proto::{security, workload};

use crate::client::{Client, ClientSettings, Mode, Received};
use crate::kind::Kind;

#[expect(clippy::disallowed_methods, reason = "an Instant has no other origin")]
pub(super) fn start() -> Instant {
    Instant::now()
}

pub(super) fn settings(mode: Mode) -> ClientSettings {
    let node = proto::discovery::Node { id: "node".into(), ..Default::default() };
    ClientSettings { node, mode, policies: authz::Settings::default() }
}

pub(super) fn client(mode: Mode) -> Client {
    Client::new(settings(mode))
}

/// A pod whose address ends in `number`.
pub(super) fn workload(number: u8) -> workload::Workload {
    workload::Workload {
        uid: format!("k//Pod/shop/w{number}"),
        name: format!("w{number}"),
        namespace: "shop".into(),
        addresses: vec![vec![10, 0, 0, number].into()],
        ..Default::default()
    }
}

pub(super) fn address(number: u8, version: &str) -> Resource {
    address_of(workload(number), version)
}

pub(super) fn address_of(workload: workload::Workload, version: &str) -> Resource {
    let name = workload.uid.clone();
    let body = workload::Address { r#type: Some(workload::address::Type::Workload(workload)) };
    resource(Kind::Address, &name, version, &body)
}

/// A service with a virtual address that ends in `number`.
pub(super) fn service(hostname: &str, number: u8) -> Resource {
    service_at(hostname, vec![10, 1, 0, number], None)
}

/// A service with a block of addresses.
pub(super) fn block(hostname: &str, length: u32) -> Resource {
    service_at(hostname, vec![10, 0, 0, 0], Some(length))
}

fn service_at(hostname: &str, address: Vec<u8>, length: Option<u32>) -> Resource {
    let body = workload::Service {
        namespace: "shop".into(),
        hostname: hostname.into(),
        addresses: vec![workload::NetworkAddress {
            address: address.into(),
            length,
            ..Default::default()
        }],
        ..Default::default()
    };
    let body = workload::Address { r#type: Some(workload::address::Type::Service(body)) };
    resource(Kind::Address, &format!("shop/{hostname}"), "1", &body)
}

pub(super) fn policy(name: &str, scope: security::Scope) -> Resource {
    let body = security::Authorization {
        name: name.into(),
        namespace: "shop".into(),
        scope: scope.into(),
        ..Default::default()
    };
    resource(Kind::Authorization, &format!("shop/{name}"), "", &body)
}

pub(super) fn resource(kind: Kind, name: &str, version: &str, body: &impl Message) -> Resource {
    raw(kind, name, version, body.encode_to_vec())
}

pub(super) fn raw(kind: Kind, name: &str, version: &str, bytes: Vec<u8>) -> Resource {
    Resource {
        version: version.into(),
        resource: Some(Any { type_url: kind.url().into(), value: bytes.into() }),
        name: name.into(),
        aliases: vec![],
    }
}

pub(super) fn response(
    kind: Kind,
    nonce: &str,
    resources: Vec<Resource>,
    removed: &[&str],
) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        resources,
        type_url: kind.url().into(),
        nonce: nonce.into(),
        removed_resources: removed.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}

/// The text of the refusal in the first request; `None` if it accepts.
pub(super) fn nack(received: &Received) -> Option<&str> {
    let answer = received.requests.first().expect("an answer");
    answer.error_detail.as_ref().map(|status| status.message.as_str())
}

/// Uids of the state, sorted.
pub(super) fn uids(client: &Client) -> Vec<String> {
    let mut uids: Vec<_> = client.snapshot().workloads().map(|w| w.uid.to_string()).collect();
    uids.sort_unstable();
    uids
}

/// Names and versions in a first request.
pub(super) fn told(request: &DeltaDiscoveryRequest) -> Vec<(&str, &str)> {
    let versions = &request.initial_resource_versions;
    versions.iter().map(|(name, version)| (name.as_str(), version.as_str())).collect()
}
