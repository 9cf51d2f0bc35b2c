//! The wire form, byte by byte, written by hand from the field numbers.

use std::collections::BTreeMap;
use std::fmt::Debug;

use prost::Message;

use crate::{discovery, security, workload, zds};

/// Fields in the order of their numbers, each with its tag.
fn check<M: Message + Default + PartialEq + Debug>(fields: &[&[u8]], message: &M) {
    let bytes = fields.concat();
    assert_eq!(M::decode(&*bytes).as_ref(), Ok(message));
    assert_eq!(message.encode_to_vec(), bytes);
}

fn gateway() -> workload::GatewayAddress {
    let name = workload::NamespacedHostname { namespace: "a".into(), hostname: "w".into() };
    workload::GatewayAddress {
        destination: Some(workload::gateway_address::Destination::Hostname(name)),
        hbone_mtls_port: 15008,
    }
}

/// Varint 15008 is `a0 75`.
const GATEWAY: &[u8] = b"\x0a\x06\x0a\x01a\x12\x01w\x18\xa0\x75";

fn network_address(network: &str, length: Option<u32>) -> workload::NetworkAddress {
    let address = vec![10, 0, 0, 7].into();
    workload::NetworkAddress { network: network.into(), address, length }
}

#[test]
fn workload_is_on_the_wire_as_its_numbers_say() {
    let port = workload::Port { service_port: 80, target_port: 8080, app_protocol: 3 };
    let ports = workload::PortList { ports: vec![port] };
    let message = workload::Workload {
        name: "cart-1".into(),
        namespace: "shop".into(),
        addresses: vec![vec![10, 0, 0, 7].into()],
        network: "n".into(),
        tunnel_protocol: 1,
        trust_domain: "td".into(),
        service_account: "cart".into(),
        waypoint: Some(gateway()),
        node: "node".into(),
        canonical_name: "cn".into(),
        canonical_revision: "cr".into(),
        workload_type: 2,
        workload_name: "wn".into(),
        native_tunnel: true,
        authorization_policies: vec!["a/b".into(), "c/d".into()],
        status: 1,
        cluster_id: "k".into(),
        network_gateway: Some(workload::GatewayAddress {
            destination: Some(workload::gateway_address::Destination::Address(network_address(
                "", None,
            ))),
            hbone_mtls_port: 1,
        }),
        uid: "uid".into(),
        hostname: "h".into(),
        services: BTreeMap::from([("shop/h".into(), ports)]),
        application_tunnel: Some(workload::ApplicationTunnel { protocol: 1, port: 9 }),
        locality: Some(workload::Locality {
            region: "r".into(),
            zone: "z".into(),
            subzone: "s".into(),
        }),
        network_mode: 1,
        extensions: vec![workload::Extension { name: "x".into(), config: None }],
        capacity: Some(2),
    };
    let waypoint = [b"\x42\x0b", GATEWAY].concat();
    let fields: &[&[u8]] = &[
        b"\x0a\x06cart-1",
        b"\x12\x04shop",
        b"\x1a\x04\x0a\x00\x00\x07",
        b"\x22\x01n",
        b"\x28\x01",
        b"\x32\x02td",
        b"\x3a\x04cart",
        &waypoint,
        b"\x4a\x04node",
        b"\x52\x02cn",
        b"\x5a\x02cr",
        b"\x60\x02",
        b"\x6a\x02wn",
        b"\x70\x01",
        b"\x82\x01\x03a/b\x82\x01\x03c/d",
        b"\x88\x01\x01",
        b"\x92\x01\x01k",
        // Address within the gateway: field 2, of which the address is field 2.
        b"\x9a\x01\x0a\x12\x06\x12\x04\x0a\x00\x00\x07\x18\x01",
        b"\xa2\x01\x03uid",
        b"\xaa\x01\x01h",
        // A map is a repeated message of key 1 and value 2.
        b"\xb2\x01\x13\x0a\x06shop/h\x12\x09\x0a\x07\x08\x50\x10\x90\x3f\x18\x03",
        b"\xba\x01\x04\x08\x01\x10\x09",
        b"\xc2\x01\x09\x0a\x01r\x12\x01z\x1a\x01s",
        b"\xc8\x01\x01",
        b"\xd2\x01\x03\x0a\x01x",
        b"\xda\x01\x02\x08\x02",
    ];
    check(fields, &message);
    let inner = fields.concat();
    let mut wrapped = vec![0x0a];
    prost::encoding::encode_varint(u64::try_from(inner.len()).expect("short"), &mut wrapped);
    wrapped.extend(inner);
    let address = workload::Address { r#type: Some(workload::address::Type::Workload(message)) };
    check(&[&wrapped], &address);
}

#[test]
fn service_is_on_the_wire_as_its_numbers_say() {
    let message = workload::Service {
        name: "cart".into(),
        namespace: "shop".into(),
        hostname: "h".into(),
        addresses: vec![network_address("n", Some(24)), network_address("n", Some(0))],
        ports: vec![workload::Port { service_port: 65535, target_port: 0, app_protocol: 0 }],
        subject_alt_names: vec!["id".into()],
        waypoint: Some(gateway()),
        load_balancing: Some(workload::LoadBalancing {
            routing_preference: vec![6, 1, 2],
            mode: 2,
            health_policy: 1,
        }),
        ip_families: 3,
        extensions: vec![workload::Extension { name: "x".into(), config: None }],
        canonical: true,
        ingress_use_waypoint: true,
        weighted_waypoints: vec![workload::WeightedWaypoint {
            destination: Some(gateway()),
            weight: 5,
        }],
        visibility: 1,
    };
    let waypoint = [b"\x3a\x0b", GATEWAY].concat();
    let weighted = [b"\x6a\x0f\x0a\x0b", GATEWAY, b"\x10\x05"].concat();
    let fields: &[&[u8]] = &[
        b"\x0a\x04cart",
        b"\x12\x04shop",
        b"\x1a\x01h",
        b"\x22\x0b\x0a\x01n\x12\x04\x0a\x00\x00\x07\x18\x18",
        // An optional field is there even when it is zero.
        b"\x22\x0b\x0a\x01n\x12\x04\x0a\x00\x00\x07\x18\x00",
        b"\x2a\x04\x08\xff\xff\x03",
        b"\x32\x02id",
        &waypoint,
        b"\x42\x09\x0a\x03\x06\x01\x02\x10\x02\x18\x01",
        b"\x48\x03",
        b"\x52\x03\x0a\x01x",
        b"\x58\x01",
        b"\x60\x01",
        &weighted,
        b"\x70\x01",
    ];
    check(fields, &message);
    let inner = fields.concat();
    let mut wrapped = vec![0x12];
    prost::encoding::encode_varint(u64::try_from(inner.len()).expect("short"), &mut wrapped);
    wrapped.extend(inner);
    let address = workload::Address { r#type: Some(workload::address::Type::Service(message)) };
    check(&[&wrapped], &address);
}

fn pattern(kind: security::string_match::MatchType) -> security::StringMatch {
    security::StringMatch { match_type: Some(kind) }
}

#[test]
fn authorization_is_on_the_wire_as_its_numbers_say() {
    use security::string_match::MatchType::{Exact, Prefix, Presence, Suffix};
    let block = |byte| security::Address { address: vec![10, 0, 0, byte].into(), length: 24 };
    let account = |name: &str| security::ServiceAccountMatch {
        namespace: "a".into(),
        service_account: name.into(),
    };
    let message = security::Match {
        namespaces: vec![pattern(Exact("e".into()))],
        not_namespaces: vec![pattern(Prefix("p".into()))],
        principals: vec![pattern(Suffix("s".into()))],
        not_principals: vec![pattern(Presence(()))],
        source_ips: vec![block(1)],
        not_source_ips: vec![block(2)],
        destination_ips: vec![block(3)],
        not_destination_ips: vec![block(4)],
        destination_ports: vec![80, 443],
        not_destination_ports: vec![8080],
        service_accounts: vec![account("x")],
        not_service_accounts: vec![account("y")],
        extensions: vec![workload::Extension { name: "z".into(), config: None }],
    };
    let fields: &[&[u8]] = &[
        b"\x0a\x03\x0a\x01e",
        b"\x12\x03\x12\x01p",
        b"\x1a\x03\x1a\x01s",
        b"\x22\x02\x22\x00",
        b"\x2a\x08\x0a\x04\x0a\x00\x00\x01\x10\x18",
        b"\x32\x08\x0a\x04\x0a\x00\x00\x02\x10\x18",
        b"\x3a\x08\x0a\x04\x0a\x00\x00\x03\x10\x18",
        b"\x42\x08\x0a\x04\x0a\x00\x00\x04\x10\x18",
        b"\x4a\x03\x50\xbb\x03",
        b"\x52\x02\x90\x3f",
        b"\x5a\x06\x0a\x01a\x12\x01x",
        b"\x62\x06\x0a\x01a\x12\x01y",
        b"\x6a\x03\x0a\x01z",
    ];
    check(fields, &message);
    let policy = security::Authorization {
        name: "p".into(),
        namespace: "shop".into(),
        scope: 2,
        action: 1,
        rules: vec![security::Rule {
            // The matches of a clause are its field 2.
            clauses: vec![security::Clause { matches: vec![security::Match::default()] }],
        }],
        dry_run: true,
        extensions: vec![workload::Extension { name: "x".into(), config: None }],
    };
    let fields: &[&[u8]] = &[
        b"\x0a\x01p",
        b"\x12\x04shop",
        b"\x18\x02",
        b"\x20\x01",
        b"\x2a\x04\x0a\x02\x12\x00",
        b"\x30\x01",
        b"\x3a\x03\x0a\x01x",
    ];
    check(fields, &policy);
}

#[test]
fn discovery_is_on_the_wire_as_its_numbers_say() {
    let any = discovery::Any { type_url: "t".into(), value: b"v".to_vec().into() };
    let request = discovery::DeltaDiscoveryRequest {
        node: Some(discovery::Node {
            id: "i".into(),
            cluster: "c".into(),
            metadata: Some(prost_types::Struct::default()),
            build_version: "b".into(),
        }),
        type_url: "t".into(),
        resource_names_subscribe: vec!["s".into()],
        resource_names_unsubscribe: vec!["*".into()],
        initial_resource_versions: BTreeMap::from([("n".into(), "1".into())]),
        response_nonce: "o".into(),
        error_detail: Some(discovery::Status {
            code: 3,
            message: "m".into(),
            details: vec![any.clone()],
        }),
    };
    let fields: &[&[u8]] = &[
        b"\x0a\x0b\x0a\x01i\x12\x01c\x1a\x00\x2a\x01b",
        b"\x12\x01t",
        b"\x1a\x01s",
        b"\x22\x01*",
        b"\x2a\x06\x0a\x01n\x12\x011",
        b"\x32\x01o",
        b"\x3a\x0d\x08\x03\x12\x01m\x1a\x06\x0a\x01t\x12\x01v",
    ];
    check(fields, &request);
    let response = discovery::DeltaDiscoveryResponse {
        system_version_info: "s".into(),
        resources: vec![discovery::Resource {
            version: "1".into(),
            resource: Some(any),
            name: "n".into(),
            aliases: vec!["a".into()],
        }],
        type_url: "t".into(),
        nonce: "o".into(),
        removed_resources: vec!["r".into()],
    };
    let fields: &[&[u8]] = &[
        b"\x0a\x01s",
        b"\x12\x11\x0a\x011\x12\x06\x0a\x01t\x12\x01v\x1a\x01n\x22\x01a",
        b"\x22\x01t",
        b"\x2a\x01o",
        b"\x32\x01r",
    ];
    check(fields, &response);
    // What a server sends besides is skipped: a resource's ttl is its field 6.
    let with_ttl = b"\x1a\x01n\x32\x02\x08\x05";
    let resource = discovery::Resource::decode(&with_ttl[..]).expect("decodes");
    assert_eq!(resource, discovery::Resource { name: "n".into(), ..Default::default() });
}

#[test]
fn pods_of_a_node_are_on_the_wire_as_their_numbers_say() {
    use zds::workload_request::Payload;

    check(&[b"\x08\x01"], &zds::ZdsHello { version: zds::Version::V1.into() });
    let request = |payload| zds::WorkloadRequest { payload: Some(payload) };
    let info = zds::WorkloadInfo {
        name: "cart".into(),
        namespace: "shop".into(),
        service_account: "sa".into(),
    };
    check(
        &[b"\x0a\x15", b"\x0a\x01u", b"\x12\x10", b"\x0a\x04cart\x12\x04shop\x1a\x02sa"],
        &request(Payload::Add(zds::AddWorkload { uid: "u".into(), workload_info: Some(info) })),
    );
    check(&[b"\x12\x03\x12\x01u"], &request(Payload::Del(zds::DelWorkload { uid: "u".into() })));
    check(&[b"\x1a\x00"], &request(Payload::SnapshotSent(zds::SnapshotSent {})));
    check(&[b"\x2a\x03\x0a\x01u"], &request(Payload::Keep(zds::KeepWorkload { uid: "u".into() })));
    let ack = zds::Ack { error: "e".into() };
    let payload = Some(zds::workload_response::Payload::Ack(ack));
    check(&[b"\x0a\x03\x0a\x01e"], &zds::WorkloadResponse { payload });
}
