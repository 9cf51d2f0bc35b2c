use std::collections::BTreeMap;
use std::num::NonZeroU16;

use model::{
    ApplicationProtocol, Gateway, GatewayDestination, Health, HealthPolicy, IpFamilies,
    LoadBalancingMode, NetworkMode, PolicyName, PortMapping, Scope, Service, ServiceName,
    TunnelProtocol, Visibility, Workload, WorkloadType,
};
use proptest::prelude::*;
use prost::Message;
use proto::workload as wire;

use crate::parse::{Address, Interner, parse_address};

const UID: &str = "Kubernetes//Pod/shop/cart-1";

fn port(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).expect("not 0")
}

fn gateway_to(destination: wire::gateway_address::Destination) -> wire::GatewayAddress {
    wire::GatewayAddress { destination: Some(destination), hbone_mtls_port: 15008 }
}

fn by_name(hostname: &str) -> wire::GatewayAddress {
    let name = wire::NamespacedHostname { namespace: "shop".into(), hostname: hostname.into() };
    gateway_to(wire::gateway_address::Destination::Hostname(name))
}

fn by_address(bytes: &[u8], length: Option<u32>) -> wire::GatewayAddress {
    let address =
        wire::NetworkAddress { network: "n".into(), address: bytes.to_vec().into(), length };
    gateway_to(wire::gateway_address::Destination::Address(address))
}

fn port_list(ports: &[(u32, u32)]) -> wire::PortList {
    let port = |(service_port, target_port): &(u32, u32)| wire::Port {
        service_port: *service_port,
        target_port: *target_port,
        app_protocol: 99,
    };
    wire::PortList { ports: ports.iter().map(port).collect() }
}

fn wire_workload() -> wire::Workload {
    wire::Workload {
        uid: UID.into(),
        name: "cart-1".into(),
        namespace: "shop".into(),
        addresses: vec![vec![10, 0, 0, 7].into()],
        ..wire::Workload::default()
    }
}

fn wire_service() -> wire::Service {
    wire::Service {
        name: "cart".into(),
        namespace: "shop".into(),
        hostname: "cart.example".into(),
        ..wire::Service::default()
    }
}

fn read(name: &str, r#type: wire::address::Type) -> Result<Address, String> {
    let bytes = wire::Address { r#type: Some(r#type) }.encode_to_vec();
    parse_address(name, &bytes, &mut Interner::default()).map_err(|error| error.to_string())
}

fn read_workload(change: impl FnOnce(&mut wire::Workload)) -> Result<Workload, String> {
    let mut workload = wire_workload();
    change(&mut workload);
    match read(UID, wire::address::Type::Workload(workload))? {
        Address::Workload(workload) => Ok(workload),
        Address::Service(_) => Err("a service".to_owned()),
    }
}

fn read_service(change: impl FnOnce(&mut wire::Service)) -> Result<Service, String> {
    let mut service = wire_service();
    change(&mut service);
    match read("shop/cart.example", wire::address::Type::Service(service))? {
        Address::Service(service) => Ok(service),
        Address::Workload(_) => Err("a workload".to_owned()),
    }
}

#[test]
fn an_empty_field_has_istios_default() {
    let workload = read_workload(|_| ()).expect("valid");
    assert_eq!(&*workload.uid.0, UID);
    assert_eq!(workload.key.to_string(), "shop/cart-1/default");
    assert_eq!(workload.trust_domain.as_str(), "cluster.local");
    assert_eq!(&*workload.cluster, "Kubernetes");
    assert_eq!(workload.addresses, ["10.0.0.7".parse::<std::net::IpAddr>().expect("valid")]);
    assert_eq!(workload.protocol, TunnelProtocol::None);
    assert_eq!(workload.health, Health::Healthy);
    assert_eq!(workload.network_mode, NetworkMode::Standard);
    assert_eq!(workload.capacity, 1);
    assert_eq!((workload.waypoint, workload.network_gateway), (None, None));
    assert_eq!((workload.application_tunnel, workload.hostname), (None, None));
    let service = read_service(|_| ()).expect("valid");
    assert_eq!(service.name.to_string(), "shop/cart.example");
    assert_eq!(service.load_balancing, model::LoadBalancing::default());
    assert_eq!(service.visibility, Visibility::Public);
}

#[test]
fn every_field_of_a_workload_arrives() {
    let workload = read_workload(|w| {
        w.addresses.push([&[0; 10], &[0xff; 2][..], &[10, 0, 0, 8]].concat().into());
        w.network = "n".into();
        w.tunnel_protocol = 1;
        w.trust_domain = "td".into();
        w.service_account = "cart".into();
        w.waypoint = Some(by_name("w.example"));
        w.node = "node".into();
        w.canonical_name = "cn".into();
        w.canonical_revision = "cr".into();
        w.workload_type = 3;
        w.workload_name = "wn".into();
        w.native_tunnel = true;
        w.authorization_policies = vec!["shop/p".into(), "istio-system/strict".into()];
        w.status = 1;
        w.cluster_id = "c".into();
        w.network_gateway = Some(by_address(&[10, 0, 0, 9], None));
        w.hostname = "h".into();
        w.services = BTreeMap::from([(
            "shop/cart.example".into(),
            // TCP and UDP of one number; and a named target.
            port_list(&[(80, 8080), (53, 53), (53, 5353), (90, 0)]),
        )]);
        w.application_tunnel = Some(wire::ApplicationTunnel { protocol: 1, port: 15088 });
        w.locality =
            Some(wire::Locality { region: "r".into(), zone: "z".into(), subzone: "s".into() });
        w.network_mode = 1;
        w.extensions = vec![wire::Extension::default()];
        w.capacity = Some(0);
    })
    .expect("valid");
    assert_eq!(workload.addresses[1].to_string(), "10.0.0.8");
    assert_eq!(&*workload.network.0, "n");
    assert_eq!(workload.protocol, TunnelProtocol::Hbone);
    assert_eq!(workload.trust_domain.as_str(), "td");
    assert_eq!(&*workload.key.service_account, "cart");
    let gateway = |destination| Some(Gateway { destination, hbone_port: port(15008) });
    let name = ServiceName::parse("shop/w.example").expect("valid");
    assert_eq!(workload.waypoint, gateway(GatewayDestination::Service(name)));
    assert_eq!((&*workload.node, &*workload.cluster), ("node", "c"));
    assert_eq!((&*workload.canonical_name, &*workload.canonical_revision), ("cn", "cr"));
    assert_eq!(workload.workload_type, WorkloadType::Job);
    assert_eq!(&*workload.workload_name, "wn");
    assert!(workload.native_tunnel);
    let policies = [PolicyName::new("shop", "p"), PolicyName::new("istio-system", "strict")];
    assert_eq!(workload.policies, policies);
    assert_eq!(workload.health, Health::Unhealthy);
    let address = model::NetworkAddress {
        network: model::Network("n".into()),
        ip: "10.0.0.9".parse().expect("valid"),
    };
    assert_eq!(workload.network_gateway, gateway(GatewayDestination::Address(address)));
    assert_eq!(workload.hostname.as_deref(), Some("h"));
    let ports = workload.services.get(&ServiceName::parse("shop/cart.example").expect("valid"));
    let mapping = |service_port, target: u16| PortMapping {
        service_port: port(service_port),
        target_port: NonZeroU16::new(target),
    };
    let expected = [mapping(53, 5353), mapping(80, 8080), mapping(90, 0)];
    assert_eq!(ports.expect("an endpoint"), &expected);
    let tunnel = workload.application_tunnel.expect("a tunnel");
    assert_eq!((tunnel.protocol, tunnel.port), (ApplicationProtocol::Proxy, Some(port(15088))));
    let locality = &workload.locality;
    assert_eq!((&*locality.region, &*locality.zone, &*locality.subzone), ("r", "z", "s"));
    assert_eq!(workload.network_mode, NetworkMode::HostNetwork);
    assert_eq!(workload.capacity, 0);
}

#[test]
fn every_field_of_a_service_arrives() {
    let address = |length| wire::NetworkAddress {
        network: "n".into(),
        address: vec![10, 0, 0, 7].into(),
        length,
    };
    let service = read_service(|s| {
        let mapped = [&[0; 10], &[0xff; 2][..], &[10, 0, 0, 7]].concat();
        let mapped = wire::NetworkAddress { address: mapped.into(), ..address(Some(120)) };
        s.addresses = vec![address(None), address(Some(32)), address(Some(24)), mapped];
        s.ports = port_list(&[(443, 8443)]).ports;
        // The second can be nobody's identity.
        s.subject_alt_names = vec!["spiffe://td/ns/a/sa/b".into(), "cart.example".into()];
        s.waypoint = Some(by_name("w.example"));
        s.load_balancing = Some(wire::LoadBalancing {
            routing_preference: vec![6, 1, 2, 3, 4, 5],
            mode: 2,
            health_policy: 1,
        });
        s.ip_families = 2;
        s.canonical = true;
        s.ingress_use_waypoint = true;
        s.extensions = vec![wire::Extension::default()];
        s.weighted_waypoints =
            vec![wire::WeightedWaypoint { destination: Some(by_name("v.example")), weight: 3 }];
        s.visibility = 1;
    })
    .expect("valid");
    assert_eq!(&*service.short_name, "cart");
    let nets: Vec<_> = service.addresses.iter().map(|a| a.net.to_string()).collect();
    assert_eq!(nets, ["10.0.0.7/32", "10.0.0.7/32", "10.0.0.0/24", "10.0.0.0/24"]);
    assert_eq!(service.ports.len(), 1);
    assert_eq!(service.subject_alt_names.len(), 1);
    let balancing = &service.load_balancing;
    let scopes =
        [Scope::Network, Scope::Region, Scope::Zone, Scope::Subzone, Scope::Node, Scope::Cluster];
    assert_eq!(balancing.preferences, scopes);
    assert_eq!(balancing.mode, LoadBalancingMode::Failover);
    assert_eq!(balancing.health, HealthPolicy::AllowAll);
    assert_eq!(service.ip_families, IpFamilies::V6);
    assert!(service.canonical && service.waypoint.is_some());
    assert_eq!(service.weighted_waypoints[0].weight, 3);
    assert_eq!(service.visibility, Visibility::Namespace);
    // As in Istio's ztunnel.
    let later = read_service(|s| s.visibility = 7).expect("valid");
    assert_eq!(later.visibility, Visibility::Public);
}

#[test]
fn a_workload_that_breaks_a_rule_is_rejected_with_the_field_and_the_cause() {
    let check = |change: fn(&mut wire::Workload), expected: &str| {
        let error = read_workload(change).expect_err(expected);
        assert_eq!(error, expected);
    };
    check(|w| w.uid.clear(), "uid: is missing");
    check(
        |w| w.uid = "b".into(),
        "was sent under the name \"Kubernetes//Pod/shop/cart-1\", but is \"b\"",
    );
    for bytes in [0, 3, 5, 15, 17] {
        let error = read_workload(|w| w.addresses.push(vec![0; bytes].into()));
        let expected = format!("addresses[1]: {bytes} bytes are not an IP address");
        assert_eq!(error, Err(expected));
    }
    check(
        |w| w.addresses = vec![vec![0; 4].into(); 65],
        "addresses: has 65, more than the 64 that are read",
    );
    check(|w| w.tunnel_protocol = 2, "tunnel_protocol: LEGACY_ISTIO_MTLS is not supported");
    check(|w| w.tunnel_protocol = 3, "tunnel_protocol: 3 is not a known value");
    check(|w| w.tunnel_protocol = -1, "tunnel_protocol: -1 is not a known value");
    check(|w| w.network_mode = 2, "network_mode: 2 is not a known value");
    check(|w| w.status = 2, "status: 2 is not a known value");
    check(|w| w.trust_domain = "TD".into(), "trust_domain: \"TD\" is not a valid trust domain");
    check(|w| w.node = "n".repeat(2049), "node: has 2049, more than the 2048 that are read");
    check(
        |w| w.waypoint = Some(wire::GatewayAddress { destination: None, hbone_mtls_port: 1 }),
        "waypoint.destination: is missing",
    );
    check(
        |w| w.waypoint = Some(by_name("a/b")),
        "waypoint.hostname: \"shop/a/b\" is not a namespace and a name with / between them",
    );
    check(
        |w| w.waypoint = Some(by_address(&[1], None)),
        "waypoint.address.address: 1 bytes are not an IP address",
    );
    check(
        |w| w.network_gateway = Some(by_address(&[10, 0, 0, 9], Some(24))),
        "network_gateway.address.length: a prefix of 24 bits is not one of 10.0.0.0",
    );
    check(
        |w| {
            let port = 65536 + 15008;
            w.waypoint = Some(wire::GatewayAddress { hbone_mtls_port: port, ..by_name("w") });
        },
        "waypoint.hbone_mtls_port: 80544 is not a port",
    );
    check(
        |w| w.authorization_policies = vec!["a/b".into(), "strict".into()],
        "authorization_policies[1]: \"strict\" is not a namespace and a name with / between them",
    );
    check(
        |w| w.services = BTreeMap::from([("cart".into(), port_list(&[]))]),
        "services: \"cart\" is not a namespace and a name with / between them",
    );
    check(
        |w| w.services = BTreeMap::from([("a/b".into(), port_list(&[(80, 65536 + 80)]))]),
        "services[a/b].ports[0].target_port: 65616 is not a port",
    );
    check(
        |w| w.services = BTreeMap::from([("a/b".into(), port_list(&[(1, 1), (65536, 80)]))]),
        "services[a/b].ports[1].service_port: 65536 is not a port",
    );
    check(
        |w| w.services = BTreeMap::from([("a/b".into(), port_list(&[(0, 80)]))]),
        "services[a/b].ports[0].service_port: 0 is not a port",
    );
    check(
        |w| w.application_tunnel = Some(wire::ApplicationTunnel { protocol: 2, port: 0 }),
        "application_tunnel.protocol: 2 is not a known value",
    );
    check(
        |w| w.application_tunnel = Some(wire::ApplicationTunnel { protocol: 1, port: 70000 }),
        "application_tunnel.port: 70000 is not a port",
    );
    // Telemetry is no reason to lose a workload.
    let later = read_workload(|w| w.workload_type = 9).expect("valid");
    assert_eq!(later.workload_type, WorkloadType::Deployment);
}

#[test]
fn a_service_that_breaks_a_rule_is_rejected_with_the_field_and_the_cause() {
    let check = |change: fn(&mut wire::Service), expected: &str| {
        let error = read_service(change).expect_err(expected);
        assert_eq!(error, expected);
    };
    check(
        |s| s.namespace.clear(),
        "hostname: \"/cart.example\" is not a namespace and a name with / between them",
    );
    check(
        |s| s.hostname = "a/b".into(),
        "hostname: \"shop/a/b\" is not a namespace and a name with / between them",
    );
    check(
        |s| s.namespace = "other".into(),
        "was sent under the name \"shop/cart.example\", but is \"other/cart.example\"",
    );
    for (bytes, length, expected) in [
        (vec![10, 0, 0, 0], 33, "a prefix of 33 bits is not one of 10.0.0.0"),
        (vec![10, 0, 0, 0], 256 + 24, "a prefix of 280 bits is not one of 10.0.0.0"),
        (vec![0; 16], 129, "a prefix of 129 bits is not one of ::"),
        // Neither a block of IPv4 addresses nor one without them.
        (
            [&[0; 10], &[0xff; 2][..], &[0; 4]].concat(),
            80,
            "a prefix of 80 bits is not one of 0.0.0.0",
        ),
    ] {
        let length = Some(length);
        let address =
            wire::NetworkAddress { network: String::new(), address: bytes.into(), length };
        let error = read_service(|s| s.addresses = vec![address]);
        assert_eq!(error, Err(format!("addresses[0].length: {expected}")));
    }
    check(
        |s| s.addresses = vec![wire::NetworkAddress::default()],
        "addresses[0].address: 0 bytes are not an IP address",
    );
    check(
        |s| s.ports = port_list(&[(80, 99999)]).ports,
        "ports[0].target_port: 99999 is not a port",
    );
    let balancing = wire::LoadBalancing::default;
    for (wire, expected) in [
        (wire::LoadBalancing { mode: 4, ..balancing() }, "mode: 4 is not a known value"),
        (
            wire::LoadBalancing { health_policy: 2, ..balancing() },
            "health_policy: 2 is not a known value",
        ),
        (
            wire::LoadBalancing { routing_preference: vec![1, 7], ..balancing() },
            "routing_preference[1]: 7 is not a known value",
        ),
        (
            wire::LoadBalancing { routing_preference: vec![0], ..balancing() },
            "routing_preference[0]: UNSPECIFIED_SCOPE is not supported",
        ),
    ] {
        let error = read_service(|s| s.load_balancing = Some(wire));
        assert_eq!(error, Err(format!("load_balancing.{expected}")));
    }
    check(|s| s.ip_families = 4, "ip_families: 4 is not a known value");
    check(
        |s| s.weighted_waypoints = vec![wire::WeightedWaypoint::default()],
        "weighted_waypoints[0].destination: is missing",
    );
}

#[test]
fn what_is_no_address_is_rejected() {
    let check = |bytes: &[u8], expected: &str| {
        let error = parse_address("x", bytes, &mut Interner::default());
        assert_eq!(error.expect_err(expected).to_string(), expected);
    };
    check(b"", "workload or service: is missing");
    // A kind of address that came later.
    check(b"\x1a\x00", "workload or service: is missing");
    let garbage = parse_address("x", b"\x0a\x7f", &mut Interner::default());
    assert!(garbage.expect_err("truncated").to_string().starts_with("cannot be decoded: "));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse_address("shop/x", &bytes, &mut Interner::default());
    }

    #[test]
    fn no_change_of_one_byte_makes_it_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut workload = wire_workload();
        workload.waypoint = Some(by_name("w"));
        workload.services = BTreeMap::from([("a/b".into(), port_list(&[(80, 8080)]))]);
        let address = wire::Address { r#type: Some(wire::address::Type::Workload(workload)) };
        let mut bytes = address.encode_to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = parse_address(UID, &bytes, &mut Interner::default());
    }
}
