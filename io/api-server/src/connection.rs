//! Connections to the API server: TCP that notices a dead peer, TLS, HTTP/1.1.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use socket2::{SockRef, TcpKeepalive};
use tls::{ServerTrust, TlsError};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::Cause;
use crate::address::Address;

/// Connections kept for the next request; a further one is closed when it is done.
const IDLE_MAX: usize = 4;
/// How long a connection is kept without use. API servers and the balancers before them keep theirs
/// for 90 s or longer.
const IDLE_TIME: Duration = Duration::from_secs(30);
/// How old a connection may become, so that changed roots and further servers count before long.
const AGE_MAX: Duration = Duration::from_mins(5);
/// A silent peer is probed after this time, this often, this many times: gone after 30 s.
const PROBE_AFTER: Duration = Duration::from_secs(15);
const PROBE_EVERY: Duration = Duration::from_secs(5);
const PROBES: u32 = 3;
/// How long sent bytes may stay unacknowledged.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);
/// hyper's buffer: the largest head that is read, and the largest piece of a body.
const BUFFER_BYTES: usize = 256 << 10;
/// Most header lines of an answer. A head with more ends the connection.
const HEADERS_MAX: usize = 64;

/// One connection; dropping it closes it.
pub(crate) struct Connection {
    pub(crate) sender: SendRequest<Full<Bytes>>,
    opened: Instant,
    used: Instant,
    /// Moves the bytes.
    _driver: AbortOnDropHandle<()>,
}

impl Connection {
    /// Opens one, with the roots as they are now.
    pub(crate) async fn open(
        address: &Address,
        trust: &ServerTrust,
        timeout: Duration,
    ) -> Result<Self, Cause> {
        let server = address.authority();
        let verifier = trust.read().await.map_err(Cause::Roots)?;
        let opening = async {
            let connect = |source| Cause::Connect { server: server.clone(), source };
            let target = (address.host.as_str(), address.port);
            let stream = TcpStream::connect(target).await.map_err(connect)?;
            watch_peer(&stream).map_err(connect)?;
            let tls = |source| Cause::Tls { server: server.clone(), source };
            verifier.connect_http1(stream).await.map_err(tls)
        };
        let stream = tokio::time::timeout(timeout, opening).await.map_err(|_| Cause::Tls {
            server: server.clone(),
            source: TlsError::Timeout(timeout),
        })??;
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(BUFFER_BYTES)
            .max_headers(HEADERS_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(Cause::Http)?;
        let driver = tokio::spawn(async move {
            // Whoever reads the answer gets the error.
            let _ = connection.await;
        });
        let now = Instant::now();
        Ok(Self { sender, opened: now, used: now, _driver: AbortOnDropHandle::new(driver) })
    }

    fn is_usable(&self, now: Instant) -> bool {
        !self.sender.is_closed() && now - self.used < IDLE_TIME && now - self.opened < AGE_MAX
    }
}

/// A watch may be silent for minutes, so the kernel has to tell a silent peer from a dead one.
fn watch_peer(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let probes = TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_EVERY);
    socket.set_tcp_keepalive(&probes.with_retries(PROBES))?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))
}

/// Connections without a request.
#[derive(Default)]
pub(crate) struct Idle(Mutex<Vec<Connection>>);

impl Idle {
    /// The one used last; those that cannot be used are closed.
    pub(crate) fn take(&self) -> Option<Connection> {
        let now = Instant::now();
        let mut idle = self.0.lock();
        idle.retain(|connection| connection.is_usable(now));
        idle.pop()
    }

    /// Closes all: where one peer is silent, the others may be the same.
    pub(crate) fn close(&self) {
        self.0.lock().clear();
    }

    /// Keeps one whose answer was read whole.
    pub(crate) fn keep(&self, mut connection: Connection) {
        connection.used = Instant::now();
        let mut idle = self.0.lock();
        if connection.is_usable(connection.used) && idle.len() < IDLE_MAX {
            idle.push(connection);
        }
    }
}
