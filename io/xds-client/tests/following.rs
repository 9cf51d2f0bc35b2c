//! A client and a control plane over real sockets.

#[expect(dead_code, reason = "each suite uses a part of it")]
mod support;

use proto::discovery::DeltaDiscoveryResponse;
use proto::security::AUTHORIZATION_TYPE;
use proto::workload::ADDRESS_TYPE;
use support::{Running, Server, TestXds, policy, settings, soon, uids, workload};
use tonic::Status;
use xds_client::{Existence, LookupError, LookupKey, Mode, Sync};

async fn pair(mode: Mode) -> (Server, Running) {
    let xds = TestXds::new();
    xds.update(|set| {
        set.workload(workload(1)).workload(workload(2)).policy(&policy("p"));
    });
    let server = Server::start(&xds).await;
    let running = Running::start(settings(server.address, mode));
    (server, running)
}

#[tokio::test]
async fn every_push_becomes_one_state() {
    let (server, running) = pair(Mode::Wildcard).await;
    let first = running.uids(&["w1", "w2"]).await;
    assert_eq!(first.policies.len(), 1);
    server.xds.update(|set| {
        set.workload(workload(3)).remove("w1");
    });
    let second = running.uids(&["w2", "w3"]).await;
    assert_eq!(second.revision, first.revision + 1);
    // The old one is as it was.
    assert_eq!(uids(&first), ["w1", "w2"]);

    let acks = |asked: &support::service::Asked| asked.request.response_nonce == "1-3";
    let ack = soon(server.xds.wait_for(acks)).await.request;
    assert_eq!((ack.error_detail, ack.node), (None, None));
    let asked = server.xds.asked();
    let urls: Vec<_> = asked.iter().take(2).map(|a| a.request.type_url.as_str()).collect();
    assert_eq!(urls, [ADDRESS_TYPE, AUTHORIZATION_TYPE]);
    assert!(asked.iter().take(2).all(|a| a.request.node.as_ref().is_some_and(|n| n.id == "node")));
    let status = running.client.status();
    assert_eq!((status.workloads, status.services, status.policies), (2, 0, 1));
    assert_eq!((status.addresses.count, status.authorizations.count), (2, 1));
    assert!(status.addresses.bytes > 0 && status.connected_since.is_some());
    assert_eq!((status.stale_since, status.nacks), (None, 0));
}

#[tokio::test]
async fn nothing_is_in_force_before_both_types_have_come() {
    let xds = TestXds::new();
    xds.hold_back(AUTHORIZATION_TYPE);
    xds.update(|set| {
        set.workload(workload(1));
    });
    let server = Server::start(&xds).await;
    let running = Running::start(settings(server.address, Mode::Wildcard));
    let half = running.state(|state| state.revision == 1).await;
    assert_eq!((uids(&half).len(), half.sync), (1, Sync::Waiting));
    assert!(running.client.status().stale_since.is_some());
    xds.release(AUTHORIZATION_TYPE);
    running.uids(&["w1"]).await;
}

#[tokio::test]
async fn bad_resources_are_refused_by_name_and_the_rest_applies() {
    let (server, running) = pair(Mode::Wildcard).await;
    running.uids(&["w1", "w2"]).await;
    let mut bad = workload(1);
    bad.tunnel_protocol = 2;
    server.xds.update(|set| {
        set.workload(bad).workload(workload(3)).raw(
            AUTHORIZATION_TYPE,
            "shop/q",
            b"\x0a\x01q\x12\x04shop\x18\x01\x40\x01".to_vec(),
        );
    });
    running.uids(&["w1", "w2", "w3"]).await;
    running.state(|state| state.policies.len() == 2).await;
    let status = running.status(|status| status.nacks == 2).await;
    assert_eq!((status.rejected_total, status.refused), (2, 0));
    soon(server.xds.wait_for(|a| a.request.response_nonce == "1-4")).await;
    assert_eq!(
        server.xds.refusals(),
        [
            "\"w1\": tunnel_protocol: LEGACY_ISTIO_MTLS is not supported",
            "\"shop/q\": field 8 is not known",
        ]
    );
}

#[tokio::test]
async fn a_client_comes_back_and_goes_on_where_it_was() {
    for (status, reasons) in [
        (None, [0, 0, 0, 1]),
        (Some(Status::unavailable("gone")), [0, 1, 0, 0]),
        (Some(Status::unknown("gone")), [0, 0, 1, 0]),
    ] {
        let (server, running) = pair(Mode::Wildcard).await;
        running.uids(&["w1", "w2"]).await;
        server.xds.close(status.as_ref());
        server.xds.update(|set| {
            set.remove("w1").workload(workload(3));
        });
        running.uids(&["w2", "w3"]).await;
        let first = soon(server.xds.wait_for(|asked| asked.stream == 2)).await.request;
        let held: Vec<_> = first.initial_resource_versions.into_iter().collect();
        assert_eq!(held, [("w1".to_owned(), "v1".to_owned()), ("w2".to_owned(), "v2".to_owned())]);
        let status = running.status(|status| status.stale_since.is_none()).await;
        assert_eq!(status.terminations, reasons);
    }
}

#[tokio::test]
async fn a_control_plane_that_is_away_is_tried_again() {
    let xds = TestXds::new();
    let server = Server::start(&xds).await;
    let address = server.address;
    server.stop().await;
    let running = Running::start(settings(address, Mode::Wildcard));
    let status = running.status(|status| status.terminations[0] >= 2).await;
    let text = status.last_error.expect("an error").text;
    assert!(text.starts_with(&format!("connecting to http://{address}")), "{text}");
    assert_eq!(running.client.states().borrow().sync, Sync::Waiting);
    let _server = Server::start_at(&xds, address).await;
    running.state(|state| state.sync == Sync::Live).await;
    // And so is one that accepts nobody.
    xds.refuse(Some(Status::unauthenticated("who are you")));
    xds.close(None);
    let refused = |status: &xds_client::Status| {
        let error = status.last_error.as_ref();
        error.is_some_and(|e| e.text == "Unauthenticated: who are you")
    };
    let status = running.status(refused).await;
    assert!(status.connected_since.is_none() && status.stale_since.is_some());
    xds.refuse(None);
    running.status(|status| status.stale_since.is_none()).await;
}

#[tokio::test]
async fn a_hostile_control_plane_changes_nothing() {
    let (server, running) = pair(Mode::Wildcard).await;
    running.uids(&["w1", "w2"]).await;
    let revision = running.client.status().revision;
    let removal = |type_url: &str, nonce: &str| DeltaDiscoveryResponse {
        type_url: type_url.to_owned(),
        nonce: nonce.to_owned(),
        removed_resources: vec!["w1".to_owned(), "shop/p".to_owned()],
        ..DeltaDiscoveryResponse::default()
    };
    // Refused, and the stream goes on.
    server.xds.replay();
    running.status(|status| status.refused == 1).await;
    server.xds.send(&removal("type.googleapis.com/other", "x"));
    let status = running.status(|status| status.refused == 2).await;
    assert_eq!((status.other_messages.count, status.terminations), (1, [0; 4]));
    let refusals = server.xds.wait_for(|asked| asked.request.type_url.ends_with("other"));
    assert!(soon(refusals).await.request.error_detail.is_some());
    // The end of the stream.
    for (number, bytes) in [
        (1, b"\xff\xff\xff".to_vec()),
        // A response without a nonce.
        (2, prost::Message::encode_to_vec(&removal(ADDRESS_TYPE, ""))),
        (3, prost::Message::encode_to_vec(&removal(ADDRESS_TYPE, &"n".repeat(10_000)))),
    ] {
        server.xds.send_bytes(&bytes.into());
        let ended = |status: &xds_client::Status| {
            status.terminations[1] == number && status.stale_since.is_none()
        };
        running.status(ended).await;
    }
    let state = running.uids(&["w1", "w2"]).await;
    assert_eq!((state.policies.len(), state.revision), (1, revision));
}

#[tokio::test]
async fn a_connection_that_breaks_in_the_middle_changes_nothing() {
    let (server, running) = pair(Mode::Wildcard).await;
    running.uids(&["w1", "w2"]).await;
    let address = server.address;
    let xds = server.xds.clone();
    server.stop().await;
    running.status(|status| status.connected_since.is_none()).await;
    let state = running.client.states().borrow().clone();
    assert_eq!((uids(&state).len(), state.sync), (2, Sync::Live));
    // One that begins a message and closes.
    let listener = tokio::net::TcpListener::bind(address).await.expect("its port");
    let (mut socket, _) = soon(listener.accept()).await.expect("a connection");
    tokio::io::AsyncWriteExt::write_all(&mut socket, b"\0\0\x12\x04\0").await.expect("written");
    drop((socket, listener));
    xds.update(|set| {
        set.remove("w1");
    });
    let _server = Server::start_at(&xds, address).await;
    running.uids(&["w2"]).await;
}

fn by_address(text: &str) -> LookupKey {
    LookupKey::Address(model::NetworkAddress {
        network: model::Network::default(),
        ip: text.parse().expect("an address"),
    })
}

#[tokio::test]
async fn on_demand_only_what_is_asked_for_is_sent() {
    let (server, running) = pair(Mode::OnDemand).await;
    let state = running.state(|state| state.sync == Sync::Live).await;
    assert_eq!((uids(&state).len(), state.policies.len()), (0, 1));
    let client = running.client.clone();
    // Several at once; the answer comes under the uid, with the address as an alias.
    let (one, two, none) = soon(async {
        tokio::join!(
            client.lookup(by_address("10.0.0.1")),
            client.lookup(by_address("10.0.0.1")),
            client.lookup(by_address("10.0.0.9")),
        )
    })
    .await;
    assert_eq!((one, two), (Ok(Existence::Found), Ok(Existence::Found)));
    assert_eq!(none, Ok(Existence::Absent));
    // It is in the published state by the time the look-up ends.
    assert_eq!(uids(&client.states().borrow()), ["w1"]);
    let asked = server.xds.asked();
    let names = asked.iter().flat_map(|a| &a.request.resource_names_subscribe);
    assert_eq!(names.filter(|name| *name == "/10.0.0.1").count(), 1);
    // Changes of what was asked for are sent, others are not.
    let mut changed = workload(1);
    changed.node = "other".to_owned();
    server.xds.update(|set| {
        set.workload(changed).workload(workload(2)).workload(workload(3));
    });
    running.state(|state| state.snapshot.workloads().any(|w| &*w.node == "other")).await;
    assert_eq!(uids(&client.states().borrow()), ["w1"]);
    // What did not exist may come to exist.
    let mut late = workload(4);
    late.addresses = workload(9).addresses;
    server.xds.update(|set| {
        set.workload(late);
    });
    running.uids(&["w1", "w4"]).await;
    assert_eq!(client.lookup(by_address("10.0.0.9")).await, Ok(Existence::Found));
    // A new stream asks for the same again.
    server.xds.close(None);
    let again = soon(server.xds.wait_for(|asked| asked.stream == 2)).await.request;
    assert_eq!(again.resource_names_subscribe, ["*", "/10.0.0.1", "/10.0.0.9"]);
    assert_eq!(again.initial_resource_versions.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_lookup_without_an_answer_ends_in_time() {
    // Nobody listens there.
    let running = Running::start(settings(([127, 0, 0, 1], 1).into(), Mode::OnDemand));
    let started = tokio::time::Instant::now();
    let answer = running.client.lookup(by_address("10.0.0.1")).await;
    assert_eq!(answer, Err(LookupError::TimedOut));
    assert!(started.elapsed() <= std::time::Duration::from_secs(6));
    let client = running.client.clone();
    drop(running);
    tokio::task::yield_now().await;
    assert_eq!(client.lookup(by_address("10.0.0.1")).await, Err(LookupError::Ended));
}

#[tokio::test]
async fn a_driver_ends_when_nobody_uses_it() {
    let server = Server::start(&TestXds::new()).await;
    let (client, driver) = xds_client::new(settings(server.address, Mode::Wildcard));
    let task = tokio::spawn(driver.run());
    soon(server.xds.wait_for(|asked| asked.stream == 1)).await;
    drop(client);
    soon(task).await.expect("no panic");
}
