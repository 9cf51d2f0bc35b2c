//! Requests and answers.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::Bytes;

use super::store::{Place, Refused, Selection};
use super::{ASKED_MAX, ApiRequest, TestApi, status};
use crate::kube::Credentials;

/// What clients ask for at most, if they name no limit.
const LIMIT: usize = 500;
const PATIENCE: Duration = Duration::from_secs(5);

type Answer = Response<BoxBody<Bytes, Infallible>>;

pub(super) fn tls(credentials: &Credentials) -> anyhow::Result<TlsAcceptor> {
    let (certificate, key) = credentials.server();
    let certificate = CertificateDer::from_pem_file(certificate).context("read a certificate")?;
    let key = PrivateKeyDer::from_pem_file(key).context("read a key")?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("choose versions of TLS")?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .context("use a certificate")?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Accepts until it is dropped, which ends its connections.
pub(super) async fn accept(listener: std::net::TcpListener, tls: TlsAcceptor, api: TestApi) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { return };
                connections.spawn(connection(stream, tls.clone(), api.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, tls: TlsAcceptor, api: TestApi) {
    let handshake = tokio::time::timeout(PATIENCE, tls.accept(stream)).await;
    let Ok(Ok(stream)) = handshake else { return };
    let service = hyper::service::service_fn(move |request| {
        let api = api.clone();
        async move { Ok::<_, Infallible>(api.answer(request).await) }
    });
    // However it ends, the client sees it.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

impl TestApi {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let (head, body) = request.into_parts();
        let Ok(body) = body.collect().await else { return refusal(400, "BadRequest") };
        let body: Value = serde_json::from_slice(&body.to_bytes()).unwrap_or_default();
        let target = head.uri.to_string();
        let mood = {
            let mut state = self.0.state.lock();
            let method = head.method.to_string();
            state.asked.push_back(ApiRequest {
                at: Instant::now(),
                method,
                target,
                body: body.clone(),
            });
            if state.asked.len() > ASKED_MAX {
                state.asked.pop_front();
            }
            state.mood
        };
        tokio::time::sleep(mood.delay).await;
        let token = head.headers.get(http::header::AUTHORIZATION).and_then(|v| v.to_str().ok());
        if token != Some(&format!("Bearer {}", Credentials::TOKEN)) {
            return refusal(401, "Unauthorized");
        }
        if let Some(code) = mood.refusal {
            return refusal(code, "Refused");
        }
        let Some(place) = Place::parse(head.uri.path()) else { return refusal(404, "NotFound") };
        let query = head.uri.query().unwrap_or_default();
        match (&head.method, place) {
            (&Method::GET, Place::Object(key)) => match self.0.state.lock().store.get(&key) {
                Some(object) => whole(200, object),
                None => refusal(404, "NotFound"),
            },
            (&Method::GET, Place::Collection { kind, namespace }) => {
                let field = value(query, "fieldSelector").and_then(|text| {
                    let (path, wanted) = text.split_once('=')?;
                    Some((path.to_owned(), wanted.to_owned()))
                });
                self.read(Selection { kind, namespace, field }, query)
            }
            (&Method::PATCH, Place::Object(key)) => {
                if let Some(code) = mood.patch_refusal {
                    return refusal(code, "Refused");
                }
                // The sender is as old as this server.
                let _ = self.0.held.subscribe().wait_for(|is_held| !is_held).await;
                match self.0.state.lock().store.patch(&key, &body) {
                    Ok(object) => whole(200, &object),
                    Err(Refused(code, reason)) => refusal(code, reason),
                }
            }
            (&Method::POST, Place::Collection { kind, namespace }) => {
                self.create(kind, namespace.unwrap_or_default(), body)
            }
            _ => refusal(405, "MethodNotAllowed"),
        }
    }

    /// A list, or a watch.
    fn read(&self, selection: Selection, query: &str) -> Answer {
        let number = |name| value(query, name).and_then(|text| text.parse::<usize>().ok());
        let mut state = self.0.state.lock();
        if value(query, "watch").is_some() {
            let after = value(query, "resourceVersion").and_then(|text| text.parse().ok());
            return match state.store.watch(selection, after.unwrap_or(0)) {
                Some(lines) => {
                    let lines = ReceiverStream::new(lines);
                    let frames = lines.map(|line| Ok(http_body::Frame::data(line)));
                    response(200, StreamBody::new(frames).boxed())
                }
                None => refusal(410, "Expired"),
            };
        }
        let start = number("continue").unwrap_or(0);
        if start > 0 && state.mood.expired_pages > 0 {
            state.mood.expired_pages -= 1;
            return refusal(410, "Expired");
        }
        let asked = number("limit").unwrap_or(LIMIT);
        let limit = if state.mood.page == 0 { asked } else { asked.min(state.mood.page) };
        let (items, is_cut) = state.store.list(&selection, start, limit);
        let next = if is_cut { (start + limit).to_string() } else { String::new() };
        let version = state.store.version().max(1).to_string();
        let metadata = json!({"resourceVersion": version, "continue": next});
        whole(
            200,
            &json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items}),
        )
    }

    fn create(&self, kind: String, namespace: String, mut object: Value) -> Answer {
        if kind == "selfsubjectaccessreviews" {
            // Rights are the charts' and the real server's business.
            object["status"] = json!({"allowed": true});
            return whole(201, &object);
        }
        let mut state = self.0.state.lock();
        state.events += 1;
        let prefix = object.pointer("/metadata/generateName").and_then(Value::as_str);
        // Padded, so that the order of names is that of their making.
        let name = format!("{:08}-{}", state.events, prefix.unwrap_or_default());
        object["metadata"]["name"] = json!(name);
        state.store.put(super::Key { kind, namespace, name }, object.clone());
        whole(201, &object)
    }
}

/// A parameter of a query, decoded.
fn value(query: &str, name: &str) -> Option<String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let raw = pairs.filter(|(other, _)| *other == name).map(|(_, value)| value).next()?;
    let mut bytes = Vec::new();
    let mut rest = raw.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            b'+' => b' ',
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

fn whole(code: u16, object: &Value) -> Answer {
    let full = Full::new(Bytes::from(object.to_string()));
    response(code, full.boxed())
}

fn refusal(code: u16, reason: &str) -> Answer {
    whole(code, &status(code, reason))
}

fn response(code: u16, body: BoxBody<Bytes, Infallible>) -> Answer {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::BAD_REQUEST);
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, json);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let query = "watch=1&fieldSelector=spec.nodeName%3Dnode-1&x=a+b";
        assert_eq!(value(query, "fieldSelector").as_deref(), Some("spec.nodeName=node-1"));
        assert_eq!(value(query, "x").as_deref(), Some("a b"));
        assert_eq!(value(query, "limit"), None);
    }
}
