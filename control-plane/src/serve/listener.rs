//! Connections: accepted, encrypted, bounded in number and age, and moved away.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tls::ServerTls;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::{InterceptorLayer, Routes};
use tonic::transport::Server;

use super::clients::Clients;
use super::discovery::Discovery;
use super::metrics::Metrics;
use super::peer::{Io, Peer, with_arrival};
use super::publisher::CatalogView;
use super::stream::FIRST_RESPONSES_MAX;
use super::{ServeSettings, Serving};
use crate::caller::{Authenticate, RefusalCode, Strangers};

/// Connections at once: a node has one, or two while it moves. One more is closed as soon as it is
/// accepted.
pub const CONNECTIONS_MAX: usize = 16_384;
/// Handshakes at once. Further connections wait in the kernel's queue.
pub const HANDSHAKES_MAX: usize = 256;
/// How long a handshake may take. Then the connection is closed.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Calls at once in one connection: discovery, and certificates of as many pods. A further one
/// waits at the client.
pub const STREAMS_MAX: u32 = 128;
/// A client that is silent for so long is asked whether it is there.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How long it has to answer. Then the connection is closed. Generous: when all clients come back at
/// once for a large mesh, an answer waits behind what others are sent.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections of one address: an agent has two, and a few agents may share an address. A further one
/// is closed at once, so that nobody alone takes every place.
pub const CONNECTIONS_OF_ADDRESS_MAX: usize = 512;
/// Of them, those that shake hands. A further one is closed at once: who says nothing holds a turn for
/// [`HANDSHAKE_TIMEOUT`].
pub const HANDSHAKES_OF_ADDRESS_MAX: usize = 128;
/// Pause after the kernel refused to give us a connection, for want of files for example.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Between asking a connection to end and ending its streams: the client knows by then that it
/// should not open the next one there.
const GOAWAY_LEAD: Duration = Duration::from_millis(100);

/// What every connection and stream needs.
pub(super) struct Shared {
    pub(super) authenticator: Arc<dyn Authenticate>,
    pub(super) catalog: CatalogView,
    pub(super) clients: Clients,
    pub(super) metrics: Metrics,
    pub(super) strangers: Strangers,
    pub(super) settings: ServeSettings,
    pub(super) first_responses: Arc<Semaphore>,
}

/// What accepts connections.
#[derive(Clone)]
struct Front {
    shared: Arc<Shared>,
    tls: ServerTls,
    routes: Routes,
    handshakes: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    handshakes_of: Shares,
    connections_of: Shares,
    stop: CancellationToken,
    tasks: TaskTracker,
}

pub(super) async fn run(serving: Serving, stop: CancellationToken) {
    let Serving { listeners, tls, authenticator, catalog, services, clients, metrics, settings } =
        serving;
    let drain = settings.drain;
    let first_responses = Arc::new(Semaphore::new(FIRST_RESPONSES_MAX));
    let strangers = Strangers::default();
    let shared = Arc::new(Shared {
        authenticator,
        catalog,
        clients,
        metrics,
        strangers,
        settings,
        first_responses,
    });
    let tasks = TaskTracker::new();
    let front = Front {
        routes: services.add_service(Discovery(shared.clone())).prepare(),
        shared,
        tls,
        handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
        connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        handshakes_of: Shares::of(HANDSHAKES_OF_ADDRESS_MAX),
        connections_of: Shares::of(CONNECTIONS_OF_ADDRESS_MAX),
        stop: stop.clone(),
        tasks: tasks.clone(),
    };
    for listener in listeners {
        tasks.spawn(accept(listener, front.clone()));
    }
    drop(front);
    stop.cancelled().await;
    tasks.close();
    // Each connection ends within the time to drain; a little more for it to be closed.
    if tokio::time::timeout(drain + Duration::from_secs(1), tasks.wait()).await.is_err() {
        tracing::warn!(left = tasks.len(), "connections left open");
    }
}

async fn accept(listener: TcpListener, front: Front) {
    loop {
        let next = async {
            let turn = front.handshakes.clone().acquire_owned().await;
            (turn, listener.accept().await)
        };
        let (turn, accepted) = tokio::select! {
            () = front.stop.cancelled() => return,
            // A turn that was taken is given back when this is dropped.
            next = next => next,
        };
        let (tcp, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // A v4 client of a v6 socket is the same client.
        let ip = address.ip().to_canonical();
        let shares = (front.handshakes_of.take(ip), front.connections_of.take(ip));
        let place = front.connections.clone().try_acquire_owned();
        let (Ok(turn), Ok(place), (Some(shaking), Some(share))) = (turn, place, shares) else {
            let code = if front.connections.available_permits() == 0 {
                RefusalCode::TooManyConnections
            } else {
                RefusalCode::TooManyConnectionsOfAddress
            };
            front.shared.metrics.connection_refused(code);
            tracing::debug!(peer = %address, code = code.as_str(), "connection refused");
            continue;
        };
        let (turn, place) = ((turn, shaking), (place, share));
        front.tasks.spawn(connection(tcp, address, turn, place, front.clone()));
    }
}

async fn connection(
    tcp: TcpStream,
    address: SocketAddr,
    turn: (OwnedSemaphorePermit, Share),
    _place: (OwnedSemaphorePermit, Share),
    front: Front,
) {
    // Responses are awaited; a failure shows itself in what follows.
    let _ = tcp.set_nodelay(true);
    let accepted = tokio::select! {
        accepted = front.tls.accept(tcp, HANDSHAKE_TIMEOUT) => accepted,
        () = front.stop.cancelled() => return,
    };
    drop(turn);
    let (stream, verified) = match accepted {
        Ok(accepted) => accepted,
        Err(error) => {
            front.shared.metrics.handshakes_failed.inc();
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::debug!(peer = %address, %error, ?cause, "TLS handshake failed");
            return;
        }
    };
    front.shared.metrics.connections.inc();
    let (admitted, draining) = <(CancellationToken, CancellationToken)>::default();
    let (killed, closed) = <(CancellationToken, CancellationToken)>::default();
    let (identity, chain) = verified.map(|peer| (peer.identity, peer.chain)).unzip();
    let peer = Peer { address, identity, admitted: admitted.clone(), draining: draining.clone() };
    let io = Io::new(stream, peer, killed.clone(), closed.clone());
    let settings = &front.shared.settings;
    let ends = ending(settings, &front.stop, closed);
    // tonic says GOAWAY at the signal, and returns when the connection has ended.
    let incoming = tokio_stream::once(Ok::<_, std::io::Error>(io));
    let incoming = incoming.chain(tokio_stream::pending());
    let (told, is_told) = tokio::sync::oneshot::channel();
    let signal = async move {
        ends.await;
        // Nobody waits any more if the connection is closed already.
        let _ = told.send(());
    };
    let serving = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(STREAMS_MAX)
        .layer(InterceptorLayer::new(with_arrival))
        .add_routes(front.routes.clone())
        .serve_with_incoming_shutdown(incoming, signal);
    let bound = async {
        if is_told.await.is_ok() {
            sleep(GOAWAY_LEAD).await;
            draining.cancel();
            sleep(settings.drain / 2).await;
            killed.cancel();
        }
        std::future::pending::<()>().await;
    };
    let unwelcome = unwelcome(&front.tls, chain.as_ref(), settings.first_call, &admitted);
    tokio::select! {
        served = serving => {
            if let Err(error) = served {
                tracing::debug!(peer = %address, %error, "connection failed");
            }
        }
        () = bound => {}
        code = unwelcome => {
            front.shared.metrics.connection_refused(code);
            tracing::debug!(peer = %address, code = code.as_str(), "connection closed");
            killed.cancel();
        }
    }
    front.shared.metrics.connections.dec();
}

/// Why a connection is closed that its client did not close: nobody proved on it in time who they
/// are, or its certificate was revoked. Cancel safe.
async fn unwelcome(
    tls: &ServerTls,
    chain: Option<&tls::PeerChain>,
    first_call: Duration,
    admitted: &CancellationToken,
) -> RefusalCode {
    let unused = async {
        if tokio::time::timeout(first_call, admitted.cancelled()).await.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    let revoked = async {
        match chain {
            Some(chain) => drop(tls.until_revoked(chain).await),
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = unused => RefusalCode::ConnectionUnused,
        () = revoked => RefusalCode::CertificateRevoked,
    }
}

/// Resolves when a connection has to end, or has ended.
fn ending(
    settings: &ServeSettings,
    stop: &CancellationToken,
    closed: CancellationToken,
) -> impl Future<Output = ()> + Send + use<> {
    // Between three and five quarters of the age; and within half of the time to drain, less what
    // the streams are given to end.
    let age = settings.connection_age.mul_f64(rand::random_range(0.75..1.25));
    let spread = settings.drain.mul_f64(rand::random_range(0.0..0.4));
    let stop = stop.clone();
    async move {
        let told = async {
            tokio::select! {
                () = sleep(age) => {}
                () = stop.cancelled() => sleep(spread).await,
            }
        };
        tokio::select! {
            () = told => {}
            () = closed.cancelled() => {}
        }
    }
}

/// How much each address has of something, with a bound. As many entries as there are connections.
#[derive(Clone)]
struct Shares {
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
    max: usize,
}

/// One of them, until it is dropped.
struct Share {
    of: Shares,
    address: IpAddr,
}

impl Shares {
    fn of(max: usize) -> Self {
        Self { taken: Arc::default(), max }
    }

    fn take(&self, address: IpAddr) -> Option<Share> {
        let mut taken = self.taken.lock();
        let count = taken.entry(address).or_default();
        if *count >= self.max {
            return None;
        }
        *count += 1;
        drop(taken);
        Some(Share { of: self.clone(), address })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.of.taken.lock();
        if let Some(count) = taken.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.address);
            }
        }
    }
}
