//! An API server for the control plane's own client: lists page by page, and one stream of changes
//! of pods. Nothing of it is decoded by hand: the text goes the way that a real server's goes.

use std::convert::Infallible;
use std::sync::Arc;

use anyhow::Context;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use prost::bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::generated::{self, NAMESPACES, NODES, PODS, POLICIES, SERVICES};

/// Lines of the stream that wait to be read.
const LINES_MAX: usize = 4096;

/// Writes what happens to pods.
#[derive(Clone, Debug)]
pub(crate) struct Changes(mpsc::Sender<Bytes>);

impl Changes {
    /// One pod's change.
    pub(crate) async fn pod(
        &self,
        number: u32,
        version: u64,
        is_ready: bool,
    ) -> anyhow::Result<()> {
        let pod = generated::pod(number, version, is_ready);
        let line = format!("{{\"type\":\"MODIFIED\",\"object\":{pod}}}\n");
        self.0.send(line.into()).await.context("nobody watches pods")
    }
}

/// The client, and what makes changes.
pub(crate) fn client() -> (Client, Changes) {
    let (sender, receiver) = mpsc::channel(LINES_MAX);
    let stream = Arc::new(Mutex::new(Some(receiver)));
    let service = tower::service_fn(move |request: Request<Body>| {
        let stream = stream.clone();
        async move { Ok::<_, Infallible>(answer(&request, &stream)) }
    });
    (Client::new(service, "default"), Changes(sender))
}

type Answer = Response<BoxBody<Bytes, std::io::Error>>;

fn answer(request: &Request<Body>, stream: &Mutex<Option<mpsc::Receiver<Bytes>>>) -> Answer {
    let query = request.uri().query().unwrap_or_default();
    let value = |key: &str| {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(name, _)| *name == key).map(|(_, value)| value).next()
    };
    let is_watch = value("watch").is_some_and(|watch| watch == "true" || watch == "1");
    let kind = request.uri().path().rsplit('/').next().unwrap_or_default();
    if is_watch {
        return watch((kind == "pods").then(|| stream.lock().take()).flatten());
    }
    let number = |key| value(key).and_then(|text| text.parse().ok());
    list(kind, number("continue").unwrap_or(0), number("limit").unwrap_or(500))
}

fn list(kind: &str, start: u32, limit: u32) -> Answer {
    let (count, object): (u32, fn(u32) -> String) = match kind {
        "namespaces" => (NAMESPACES, generated::namespace),
        "nodes" => (NODES, generated::node),
        "services" => (SERVICES, generated::service),
        "authorizationpolicies" => (POLICIES, generated::policy),
        "pods" => (PODS, |number| generated::pod(number, 1, true)),
        _ => (0, |_| String::new()),
    };
    let end = count.min(start.saturating_add(limit));
    let items: Vec<String> = (start..end).map(object).collect();
    let next = if end < count { format!(r#","continue":"{end}""#) } else { String::new() };
    let text = format!(
        r#"{{"apiVersion":"v1","kind":"List","metadata":{{"resourceVersion":"1"{next}}},"items":[{}]}}"#,
        items.join(",")
    );
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed();
    response(body)
}

/// Without changes it stays open and says nothing.
fn watch(changes: Option<mpsc::Receiver<Bytes>>) -> Answer {
    let body = match changes {
        Some(lines) => {
            let frames = ReceiverStream::new(lines).map(|line| Ok(http_body::Frame::data(line)));
            StreamBody::new(frames).boxed()
        }
        None => StreamBody::new(tokio_stream::pending()).boxed(),
    };
    response(body)
}

fn response(body: BoxBody<Bytes, std::io::Error>) -> Answer {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::OK;
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, json);
    response
}
