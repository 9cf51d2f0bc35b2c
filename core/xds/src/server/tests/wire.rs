//! Resources, requests and responses.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::Message;
use proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Status};
use proto::{security, workload};

use crate::server::{
    Catalog, Collection, Connection, ConnectionSettings, Heard, Resource, ResourceType, Response,
    Update,
};

/// A pod whose address ends in `number`; `revision` is what changes.
pub(super) fn pod(number: u8, revision: &str) -> workload::Workload {
    workload::Workload {
        uid: format!("k//Pod/shop/w{number}"),
        name: format!("w{number}"),
        namespace: "shop".into(),
        addresses: vec![vec![10, 0, 0, number].into()],
        network: "n".into(),
        node: format!("node-{}", number % 2),
        canonical_revision: revision.into(),
        ..Default::default()
    }
}

/// The pod as an endpoint of a service.
pub(super) fn endpoint(number: u8, hostname: &str) -> workload::Workload {
    let services = BTreeMap::from([(format!("shop/{hostname}"), workload::PortList::default())]);
    workload::Workload { services, ..pod(number, "1") }
}

pub(super) fn uid(number: u8) -> String {
    pod(number, "").uid
}

pub(super) fn vip(hostname: &str, number: u8) -> workload::Service {
    workload::Service {
        namespace: "shop".into(),
        hostname: hostname.into(),
        addresses: vec![workload::NetworkAddress {
            network: "n".into(),
            address: vec![10, 1, 0, number].into(),
            length: None,
        }],
        ..Default::default()
    }
}

pub(super) fn policy(name: &str, action: i32) -> Resource {
    Resource::policy(&security::Authorization {
        name: name.into(),
        namespace: "shop".into(),
        scope: security::Scope::WorkloadSelector.into(),
        action,
        ..Default::default()
    })
}

pub(super) fn set(resources: Vec<Resource>) -> Update {
    Update { set: resources, removed: vec![] }
}

pub(super) fn remove(collection: Collection, name: &str) -> Update {
    Update { set: vec![], removed: vec![(collection, name.into())] }
}

pub(super) fn catalog(resources: Vec<Resource>) -> Arc<Catalog> {
    Arc::new(Catalog::default().apply(set(resources)).expect("something"))
}

pub(super) fn after(catalog: &Catalog, update: Update) -> Arc<Catalog> {
    Arc::new(catalog.apply(update).expect("a change"))
}

/// A stream whose client says its node.
pub(super) fn connection(catalog: &Arc<Catalog>) -> Connection {
    Connection::new(ConnectionSettings::default(), catalog.clone())
}

pub(super) fn request(kind: ResourceType) -> DeltaDiscoveryRequest {
    let name = prost_types::value::Kind::StringValue("node-1".into());
    let name = prost_types::Value { kind: Some(name) };
    let fields = [("NODE_NAME".to_owned(), name)].into();
    let metadata = Some(prost_types::Struct { fields });
    DeltaDiscoveryRequest {
        node: Some(Node { id: "ztunnel".into(), metadata, ..Node::default() }),
        type_url: kind.url().into(),
        ..Default::default()
    }
}

pub(super) fn subscribe(kind: ResourceType, names: &[&str]) -> DeltaDiscoveryRequest {
    let names = names.iter().map(ToString::to_string).collect();
    DeltaDiscoveryRequest { resource_names_subscribe: names, ..request(kind) }
}

/// A first request for nothing yet.
pub(super) fn on_demand(kind: ResourceType) -> DeltaDiscoveryRequest {
    let unsubscribe = vec!["*".to_owned()];
    DeltaDiscoveryRequest { resource_names_unsubscribe: unsubscribe, ..subscribe(kind, &["*"]) }
}

pub(super) fn holding(
    mut request: DeltaDiscoveryRequest,
    versions: &[(&str, &str)],
) -> DeltaDiscoveryRequest {
    let versions = versions.iter().map(|(name, version)| (name.to_string(), version.to_string()));
    request.initial_resource_versions = versions.collect();
    request
}

pub(super) fn answer(response: &Response, refusal: Option<&str>) -> DeltaDiscoveryRequest {
    let error_detail =
        refusal.map(|message| Status { message: message.into(), ..Status::default() });
    let (type_url, nonce) = (response.kind.url().into(), decoded(response).nonce);
    DeltaDiscoveryRequest { type_url, response_nonce: nonce, error_detail, ..Default::default() }
}

pub(super) fn decoded(response: &Response) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse::decode(response.bytes.clone()).expect("decodes")
}

/// What a response says: resources, then `-` and what is gone, sorted.
pub(super) fn said(response: &Response) -> Vec<String> {
    let response = decoded(response);
    let resources = response.resources.into_iter().map(|resource| resource.name);
    let removed = response.removed_resources.into_iter().map(|name| format!("-{name}"));
    let said: BTreeSet<_> = resources.chain(removed).collect();
    said.into_iter().collect()
}

/// Every response that is due, each accepted.
pub(super) fn settle(connection: &mut Connection) -> Vec<(ResourceType, Vec<String>)> {
    let mut all = Vec::new();
    connection.settle();
    while let Some(response) = connection.respond() {
        all.push((response.kind, said(&response)));
        let heard = connection.receive(answer(&response, None)).expect("within the protocol");
        assert!(matches!(heard, Heard::Answered(_)), "{heard:?}");
    }
    all
}
