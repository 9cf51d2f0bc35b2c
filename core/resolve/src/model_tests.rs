//! Resolution against lists searched from the rules, without any index.

use std::net::{IpAddr, SocketAddr};

use model::{
    Code, Health, HealthPolicy, LoadBalancing, LoadBalancingMode, Network, OriginalDst, Service,
    TunnelProtocol, Visibility, Workload,
};
use proptest::prelude::*;

use crate::tests::{service, serving, workload};
use crate::{Ejected, Extent, Query, Route, SameNode, Snapshot, resolve};

const NAMES: [&str; 3] = ["shop/a", "shop/b", "bank/c"];

fn a_workload() -> impl Strategy<Value = Workload> {
    let parts = (
        0..6_u8,
        0..5_u8,
        any::<bool>(),
        any::<bool>(),
        0..3_u32,
        prop::collection::btree_map(0..3_usize, 0..2_u16, 0..3),
        0..6_u8,
    );
    parts.prop_map(|(id, ip, hbone, healthy, capacity, services, network)| {
        let base = workload(&format!("shop/w{id}"), &[&format!("10.0.0.{ip}")]);
        let base = services.into_iter().fold(base, |workload, (index, port)| {
            serving(workload, NAMES[index], &[(80, port * 7000)])
        });
        Workload {
            protocol: if hbone { TunnelProtocol::Hbone } else { TunnelProtocol::None },
            health: if healthy { Health::Healthy } else { Health::Unhealthy },
            network: Network(if network == 0 { "far" } else { "" }.into()),
            capacity,
            ..base
        }
    })
}

fn a_service(index: usize) -> impl Strategy<Value = Service> {
    let vip = prop::sample::select(vec!["10.0.0.1", "10.1.0.1", "10.1.0.2", "10.1.0.0/24"]);
    let vips = prop::collection::vec(vip, 0..3);
    (vips, 0..2_u16, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        move |(vips, target, canonical, private, all_health)| Service {
            canonical,
            visibility: if private { Visibility::Namespace } else { Visibility::Public },
            load_balancing: LoadBalancing {
                health: if all_health { HealthPolicy::AllowAll } else { HealthPolicy::OnlyHealthy },
                mode: LoadBalancingMode::Unspecified,
                preferences: Vec::new(),
            },
            ..service(NAMES[index], &vips, &[(80, target * 8000)])
        },
    )
}

fn home(workload: &Workload) -> bool {
    workload.network == Network::default()
}

/// The service an address means to a client of namespace `shop`.
fn reference_service(services: &[Service], ip: IpAddr, exact: bool) -> Option<&Service> {
    let rank = |service: &Service| {
        let nets = service.addresses.iter().filter(|address| {
            address.net.contains(&ip) && (address.net.prefix_len() == 32) == exact
        });
        let length = nets.map(|address| address.net.prefix_len()).max()?;
        let own = &*service.name.namespace == "shop";
        let seen = own || service.visibility == Visibility::Public;
        seen.then_some((own, length, service.canonical))
    };
    let mut ranked: Vec<_> = services.iter().filter_map(|s| Some((rank(s)?, s))).collect();
    ranked.sort_by(|(a, x), (b, y)| b.cmp(a).then(x.name.cmp(&y.name)));
    ranked.first().map(|(_, service)| *service)
}

fn may_serve(service: &Service, workload: &Workload) -> Option<u16> {
    let own = workload.services.get(&service.name)?.first()?.target_port;
    let target = own.or(service.ports.first()?.target_port)?;
    let healthy = workload.health == Health::Healthy
        || service.load_balancing.health == HealthPolicy::AllowAll;
    (healthy && workload.capacity > 0).then_some(target.get())
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, ..ProptestConfig::with_cases(2000)
    })]

    #[test]
    fn agrees_with_the_rules(
        workloads in prop::collection::vec(a_workload(), 0..8),
        services in (a_service(0), a_service(1), a_service(2)),
        host in 0..6_u8,
        virtual_address in any::<bool>(),
        port in prop::sample::select(vec![80_u16, 81]),
        random in any::<u64>(),
    ) {
        let services = vec![services.0, services.1, services.2];
        // The last of one uid counts, as in the snapshot.
        let mut unique: Vec<Workload> = Vec::new();
        for workload in workloads {
            unique.retain(|other| other.uid != workload.uid);
            unique.push(workload);
        }
        let ip = IpAddr::from([10, u8::from(virtual_address), 0, host]);
        let dialled = SocketAddr::new(ip, port);
        let source = workload("shop/web1", &["10.0.0.1"]);
        let snapshot = Snapshot::build(unique.clone(), services.clone());
        let route = resolve(&snapshot, &Query {
            network: &Network::default(),
            source: &source,
            original_dst: OriginalDst(dialled),
            local: &|workload| workload.health == Health::Healthy && workload.capacity == 2,
            same_node: SameNode::Relay,
            extent: Extent::Whole,
            ejected: Ejected::NONE,
            random,
        });

        let at_address = || {
            let mut found: Vec<_> = unique
                .iter()
                .filter(|w| home(w) && w.addresses.contains(&ip))
                .collect();
            found.sort_by_key(|w| (w.protocol != TunnelProtocol::Hbone, w.uid.clone()));
            found.first().copied()
        };
        let service = reference_service(&services, ip, true).or_else(|| match at_address() {
            Some(_) => None,
            None => reference_service(&services, ip, false),
        });
        let (target, address, named) = match &route {
            Route::Passthrough { address, workload, service, .. } => {
                (workload.as_deref(), Some(*address), service)
            }
            Route::Hbone { workload, authority, service, tunnel, .. } => {
                prop_assert_eq!(tunnel.ip(), authority.ip());
                (Some(&**workload), Some(*authority), service)
            }
            Route::Local { workload, address, service, .. } => {
                (Some(&**workload), Some(*address), service)
            }
            Route::Refused { service, workload, .. } => (workload.as_deref(), None, service),
            Route::DoubleHbone { .. } | Route::Lookup(_) | Route::Ask { .. } => {
                return Err(TestCaseError::fail(format!("nothing asks for {route:?}")));
            }
        };
        prop_assert_eq!(named, &service.map(Service::dialled), "{:?}", route);
        match service {
            None => {
                prop_assert_eq!(target, at_address(), "{:?}", route);
                prop_assert_eq!(address, Some(dialled));
            }
            Some(_) if port != 80 => {
                let refused =
                    matches!(route, Route::Refused { code: Code::NoServicePort, .. });
                prop_assert!(refused, "{:?}", route);
            }
            Some(service) => {
                let serving = |w: &&Workload| may_serve(service, w).is_some();
                if let Some(target) = target {
                        let port = may_serve(service, target);
                        prop_assert!(home(target) && unique.contains(target), "{:?}", route);
                        prop_assert_eq!(address.map(|a| a.port()), port, "{:?}", route);
                        prop_assert!(address.is_some_and(|a| target.addresses.contains(&a.ip())));
                } else {
                        prop_assert!(!unique.iter().filter(serving).any(home), "{:?}", route);
                        let abroad = unique.iter().any(|w| serving(&w));
                        let expected =
                            if abroad { Code::GatewayUnknown } else { Code::NoHealthyEndpoint };
                        let refused =
                            matches!(&route, Route::Refused { code, .. } if *code == expected);
                        prop_assert!(refused, "{:?}", route);
                }
            }
        }
        // Only what the agent verified is local, and all of it is.
        if let Some(target) = target {
            let verified = target.health == Health::Healthy && target.capacity == 2;
            prop_assert_eq!(matches!(route, Route::Local { .. }), verified, "{:?}", route);
        }
    }
}
