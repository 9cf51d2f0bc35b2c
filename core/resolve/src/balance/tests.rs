#![expect(clippy::disallowed_methods, reason = "an Instant has no other origin")]
//! The choice of endpoints against the rules, applied to every endpoint one by one.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Instant;

use model::{
    ApplicationTunnel, Gateway, GatewayDestination, Health, HealthPolicy, LoadBalancing,
    LoadBalancingMode, Locality, Network, NetworkAddress, Scope, Service, ServiceName, Workload,
};
use proptest::prelude::*;

use super::{Choosing, Hop, NoEndpoint};
use crate::ejection::{Choice, Ejected, Ejections, Failed};
use crate::snapshot::Snapshot;
use crate::tests::{service, serving, workload};

const NAME: &str = "shop/svc";

fn a_gateway() -> Gateway {
    let address = NetworkAddress { network: Network::default(), ip: [10, 9, 9, 9].into() };
    let destination = GatewayDestination::Address(address);
    Gateway { destination, hbone_port: NonZeroU16::new(15008).expect("literal") }
}

fn an_endpoint() -> impl Strategy<Value = Workload> {
    let what = (0..12_u8, 0..4_u32, 0..3_u8, 0..3_u8, 0..3_u8, 0..3_u16);
    (what, any::<[bool; 5]>()).prop_map(
        |(
            (id, capacity, region, zone, network, port),
            [healthy, gateway, homeless, named, tunnel],
        )| {
            let base = workload(&format!("shop/w{id}"), &[&format!("10.0.0.{id}")]);
            let mut endpoint = serving(base, NAME, &[(80, 7000 + port), (90, port * 9000)]);
            if homeless {
                endpoint.addresses.clear();
            }
            Workload {
                capacity,
                health: if healthy { Health::Healthy } else { Health::Unhealthy },
                node: format!("node{zone}").into(),
                locality: Locality {
                    region: format!("region{region}").into(),
                    zone: format!("zone{zone}").into(),
                    subzone: "".into(),
                },
                network: Network(["", "far", "other"][usize::from(network)].into()),
                network_gateway: gateway.then(a_gateway),
                hostname: named.then(|| "host.example".into()),
                application_tunnel: tunnel.then(ApplicationTunnel::default),
                ..endpoint
            }
        },
    )
}

fn balancing() -> impl Strategy<Value = LoadBalancing> {
    let scopes = vec![
        Scope::Network,
        Scope::Region,
        Scope::Zone,
        Scope::Subzone,
        Scope::Node,
        Scope::Cluster,
    ];
    let some = (0..5_usize, Just(scopes).prop_shuffle()).prop_map(|(count, mut scopes)| {
        scopes.truncate(count);
        scopes
    });
    let mode = prop::sample::select(vec![
        LoadBalancingMode::Unspecified,
        LoadBalancingMode::Strict,
        LoadBalancingMode::Failover,
    ]);
    (some, mode, any::<bool>()).prop_map(|(preferences, mode, all_health)| LoadBalancing {
        preferences,
        mode,
        health: if all_health { HealthPolicy::AllowAll } else { HealthPolicy::OnlyHealthy },
    })
}

/// How well an endpoint fits, preference by preference: how many match, and the rank.
fn fit(preferences: &[Scope], client: &Workload, endpoint: &Workload) -> (usize, usize) {
    let mut fit = (0, 0);
    for (index, scope) in preferences.iter().enumerate() {
        let matches = match scope {
            Scope::Region => client.locality.region == endpoint.locality.region,
            Scope::Zone => client.locality.zone == endpoint.locality.zone,
            Scope::Subzone => client.locality.subzone == endpoint.locality.subzone,
            Scope::Node => client.node == endpoint.node,
            Scope::Cluster => client.cluster == endpoint.cluster,
            Scope::Network => client.network == endpoint.network,
        };
        match (matches, index == 0 && *scope == Scope::Network) {
            (true, false) => fit = (fit.0 + 1, fit.1 + 1),
            (true, true) => fit = (1, preferences.len()),
            (false, true) => {}
            (false, false) => break,
        }
    }
    fit
}

/// The endpoints that may be chosen, by the rules. `left_alone` are not, unless all are.
fn may_take<'w>(
    service: &Service,
    endpoints: &'w [Workload],
    client: &Workload,
    (port, hop): (u16, Hop),
    left_alone: &[&Workload],
) -> Vec<&'w Workload> {
    let balancing = &service.load_balancing;
    let mapped = |endpoint: &Workload| {
        let own = endpoint.target_port(&service.name, port);
        let mapping = service.ports.iter().find(|mapping| mapping.service_port.get() == port);
        mapping.is_some_and(|mapping| own.or(mapping.target_port).is_some())
    };
    let serves = |tunnel: bool| {
        move |endpoint: &&Workload| {
            let healthy =
                endpoint.health == Health::Healthy || balancing.health == HealthPolicy::AllowAll;
            let dialled = !endpoint.addresses.is_empty() || endpoint.hostname.is_some();
            let reached = match hop {
                Hop::Gateway => dialled,
                Hop::Destination | Hop::Waypoint if endpoint.network == client.network => dialled,
                Hop::Destination | Hop::Waypoint => endpoint.network_gateway.is_some(),
            };
            let ports =
                if tunnel { endpoint.application_tunnel.is_some() } else { mapped(endpoint) };
            healthy && endpoint.capacity > 0 && reached && ports
        }
    };
    let ranked = |candidates: &[&'w Workload]| -> Vec<&'w Workload> {
        let fit = |endpoint: &Workload| fit(&balancing.preferences, client, endpoint);
        let all = balancing.preferences.len();
        let candidates = candidates.iter().copied();
        match balancing.mode {
            LoadBalancingMode::Unspecified | LoadBalancingMode::Passthrough => candidates.collect(),
            LoadBalancingMode::Strict => candidates.filter(|w| fit(w).0 == all).collect(),
            LoadBalancingMode::Failover => {
                let best = candidates.clone().map(|w| fit(w).1).max();
                candidates.filter(|w| Some(fit(w).1) == best).collect()
            }
        }
    };
    let choose = |candidates: Vec<&'w Workload>| {
        let (out, rest): (Vec<_>, Vec<_>) = candidates
            .iter()
            .copied()
            .partition(|one| left_alone.iter().any(|other| other.uid == one.uid));
        let best = ranked(&rest);
        if best.is_empty() && !out.is_empty() { ranked(&candidates) } else { best }
    };
    let chosen = choose(endpoints.iter().filter(serves(false)).collect());
    match (chosen.is_empty(), hop) {
        (true, Hop::Waypoint) => choose(endpoints.iter().filter(serves(true)).collect()),
        _ => chosen,
    }
}

fn unique(workloads: Vec<Workload>) -> Vec<Workload> {
    let by_uid: BTreeMap<_, _> = workloads.into_iter().map(|w| (w.uid.clone(), w)).collect();
    by_uid.into_values().collect()
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, ..ProptestConfig::with_cases(600)
    })]

    #[test]
    fn agrees_with_the_rules(
        endpoints in prop::collection::vec(an_endpoint(), 0..10),
        client in an_endpoint(),
        load_balancing in balancing(),
        port in prop::sample::select(vec![80_u16, 90, 99]),
        hop in prop::sample::select(vec![Hop::Destination, Hop::Waypoint, Hop::Gateway]),
        out in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let endpoints = unique(endpoints);
        let service = Service { load_balancing, ..service(NAME, &[], &[(80, 8080), (90, 0)]) };
        let snapshot = Snapshot::build(endpoints.clone(), vec![service.clone()]);
        let entry = snapshot.entry(&service.name).expect("it is there");
        let (mut ejections, now) = (Ejections::default(), Instant::now());
        let mut left_alone = Vec::new();
        for index in out {
            if endpoints.is_empty() {
                break;
            }
            let one = index.get(&endpoints);
            let workload = Arc::new(one.clone());
            let choice = Choice { service: service.name.clone(), port, workload };
            if ejections.failed(&choice, 100, now) != Failed::Kept {
                left_alone.push(one);
            }
        }
        let choose = |random, ejected| {
            entry.choose(&Choosing {
                snapshot: &snapshot,
                network: &client.network,
                client: &client,
                port,
                hop,
                random,
                ejected,
            })
        };

        // Each endpoint takes its share of the random range, exactly.
        let expected = may_take(&service, &endpoints, &client, (port, hop), &[]);
        let total: u32 = expected.iter().map(|endpoint| endpoint.capacity).sum();
        let mut taken: BTreeMap<_, u32> = BTreeMap::new();
        for share in 0..total.max(1) {
            let step = u64::MAX / u64::from(total.max(1));
            match choose(u64::from(share) * step + step / 2, Ejected::NONE) {
                Ok(chosen) => {
                    let workload = &chosen.endpoint.workload;
                    *taken.entry(workload.uid.clone()).or_default() += 1;
                    let own = workload.target_port(&service.name, port);
                    let of_service = (port == 80).then_some(8080);
                    let target = own.map(NonZeroU16::get).or(of_service).unwrap_or(port);
                    prop_assert_eq!(chosen.port, target);
                }
                Err(none) => {
                    prop_assert!(expected.is_empty(), "{none:?}");
                    prop_assert_eq!(none == NoEndpoint::UnknownPort, port == 99 && hop != Hop::Waypoint);
                }
            }
        }
        let shares: BTreeMap<_, _> =
            expected.iter().map(|endpoint| (endpoint.uid.clone(), endpoint.capacity)).collect();
        prop_assert_eq!(taken, shares);

        // Those that are left alone are, and no others.
        let expected = may_take(&service, &endpoints, &client, (port, hop), &left_alone);
        let mut found: Vec<_> = (0..400_u64)
            .filter_map(|step| {
                let random = step.wrapping_mul(u64::MAX / 400);
                choose(random, ejections.at(now)).ok()
            })
            .map(|chosen| chosen.endpoint.workload.uid.clone())
            .collect();
        found.sort_unstable();
        found.dedup();
        let expected: Vec<_> = expected.iter().map(|endpoint| endpoint.uid.clone()).collect();
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn among_many_each_takes_its_share() {
    let endpoints: Vec<_> = (0..2000_u32)
        .map(|id| {
            let base = workload(&format!("shop/w{id}"), &["10.0.0.1"]);
            let zone = format!("zone{}", id % 4);
            let locality = Locality { zone: zone.into(), ..Locality::default() };
            Workload { locality, capacity: 1 + id % 3, ..serving(base, NAME, &[]) }
        })
        .collect();
    let client = &endpoints[2];
    let service = Service {
        load_balancing: LoadBalancing {
            preferences: vec![Scope::Zone],
            mode: LoadBalancingMode::Failover,
            health: HealthPolicy::OnlyHealthy,
        },
        ..service(NAME, &[], &[(80, 8080)])
    };
    // One after the other, so that runs were split.
    let changes = endpoints.iter().cloned().map(crate::Change::Workload);
    let snapshot = Snapshot::build(vec![], vec![service.clone()]).apply(changes);
    let entry = snapshot.entry(&service.name).expect("it is there");
    let total: u32 = endpoints.iter().skip(2).step_by(4).map(|w| w.capacity).sum();
    let step = u64::MAX / u64::from(total);
    let mut taken: BTreeMap<_, u32> = BTreeMap::new();
    for share in 0..total {
        let chosen = entry.choose(&Choosing {
            snapshot: &snapshot,
            network: &client.network,
            client,
            port: 80,
            hop: Hop::Destination,
            random: u64::from(share) * step + step / 2,
            ejected: Ejected::NONE,
        });
        let workload = chosen.expect("there are some").endpoint.workload.clone();
        *taken.entry(workload.uid.clone()).or_default() += 1;
    }
    let shares = endpoints.iter().skip(2).step_by(4).map(|w| (w.uid.clone(), w.capacity));
    assert_eq!(taken, shares.collect());
}

#[test]
fn ejection_prefers_the_next_best_before_an_ejected_one() {
    let place = |name: &str, zone: &str| Workload {
        locality: Locality { zone: zone.into(), ..Locality::default() },
        ..serving(workload(name, &["10.0.0.1"]), NAME, &[])
    };
    let endpoints = vec![place("shop/near1", "a"), place("shop/far1", "b")];
    let name = ServiceName::parse(NAME).expect("literal");
    let service = Service {
        load_balancing: LoadBalancing {
            preferences: vec![Scope::Zone],
            mode: LoadBalancingMode::Failover,
            health: HealthPolicy::OnlyHealthy,
        },
        ..service(NAME, &[], &[(80, 8080)])
    };
    let strict = |mut service: Service| {
        service.load_balancing.mode = LoadBalancingMode::Strict;
        service
    };
    let client = place("shop/web1", "a");
    let mut ejections = Ejections::default();
    let now = Instant::now();
    let near = Arc::new(endpoints[0].clone());
    ejections.failed(&Choice { service: name.clone(), port: 80, workload: near }, 2, now);
    for (service, ejected, expected) in [
        (service.clone(), Ejected::NONE, "near1"),
        (service.clone(), ejections.at(now), "far1"),
        (service.clone(), ejections.at(now + crate::EJECTION_FIRST), "near1"),
        // All that may be chosen are ejected: then ejection means nothing.
        (strict(service), ejections.at(now), "near1"),
    ] {
        let snapshot = Snapshot::build(endpoints.clone(), vec![service]);
        let chosen = snapshot.entry(&name).expect("it is there").choose(&Choosing {
            snapshot: &snapshot,
            network: &client.network,
            client: &client,
            port: 80,
            hop: Hop::Destination,
            random: 1 << 40,
            ejected,
        });
        assert_eq!(&*chosen.expect("one").endpoint.workload.key.name, expected);
    }
}
