//! The agent's listening sockets inside a pod: one for each kind, family and proxy thread.
//!
//! They sit on ephemeral loopback ports and never on the ports they serve; `sk_lookup` hands them
//! their connections. So the pod's own port space is untouched, and squatting a port gains nothing.

use std::net::TcpListener;

use ebpf_abi::Kind;
use netns::{Family, NetnsFd, SocketError, listener};

/// Length of each accept queue. When it is full the kernel drops the handshake and the client
/// retries; `net.core.somaxconn` of the pod bounds it further.
const BACKLOG: i32 = 4_096;

/// The listeners of one kind for one thread. IPv6 is absent on a kernel without it.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) v4: TcpListener,
    pub(crate) v6: Option<TcpListener>,
}

/// The listeners of one thread.
#[derive(Debug)]
pub(crate) struct ThreadListeners {
    pub(crate) outbound: Pair,
    pub(crate) hbone: Pair,
    pub(crate) plaintext: Pair,
}

impl ThreadListeners {
    /// Each listener with its place.
    pub(crate) fn each(&self) -> impl Iterator<Item = (Kind, Family, &TcpListener)> {
        [
            (Kind::Outbound, &self.outbound),
            (Kind::Hbone, &self.hbone),
            (Kind::Plaintext, &self.plaintext),
        ]
        .into_iter()
        .flat_map(|(kind, pair)| {
            let v6 = pair.v6.iter().map(move |listener| (kind, Family::V6, listener));
            std::iter::once((kind, Family::V4, &pair.v4)).chain(v6)
        })
    }
}

/// Opens the listeners of every thread inside `namespace`.
pub(crate) fn open(namespace: &NetnsFd, threads: u16) -> Result<Vec<ThreadListeners>, SocketError> {
    (0..threads)
        .map(|_| {
            Ok(ThreadListeners {
                outbound: pair(namespace)?,
                hbone: pair(namespace)?,
                plaintext: pair(namespace)?,
            })
        })
        .collect()
}

fn pair(namespace: &NetnsFd) -> Result<Pair, SocketError> {
    let v4 = listener(namespace, Family::V4, BACKLOG)?;
    let v6 = match listener(namespace, Family::V6, BACKLOG) {
        Ok(listener) => Some(listener),
        Err(SocketError::Call { cause, .. }) if lacks_ipv6(&cause) => None,
        Err(error) => return Err(error),
    };
    Ok(Pair { v4, v6 })
}

pub(super) fn lacks_ipv6(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}
