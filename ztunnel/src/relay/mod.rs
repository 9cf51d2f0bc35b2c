//! Copies bytes between a captured connection and its other leg, both ways, until both have ended.
//!
//! Half-closes, resets and back-pressure pass through: an end of stream on one side becomes one on
//! the other, a reset becomes a reset, and nothing is read that the other side cannot take.

mod chunk;
mod tcp;
mod tunnel;

use std::future::Future;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};

use model::{Code, PolicyName};
use tokio::io::Interest;
use tokio::net::TcpStream;

pub(crate) use tcp::join_tcp;
pub(crate) use tunnel::{Socket, join_tunnel};

/// Counts payload bytes as they pass.
pub(crate) trait Meter {
    /// Bytes from the client to the server.
    fn request(&self, bytes: u64);
    /// Bytes from the server to the client.
    fn response(&self, bytes: u64);
}

/// How a relay ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    /// The reason.
    pub(crate) code: Code,
    /// The policy that took its permission back.
    pub(crate) policy: Option<PolicyName>,
    /// For people.
    pub(crate) detail: Option<String>,
}

impl Ending {
    /// One that no policy has to do with.
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, policy: None, detail: Some(detail.into()) }
    }

    fn clean() -> Self {
        Self { code: Code::Ok, policy: None, detail: None }
    }
}

/// Which side of a relay failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

/// Why a relay broke off.
#[derive(Debug)]
enum Broken {
    /// A socket failed.
    Socket(Side, io::Error),
    /// The tunnel's stream failed: its own code and cause.
    Stream(Code, String),
}

impl Broken {
    fn ending(&self) -> Ending {
        match self {
            Self::Socket(side, error) => {
                let who = match side {
                    Side::Client => "client",
                    Side::Server => "server",
                };
                // Keepalive or TCP_USER_TIMEOUT gave the peer up.
                let silent = error.kind() == io::ErrorKind::TimedOut;
                let code = if silent { Code::ConnectTimeout } else { Code::Reset };
                Ending::new(code, format!("{who}: {error}"))
            }
            Self::Stream(code, cause) => Ending::new(*code, cause.clone()),
        }
    }
}

/// Runs `copy` until it ends or `stop` says why it must.
///
/// Both futures are dropped when one ends: the copy holds nothing but borrowed sockets, and bytes
/// it has not passed on are lost with the connection, which the caller resets.
async fn until_stopped(
    mut copy: impl FnMut(&mut Context<'_>) -> Poll<Result<(), Broken>>,
    stop: impl Future<Output = Ending>,
) -> Ending {
    let mut stop = pin!(stop);
    std::future::poll_fn(|cx| {
        if let Poll::Ready(why) = stop.as_mut().poll(cx) {
            return Poll::Ready(why);
        }
        copy(cx).map(|result| match result {
            Ok(()) => Ending::clean(),
            Err(broken) => broken.ending(),
        })
    })
    .await
}

/// Resolves when the socket's peer has reset the connection: nobody is left to answer. An ended
/// stream is no sign of that; the client may have said all it wants to say. Cancel safe.
pub(crate) async fn peer_reset(socket: &TcpStream) {
    // An error of the wait itself says the same.
    let _ = socket.ready(Interest::ERROR).await;
}

/// Makes closing the socket send a reset, so that a cut connection never looks complete.
pub(crate) fn reset(socket: &TcpStream) {
    // The socket is being given up; if it is dead already, nothing is left to tell its peer.
    let _ = socket.set_zero_linger();
}

#[cfg(test)]
mod tests;
