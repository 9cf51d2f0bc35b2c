//! The server's end: the CONNECT requests of one tunnel.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Connection, SendResponse};
use hbone::{Baggage, ConnectHead, status_of};
use http::{HeaderValue, Request, Response, StatusCode};
use model::Code;
use tls::TlsStream;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::keepalive::Keepalive;
use crate::load::Load;
use crate::paced::{Paced, Portion};
use crate::refusals::{Refusals, RequestRefused, Watched};
use crate::stream::{HboneStream, StreamError};
use crate::window::ConnectionWindow;
use crate::{PeerDead, Settings};

/// Why a tunnel ended out of order.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// HTTP/2 or the connection below broke.
    #[error("HTTP/2 broke off")]
    Http2(#[from] h2::Error),
    /// The peer vanished.
    #[error(transparent)]
    Dead(#[from] PeerDead),
}

impl ServerError {
    /// Did we end the tunnel because the peer broke the rules of HTTP/2?
    #[must_use]
    pub fn is_violation(&self) -> bool {
        match self {
            Self::Http2(error) => error.is_library(),
            Self::Dead(_) => false,
        }
    }

    /// The stable reason: a peer that broke HTTP/2's rules, or says that we did, or a connection
    /// that is gone.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Http2(error) if error.is_io() => Code::TunnelLost,
            Self::Http2(_) => Code::Http2Failed,
            Self::Dead(_) => Code::TunnelLost,
        }
    }
}

/// A request that came in.
#[expect(clippy::large_enum_variant, reason = "the large variant is the usual one")]
pub enum Incoming {
    /// A CONNECT that can be judged.
    Connect(ConnectHead, Responder),
    /// A request that was refused already, with the status of its reason. For the log.
    Refused(RequestRefused),
}

/// One tunnel, seen from the server. Dropping it closes the tunnel at once, with its streams.
pub struct Server<S = TlsStream<TcpStream>> {
    connection: Connection<Watched<Paced<S>>, Bytes>,
    portion: Portion,
    refusals: Refusals,
    keepalive: Option<Keepalive>,
    window: ConnectionWindow,
    load: Rc<Load>,
    error: Option<ServerError>,
    ended: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Server<S> {
    /// Starts HTTP/2 on a verified connection. How long to wait is the caller's affair.
    pub async fn handshake(stream: S, settings: &Settings) -> Result<Self, ServerError> {
        let (stream, portion) = Paced::new(stream);
        let (stream, refusals) = Watched::new(stream);
        // A handshake is polled by its caller alone, and ends: it needs no second portion.
        let mut connection = settings.server().handshake(stream).await?;
        Ok(Self {
            keepalive: Keepalive::new(connection.ping_pong(), settings),
            window: ConnectionWindow::new(settings.connection_window),
            load: Rc::default(),
            error: None,
            ended: false,
            connection,
            portion,
            refusals,
        })
    }

    /// The next request; `None` when the tunnel has ended. The bytes of all streams move only
    /// while this is polled; cancelling it loses nothing.
    pub async fn next(&mut self) -> Option<Incoming> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Why the tunnel ended, if not in order.
    pub fn error(&self) -> Option<&ServerError> {
        self.error.as_ref()
    }

    /// Sends GOAWAY: no new streams are taken, those that are open go on. The tunnel ends with the
    /// last of them.
    pub fn shutdown(&mut self) {
        self.connection.graceful_shutdown();
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Incoming>> {
        let next = if self.ended { Poll::Ready(None) } else { self.poll_connection(cx) };
        match next {
            Poll::Ready(Some(_)) => next,
            // What h2 has refused meanwhile, or before the tunnel ended.
            Poll::Ready(None) | Poll::Pending => match self.refusals.next() {
                Some(refused) => Poll::Ready(Some(Incoming::Refused(refused))),
                None => next,
            },
        }
    }

    fn poll_connection(&mut self, cx: &mut Context<'_>) -> Poll<Option<Incoming>> {
        // Before the connection's poll, which sends the window updates.
        let adjusted = self.window.adjust(self.load.look(cx.waker()));
        if let Some(target) = adjusted.target {
            self.connection.set_target_window_size(target);
        }
        self.portion.renew();
        match self.connection.poll_accept(cx) {
            Poll::Ready(Some(Ok((request, respond)))) => {
                self.refusals.yielded(respond.stream_id().as_u32());
                return Poll::Ready(Some(incoming(request, respond, self.load.clone())));
            }
            Poll::Ready(Some(Err(error))) => return self.end(Some(error.into())),
            Poll::Ready(None) => return self.end(None),
            Poll::Pending => {}
        }
        match self.keepalive.as_mut().map(|keepalive| keepalive.poll(cx)) {
            Some(Poll::Ready(dead)) => self.end(Some(dead.into())),
            Some(Poll::Pending) | None => Poll::Pending,
        }
    }

    fn end(&mut self, error: Option<ServerError>) -> Poll<Option<Incoming>> {
        self.ended = true;
        self.error = error;
        Poll::Ready(None)
    }
}

fn incoming(
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    load: Rc<Load>,
) -> Incoming {
    let (parts, recv) = request.into_parts();
    let authority = parts.uri.authority().map(http::uri::Authority::as_str);
    let header = |name: &str| parts.headers.get(name).map(HeaderValue::as_bytes);
    let responder = Responder { respond, recv, load };
    match ConnectHead::read(parts.method.as_str(), authority, header) {
        Ok(head) => Incoming::Connect(head, responder),
        Err(error) => {
            responder.refuse(status_of(error.code()));
            Incoming::Refused(error.into())
        }
    }
}

/// Answers one CONNECT. Dropped without an answer, it resets the stream.
pub struct Responder {
    respond: SendResponse<Bytes>,
    recv: RecvStream,
    load: Rc<Load>,
}

impl Responder {
    /// Opens the stream: answers 200, with what is told about the workload.
    pub fn accept(mut self, baggage: &Baggage) -> Result<HboneStream, StreamError> {
        let mut response = Response::new(());
        if let Ok(value) = HeaderValue::try_from(baggage.encode())
            && !value.is_empty()
        {
            response.headers_mut().insert("baggage", value);
        }
        let send = self.respond.send_response(response, false)?;
        Ok(HboneStream::new(send, self.recv, self.load))
    }

    /// Answers with another status. What is not one is sent as 503.
    pub fn refuse(mut self, status: u16) {
        let mut response = Response::new(());
        *response.status_mut() =
            StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        // It fails only if the peer has given up already.
        let _ = self.respond.send_response(response, true);
    }

    /// Resolves when the peer gives the stream up, or the tunnel is lost: nobody is left to answer.
    pub async fn gone(&mut self) {
        // Which of the two does not matter.
        let _ = poll_fn(|cx| self.respond.poll_reset(cx)).await;
    }
}
