//! What a control plane's responses cost, from the encoded message to the state they lead to.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Context;
use prost::Message;
use prost::bytes::Bytes;
use proto::discovery::{Any, DeltaDiscoveryResponse, Resource};
use proto::workload as wire;
use xds::{Client, ClientSettings, Kind, Received};

use super::{Figure, Unit, cpu_nanoseconds};

const WORKLOADS: u32 = 100_000;
const SERVICES: u32 = 10_000;
const NODES: u32 = 1_000;
/// Changes of one endpoint in one round.
const CHANGES: u32 = 20;

const INITIAL_BOUND: f64 = 5e9;
const CHANGE_BOUND: f64 = 2e6;

pub(crate) fn figures(rounds: u32) -> anyhow::Result<Vec<Figure>> {
    let initial = encoded(0, (0..SERVICES).map(service).chain((0..WORKLOADS).map(workload)));
    let (mut first, mut changes) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let mut client = Client::new(ClientSettings::default());
        client.opened();
        let start = cpu_nanoseconds()?;
        receive(&mut client, initial.clone())?;
        first.push(since(start, 1)?);
        let known = client.snapshot().workloads().len();
        anyhow::ensure!(u32::try_from(known) == Ok(WORKLOADS), "{known} workloads were applied");
        let start = cpu_nanoseconds()?;
        for number in 1..=CHANGES {
            // Encoding is the control plane's, and small beside the rest.
            let mut changed = workload_message(number);
            changed.status = wire::WorkloadStatus::Unhealthy.into();
            receive(&mut client, encoded(number, [resource(changed)].into_iter()))?;
        }
        changes.push(since(start, CHANGES)?);
    }
    let mebibytes = initial.len() >> 20;
    let name = format!("push of 100,000 workloads, 10,000 services ({mebibytes} MiB)");
    let figure =
        |name, rounds, bound| Figure { name, unit: Unit::Nanoseconds, rounds, bound: Some(bound) };
    Ok(vec![
        figure(name, first, INITIAL_BOUND),
        figure("push of one endpoint's change to that".to_owned(), changes, CHANGE_BOUND),
    ])
}

fn since(start: u64, times: u32) -> anyhow::Result<f64> {
    let took = u32::try_from(cpu_nanoseconds()?.saturating_sub(start) / 1_000)?;
    Ok(f64::from(took) * 1e3 / f64::from(times))
}

fn receive(client: &mut Client, bytes: Bytes) -> anyhow::Result<Received> {
    let response = DeltaDiscoveryResponse::decode(bytes).context("decode")?;
    let received = client.receive(response, Instant::now()).context("receive")?;
    anyhow::ensure!(received.rejected.is_empty() && received.refusal.is_none(), "a refusal");
    Ok(received)
}

fn encoded(nonce: u32, resources: impl Iterator<Item = Resource>) -> Bytes {
    let response = DeltaDiscoveryResponse {
        resources: resources.collect(),
        type_url: Kind::Address.url().to_owned(),
        nonce: nonce.to_string(),
        ..DeltaDiscoveryResponse::default()
    };
    response.encode_to_vec().into()
}

fn envelope(name: String, r#type: wire::address::Type) -> Resource {
    let value = wire::Address { r#type: Some(r#type) }.encode_to_vec().into();
    Resource {
        // As long as Istio's.
        version: format!("{:020}", name.len()),
        resource: Some(Any { type_url: Kind::Address.url().to_owned(), value }),
        name,
        aliases: Vec::new(),
    }
}

fn hostname(number: u32) -> String {
    format!("service-{number}.shop-{}.svc.cluster.local", number % 100)
}

fn service(number: u32) -> Resource {
    let [_, a, b, c] = number.to_be_bytes();
    let service = wire::Service {
        name: format!("service-{number}"),
        namespace: format!("shop-{}", number % 100),
        hostname: hostname(number),
        addresses: vec![wire::NetworkAddress {
            network: "network".to_owned(),
            address: vec![172, 16 + a, b, c].into(),
            length: None,
        }],
        ports: vec![wire::Port { service_port: 80, target_port: 8080, app_protocol: 0 }],
        ..wire::Service::default()
    };
    let name = format!("{}/{}", service.namespace, service.hostname);
    envelope(name, wire::address::Type::Service(service))
}

fn workload(number: u32) -> Resource {
    resource(workload_message(number))
}

fn resource(workload: wire::Workload) -> Resource {
    envelope(workload.uid.clone(), wire::address::Type::Workload(workload))
}

fn workload_message(number: u32) -> wire::Workload {
    let of = number % SERVICES;
    let namespace = format!("shop-{}", of % 100);
    let [_, a, b, c] = number.to_be_bytes();
    let port = wire::Port { service_port: 80, target_port: 8080, app_protocol: 0 };
    let ports = wire::PortList { ports: vec![port] };
    wire::Workload {
        uid: format!("Kubernetes//Pod/{namespace}/service-{of}-6c1f0f0e8c-{number}"),
        name: format!("service-{of}-6c1f0f0e8c-{number}"),
        services: BTreeMap::from([(format!("{namespace}/{}", hostname(of)), ports)]),
        namespace,
        addresses: vec![vec![10, a, b, c].into()],
        network: "network".to_owned(),
        tunnel_protocol: wire::TunnelProtocol::Hbone.into(),
        service_account: format!("service-{of}"),
        node: format!("node-{}", number % NODES),
        canonical_name: format!("service-{of}"),
        canonical_revision: "v1".to_owned(),
        workload_name: format!("service-{of}"),
        authorization_policies: vec!["istio-system/istio_converted_static_strict".to_owned()],
        locality: Some(wire::Locality {
            region: "region".to_owned(),
            zone: format!("zone-{}", number % 3),
            subzone: String::new(),
        }),
        ..wire::Workload::default()
    }
}
