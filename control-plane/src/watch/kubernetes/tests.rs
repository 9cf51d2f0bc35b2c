//! One kind, and a server that does not have it, or not yet.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use http::{Request, Response, StatusCode};
use kube::client::Body;

use super::*;

const KIND: Kind = Kind::AuthorizationPolicy;
const POLICY: &str = r#"{"metadata":{"name":"p","namespace":"shop"},"spec":{}}"#;

/// What a server says to a path.
type Answers = fn(path: &str, looks: u32) -> (u16, String);

/// Everything that is said within a time, each with the seconds after which it was.
async fn said(answers: Answers, within: Duration) -> (Vec<String>, Vec<String>) {
    let looks = Arc::new(AtomicU32::new(0));
    let service = tower::service_fn(move |request: Request<Body>| {
        let looks = looks.clone();
        async move {
            let path = request.uri().path().to_owned();
            if request.uri().query().is_some_and(|query| query.contains("watch=")) {
                std::future::pending::<()>().await;
            }
            let is_list = path.ends_with("policies");
            let look = looks.fetch_add(u32::from(is_list), Ordering::Relaxed);
            let (code, text) = answers(&path, look);
            let mut response = Response::new(Body::from(text.into_bytes()));
            *response.status_mut() = StatusCode::from_u16(code).expect("a code");
            Ok::<_, Infallible>(response)
        }
    });
    let (events, mut changes) = super::super::channel();
    let problems = Problems::default();
    let follower = Follower::new(KIND, events, problems.clone());
    let client = Client::new(service, "default");
    let following = tokio::spawn(follower.follow(client));
    let mut words = Vec::new();
    let end = tokio::time::Instant::now() + within;
    while let Ok(Some(event)) = tokio::time::timeout_at(end, changes.recv()).await {
        words.push(match event {
            Event::Set(object) => format!("+{}", object.meta().name),
            Event::Delete(key) => format!("-{}", key.name.name),
            Event::Synced(_) => "synced".to_owned(),
        });
    }
    following.abort();
    (words, problems.list().into_iter().map(|problem| problem.text).collect())
}

fn absent() -> (u16, String) {
    let status = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","message":"not found","reason":"NotFound","code":404}"#;
    (404, status.to_owned())
}

fn list(object: &str) -> (u16, String) {
    let head = r#"{"kind":"List","apiVersion":"v1","metadata":{"resourceVersion":"7"}"#;
    (200, format!(r#"{head},"items":[{object}]}}"#))
}

fn resources(version: &str, plural: &str) -> (u16, String) {
    let resource = format!(
        r#"{{"name":"{plural}","singularName":"","namespaced":true,"kind":"X","verbs":["list"]}}"#
    );
    let head = r#"{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"#;
    (200, format!(r#"{head}"security.istio.io/{version}","resources":[{resource}]}}"#))
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_is_not_there_is_synced_after_some_seconds() {
    let nothing: Answers = |_, _| absent();
    let (words, _) = said(nothing, Duration::from_secs(1)).await;
    assert_eq!(words, [""; 0], "not at the first look");
    let (words, problems) = said(nothing, Duration::from_secs(5)).await;
    assert_eq!((words, problems), (vec!["synced".to_owned()], vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_starts_has_time_to_learn_its_kinds() {
    let late: Answers = |path, look| match path {
        "/apis/security.istio.io/v1/authorizationpolicies" if look >= 4 => list(POLICY),
        _ => absent(),
    };
    let (words, problems) = said(late, Duration::from_secs(20)).await;
    assert_eq!((words, problems), (vec!["+p".to_owned(), "synced".to_owned()], vec![]));
}

#[tokio::test(start_paused = true)]
async fn another_version_is_watched_where_it_is_the_one_that_is_served() {
    let older: Answers = |path, _| match path {
        "/apis/security.istio.io/v1" => resources("v1", "peerauthentications"),
        "/apis/security.istio.io/v1beta1" => resources("v1beta1", "authorizationpolicies"),
        "/apis/security.istio.io/v1beta1/authorizationpolicies" => list(POLICY),
        _ => absent(),
    };
    let (words, problems) = said(older, Duration::from_secs(20)).await;
    assert_eq!((words, problems), (vec!["+p".to_owned(), "synced".to_owned()], vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_tell_its_versions_is_not_empty() {
    let broken: Answers = |path, _| match path {
        "/apis/security.istio.io/v1/authorizationpolicies" => absent(),
        _ => (503, String::new()),
    };
    let announced: Answers = |path, _| match path {
        "/apis/security.istio.io/v1" => resources("v1", "authorizationpolicies"),
        _ => absent(),
    };
    for (answers, problem) in
        [(broken, "asking which versions there are"), (announced, "v1 is announced, but not")]
    {
        let (words, problems) = said(answers, Duration::from_mins(2)).await;
        assert_eq!(words, [""; 0]);
        assert!(problems[0].contains(problem), "{problems:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_cannot_be_read_at_all_denies() {
    let odd: Answers = |_, _| {
        list(r#"{"metadata":{"name":"odd","namespace":"shop","labels":{"tier":1}},"spec":{}}"#)
    };
    let (words, problems) = said(odd, Duration::from_secs(5)).await;
    assert_eq!(words, ["+odd", "synced"]);
    assert!(problems[0].starts_with("metadata.labels.tier: "), "{problems:?}");
    assert!(problems[0].ends_with("it denies all connections of its namespace"), "{problems:?}");
}
