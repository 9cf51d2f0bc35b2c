//! TCP sockets made inside a namespace and used outside it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::TcpStream;

use crate::diag::tuple_in_use_here;
use crate::{EnterError, NetlinkError, NetnsFd, within};

/// Tries to find a source port whose mirror image is free. Each is chosen by the kernel from some
/// 28,000; eight in a row are taken only when nearly all are. After that: [`DialError::Ports`].
const PORT_TRIES: usize = 8;

/// Address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6, never v4-mapped: our sockets are V6ONLY.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    #[must_use]
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Its loopback address.
    #[must_use]
    pub fn loopback(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::LOCALHOST.into(),
            Self::V6 => Ipv6Addr::LOCALHOST.into(),
        }
    }

    /// Its address that stands for all.
    #[must_use]
    pub fn unspecified(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Self::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    pub(crate) fn domain(self) -> Domain {
        match self {
            Self::V4 => Domain::IPV4,
            Self::V6 => Domain::IPV6,
        }
    }
}

/// A socket call that failed.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The namespace was not entered.
    #[error("cannot enter the network namespace")]
    Enter(#[from] EnterError),
    /// The call.
    #[error("{operation} failed")]
    Call {
        /// Its name.
        operation: &'static str,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
}

/// A listening socket on an ephemeral loopback port of the namespace, not blocking.
///
/// `sk_lookup` hands it connections for every address and port; the accepted sockets carry the
/// address the client dialled, so the listener's own never matters. No SO_REUSEPORT: a process of
/// the pod could join the group.
pub fn listener(
    namespace: &NetnsFd,
    family: Family,
    backlog: i32,
) -> Result<std::net::TcpListener, SocketError> {
    within(namespace, || {
        let socket = tcp_socket(family)?;
        // The address need not be there: a pod may switch IPv6 on later.
        option("setsockopt IP_FREEBIND", &socket, sockopt::IpFreebind, true)?;
        // For the sockets it accepts, which inherit it: each occupies the port that its client
        // dialled, and the application must be able to listen there again.
        call("setsockopt SO_REUSEADDR", socket.set_reuse_address(true))?;
        let address = SocketAddr::new(family.loopback(), 0);
        call("bind", socket.bind(&address.into()))?;
        call("listen", socket.listen(backlog))?;
        Ok(socket.into())
    })?
}

/// A listening socket on a port of every address of the namespace, not blocking; for traffic that
/// rules of somebody else redirect there.
///
/// Its accepted sockets may have addresses that are not the namespace's (`IP_TRANSPARENT`), and it
/// shares the port with the listeners of other threads and of the agent that comes after this one
/// (`SO_REUSEPORT`). `mark` is what those rules know the proxy's packets by.
pub fn shared_listener(
    namespace: &NetnsFd,
    family: Family,
    port: u16,
    backlog: i32,
    mark: u32,
) -> Result<std::net::TcpListener, SocketError> {
    within(namespace, || {
        let socket = tcp_socket(family)?;
        option("setsockopt IP_TRANSPARENT", &socket, sockopt::IpTransparent, true)?;
        call("setsockopt SO_REUSEADDR", socket.set_reuse_address(true))?;
        call("setsockopt SO_REUSEPORT", socket.set_reuse_port(true))?;
        call("setsockopt SO_MARK", socket.set_mark(mark))?;
        call("bind", socket.bind(&SocketAddr::new(family.unspecified(), port).into()))?;
        call("listen", socket.listen(backlog))?;
        Ok(socket.into())
    })?
}

/// Where a connection went before a rule of netfilter redirected it here (`SO_ORIGINAL_DST`).
/// ENOENT: no rule has.
pub fn redirected_from(socket: &impl AsFd) -> io::Result<SocketAddr> {
    let socket = SockRef::from(socket);
    // An IPv6 socket has the option of its own level only.
    let original = match socket.domain()? {
        Domain::IPV6 => socket.original_dst_v6()?,
        _ => socket.original_dst_v4()?,
    };
    original.as_socket().ok_or_else(|| io::Error::other("the original destination is no address"))
}

/// Keepalive probes (tcp(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Idle time before the first probe.
    pub idle: Duration,
    /// Time between probes.
    pub interval: Duration,
    /// Unanswered probes before the connection is dead.
    pub probes: u32,
}

/// Options for every TCP socket of the proxy, dialled or accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TcpTuning {
    /// Keepalive, if any.
    pub keepalive: Option<Keepalive>,
    /// Longest time that sent data may stay unacknowledged (`TCP_USER_TIMEOUT`), if bounded.
    pub user_timeout: Option<Duration>,
    /// Congestion control algorithm; the system's default where unset.
    pub congestion: Option<Arc<str>>,
    /// `SO_MARK` by which rules of somebody else know the proxy's packets; none with our own hooks.
    pub mark: Option<u32>,
}

impl TcpTuning {
    /// Sets the options, and TCP_NODELAY: the proxy writes whole buffers and never wants to wait.
    pub fn apply(&self, socket: &impl AsFd) -> Result<(), SocketError> {
        let socket = SockRef::from(socket);
        call("setsockopt TCP_NODELAY", socket.set_tcp_nodelay(true))?;
        if let Some(keepalive) = &self.keepalive {
            let parameters = TcpKeepalive::new()
                .with_time(keepalive.idle)
                .with_interval(keepalive.interval)
                .with_retries(keepalive.probes);
            call("setsockopt SO_KEEPALIVE", socket.set_tcp_keepalive(&parameters))?;
        }
        if let Some(timeout) = self.user_timeout {
            call("setsockopt TCP_USER_TIMEOUT", socket.set_tcp_user_timeout(Some(timeout)))?;
        }
        if let Some(mark) = self.mark {
            call("setsockopt SO_MARK", socket.set_mark(mark))?;
        }
        if let Some(name) = &self.congestion {
            call("setsockopt TCP_CONGESTION", socket.set_tcp_congestion(name.as_bytes()))?;
        }
        Ok(())
    }
}

/// Bytes the kernel may hold unsent on a tunnel's socket: what lies there cannot be overtaken, so a
/// bulk stream would delay every other stream of its tunnel by as much.
const UNSENT_MAX: u32 = 128 * 1024;

/// Keeps a tunnel's unsent bytes out of the kernel (`TCP_NOTSENT_LOWAT`, tcp(7)).
///
/// A kernel that refuses costs latency beside bulk streams and nothing else, so it is no error.
pub fn limit_unsent(socket: &impl AsFd) {
    let _ = SockRef::from(socket).set_tcp_notsent_lowat(UNSENT_MAX);
}

/// Which source address a dialled connection has. The port is always the kernel's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The namespace's own, by its routes.
    Own,
    /// This address of the namespace; fails if it has left.
    Local(IpAddr),
    /// A foreign one: the client's, so that the application sees it. `mark` selects the routing
    /// that brings replies back ([`crate::MarkRouting`]).
    Preserved {
        /// The client.
        ip: IpAddr,
        /// `SO_MARK`.
        mark: u32,
    },
    /// The same, where the client's own connections to the same destination end in this
    /// namespace. A source port that one of them uses would deliver our SYN to that socket, and the
    /// connection would hang; such ports are recognised and another is taken.
    PreservedBeside {
        /// The client.
        ip: IpAddr,
        /// `SO_MARK`.
        mark: u32,
    },
}

/// A TCP connection to be made from inside a namespace.
#[derive(Clone, Debug)]
pub struct Dial {
    /// Where from.
    pub namespace: NetnsFd,
    /// Source address.
    pub source: Source,
    /// Socket options.
    pub tuning: TcpTuning,
    /// Longest time until the connection stands.
    pub timeout: Duration,
}

/// Why no connection was made.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No answer within the time.
    #[error("{destination} did not answer within {timeout:?}")]
    Timeout {
        /// Where to.
        destination: SocketAddr,
        /// The bound.
        timeout: Duration,
    },
    /// The destination refused (RST).
    #[error("{0} refused the connection")]
    Refused(SocketAddr),
    /// No route, or a router said so.
    #[error("{destination} cannot be reached")]
    Unreachable {
        /// Where to.
        destination: SocketAddr,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// No free source port was found.
    #[error("no source port of {ip} is free towards {destination}")]
    Ports {
        /// The preserved address.
        ip: IpAddr,
        /// Where to.
        destination: SocketAddr,
    },
    /// The kernel's socket table could not be asked about a source port.
    #[error("cannot look up the source port")]
    Lookup(#[source] NetlinkError),
    /// Another call failed.
    #[error(transparent)]
    Socket(#[from] SocketError),
}

impl From<EnterError> for DialError {
    fn from(error: EnterError) -> Self {
        Self::Socket(error.into())
    }
}

impl Dial {
    /// Connects. The socket is made and its SYN sent inside the namespace, on this thread and
    /// without waiting; the wait is outside. Cancel safe: dropping the future closes the socket.
    pub async fn connect(&self, destination: SocketAddr) -> Result<TcpStream, DialError> {
        let deadline = tokio::time::Instant::now() + self.timeout;
        let socket = within(&self.namespace, || self.begin(destination))??;
        let stream = call("register", TcpStream::from_std(socket.into()))?;
        let Ok(ready) = tokio::time::timeout_at(deadline, stream.writable()).await else {
            return Err(DialError::Timeout { destination, timeout: self.timeout });
        };
        call("wait", ready)?;
        match call("getsockopt SO_ERROR", stream.take_error())? {
            None => Ok(stream),
            Some(cause) => Err(self.classify(destination, cause)),
        }
    }

    /// Makes the socket and sends the SYN. Runs inside the namespace.
    fn begin(&self, destination: SocketAddr) -> Result<Socket, DialError> {
        let family = Family::of(destination.ip());
        let mut socket = tcp_socket(family)?;
        match self.source {
            Source::Own => {}
            Source::Local(ip) => bind_late(&socket, ip)?,
            Source::Preserved { ip, mark } => {
                make_transparent(&socket, mark)?;
                bind_late(&socket, ip)?;
            }
            Source::PreservedBeside { ip, mark } => {
                socket = bind_unmirrored(family, ip, mark, destination)?;
            }
        }
        self.tuning.apply(&socket)?;
        match socket.connect(&destination.into()) {
            Ok(()) => Ok(socket),
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(socket),
            Err(error) => Err(self.classify(destination, error)),
        }
    }

    fn classify(&self, destination: SocketAddr, cause: io::Error) -> DialError {
        match cause.raw_os_error() {
            Some(libc::ECONNREFUSED | libc::ECONNRESET) => DialError::Refused(destination),
            Some(libc::ETIMEDOUT) => DialError::Timeout { destination, timeout: self.timeout },
            Some(libc::EHOSTUNREACH | libc::ENETUNREACH | libc::ENETDOWN) => {
                DialError::Unreachable { destination, cause }
            }
            _ => SocketError::Call { operation: "connect", cause }.into(),
        }
    }
}

/// Lets a socket have a foreign source address.
fn make_transparent(socket: &Socket, mark: u32) -> Result<(), SocketError> {
    // The IPv4 level works on IPv6 sockets too: the flags are one pair in the kernel.
    option("setsockopt IP_TRANSPARENT", socket, sockopt::IpTransparent, true)?;
    option("setsockopt IP_FREEBIND", socket, sockopt::IpFreebind, true)?;
    call("setsockopt SO_MARK", socket.set_mark(mark))
}

/// A transparent socket on a source port that no connection from `ip` to `destination` uses.
///
/// The look-up must precede the SYN: afterwards the application's own accepted socket has the
/// mirrored tuple. Between the two a client may still take the port; the dial then times out.
fn bind_unmirrored(
    family: Family,
    ip: IpAddr,
    mark: u32,
    destination: SocketAddr,
) -> Result<Socket, DialError> {
    // Kept until the end, so that the kernel does not offer the same port again.
    let mut taken = Vec::new();
    for _ in 0..PORT_TRIES {
        let socket = tcp_socket(family)?;
        make_transparent(&socket, mark)?;
        match socket.bind(&SocketAddr::new(ip, 0).into()) {
            Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) => break,
            result => call("bind", result)?,
        }
        let local = call("getsockname", socket.local_addr())?.as_socket();
        let mirrored = match local {
            Some(local) => tuple_in_use_here(destination, local).map_err(DialError::Lookup)?,
            None => false,
        };
        if !mirrored {
            return Ok(socket);
        }
        taken.push(socket);
    }
    Err(DialError::Ports { ip, destination })
}

/// Binds the address and leaves the port to `connect`, which knows the destination: only then can
/// the kernel use one port for several destinations.
fn bind_late(socket: &Socket, ip: IpAddr) -> Result<(), SocketError> {
    option("setsockopt IP_BIND_ADDRESS_NO_PORT", socket, sockopt::IpBindAddressNoPort, true)?;
    call("bind", socket.bind(&SocketAddr::new(ip, 0).into()))
}

fn tcp_socket(family: Family) -> Result<Socket, SocketError> {
    // `Socket::new` sets O_CLOEXEC.
    let kind = Type::STREAM.nonblocking();
    let socket = call("socket", Socket::new(family.domain(), kind, Some(Protocol::TCP)))?;
    if family == Family::V6 {
        call("setsockopt IPV6_V6ONLY", socket.set_only_v6(true))?;
    }
    Ok(socket)
}

fn option<O: nix::sys::socket::SetSockOpt<Val = bool>>(
    operation: &'static str,
    socket: &Socket,
    name: O,
    value: bool,
) -> Result<(), SocketError> {
    call(operation, setsockopt(socket, name, &value).map_err(io::Error::from))
}

pub(crate) fn call<T>(operation: &'static str, result: io::Result<T>) -> Result<T, SocketError> {
    result.map_err(|cause| SocketError::Call { operation, cause })
}
