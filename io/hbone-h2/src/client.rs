//! The client's end: one tunnel, in which streams are opened.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream};
use hbone::{Baggage, ConnectHead};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::Settings;
use crate::driver::Driver;
use crate::load::Load;
use crate::paced::Paced;
use crate::stream::HboneStream;

/// The one header of an answer that is read.
const BAGGAGE: &str = "baggage";

/// The HTTP/2 handshake failed.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP/2 handshake failed")]
pub struct ClientError(#[from] h2::Error);

/// Why a stream was not opened. No byte of it was sent.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The peer's answer was not 200.
    #[error("the peer answered CONNECT with {0}")]
    Status(u16),
    /// The peer did not look at the request: it goes away, or has too many streams. Another tunnel
    /// may take it.
    #[error("the peer did not take the stream: {0}")]
    NotTaken(String),
    /// The request broke off; the peer may have seen it.
    #[error("the stream could not be opened: {0}")]
    Broken(String),
    /// The request cannot be put into HTTP/2.
    #[error("the CONNECT request is not valid HTTP")]
    Request(#[source] http::Error),
}

/// A stream that the peer has opened.
pub struct Opened {
    /// The stream.
    pub stream: HboneStream,
    /// What the peer tells about the workload behind it.
    pub baggage: Baggage,
}

/// A handle on a tunnel. The tunnel closes when the last handle and the last stream are gone.
#[derive(Clone)]
pub struct Tunnel {
    shared: Rc<Shared>,
}

pub(crate) struct Shared {
    requests: RefCell<SendRequest<Bytes>>,
    pub(crate) load: Rc<Load>,
}

impl Shared {
    /// The peer's bound on streams; `None` if it has none.
    pub(crate) fn peer_streams(&self) -> Option<u32> {
        let streams = self.requests.borrow().current_max_send_streams();
        u32::try_from(streams).ok().filter(|streams| *streams < u32::MAX)
    }

    /// Has the peer sent GOAWAY, or are stream ids used up? h2 tells only those who ask to send;
    /// a handle without a request under way is never made to wait.
    pub(crate) fn refuses_streams(&self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        matches!(self.requests.borrow_mut().poll_ready(&mut context), Poll::Ready(Err(_)))
    }
}

impl Tunnel {
    /// Starts HTTP/2 on a verified connection. Nothing moves unless the driver is polled.
    pub async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
        stream: S,
        settings: &Settings,
    ) -> Result<(Self, Driver<S>), ClientError> {
        let (stream, portion) = Paced::new(stream);
        let (requests, connection) = settings.client().handshake(stream).await?;
        let shared = Rc::new(Shared { requests: RefCell::new(requests), load: Rc::default() });
        let driver = Driver::new(connection, portion, settings, &shared);
        Ok((Self { shared }, driver))
    }

    /// The peer's bound on streams, as far as it is known; `None` if it has none.
    #[must_use]
    pub fn peer_streams(&self) -> Option<u32> {
        self.shared.peer_streams()
    }

    /// Opens a stream: sends a CONNECT and waits for the peer's 200. How long to wait is the
    /// caller's affair; dropping the future resets the stream.
    pub async fn open(&self, head: &ConnectHead) -> Result<Opened, OpenError> {
        let request = request(head).map_err(OpenError::Request)?;
        let mut requests = self.shared.requests.borrow().clone();
        poll_fn(|cx| requests.poll_ready(cx)).await.map_err(|error| not_taken(&error))?;
        let (response, send) =
            requests.send_request(request, false).map_err(|error| not_taken(&error))?;
        let response = response.await.map_err(|error| unanswered(&error))?;
        if response.status() != StatusCode::OK {
            return Err(OpenError::Status(response.status().as_u16()));
        }
        let baggage = response.headers().get(BAGGAGE).map(HeaderValue::as_bytes);
        let baggage = baggage.map(Baggage::parse).unwrap_or_default();
        let recv: RecvStream = Response::into_body(response);
        let stream = HboneStream::new(send, recv, self.shared.load.clone());
        Ok(Opened { stream, baggage })
    }
}

fn not_taken(error: &h2::Error) -> OpenError {
    OpenError::NotTaken(error.to_string())
}

/// A stream above the GOAWAY's last one, or refused, was not looked at (RFC 9113, sections 6.8 and
/// 8.7). Anything else may have been.
fn unanswered(error: &h2::Error) -> OpenError {
    let refused = error.reason() == Some(Reason::REFUSED_STREAM);
    let going_away = error.is_go_away() && error.is_remote();
    if refused || going_away { not_taken(error) } else { OpenError::Broken(error.to_string()) }
}

/// A CONNECT has an authority, and neither scheme nor path (RFC 9113, section 8.5).
fn request(head: &ConnectHead) -> Result<Request<()>, http::Error> {
    let uri = Uri::builder().authority(head.authority.to_string()).build()?;
    let mut request = Request::builder().method(Method::CONNECT).uri(uri).body(())?;
    for (name, value) in head.headers() {
        let value = HeaderValue::try_from(value)?;
        request.headers_mut().insert(HeaderName::from_static(name), value);
    }
    Ok(request)
}
