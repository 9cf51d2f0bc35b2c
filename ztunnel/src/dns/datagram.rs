//! Asking a resolver over UDP, for one question.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use names::Header;
use netns::{NetnsFd, connected_datagrams};
use nix::sys::socket::{MsgFlags, recv};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::{Failure, UPSTREAM_TIMEOUT};

/// Sends `message` to `resolver` from within the pod's namespace, and waits for the answer with its id.
///
/// A socket for each question: the kernel gives each a port of its own by chance, and takes answers from
/// nobody but the resolver, as it would for the application's own socket. `scratch` is room for a
/// datagram, borrowed only while one is read.
pub(crate) async fn forward(
    namespace: &NetnsFd,
    resolver: SocketAddr,
    message: &[u8],
    scratch: &RefCell<Vec<u8>>,
) -> Result<Vec<u8>, Failure> {
    let asked = async {
        let socket = connected_datagrams(namespace, resolver).map_err(io::Error::other)?;
        let socket = UdpSocket::from_std(socket)?;
        socket.send(message).await?;
        let id = Header::read(message).map(|header| header.id);
        loop {
            let answer = receive(&socket, scratch).await?;
            let header = Header::read(&answer);
            if header.is_some_and(|header| header.response && Some(header.id) == id) {
                return Ok::<_, io::Error>(answer);
            }
        }
    };
    match timeout(UPSTREAM_TIMEOUT, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err(Failure::Unreachable),
        Err(_) => Err(Failure::Timeout),
    }
}

async fn receive(socket: &UdpSocket, scratch: &RefCell<Vec<u8>>) -> io::Result<Vec<u8>> {
    // A refusal (ICMP) makes the socket not readable, but failed.
    let interest = Interest::READABLE | Interest::ERROR;
    let read = || {
        let mut room = scratch.borrow_mut();
        // Not through the runtime, which would look for readability first.
        let length = recv(socket.as_raw_fd(), &mut room, MsgFlags::MSG_DONTWAIT)?;
        Ok(room.get(..length).unwrap_or_default().to_vec())
    };
    socket.async_io(interest, read).await
}
