//! The addresses of a namespace, and notice of changes of its network.

use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use socket2::Socket;
use tokio::io::unix::AsyncFd;

use crate::netlink::{self, Channel, NetlinkError, Request, attributes, u32_at};
use crate::{NetnsFd, within};

const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
/// `sizeof(struct ifaddrmsg)`.
const IFADDRMSG: usize = 8;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
/// Duplicate address detection has not ended, or found a duplicate: not usable yet.
const IFA_F_UNUSABLE: u32 = 0x40 | 0x08;

/// Groups of notices (linux/rtnetlink.h): links; addresses, routes and rules of both families. The last is
/// `RTNLGRP_IPV6_RULE`, which has no name as a bit.
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 1 << 18;

/// One address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LocalAddress {
    /// The address.
    pub ip: IpAddr,
    /// Prefix length of the interface's network, in bits.
    pub prefix_length: u8,
    /// The interface.
    pub interface: u32,
    /// Whether duplicate address detection has passed; always so for IPv4.
    pub usable: bool,
}

impl LocalAddress {
    /// Neither loopback, link-local, multicast nor unspecified: an address peers can know.
    #[must_use]
    pub fn is_global_unicast(&self) -> bool {
        match self.ip {
            IpAddr::V4(ip) => {
                !(ip.is_loopback()
                    || ip.is_link_local()
                    || ip.is_multicast()
                    || ip.is_broadcast()
                    || ip.is_unspecified())
            }
            IpAddr::V6(ip) => {
                !(ip.is_loopback()
                    || ip.is_unicast_link_local()
                    || ip.is_multicast()
                    || ip.is_unspecified())
            }
        }
    }
}

/// Every address of every interface of the namespace, sorted.
pub fn addresses(namespace: &NetnsFd) -> Result<Vec<LocalAddress>, NetlinkError> {
    let mut channel = Channel::open(namespace, libc::NETLINK_ROUTE)?;
    let mut found = Vec::new();
    let request = Request::new("the addresses", RTM_GETADDR, netlink::DUMP, &[0; IFADDRMSG]);
    channel.ask(request, |kind, body| {
        if kind == RTM_NEWADDR {
            found.extend(parse(body));
        }
    })?;
    found.sort_unstable();
    Ok(found)
}

fn parse(body: &[u8]) -> Option<LocalAddress> {
    let prefix_length = *body.get(1)?;
    let mut flags = u32::from(*body.get(2)?);
    let interface = u32_at(body, 4)?;
    let (mut address, mut local) = (None, None);
    for (kind, value) in attributes(body, IFADDRMSG) {
        match kind {
            IFA_ADDRESS => address = parse_ip(value),
            // On point-to-point links IFA_ADDRESS is the far end; this one is ours.
            IFA_LOCAL => local = parse_ip(value),
            IFA_FLAGS => flags = u32_at(value, 0)?,
            _ => {}
        }
    }
    let usable = flags & IFA_F_UNUSABLE == 0;
    Some(LocalAddress { ip: local.or(address)?, prefix_length, interface, usable })
}

fn parse_ip(value: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(value).map(|octets| Ipv4Addr::from(octets).into());
    v4.or_else(|_| <[u8; 16]>::try_from(value).map(|octets| Ipv6Addr::from(octets).into())).ok()
}

/// Wakes when an address, link, route or rule of a namespace changes. Says that, not what: the reader
/// looks again, so a lost notice costs nothing.
#[derive(Debug)]
pub struct NetworkWatch(AsyncFd<Socket>);

impl NetworkWatch {
    /// Must be called within a tokio runtime with I/O enabled.
    pub fn new(namespace: &NetnsFd) -> Result<Self, NetlinkError> {
        let socket = within(namespace, || {
            let socket = netlink::netlink_socket(libc::NETLINK_ROUTE)?;
            netlink::subscribe(&socket, GROUPS)?;
            Ok::<_, NetlinkError>(socket)
        })??;
        let failed = |cause| NetlinkError::Socket { operation: "register", cause };
        socket.set_nonblocking(true).map_err(failed)?;
        #[expect(unsafe_code, reason = "tokio asks for I/O safety in this form")]
        // SAFETY: the socket owns its descriptor, and is never replaced inside the `AsyncFd`.
        let registered = unsafe { AsyncFd::register(socket) };
        Ok(Self(registered.map_err(|error| failed(error.into()))?))
    }

    /// Waits for the next change and takes all notices that are queued. Cancel safe: a notice
    /// that was not taken wakes the next call.
    pub async fn changed(&mut self) -> std::io::Result<()> {
        let mut ready = self.0.readable_mut().await?;
        let mut sink = [0; 4096];
        loop {
            match ready.try_io(|socket| socket.get_mut().read(&mut sink)) {
                // ENOBUFS means notices were lost; that there were some is all we tell.
                Ok(Ok(_)) => {}
                Ok(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => return Ok(()),
            }
        }
    }
}
