//! Ways through proxies, as tables.

use std::num::NonZeroU16;

use model::{
    ApplicationProtocol, ApplicationTunnel, Gateway, GatewayDestination, IpFamilies,
    LoadBalancingMode, Network, NetworkAddress, Service, ServiceName, SpiffeId, TunnelProtocol,
    WeightedWaypoint, Workload,
};

use crate::tests::{Ask, check, check_with, route, service, serving, workload};
use crate::{Change, Route, Snapshot};

const ID: &str = "spiffe://cluster.local/ns/shop/sa";
const WP: &str = "shop/wp.svc";

fn by_name(name: &str) -> Gateway {
    let name = ServiceName::parse(name).expect("literal");
    gateway(GatewayDestination::Service(name))
}

fn by_address(network: &str, ip: &str) -> Gateway {
    let ip = ip.parse().expect("literal");
    gateway(GatewayDestination::Address(NetworkAddress { network: Network(network.into()), ip }))
}

fn gateway(destination: GatewayDestination) -> Gateway {
    Gateway { destination, hbone_port: NonZeroU16::new(15008).expect("literal") }
}

fn in_network(network: &str, workload: Workload) -> Workload {
    Workload { network: Network(network.into()), ..workload }
}

fn with_gateway(gateway: Gateway, workload: Workload) -> Workload {
    Workload { network_gateway: Some(gateway), ..workload }
}

fn behind(waypoint: Gateway, service: Service) -> Service {
    Service { waypoint: Some(waypoint), ..service }
}

fn guarded(waypoint: Gateway, workload: Workload) -> Workload {
    Workload { waypoint: Some(waypoint), ..workload }
}

fn naming(identity: &str, service: Service) -> Service {
    let identity = SpiffeId::parse(identity).expect("literal");
    Service { subject_alt_names: vec![identity], ..service }
}

/// A shop with a service and a pod behind a waypoint, and the waypoint's own service.
fn shop() -> Vec<Change> {
    vec![
        Change::Workload(serving(workload("shop/wp1", &["10.0.9.1"]), WP, &[])),
        Change::Workload(guarded(
            by_name(WP),
            serving(workload("shop/cart1", &["10.0.0.2"]), "shop/cart.svc", &[]),
        )),
        Change::Service(service(WP, &["10.1.9.1"], &[(15008, 15008)])),
        Change::Service(behind(
            by_name(WP),
            service("shop/cart.svc", &["10.1.0.2"], &[(80, 8080)]),
        )),
    ]
}

fn mesh(changes: impl IntoIterator<Item = Change>) -> Snapshot {
    Snapshot::default().apply(shop()).apply(changes)
}

fn pod(name: &str, ip: &str) -> Workload {
    workload(name, &[ip])
}

#[test]
fn what_the_address_means_decides_whose_waypoint_counts() {
    let plain_cart = || service("shop/cart.svc", &["10.1.0.2"], &[(80, 8080)]);
    let through = |authority: &str| format!("hbone 10.0.9.1:15008 {authority} wp1 {ID}/wpsa");
    let for_cart = |line: String| format!("{line} for shop/cart.svc");
    // A service's connections take its waypoint, for the very address and port.
    check(&mesh([]), "10.1.0.2:80", &for_cart(through("10.1.0.2:80")));
    // The waypoint knows which ports there are.
    check(&mesh([]), "10.1.0.2:81", &for_cart(through("10.1.0.2:81")));
    // A workload's address takes the workload's.
    check(&mesh([]), "10.0.0.2:7000", &through("10.0.0.2:7000"));
    // A service without one never takes its endpoint's.
    check(
        &mesh([Change::Service(plain_cart())]),
        "10.1.0.2:80",
        &format!("hbone 10.0.0.2:15008 10.0.0.2:8080 cart1 {ID}/cartsa for shop/cart.svc"),
    );
    // A waypoint comes before load balancing, whatever its mode.
    let passthrough = |mut service: Service| {
        service.load_balancing.mode = LoadBalancingMode::Passthrough;
        service
    };
    check(
        &mesh([Change::Service(behind(by_name(WP), passthrough(plain_cart())))]),
        "10.1.0.2:80",
        &for_cart(through("10.1.0.2:80")),
    );
    check(
        &mesh([Change::Service(passthrough(plain_cart()))]),
        "10.1.0.2:80",
        "plain 10.1.0.2:80 - for shop/cart.svc",
    );
    // A workload outside the mesh has its waypoint all the same.
    let old = Workload { protocol: TunnelProtocol::None, ..pod("shop/old1", "10.0.0.3") };
    check(
        &mesh([Change::Workload(guarded(by_name(WP), old))]),
        "10.0.0.3:7000",
        &through("10.0.0.3:7000"),
    );
    // The mesh's own port behind a waypoint.
    check(&mesh([]), "10.0.0.2:15008", "SELF_CALL cart1");
}

#[test]
fn a_waypoint_by_address_and_by_name() {
    let cart = |waypoint: Gateway| {
        let cart = service("shop/cart.svc", &["10.1.0.2"], &[(80, 8080)]);
        [Change::Service(behind(waypoint, cart))]
    };
    let through =
        |tunnel: &str, ids: &str| format!("hbone {tunnel} 10.1.0.2:80 wp1 {ids} for shop/cart.svc");
    let own = format!("{ID}/wpsa");
    for (waypoint, expected) in [
        (by_name(WP), through("10.0.9.1:15008", &own)),
        (by_address("", "10.1.9.1"), through("10.0.9.1:15008", &own)),
        (by_address("", "10.0.9.1"), through("10.0.9.1:15008", &own)),
        (by_address("", "::ffff:10.0.9.1"), through("10.0.9.1:15008", &own)),
        (by_name("shop/none.svc"), "WAYPOINT_UNKNOWN for shop/cart.svc".to_owned()),
        (by_address("", "10.0.9.9"), "WAYPOINT_UNKNOWN for shop/cart.svc".to_owned()),
        (by_address("far", "10.0.9.1"), "WAYPOINT_UNKNOWN for shop/cart.svc".to_owned()),
        // Who is anywhere in a block is no waypoint.
        (by_address("", "10.8.0.1"), "WAYPOINT_UNKNOWN for shop/cart.svc".to_owned()),
        // Neither is a service without endpoints, or without that port.
        (by_name("shop/empty.svc"), "WAYPOINT_UNKNOWN for shop/cart.svc".to_owned()),
        (by_name("shop/cart.svc"), "WAYPOINT_UNKNOWN for shop/cart.svc".to_owned()),
    ] {
        let block = service("shop/block.svc", &["10.8.0.0/16"], &[(15008, 15008)]);
        let empty = service("shop/empty.svc", &["10.1.9.9"], &[(15008, 15008)]);
        let snapshot = mesh(cart(waypoint)).apply([block, empty].map(Change::Service));
        check(&snapshot, "10.1.0.2:80", &expected);
    }
    // The tunnel's port is a port of the waypoint's service, which may add identities.
    let moved = naming("spiffe://td/ns/a/sa/b", service(WP, &["10.1.9.1"], &[(15008, 15009)]));
    let ids = format!("{own},spiffe://td/ns/a/sa/b");
    let snapshot = mesh([Change::Service(moved)]);
    check(&snapshot, "10.1.0.2:80", &through("10.0.9.1:15009", &ids));
}

#[test]
fn refusals_name_what_is_missing() {
    let of = |snapshot: &Snapshot, dialled: &str| {
        let route = route(snapshot, &Ask::default(), dialled);
        let Route::Refused { detail, .. } = route else { panic!("{route:?}") };
        detail
    };
    let gone = mesh([Change::RemoveService(ServiceName::parse(WP).expect("literal"))]);
    assert_eq!(
        of(&gone, "10.1.0.2:80"),
        "waypoint shop/wp.svc:15008 of service shop/cart.svc: nothing with that address or name \
         is known"
    );
    assert_eq!(
        of(&gone, "10.0.0.2:80"),
        "waypoint shop/wp.svc:15008 of workload Kubernetes//Pod/shop/cart1: nothing with that \
         address or name is known"
    );
    let empty = mesh([Change::RemoveWorkload(workload("shop/wp1", &[]).uid)]);
    assert_eq!(
        of(&empty, "10.1.0.2:80"),
        "waypoint shop/wp.svc:15008 of service shop/cart.svc: shop/wp.svc has no healthy endpoint \
         for port 15008"
    );
}

#[test]
fn a_waypoint_does_not_get_its_own_connections_back() {
    let to_cart = |id: &str| format!("hbone 10.0.0.2:15008 10.0.0.2:{id} cart1 {ID}/cartsa");
    let wp = serving(pod("shop/wp1", "10.0.9.1"), WP, &[]);
    let sibling = serving(pod("shop/wp2", "10.0.9.2"), WP, &[]);
    for source in [&wp, &sibling] {
        let ask = Ask { source, ..Ask::default() };
        check_with(&mesh([]), &ask, "10.0.0.2:7000", &to_cart("7000"));
        let expected = format!("{} for shop/cart.svc", to_cart("8080"));
        check_with(&mesh([]), &ask, "10.1.0.2:80", &expected);
    }
    // Named by its address it is that one alone.
    let cart = guarded(by_address("", "10.0.9.1"), pod("shop/cart1", "10.0.0.2"));
    let snapshot = mesh([Change::Workload(cart)]);
    let ask = Ask { source: &wp, ..Ask::default() };
    check_with(&snapshot, &ask, "10.0.0.2:7000", &to_cart("7000"));
    let ask = Ask { source: &sibling, ..Ask::default() };
    let through = format!("hbone 10.0.9.1:15008 10.0.0.2:7000 wp1 {ID}/wpsa");
    check_with(&snapshot, &ask, "10.0.0.2:7000", &through);
    // The service's address stands for all of them.
    let cart = guarded(by_address("", "10.1.9.1"), pod("shop/cart1", "10.0.0.2"));
    check_with(&mesh([Change::Workload(cart)]), &ask, "10.0.0.2:7000", &to_cart("7000"));
}

#[test]
fn several_waypoints_take_their_shares() {
    let canary = [
        Change::Workload(serving(workload("shop/canary1", &["10.0.9.3"]), "shop/wp2.svc", &[])),
        Change::Service(service("shop/wp2.svc", &["10.1.9.3"], &[(15008, 15008)])),
    ];
    let with = |waypoint: Option<Gateway>, weights: &[(&str, u32)]| {
        let weighted = weights
            .iter()
            .map(|(name, weight)| WeightedWaypoint { gateway: by_name(name), weight: *weight });
        let cart = service("shop/cart.svc", &["10.1.0.2"], &[(80, 8080)]);
        let cart = Service { weighted_waypoints: weighted.collect(), waypoint, ..cart };
        mesh(canary.clone()).apply([Change::Service(cart)])
    };
    let weighted = |weights: &[(&str, u32)]| with(Some(by_name(WP)), weights);
    let takers = |snapshot: &Snapshot| {
        let mut counts = [0_u32; 2];
        for step in 0..2000_u64 {
            let ask = Ask { random: step.wrapping_mul(u64::MAX / 2000), ..Ask::default() };
            let route = route(snapshot, &ask, "10.1.0.2:80");
            let Route::Hbone { workload, .. } = &route else { panic!("{route:?}") };
            match &*workload.key.name {
                "wp1" => counts[0] += 1,
                "canary1" => counts[1] += 1,
                other => panic!("{other}"),
            }
        }
        counts
    };
    for (weights, share) in [
        (&[(WP, 90), ("shop/wp2.svc", 10)][..], 0.1),
        (&[(WP, 1), ("shop/wp2.svc", 1)], 0.5),
        (&[(WP, 0), ("shop/wp2.svc", 5)], 1.0),
        (&[("shop/wp2.svc", u32::MAX)], 1.0),
        // Without any weight, the one waypoint counts.
        (&[("shop/wp2.svc", 0)], 0.0),
        (&[], 0.0),
    ] {
        let [primary, canary] = takers(&weighted(weights));
        let found = f64::from(canary) / f64::from(primary + canary);
        assert!((found - share).abs() < 0.05, "{weights:?}: {found}");
    }
    // Without any weight and without the one, there is still no way past them.
    assert_eq!(takers(&with(None, &[("shop/wp2.svc", 0), (WP, 0)])), [0, 2000]);
    // Each of them is a waypoint of that service.
    let source = serving(pod("shop/canary1", "10.0.9.3"), "shop/wp2.svc", &[]);
    let ask = Ask { source: &source, ..Ask::default() };
    let straight =
        format!("hbone 10.0.0.2:15008 10.0.0.2:8080 cart1 {ID}/cartsa for shop/cart.svc");
    check_with(&weighted(&[(WP, 90), ("shop/wp2.svc", 10)]), &ask, "10.1.0.2:80", &straight);
    // One that is chosen and unknown refuses; there is no second choice.
    let unknown = weighted(&[("shop/none.svc", 1)]);
    check(&unknown, "10.1.0.2:80", "WAYPOINT_UNKNOWN for shop/cart.svc");
}

#[test]
fn a_sandwiched_waypoint_need_not_serve_the_tunnel_port() {
    let tunnel =
        ApplicationTunnel { protocol: ApplicationProtocol::Proxy, port: NonZeroU16::new(15088) };
    let wp = |tunnel: Option<ApplicationTunnel>| {
        let wp = serving(workload("shop/wp1", &["10.0.9.1"]), WP, &[]);
        Change::Workload(Workload { application_tunnel: tunnel, ..wp })
    };
    let http = || Change::Service(service(WP, &["10.1.9.1"], &[(80, 80)]));
    let through = format!("hbone 10.0.9.1:15008 10.1.0.2:80 wp1 {ID}/wpsa for shop/cart.svc");
    check(&mesh([http(), wp(Some(tunnel))]), "10.1.0.2:80", &through);
    check(&mesh([http(), wp(None)]), "10.1.0.2:80", "WAYPOINT_UNKNOWN for shop/cart.svc");
    // Only a waypoint may be asked so: a client's own connection needs the port.
    check(&mesh([http(), wp(Some(tunnel))]), "10.1.9.1:15008", "NO_SERVICE_PORT for shop/wp.svc");
}

#[test]
fn a_waypoint_of_this_node_is_local() {
    let ask = Ask { local: &["wp1", "cart1"], ..Ask::default() };
    check_with(
        &mesh([]),
        &ask,
        "10.1.0.2:80",
        "local 10.0.9.1:80 10.1.0.2:80 wp1 for shop/cart.svc",
    );
    check_with(&mesh([]), &ask, "10.0.0.2:7000", "local 10.0.9.1:7000 10.0.0.2:7000 wp1");
    // But not one that ends the tunnel by itself.
    let wp = serving(workload("shop/wp1", &["10.0.9.1"]), WP, &[]);
    let native = Change::Workload(Workload { native_tunnel: true, ..wp });
    let through = format!("hbone 10.0.9.1:15008 10.1.0.2:80 wp1 {ID}/wpsa for shop/cart.svc");
    check_with(&mesh([native]), &ask, "10.1.0.2:80", &through);
}

#[test]
fn a_pod_with_a_tunnel_of_its_own_is_never_local() {
    let native = Workload { native_tunnel: true, ..pod("shop/envoy1", "10.0.0.7") };
    let ask = Ask { local: &["envoy1"], ..Ask::default() };
    check_with(
        &mesh([Change::Workload(native)]),
        &ask,
        "10.0.0.7:7000",
        &format!("hbone 10.0.0.7:15008 10.0.0.7:7000 envoy1 {ID}/envoysa"),
    );
}

/// The gateway between the networks, its service, and a service with endpoints on both sides.
fn far() -> Vec<Change> {
    let svc =
        naming("spiffe://td/ns/shop/sa/api", service("shop/api.svc", &["10.1.0.5"], &[(80, 8080)]));
    let far = || serving(workload("shop/far1", &["10.0.0.2"]), "shop/api.svc", &[]);
    let ew = serving(workload("shop/ew1", &["172.16.0.1"]), "shop/ew.svc", &[]);
    let ew_service = service("shop/ew.svc", &["10.1.9.5"], &[(15008, 15008)]);
    vec![
        Change::Service(svc),
        Change::Workload(in_network("far", with_gateway(by_name("shop/ew.svc"), far()))),
        Change::Workload(in_network("far", ew)),
        Change::Service(naming("spiffe://td/ns/istio/sa/ew", ew_service)),
    ]
}

#[test]
fn another_network_is_reached_through_its_gateway() {
    let double = |tunnel: &str, outer: &str| {
        format!(
            "double {tunnel} ew1 {outer} api.svc:80 far1 spiffe://td/ns/shop/sa/api \
             for shop/api.svc"
        )
    };
    let ew_ids = format!("{ID}/ewsa,spiffe://td/ns/istio/sa/ew");
    check(&mesh(far()), "10.1.0.5:80", &double("172.16.0.1:15008", &ew_ids));
    let by = |gateway: Option<Gateway>| {
        let far1 = serving(workload("shop/far1", &["10.0.0.2"]), "shop/api.svc", &[]);
        let far1 = Workload { network_gateway: gateway, ..in_network("far", far1) };
        mesh(far()).apply([Change::Workload(far1)])
    };
    let refused = |code: &str| format!("{code} far1 for shop/api.svc");
    for (gateway, expected) in [
        // The gateway's own address: nothing of its service counts.
        (Some(by_address("far", "172.16.0.1")), double("172.16.0.1:15008", &format!("{ID}/ewsa"))),
        (Some(by_address("", "10.1.9.5")), double("172.16.0.1:15008", &ew_ids)),
        (Some(by_address("", "172.16.0.1")), refused("GATEWAY_UNKNOWN")),
        (Some(by_name("shop/none.svc")), refused("GATEWAY_UNKNOWN")),
        // Not one of the endpoints can be reached, and that is all there are.
        (None, "GATEWAY_UNKNOWN for shop/api.svc".to_owned()),
    ] {
        check(&by(gateway), "10.1.0.5:80", &expected);
    }
    // No identity may answer: no handshake could succeed.
    let nameless = service("shop/api.svc", &["10.1.0.5"], &[(80, 8080)]);
    let snapshot = mesh(far()).apply([Change::Service(nameless)]);
    check(&snapshot, "10.1.0.5:80", &refused("PEER_IDENTITY"));
    // A gateway whose name has to be looked up.
    let ew = serving(workload("shop/ew1", &[]), "shop/ew.svc", &[]);
    let ew = Workload { hostname: Some("ew.example".into()), ..in_network("far", ew) };
    let snapshot = mesh(far()).apply([Change::Workload(ew)]);
    check(&snapshot, "10.1.0.5:80", "lookup ew.example ew1 for shop/api.svc");
    let Route::Lookup(lookup) = route(&snapshot, &Ask::default(), "10.1.0.5:80") else {
        panic!("no look-up");
    };
    let resolved = lookup.resolved(&["192.0.2.7".parse().expect("literal")]);
    assert_eq!(crate::tests::show(&resolved), double("192.0.2.7:15008", &ew_ids));
}

#[test]
fn near_endpoints_count_beside_far_ones() {
    let near = serving(workload("shop/near1", &["10.0.0.8"]), "shop/api.svc", &[]);
    let snapshot = mesh(far()).apply([Change::Workload(near)]);
    let hbone = format!(
        "hbone 10.0.0.8:15008 10.0.0.8:8080 near1 {ID}/nearsa,spiffe://td/ns/shop/sa/api \
         for shop/api.svc"
    );
    // Sorted by network: ours has no name.
    check_with(&snapshot, &Ask { random: 0, ..Ask::default() }, "10.1.0.5:80", &hbone);
    let far = Ask { random: u64::MAX, ..Ask::default() };
    assert!(matches!(route(&snapshot, &far, "10.1.0.5:80"), Route::DoubleHbone { .. }));
    // Where the network is preferred, the far ones are for the case that there is no other.
    let mut failover =
        naming("spiffe://td/ns/shop/sa/api", service("shop/api.svc", &["10.1.0.5"], &[(80, 8080)]));
    failover.load_balancing.mode = LoadBalancingMode::Failover;
    failover.load_balancing.preferences = vec![model::Scope::Network];
    let snapshot = snapshot.apply([Change::Service(failover)]);
    for random in [0, u64::MAX / 2, u64::MAX] {
        check_with(&snapshot, &Ask { random, ..Ask::default() }, "10.1.0.5:80", &hbone);
    }
    let down = Change::RemoveWorkload(workload("shop/near1", &[]).uid);
    let snapshot = snapshot.apply([down]);
    assert!(matches!(route(&snapshot, &far, "10.1.0.5:80"), Route::DoubleHbone { .. }));
}

#[test]
fn a_waypoint_in_another_network() {
    let wp = serving(workload("shop/wp1", &["10.0.9.1"]), WP, &[]);
    let wp = in_network("far", with_gateway(by_name("shop/ew.svc"), wp));
    let named = naming("spiffe://td/ns/shop/sa/wp", service(WP, &["10.1.9.1"], &[(15008, 15008)]));
    let snapshot = mesh(far()).apply([Change::Workload(wp), Change::Service(named)]);
    // For a service: its host name is asked for, the waypoint's service says who may answer.
    check(
        &snapshot,
        "10.1.0.2:80",
        &format!(
            "double 172.16.0.1:15008 ew1 {ID}/ewsa,spiffe://td/ns/istio/sa/ew cart.svc:80 wp1 \
             spiffe://td/ns/shop/sa/wp for shop/cart.svc"
        ),
    );
    // For a workload there is no name to ask for.
    check(&snapshot, "10.0.0.2:7000", "ROUTE_UNSUPPORTED cart1");
}

#[test]
fn host_names_are_looked_up() {
    let named = |families: IpFamilies, protocol: TunnelProtocol| {
        let endpoint = serving(workload("shop/ext1", &[]), "shop/ext.svc", &[]);
        let endpoint = Workload { hostname: Some("db.example".into()), protocol, ..endpoint };
        let svc = service("shop/ext.svc", &["10.1.0.6", "fd01::6"], &[(80, 8080), (99, 15001)]);
        let svc = Service { ip_families: families, ..svc };
        mesh([Change::Workload(endpoint), Change::Service(svc)])
    };
    let plain = TunnelProtocol::None;
    let resolved = |snapshot: &Snapshot, dialled: &str, answers: &[&str]| {
        let Route::Lookup(lookup) = route(snapshot, &Ask::default(), dialled) else {
            panic!("no look-up");
        };
        assert_eq!(&**lookup.hostname(), "db.example");
        let choice = lookup.choice().expect("an endpoint was chosen");
        assert_eq!(choice.workload.uid, lookup.workload().uid);
        let answers: Vec<_> = answers.iter().map(|ip| ip.parse().expect("literal")).collect();
        crate::tests::show(&lookup.resolved(&answers))
    };
    let (v4, v6) = ("192.0.2.7", "2001:db8::7");
    let any = IpFamilies::Automatic;
    for (families, dialled, answers, expected) in [
        (any, "10.1.0.6:80", &[v4, v6][..], "plain 192.0.2.7:8080 ext1"),
        (any, "[fd01::6]:80", &[v4, v6], "plain [2001:db8::7]:8080 ext1"),
        (any, "[fd01::6]:80", &[v4], "plain 192.0.2.7:8080 ext1"),
        (any, "10.1.0.6:80", &["::ffff:192.0.2.7"], "plain 192.0.2.7:8080 ext1"),
        (any, "10.1.0.6:80", &[], "HOSTNAME_UNRESOLVED ext1"),
        (IpFamilies::V6, "10.1.0.6:80", &[v4], "HOSTNAME_UNRESOLVED ext1"),
        (IpFamilies::V6, "10.1.0.6:80", &[v4, v6], "plain [2001:db8::7]:8080 ext1"),
        // A name that leads back to the agent.
        (any, "10.1.0.6:99", &["127.0.0.1"], "SELF_CALL ext1"),
        (any, "10.1.0.6:99", &[v4], "plain 192.0.2.7:15001 ext1"),
    ] {
        let found = resolved(&named(families, plain), dialled, answers);
        assert_eq!(found, format!("{expected} for shop/ext.svc"), "{dialled} {answers:?}");
    }
    // In the mesh, the tunnel goes to that very address.
    let found = resolved(&named(any, TunnelProtocol::Hbone), "10.1.0.6:80", &[v4]);
    let expected = format!("hbone 192.0.2.7:15008 192.0.2.7:8080 ext1 {ID}/extsa for shop/ext.svc");
    assert_eq!(found, expected);
    // A waypoint too may have only a name.
    let wp = Workload {
        hostname: Some("db.example".into()),
        ..serving(workload("shop/wp1", &[]), WP, &[])
    };
    let found = resolved(&mesh([Change::Workload(wp)]), "10.1.0.2:80", &[v4]);
    let expected = format!("hbone 192.0.2.7:15008 10.1.0.2:80 wp1 {ID}/wpsa for shop/cart.svc");
    assert_eq!(found, expected);
    // Each address has its turn.
    let snapshot = named(any, plain);
    let mut found: Vec<_> = (0..64_u64)
        .map(|step| {
            let ask = Ask { random: step << 58, ..Ask::default() };
            let Route::Lookup(lookup) = route(&snapshot, &ask, "10.1.0.6:80") else {
                panic!("no look-up");
            };
            let answers = ["192.0.2.7", "192.0.2.8"].map(|ip| ip.parse().expect("literal"));
            crate::tests::show(&lookup.resolved(&answers))
        })
        .collect();
    found.sort();
    found.dedup();
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn what_nobody_asked_for_is_asked_for() {
    let snapshot = mesh([Change::Service(service("shop/b.svc", &["10.8.0.0/16"], &[(80, 80)]))]);
    let through = format!("hbone 10.0.9.1:15008 10.1.0.2:80 wp1 {ID}/wpsa for shop/cart.svc");
    for (answered, dialled, expected) in [
        // Unknown, until the control plane says that it does not exist.
        (&[][..], "192.0.2.1:443", "ask /192.0.2.1"),
        (&["/192.0.2.2"], "192.0.2.1:443", "ask /192.0.2.1"),
        (&["/192.0.2.1"], "192.0.2.1:443", "plain 192.0.2.1:443 -"),
        (&[], "[::ffff:192.0.2.1]:443", "ask /192.0.2.1"),
        // A block may hold an address that means something else.
        (&[], "10.8.0.1:80", "ask /10.8.0.1"),
        (&["/10.8.0.1"], "10.8.0.1:80", "NO_HEALTHY_ENDPOINT for shop/b.svc"),
        // What is known by that very address is used.
        (&[], "10.1.0.2:80", &through),
        // Nothing in the mesh has such an address.
        (&[], "127.0.0.1:80", "plain 127.0.0.1:80 -"),
        (&[], "0.0.0.0:80", "plain 0.0.0.0:80 -"),
        (&[], "224.0.0.1:80", "plain 224.0.0.1:80 -"),
    ] {
        let ask = Ask { answered: Some(answered), ..Ask::default() };
        check_with(&snapshot, &ask, dialled, expected);
    }
    let cart = |waypoint: Gateway| {
        let cart = service("shop/cart.svc", &["10.1.0.2"], &[(80, 8080)]);
        mesh([Change::Service(behind(waypoint, cart))])
    };
    for (waypoint, name) in [
        (by_name("shop/none.svc"), "shop/none.svc"),
        (by_address("far", "10.0.9.9"), "far/10.0.9.9"),
    ] {
        let ask = Ask { answered: Some(&[]), ..Ask::default() };
        let expected = format!("ask {name} for shop/cart.svc");
        check_with(&cart(waypoint.clone()), &ask, "10.1.0.2:80", &expected);
        let ask = Ask { answered: Some(&[name]), ..Ask::default() };
        let expected = "WAYPOINT_UNKNOWN for shop/cart.svc";
        check_with(&cart(waypoint), &ask, "10.1.0.2:80", expected);
    }
}
