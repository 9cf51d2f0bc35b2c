//! Table cases over one small mesh, each through one helper.

use model::{
    GatewayDestination, Health, NetworkAddress, ServiceAddress, Visibility, WeightedWaypoint,
};
use proptest::prelude::*;

use super::*;
use crate::tests::{service, serving, workload};

fn tunnel(protocol: ApplicationProtocol, port: u16) -> ApplicationTunnel {
    ApplicationTunnel { protocol, port: NonZeroU16::new(port) }
}

/// By `/IP` of the default network, or by the name of a service.
fn gateway(destination: &str) -> Gateway {
    let destination = match destination.strip_prefix('/') {
        Some(ip) => GatewayDestination::Address(NetworkAddress {
            network: Network::default(),
            ip: ip.parse().expect("literal"),
        }),
        None => GatewayDestination::Service(model::ServiceName::parse(destination).expect("name")),
    };
    Gateway { destination, hbone_port: NonZeroU16::new(15008).expect("literal") }
}

fn waypointed(mut workload: Workload, waypoint: &str) -> Workload {
    workload.waypoint = Some(gateway(waypoint));
    workload
}

fn behind(mut service: Service, waypoint: &str) -> Service {
    service.waypoint = Some(gateway(waypoint));
    service
}

fn weighted(mut service: Service, waypoints: &[(&str, u32)]) -> Service {
    let one =
        |(name, weight): &(&str, u32)| WeightedWaypoint { gateway: gateway(name), weight: *weight };
    service.weighted_waypoints = waypoints.iter().map(one).collect();
    service
}

/// `plain-wp` takes bytes as they are; `proxy-wp` takes a PROXY header on port 15088, `odd-wp` on
/// whatever port was asked for.
fn mesh() -> Snapshot {
    let tunnelled = |key: &str, ip: &str, protocol, port| {
        let mut workload = serving(workload(key, &[ip]), "infra/proxy-wp.svc", &[]);
        workload.application_tunnel = Some(tunnel(protocol, port));
        workload
    };
    let mut other_network = service("shop/far.svc", &[], &[(80, 8080)]);
    other_network.addresses =
        vec![ServiceAddress::host(Network("far".into()), "10.96.7.7".parse().expect("literal"))];
    let mut dual = service("shop/dual.svc", &["fd00::9", "10.96.0.9"], &[(80, 8080)]);
    dual.addresses.insert(
        0,
        ServiceAddress::host(Network("far".into()), "10.96.9.9".parse().expect("literal")),
    );
    let mut theirs =
        behind(service("bank/cart.svc", &["10.96.0.7"], &[(80, 7070)]), "infra/wp.svc");
    theirs.canonical = true;
    let mut hidden =
        behind(service("bank/hidden.svc", &["10.96.0.8"], &[(80, 80)]), "infra/wp.svc");
    hidden.visibility = Visibility::Namespace;
    Snapshot::build(
        vec![
            serving(
                serving(
                    workload("shop/cart1", &["10.0.0.1", "fd00::1"]),
                    "shop/cart.svc",
                    &[(80, 8080)],
                ),
                "shop/named.svc",
                &[],
            ),
            serving(workload("shop/api1", &["10.0.0.2"]), "shop/api.svc", &[(80, 9090)]),
            waypointed(workload("shop/db1", &["10.0.0.3"]), "/10.0.0.6"),
            serving(workload("infra/plain-wp", &["10.0.0.4"]), "infra/wp.svc", &[]),
            serving(workload("infra/canary-wp", &["10.0.0.5"]), "infra/canary.svc", &[]),
            workload("infra/address-wp", &["10.0.0.6"]),
            tunnelled("infra/proxy-wp", "10.0.0.7", ApplicationProtocol::Proxy, 15088),
            tunnelled("infra/odd-wp", "10.0.0.8", ApplicationProtocol::Proxy, 0),
            tunnelled("infra/bytes-wp", "10.0.0.9", ApplicationProtocol::None, 8443),
            tunnelled("infra/looped-wp", "10.0.0.10", ApplicationProtocol::Proxy, 15008),
        ],
        vec![
            service("shop/cart.svc", &["10.96.0.1"], &[(80, 80), (443, 8443)]),
            weighted(
                behind(service("shop/api.svc", &["10.96.0.2"], &[(80, 9090)]), "infra/wp.svc"),
                &[("infra/canary.svc", 5), ("infra/wp.svc", 95)],
            ),
            service("shop/named.svc", &["10.96.0.3"], &[(80, 0)]),
            behind(service("shop/block.svc", &["10.97.0.0/16"], &[(80, 80)]), "infra/wp.svc"),
            service("infra/wp.svc", &["10.96.1.1"], &[(15008, 15008)]),
            service("infra/canary.svc", &[], &[(15008, 15008)]),
            service("shop/headless.svc", &[], &[(80, 80)]),
            service("infra/proxy-wp.svc", &[], &[(15008, 15008)]),
            behind(service("shop/by-vip.svc", &["10.96.0.4"], &[(80, 80)]), "/10.96.1.1"),
            theirs,
            hidden,
            dual,
            other_network,
        ],
    )
}

/// A CONNECT for `asked` in a tunnel to the first address of a workload, as one line.
fn target(key: &str, asked: &str) -> String {
    let mesh = mesh();
    let workload = mesh.workloads().find(|w| format!("{}/{}", w.key.namespace, w.key.name) == key);
    let workload = workload.expect(key);
    let own = |ip: IpAddr| workload.addresses.contains(&ip);
    let (host, port) = asked.rsplit_once(':').expect("a port");
    let asked = match asked.parse() {
        Ok(address) => Asked::Address(address),
        Err(_) => Asked::Host(host, port.parse().expect("a port")),
    };
    let query = InboundQuery {
        network: &Network::default(),
        workload,
        local: workload.addresses[0],
        own: &own,
        asked,
        tunnel_address: TunnelAddress::Loopback,
    };
    match inbound_target(&mesh, &query) {
        Ok(InboundTarget { destination, handover, service }) => {
            let named = service.map_or_else(String::new, |s| format!(" for {}", s.name));
            match handover {
                Handover::Plain => format!("{destination}{named}"),
                Handover::Proxy { address, asked, host } => {
                    let host = host.map_or_else(String::new, |host| format!(" {host}"));
                    format!("{destination} {address:?} {asked}{host}{named}")
                }
            }
        }
        Err(InboundRefusal { code, .. }) => code.to_string(),
    }
}

#[track_caller]
fn check(cases: &[(&str, &str, &str)]) {
    for (key, asked, expected) in cases {
        assert_eq!(target(key, asked), *expected, "{asked} at {key}");
    }
}

#[test]
fn an_address_must_be_the_pods() {
    check(&[
        ("shop/cart1", "10.0.0.1:8080", "10.0.0.1:8080"),
        ("shop/cart1", "[::ffff:10.0.0.1]:8080", "10.0.0.1:8080"),
        // Another address of the pod than the tunnel's.
        ("shop/cart1", "[fd00::1]:8080", "[fd00::1]:8080"),
        ("shop/cart1", "10.0.0.2:8080", "DESTINATION_MISMATCH"),
        ("shop/cart1", "127.0.0.1:8080", "DESTINATION_MISMATCH"),
        ("shop/cart1", "192.0.2.1:8080", "DESTINATION_MISMATCH"),
        // Its own service's virtual address is none of its addresses.
        ("shop/cart1", "10.96.0.1:80", "DESTINATION_MISMATCH"),
        ("shop/cart1", "10.0.0.1:15008", "SELF_CALL"),
        ("shop/cart1", "10.0.0.1:15001", "SELF_CALL"),
        ("shop/cart1", "10.0.0.2:15008", "DESTINATION_MISMATCH"),
    ]);
}

#[test]
fn a_waypoint_takes_what_names_it() {
    check(&[
        ("infra/plain-wp", "10.96.0.2:80", "10.0.0.4:80"),
        // Of a weighted one too, which Istio's ztunnel refuses.
        ("infra/canary-wp", "10.96.0.2:80", "10.0.0.5:80"),
        // Its service is named by a virtual address.
        ("infra/plain-wp", "10.96.0.4:80", "10.0.0.4:80"),
        ("infra/plain-wp", "10.97.1.2:80", "10.0.0.4:80"),
        ("infra/plain-wp", "10.96.0.7:80", "10.0.0.4:80"),
        // A workload's waypoint, named by address.
        ("infra/address-wp", "10.0.0.3:80", "10.0.0.6:80"),
        ("infra/plain-wp", "10.96.0.1:80", "DESTINATION_MISMATCH"),
        ("infra/plain-wp", "10.0.0.3:80", "DESTINATION_MISMATCH"),
        ("infra/canary-wp", "10.96.0.4:80", "DESTINATION_MISMATCH"),
        ("infra/address-wp", "10.96.0.2:80", "DESTINATION_MISMATCH"),
        // Hidden from the waypoint's namespace.
        ("infra/plain-wp", "10.96.0.8:80", "DESTINATION_MISMATCH"),
        ("infra/plain-wp", "10.96.0.2:15008", "SELF_CALL"),
    ]);
}

#[test]
fn an_application_tunnel_takes_everything_on_its_port() {
    check(&[
        ("infra/proxy-wp", "10.0.0.7:80", "10.0.0.7:15088 Loopback 10.0.0.7:80"),
        ("infra/proxy-wp", "10.96.0.1:80", "10.0.0.7:15088 Loopback 10.96.0.1:80"),
        ("infra/proxy-wp", "192.0.2.1:443", "10.0.0.7:15088 Loopback 192.0.2.1:443"),
        ("infra/proxy-wp", "[fd00::7]:80", "10.0.0.7:15088 Loopback [fd00::7]:80"),
        ("infra/odd-wp", "10.96.0.1:80", "10.0.0.8:80 Loopback 10.96.0.1:80"),
        ("infra/bytes-wp", "10.96.0.1:80", "10.0.0.9:8443"),
        ("infra/bytes-wp", "10.0.0.9:80", "10.0.0.9:8443"),
        ("infra/proxy-wp", "10.96.0.1:15008", "SELF_CALL"),
        ("infra/odd-wp", "10.96.0.1:15001", "SELF_CALL"),
        ("infra/looped-wp", "10.96.0.1:80", "SELF_CALL"),
    ]);
}

#[test]
fn a_host_name_leads_to_the_pods_own_port() {
    check(&[
        // The endpoint's own mapping, then the service's.
        ("shop/cart1", "cart.svc:80", "10.0.0.1:8080 for shop/cart.svc"),
        ("shop/cart1", "cart.svc:443", "10.0.0.1:8443 for shop/cart.svc"),
        ("shop/cart1", "cart.svc:81", "NO_SERVICE_PORT"),
        // A named port that the endpoint does not resolve.
        ("shop/cart1", "named.svc:80", "NO_SERVICE_PORT"),
        // Known, and nothing to do with this pod.
        ("shop/cart1", "api.svc:80", "DESTINATION_MISMATCH"),
        ("shop/cart1", "nowhere.svc:80", "DESTINATION_MISMATCH"),
        // Of two services with one host name, the one that the pod has to do with.
        ("infra/plain-wp", "cart.svc:80", "10.0.0.4:7070 for bank/cart.svc"),
        ("infra/plain-wp", "api.svc:80", "10.0.0.4:9090 for shop/api.svc"),
        ("infra/canary-wp", "api.svc:80", "10.0.0.5:9090 for shop/api.svc"),
        ("infra/address-wp", "api.svc:80", "DESTINATION_MISMATCH"),
        ("infra/plain-wp", "wp.svc:15008", "SELF_CALL"),
    ]);
}

#[test]
fn a_proxy_header_needs_an_address() {
    check(&[
        // The service's port, not the target's; the canonical one of two.
        (
            "infra/proxy-wp",
            "cart.svc:80",
            "10.0.0.7:15088 Loopback 10.96.0.7:80 cart.svc for bank/cart.svc",
        ),
        (
            "infra/odd-wp",
            "cart.svc:80",
            "10.0.0.8:7070 Loopback 10.96.0.7:80 cart.svc for bank/cart.svc",
        ),
        // Where all goes to one port, a named port need not be known.
        (
            "infra/proxy-wp",
            "named.svc:80",
            "10.0.0.7:15088 Loopback 10.96.0.3:80 named.svc for shop/named.svc",
        ),
        ("infra/odd-wp", "named.svc:80", "NO_SERVICE_PORT"),
        ("infra/proxy-wp", "cart.svc:443", "NO_SERVICE_PORT"),
        // Of this network before others, IPv4 before IPv6.
        (
            "infra/proxy-wp",
            "dual.svc:80",
            "10.0.0.7:15088 Loopback 10.96.0.9:80 dual.svc for shop/dual.svc",
        ),
        (
            "infra/proxy-wp",
            "far.svc:80",
            "10.0.0.7:15088 Loopback 10.96.7.7:80 far.svc for shop/far.svc",
        ),
        ("infra/proxy-wp", "block.svc:80", "DESTINATION_MISMATCH"),
        ("infra/proxy-wp", "headless.svc:80", "DESTINATION_MISMATCH"),
    ]);
}

#[test]
fn plaintext_does_not_reach_what_believes_proxy_headers() {
    let mesh = mesh();
    for (ip, port, passes) in [
        ("10.0.0.1", 80, true),
        ("10.0.0.7", 15088, false),
        ("10.0.0.7", 80, true),
        ("10.0.0.8", 80, false),
        ("10.0.0.9", 8443, true),
    ] {
        let workload = mesh.workload_by_address(&Network::default(), ip.parse().expect("literal"));
        let judged = plaintext_target(workload.expect(ip), port);
        assert_eq!(judged.is_ok(), passes, "{ip}:{port}");
        assert!(judged.is_ok() || judged.is_err_and(|refusal| refusal.code == Code::SelfCall));
    }
}

/// Who calls, from where: `name@ip`, `name@ip by gateway`, or `ip` for plaintext; and the outcome.
#[track_caller]
fn check_required(destination: &str, cases: &[(&str, bool)]) {
    check_required_in(&mesh(), destination, cases);
}

#[track_caller]
fn check_required_in(mesh: &Snapshot, destination: &str, cases: &[(&str, bool)]) {
    let network = Network::default();
    let destination: SocketAddr = destination.parse().expect("literal");
    let workload = mesh.workload_by_address(&network, destination.ip()).expect("known");
    for (caller, passes) in cases {
        let (caller, from_gateway) =
            caller.strip_suffix(" by gateway").map_or((*caller, false), |caller| (caller, true));
        let (peer, ip) = match caller.split_once('@') {
            Some((name, ip)) => {
                let (namespace, account) = name.split_once('/').expect("a namespace");
                let id = model::SpiffeId::new(&model::TrustDomain::default(), namespace, account);
                (Some(id.expect("valid")), ip)
            }
            None => (None, caller),
        };
        let arrival = Arrival {
            network: &network,
            peer: peer.as_ref(),
            source: ip.parse().expect("literal"),
            from_gateway,
            destination,
        };
        let judged = |setting| require_waypoint(mesh, workload, &arrival, setting);
        assert_eq!(judged(RequireWaypoint::Off), Ok(()));
        let enforced = judged(RequireWaypoint::Enforce);
        assert_eq!(enforced.is_ok(), *passes, "{caller} to {destination}: {enforced:?}");
        if let Err(refusal) = enforced {
            assert_eq!(refusal.code, Code::WaypointRequired);
        }
    }
}

#[test]
fn a_service_with_waypoints_is_reached_through_one_of_them() {
    check_required(
        "10.0.0.2:9090",
        &[
            ("infra/plain-wpsa@10.0.0.4", true),
            ("infra/canary-wpsa@10.0.0.5", true),
            ("infra/plain-wpsa@192.0.2.1", true),
            ("infra/plain-wpsa@10.0.0.1 by gateway", true),
            // The address is another workload's.
            ("infra/plain-wpsa@10.0.0.1", false),
            ("infra/plain-wpsa@10.0.0.5", false),
            ("infra/address-wpsa@10.0.0.6", false),
            ("shop/cartsa@10.0.0.1", false),
            ("shop/cartsa@10.0.0.4", false),
            ("shop/cartsa@10.0.0.4 by gateway", false),
            ("10.0.0.4", false),
            ("192.0.2.1", false),
        ],
    );
    // Not a port of the service.
    check_required("10.0.0.2:15020", &[("shop/cartsa@10.0.0.1", true), ("192.0.2.1", true)]);
}

#[test]
fn a_workload_with_a_waypoint_is_reached_through_it_on_every_port() {
    let cases = [
        ("infra/address-wpsa@10.0.0.6", true),
        ("infra/address-wpsa@192.0.2.1", true),
        ("infra/plain-wpsa@10.0.0.4", false),
        ("shop/cartsa@10.0.0.1", false),
        ("10.0.0.6", false),
    ];
    check_required("10.0.0.3:5432", &cases);
    check_required("10.0.0.3:1", &cases);
    check_required("10.0.0.1:8080", &[("shop/apisa@10.0.0.2", true), ("192.0.2.1", true)]);
}

/// Behind a gateway only the identity tells who calls.
#[test]
fn a_waypoint_is_itself_whether_it_is_ready_or_not() {
    let waypoint = |key, ip| serving(workload(key, &[ip]), "infra/wp.svc", &[]);
    let sick = Workload { health: Health::Unhealthy, ..waypoint("infra/sick", "10.0.0.4") };
    let idle = Workload { capacity: 0, ..waypoint("infra/idle", "10.0.0.5") };
    let served = |key, ip, service| serving(workload(key, &[ip]), service, &[(80, 9090)]);
    let mesh = Snapshot::build(
        vec![
            served("shop/api1", "10.0.0.1", "shop/api.svc"),
            served("shop/vip1", "10.0.0.2", "shop/vip.svc"),
            waypointed(workload("shop/db1", &["10.0.0.3"]), "/::ffff:10.0.0.4"),
            sick,
            idle,
        ],
        vec![
            behind(service("shop/api.svc", &[], &[(80, 9090)]), "infra/wp.svc"),
            behind(service("shop/vip.svc", &[], &[(80, 9090)]), "/::ffff:10.96.1.1"),
            service("infra/wp.svc", &["10.96.1.1"], &[(15008, 15008)]),
        ],
    );
    for (destination, idle) in
        [("10.0.0.1:9090", true), ("10.0.0.2:9090", true), ("10.0.0.3:5432", false)]
    {
        let cases = [
            ("infra/sicksa@192.0.2.1", true),
            ("infra/sicksa@192.0.2.1 by gateway", true),
            ("infra/idlesa@192.0.2.1 by gateway", idle),
            ("shop/apisa@192.0.2.1 by gateway", false),
            ("192.0.2.1 by gateway", false),
        ];
        check_required_in(&mesh, destination, &cases);
    }
}

#[test]
fn nobody_is_a_waypoint_that_is_not_known() {
    let lost = waypointed(workload("shop/lost1", &["10.0.0.1"]), "infra/gone.svc");
    let mesh = Snapshot::build(vec![lost.clone()], Vec::new());
    let id = workload("infra/gone", &[]).identity().expect("valid");
    let arrival = Arrival {
        network: &Network::default(),
        peer: Some(&id),
        source: "10.0.0.4".parse().expect("literal"),
        from_gateway: false,
        destination: "10.0.0.1:80".parse().expect("literal"),
    };
    let judged = require_waypoint(&mesh, &lost, &arrival, RequireWaypoint::Enforce);
    assert_eq!(judged.map_err(|refusal| refusal.code), Err(Code::WaypointRequired));
}

#[test]
fn nobody_passes_to_a_service_that_is_not_known() {
    let serving = serving(workload("shop/cart1", &["10.0.0.1"]), "shop/cart.svc", &[(80, 8080)]);
    let mesh = Snapshot::build(vec![serving.clone()], Vec::new());
    let arrival = Arrival {
        network: &Network::default(),
        peer: None,
        source: "192.0.2.1".parse().expect("literal"),
        from_gateway: false,
        destination: "10.0.0.1:8080".parse().expect("literal"),
    };
    let judged = |setting| {
        require_waypoint(&mesh, &serving, &arrival, setting).map_err(|refusal| refusal.code)
    };
    assert_eq!(judged(RequireWaypoint::Enforce), Err(Code::WaypointUnknown));
    assert_eq!(judged(RequireWaypoint::Off), Ok(()));
}

proptest! {
    /// Whatever is asked for, only an address of the pod is dialled, and never a port of the mesh.
    #[test]
    fn the_target_is_always_the_pod(
        at in 0..10_usize,
        asked in prop_oneof![
            any::<SocketAddr>().prop_map(|address| address.to_string()),
            ("10\\.(0|96)\\.0\\.[1-9]", 1..u16::MAX).prop_map(|(ip, port)| format!("{ip}:{port}")),
            ("(cart|api|named|wp)\\.svc", 1..u16::MAX).prop_map(|(host, port)| format!("{host}:{port}")),
        ],
    ) {
        let mesh = mesh();
        let mut all: Vec<_> = mesh.workloads().collect();
        all.sort_by(|a, b| a.uid.cmp(&b.uid));
        let workload = all[at];
        let own = |ip: IpAddr| workload.addresses.contains(&ip);
        let host = asked.rsplit_once(':').expect("a port");
        let asked = asked.parse().map_or_else(
            |_| Asked::Host(host.0, host.1.parse().expect("a port")),
            Asked::Address,
        );
        let query = InboundQuery {
            network: &Network::default(),
            workload,
            local: workload.addresses[0],
            own: &own,
            asked,
            tunnel_address: TunnelAddress::Pod,
        };
        if let Ok(target) = inbound_target(&mesh, &query) {
            prop_assert!(own(target.destination.ip()));
            prop_assert!(!MESH_PORTS.contains(&target.destination.port()));
        }
    }
}
