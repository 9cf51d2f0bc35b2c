//! The operator's side.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::BufReader;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use crate::line;
use crate::protocol::{Enrol, Failure, Pod, Request, Response, Status, Why};

/// Longest response, in bytes: about 30,000 pods. A longer one is an error.
const RESPONSE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// An agent that does not accept for that long counts as not reachable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// An agent that does not answer for that long counts as not reachable. Enrolment takes the
/// longest: it attaches programs and waits for a self-test.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);

/// A request that got no answer, or not the one it asked for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the socket, or it may not be used.
    #[error("cannot reach {path}: {source}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The agent hung up: it is stopping, or does not serve this user.
    #[error("the connection was closed (only root is served)")]
    Closed,
    /// No answer in time.
    #[error("no answer within {} seconds", .0.as_secs())]
    Timeout(Duration),
    /// Reading or writing failed.
    #[error("cannot talk over the socket: {0}")]
    Stream(#[source] io::Error),
    /// The answer is not of this protocol.
    #[error("the answer cannot be read: {0}")]
    Malformed(#[source] serde_json::Error),
    /// The answer is to another question.
    #[error("the answer is to another question")]
    Unexpected,
    /// The agent refused the request, or failed.
    #[error("{0}")]
    Refused(Failure),
}

impl ClientError {
    /// Whether the agent could not be talked to at all, rather than answering no.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        !matches!(self, Self::Refused(_))
    }
}

/// A response of a protocol.
pub trait Answer: DeserializeOwned {
    /// Why the request was refused or failed, if it was.
    fn failure(&self) -> Option<&Failure>;
}

impl Answer for Response {
    fn failure(&self) -> Option<&Failure> {
        if let Self::Error(failure) = self { Some(failure) } else { None }
    }
}

/// A connection to an agent, or to a control plane.
#[derive(Debug)]
pub struct Client {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl Client {
    /// Connects to an agent.
    pub async fn connect(path: &Path) -> Result<Self, ClientError> {
        let connected = match timeout(CONNECT_TIMEOUT, UnixStream::connect(path)).await {
            Ok(connected) => connected,
            Err(elapsed) => Err(elapsed.into()),
        };
        let stream =
            connected.map_err(|source| ClientError::Connect { path: path.to_owned(), source })?;
        let (reader, writer) = stream.into_split();
        Ok(Self { reader: BufReader::new(reader), writer })
    }

    /// Sends one request.
    pub async fn send(&mut self, request: &impl Serialize) -> Result<(), ClientError> {
        let hung_up = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];
        match timeout(ANSWER_TIMEOUT, line::write(&mut self.writer, request)).await {
            Err(_) => Err(ClientError::Timeout(ANSWER_TIMEOUT)),
            // The agent may have said why it hung up; the next read finds it.
            Ok(Err(error)) if hung_up.contains(&error.kind()) => Ok(()),
            Ok(sent) => sent.map_err(ClientError::Stream),
        }
    }

    /// Waits for one response, without a limit: a stream of flows may be silent for long.
    pub async fn next(&mut self) -> Result<Response, ClientError> {
        self.receive().await
    }

    /// The same in any protocol.
    async fn receive<R: Answer>(&mut self) -> Result<R, ClientError> {
        let line = line::read(&mut self.reader, RESPONSE_BYTES_MAX).await;
        let line = match line {
            Ok(line) => line.ok_or(ClientError::Closed)?,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                return Err(ClientError::Closed);
            }
            Err(error) => return Err(ClientError::Stream(error)),
        };
        let response: R = serde_json::from_slice(&line).map_err(ClientError::Malformed)?;
        match response.failure() {
            Some(failure) => Err(ClientError::Refused(failure.clone())),
            None => Ok(response),
        }
    }

    /// Sends a request that has one response, and waits for it.
    pub async fn call<R: Answer>(&mut self, request: &impl Serialize) -> Result<R, ClientError> {
        self.send(request).await?;
        let answer = timeout(ANSWER_TIMEOUT, self.receive()).await;
        answer.unwrap_or(Err(ClientError::Timeout(ANSWER_TIMEOUT)))
    }

    /// [`Request::Status`].
    pub async fn status(&mut self) -> Result<Status, ClientError> {
        let Response::Status(status) = self.call(&Request::Status).await? else {
            return Err(ClientError::Unexpected);
        };
        Ok(*status)
    }

    /// [`Request::Pods`].
    pub async fn pods(&mut self) -> Result<Vec<Pod>, ClientError> {
        let Response::Pods(pods) = self.call(&Request::Pods).await? else {
            return Err(ClientError::Unexpected);
        };
        Ok(pods)
    }

    /// [`Request::Enrol`].
    pub async fn enrol(&mut self, enrol: Enrol) -> Result<Pod, ClientError> {
        let Response::Enrolled(pod) = self.call(&Request::Enrol(enrol)).await? else {
            return Err(ClientError::Unexpected);
        };
        Ok(*pod)
    }

    /// [`Request::Unenrol`].
    pub async fn unenrol(&mut self, uid: &str) -> Result<(), ClientError> {
        let Response::Unenrolled(_) = self.call(&Request::Unenrol { uid: uid.to_owned() }).await?
        else {
            return Err(ClientError::Unexpected);
        };
        Ok(())
    }

    /// [`Request::Why`].
    pub async fn why(&mut self, source: &str, destination: &str) -> Result<Why, ClientError> {
        let (source, destination) = (source.to_owned(), destination.to_owned());
        let Response::Why(why) = self.call(&Request::Why { source, destination }).await? else {
            return Err(ClientError::Unexpected);
        };
        Ok(*why)
    }
}
