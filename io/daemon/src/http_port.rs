//! Small HTTP/1.1 ports for scrapers and probes: bounded, no bodies read. GET, and POST where a port has
//! something to change.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Connections served at once on one port; more wait in the listen queue.
const CONNECTIONS_MAX: usize = 64;
/// A client that has not sent its request line and headers by then is cut.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// A response.
#[derive(Debug)]
pub struct Reply {
    /// Status code.
    pub status: StatusCode,
    /// Value of `content-type`.
    pub content_type: &'static str,
    /// Body.
    pub body: String,
}

impl Reply {
    /// A plain-text response.
    #[must_use]
    pub fn text(status: StatusCode, body: impl Into<String>) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: body.into() }
    }
}

/// Answers a path, or `None` for 404.
pub type Routes = dyn Fn(&str) -> Option<Reply> + Send + Sync;

/// Answers a POST to a path with its query, or `None` for 404.
pub type Changes = dyn Fn(&str, &str) -> Option<Reply> + Send + Sync;

/// Why a port could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("listening on {address} for {purpose}")]
pub struct HttpPortError {
    address: SocketAddr,
    purpose: &'static str,
    #[source]
    source: std::io::Error,
}

/// A bound port.
pub struct HttpPort {
    listener: TcpListener,
    routes: Arc<Routes>,
    changes: Option<Arc<Changes>>,
}

impl HttpPort {
    /// Binds the port.
    pub async fn bind(
        address: SocketAddr,
        purpose: &'static str,
        routes: Arc<Routes>,
    ) -> Result<Self, HttpPortError> {
        let listener = TcpListener::bind(address).await.map_err(|source| HttpPortError {
            address,
            purpose,
            source,
        })?;
        Ok(Self { listener, routes, changes: None })
    }

    /// Serves POST, too.
    #[must_use]
    pub fn with_changes(self, changes: Arc<Changes>) -> Self {
        Self { changes: Some(changes), ..self }
    }

    /// The bound address, with the real port where 0 was asked for.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until dropped; open connections end with it.
    pub async fn serve(self) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            while connections.try_join_next().is_some() {}
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accepting on an HTTP port failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (routes, changes) = (self.routes.clone(), self.changes.clone());
            connections.spawn(async move {
                let service = service_fn(move |request| {
                    let response = answer(&request, &*routes, changes.as_deref());
                    async move { Ok::<_, Infallible>(response) }
                });
                // A client that hangs up early is no event.
                let _ = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEADER_TIMEOUT)
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
                drop(slot);
            });
        }
    }
}

fn answer(
    request: &Request<Incoming>,
    routes: &Routes,
    changes: Option<&Changes>,
) -> Response<Full<Bytes>> {
    let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
    let found = match (request.method(), changes) {
        (&Method::GET | &Method::HEAD, _) => routes(path),
        (&Method::POST, Some(changes)) => changes(path, query),
        _ => Some(Reply::text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here\n")),
    };
    let reply = found.unwrap_or_else(|| Reply::text(StatusCode::NOT_FOUND, "not found\n"));
    let mut response = Response::new(Full::new(Bytes::from(reply.body)));
    *response.status_mut() = reply.status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static(reply.content_type));
    response
}

/// Renders a registry in OpenMetrics text.
#[must_use]
pub fn metrics_reply(registry: &Registry) -> Reply {
    let mut body = String::new();
    match prometheus_client::encoding::text::encode(&mut body, registry) {
        Ok(()) => Reply {
            status: StatusCode::OK,
            content_type: "application/openmetrics-text; version=1.0.0; charset=utf-8",
            body,
        },
        Err(error) => {
            Reply::text(StatusCode::INTERNAL_SERVER_ERROR, format!("encoding: {error}\n"))
        }
    }
}
