//! What the plugin asks the agent, and the agent's reply: a line of JSON each, one request a
//! connection.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::codes::code;
use crate::sandbox::{InterfaceName, Namespace, NetnsPath, PodName, PodUid, SandboxId};
use crate::{REPLY_BYTES_MAX, REQUEST_BYTES_MAX};

/// The protocol's version. Fields may be added within one; all else is a new one.
pub const PROTOCOL_VERSION: u32 = 1;
/// Longest sentence of a refusal; a longer one is cut when it is written.
const MESSAGE_BYTES_MAX: usize = 2048;
/// Longest code of a refusal.
const CODE_BYTES_MAX: usize = 64;

/// A pod whose sandbox exists, with its network, and in which nothing runs yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxRequest {
    /// The pod's UID.
    pub uid: PodUid,
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub name: PodName,
    /// Its sandbox. A pod that restarts has another one.
    pub sandbox: SandboxId,
    /// Where the runtime keeps the sandbox's network namespace, as the host sees it.
    pub netns: NetnsPath,
    /// The addresses that the plugins before gave it: a hint, to be compared with what the
    /// namespace has. Empty when they told none.
    pub addresses: Vec<IpAddr>,
}

/// A sandbox that ends. Its network namespace may be gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxEnd {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// The pod, if the runtime told it.
    pub uid: Option<PodUid>,
}

/// A sandbox that a runtime still has.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Valid {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// Its interface in the network whose garbage is collected.
    pub interface: InterfaceName,
}

/// What the agent is to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Work {
    /// Reply when the pod is captured and verified, or not in the mesh.
    Add(SandboxRequest),
    /// Reply whether it still is.
    Check(SandboxRequest),
    /// Forget the sandbox.
    Delete(SandboxEnd),
    /// Reply whether pods could be added.
    Status,
    /// Forget all sandboxes but these.
    Gc(Vec<Valid>),
}

impl Work {
    /// The runtime's word for it.
    #[must_use]
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Add(_) => "ADD",
            Self::Check(_) => "CHECK",
            Self::Delete(_) => "DEL",
            Self::Status => "STATUS",
            Self::Gc(_) => "GC",
        }
    }
}

/// Work, and how long the plugin waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The plugin has given up when this has passed.
    pub wait: Duration,
    /// What to do.
    pub work: Work,
}

/// A request that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Too long to be one.
    #[error("a request has at most {REQUEST_BYTES_MAX} bytes")]
    TooLong,
    /// Of another version.
    #[error("the plugin speaks version {0}, the agent {PROTOCOL_VERSION}")]
    Version(u32),
    /// Not a request.
    #[error("the request cannot be read")]
    Unreadable(#[source] serde_json::Error),
}

impl RequestError {
    /// As the agent answers it.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Version(_) => Refusal::new(code::PROTOCOL_MISMATCH, self.to_string()),
            Self::TooLong => Refusal::new(code::BAD_REQUEST, self.to_string()),
            Self::Unreadable(cause) => Refusal::new(code::BAD_REQUEST, format!("{self}: {cause}")),
        }
    }
}

#[derive(Deserialize)]
struct Head {
    version: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    version: u32,
    wait_ms: u64,
    work: &'a Work,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Read {
    wait_ms: u64,
    work: Work,
}

impl Request {
    /// The line to send, with its end.
    pub fn encode(&self) -> Result<Vec<u8>, RequestError> {
        let wait_ms = u64::try_from(self.wait.as_millis()).unwrap_or(u64::MAX);
        let written = Written { version: PROTOCOL_VERSION, wait_ms, work: &self.work };
        let mut line = serde_json::to_vec(&written).map_err(RequestError::Unreadable)?;
        line.push(b'\n');
        if line.len() > REQUEST_BYTES_MAX { Err(RequestError::TooLong) } else { Ok(line) }
    }

    /// Reads a line, with or without its end.
    pub fn decode(line: &[u8]) -> Result<Self, RequestError> {
        if line.len() > REQUEST_BYTES_MAX {
            return Err(RequestError::TooLong);
        }
        // The version first: the rest may be of another.
        let head: Head = serde_json::from_slice(line).map_err(RequestError::Unreadable)?;
        if head.version != PROTOCOL_VERSION {
            return Err(RequestError::Version(head.version));
        }
        let read: Read = serde_json::from_slice(line).map_err(RequestError::Unreadable)?;
        Ok(Self { wait: Duration::from_millis(read.wait_ms), work: read.work })
    }
}

/// Why the agent does not do it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refusal {
    /// Stable, in capitals.
    pub code: String,
    /// A sentence that the pod's owner can act on.
    pub message: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into() }
    }
}

/// What the agent replies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is done, or there is nothing to do.
    Done,
    /// It is not.
    Refused(Refusal),
}

/// Something else than a reply.
#[derive(Debug, thiserror::Error)]
pub enum ReplyError {
    /// Too long to be one.
    #[error("a reply has at most {REPLY_BYTES_MAX} bytes")]
    TooLong,
    /// Of another version.
    #[error("the agent speaks version {0}, the plugin {PROTOCOL_VERSION}")]
    Version(u32),
    /// Not a reply.
    #[error("the reply cannot be read: {0}")]
    Unreadable(String),
}

#[derive(Serialize, Deserialize)]
struct ReplyLine {
    version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refused: Option<Refusal>,
    #[serde(default)]
    done: bool,
}

impl Reply {
    /// The line to send, with its end.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let line = match self {
            Self::Done => ReplyLine { version: PROTOCOL_VERSION, refused: None, done: true },
            Self::Refused(refusal) => {
                let refusal = Refusal {
                    code: cut(&refusal.code, CODE_BYTES_MAX),
                    message: cut(&refusal.message, MESSAGE_BYTES_MAX),
                };
                ReplyLine { version: PROTOCOL_VERSION, refused: Some(refusal), done: false }
            }
        };
        let mut line = serde_json::to_vec(&line).expect("strings and numbers are JSON");
        line.push(b'\n');
        line
    }

    /// Reads a line. What is neither done nor refused is an error.
    pub fn decode(line: &[u8]) -> Result<Self, ReplyError> {
        if line.len() > REPLY_BYTES_MAX {
            return Err(ReplyError::TooLong);
        }
        let unreadable = |error: serde_json::Error| ReplyError::Unreadable(error.to_string());
        let head: Head = serde_json::from_slice(line).map_err(unreadable)?;
        if head.version != PROTOCOL_VERSION {
            return Err(ReplyError::Version(head.version));
        }
        let read: ReplyLine = serde_json::from_slice(line).map_err(unreadable)?;
        match (read.done, read.refused) {
            (true, None) => Ok(Self::Done),
            (false, Some(refusal)) => Ok(Self::Refused(refusal)),
            (true, Some(_)) => Err(ReplyError::Unreadable("both done and refused".into())),
            (false, None) => Err(ReplyError::Unreadable("neither done nor refused".into())),
        }
    }
}

/// The first `max` bytes, without half a character at their end.
fn cut(text: &str, max: usize) -> String {
    let end = text.floor_char_boundary(max);
    text[..end].to_owned()
}

#[cfg(test)]
mod tests;
