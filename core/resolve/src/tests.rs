//! Table cases, all through one `check`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU16;

use model::{
    Health, HealthPolicy, IpFamilies, LoadBalancing, LoadBalancingMode, Locality, Network,
    NetworkMode, OriginalDst, PortMapping, Scope, ServedServices, Service, ServiceAddress,
    ServiceName, SpiffeId, TrustDomain, TunnelProtocol, Visibility, Workload, WorkloadKey,
    WorkloadType, WorkloadUid,
};

use crate::{Ejected, Extent, Query, Resource, Route, SameNode, Snapshot, resolve};

pub(crate) fn ports(pairs: &[(u16, u16)]) -> Vec<PortMapping> {
    let mapping = |(service, target): &(u16, u16)| PortMapping {
        service_port: NonZeroU16::new(*service).expect("literal"),
        target_port: NonZeroU16::new(*target),
    };
    pairs.iter().map(mapping).collect()
}

/// `key` is `namespace/name`; the service account is the name without its number.
pub(crate) fn workload(key: &str, addresses: &[&str]) -> Workload {
    let account = key.split('/').next_back().expect("a key").trim_end_matches(char::is_numeric);
    Workload {
        uid: WorkloadUid(format!("Kubernetes//Pod/{key}").into()),
        key: WorkloadKey::parse(&format!("{key}/{account}sa")).expect("literal"),
        trust_domain: TrustDomain::default(),
        addresses: addresses.iter().map(|ip| ip.parse().expect("literal")).collect(),
        network: Network::default(),
        protocol: TunnelProtocol::Hbone,
        network_mode: NetworkMode::Standard,
        node: "".into(),
        cluster: "Kubernetes".into(),
        canonical_name: "".into(),
        canonical_revision: "".into(),
        workload_type: WorkloadType::Pod,
        workload_name: "".into(),
        health: Health::Healthy,
        locality: Locality::default(),
        policies: Vec::new(),
        services: ServedServices::default(),
        capacity: 1,
        native_tunnel: false,
        waypoint: None,
        network_gateway: None,
        application_tunnel: None,
        hostname: None,
    }
}

pub(crate) fn serving(mut workload: Workload, service: &str, mapping: &[(u16, u16)]) -> Workload {
    workload.services.insert(ServiceName::parse(service).expect("literal"), ports(mapping));
    workload
}

/// `vips` are addresses or blocks of the default network.
pub(crate) fn service(name: &str, vips: &[&str], mapping: &[(u16, u16)]) -> Service {
    let vip = |text: &&str| ServiceAddress {
        network: Network::default(),
        net: text.parse().unwrap_or_else(|_| text.parse::<IpAddr>().expect("literal").into()),
    };
    Service {
        name: ServiceName::parse(name).expect("literal"),
        short_name: "".into(),
        addresses: vips.iter().map(vip).collect(),
        ports: ports(mapping),
        subject_alt_names: Vec::new(),
        load_balancing: LoadBalancing::default(),
        ip_families: IpFamilies::default(),
        canonical: false,
        visibility: Visibility::default(),
        waypoint: None,
        weighted_waypoints: Vec::new(),
    }
}

fn balanced(mut service: Service, mode: LoadBalancingMode, preferences: &[Scope]) -> Service {
    service.load_balancing.mode = mode;
    service.load_balancing.preferences = preferences.to_vec();
    service
}

/// One line for a route.
pub(crate) fn show(route: &Route) -> String {
    let of = |workload: &Workload| workload.key.name.to_string();
    let ids = |ids: &[SpiffeId]| {
        let ids: Vec<_> = ids.iter().map(SpiffeId::as_str).collect();
        ids.join(",")
    };
    let (line, service) = match route {
        Route::Passthrough { address, workload, service, .. } => {
            let behind = workload.as_ref().map_or_else(|| "-".to_owned(), |w| of(w));
            (format!("plain {address} {behind}"), service.as_ref())
        }
        Route::Hbone { workload, tunnel, authority, expected, service, .. } => {
            let name = of(workload);
            (format!("hbone {tunnel} {authority} {name} {}", ids(expected)), service.as_ref())
        }
        Route::DoubleHbone {
            workload,
            gateway,
            tunnel,
            authority: (hostname, port),
            outer_expected,
            inner_expected,
            service,
            ..
        } => {
            let (gateway, workload) = (of(gateway), of(workload));
            let (outer, inner) = (ids(outer_expected), ids(inner_expected));
            let line =
                format!("double {tunnel} {gateway} {outer} {hostname}:{port} {workload} {inner}");
            (line, service.as_ref())
        }
        Route::Local { workload, address, authority, service, .. } => {
            let same = address == authority;
            let beyond = if same { String::new() } else { format!(" {authority}") };
            (format!("local {address}{beyond} {}", of(workload)), service.as_ref())
        }
        Route::Lookup(lookup) => {
            (format!("lookup {} {}", lookup.hostname(), of(lookup.workload())), lookup.service())
        }
        Route::Ask { resource, service } => (format!("ask {resource}"), service.as_ref()),
        Route::Refused { code, service, workload, .. } => {
            let at = workload.as_ref().map_or_else(String::new, |w| format!(" {}", of(w)));
            (format!("{code}{at}"), service.as_ref())
        }
    };
    match service {
        Some(name) => format!("{line} for {name}"),
        None => line,
    }
}

/// The fixed mesh of most cases.
fn mesh() -> Snapshot {
    let cart = "shop/cart.shop.svc";
    Snapshot::build(
        vec![
            workload("shop/web1", &["10.0.0.1"]),
            serving(workload("shop/cart1", &["10.0.0.2", "fd00::2"]), cart, &[(80, 8080)]),
            Workload {
                protocol: TunnelProtocol::None,
                ..serving(workload("shop/old1", &["10.0.0.3"]), "shop/old.shop.svc", &[])
            },
            Workload {
                network_mode: NetworkMode::HostNetwork,
                protocol: TunnelProtocol::None,
                ..serving(workload("shop/host1", &["10.9.0.1"]), "shop/host.shop.svc", &[])
            },
        ],
        vec![
            service(cart, &["10.1.0.1", "fd01::1"], &[(80, 1), (81, 8081), (90, 0)]),
            service("shop/old.shop.svc", &["10.1.0.2"], &[(80, 8080)]),
            service("shop/empty.shop.svc", &["10.1.0.3"], &[(80, 8080)]),
            service("shop/host.shop.svc", &["10.1.0.4"], &[(80, 8080)]),
            balanced(
                service("shop/pass.shop.svc", &["10.1.0.5"], &[(80, 8080)]),
                LoadBalancingMode::Passthrough,
                &[],
            ),
        ],
    )
}

pub(crate) struct Ask<'a> {
    pub(crate) source: &'a Workload,
    pub(crate) local: &'a [&'a str],
    pub(crate) same_node: SameNode,
    pub(crate) random: u64,
    /// What the control plane has answered for; none: the snapshot is the whole mesh.
    pub(crate) answered: Option<&'a [&'a str]>,
}

impl Default for Ask<'_> {
    fn default() -> Self {
        let source = Box::leak(Box::new(workload("shop/web1", &["10.0.0.1"])));
        Self { source, local: &[], same_node: SameNode::Relay, random: 0, answered: None }
    }
}

pub(crate) fn route(snapshot: &Snapshot, ask: &Ask<'_>, dialled: &str) -> Route {
    let answered =
        |resource: &Resource| ask.answered.is_some_and(|all| all.contains(&&*resource.to_string()));
    resolve(
        snapshot,
        &Query {
            network: &Network::default(),
            source: ask.source,
            original_dst: OriginalDst(dialled.parse().expect("literal")),
            local: &|workload| ask.local.contains(&&*workload.key.name),
            same_node: ask.same_node,
            extent: match ask.answered {
                None => Extent::Whole,
                Some(_) => Extent::Asked(&answered),
            },
            ejected: Ejected::NONE,
            random: ask.random,
        },
    )
}

#[track_caller]
pub(crate) fn check_with(snapshot: &Snapshot, ask: &Ask<'_>, dialled: &str, expected: &str) {
    let route = route(snapshot, ask, dialled);
    assert_eq!(show(&route), expected, "{dialled}: {route:?}");
}

#[track_caller]
pub(crate) fn check(snapshot: &Snapshot, dialled: &str, expected: &str) {
    check_with(snapshot, &Ask::default(), dialled, expected);
}

const CART_ID: &str = "spiffe://cluster.local/ns/shop/sa/cartsa";

#[test]
fn addresses_of_the_mesh() {
    let mesh = mesh();
    for (dialled, expected) in [
        // Unknown to the mesh.
        ("192.0.2.1:443", "plain 192.0.2.1:443 -".to_owned()),
        ("127.0.0.1:80", "plain 127.0.0.1:80 -".to_owned()),
        // A pod.
        ("10.0.0.2:7000", format!("hbone 10.0.0.2:15008 10.0.0.2:7000 cart1 {CART_ID}")),
        ("[::ffff:10.0.0.2]:7000", format!("hbone 10.0.0.2:15008 10.0.0.2:7000 cart1 {CART_ID}")),
        ("[fd00::2]:7000", format!("hbone [fd00::2]:15008 [fd00::2]:7000 cart1 {CART_ID}")),
        // A pod outside the mesh.
        ("10.0.0.3:7000", "plain 10.0.0.3:7000 old1".to_owned()),
        // The host's address does not mean the workload.
        ("10.9.0.1:7000", "plain 10.9.0.1:7000 -".to_owned()),
        // A service: the endpoint's port before the service's.
        (
            "10.1.0.1:80",
            format!("hbone 10.0.0.2:15008 10.0.0.2:8080 cart1 {CART_ID} for shop/cart.shop.svc"),
        ),
        (
            "10.1.0.1:81",
            format!("hbone 10.0.0.2:15008 10.0.0.2:8081 cart1 {CART_ID} for shop/cart.shop.svc"),
        ),
        (
            "[fd01::1]:80",
            format!("hbone [fd00::2]:15008 [fd00::2]:8080 cart1 {CART_ID} for shop/cart.shop.svc"),
        ),
        // Nobody resolves the named port.
        ("10.1.0.1:90", "NO_HEALTHY_ENDPOINT for shop/cart.shop.svc".to_owned()),
        ("10.1.0.1:82", "NO_SERVICE_PORT for shop/cart.shop.svc".to_owned()),
        ("10.1.0.2:80", "plain 10.0.0.3:8080 old1 for shop/old.shop.svc".to_owned()),
        ("10.1.0.3:80", "NO_HEALTHY_ENDPOINT for shop/empty.shop.svc".to_owned()),
        ("10.1.0.4:80", "plain 10.9.0.1:8080 host1 for shop/host.shop.svc".to_owned()),
        // Load balancing off: any port, as dialled.
        ("10.1.0.5:9999", "plain 10.1.0.5:9999 - for shop/pass.shop.svc".to_owned()),
        // The mesh's own ports.
        ("127.0.0.1:15008", "SELF_CALL".to_owned()),
        ("[::1]:15001", "SELF_CALL".to_owned()),
        ("[::ffff:127.0.0.1]:15001", "SELF_CALL".to_owned()),
        ("10.0.0.2:15008", "SELF_CALL cart1".to_owned()),
        ("10.0.0.3:15008", "plain 10.0.0.3:15008 old1".to_owned()),
        ("192.0.2.1:15008", "plain 192.0.2.1:15008 -".to_owned()),
    ] {
        check(&mesh, dialled, &expected);
    }
}

#[test]
fn local_is_what_the_agent_verified() {
    let mesh = mesh();
    let relay = Ask { local: &["cart1", "old1", "host1"], ..Ask::default() };
    check_with(&mesh, &relay, "10.0.0.2:7000", "local 10.0.0.2:7000 cart1");
    check_with(&mesh, &relay, "10.1.0.1:80", "local 10.0.0.2:8080 cart1 for shop/cart.shop.svc");
    // An enrolled pod is judged, whatever the control plane says of its protocol.
    check_with(&mesh, &relay, "10.0.0.3:7000", "local 10.0.0.3:7000 old1");
    check_with(&mesh, &relay, "10.0.0.2:15008", "SELF_CALL cart1");
    // The host's network is not a pod's.
    check_with(&mesh, &relay, "10.1.0.4:80", "plain 10.9.0.1:8080 host1 for shop/host.shop.svc");
    let tunnel = Ask { local: &["cart1"], same_node: SameNode::Tunnel, ..Ask::default() };
    let expected = format!("hbone 10.0.0.2:15008 10.0.0.2:7000 cart1 {CART_ID}");
    check_with(&mesh, &tunnel, "10.0.0.2:7000", &expected);
}

#[test]
fn one_address_has_one_meaning() {
    let shared = "10.0.0.2";
    let snapshot = Snapshot::build(
        vec![
            workload("shop/cart1", &[shared]),
            workload("shop/cart2", &["10.0.0.3"]),
            serving(workload("shop/se1", &["10.0.0.9"]), "shop/exact", &[]),
            serving(workload("shop/se2", &["10.0.0.8"]), "shop/block", &[]),
        ],
        vec![
            service("shop/exact", &[shared], &[(80, 1000)]),
            service("shop/block", &["10.0.0.0/24"], &[(80, 2000)]),
        ],
    );
    let id = "spiffe://cluster.local/ns/shop/sa";
    // A virtual address before a workload, a workload before a block.
    check(
        &snapshot,
        "10.0.0.2:80",
        &format!("hbone 10.0.0.9:15008 10.0.0.9:1000 se1 {id}/sesa for shop/exact"),
    );
    check(&snapshot, "10.0.0.3:80", &format!("hbone 10.0.0.3:15008 10.0.0.3:80 cart2 {id}/cartsa"));
    check(
        &snapshot,
        "10.0.0.4:80",
        &format!("hbone 10.0.0.8:15008 10.0.0.8:2000 se2 {id}/sesa for shop/block"),
    );
}

#[test]
fn several_services_with_one_address() {
    let private = |mut service: Service| {
        service.visibility = Visibility::Namespace;
        service
    };
    let canonical = |mut service: Service| {
        service.canonical = true;
        service
    };
    let vip = &["10.1.0.1"];
    let of = |services: Vec<Service>, dialled: &str| {
        let snapshot = Snapshot::build(vec![], services);
        let ip = dialled.parse().expect("literal");
        let found = snapshot.service_by_vip(&Network::default(), ip, "shop");
        found.map(|service| service.name.to_string()).unwrap_or_default()
    };
    let port = &[(80, 80)];
    for (services, expected) in [
        // The client's namespace, then the canonical one, then the first by name.
        (vec![canonical(service("a/x", vip, port)), service("shop/x", vip, port)], "shop/x"),
        (vec![service("a/x", vip, port), canonical(service("b/x", vip, port))], "b/x"),
        (vec![service("b/x", vip, port), service("a/x", vip, port)], "a/x"),
        // One that is hidden does not count.
        (vec![private(service("a/x", vip, port)), service("b/x", vip, port)], "b/x"),
        (vec![private(service("a/x", vip, port))], ""),
        (vec![private(service("shop/x", vip, port))], "shop/x"),
        (vec![private(service("a/x", vip, port)), service("b/x", &["10.0.0.0/8"], port)], "b/x"),
    ] {
        assert_eq!(of(services, "10.1.0.1"), expected);
    }
    for (services, expected) in [
        (
            vec![service("a/w", &["10.0.0.0/8"], port), service("b/n", &["10.1.0.0/16"], port)],
            "b/n",
        ),
        (
            vec![service("shop/w", &["10.0.0.0/8"], port), service("b/n", &["10.1.0.0/16"], port)],
            "shop/w",
        ),
        (
            vec![
                service("a/w", &["10.0.0.0/8"], port),
                canonical(service("b/w", &["10.0.0.0/8"], port)),
            ],
            "b/w",
        ),
        (
            vec![
                service("a/w", &["10.0.0.0/8"], port),
                private(service("b/n", &["10.1.0.0/16"], port)),
            ],
            "a/w",
        ),
        (vec![service("a/w", &["0.0.0.0/0"], port)], "a/w"),
        (vec![service("a/w", &["::/0"], port)], ""),
        (vec![service("a/w", &["10.1.9.9/16"], port)], "a/w"),
    ] {
        assert_eq!(of(services, "10.1.0.9"), expected);
    }
}

#[test]
fn several_workloads_with_one_address() {
    let at = |uid: &str, protocol| Workload {
        uid: WorkloadUid(uid.into()),
        protocol,
        ..workload("shop/x1", &["10.0.0.1"])
    };
    let (plain, hbone) = (TunnelProtocol::None, TunnelProtocol::Hbone);
    for (first, second, expected) in [
        (at("a/WorkloadEntry/x", hbone), at("b//Pod/x", plain), "b//Pod/x"),
        (at("a//Pod/x", plain), at("b//Pod/x", hbone), "b//Pod/x"),
        (at("a//Pod/x", hbone), at("b//Pod/x", hbone), "a//Pod/x"),
    ] {
        for pair in [vec![first.clone(), second.clone()], vec![second, first]] {
            let snapshot = Snapshot::build(pair, vec![]);
            let ip = "::ffff:10.0.0.1".parse().expect("literal");
            let found = snapshot.workload_by_address(&Network::default(), ip).expect("there");
            assert_eq!(&*found.uid.0, expected);
            assert_eq!(snapshot.workloads().len(), 2);
        }
    }
}

#[test]
fn look_ups() {
    let mesh = mesh();
    let key = WorkloadKey::parse("shop/cart1/cartsa").expect("literal");
    let workload = mesh.workload_by_key(&key).expect("there");
    assert_eq!(mesh.workload_by_uid(&workload.uid), Some(workload));
    let other = WorkloadKey::parse("shop/cart1/other").expect("literal");
    assert_eq!(mesh.workload_by_key(&other), None);
    assert_eq!((mesh.workloads().len(), mesh.services().len()), (4, 5));
    let name = ServiceName::parse("shop/cart.shop.svc").expect("literal");
    assert_eq!(mesh.service(&name).map(|service| &service.name), Some(&name));
    let far = Network("far".into());
    assert!(mesh.workload_by_address(&far, [10, 0, 0, 2].into()).is_none());
    assert!(mesh.service_by_vip(&far, [10, 1, 0, 1].into(), "shop").is_none());
}

/// The endpoint that takes a connection to `10.1.0.1:80`, for each share of the random range.
fn takers(service: Service, workloads: Vec<Workload>, source: &Workload) -> Vec<String> {
    let snapshot = Snapshot::build(workloads, vec![service]);
    let steps = 12_u64;
    let mut takers: Vec<String> = (0..steps)
        .map(|step| {
            let route = resolve(
                &snapshot,
                &Query {
                    network: &Network::default(),
                    source,
                    original_dst: OriginalDst(([10, 1, 0, 1], 80).into()),
                    local: &|_| false,
                    same_node: SameNode::Relay,
                    extent: Extent::Whole,
                    ejected: Ejected::NONE,
                    // The middle of each share.
                    random: step * (u64::MAX / steps) + u64::MAX / steps / 2,
                },
            );
            match &route {
                Route::Hbone { workload, .. } => workload.key.name.to_string(),
                Route::Refused { code, .. } => code.to_string(),
                Route::Local { .. }
                | Route::Passthrough { .. }
                | Route::DoubleHbone { .. }
                | Route::Lookup(_)
                | Route::Ask { .. } => show(&route),
            }
        })
        .collect();
    takers.sort();
    takers
}

fn counted(takers: &[String]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for taker in takers {
        *counts.entry(taker).or_default() += 1;
    }
    let shown: Vec<_> = counts.iter().map(|(name, count)| format!("{name}:{count}")).collect();
    shown.join(" ")
}

#[test]
fn choice_by_capacity_health_and_address() {
    let svc = || service("shop/svc", &["10.1.0.1"], &[(80, 8080)]);
    let endpoint = |name: &str, ip: &str, capacity, health| Workload {
        capacity,
        health,
        ..serving(workload(name, &[ip]), "shop/svc", &[])
    };
    let source = workload("shop/web1", &["10.0.0.1"]);
    let (up, down) = (Health::Healthy, Health::Unhealthy);
    let a = |capacity, health| endpoint("shop/a1", "10.0.0.2", capacity, health);
    let b = |capacity, health| endpoint("shop/b1", "10.0.0.3", capacity, health);
    let far = || Workload { network: Network("far".into()), ..a(1, up) };
    let homeless = || Workload { addresses: vec![], ..a(1, up) };
    let any_health = || Service {
        load_balancing: LoadBalancing {
            health: HealthPolicy::AllowAll,
            ..LoadBalancing::default()
        },
        ..svc()
    };
    let v6_only = || Service { ip_families: IpFamilies::V6, ..svc() };
    for (service, workloads, expected) in [
        (svc(), vec![a(1, up), b(1, up)], "a1:6 b1:6"),
        (svc(), vec![a(1, up), b(3, up)], "a1:3 b1:9"),
        (svc(), vec![a(0, up), b(1, up)], "b1:12"),
        (svc(), vec![a(0, up), b(0, up)], "NO_HEALTHY_ENDPOINT:12"),
        (svc(), vec![a(u32::MAX, up), b(u32::MAX, up)], "a1:6 b1:6"),
        (svc(), vec![a(1, down), b(1, up)], "b1:12"),
        (svc(), vec![a(1, down), b(1, down)], "NO_HEALTHY_ENDPOINT:12"),
        (any_health(), vec![a(1, down), b(1, up)], "a1:6 b1:6"),
        (svc(), vec![far(), b(1, up)], "b1:12"),
        (svc(), vec![far()], "GATEWAY_UNKNOWN:12"),
        (svc(), vec![far(), b(1, down)], "GATEWAY_UNKNOWN:12"),
        (svc(), vec![homeless()], "NO_HEALTHY_ENDPOINT:12"),
        (svc(), vec![homeless(), b(1, up)], "b1:12"),
        (v6_only(), vec![a(1, up)], "NO_HEALTHY_ENDPOINT:12"),
    ] {
        assert_eq!(counted(&takers(service, workloads, &source)), expected);
    }
}

#[test]
fn choice_by_locality() {
    let place = |name: &str, region: &str, zone: &str, capacity| Workload {
        locality: Locality { region: region.into(), zone: zone.into(), subzone: "".into() },
        capacity,
        ..serving(workload(name, &["10.0.0.2"]), "shop/svc", &[])
    };
    let source =
        Workload { services: ServedServices::default(), ..place("shop/web1", "eu", "eu1", 1) };
    let near = || place("shop/near1", "eu", "eu1", 1);
    let region = || place("shop/region1", "eu", "eu2", 1);
    let far = || place("shop/far1", "us", "eu1", 3);
    let mode = |mode, preferences: &[Scope]| {
        balanced(service("shop/svc", &["10.1.0.1"], &[(80, 8080)]), mode, preferences)
    };
    let order = &[Scope::Region, Scope::Zone];
    let network_first = &[Scope::Network, Scope::Region, Scope::Zone];
    for (service, workloads, expected) in [
        (
            mode(LoadBalancingMode::Unspecified, order),
            vec![near(), region(), place("shop/x1", "us", "", 2)],
            "near1:3 region1:3 x1:6",
        ),
        (mode(LoadBalancingMode::Failover, order), vec![near(), region(), far()], "near1:12"),
        (mode(LoadBalancingMode::Failover, order), vec![region(), far()], "region1:12"),
        // The zone does not count once the region differs.
        (
            mode(LoadBalancingMode::Failover, order),
            vec![far(), place("shop/x1", "us", "", 1)],
            "far1:9 x1:3",
        ),
        (
            mode(LoadBalancingMode::Failover, order),
            vec![place("shop/near1", "eu", "eu1", 0), far()],
            "far1:12",
        ),
        (mode(LoadBalancingMode::Failover, &[]), vec![near(), far()], "far1:9 near1:3"),
        (mode(LoadBalancingMode::Failover, network_first), vec![near(), far()], "near1:12"),
        (mode(LoadBalancingMode::Strict, order), vec![near(), region(), far()], "near1:12"),
        (mode(LoadBalancingMode::Strict, order), vec![region(), far()], "NO_HEALTHY_ENDPOINT:12"),
        (mode(LoadBalancingMode::Strict, network_first), vec![near(), region()], "near1:12"),
        (
            mode(LoadBalancingMode::Strict, &[Scope::Node, Scope::Cluster, Scope::Subzone]),
            vec![near()],
            "near1:12",
        ),
    ] {
        assert_eq!(counted(&takers(service, workloads, &source)), expected);
    }
}

#[test]
fn a_service_may_name_further_identities() {
    let extra = SpiffeId::parse("spiffe://td/ns/a/sa/b").expect("literal");
    let svc = Service {
        subject_alt_names: vec![extra],
        ..service("shop/svc", &["10.1.0.1"], &[(80, 8080)])
    };
    let snapshot = Snapshot::build(
        vec![serving(workload("shop/cart1", &["10.0.0.2"]), "shop/svc", &[])],
        vec![svc],
    );
    check(
        &snapshot,
        "10.1.0.1:80",
        &format!(
            "hbone 10.0.0.2:15008 10.0.0.2:8080 cart1 {CART_ID},spiffe://td/ns/a/sa/b for shop/svc"
        ),
    );
}

#[test]
fn an_endpoint_on_a_mesh_port_is_a_self_call() {
    let svc = service("shop/svc", &["10.1.0.1"], &[(80, 15008)]);
    let snapshot = Snapshot::build(
        vec![serving(workload("shop/cart1", &["10.0.0.2"]), "shop/svc", &[])],
        vec![svc],
    );
    check(&snapshot, "10.1.0.1:80", "SELF_CALL cart1 for shop/svc");
}
