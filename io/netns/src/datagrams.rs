//! UDP sockets made inside a namespace and used outside it.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
    sockopt,
};
use socket2::{Protocol, SockFilter, Socket, Type};

use crate::sockets::call;
use crate::{Family, NetnsFd, SocketError, within};

/// One datagram that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Its bytes, at the beginning of the buffer.
    pub length: usize,
    /// Who sent it, as the kernel gave it.
    pub source: SocketAddr,
    /// The address that it was sent to.
    pub destination: IpAddr,
}

/// A socket for datagrams that processes of the namespace itself send, to any of its addresses; not
/// blocking. Datagrams from elsewhere are dropped by the kernel, whatever source address they claim.
///
/// `port` is taken if it is free; otherwise, and for zero, the kernel chooses one. Nobody else can bind
/// it: no SO_REUSEPORT.
pub fn own_datagrams(
    namespace: &NetnsFd,
    family: Family,
    port: u16,
) -> Result<UdpSocket, SocketError> {
    within(namespace, || {
        let socket = udp_socket(family)?;
        call("setsockopt SO_ATTACH_FILTER", socket.attach_filter(&FROM_LOOPBACK))?;
        let told = match family {
            Family::V4 => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true),
            Family::V6 => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true),
        };
        call("setsockopt IP_PKTINFO", told.map_err(io::Error::from))?;
        let any: IpAddr = match family {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        let bind = |port| socket.bind(&SocketAddr::new(any, port).into());
        let bound = match bind(port) {
            Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) => bind(0),
            bound => bound,
        };
        call("bind", bound)?;
        Ok(socket.into())
    })?
}

/// Accepts what came over the loopback device, where all that a namespace sends to itself passes, and
/// nothing else. The address tells less: IPv6 takes packets from outside that claim an own one.
const FROM_LOOPBACK: [SockFilter; 4] = {
    const LOAD_WORD: u16 = 0x20;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    /// `SKF_AD_OFF + SKF_AD_IFINDEX` (linux/filter.h): the index of the device.
    const DEVICE: u32 = 0xffff_f000 + 8;
    /// Index of the loopback device in every network namespace.
    const LOOPBACK: u32 = 1;
    [
        SockFilter::new(LOAD_WORD, 0, 0, DEVICE),
        SockFilter::new(JUMP_EQUAL, 0, 1, LOOPBACK),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
};

/// A socket of the namespace that is connected to `peer`: it sends to nobody else, and receives from
/// nobody else. Not blocking.
pub fn connected_datagrams(
    namespace: &NetnsFd,
    peer: SocketAddr,
) -> Result<UdpSocket, SocketError> {
    within(namespace, || {
        let socket = udp_socket(Family::of(peer.ip()))?;
        call("connect", socket.connect(&peer.into()))?;
        Ok(socket.into())
    })?
}

/// Takes a datagram from a socket of [`own_datagrams`]; `WouldBlock` when there is none. One that does
/// not fit `buffer`, or whose addresses the kernel does not tell, is `InvalidData`.
pub fn receive_datagram(socket: &impl AsFd, buffer: &mut [u8]) -> io::Result<Datagram> {
    let mut control = nix::cmsg_space!(libc::in6_pktinfo);
    let mut parts = [IoSliceMut::new(buffer)];
    let fd = socket.as_fd().as_raw_fd();
    let message =
        recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT)?;
    if message.flags.contains(MsgFlags::MSG_TRUNC) {
        return Err(invalid("the datagram is longer than the buffer"));
    }
    let source = message.address.and_then(socket_address);
    let source = source.ok_or_else(|| invalid("the datagram has no source address"))?;
    #[expect(clippy::wildcard_enum_match_arm, reason = "no other control message was asked for")]
    let destination = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            Some(Ipv4Addr::from_bits(u32::from_be(info.ipi_addr.s_addr)).into())
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => {
            Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into())
        }
        _ => None,
    });
    let destination =
        destination.ok_or_else(|| invalid("the datagram has no destination address"))?;
    Ok(Datagram { length: message.bytes, source, destination })
}

/// Answers a datagram through the socket that received it: from the address it was sent to, to where it
/// came from. `WouldBlock` when the kernel has no room.
pub fn answer_datagram(socket: &impl AsFd, asked: &Datagram, answer: &[u8]) -> io::Result<()> {
    let parts = [IoSlice::new(answer)];
    let to = SockaddrStorage::from(asked.source);
    let fd = socket.as_fd().as_raw_fd();
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let sent = match asked.destination {
        IpAddr::V4(ip) => {
            let source = libc::in_addr { s_addr: ip.to_bits().to_be() };
            let none = libc::in_addr { s_addr: 0 };
            let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: source, ipi_addr: none };
            sendmsg(fd, &parts, &[ControlMessage::Ipv4PacketInfo(&info)], flags, Some(&to))
        }
        IpAddr::V6(ip) => {
            let source = libc::in6_addr { s6_addr: ip.octets() };
            let info = libc::in6_pktinfo { ipi6_addr: source, ipi6_ifindex: 0 };
            sendmsg(fd, &parts, &[ControlMessage::Ipv6PacketInfo(&info)], flags, Some(&to))
        }
    };
    sent.map(drop).map_err(io::Error::from)
}

fn udp_socket(family: Family) -> Result<Socket, SocketError> {
    // `Socket::new` sets O_CLOEXEC.
    let kind = Type::DGRAM.nonblocking();
    let socket = call("socket", Socket::new(family.domain(), kind, Some(Protocol::UDP)))?;
    if family == Family::V6 {
        call("setsockopt IPV6_V6ONLY", socket.set_only_v6(true))?;
    }
    Ok(socket)
}

fn socket_address(address: SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::from(std::net::SocketAddrV4::from(*v4)));
    let v6 =
        || address.as_sockaddr_in6().map(|v6| SocketAddr::from(std::net::SocketAddrV6::from(*v6)));
    v4.or_else(v6)
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
