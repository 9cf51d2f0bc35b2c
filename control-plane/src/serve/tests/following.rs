//! What clients are sent.

use std::collections::BTreeMap;
use std::time::Duration;

use prometheus_client::encoding::text;
use prost::Message;
use proto::discovery::DeltaDiscoveryRequest;
use proto::security::Authorization;
use proto::workload::Workload;
use tokio::time::Instant;
use xds::server::{LARGE_BYTES, Resource, ResourceType};

use super::support::{Server, pod, soon};
use crate::serve::{FIRST_HELD, FIRST_RESPONSES_MAX, ServeSettings};
use ResourceType::{Address, Authorization as Policies};

fn policy(name: &str) -> Resource {
    let (name, namespace) = (name.into(), "shop".into());
    Resource::policy(&Authorization { name, namespace, ..Authorization::default() })
}

#[tokio::test]
async fn a_client_gets_the_state_and_then_what_changes() {
    let server = Server::start(ServeSettings::default()).await;
    server.set(vec![pod(1, 1), pod(2, 1), policy("p")]);
    let mut stream = server.connect("node").await.expect("served");
    stream.ask(Address).await;
    stream.ask(Policies).await;
    let first = stream.next().await;
    assert_eq!((&*first.type_url, first.resources.len()), (Policies.url(), 1));
    stream.accept(&first).await;
    let second = stream.next().await;
    assert_eq!((&*second.type_url, second.resources.len()), (Address.url(), 2));
    stream.accept(&second).await;
    server.set(vec![pod(1, 2)]);
    let change = stream.next().await;
    let names: Vec<_> = change.resources.iter().map(|resource| &*resource.name).collect();
    assert_eq!(names, ["Kubernetes//Pod/shop/cart-1"]);
    stream.accept(&change).await;
    let told = async {
        loop {
            let client = server.clients.list().pop().expect("a client");
            if client.types.iter().all(|status| status.in_flight.is_none()) {
                return client;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let client = soon(told).await;
    assert_eq!((&*client.id, client.node.as_deref()), ("ztunnel~1", Some("node-1")));
    let answered: Vec<_> = client.types.iter().map(|status| status.answered).collect();
    assert_eq!(answered, [Some(1), Some(2)]);
    let mut metrics = String::new();
    text::encode(&mut metrics, &server.registry).expect("encodes");
    for line in [
        "pilot_xds 1",
        "pilot_xds_pushes_total{type=\"address\"} 2",
        "pilot_xds_pushes_total{type=\"authorization\"} 1",
        "pilot_total_xds_rejects_total 0",
    ] {
        assert!(metrics.lines().any(|told| told == line), "{line} in {metrics}");
    }
}

#[tokio::test]
async fn who_comes_back_after_one_percent_changed_is_sent_that_one_percent() {
    const PODS: u32 = 2000;
    let server = Server::start(ServeSettings::default()).await;
    server.set((0..PODS).map(|number| pod(number, 1)).collect());
    let mut stream = server.connect("node").await.expect("served");
    stream.ask(Address).await;
    let everything = stream.next().await;
    assert_eq!(everything.resources.len(), 2000);
    let held = everything.resources.iter().map(|r| (r.name.clone(), r.version.clone()));
    let held: BTreeMap<_, _> = held.collect();
    drop(stream);
    server.set((0..PODS / 100).map(|number| pod(number * 100, 2)).collect());
    let mut stream = server.connect("node").await.expect("served");
    stream
        .send(DeltaDiscoveryRequest {
            type_url: Address.url().into(),
            initial_resource_versions: held,
            ..Default::default()
        })
        .await;
    let changes = stream.next().await;
    assert_eq!((changes.resources.len(), changes.removed_resources.len()), (20, 0));
    let (all, some) = (everything.encoded_len(), changes.encoded_len());
    eprintln!("{all} bytes at first, {some} after 1 % changed");
    assert!(some * 90 < all, "{some} of {all} bytes");
}

#[tokio::test]
async fn a_slow_client_holds_nobody_back_and_is_told_once_what_is_then() {
    let server = Server::start(ServeSettings::default()).await;
    server.set(vec![pod(1, 0)]);
    let mut slow = server.connect("node").await.expect("served");
    slow.ask(Address).await;
    let unanswered = slow.next().await;
    let mut quick = server.follow().await;
    for revision in 1..=100 {
        server.set(vec![pod(1, revision), pod(2, revision)]);
        let change = quick.next().await;
        assert_eq!(change.resources.len(), 2);
        quick.accept(&change).await;
    }
    let pending: usize = server.clients.list()[0].types.iter().map(|status| status.pending).sum();
    assert_eq!(pending, 2);
    slow.accept(&unanswered).await;
    let change = slow.next().await;
    let versions: BTreeMap<_, _> =
        change.resources.into_iter().map(|resource| (resource.name, resource.version)).collect();
    let want = [pod(1, 100), pod(2, 100)];
    let want = want.map(|pod| (pod.name().to_string(), pod.version().to_string()));
    assert_eq!(versions, want.into());
}

#[tokio::test]
async fn who_waits_for_a_turn_is_heard_and_told_what_is_small() {
    const PODS: usize = 40;
    // Few and long: what matters is that they are large together, and quick to make.
    let long = |number: usize| {
        let uid = format!("Kubernetes//Pod/shop/long-{number}");
        let canonical_name = "n".repeat(2 * LARGE_BYTES / PODS);
        Resource::workload(Workload { uid, canonical_name, ..Workload::default() })
    };
    let server = Server::start(ServeSettings::default()).await;
    server.set((0..PODS).map(long).collect());
    // Their clients hold every turn: they do not answer.
    let mut silent = Vec::new();
    for _ in 0..FIRST_RESPONSES_MAX {
        silent.push(server.connect("node").await.expect("served"));
    }
    let mut waits = server.connect("node").await.expect("served");
    let held = Instant::now();
    let mut unanswered = Vec::new();
    for stream in &mut silent {
        stream.ask(Address).await;
        unanswered.push(stream.next().await);
    }
    waits.ask(Address).await;
    waits.ask(Policies).await;
    let policies = waits.next().await;
    assert_eq!(&*policies.type_url, Policies.url());
    waits.accept(&policies).await;
    server.set(vec![policy("p")]);
    let change = waits.next().await;
    assert!(held.elapsed() < FIRST_HELD, "too slow a machine: {:?}", held.elapsed());
    assert_eq!((&*change.type_url, change.resources.len()), (Policies.url(), 1));
    waits.accept(&change).await;
    // One of them answers, and the turn is ours.
    silent[0].accept(&unanswered[0]).await;
    let everything = waits.next().await;
    assert_eq!((&*everything.type_url, everything.resources.len()), (Address.url(), PODS));
}

#[tokio::test]
async fn one_change_reaches_a_hundred_clients() {
    const CLIENTS: usize = 100;
    let server = Server::start(ServeSettings::default()).await;
    server.set((0..1000).map(|number| pod(number, 0)).collect());
    let mut streams = Vec::with_capacity(CLIENTS);
    for _ in 0..CLIENTS {
        streams.push(server.follow().await);
    }
    let mut medians = Vec::new();
    for revision in 1..=10 {
        let changed = Instant::now();
        server.set(vec![pod(1, revision)]);
        let arrivals = streams.iter_mut().map(async |stream| {
            let change = stream.next().await;
            assert_eq!(change.resources.len(), 1);
            let took = changed.elapsed();
            stream.accept(&change).await;
            took
        });
        let mut took = futures_util::future::join_all(arrivals).await;
        took.sort_unstable();
        medians.push(took[CLIENTS / 2]);
    }
    medians.sort_unstable();
    // A figure for people: the bound is the benchmark's, on a machine that does nothing else.
    eprintln!("median of {CLIENTS} clients: {:?}", medians[medians.len() / 2]);
    assert!(medians[0] < Duration::from_secs(1), "{medians:?}");
}
