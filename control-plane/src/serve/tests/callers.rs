//! Who is served, and until when.

use std::sync::atomic::Ordering;
use std::time::Duration;

use proto::discovery::DeltaDiscoveryRequest;
use tokio::time::Instant;
use tonic::Code;
use xds::server::{NAME_BYTES_MAX, REQUEST_BYTES_MAX, ResourceType, SUBSCRIBED_MAX, VERSIONS_MAX};

use super::support::{Server, pod, soon};
use crate::serve::{HANDSHAKES_OF_ADDRESS_MAX, ServeSettings};

#[tokio::test]
async fn only_agents_and_gateways_are_served_and_others_are_not_told_why() {
    let server = Server::start(ServeSettings::default()).await;
    for (token, want) in [
        ("node", None),
        ("gateway", None),
        ("workload", Some((Code::PermissionDenied, "not allowed"))),
        ("stranger", Some((Code::Unauthenticated, "authentication failed"))),
        ("later", Some((Code::Unavailable, "not available now"))),
    ] {
        let refused = server.connect(token).await.err();
        let refused = refused.as_ref().map(|status| (status.code(), status.message()));
        assert_eq!(refused, want, "{token}");
    }
}

#[tokio::test]
async fn the_stream_of_a_join_token_ends_with_the_token() {
    let recheck = Duration::from_millis(50);
    let server = Server::start(ServeSettings { recheck, ..ServeSettings::default() }).await;
    let mut joined = server.connect("joined").await.expect("served");
    let mut other = server.connect("node").await.expect("served");
    joined.ask(ResourceType::Authorization).await;
    joined.next().await;
    tokio::time::sleep(recheck * 4).await;
    server.revoked.store(true, Ordering::Relaxed);
    let status = joined.message().await.expect_err("ended");
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_eq!(server.connect("joined").await.err().map(|s| s.code()), Some(status.code()));
    other.ask(ResourceType::Authorization).await;
    other.next().await;
}

#[tokio::test]
async fn a_connection_on_which_nobody_proves_who_they_are_is_closed() {
    let first_call = Duration::from_millis(300);
    let settings = ServeSettings { first_call, ..ServeSettings::default() };
    let server = Server::start(settings).await;
    let mut served = server.connect("node").await.expect("served");
    let opened = Instant::now();
    let channel = server.channel("stranger").await.expect("connected");
    let refused = server.open(channel.clone(), "stranger").await.err().expect("refused");
    assert_eq!(refused.code(), Code::Unauthenticated);
    soon(async {
        while !server.metrics().contains("{code=\"CONNECTION_UNUSED\"} 1") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(opened.elapsed() >= first_call);
    // That of somebody who was served stays.
    served.ask(ResourceType::Authorization).await;
    served.next().await;
    let metrics = server.metrics();
    assert!(metrics.lines().any(|line| line == "pilot_connections 1"), "{metrics}");
}

#[tokio::test]
async fn who_asks_for_more_than_a_client_does_is_cut_off() {
    let server = Server::start(ServeSettings::default()).await;
    let request = || DeltaDiscoveryRequest {
        type_url: ResourceType::Address.url().into(),
        ..DeltaDiscoveryRequest::default()
    };
    let names = vec![String::new(); SUBSCRIBED_MAX + 1];
    let long = vec!["n".repeat(NAME_BYTES_MAX + 1)];
    let versions = (0..=VERSIONS_MAX).map(|number| (number.to_string(), String::new()));
    let cases = [
        ("TOO_MANY_NAMES", DeltaDiscoveryRequest { resource_names_subscribe: names, ..request() }),
        ("NAME_TOO_LONG", DeltaDiscoveryRequest { resource_names_subscribe: long, ..request() }),
        (
            "TOO_MANY_VERSIONS",
            DeltaDiscoveryRequest { initial_resource_versions: versions.collect(), ..request() },
        ),
        (
            "REQUEST_TOO_LARGE",
            DeltaDiscoveryRequest { response_nonce: "n".repeat(REQUEST_BYTES_MAX), ..request() },
        ),
    ];
    for (code, request) in cases {
        let mut stream = server.connect("node").await.expect("served");
        stream.send(request).await;
        let status = stream.message().await.expect_err(code);
        assert_eq!(status.code(), Code::ResourceExhausted, "{code}: {status}");
        assert_eq!(status.message(), "too much is asked for");
        let metrics = server.metrics();
        let counted = format!("warren_cp_discovery_refusals_total{{code=\"{code}\"}} 1");
        assert!(metrics.contains(&counted), "{metrics}");
    }
}

#[tokio::test]
async fn a_graceful_stop_tells_clients_to_come_again() {
    let drain = Duration::from_secs(2);
    let server = Server::start(ServeSettings { drain, ..ServeSettings::default() }).await;
    server.set(vec![pod(1, 1)]);
    let mut stream = server.follow().await;
    assert_eq!(server.clients.list().len(), 1);
    let asked = Instant::now();
    server.stop.cancel();
    let status = stream.message().await.expect_err("moved");
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "moving away"));
    drop(stream);
    soon(server.task).await.expect("stopped");
    assert!(asked.elapsed() < drain + Duration::from_secs(5), "{:?}", asked.elapsed());
    assert!(server.clients.list().is_empty());
}

#[tokio::test]
async fn an_old_connection_is_asked_to_come_again() {
    let connection_age = Duration::from_millis(400);
    let server = Server::start(ServeSettings { connection_age, ..Default::default() }).await;
    let mut stream = server.connect("node").await.expect("served");
    stream.ask(ResourceType::Authorization).await;
    stream.next().await;
    let status = stream.message().await.expect_err("moved");
    assert_eq!(status.code(), Code::Unavailable);
    // The next one is served as well.
    server.follow().await;
}

#[tokio::test]
async fn nobody_alone_takes_every_turn_to_shake_hands() {
    use tokio::io::AsyncReadExt;
    let server = Server::start(ServeSettings::default()).await;
    let mut silent = Vec::new();
    for _ in 0..HANDSHAKES_OF_ADDRESS_MAX {
        silent.push(tokio::net::TcpStream::connect(server.address()).await.expect("connected"));
    }
    // Accepting is the server's, in order: once one is refused, all before it have their turn.
    let mut one_more = tokio::net::TcpStream::connect(server.address()).await.expect("connected");
    let read = soon(one_more.read(&mut [0])).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    // Those that go give their share back.
    drop(silent);
    let deadline = Instant::now() + Duration::from_secs(10);
    while server.connect("node").await.is_err() {
        assert!(Instant::now() < deadline, "still refused");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
