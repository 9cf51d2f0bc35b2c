//! The little netlink this crate needs: one request, its replies, parsed with bounds.
//!
//! Kernel replies are ready when `send` returns, so a blocking socket with a receive timeout is
//! enough and needs no task. The socket is made inside the namespace and used outside.

use std::io::Read;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use crate::{EnterError, NetnsFd, within};

/// How long and how much a channel reads at once.
#[derive(Clone, Copy)]
pub(crate) struct Patience {
    /// Longest wait for the kernel's next datagram. Beyond it: [`NetlinkError`].
    reply: Duration,
    /// Receive buffer of one datagram. A longer one would be cut, which the parser reports.
    datagram: usize,
}

/// For dumps and changes, on control threads. The kernel sizes the datagrams of a dump to the
/// reader's buffer, up to 32 KiB.
pub(crate) const CONTROL: Patience =
    Patience { reply: Duration::from_secs(5), datagram: 64 * 1024 };
/// For a question about one object, on data threads, which it blocks. One message answers it, of
/// some 200 bytes, made before `send` returns: the bound is never met by a kernel that works.
pub(crate) const DATA_PATH: Patience =
    Patience { reply: Duration::from_millis(200), datagram: 4 * 1024 };
/// Datagrams read for one request; a dump of a million sockets stays below it. More is an error.
const DATAGRAMS_MAX: usize = 65_536;
/// `sizeof(struct nlmsghdr)`.
const HEADER: usize = 16;

/// `nlmsghdr.nlmsg_flags`.
pub(crate) const REQUEST: u16 = 0x1;
pub(crate) const ACK: u16 = 0x4;
pub(crate) const DUMP: u16 = 0x300;
pub(crate) const REPLACE: u16 = 0x100;
pub(crate) const EXCLUSIVE: u16 = 0x200;
pub(crate) const CREATE: u16 = 0x400;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// Why a netlink request failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The namespace was not entered.
    #[error("cannot enter the network namespace")]
    Enter(#[from] EnterError),
    /// A socket call failed.
    #[error("netlink {operation}")]
    Socket {
        /// `socket`, `send` or `receive`.
        operation: &'static str,
        /// What the kernel said.
        #[source]
        cause: std::io::Error,
    },
    /// The kernel refused the request.
    #[error("the kernel refused {request}")]
    Refused {
        /// What was asked for.
        request: &'static str,
        /// The kernel's reason.
        #[source]
        errno: Errno,
    },
    /// A reply is cut or longer than its bounds allow.
    #[error("the kernel's reply to {request} cannot be read")]
    Malformed {
        /// What was asked for.
        request: &'static str,
    },
}

impl NetlinkError {
    /// The kernel's reason, if it refused.
    pub(crate) fn refusal(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::Enter(_) | Self::Socket { .. } | Self::Malformed { .. } => None,
        }
    }
}

/// A netlink message under construction.
pub(crate) struct Request {
    name: &'static str,
    bytes: Vec<u8>,
}

impl Request {
    /// `body` is the family's fixed header.
    pub(crate) fn new(name: &'static str, kind: u16, flags: u16, body: &[u8]) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((REQUEST | flags).to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(body);
        Self { name, bytes }
    }

    /// Appends one attribute, padded to four bytes.
    pub(crate) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        // Attributes built here are a few bytes long.
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes
    }
}

/// A socket of one netlink protocol in one namespace.
pub(crate) struct Channel {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Channel {
    pub(crate) fn open(namespace: &NetnsFd, protocol: i32) -> Result<Self, NetlinkError> {
        within(namespace, || Self::open_here(protocol, CONTROL))?
    }

    /// In the namespace of the calling thread.
    pub(crate) fn open_here(protocol: i32, patience: Patience) -> Result<Self, NetlinkError> {
        let socket = netlink_socket(protocol)?;
        let failed = |cause| NetlinkError::Socket { operation: "socket", cause };
        socket.set_read_timeout(Some(patience.reply)).map_err(failed)?;
        Ok(Self { socket, buffer: vec![0; patience.datagram] })
    }

    /// Sends a request and hands every reply to `each`: its message type and body.
    pub(crate) fn ask(
        &mut self,
        request: Request,
        mut each: impl FnMut(u16, &[u8]),
    ) -> Result<(), NetlinkError> {
        let name = request.name;
        let malformed = || NetlinkError::Malformed { request: name };
        self.socket
            .send(&request.finish())
            .map_err(|cause| NetlinkError::Socket { operation: "send", cause })?;
        for _ in 0..DATAGRAMS_MAX {
            let length = self
                .socket
                .read(&mut self.buffer)
                .map_err(|cause| NetlinkError::Socket { operation: "receive", cause })?;
            for message in messages(&self.buffer[..length]) {
                let (kind, body) = message.ok_or_else(malformed)?;
                match kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => {
                        let code = i32_at(body, 0).ok_or_else(malformed)?;
                        let errno = Errno::from_raw(code.wrapping_neg());
                        return match code {
                            0 => Ok(()),
                            _ => Err(NetlinkError::Refused { request: name, errno }),
                        };
                    }
                    kind => each(kind, body),
                }
            }
        }
        Err(malformed())
    }
}

pub(crate) fn netlink_socket(protocol: i32) -> Result<Socket, NetlinkError> {
    Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(Protocol::from(protocol)))
        .map_err(|cause| NetlinkError::Socket { operation: "socket", cause })
}

/// Subscribes to legacy multicast groups (`RTMGRP_*`).
pub(crate) fn subscribe(socket: &impl AsFd, groups: u32) -> Result<(), NetlinkError> {
    use std::os::fd::AsRawFd as _;
    let address = nix::sys::socket::NetlinkAddr::new(0, groups);
    nix::sys::socket::bind(socket.as_fd().as_raw_fd(), &address)
        .map_err(|errno| NetlinkError::Socket { operation: "bind", cause: errno.into() })
}

/// The messages of a datagram; `None` where one is cut.
pub(crate) fn messages(datagram: &[u8]) -> impl Iterator<Item = Option<(u16, &[u8])>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let message = first_message(rest);
        rest = match message {
            Some((_, _, next)) => next,
            None => &[],
        };
        Some(message.map(|(kind, body, _)| (kind, body)))
    })
}

fn first_message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
    let kind = u16_at(bytes, 4)?;
    let body = bytes.get(HEADER..length)?;
    let next = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, body, next))
}

/// The attributes of a body after its fixed header; stops at the first that is cut.
pub(crate) fn attributes(body: &[u8], header: usize) -> impl Iterator<Item = (u16, &[u8])> {
    /// `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER` are flags in the type.
    const TYPE_MASK: u16 = 0x3fff;
    let mut rest = body.get(header..).unwrap_or_default();
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & TYPE_MASK;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_ne_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    bytes.get(at..)?.first_chunk().copied().map(i32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_they_were_written() {
        let bytes = Request::new("a test", 7, ACK, &[1, 2, 3, 4])
            .attribute(3, &[9])
            .attribute(0x8005, &[1, 2, 3, 4, 5])
            .finish();
        let parsed: Vec<_> = messages(&bytes).collect();
        assert_eq!(parsed.len(), 1);
        let (kind, body) = parsed[0].expect("whole");
        assert_eq!(kind, 7);
        let read: Vec<_> = attributes(body, 4).collect();
        assert_eq!(read, [(3, &[9][..]), (5, &[1, 2, 3, 4, 5][..])]);
    }

    #[test]
    fn a_cut_message_is_reported_and_ends_the_datagram() {
        let bytes = Request::new("a test", 7, 0, &[1, 2, 3, 4]).finish();
        let parsed: Vec<_> = messages(&bytes[..bytes.len() - 1]).collect();
        assert_eq!(parsed, [None]);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_end(bytes in proptest::collection::vec(0_u8.., 0..300)) {
            for (_, body) in messages(&bytes).flatten() {
                let _ = attributes(body, 8).count();
            }
        }
    }
}
