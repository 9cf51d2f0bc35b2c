//! The port that an API server asks: HTTPS, HTTP/1.1.

use std::sync::Arc;
use std::time::Duration;

use daemon::{PostRoutes, Reply, StatusCode, serve_posts};
use tls::ServerTls;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use translate::Settings;

use super::review::review;

/// Where it is asked.
const PATH: &str = "/validate";
/// Connections at once: an API server keeps few, and each may hold [`BODY_BYTES_MAX`]. More wait in
/// the listen queue.
const CONNECTIONS_MAX: usize = 32;
/// Longest question: an object before and after, each at most 3 MiB at an API server. A longer one
/// is refused, and the API server does what the configuration of the webhook says of failures.
const BODY_BYTES_MAX: usize = 8 << 20;
/// Longest a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// After an `accept` that failed, such as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers until it is cancelled; then open connections end with it.
pub async fn serve(
    listener: TcpListener,
    tls: ServerTls,
    settings: watch::Receiver<Arc<Settings>>,
    shutdown: CancellationToken,
) {
    let routes: Arc<PostRoutes> = Arc::new(move |path, body| {
        let settings = settings.borrow().clone();
        (path == PATH).then(|| answer(body, &settings))
    });
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    let accepting = async {
        loop {
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            while connections.try_join_next().is_some() {}
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accepting on the webhook's port failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (tls, routes) = (tls.clone(), routes.clone());
            connections.spawn(async move {
                match tls.accept_http1(stream, HANDSHAKE_TIMEOUT).await {
                    Ok(stream) => serve_posts(stream, BODY_BYTES_MAX, routes).await,
                    Err(error) => tracing::debug!(%error, "a handshake with the webhook failed"),
                }
                drop(slot);
            });
        }
    };
    // Cancelling is safe: an API server that gets no answer asks another replica.
    let _ = shutdown.run_until_cancelled(accepting).await;
}

fn answer(body: &[u8], settings: &Settings) -> Reply {
    match review(body, settings) {
        Ok(answer) => Reply {
            status: StatusCode::OK,
            content_type: "application/json",
            body: answer.to_string(),
        },
        Err(error) => {
            let error: &(dyn std::error::Error + 'static) = &error;
            tracing::warn!(error, "a question to the webhook was not understood");
            Reply::text(StatusCode::BAD_REQUEST, format!("{error}\n"))
        }
    }
}
