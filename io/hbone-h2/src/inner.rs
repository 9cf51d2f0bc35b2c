//! A tunnel inside a stream of another one: how a workload of another network is reached.
//!
//! The outer tunnel ends at a gateway, which passes the stream's bytes on unread; the inner one has
//! TLS of its own and ends at the workload. It carries one stream and is never kept for another:
//! the gateway chooses the workload anew for each.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use hbone::{Baggage, ConnectHead};
use model::{Code, SpiffeId};
use tls::{Svid, TlsError, TlsStream, VerifiedPeer};
use tokio::time::timeout;

use crate::stream_io::Shared;
use crate::{
    ClientError, Driver, Event, HboneStream, OpenError, Opened, Settings, StreamError, StreamIo,
    Tunnel,
};

/// How long the outer stream may outlive the inner tunnel. Its last bytes are still under way, and
/// a reset would overtake them at the gateway; a gateway that never ends its side is not waited for
/// longer.
const LINGER: Duration = Duration::from_secs(5);

/// What the inner tunnel is made with.
pub struct Inner<'a> {
    /// Our certificate.
    pub svid: &'a Svid,
    /// Identities of which the workload's certificate must carry one; with none, nobody is accepted.
    pub expected: &'a [SpiffeId],
    /// HTTP/2.
    pub settings: &'a Settings,
    /// How long TLS and HTTP/2 may take, each.
    pub handshake_timeout: Duration,
    /// How long the answer to the CONNECT may take.
    pub answer_timeout: Duration,
}

/// Why no stream was opened, by the layer that failed. The outer stream is gone with it.
#[derive(Debug, thiserror::Error)]
pub enum InnerError {
    /// The gateway let go of the outer stream, or the tunnel to it was lost.
    #[error("the tunnel to the gateway")]
    Outer(#[source] StreamError),
    /// The workload, or whoever answered in its place, failed in TLS.
    #[error("TLS handshake through the gateway")]
    Tls(#[source] TlsError),
    /// The workload failed in HTTP/2.
    #[error("HTTP/2 through the gateway")]
    Http2(#[source] ClientError),
    /// The workload did not finish the HTTP/2 handshake.
    #[error("HTTP/2 through the gateway took longer than {0:?}")]
    Stalled(Duration),
    /// The workload did not open the stream.
    #[error("CONNECT through the gateway")]
    Open(#[source] OpenError),
    /// The workload did not answer the CONNECT.
    #[error("the workload behind the gateway did not answer CONNECT within {0:?}")]
    NoAnswer(Duration),
}

impl InnerError {
    /// The stable reason.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Outer(_) => Code::TunnelLost,
            Self::Tls(error) => error.code(),
            Self::Http2(_) | Self::Stalled(_) => Code::Http2Failed,
            Self::Open(OpenError::Status(status)) => {
                hbone::code_of_status(*status).unwrap_or(Code::PeerRefused)
            }
            Self::Open(OpenError::NotTaken(_) | OpenError::Broken(_) | OpenError::Request(_)) => {
                Code::TunnelLost
            }
            Self::NoAnswer(_) => Code::TunnelTimeout,
        }
    }
}

/// A stream through two tunnels.
pub struct OpenedInside {
    /// The stream.
    pub stream: HboneStream,
    /// What the workload's node tells about it.
    pub baggage: Baggage,
    /// Who the workload is, and by which certificates.
    pub peer: VerifiedPeer,
    /// Moves the bytes.
    pub driver: InnerDriver,
}

/// Moves the bytes of an inner tunnel while [`InnerDriver::run`] is polled. Dropping it closes both
/// streams at once.
pub struct InnerDriver {
    driver: Driver<TlsStream<StreamIo>>,
    outer: Rc<Shared>,
}

impl Inner<'_> {
    /// Opens a tunnel inside `outer`, and in it the stream that `head` asks for. The outer tunnel's
    /// driver must be polled meanwhile. Cancel safe: dropping the future resets the outer stream.
    pub async fn open(
        &self,
        outer: HboneStream,
        head: &ConnectHead,
    ) -> Result<OpenedInside, InnerError> {
        let io = StreamIo::from(outer);
        let outer = io.shared();
        let opened = self.open_in(io, &outer, head).await;
        // Whatever the inner layer makes of it: a broken outer stream is the cause.
        opened.map_err(|error| outer.broken().map_or(error, InnerError::Outer))
    }

    async fn open_in(
        &self,
        io: StreamIo,
        outer: &Rc<Shared>,
        head: &ConnectHead,
    ) -> Result<OpenedInside, InnerError> {
        let handshake = tls::connect(io, self.svid, self.expected, self.handshake_timeout);
        let (io, peer) = handshake.await.map_err(InnerError::Tls)?;
        let handshake = timeout(self.handshake_timeout, Tunnel::handshake(io, self.settings));
        let (tunnel, driver) = handshake
            .await
            .map_err(|_| InnerError::Stalled(self.handshake_timeout))?
            .map_err(InnerError::Http2)?;
        let mut driver = InnerDriver { driver, outer: outer.clone() };
        let opened = timeout(self.answer_timeout, driver.beside(tunnel.open(head)))
            .await
            .map_err(|_| InnerError::NoAnswer(self.answer_timeout))?
            .map_err(InnerError::Open)?;
        let Opened { stream, baggage } = opened;
        Ok(OpenedInside { stream, baggage, peer, driver })
    }
}

impl InnerDriver {
    /// Moves bytes until the inner tunnel has ended and the outer stream with it: after the stream
    /// is dropped, or when one of them breaks, which the stream then reports.
    pub async fn run(mut self) {
        let in_order = loop {
            if let Event::Closed(cause) = self.driver.next().await {
                break cause.is_none();
            }
        };
        if in_order {
            // Late bytes are of no interest, their end is. If it does not come: reset by the drop.
            let _ = timeout(LINGER, poll_fn(|cx| self.outer.poll_drained(cx))).await;
        }
    }

    /// Moves bytes while `work` is under way.
    async fn beside<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            // Losing an event is no loss here: the last one is repeated.
            let event = tokio::select! {
                done = &mut work => return done,
                event = self.driver.next() => event,
            };
            if let Event::Closed(_) = event {
                // What depended on the tunnel ends by itself now.
                return work.await;
            }
        }
    }
}
