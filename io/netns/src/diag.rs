//! Questions to the kernel's table of TCP sockets (`inet_diag`, see sock_diag(7)).

use std::net::{IpAddr, SocketAddr};

use crate::NetnsFd;
use crate::netlink::{self, Channel, NetlinkError, Request, attributes, u32_at};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `sizeof(struct inet_diag_msg)`.
const INET_DIAG_MSG: usize = 72;
const INET_DIAG_MARK: u16 = 15;
const TCP_SYN_RECV: u32 = 3;
const TCP_TIME_WAIT: u32 = 6;
const TCP_LISTEN: u32 = 10;
/// All states that are a live connection or still closing one.
const STATES: u32 = 0xfff & !(1 << TCP_TIME_WAIT | 1 << TCP_LISTEN);
/// `INET_DIAG_NOCOOKIE`, twice.
const NO_COOKIE: [u8; 8] = [0xff; 8];

/// Counts the TCP sockets (IPv4 and IPv6) whose mark equals `mark` under `mask`; listeners and
/// TIME_WAIT are left out. The kernel tells marks only to CAP_NET_ADMIN.
pub fn marked_sockets(namespace: &NetnsFd, mark: u32, mask: u32) -> Result<usize, NetlinkError> {
    let mut channel = Channel::open(namespace, libc::NETLINK_SOCK_DIAG)?;
    count(&mut channel, STATES, |message| {
        let found = attributes(message, INET_DIAG_MSG)
            .find(|(kind, _)| *kind == INET_DIAG_MARK)
            .and_then(|(_, value)| u32_at(value, 0));
        found.is_some_and(|found| found & mask == mark & mask)
    })
}

/// Counts the incoming TCP connections (IPv4 and IPv6) whose handshake is not complete: the kernel
/// has answered a SYN and waits for the peer. Those that live in SYN cookies are not seen.
pub fn half_open_connections(namespace: &NetnsFd) -> Result<usize, NetlinkError> {
    let mut channel = Channel::open(namespace, libc::NETLINK_SOCK_DIAG)?;
    count(&mut channel, 1 << TCP_SYN_RECV, |_| true)
}

/// Counts the sockets in `states` whose `inet_diag_msg`, with its attributes, is `wanted`.
fn count(
    channel: &mut Channel,
    states: u32,
    wanted: impl Fn(&[u8]) -> bool,
) -> Result<usize, NetlinkError> {
    let mut count = 0;
    for family in [libc::AF_INET, libc::AF_INET6] {
        let body = query(family, states, &[0; 48]);
        let request = Request::new("the sockets", SOCK_DIAG_BY_FAMILY, netlink::DUMP, &body);
        channel.ask(request, |kind, message| {
            if kind == SOCK_DIAG_BY_FAMILY && wanted(message) {
                count += 1;
            }
        })?;
    }
    Ok(count)
}

/// Whether a TCP socket with exactly this local and remote address exists in the namespace of the
/// calling thread. A listener does not count: it is what the kernel answers when no socket has the
/// tuple. Blocks the thread, for a few microseconds and at most [`netlink::DATA_PATH`].
pub(crate) fn tuple_in_use_here(
    local: SocketAddr,
    remote: SocketAddr,
) -> Result<bool, NetlinkError> {
    let mut channel = Channel::open_here(libc::NETLINK_SOCK_DIAG, netlink::DATA_PATH)?;
    let family = if local.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let mut id = [0; 48];
    id[0..2].copy_from_slice(&local.port().to_be_bytes());
    id[2..4].copy_from_slice(&remote.port().to_be_bytes());
    copy_ip(&mut id[4..20], local.ip());
    copy_ip(&mut id[20..36], remote.ip());
    id[40..48].copy_from_slice(&NO_COOKIE);
    let request =
        Request::new("a socket", SOCK_DIAG_BY_FAMILY, netlink::ACK, &query(family, u32::MAX, &id));
    let mut in_use = false;
    let asked = channel.ask(request, |kind, body| {
        // `inet_diag_msg.idiag_state` is the second byte.
        let state = body.get(1).copied().map(u32::from);
        in_use |= kind == SOCK_DIAG_BY_FAMILY && state != Some(TCP_LISTEN);
    });
    match asked {
        Err(error) if error.refusal() == Some(nix::errno::Errno::ENOENT) => Ok(false),
        Err(error) => Err(error),
        Ok(()) => Ok(in_use),
    }
}

/// `struct inet_diag_req_v2`.
fn query(family: i32, states: u32, id: &[u8; 48]) -> Vec<u8> {
    let byte = |value: i32| u8::try_from(value).unwrap_or_default();
    let mut body = vec![byte(family), byte(libc::IPPROTO_TCP), 0, 0];
    body.extend(states.to_ne_bytes());
    body.extend(id);
    body
}

fn copy_ip(into: &mut [u8], ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => into[..4].copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => into.copy_from_slice(&ip.octets()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
    use std::os::fd::AsRawFd as _;

    use super::*;

    /// Lets a listener answer SYNs and wait for a client's first byte.
    #[expect(unsafe_code, reason = "no crate wraps TCP_DEFER_ACCEPT")]
    fn defer_accept(listener: &TcpListener) {
        let seconds: libc::c_int = 60;
        let size = libc::socklen_t::try_from(size_of_val(&seconds)).expect("small");
        // SAFETY: the value lives through the call, and its size is the one given.
        let result = unsafe {
            libc::setsockopt(
                listener.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_DEFER_ACCEPT,
                std::ptr::from_ref(&seconds).cast(),
                size,
            )
        };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    }

    #[test]
    fn a_connection_is_half_open_until_its_handshake_is_complete() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("binds");
        let address = listener.local_addr().expect("address");
        let half_open = || {
            let mut channel = Channel::open_here(libc::NETLINK_SOCK_DIAG, netlink::CONTROL)
                .expect("the kernel answers");
            // `inet_diag_sockid.idiag_sport` follows four bytes.
            let ours = |message: &[u8]| message.get(4..6) == Some(&address.port().to_be_bytes());
            count(&mut channel, 1 << TCP_SYN_RECV, ours).expect("the kernel says")
        };
        assert_eq!(half_open(), 0);
        defer_accept(&listener);
        let mut client = TcpStream::connect(address).expect("connects");
        assert_eq!(half_open(), 1);
        client.write_all(b"x").expect("sends");
        listener.accept().expect("accepts");
        assert_eq!(half_open(), 0);
    }

    #[test]
    fn a_tuple_is_in_use_only_exactly() {
        for loopback in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            let listener = TcpListener::bind((loopback, 0)).expect("binds");
            let server = listener.local_addr().expect("address");
            let near = TcpStream::connect(server).expect("connects");
            let client = near.local_addr().expect("address");
            let used = |local, remote| tuple_in_use_here(local, remote).expect("the kernel says");
            assert!(used(client, server) && used(server, client));
            // A listener would take a SYN from anywhere; it is not in its way.
            assert!(!used(server, SocketAddr::new(loopback, 1)));
            assert!(!used(SocketAddr::new(loopback, 1), server));
        }
    }
}
