//! The last known good state over restarts of the client.

#[expect(dead_code, reason = "each suite uses a part of it")]
mod support;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use model::{Network, NetworkAddress};
use proto::security::AUTHORIZATION_TYPE;
use proto::workload::Workload;
use support::{Running, Server, TestXds, policy, settings, soon, uids, workload};
use xds_client::{Existence, LookupKey, Mode, Settings, StoredSettings, Sync};

fn stored(address: SocketAddr, path: &Path) -> Settings {
    let delay = Duration::from_millis(10);
    let stored = Some(StoredSettings { path: path.to_owned(), delay });
    Settings { stored, ..settings(address, Mode::Wildcard) }
}

fn some() -> TestXds {
    let xds = TestXds::new();
    xds.update(|set| {
        set.workload(workload(1)).workload(workload(2)).policy(&policy("p"));
    });
    xds
}

/// Lets a client store what `xds` holds, and ends it. Returns the time of the file.
async fn store(server: &Server, path: &Path) -> SystemTime {
    let running = Running::start(stored(server.address, path));
    let status = running.status(|status| status.stored.as_of.is_some()).await;
    status.stored.as_of.expect("just waited for")
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("mesh");
    (folder, path)
}

#[tokio::test]
async fn a_client_starts_from_what_was_stored_and_goes_on_from_there() {
    let (_folder, path) = place();
    let server = Server::start(&some()).await;
    let (xds, address) = (server.xds.clone(), server.address);
    let written = store(&server, &path).await;
    server.stop().await;

    let running = Running::start(stored(address, &path));
    let state = running.state(|state| state.sync != Sync::Waiting).await;
    let Sync::Stored { as_of } = state.sync else { panic!("{:?}", state.sync) };
    assert!(as_of >= written && as_of <= SystemTime::now());
    assert_eq!((uids(&state).len(), state.policies.len(), state.revision), (2, 1, 1));
    let status = running.status(|status| status.terminations[0] >= 1).await;
    assert_eq!(status.stale_since, Some(as_of));
    assert!(status.staleness(as_of + Duration::from_secs(9)) == Duration::from_secs(9));

    // It comes back: what changed meanwhile is sent, and what is gone is gone.
    xds.update(|set| {
        set.remove("w1").workload(workload(3)).remove_policy("shop/p");
    });
    let opened = xds.opened();
    let _back = Server::start_at(&xds, address).await;
    let state = running.uids(&["w2", "w3"]).await;
    assert!(state.policies.is_empty());
    let first = soon(xds.wait_for(|asked| asked.stream == opened + 1)).await.request;
    let held: Vec<_> = first.initial_resource_versions.into_iter().collect();
    assert_eq!(held, [("w1".to_owned(), "v1".to_owned()), ("w2".to_owned(), "v2".to_owned())]);
    // And the change is stored on top of what was there.
    running.status(|status| status.stored.as_of.is_some_and(|at| at > as_of)).await;
    drop(running);
    xds.refuse(Some(tonic::Status::unavailable("away")));
    let running = Running::start(stored(address, &path));
    let state = running.state(|state| state.sync != Sync::Waiting).await;
    assert_eq!(uids(&state), ["w2", "w3"]);
}

#[tokio::test]
async fn a_stored_state_that_is_damaged_or_anothers_is_not_used() {
    let (_folder, path) = place();
    let server = Server::start(&some()).await;
    store(&server, &path).await;
    let refusing = server.xds.clone();
    refusing.refuse(Some(tonic::Status::unavailable("away")));
    let other_mode = {
        let mut settings = stored(server.address, &path);
        settings.client.mode = Mode::OnDemand;
        settings
    };
    let whole = std::fs::read(&path).expect("stored");
    let cut = &whole[..whole.len() - 20];
    for (settings, bytes, cause) in [
        (other_mode, &whole[..], "(Wildcard), not of http://"),
        (stored(server.address, &path), cut, "the checksum differs"),
        (stored(server.address, &path), b"other", "is not in this version's format"),
    ] {
        std::fs::write(&path, bytes).expect("written");
        let running = Running::start(settings);
        let status = running.status(|status| status.terminations[1] >= 1).await;
        assert_eq!((status.stored.ignored, status.sync), (1, Sync::Waiting));
        let error = status.stored.last_error.expect("an error");
        assert!(error.contains(cause), "{error}");
    }
    // The control plane's answer takes its place.
    refusing.refuse(None);
    let running = Running::start(stored(server.address, &path));
    running.uids(&["w1", "w2"]).await;
    running.status(|status| status.stored.bytes > 0).await;
    assert_eq!(std::fs::read(&path).expect("stored").len(), whole.len());
}

#[tokio::test]
async fn half_a_state_is_never_stored() {
    let (_folder, path) = place();
    let xds = some();
    xds.hold_back(AUTHORIZATION_TYPE);
    let server = Server::start(&xds).await;
    let running = Running::start(stored(server.address, &path));
    running.state(|state| state.revision == 1).await;
    xds.update(|set| {
        set.workload(workload(3));
    });
    running.state(|state| state.revision == 2).await;
    // Many times the delay; nothing else could be waited for.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!path.exists());
    xds.release(AUTHORIZATION_TYPE);
    running.status(|status| status.stored.bytes > 0).await;
    assert!(path.exists());
}

#[tokio::test]
async fn a_stored_state_that_is_lost_is_written_from_a_full_answer() {
    let (_folder, path) = place();
    let server = Server::start(&some()).await;
    let running = Running::start(stored(server.address, &path));
    let before = running.status(|status| status.stored.bytes > 0).await;
    std::fs::remove_file(&path).expect("stored");
    server.xds.update(|set| {
        set.workload(workload(3));
    });
    // On a new stream, which claims to hold nothing.
    let first = soon(server.xds.wait_for(|asked| asked.stream == 2)).await.request;
    assert!(first.initial_resource_versions.is_empty());
    let larger = |status: &xds_client::Status| status.stored.bytes > before.stored.bytes;
    running.status(larger).await;
    let state = running.uids(&["w1", "w2", "w3"]).await;
    assert_eq!(state.policies.len(), 1);
    // The state in force was never taken back.
    assert!(state.revision > 2);
}

#[tokio::test]
async fn on_demand_a_stored_state_that_is_lost_empties_nothing() {
    let (_folder, path) = place();
    let xds = some();
    let server = Server::start(&xds).await;
    let mut settings = stored(server.address, &path);
    settings.client.mode = Mode::OnDemand;
    let running = Running::start(settings);
    let key = LookupKey::Address(NetworkAddress {
        network: Network::default(),
        ip: [10, 0, 0, 1].into(),
    });
    assert_eq!(running.client.lookup(key).await, Ok(Existence::Found));
    running.status(|status| status.stored.bytes > 0).await;
    let mut states = running.client.states();
    std::fs::remove_file(&path).expect("stored");
    // From then on, every state that is published holds what was asked for.
    states.mark_unchanged();
    xds.update(|set| {
        set.workload(Workload { node: "moved".into(), ..workload(1) });
    });
    let first =
        soon(xds.wait_for(|asked| {
            asked.stream == 2 && asked.request.resource_names_subscribe.len() > 1
        }));
    let names = first.await.request.resource_names_subscribe;
    assert!(names.iter().any(|name| name == "w1"), "{names:?}");
    xds.update(|set| {
        set.policy(&policy("q"));
    });
    loop {
        soon(states.changed()).await.expect("the driver runs");
        let state = states.borrow_and_update().clone();
        assert_eq!(uids(&state), ["w1"]);
        if state.policies.len() == 2 {
            break;
        }
    }
}
