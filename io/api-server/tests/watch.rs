//! Following a collection through everything that a server does to its clients.

mod support;

use std::sync::atomic::Ordering;
use std::time::Duration;

use api_server::{ApiClient, Change, Query, watch};
use serde_json::Value;
use support::{Ca, FAST, Files, Reply, SOON, Seen, Server, object, page, status};
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinHandle;

const PODS: &str = "/api/v1/pods";

fn follow(client: ApiClient) -> (Receiver<Change>, JoinHandle<()>) {
    let (changes, following) = watch(client, Query::all(PODS));
    (changes, tokio::spawn(following))
}

fn name(object: &str) -> String {
    let object: Value = serde_json::from_str(object).expect("JSON");
    object["metadata"]["name"].as_str().expect("a name").to_owned()
}

/// The next change in a few words.
async fn next(changes: &mut Receiver<Change>) -> String {
    match tokio::time::timeout(SOON, changes.recv()).await.expect("in time").expect("followed") {
        Change::Replace(all) => {
            let names: Vec<String> = all.iter().map(|object| name(object.get())).collect();
            format!("all: {}", names.join(" "))
        }
        Change::Upsert(object) => format!("+{}", name(object.get())),
        Change::Remove(object) => format!("-{}", name(object.get())),
        Change::Away(why) => format!("away: {why}"),
    }
}

async fn expect(changes: &mut Receiver<Change>, want: &[&str]) {
    for want in want {
        let got = next(changes).await;
        if let Some(why) = want.strip_prefix("away: ..") {
            assert!(got.starts_with("away: ") && got.contains(why), "{got}, not {want}");
        } else {
            assert_eq!(got, *want);
        }
    }
}

fn is_watch(seen: &Seen) -> bool {
    seen.target.contains("watch=1")
}

fn version(seen: &Seen) -> &str {
    let (_, rest) = seen.target.split_once("resourceVersion=").expect("a version");
    rest.split('&').next().expect("not empty")
}

/// Lists of one object, numbered; watches answered by number, further ones silent.
fn lists_and(
    mut watches: impl FnMut(usize) -> Option<Reply> + Send + 'static,
) -> impl FnMut(&Seen) -> Reply + Send + 'static {
    let (mut lists, mut asked) = (0, 0);
    move |seen| {
        if is_watch(seen) {
            asked += 1;
            watches(asked).unwrap_or_else(|| Reply::watch().silent())
        } else {
            lists += 1;
            page(lists, "", &[&format!("list-{lists}")])
        }
    }
}

#[tokio::test]
async fn pages_then_changes_then_the_next_watch() {
    let ca = Ca::new();
    let mut watches = 0;
    let server = Server::start(&ca, move |seen| {
        if seen.target.contains("continue=") {
            return page(7, "", &["c"]);
        }
        if !is_watch(seen) {
            return page(7, "x/2=", &["a", "b"]);
        }
        watches += 1;
        match watches {
            1 => Reply::watch()
                .line("ADDED", &object("d", 8))
                .piece("{\"type\":\"MODIFIED\",\"obj")
                .wait(Duration::from_millis(20))
                .piece(&format!("ect\":{}}}\n\n", object("a", 9)))
                .line("DELETED", &object("b", 10))
                .line("BOOKMARK", &object("", 12))
                .end(),
            2 => Reply::watch().line("ADDED", &object("e", 13)).end(),
            _ => Reply::watch().silent(),
        }
    })
    .await;
    let files = Files::new(&ca);
    let query = Query {
        path: PODS.to_owned(),
        field_selector: Some("spec.nodeName=one".to_owned()),
        label_selector: None,
    };
    let (mut changes, following) = watch(files.client(server.address), query);
    let _following = tokio::spawn(following);
    expect(&mut changes, &["all: a b c", "+d", "+a", "-b", "+e"]).await;
    let node = "GET /api/v1/pods?fieldSelector=spec.nodeName%3Done";
    let asked = server.asked();
    assert_eq!(asked[0], format!("{node}&limit=500"));
    assert_eq!(asked[1], format!("{node}&limit=500&continue=x%2F2%3D"));
    let watched =
        |version| format!("{node}&watch=1&allowWatchBookmarks=true&resourceVersion={version}");
    assert_eq!(asked[2], format!("{}&timeoutSeconds=1", watched(7)));
    assert_eq!(asked[3], format!("{}&timeoutSeconds=1", watched(12)));
}

#[tokio::test]
async fn a_list_that_expires_is_begun_again() {
    let ca = Ca::new();
    let mut lists = 0;
    let server = Server::start(&ca, move |seen| {
        if is_watch(seen) {
            return Reply::watch().silent();
        }
        if seen.target.contains("continue=") && lists == 1 {
            return Reply::json(410, &status(410, "Expired", "too old"));
        }
        if seen.target.contains("continue=") {
            return page(9, "", &["c"]);
        }
        lists += 1;
        page(9, "x", &["a"])
    })
    .await;
    let files = Files::new(&ca);
    let (mut changes, _following) = follow(files.client(server.address));
    expect(&mut changes, &["all: a c"]).await;
    let lists = server.asked().iter().filter(|asked| !asked.contains("watch=1")).count();
    assert_eq!(lists, 4);
}

#[tokio::test]
async fn a_list_that_always_expires_is_an_outage() {
    let ca = Ca::new();
    let server = Server::start(&ca, |seen| {
        if seen.target.contains("continue=") {
            Reply::json(410, &status(410, "Expired", "too old"))
        } else {
            page(9, "x", &["a"])
        }
    })
    .await;
    let files = Files::new(&ca);
    let (mut changes, _following) = follow(files.client(server.address));
    expect(&mut changes, &["away: ..the list expired 3 times"]).await;
}

#[tokio::test]
async fn a_version_that_expired_is_no_outage() {
    let ca = Ca::new();
    let gone = || status(410, "Expired", "too old");
    let script = lists_and(move |number| match number {
        1 => Some(Reply::json(410, &gone())),
        2 => Some(Reply::watch().line("ADDED", &object("a", 5)).line("ERROR", &gone()).silent()),
        3 => Some(Reply::watch().line("ADDED", &object("b", 6))),
        _ => None,
    });
    let server = Server::start(&ca, script).await;
    let files = Files::new(&ca);
    let (mut changes, _following) = follow(files.client(server.address));
    expect(&mut changes, &["all: list-1", "all: list-2", "+a", "all: list-3", "+b"]).await;
}

#[tokio::test]
async fn a_broken_watch_is_an_outage_until_the_next_list() {
    let ca = Ca::new();
    let half = "{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"name\":\"half\",";
    let failed = status(500, "InternalError", "etcd");
    let script = lists_and(move |number| match number {
        // Cut within a line, without and with the proper end of the answer.
        1 => Some(Reply::watch().line("ADDED", &object("a", 5)).piece(half).close()),
        2 => Some(Reply::watch().piece(half).end()),
        3 => Some(Reply::watch().line("ADDED", &object("b", 5)).close()),
        4 => Some(Reply::watch().line("ERROR", &failed).silent()),
        5 => Some(Reply::watch().line("MOVED", &object("a", 5)).silent()),
        6 => Some(Reply::watch().line("ADDED", "{}").silent()),
        7 => Some(Reply::json(403, &status(403, "Forbidden", "no watching"))),
        8 => Some(Reply::raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n")),
        9 => Some(Reply::watch().line("ADDED", &object("end", 5))),
        _ => None,
    });
    let server = Server::start(&ca, script).await;
    let files = Files::new(&ca);
    let (mut changes, _following) = follow(files.client(server.address));
    let want = [
        "all: list-1",
        "+a",
        "away: ..the connection to the API server failed",
        "all: list-2",
        "away: ..its line was cut off",
        "all: list-3",
        "+b",
        "away: ..the connection to the API server failed",
        "all: list-4",
        "away: ..the API server said 500 InternalError: etcd",
        "all: list-5",
        "away: ..its type is unknown: \"MOVED\"",
        "all: list-6",
        "away: ..it is not the JSON of an event",
        "all: list-7",
        "away: ..watch /api/v1/pods at the API server: the API server said 403 Forbidden",
        "all: list-8",
        "away: ..the connection to the API server failed",
        "all: list-9",
        "+end",
    ];
    expect(&mut changes, &want).await;
}

#[tokio::test]
async fn a_line_has_a_bound() {
    let ca = Ca::new();
    let script = lists_and(|number| {
        let large = "x".repeat(1 << 20);
        (number == 1).then(|| (0..5).fold(Reply::watch(), |reply, _| reply.piece(&large)).silent())
    });
    let server = Server::start(&ca, script).await;
    let files = Files::new(&ca);
    let (mut changes, _following) = follow(files.client(server.address));
    let want = ["all: list-1", "away: ..its line has more than 4194304 bytes", "all: list-2"];
    expect(&mut changes, &want).await;
}

#[tokio::test]
async fn a_silent_server_is_noticed() {
    let ca = Ca::new();
    let script = lists_and(|number| match number {
        1 => Some(Reply::watch().silent()),
        2 => Some(Reply::default().silent()),
        _ => Some(Reply::watch().line("ADDED", &object("a", 5))),
    });
    let server = Server::start(&ca, script).await;
    let files = Files::new(&ca);
    let (mut changes, _following) = follow(files.client(server.address));
    let want = [
        "all: list-1",
        "away: ..no answer within 1.5s",
        "all: list-2",
        "away: ..no answer within 2.5s",
        "all: list-3",
        "+a",
    ];
    expect(&mut changes, &want).await;
}

#[tokio::test]
async fn a_server_that_comes_back_is_found_and_its_outage_told_once() {
    let ca = Ca::new();
    let server = Server::start(&ca, lists_and(|_| None)).await;
    let files = Files::new(&ca);
    let (mut changes, _following) = follow(files.client(server.address));
    expect(&mut changes, &["all: list-1"]).await;
    let address = server.address;
    server.stop().await;
    expect(&mut changes, &["away: .."]).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(changes.try_recv().is_err(), "told once");
    // It is there, and not ready.
    let refusal = status(503, "ServiceUnavailable", "starting");
    let starting = move |_: &Seen| Reply::with(503, "retry-after: 1\r\n", &refusal);
    let server = Server::start_at(address, &ca, starting).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!server.asked().is_empty());
    assert!(changes.try_recv().is_err(), "told once");
    server.stop().await;
    let _server = Server::start_at(address, &ca, lists_and(|_| None)).await;
    expect(&mut changes, &["all: list-1"]).await;
}

#[tokio::test]
async fn roots_and_token_change_under_a_watch() {
    let (ca, other) = (Ca::new(), Ca::new());
    let script = lists_and(|_| Some(Reply::watch().line("ADDED", &object("a", 5)).close()));
    let server = Server::start(&ca, script).await;
    let files = Files::new(&other);
    let (mut changes, _following) = follow(files.client(server.address));
    expect(&mut changes, &["away: ..UnknownIssuer"]).await;
    files.write_ca(&ca);
    expect(&mut changes, &["all: list-1", "+a", "away: .."]).await;
    files.write_token("second");
    let is_second = |seen: &Seen| seen.headers["authorization"] == "Bearer second";
    while !server.seen.lock().iter().any(|seen| is_watch(seen) && is_second(seen)) {
        next(&mut changes).await;
    }
}

#[tokio::test]
async fn a_slow_reader_holds_the_server_up_and_loses_nothing() {
    const EVENTS: usize = 400;
    let ca = Ca::new();
    let script = lists_and(|number| {
        let padding = "x".repeat(64 << 10);
        let event = |reply: Reply, n: usize| {
            let metadata = format!(r#"{{"name":"{n}","resourceVersion":"{}"}}"#, n + 10);
            reply.line("ADDED", &format!(r#"{{"metadata":{metadata},"x":"{padding}"}}"#))
        };
        (number == 1).then(|| (0..EVENTS).fold(Reply::watch(), event).end())
    });
    let server = Server::start(&ca, script).await;
    let files = Files::new(&ca);
    let (mut changes, _following) = follow(files.client(server.address));
    expect(&mut changes, &["all: list-1"]).await;
    // Longer than the watch may last: the time is ours, not the server's.
    tokio::time::sleep(FAST.watch + FAST.silence + Duration::from_secs(1)).await;
    let sent = server.sent.load(Ordering::Relaxed);
    assert!(sent < EVENTS * (64 << 10) - (4 << 20), "the server waits: {sent}");
    assert!(changes.len() <= api_server::CHANGES_MAX);
    for n in 0..EVENTS {
        assert_eq!(next(&mut changes).await, format!("+{n}"));
    }
    while server.seen.lock().iter().filter(|seen| is_watch(seen)).count() < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let last = server.seen.lock().last().cloned().expect("asked");
    assert_eq!(version(&last), (EVENTS + 9).to_string());
}

#[tokio::test]
async fn what_may_not_be_listed_is_told_with_the_servers_words() {
    let ca = Ca::new();
    let message = "pods is forbidden";
    let script = move |_: &Seen| Reply::json(403, &status(403, "Forbidden", message));
    let server = Server::start(&ca, script).await;
    let files = Files::new(&ca);
    let (mut changes, _following) = follow(files.client(server.address));
    let want = "away: list /api/v1/pods at the API server: the API server said 403 Forbidden: \
        pods is forbidden";
    expect(&mut changes, &[want]).await;
    let (mut changes, following) = watch(files.client(server.address), Query::all("pods"));
    let _following = tokio::spawn(following);
    expect(&mut changes, &["away: ..the path is not one"]).await;
}

#[tokio::test]
async fn it_ends_when_nobody_reads() {
    let ca = Ca::new();
    let server = Server::start(&ca, lists_and(|_| None)).await;
    let files = Files::new(&ca);
    let (mut changes, following) = follow(files.client(server.address));
    expect(&mut changes, &["all: list-1"]).await;
    drop(changes);
    tokio::time::timeout(Duration::from_secs(1), following).await.expect("soon").expect("ended");
}

#[tokio::test]
async fn a_server_that_ends_every_watch_is_not_asked_without_pause() {
    let ca = Ca::new();
    let server = Server::start(&ca, lists_and(|_| Some(Reply::watch().end()))).await;
    let files = Files::new(&ca);
    let (mut changes, _following) = follow(files.client(server.address));
    expect(&mut changes, &["all: list-1"]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    // At most every `wait_max` / 2 after some first ones.
    assert!(server.asked().len() < 30, "{}", server.asked().len());
    assert!(changes.try_recv().is_err(), "no outage");
}
