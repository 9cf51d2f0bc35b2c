//! Why the API server did not do what it was asked.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::event::EventError;
use crate::list::ListError;
use crate::status::Refusal;

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// One object.
    Get,
    /// Many objects.
    List,
    /// Their changes.
    Watch,
    /// A new object.
    Create,
    /// A change of an object.
    Patch,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Patch => "patch",
        })
    }
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The settings name no server.
    #[error("{0:?} is not the address of an API server: expected https://host[:port]")]
    Server(String),
    /// The process is in no pod, or in one without a service account.
    #[error("not in a pod of a cluster: {variable} is not set")]
    NotInCluster {
        /// What should be set.
        variable: &'static str,
    },
    /// The server's name cannot be verified.
    #[error("the name of the API server")]
    Name(#[source] tls::ServerRootsError),
    /// A request did not succeed.
    #[error("{operation} {path} at the API server")]
    Request {
        /// What was asked.
        operation: Operation,
        /// Of what, without the query.
        path: String,
        /// Why not.
        #[source]
        cause: Cause,
    },
}

impl ApiError {
    pub(crate) fn request(operation: Operation, path: &str, cause: Cause) -> Self {
        /// More of a path than any object has.
        const SHOWN_MAX: usize = 1024;
        let shown = path.split('?').next().unwrap_or_default();
        Self::Request { operation, path: shown.chars().take(SHOWN_MAX).collect(), cause }
    }

    /// What the server said, if it was the server that refused.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Request { cause: Cause::Refused(refusal), .. } => Some(refusal),
            Self::Request { .. } | Self::Server(_) | Self::NotInCluster { .. } | Self::Name(_) => {
                None
            }
        }
    }

    /// The HTTP status of the server's refusal.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.refusal().map(|refusal| refusal.status)
    }
}

/// Why a request did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The path or the selector cannot be part of a request.
    #[error("the path is not one of an API server")]
    Path,
    /// The token's file cannot be read.
    #[error("read the token in {}", path.display())]
    Token {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The token's file holds none.
    #[error("{} holds no bearer token", path.display())]
    NoToken {
        /// Which file.
        path: PathBuf,
    },
    /// The roots cannot be used.
    #[error("the roots of the API server's certificate")]
    Roots(#[source] tls::ServerRootsError),
    /// No connection.
    #[error("connect to {server}")]
    Connect {
        /// Host and port.
        server: String,
        /// Why not.
        source: io::Error,
    },
    /// Another server, or one that we do not trust.
    #[error("TLS with {server}")]
    Tls {
        /// Host and port.
        server: String,
        /// Why not.
        source: tls::TlsError,
    },
    /// The connection broke, or what came is not HTTP.
    #[error("the connection to the API server failed")]
    Http(#[source] hyper::Error),
    /// It took too long.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The server sent more than one answer may have.
    #[error("the answer has more than {max} bytes")]
    TooLarge {
        /// How many it may have.
        max: usize,
    },
    /// The answer is not the JSON of an object.
    #[error("the answer is not JSON")]
    Json(#[source] serde_json::Error),
    /// The answer is no list.
    #[error("the list cannot be read")]
    List(#[from] ListError),
    /// A line of a watch is no event.
    #[error("an event cannot be read")]
    Event(#[from] EventError),
    /// What was listed changed faster than it could be read, page by page.
    #[error("the list expired {0} times while it was read")]
    Expired(usize),
    /// The server said no.
    #[error(transparent)]
    Refused(Refusal),
}
