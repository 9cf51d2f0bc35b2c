//! A snapshot depends only on what is in it: not on how it came to be.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

use model::{
    ApplicationTunnel, Gateway, GatewayDestination, Health, HealthPolicy, IpFamilies,
    LoadBalancing, LoadBalancingMode, Locality, Network, NetworkAddress, NetworkMode, OriginalDst,
    Scope, Service, ServiceName, TunnelProtocol, Visibility, WeightedWaypoint, Workload,
};
use proptest::prelude::*;

use crate::tests::{service, serving, show, workload};
use crate::{Change, Ejected, Extent, Query, Route, SameNode, Snapshot, resolve};

const SERVICES: [&str; 4] = ["shop/a.svc", "shop/b.svc", "bank/a.svc", "bank/wp.svc"];
const WORKLOADS: u8 = 8;
const ADDRESSES: [&str; 5] = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.1.0.1", "fd00::1"];
const NETS: [&str; 6] =
    ["10.1.0.1", "10.0.0.1", "fd00::1", "10.0.0.0/8", "10.1.0.0/16", "fd00::/8"];
const NETWORKS: [&str; 2] = ["", "far"];

fn one_of(texts: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    prop::sample::select(texts)
}

fn a_gateway() -> impl Strategy<Value = Option<Gateway>> {
    let named = one_of(&SERVICES)
        .prop_map(|name| GatewayDestination::Service(ServiceName::parse(name).expect("literal")));
    let addressed = (one_of(&ADDRESSES), one_of(&NETWORKS)).prop_map(|(ip, network)| {
        let ip = ip.parse().expect("literal");
        GatewayDestination::Address(NetworkAddress { network: Network(network.into()), ip })
    });
    let gateway = prop_oneof![named, addressed].prop_map(|destination| Gateway {
        destination,
        hbone_port: NonZeroU16::new(15008).expect("literal"),
    });
    prop::option::weighted(0.3, gateway)
}

fn a_workload() -> impl Strategy<Value = Workload> {
    let what = (
        0..WORKLOADS,
        prop::collection::vec(one_of(&ADDRESSES), 0..3),
        prop::collection::btree_map(one_of(&SERVICES), 0..3_u16, 0..3),
        one_of(&NETWORKS),
        0..3_u32,
        a_gateway(),
        a_gateway(),
    );
    let flags = (any::<[bool; 6]>(), one_of(&["eu", "us"]), one_of(&["z1", "z2"]));
    (what, flags).prop_map(
        |(what, ([hbone, healthy, host, native, tunnel, named], region, zone))| {
            let (id, addresses, services, network, capacity, waypoint, network_gateway) = what;
            let base = services
                .into_iter()
                .fold(workload(&format!("shop/w{id}"), &addresses), |workload, (name, target)| {
                    serving(workload, name, &[(80, target)])
                });
            Workload {
                protocol: if hbone { TunnelProtocol::Hbone } else { TunnelProtocol::None },
                health: if healthy { Health::Healthy } else { Health::Unhealthy },
                network_mode: if host { NetworkMode::HostNetwork } else { NetworkMode::Standard },
                native_tunnel: native,
                application_tunnel: tunnel.then(ApplicationTunnel::default),
                hostname: named.then(|| "host.example".into()),
                network: Network(network.into()),
                locality: Locality { region: region.into(), zone: zone.into(), subzone: "".into() },
                capacity,
                waypoint,
                network_gateway,
                ..base
            }
        },
    )
}

fn a_service() -> impl Strategy<Value = Service> {
    let what = (
        one_of(&SERVICES),
        prop::collection::vec((one_of(&NETS), one_of(&NETWORKS)), 0..3),
        prop::sample::select(vec![
            LoadBalancingMode::Unspecified,
            LoadBalancingMode::Strict,
            LoadBalancingMode::Failover,
            LoadBalancingMode::Passthrough,
        ]),
        prop::collection::vec(
            prop::sample::select(vec![Scope::Network, Scope::Region, Scope::Zone, Scope::Node]),
            0..4,
        ),
        prop::collection::vec((a_gateway(), 0..3_u32), 0..3),
        a_gateway(),
        prop::collection::vec((prop::sample::select(vec![80_u16, 15008]), 0..3_u16), 0..3),
    );
    (what, any::<[bool; 3]>(), 0..3_u8).prop_map(
        |((name, nets, mode, preferences, weighted, waypoint, ports), flags, families)| {
            let [canonical, private, all_health] = flags;
            let mut built = service(name, &[], &ports);
            built.addresses = nets
                .into_iter()
                .map(|(net, network)| model::ServiceAddress {
                    network: Network(network.into()),
                    ..service(name, &[net], &[]).addresses.remove(0)
                })
                .collect();
            let weighted = weighted.into_iter().filter_map(|(gateway, weight)| {
                Some(WeightedWaypoint { gateway: gateway?, weight })
            });
            Service {
                canonical,
                visibility: if private { Visibility::Namespace } else { Visibility::Public },
                load_balancing: LoadBalancing {
                    preferences,
                    mode,
                    health: if all_health {
                        HealthPolicy::AllowAll
                    } else {
                        HealthPolicy::OnlyHealthy
                    },
                },
                ip_families: match families {
                    0 => IpFamilies::Automatic,
                    1 => IpFamilies::V4,
                    _ => IpFamilies::V6,
                },
                subject_alt_names: vec![workload("bank/x1", &[]).identity().expect("an identity")],
                waypoint,
                weighted_waypoints: weighted.collect(),
                ..built
            }
        },
    )
}

fn a_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        6 => a_workload().prop_map(Change::Workload),
        4 => a_service().prop_map(Change::Service),
        2 => (0..WORKLOADS)
            .prop_map(|id| Change::RemoveWorkload(workload(&format!("shop/w{id}"), &[]).uid)),
        1 => one_of(&SERVICES)
            .prop_map(|name| Change::RemoveService(ServiceName::parse(name).expect("literal"))),
    ]
}

/// What is there in the end.
fn left(changes: &[Change]) -> (Vec<Workload>, Vec<Service>) {
    let (mut workloads, mut services) = (BTreeMap::new(), BTreeMap::new());
    for change in changes.iter().cloned() {
        match change {
            Change::Workload(workload) => {
                workloads.insert(workload.uid.clone(), workload);
            }
            Change::Service(service) => {
                services.insert(service.name.clone(), service);
            }
            Change::RemoveWorkload(uid) => {
                workloads.remove(&uid);
            }
            Change::RemoveService(name) => {
                services.remove(&name);
            }
        }
    }
    (workloads.into_values().collect(), services.into_values().collect())
}

/// Everything a snapshot can be asked, in words.
fn portrait(snapshot: &Snapshot, client: &Workload) -> Vec<String> {
    let mut lines = Vec::new();
    let mut workloads: Vec<_> = snapshot.workloads().map(|w| format!("{w:?}")).collect();
    let mut services: Vec<_> = snapshot.services().map(|s| format!("{s:?}")).collect();
    workloads.sort();
    services.sort();
    lines.append(&mut workloads);
    lines.append(&mut services);
    for name in SERVICES {
        let name = ServiceName::parse(name).expect("literal");
        let endpoints: Vec<_> = snapshot.endpoints_of(&name).map(|w| &w.uid).collect();
        let count = [80, 15008].map(|port| snapshot.endpoint_count(&name, port));
        lines.push(format!("{name} {endpoints:?} {count:?}"));
    }
    for hostname in ["a.svc", "b.svc", "wp.svc"] {
        let all: Vec<_> = snapshot.services_by_hostname(hostname).iter().map(|s| &s.name).collect();
        let one = snapshot.service_by_hostname(hostname, "shop").map(|s| &s.name);
        lines.push(format!("{hostname} {all:?} {one:?}"));
    }
    for id in 0..WORKLOADS {
        let workload = workload(&format!("shop/w{id}"), &[]);
        let by_key = snapshot.workload_by_key(&workload.key).map(|w| &w.uid);
        let by_uid = snapshot.workload_by_uid(&workload.uid).map(|w| &w.uid);
        lines.push(format!("{} {by_key:?} {by_uid:?}", workload.key));
    }
    for network in NETWORKS.map(|name| Network(name.into())) {
        for ip in
            ADDRESSES.into_iter().chain(["::ffff:10.0.0.2", "10.1.0.9", "10.9.0.9", "192.0.2.1"])
        {
            let ip: IpAddr = ip.parse().expect("literal");
            let found = snapshot.workload_by_address(&network, ip).map(|w| &w.uid);
            let vip = ["shop", "bank", "x"]
                .map(|viewer| snapshot.service_by_vip(&network, ip, viewer).map(|s| &s.name));
            lines.push(format!("{network}/{ip} {found:?} {vip:?}"));
            for (port, random) in [(80, 0), (80, u64::MAX / 3), (80, u64::MAX), (15008, 1), (81, 2)]
            {
                let query = Query {
                    network: &network,
                    source: client,
                    original_dst: OriginalDst(SocketAddr::new(ip, port)),
                    local: &|workload| workload.capacity == 1,
                    same_node: SameNode::Relay,
                    extent: Extent::Whole,
                    ejected: Ejected::NONE,
                    random,
                };
                lines.push(format!("{ip}:{port} {random} {}", show(&resolve(snapshot, &query))));
            }
        }
    }
    lines
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, ..ProptestConfig::with_cases(200)
    })]

    #[test]
    fn only_what_is_there_counts(
        changes in prop::collection::vec(a_change(), 0..60),
        cuts in prop::collection::vec(1..5_usize, 60),
        client in a_workload(),
    ) {
        // As they came, in pushes of different size.
        let mut grown = Snapshot::default();
        let mut versions = Vec::new();
        let mut rest = &changes[..];
        for cut in cuts {
            let (push, later) = rest.split_at(cut.min(rest.len()));
            versions.push((grown.clone(), portrait(&grown, &client)));
            grown = grown.apply(push.to_vec());
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        let grown = grown.apply(rest.to_vec());
        let (workloads, services) = left(&changes);
        let built = Snapshot::build(workloads.clone(), services.clone());
        let expected = portrait(&built, &client);
        prop_assert_eq!(portrait(&grown, &client), &expected[..]);
        // The other way round.
        let services = services.into_iter().rev().map(Change::Service);
        let workloads = workloads.into_iter().rev().map(Change::Workload);
        let reversed = Snapshot::default().apply(services.chain(workloads));
        prop_assert_eq!(portrait(&reversed, &client), expected);
        // No change showed in an older version.
        for (version, portrayed) in versions.iter().rev().take(3) {
            prop_assert_eq!(&portrait(version, &client), portrayed);
        }
    }

    #[test]
    fn every_route_keeps_its_promises(
        changes in prop::collection::vec(a_change(), 0..40),
        client in a_workload(),
        dialled in (one_of(&ADDRESSES), prop::sample::select(vec![80_u16, 81, 15008])),
        random in any::<u64>(),
        whole in any::<bool>(),
    ) {
        let snapshot = Snapshot::default().apply(changes);
        let network = Network::default();
        let ip = dialled.0.parse::<IpAddr>().expect("literal").to_canonical();
        let dialled = SocketAddr::new(ip, dialled.1);
        let local = |workload: &Workload| workload.capacity == 1;
        let query = Query {
            network: &network,
            source: &client,
            original_dst: OriginalDst(dialled),
            local: &local,
            same_node: SameNode::Relay,
            extent: if whole { Extent::Whole } else { Extent::Asked(&|_| false) },
            ejected: Ejected::NONE,
            random,
        };
        let route = resolve(&snapshot, &query);
        let service = snapshot.service_by_vip(&network, ip, &client.key.namespace);
        match &route {
            Route::Local { workload, address, .. } => {
                prop_assert!(local(workload) && !workload.native_tunnel, "{route:?}");
                prop_assert_eq!(workload.network_mode, NetworkMode::Standard);
                prop_assert!(workload.addresses.contains(&address.ip()), "{route:?}");
            }
            Route::Hbone { workload, tunnel, expected, .. } => {
                prop_assert!(workload.network == network, "{route:?}");
                prop_assert!(workload.addresses.contains(&tunnel.ip()), "{route:?}");
                prop_assert_eq!(expected.first().cloned(), workload.identity().ok());
            }
            Route::DoubleHbone { workload, gateway, tunnel, outer_expected, inner_expected, .. } => {
                prop_assert!(workload.network != network, "{route:?}");
                prop_assert!(gateway.addresses.contains(&tunnel.ip()), "{route:?}");
                prop_assert!(!outer_expected.is_empty() && !inner_expected.is_empty());
            }
            Route::Lookup(lookup) => prop_assert!(lookup.workload().addresses.is_empty()),
            Route::Ask { resource, .. } => prop_assert!(!whole, "{resource}"),
            Route::Refused { detail, .. } => prop_assert!(!detail.is_empty()),
            Route::Passthrough { workload: Some(workload), .. } => {
                prop_assert!(workload.protocol == TunnelProtocol::None && !local(workload)
                    || workload.native_tunnel || workload.network_mode == NetworkMode::HostNetwork,
                    "{route:?}");
            }
            Route::Passthrough { workload: None, address, service, .. } => {
                prop_assert_eq!(*address, dialled);
                let known = snapshot.workload_by_address(&network, ip).is_some();
                prop_assert!(service.is_some() || !known && whole, "{route:?}");
            }
        }
        // Nobody but a waypoint gets past it.
        let exact = service.filter(|service| {
            let mut nets = service.addresses.iter().filter(|address| address.network == network);
            nets.any(|address| address.net.prefix_len() == address.net.max_prefix_len()
                && address.net.addr().to_canonical() == ip)
        });
        if let Some(service) = exact {
            let weighted = service.weighted_waypoints.iter().map(|weighted| &weighted.gateway);
            let waypoints: Vec<_> = weighted.chain(&service.waypoint).collect();
            let usable = service.waypoint.is_some()
                || service.weighted_waypoints.iter().any(|weighted| weighted.weight > 0);
            let is_one = waypoints.iter().any(|waypoint| snapshot.is_gateway(waypoint, &client));
            if usable && !is_one {
                match &route {
                    Route::Hbone { workload, authority, .. }
                    | Route::Local { workload, authority, .. } => {
                        prop_assert_eq!(*authority, dialled);
                        let is_waypoint = |waypoint: &&Gateway| {
                            snapshot.is_gateway(waypoint, workload)
                        };
                        prop_assert!(waypoints.iter().copied().any(|w| is_waypoint(&w)), "{route:?}");
                    }
                    Route::Passthrough { .. } => prop_assert!(false, "{route:?}"),
                    Route::DoubleHbone { .. }
                    | Route::Lookup(_)
                    | Route::Ask { .. }
                    | Route::Refused { .. } => {}
                }
            }
        }
    }
}
