//! One request and its answer.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER, USER_AGENT,
};
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tls::ServerTrust;
use tokio::io::AsyncReadExt;
use tokio::sync::Semaphore;

use crate::address::Address;
use crate::connection::{Connection, Idle};
use crate::status::Refusal;
use crate::{Cause, Timing};

/// Largest token, in bytes; a projected one has about 1 KiB.
const TOKEN_MAX: u64 = 16 << 10;
/// How much is read of the body of a refusal; the rest is left, and the connection closed.
const REFUSAL_MAX: usize = 64 << 10;
/// Who asks. The API server names the manager of a changed field by what is before the slash.
const AGENT: &str = concat!("warren-agent/", env!("CARGO_PKG_VERSION"));
/// Requests at a time, watches aside; further ones wait within their own time. The API server has
/// limits of its own for a node, and one that starts again should not meet a storm.
const REQUESTS_MAX: usize = 16;

/// Whether a request may be sent again when it is not known if the server has seen it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// Twice has the effect of once.
    Harmless,
    /// Only if it was certainly not sent.
    IfUnsent,
}

/// What is sent.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) target: String,
    /// Type and bytes.
    pub(crate) body: Option<(&'static str, Bytes)>,
    pub(crate) repeat: Repeat,
}

impl Asked {
    pub(crate) fn get(target: String) -> Self {
        Self { method: Method::GET, target, body: None, repeat: Repeat::Harmless }
    }
}

/// What all requests of a client share.
pub(crate) struct Exchange {
    pub(crate) address: Address,
    pub(crate) trust: ServerTrust,
    pub(crate) token: PathBuf,
    pub(crate) timing: Timing,
    pub(crate) idle: Idle,
    pub(crate) slots: Semaphore,
}

/// An answer whose body is still to come.
pub(crate) struct Answer {
    status: StatusCode,
    retry_after: Option<String>,
    body: Incoming,
    connection: Connection,
}

impl Exchange {
    pub(crate) fn new(
        address: Address,
        trust: ServerTrust,
        token: PathBuf,
        timing: Timing,
    ) -> Self {
        let slots = Semaphore::new(REQUESTS_MAX);
        Self { address, trust, token, timing, idle: Idle::default(), slots }
    }

    /// Sends a request and waits for the head of a good answer. The caller bounds the time.
    pub(crate) async fn ask(&self, asked: &Asked) -> Result<Answer, Cause> {
        let answer = self.send(asked).await?;
        if answer.status.is_success() {
            return Ok(answer);
        }
        let (status, retry_after) = (answer.status.as_u16(), answer.retry_after.clone());
        // A refusal whose text is too long or breaks off is one all the same.
        let body = self.read(answer, REFUSAL_MAX).await.unwrap_or_default();
        Err(Cause::Refused(Refusal::of_answer(status, retry_after.as_deref(), &body)))
    }

    /// Reads a whole body, and keeps the connection for the next request.
    pub(crate) async fn read(&self, mut answer: Answer, max: usize) -> Result<Vec<u8>, Cause> {
        let mut bytes = Vec::new();
        while let Some(piece) = answer.piece().await? {
            if bytes.len() + piece.len() > max {
                return Err(Cause::TooLarge { max });
            }
            bytes.extend_from_slice(&piece);
        }
        self.idle.keep(answer.connection);
        Ok(bytes)
    }

    /// A kept connection first. The server may have closed it meanwhile: then a new one.
    async fn send(&self, asked: &Asked) -> Result<Answer, Cause> {
        let token = read_token(&self.token).await?;
        let request = self.request(asked, &token)?;
        if let Some(connection) = self.idle.take() {
            match send_on(connection, request.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(Unsent::Certainly(_)) => {}
                Err(Unsent::Perhaps(_)) if asked.repeat == Repeat::Harmless => {}
                Err(Unsent::Perhaps(error)) => return Err(Cause::Http(error)),
            }
        }
        let connection = Connection::open(&self.address, &self.trust, self.timing.connect).await?;
        send_on(connection, request).await.map_err(|unsent| match unsent {
            Unsent::Certainly(error) | Unsent::Perhaps(error) => Cause::Http(error),
        })
    }

    fn request(
        &self,
        asked: &Asked,
        token: &HeaderValue,
    ) -> Result<http::Request<Full<Bytes>>, Cause> {
        let mut request = http::Request::builder()
            .method(asked.method.clone())
            .uri(&asked.target)
            .header(HOST, self.address.authority())
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, AGENT)
            .header(AUTHORIZATION, token);
        let mut body = Bytes::new();
        if let Some((of_type, bytes)) = &asked.body {
            request = request.header(CONTENT_TYPE, *of_type);
            body = bytes.clone();
        }
        request.body(Full::new(body)).map_err(|_| Cause::Path)
    }
}

impl Answer {
    /// The next bytes of the body; `None` at its proper end. Cancel safe.
    pub(crate) async fn piece(&mut self) -> Result<Option<Bytes>, Cause> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(Cause::Http(error)),
                // Trailers say nothing that is read.
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

/// Why there is no answer, and whether the server can have seen the request.
enum Unsent {
    Certainly(hyper::Error),
    Perhaps(hyper::Error),
}

async fn send_on(
    mut connection: Connection,
    request: http::Request<Full<Bytes>>,
) -> Result<Answer, Unsent> {
    connection.sender.ready().await.map_err(Unsent::Certainly)?;
    let response = connection.sender.try_send_request(request).await.map_err(|mut failed| {
        let is_returned = failed.take_message().is_some();
        let error = failed.into_error();
        if is_returned { Unsent::Certainly(error) } else { Unsent::Perhaps(error) }
    })?;
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = retry_after.map(str::to_owned);
    Ok(Answer { status: response.status(), retry_after, body: response.into_body(), connection })
}

/// The `Authorization` header from the token as it is now.
async fn read_token(path: &Path) -> Result<HeaderValue, Cause> {
    let failed = |source: io::Error| Cause::Token { path: path.to_owned(), source };
    let none = || Cause::NoToken { path: path.to_owned() };
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(TOKEN_MAX + 1).read_to_end(&mut bytes).await.map_err(failed)?;
    let token = bytes.trim_ascii();
    // RFC 6750, 2.1: also what keeps a stray file from being sent.
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(byte);
    let is_long = u64::try_from(bytes.len()).map_or(true, |length| length > TOKEN_MAX);
    if token.is_empty() || is_long || !token.iter().all(is_token) {
        return Err(none());
    }
    let header = [b"Bearer ", token].concat();
    let mut header = HeaderValue::from_bytes(&header).map_err(|_| none())?;
    header.set_sensitive(true);
    Ok(header)
}
