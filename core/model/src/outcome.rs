//! What became of one connection: the single record behind log line, metrics and flow events.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::{Code, DialledService, Direction, Path, PolicyName, SpiffeId, Workload};

/// One side of a connection, as far as it is known.
#[derive(Clone, Debug, Default)]
pub struct Endpoint {
    /// Its address.
    pub address: Option<SocketAddr>,
    /// Its workload.
    pub workload: Option<Arc<Workload>>,
    /// Its identity, only if TLS or the kernel proved it.
    pub identity: Option<SpiffeId>,
}

/// Payload bytes, without any framing, in Istio's words: the server's view on both sides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes {
    /// From the client to the server.
    pub received: u64,
    /// From the server to the client.
    pub sent: u64,
}

/// One finished or refused connection.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Which side reports.
    pub direction: Direction,
    /// How the bytes travelled.
    pub path: Path,
    /// The client.
    pub source: Endpoint,
    /// The server.
    pub destination: Endpoint,
    /// The service the client dialled.
    pub service: Option<DialledService>,
    /// The tunnel's address, `ip:15008`.
    pub hbone: Option<SocketAddr>,
    /// The reason.
    pub code: Code,
    /// The decisive policy.
    pub policy: Option<PolicyName>,
    /// For people: the nearest miss, or the cause of a failure.
    pub detail: Option<String>,
    /// Payload.
    pub bytes: Bytes,
    /// From accept to close.
    pub duration: Duration,
}

impl Outcome {
    /// One of which nothing else is known.
    #[must_use]
    pub fn new(direction: Direction, path: Path, code: Code) -> Self {
        Self {
            direction,
            path,
            source: Endpoint::default(),
            destination: Endpoint::default(),
            service: None,
            hbone: None,
            code,
            policy: None,
            detail: None,
            bytes: Bytes::default(),
            duration: Duration::ZERO,
        }
    }
}
