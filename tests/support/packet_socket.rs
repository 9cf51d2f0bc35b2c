//! An AF_PACKET socket on interfaces (packet(7)); the system calls no crate wraps.

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::net::if_::if_nametoindex;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Kernel memory for frames that are not read yet. Enough for bursts of seconds; more is counted
/// as lost.
const RECEIVE_BUFFER_BYTES: usize = 256 << 20;
/// How long one read waits, so that its reader can look around.
const READ_TIMEOUT: Duration = Duration::from_millis(20);

/// Which interfaces of a namespace.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Devices<'n> {
    /// One.
    Named(&'n str),
    /// All, also those that appear later.
    Every,
}

/// Opens it in the namespace of the calling thread.
pub(crate) fn open(devices: Devices<'_>) -> io::Result<Socket> {
    let index = match devices {
        Devices::Named(name) => if_nametoindex(name)?,
        Devices::Every => 0,
    };
    // Protocol 0: nothing arrives before `bind` has chosen the interface.
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
    set_receive_buffer(&socket)?;
    socket.set_read_timeout(Some(READ_TIMEOUT))?;
    socket.bind(&link_address(index)?)?;
    Ok(socket)
}

#[expect(unsafe_code, reason = "socket2 has no constructor for link-layer addresses")]
fn link_address(index: u32) -> io::Result<SockAddr> {
    let every_protocol = u16::try_from(libc::ETH_P_ALL).map_err(io::Error::other)?;
    let family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    let size = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>());
    let size = size.map_err(io::Error::other)?;
    // SAFETY: the storage is large enough for every address, aligned for them, and zeroed; the
    // family and the length that are written belong to `sockaddr_ll`.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let link = storage.cast::<libc::sockaddr_ll>();
            (*link).sll_family = family;
            (*link).sll_protocol = every_protocol.to_be();
            (*link).sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
            *length = size;
            Ok(())
        })?
    };
    Ok(address)
}

fn set_receive_buffer(socket: &Socket) -> io::Result<()> {
    nix::sys::socket::setsockopt(
        socket,
        nix::sys::socket::sockopt::RcvBufForce,
        &RECEIVE_BUFFER_BYTES,
    )
    .map_err(io::Error::from)
}

/// Frames that the kernel dropped since the last call: `tp_drops` of PACKET_STATISTICS.
#[expect(unsafe_code, reason = "no crate wraps PACKET_STATISTICS")]
pub(crate) fn drops(socket: &Socket) -> io::Result<u64> {
    let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut length =
        libc::socklen_t::try_from(size_of::<libc::tpacket_stats>()).map_err(io::Error::other)?;
    // SAFETY: both pointers are to live values of the stated size.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut statistics).cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(statistics.tp_drops.into())
}
