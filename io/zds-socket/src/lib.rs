//! The Unix socket over which Istio's CNI agent tells of its pods: packets that keep their borders
//! (`SOCK_SEQPACKET`), with namespaces as file descriptors (`SCM_RIGHTS`).
//!
//! The agent listens and the proxy dials. What the messages mean is in `core/zds`.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, connect, recvmsg,
    sendmsg, socket,
};
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdRegisterError};
use zds::PACKET_MAX;

/// How long the agent may take to receive an answer: it reads one after every message.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// Descriptors of one packet. A message has one at most; with more, all are closed, and the packet
/// counts as cut.
const DESCRIPTORS_MAX: usize = 4;
/// Most that the kernel passes in one packet (`SCM_MAX_FD`). With less room than that it would open the
/// first ones in this process, and nobody would learn their numbers.
const PASSED_MAX: usize = 253;

/// What went wrong on the socket. The connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// A call.
    #[error("{operation} failed")]
    Call {
        /// Its name.
        operation: &'static str,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// The packet, or what came with it, is longer than a message may be.
    #[error("a packet is longer than {PACKET_MAX} bytes or has too many descriptors")]
    Cut,
    /// The agent does not read.
    #[error("an answer was not taken within {SEND_TIMEOUT:?}")]
    Stuck,
}

/// A packet.
#[derive(Debug)]
pub struct Packet {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What came with it.
    pub descriptors: Vec<OwnedFd>,
}

/// A connection to the agent.
#[derive(Debug)]
pub struct Connection(AsyncFd<OwnedFd>);

impl Connection {
    /// Dials the agent. Must be called on a tokio runtime.
    pub fn connect(path: &Path) -> Result<Self, SocketError> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = call("socket", socket(AddressFamily::Unix, SockType::SeqPacket, flags, None))?;
        let address = call("name the socket", UnixAddr::new(path))?;
        // A Unix socket connects at once, or says EAGAIN when the queue of the agent is full.
        call("connect", connect(socket.as_raw_fd(), &address))?;
        Self::from_socket(socket)
    }

    /// Takes a connected socket.
    #[expect(unsafe_code, reason = "the runtime asks for a promise about the descriptor")]
    pub fn from_socket(socket: OwnedFd) -> Result<Self, SocketError> {
        // SAFETY: an OwnedFd stays open, and the same, for as long as it lives.
        let registered = unsafe { AsyncFd::register(socket) };
        let call = |error: AsyncFdRegisterError<_>| SocketError::Call {
            operation: "register",
            cause: error.into(),
        };
        Ok(Self(registered.map_err(call)?))
    }

    /// The next packet; `None` when the agent has closed. Cancel safe.
    pub async fn receive(&self) -> Result<Option<Packet>, SocketError> {
        let received = self.0.async_io(Interest::READABLE, receive).await;
        match received {
            Ok(Received::End) => Ok(None),
            Ok(Received::Cut) => Err(SocketError::Cut),
            Ok(Received::Packet(packet)) => Ok(Some(packet)),
            Err(cause) => Err(SocketError::Call { operation: "receive", cause }),
        }
    }

    /// Sends a packet.
    pub async fn send(&self, bytes: &[u8]) -> Result<(), SocketError> {
        let sending = self.0.async_io(Interest::WRITABLE, |socket| {
            let parts = [IoSlice::new(bytes)];
            let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
            sendmsg::<()>(socket.as_raw_fd(), &parts, &[], flags, None)?;
            Ok(())
        });
        match tokio::time::timeout(SEND_TIMEOUT, sending).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(cause)) => Err(SocketError::Call { operation: "send", cause }),
            Err(_) => Err(SocketError::Stuck),
        }
    }
}

enum Received {
    Packet(Packet),
    Cut,
    End,
}

fn receive(socket: &impl AsFd) -> io::Result<Received> {
    let mut buffer = [0; PACKET_MAX];
    let mut control = cmsg_space!([RawFd; PASSED_MAX]);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let socket = socket.as_fd().as_raw_fd();
    let message = recvmsg::<()>(socket, &mut parts, Some(&mut control), flags)?;
    let (length, flags) = (message.bytes, message.flags);
    let mut descriptors = Vec::new();
    let mut cut = flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC);
    match message.cmsgs() {
        Ok(controls) => {
            for control in controls {
                if let ControlMessageOwned::ScmRights(received) = control {
                    descriptors.extend(received.into_iter().map(own));
                }
            }
        }
        Err(Errno::ENOBUFS) => cut = true,
        Err(errno) => return Err(errno.into()),
    }
    if cut || descriptors.len() > DESCRIPTORS_MAX {
        return Ok(Received::Cut);
    }
    // An empty packet is no message either, so both are the end.
    if length == 0 {
        return Ok(Received::End);
    }
    let bytes = buffer.get(..length).unwrap_or_default().to_vec();
    Ok(Received::Packet(Packet { bytes, descriptors }))
}

#[expect(unsafe_code, reason = "the kernel has just made this descriptor for this process")]
fn own(descriptor: RawFd) -> OwnedFd {
    // SAFETY: it came in SCM_RIGHTS of a message that was received here and nowhere else.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

fn call<T>(operation: &'static str, result: nix::Result<T>) -> Result<T, SocketError> {
    result.map_err(|errno| SocketError::Call { operation, cause: errno.into() })
}

#[cfg(test)]
mod tests;
