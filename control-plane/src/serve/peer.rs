//! The other end of a connection.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use model::VerifiedIdentity;
use tls::TlsStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;
use tonic::{Request, Status};

use crate::caller::Arrival;

/// The other end. In the extensions of each request.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where it is.
    pub address: SocketAddr,
    /// Who it is by its certificate, if it showed one.
    pub identity: Option<VerifiedIdentity>,
    /// Somebody proved on the connection who they are.
    pub(super) admitted: CancellationToken,
    /// Its streams have to end.
    pub(super) draining: CancellationToken,
}

/// Tells every service by which connection a call came, in the form that
/// [`Credentials::of_call`](crate::caller::Credentials::of_call) reads.
#[expect(clippy::unnecessary_wraps, reason = "the form of an interceptor")]
pub(super) fn with_arrival(mut request: Request<()>) -> Result<Request<()>, Status> {
    let arrival = request.extensions().get::<Peer>().map(|peer| Arrival {
        certificate: peer.identity.clone(),
        address: Some(peer.address.ip().to_canonical()),
        admitted: peer.admitted.clone(),
    });
    request.extensions_mut().insert(arrival.unwrap_or_default());
    Ok(request)
}

/// A connection as tonic is given it.
pub(super) struct Io {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    /// tonic runs it in a task of its own; this is how that is ended.
    killed: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Tells that the task has ended.
    _closed: DropGuard,
}

impl Io {
    pub(super) fn new(
        stream: TlsStream<TcpStream>,
        peer: Peer,
        killed: CancellationToken,
        closed: CancellationToken,
    ) -> Self {
        let killed = Box::pin(killed.cancelled_owned());
        Self { stream, peer, killed, _closed: closed.drop_guard() }
    }

    fn poll_killed(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.killed.as_mut().poll(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }
}

impl Connected for Io {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_killed(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_killed(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_killed(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_killed(cx)?;
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        Poll::Ready(Ok(()))
    }
}
