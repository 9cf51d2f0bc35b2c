//! Making sockets the way a test asks for.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use tests::protocol::{ConnectOptions, Failure, Hex, Response};

use crate::uring;

/// How long connecting takes at most, unless the options say.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A connected, blocking socket.
pub(crate) fn connect(target: SocketAddr, options: &ConnectOptions) -> Result<TcpStream, Failure> {
    let address = if options.mapped { mapped(target) } else { target };
    let protocol = if options.mptcp { Protocol::MPTCP } else { Protocol::TCP };
    let socket = prepared(address, Type::STREAM, protocol, options)?;
    if options.fast_open {
        setsockopt(&socket, sockopt::TcpFastOpenConnect, &true)
            .map_err(|errno| Failure::io("fast open", &errno.into()))?;
    }
    connect_within(&socket, address, options).map_err(|error| Failure::io("connect", &error))?;
    socket.set_tcp_nodelay(true).map_err(|error| Failure::io("no delay", &error))?;
    Ok(socket.into())
}

fn connect_within(
    socket: &Socket,
    address: SocketAddr,
    options: &ConnectOptions,
) -> io::Result<()> {
    let timeout = match options.timeout_ms {
        0 => CONNECT_TIMEOUT,
        limit => Duration::from_millis(limit),
    };
    if options.non_blocking {
        // As an event loop does it: EINPROGRESS, then wait for writability, then SO_ERROR.
        return socket.connect_timeout(&address.into(), timeout);
    }
    // A blocking connect gives up after the send timeout, with EINPROGRESS.
    socket.set_write_timeout(Some(timeout))?;
    let connected = if options.io_uring {
        uring::connect(socket, &address.into())
    } else {
        socket.connect(&address.into())
    };
    match connected {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
            return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
        }
        result => result?,
    }
    socket.set_write_timeout(None)
}

/// Sends one datagram.
pub(crate) fn send_udp(
    target: SocketAddr,
    data: &[u8],
    options: &ConnectOptions,
) -> Result<(), Failure> {
    let socket = prepared(target, Type::DGRAM, Protocol::UDP, options)?;
    let sent = socket.send_to(data, &target.into());
    sent.map(|_| ()).map_err(|error| Failure::io("send", &error))
}

/// How long an answer may take: longer than a proxy waits for a resolver.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// Sends questions from one socket and waits for as many answers.
pub(crate) fn ask(
    questions: &[(SocketAddr, Hex)],
    connected: bool,
    options: &ConnectOptions,
) -> Result<Response, Failure> {
    let failed = |operation: &'static str| move |error: io::Error| Failure::io(operation, &error);
    let first = questions.first().map(|(target, _)| *target);
    let first = first.ok_or_else(|| Failure::other("ask", "there is no question"))?;
    let socket = prepared(first, Type::DGRAM, Protocol::UDP, options)?;
    socket.set_read_timeout(Some(ANSWER_TIMEOUT)).map_err(failed("timeout"))?;
    let socket = UdpSocket::from(socket);
    if connected {
        socket.connect(first).map_err(failed("connect"))?;
    }
    for (target, Hex(message)) in questions {
        let sent = if connected { socket.send(message) } else { socket.send_to(message, target) };
        sent.map_err(failed("send"))?;
    }
    let mut answers = Vec::new();
    for _ in questions {
        let mut buffer = vec![0; 65_535];
        let (length, source) = socket.recv_from(&mut buffer).map_err(failed("receive"))?;
        buffer.truncate(length);
        answers.push((source, Hex(buffer)));
    }
    Ok(Response::Answered { answers, peer: socket.peer_addr().ok() })
}

fn prepared(
    address: SocketAddr,
    kind: Type,
    protocol: Protocol,
    options: &ConnectOptions,
) -> Result<Socket, Failure> {
    let failed = |operation: &'static str| move |error: io::Error| Failure::io(operation, &error);
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, kind, Some(protocol)).map_err(failed("socket"))?;
    if let Some(mark) = options.mark {
        socket.set_mark(mark).map_err(failed("mark"))?;
    }
    if let Some(device) = &options.device {
        socket.bind_device(Some(device.as_bytes())).map_err(failed("bind to device"))?;
    }
    if let Some(source) = options.source {
        let source = if address.is_ipv6() { mapped(source) } else { source };
        socket.set_reuse_address(true).map_err(failed("reuse address"))?;
        socket.bind(&source.into()).map_err(failed("bind"))?;
    }
    Ok(socket)
}

/// `::ffff:a.b.c.d` for an IPv4 address.
fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) => (ip.to_ipv6_mapped(), address.port()).into(),
        IpAddr::V6(_) => address,
    }
}
