use std::convert::Infallible;

use cluster::{Kind, ObjectName};
use http::{Method, Request, Response, StatusCode};
use kube::client::Body;
use serde_json::json;

use super::*;
use crate::status::lease;

/// What was written to an object's status: where, and what.
type Written = Arc<Mutex<Vec<(String, Value)>>>;

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/warren/leases";
const POLICY: &str = "/apis/security.istio.io/v1beta1/namespaces/shop/authorizationpolicies/p";

/// A server that has authorization policies as `v1beta1` only, and gives anybody a lease.
fn server(written: &Written) -> Client {
    let written = written.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        let written = written.clone();
        async move {
            let (path, method) = (request.uri().path().to_owned(), request.method().clone());
            let body = request.into_body().collect_bytes().await.expect("a body");
            let body = serde_json::from_slice::<Value>(&body).unwrap_or_default();
            let status = format!("{POLICY}/status");
            let (code, answer) = match (&method, path.as_str()) {
                (&Method::GET, "/apis/security.istio.io/v1beta1") => (
                    200,
                    json!({"kind": "APIResourceList", "apiVersion": "v1",
                        "groupVersion": "security.istio.io/v1beta1",
                        "resources": [{"name": "authorizationpolicies", "singularName": "",
                            "namespaced": true, "kind": "AuthorizationPolicy", "verbs": ["get"]}]}),
                ),
                (&Method::GET, POLICY) => (
                    200,
                    json!({"apiVersion": "security.istio.io/v1beta1", "kind": "AuthorizationPolicy",
                        "metadata": {"name": "p", "namespace": "shop", "uid": "u"}}),
                ),
                (&Method::PATCH, path) if path == status => {
                    written.lock().push((path.to_owned(), body.clone()));
                    (200, body)
                }
                (&Method::POST | &Method::PUT, path) if path.starts_with(LEASES) => (201, body),
                _ => (
                    404,
                    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
                    "message": "not found", "reason": "NotFound", "code": 404}),
                ),
            };
            let mut response = Response::new(Body::from(answer.to_string().into_bytes()));
            *response.status_mut() = StatusCode::from_u16(code).expect("a code");
            Ok::<_, Infallible>(response)
        }
    });
    Client::new(service, "default")
}

#[tokio::test]
async fn a_status_is_written_in_the_version_that_is_served() {
    let written = Written::default();
    let client = server(&written);
    let (election, leadership) = lease::stand(client.clone(), "warren", "lease", "me");
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    tokio::spawn(election.run(stop.clone()));
    let writer = StatusWriter::default();
    tokio::spawn(writer.clone().run(client, leadership, stop));
    let name = ObjectName::new("shop", "p");
    let key = ObjectKey { kind: Kind::AuthorizationPolicy, name };
    let condition =
        Condition { kind: "ZtunnelAccepted", status: true, reason: "Accepted", message: "".into() };
    writer.conditions(key, vec![condition]);
    let deadline = Instant::now() + Duration::from_secs(20);
    while written.lock().is_empty() {
        assert!(Instant::now() < deadline, "not written: {:?}", writer.counts());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (path, patch) = written.lock().first().cloned().expect("written");
    assert_eq!(path, format!("{POLICY}/status"));
    assert_eq!(patch["apiVersion"], "security.istio.io/v1beta1");
    assert_eq!(patch["status"]["conditions"][0]["type"], "ZtunnelAccepted");
}

#[test]
fn an_object_that_is_gone_stops_none_that_waits() {
    let writer = StatusWriter::default();
    let key = |name: &str| ObjectKey {
        kind: Kind::AuthorizationPolicy,
        name: ObjectName::new("shop", name),
    };
    for name in ["a", "b"] {
        writer.conditions(key(name), Vec::new());
    }
    let (first, written) = writer.next().expect("one waits");
    assert_eq!(first, key("a"));
    // Gone while it was asked which version its kind is served in.
    writer.forget(&first);
    writer.ended(&first, &written, Outcome::OtherVersion("v1beta1"));
    assert_eq!(writer.waiting(), 1);
    assert_eq!(writer.next().map(|(key, _)| key), Some(key("b")));
    assert_eq!(writer.next().map(|(key, _)| key), None);
}
