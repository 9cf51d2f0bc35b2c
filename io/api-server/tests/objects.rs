//! Reading and changing single objects.

mod support;

use std::time::Duration;

use api_server::{Access, ApiError, Cause};
use serde_json::json;
use support::{Ca, FAST, Files, Reply, Server, object, status};

const POD: &str = "/api/v1/namespaces/shop/pods/cart";

/// An error with its causes, for people.
fn words(error: &ApiError) -> String {
    model::causes(error)
}

#[tokio::test]
async fn an_object_is_read_as_it_is() {
    let ca = Ca::new();
    let server = Server::start(&ca, |seen| match seen.target.as_str() {
        POD => Reply::json(200, r#"{"b": 1, "a" :2}"#),
        "/broken" => Reply::json(200, r#"{"b": "#),
        "/slow" => Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{").silent(),
        "/silent" => Reply::default().silent(),
        "/large" => Reply::json(200, &"x".repeat((4 << 20) + 1)),
        "/cut" => Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{").close(),
        "/nonsense" => Reply::raw("SSH-2.0-x\r\n\r\n").close(),
        "/moved" => Reply::with(302, "location: https://other.test/\r\n", ""),
        "/none" => Reply::json(404, &status(404, "NotFound", "none")),
        _ => Reply::json(403, &status(403, "Forbidden", "no")),
    })
    .await;
    let client = Files::new(&ca);
    let client = client.client(server.address);
    let pod = client.get(POD).await.expect("answered").expect("there");
    assert_eq!(pod.get(), r#"{"b": 1, "a" :2}"#);
    assert!(client.get("/none").await.expect("answered").is_none());
    for (path, want) in [
        ("/broken", "the answer is not JSON"),
        ("/large", "the answer has more than 4194304 bytes"),
        ("/cut", "the connection to the API server failed"),
        ("/nonsense", "the connection to the API server failed"),
        ("/slow", "no answer within 2s"),
        ("/silent", "no answer within 2s"),
        ("/moved", "the API server said 302"),
        ("/no", "the API server said 403 Forbidden: no"),
    ] {
        let error = client.get(path).await.expect_err(path);
        let got = words(&error);
        let want = format!("get {path} at the API server: {want}");
        assert!(got.starts_with(&want), "{got}");
    }
    let error = client.get("/no").await.expect_err("refused");
    let refusal = error.refusal().expect("by the server");
    assert_eq!((refusal.status, refusal.reason.as_str()), (403, "Forbidden"));
    let asked = server.asked().len();
    for path in ["api", "/api/../x", "/api?x=1"] {
        let error = client.get(path).await.expect_err(path);
        assert!(matches!(error, ApiError::Request { cause: Cause::Path, .. }), "{error:?}");
    }
    assert_eq!(server.asked().len(), asked);
}

#[tokio::test]
async fn each_change_has_its_method_and_type() {
    let ca = Ca::new();
    let server = Server::start(&ca, |seen| match seen.method.as_str() {
        "POST" => Reply::json(409, &status(409, "AlreadyExists", "there")),
        _ => Reply::json(200, &object("cart", 1)),
    })
    .await;
    let files = Files::new(&ca);
    let client = files.client(server.address);
    let annotation = json!({"metadata": {"annotations": {"x": null}}});
    client.merge_patch(POD, &annotation).await.expect("patched");
    let taint = json!([{"op": "remove", "path": "/spec/taints/0"}]);
    client.json_patch("/api/v1/nodes/one", &taint).await.expect("patched");
    let event = json!({"reason": "IDENTITY_CONFLICT"});
    let error = client.create("/api/v1/namespaces/shop/events", &event).await.expect_err("there");
    assert_eq!(error.status(), Some(409));
    let seen = server.seen.lock().clone();
    let got: Vec<_> = seen
        .iter()
        .map(|s| (s.method.as_str(), s.headers["content-type"].as_str(), s.body.clone()))
        .collect();
    let want = [
        ("PATCH", "application/merge-patch+json", annotation.to_string()),
        ("PATCH", "application/json-patch+json", taint.to_string()),
        ("POST", "application/json", event.to_string()),
    ];
    assert_eq!(got, want);
    for seen in &seen {
        assert_eq!(seen.headers["authorization"], "Bearer first");
        assert_eq!(seen.headers["host"], format!("localhost:{}", server.address.port()));
        assert_eq!(seen.headers["accept"], "application/json");
        assert!(seen.headers["user-agent"].starts_with("warren-agent/"));
        assert_eq!(seen.connection, 0, "one connection is enough");
    }
}

#[tokio::test]
async fn rights_are_asked_for() {
    let ca = Ca::new();
    let server = Server::start(&ca, |seen| {
        let question: serde_json::Value = serde_json::from_str(&seen.body).expect("JSON");
        let is_allowed = question["spec"]["resourceAttributes"]["verb"] == "watch";
        Reply::json(201, &json!({"status": {"allowed": is_allowed}}).to_string())
    })
    .await;
    let files = Files::new(&ca);
    let client = files.client(server.address);
    let pods = |verb| Access { verb, group: "", resource: "pods", subresource: "" };
    assert!(client.may(&pods("watch")).await.expect("answered"));
    assert!(!client.may(&pods("delete")).await.expect("answered"));
    let reviews = "POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    assert_eq!(server.asked(), [reviews, reviews]);
}

#[tokio::test]
async fn a_busy_server_is_asked_again_when_it_wants_to() {
    let ca = Ca::new();
    let mut times = 0;
    let server = Server::start(&ca, move |seen| {
        times += 1;
        let busy = status(429, "TooManyRequests", "later");
        match seen.target.as_str() {
            "/always" => Reply::with(429, "retry-after: 1\r\n", &busy),
            "/broken" => Reply::json(500, ""),
            _ if times < 3 => Reply::with(503, "retry-after: 1\r\n", &busy),
            _ => Reply::json(200, &object("cart", 1)),
        }
    })
    .await;
    let files = Files::new(&ca);
    let client = files.client(server.address);
    client.get(POD).await.expect("in the end");
    assert_eq!(server.asked().len(), 3);
    let error = client.get("/always").await.expect_err("busy");
    assert_eq!(error.status(), Some(429));
    assert_eq!(server.asked().len(), 7, "bounded");
    let error = client.get("/broken").await.expect_err("broken");
    assert_eq!(error.status(), Some(500));
    assert_eq!(server.asked().len(), 8, "not asked to come again");
}

#[tokio::test]
async fn a_connection_that_the_server_closed_is_not_missed() {
    let ca = Ca::new();
    // Some close it with the answer, some when the next request comes.
    let server = Server::start(&ca, |seen| match seen.target.as_str() {
        "/close" => Reply::with(200, "connection: close\r\n", "{}").close(),
        "/later" => Reply::json(200, "{}").close(),
        _ if seen.connection % 2 == 1 => Reply::json(200, "{}"),
        _ => Reply::json(200, "{}").close(),
    })
    .await;
    let files = Files::new(&ca);
    let client = files.client(server.address);
    for path in ["/close", "/later", "/x", "/x", "/x", "/x", "/later", "/x"] {
        client.get(path).await.expect(path);
    }
    client.merge_patch(POD, &json!({})).await.expect("patched");
}

#[tokio::test]
async fn what_may_not_happen_twice_is_sent_once() {
    let ca = Ca::new();
    let server = Server::start(&ca, |seen| match seen.method.as_str() {
        "GET" => Reply::json(200, "{}"),
        _ => Reply::default().close(),
    })
    .await;
    let files = Files::new(&ca);
    let client = files.client(server.address);
    client.get("/x").await.expect("answered");
    client.create("/events", &json!({})).await.expect_err("cut");
    client.get("/x").await.expect("answered");
    client.json_patch("/x", &json!([])).await.expect_err("cut");
    assert_eq!(server.asked(), ["GET /x", "POST /events", "GET /x", "PATCH /x"]);
}

#[tokio::test]
async fn token_and_roots_are_those_of_now() {
    let (ca, other) = (Ca::new(), Ca::new());
    // Each answer ends its connection, so that the next request verifies the server again.
    let script = |_: &support::Seen| Reply::with(200, "connection: close\r\n", "{}").close();
    let server = Server::start(&ca, script).await;
    let files = Files::new(&other);
    let client = files.client(server.address);
    let error = words(&client.get("/x").await.expect_err("a stranger"));
    assert!(error.contains("UnknownIssuer"), "{error}");
    assert!(server.asked().is_empty(), "a stranger does not see the token");
    files.write_ca(&ca);
    client.get("/x").await.expect("trusted now");
    files.write_token("second");
    client.get("/x").await.expect("answered");
    let tokens: Vec<String> =
        server.seen.lock().iter().map(|seen| seen.headers["authorization"].clone()).collect();
    assert_eq!(tokens, ["Bearer first", "Bearer second"]);

    for token in ["", "two words", "a\r\nb", "ä", &"x".repeat(20_000)] {
        files.write_token(token);
        let error = client.get("/x").await.expect_err(token);
        assert!(matches!(error, ApiError::Request { cause: Cause::NoToken { .. }, .. }));
        assert!(!format!("{error:?}").contains("words"), "a token is not told");
    }
    std::fs::remove_file(files.token()).expect("removed");
    let error = client.get("/x").await.expect_err("no token");
    assert!(matches!(error, ApiError::Request { cause: Cause::Token { .. }, .. }));
    files.write_token("third");
    std::fs::write(files.ca(), "no PEM").expect("written");
    let error = client.get("/x").await.expect_err("no roots");
    assert!(matches!(error, ApiError::Request { cause: Cause::Roots(_), .. }));
    assert_eq!(server.asked().len(), 2);
}

#[tokio::test]
async fn another_server_is_not_the_api_server() {
    let ca = Ca::for_server("another.test");
    let server = Server::start(&ca, |_| Reply::json(200, "{}")).await;
    let files = Files::new(&ca);
    let error = files.client(server.address).get("/x").await.expect_err("another name");
    let error = words(&error);
    assert!(error.contains("NotValidForName") || error.contains("not valid for"), "{error}");
    assert!(server.asked().is_empty());
}

#[tokio::test]
async fn nobody_there_is_told_in_time() {
    let ca = Ca::new();
    let files = Files::new(&ca);
    // Accepted by the kernel, answered by nobody.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let began = std::time::Instant::now();
    let client = files.client(silent.local_addr().expect("an address"));
    let error = words(&client.get("/x").await.expect_err("silent"));
    assert!(error.contains("did not finish") || error.contains("no answer"), "{error}");
    assert!(began.elapsed() < FAST.request + Duration::from_secs(2));
    let address = silent.local_addr().expect("an address");
    drop(silent);
    let error = files.client(address).get("/x").await.expect_err("refused");
    assert!(matches!(error, ApiError::Request { cause: Cause::Connect { .. }, .. }), "{error:?}");
}
