//! What is too much, found before it is decoded; and what is large.

use prost::Message;
use proto::discovery::{DeltaDiscoveryRequest, Node, Status};

use super::wire::{catalog, connection, pod, policy, request, settle};
use crate::server::{
    LARGE_BYTES, NAME_BYTES_MAX, OTHER_BYTES_MAX, RequestViolation, Resource, ResourceType,
    SUBSCRIBED_MAX, VERSION_BYTES_MAX, VERSIONS_MAX, decode,
};
use RequestViolation::{
    LongName, LongVersion, TooManyNames, TooManyVersions, TooMuchElse, Undecodable,
};

fn names(count: usize) -> Vec<String> {
    vec![String::new(); count]
}

#[test]
fn a_request_within_its_bounds_is_read_as_it_is() {
    let node = Node { id: "ztunnel~1".into(), ..Node::default() };
    let uid = "n".repeat(NAME_BYTES_MAX);
    let version = "v".repeat(VERSION_BYTES_MAX);
    let whole = DeltaDiscoveryRequest {
        node: Some(node),
        type_url: ResourceType::Address.url().into(),
        resource_names_subscribe: names(SUBSCRIBED_MAX),
        resource_names_unsubscribe: vec![uid.clone()],
        initial_resource_versions: [(uid, version)].into(),
        response_nonce: "1".into(),
        error_detail: Some(Status { message: "no".into(), ..Status::default() }),
    };
    assert_eq!(decode(&whole.encode_to_vec()), Ok(whole));
    assert_eq!(decode(&[]), Ok(DeltaDiscoveryRequest::default()));
}

#[test]
fn what_no_client_needs_is_refused_before_it_is_decoded() {
    let of = DeltaDiscoveryRequest::default;
    let many = names(SUBSCRIBED_MAX + 1);
    let versions = (0..=VERSIONS_MAX).map(|number| (number.to_string(), String::new()));
    let long = "n".repeat(NAME_BYTES_MAX + VERSION_BYTES_MAX + 1);
    let length = 2 * (NAME_BYTES_MAX + VERSION_BYTES_MAX + 1) + 6;
    let cases = [
        (
            DeltaDiscoveryRequest { resource_names_subscribe: many.clone(), ..of() },
            TooManyNames(SUBSCRIBED_MAX + 1),
        ),
        (
            DeltaDiscoveryRequest { resource_names_unsubscribe: many, ..of() },
            TooManyNames(SUBSCRIBED_MAX + 1),
        ),
        (
            DeltaDiscoveryRequest { resource_names_subscribe: vec![long.clone()], ..of() },
            LongName(long.len()),
        ),
        (
            DeltaDiscoveryRequest { initial_resource_versions: versions.collect(), ..of() },
            TooManyVersions(VERSIONS_MAX + 1),
        ),
        (
            DeltaDiscoveryRequest {
                initial_resource_versions: [(long.clone(), long)].into(),
                ..of()
            },
            LongVersion(length),
        ),
        (
            DeltaDiscoveryRequest { response_nonce: "n".repeat(OTHER_BYTES_MAX), ..of() },
            TooMuchElse(OTHER_BYTES_MAX + 1),
        ),
    ];
    for (request, want) in cases {
        assert_eq!(decode(&request.encode_to_vec()), Err(want));
    }
    // Cut off, a group, and a name that is no UTF-8.
    for bytes in [&[0x1a, 5, b'a'][..], &[0x1b], &[0x1a, 1, 0xff], &[0xff]] {
        assert_eq!(decode(bytes), Err(Undecodable), "{bytes:?}");
    }
}

#[test]
fn a_large_first_response_waits_and_nothing_else_does() {
    let mut large = pod(1, "1");
    large.canonical_name = "n".repeat(LARGE_BYTES);
    let full = catalog(vec![Resource::workload(large), policy("p", 0)]);
    let mut stream = connection(&full);
    for kind in [ResourceType::Address, ResourceType::Authorization] {
        stream.receive(request(kind)).expect("valid");
    }
    let policies = stream.respond_meanwhile().expect("policies are few");
    assert_eq!(policies.kind, ResourceType::Authorization);
    assert!(stream.respond_meanwhile().is_none() && stream.is_large_due());
    let addresses = stream.respond().expect("in its turn");
    assert_eq!(addresses.kind, ResourceType::Address);
    assert!(!stream.is_large_due());

    let few = catalog(vec![Resource::workload(pod(1, "1")), policy("p", 0)]);
    let mut stream = connection(&few);
    stream.receive(request(ResourceType::Address)).expect("valid");
    stream.settle();
    assert!(!stream.is_large_due());
    assert!(stream.respond_meanwhile().is_some(), "what is small does not wait");
    settle(&mut stream);
}
