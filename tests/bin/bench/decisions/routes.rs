//! Routes in a large mesh, changes of one endpoint in it, and what it takes to hold it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU16;

use anyhow::{Context, ensure};
use model::{
    Health, HealthPolicy, IpFamilies, LoadBalancing, LoadBalancingMode, Locality, Network,
    NetworkMode, OriginalDst, PolicyName, PortMapping, Scope, Service, ServiceAddress, ServiceName,
    TrustDomain, TunnelProtocol, Visibility, Workload, WorkloadKey, WorkloadType, WorkloadUid,
};
use resolve::{Change, Ejected, Extent, Query, Route, SameNode, Snapshot, resolve};

use super::{Figure, Unit, cpu_nanoseconds, nanoseconds_each};

const WORKLOADS: u32 = 100_000;
const SERVICES: u32 = 10_000;
/// Endpoints of each service, but for the large ones.
const EACH: u32 = WORKLOADS / SERVICES;
const NAMESPACES: u32 = 500;
const NODES: u32 = 1_000;
/// Endpoints of each large service: the first workloads, besides the service of their own.
const LARGE: u32 = 10_000;

const ROUTE_BOUND: f64 = 2_000.0;
const CHOICE_BOUND: f64 = 1_000.0;
const CHANGE_BOUND: f64 = 2_000_000.0;
const PUSH_BOUND: f64 = 5e9;
const MEMORY_BOUND: f64 = 150.0;

/// The last services, one for each way to balance.
const BALANCES: [(&str, LoadBalancingMode, &[Scope]); 4] = [
    ("by capacity", LoadBalancingMode::Unspecified, &[]),
    ("zone first", LoadBalancingMode::Failover, &[Scope::Network, Scope::Region, Scope::Zone]),
    (
        "node first",
        LoadBalancingMode::Failover,
        &[Scope::Network, Scope::Region, Scope::Zone, Scope::Subzone, Scope::Node],
    ),
    ("node only", LoadBalancingMode::Strict, &[Scope::Node]),
];

pub(crate) fn figures(rounds: u32) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let (mesh, memory) = held(rounds)?;
    figures.push(memory);
    figures.push(push(rounds)?);
    figures.extend(routes(rounds, &mesh)?);
    figures.extend(changes(rounds, &mesh)?);
    Ok(figures)
}

fn figure(name: impl Into<String>, unit: Unit, rounds: Vec<f64>, bound: f64) -> Figure {
    Figure { name: name.into(), unit, rounds, bound: Some(bound) }
}

/// The mesh, and the memory that it takes: what the process grew by when it was built. Nothing
/// else is alive at that time but one change.
fn held(rounds: u32) -> anyhow::Result<(Snapshot, Figure)> {
    let before = resident_mebibytes()?;
    let mesh = Snapshot::default().apply(everything());
    let grew = resident_mebibytes()? - before;
    ensure!(mesh.workloads().len() == usize::try_from(WORKLOADS)?, "every workload is there");
    ensure!(mesh.services().len() == usize::try_from(SERVICES)?, "every service is there");
    let name = "memory of 100,000 workloads and 10,000 services";
    // Once: a second one would be built out of what the first one freed.
    let rounds = vec![grew; usize::try_from(rounds)?];
    Ok((mesh, figure(name, Unit::Mebibytes, rounds, MEMORY_BOUND)))
}

fn push(rounds: u32) -> anyhow::Result<Figure> {
    let mut taken = Vec::new();
    for _ in 0..rounds {
        let changes: Vec<_> = everything().collect();
        let start = cpu_nanoseconds()?;
        let mesh = Snapshot::default().apply(changes);
        taken.push(nanoseconds(cpu_nanoseconds()?.saturating_sub(start)));
        ensure!(mesh.workloads().len() == usize::try_from(WORKLOADS)?, "every workload is there");
    }
    let name = "initial push of that, from workloads to indexes";
    Ok(figure(name, Unit::Nanoseconds, taken, PUSH_BOUND))
}

fn routes(rounds: u32, mesh: &Snapshot) -> anyhow::Result<Vec<Figure>> {
    let client = workload(WORKLOADS / 2);
    let client = mesh.workload_by_uid(&client.uid).context("the client is there")?;
    let route = |number: u64, dialled: Ipv4Addr| {
        let query = Query {
            network: &client.network,
            source: client,
            original_dst: OriginalDst((dialled, 80).into()),
            local: &|_| false,
            same_node: SameNode::Relay,
            extent: Extent::Whole,
            ejected: Ejected::NONE,
            random: number.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        };
        resolve(mesh, &query)
    };
    // A step that visits everything in an order without a pattern.
    let any = |number: u64, of: u32| {
        u32::try_from(number.wrapping_mul(7_919) % u64::from(of)).unwrap_or_default()
    };
    let mut figures = Vec::new();
    let mut measure = |name: &str, bound: f64, dialled: &dyn Fn(u64) -> Ipv4Addr| {
        let mut taken = Vec::new();
        for number in 0..3 {
            let route = route(number, dialled(number));
            ensure!(matches!(route, Route::Hbone { .. }), "{name} is no tunnel: {route:?}");
        }
        for _ in 0..rounds {
            taken.push(nanoseconds_each(|number| {
                let number = u64::try_from(number).unwrap_or_default();
                route(number, dialled(number))
            })?);
        }
        figures.push(figure(name, Unit::Nanoseconds, taken, bound));
        anyhow::Ok(())
    };
    measure("route to one service", ROUTE_BOUND, &|_| vip(SERVICES / 2))?;
    measure("route, another service each time", ROUTE_BOUND, &|number| {
        vip(any(number, SERVICES - large_services()))
    })?;
    measure("route, another pod each time", ROUTE_BOUND, &|number| {
        address(any(number, WORKLOADS))
    })?;
    for (index, (name, ..)) in (0..).zip(BALANCES) {
        let name = format!("route to a service of 10,000 endpoints, {name}");
        measure(&name, ROUTE_BOUND, &|_| vip(SERVICES - large_services() + index))?;
    }
    choices(&mut figures);
    Ok(figures)
}

/// What a choice among 10,000 endpoints costs: the route to them, beyond that to a service of ten.
fn choices(figures: &mut Vec<Figure>) {
    let few = figures.iter().find(|figure| figure.name == "route to one service");
    let few = few.map(|figure| figure.rounds.clone()).unwrap_or_default();
    let many = "route to a service of 10,000 endpoints";
    let choices: Vec<_> = figures
        .iter()
        .filter(|figure| figure.name.starts_with(many))
        .map(|many| {
            let name = many.name.replace("route to a service of", "choice among");
            let beyond = many.rounds.iter().zip(&few).map(|(many, few)| (many - few).max(0.0));
            figure(name, Unit::Nanoseconds, beyond.collect(), CHOICE_BOUND)
        })
        .collect();
    figures.extend(choices);
}

/// Each applies one change and drops the state before, which is in the figure.
fn changes(rounds: u32, mesh: &Snapshot) -> anyhow::Result<Vec<Figure>> {
    let flip = |id: u32, number: usize| {
        let health = if number.is_multiple_of(2) { Health::Unhealthy } else { Health::Healthy };
        Change::Workload(Workload { health, ..workload(id) })
    };
    let mut figures = Vec::new();
    for (name, id) in [
        ("change of one endpoint", WORKLOADS - 1),
        ("change of one endpoint of four services of 10,000", LARGE / 2),
    ] {
        let mut taken = Vec::new();
        for _ in 0..rounds {
            let mut mesh = mesh.clone();
            taken.push(nanoseconds_each(|number| mesh = mesh.apply([flip(id, number)]))?);
        }
        figures.push(figure(name, Unit::Nanoseconds, taken, CHANGE_BOUND));
    }
    let mut taken = Vec::new();
    for _ in 0..rounds {
        let mut mesh = mesh.clone();
        taken.push(nanoseconds_each(|number| {
            let id = u32::try_from(number * 7_919 % 100_000).unwrap_or_default();
            mesh = mesh.apply([flip(id, number / 100_000)]);
        })?);
    }
    figures.push(figure(
        "change of another endpoint each time",
        Unit::Nanoseconds,
        taken,
        CHANGE_BOUND,
    ));
    Ok(figures)
}

#[expect(clippy::cast_precision_loss, clippy::as_conversions, reason = "far below 2^52")]
fn nanoseconds(count: u64) -> f64 {
    count as f64
}

/// What of this process is in memory.
fn resident_mebibytes() -> anyhow::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status").context("read the own status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kibibytes = line.trim().trim_end_matches("kB").trim().parse::<u32>()?;
    Ok(f64::from(kibibytes) / 1024.0)
}

fn large_services() -> u32 {
    u32::try_from(BALANCES.len()).unwrap_or_default()
}

/// Every text anew, as a parser makes them.
fn everything() -> impl Iterator<Item = Change> {
    let services = (0..SERVICES).map(|id| Change::Service(service(id)));
    services.chain((0..WORKLOADS).map(|id| Change::Workload(workload(id))))
}

fn vip(service: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits((10 << 24) | (200 << 16) | service)
}

fn address(workload: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits((10 << 24) | workload)
}

fn namespace(service: u32) -> String {
    format!("team-{}-production", service % NAMESPACES)
}

fn service_name(id: u32) -> ServiceName {
    let namespace = namespace(id);
    let hostname = format!("service-{id}.{namespace}.svc.cluster.local");
    ServiceName { namespace: namespace.into(), hostname: hostname.into() }
}

fn mappings() -> Vec<PortMapping> {
    let mapping = |service_port, target| PortMapping {
        service_port: NonZeroU16::new(service_port).unwrap_or(NonZeroU16::MIN),
        target_port: NonZeroU16::new(target),
    };
    vec![mapping(80, 8080), mapping(9090, 9090)]
}

fn service(id: u32) -> Service {
    let large = id.checked_sub(SERVICES - large_services());
    let balance = large.unwrap_or(id) % large_services();
    let (_, mode, preferences) = BALANCES
        .into_iter()
        .nth(usize::try_from(balance).unwrap_or_default())
        .unwrap_or(BALANCES[0]);
    // In the small ones, nobody may be on the client's node.
    let mode = if large.is_none() && mode == LoadBalancingMode::Strict {
        LoadBalancingMode::Failover
    } else {
        mode
    };
    Service {
        name: service_name(id),
        short_name: format!("service-{id}").into(),
        addresses: vec![ServiceAddress::host(network(), vip(id).into())],
        ports: mappings(),
        subject_alt_names: Vec::new(),
        load_balancing: LoadBalancing {
            preferences: preferences.to_vec(),
            mode,
            health: HealthPolicy::OnlyHealthy,
        },
        ip_families: IpFamilies::V4,
        canonical: true,
        visibility: Visibility::Public,
        waypoint: None,
        weighted_waypoints: Vec::new(),
    }
}

fn network() -> Network {
    Network("network-one".into())
}

fn workload(id: u32) -> Workload {
    let service = id / EACH;
    let namespace = namespace(service);
    let name = format!("service-{service}-7c9f8d6b5-x{id:05x}");
    let node = id.wrapping_mul(31) % NODES;
    let mut services = BTreeMap::from([(service_name(service), mappings())]);
    if id < LARGE {
        let large = (0..large_services()).map(|index| SERVICES - large_services() + index);
        services.extend(large.map(|id| (service_name(id), mappings())));
    }
    Workload {
        uid: WorkloadUid(format!("cluster-one//Pod/{namespace}/{name}").into()),
        key: WorkloadKey {
            namespace: namespace.as_str().into(),
            name: name.into(),
            service_account: format!("service-{service}").into(),
        },
        trust_domain: TrustDomain::default(),
        addresses: vec![IpAddr::from(address(id))],
        network: network(),
        protocol: TunnelProtocol::Hbone,
        network_mode: NetworkMode::Standard,
        node: format!("ip-10-0-{}-{}.eu-west-1.compute.internal", node / 256, node % 256).into(),
        cluster: "cluster-one".into(),
        canonical_name: format!("service-{service}").into(),
        canonical_revision: "v1".into(),
        workload_type: WorkloadType::Deployment,
        workload_name: format!("service-{service}").into(),
        health: Health::Healthy,
        locality: Locality {
            region: "eu-west-1".into(),
            zone: format!("eu-west-1{}", ['a', 'b', 'c'][usize::try_from(node % 3).unwrap_or(0)])
                .into(),
            subzone: "".into(),
        },
        policies: vec![PolicyName::new(&namespace, &format!("service-{service}"))],
        services: services.into_iter().collect(),
        capacity: 1,
        native_tunnel: false,
        waypoint: None,
        network_gateway: None,
        application_tunnel: None,
        hostname: None,
    }
}
