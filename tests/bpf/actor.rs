//! Opens sockets from inside a cgroup and a network namespace, on behalf of a test.
//!
//! A process is in one cgroup and the tests have several roles to play, so each role is one of these.
//! Commands come as lines on stdin, each is answered by one line: `ok …` or `err ERRNO`. Sockets are
//! named by their descriptors, so that the test can take a copy.
//!
//! `bpf-actor CGROUP NETNS`; `-` keeps the current one.
#![expect(unsafe_code, reason = "disconnecting, odd setsockopt calls and received bytes need it")]

use std::{
    collections::HashMap,
    fs,
    io::{self, BufRead, Read, Write},
    mem::{MaybeUninit, size_of},
    net::SocketAddr,
    os::fd::{AsRawFd, RawFd},
    time::Duration,
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, setns},
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Longest that a connect or accept may take.
const PATIENCE: Duration = Duration::from_secs(3);

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [cgroup, netns] = arguments.as_slice() else {
        return Err(io::Error::other("usage: bpf-actor CGROUP NETNS"));
    };
    if cgroup != "-" {
        fs::write(format!("{cgroup}/cgroup.procs"), std::process::id().to_string())?;
    }
    if netns != "-" {
        setns(fs::File::open(netns)?, CloneFlags::CLONE_NEWNET)?;
    }
    let mut actor = Actor::default();
    println!("ok ready");
    for line in io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        match actor.run(&words) {
            Ok(answer) => println!("ok {answer}"),
            Err(error) => println!("err {}", error.raw_os_error().unwrap_or(0)),
        }
        io::stdout().flush()?;
    }
    Ok(())
}

#[derive(Default)]
struct Actor {
    sockets: HashMap<RawFd, Socket>,
}

impl Actor {
    fn run(&mut self, words: &[&str]) -> io::Result<String> {
        match words {
            ["connect", to, options @ ..] => {
                let socket = connect(parse(to)?, options)?;
                self.keep(socket)
            }
            ["reconnect", id, to] => {
                let socket = self.socket(id)?;
                disconnect(socket)?;
                socket.connect(&parse(to)?.into())?;
                describe(socket)
            }
            ["listen", at, options @ ..] => {
                let socket = listen(parse(at)?, options)?;
                let local = local(&socket)?;
                let id = socket.as_raw_fd();
                self.sockets.insert(id, socket);
                Ok(format!("{id} {local} -"))
            }
            ["accept", id] => {
                let socket = accept(self.socket(id)?)?;
                self.keep(socket)
            }
            ["peer", id] => describe(self.socket(id)?),
            ["close", id] => {
                self.sockets.remove(&number(id)?);
                Ok(String::new())
            }
            ["reset", id] => {
                let socket = self.socket(id)?;
                socket.set_linger(Some(Duration::ZERO))?;
                self.sockets.remove(&number(id)?);
                Ok(String::new())
            }
            ["send", id, text] => {
                self.socket(id)?.send(text.as_bytes())?;
                Ok(String::new())
            }
            ["receive", id] => {
                let mut socket = self.socket(id)?;
                socket.set_read_timeout(Some(PATIENCE))?;
                let mut bytes = [0; 256];
                let count = socket.read(&mut bytes)?;
                Ok(String::from_utf8_lossy(&bytes[..count]).into_owned())
            }
            ["udp", at, options @ ..] => {
                let socket = datagrams(parse(at)?, options)?;
                let answer = format!("{} {} -", socket.as_raw_fd(), local(&socket)?);
                self.sockets.insert(socket.as_raw_fd(), socket);
                Ok(answer)
            }
            ["udp-connect", id, to] => {
                let socket = self.socket(id)?;
                socket.connect(&parse(to)?.into())?;
                describe(socket)
            }
            ["udp-send", id, to, text] => {
                self.socket(id)?.send_to(text.as_bytes(), &parse(to)?.into())?;
                Ok(String::new())
            }
            ["udp-receive", id] => {
                let socket = self.socket(id)?;
                socket.set_read_timeout(Some(PATIENCE))?;
                let mut bytes = [MaybeUninit::uninit(); 256];
                let (count, from) = socket.recv_from(&mut bytes)?;
                // SAFETY: the call above has filled so many.
                let text: String = bytes[..count]
                    .iter()
                    .map(|byte| char::from(unsafe { byte.assume_init() }))
                    .collect();
                Ok(format!("{text} {}", address(&from)))
            }
            ["setsockopt", family, level, name, length, value] => {
                setsockopt(family, number(level)?, number(name)?, number(length)?, value)?;
                Ok(String::new())
            }
            ["unshare"] => {
                nix::sched::unshare(CloneFlags::CLONE_NEWNET)?;
                Ok(String::new())
            }
            _ => Err(io::Error::from_raw_os_error(libc::ENOSYS)),
        }
    }

    fn keep(&mut self, socket: Socket) -> io::Result<String> {
        let answer = describe(&socket)?;
        self.sockets.insert(socket.as_raw_fd(), socket);
        Ok(answer)
    }

    fn socket(&self, id: &str) -> io::Result<&Socket> {
        self.sockets.get(&number(id)?).ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }
}

fn parse(address: &str) -> io::Result<SocketAddr> {
    address.parse().map_err(io::Error::other)
}

fn number(text: &str) -> io::Result<i32> {
    text.parse().map_err(io::Error::other)
}

fn new_socket(to: SocketAddr, options: &[&str]) -> io::Result<Socket> {
    let protocol = if options.contains(&"mptcp") { Protocol::MPTCP } else { Protocol::TCP };
    Socket::new(Domain::for_address(to), Type::STREAM, Some(protocol))
}

fn connect(to: SocketAddr, options: &[&str]) -> io::Result<Socket> {
    let socket = new_socket(to, options)?;
    for option in options {
        match option.split_once('=') {
            Some(("bind", ip)) => {
                let ip = ip.parse().map_err(io::Error::other)?;
                socket.bind(&SocketAddr::new(ip, 0).into())?;
            }
            Some(("device", name)) => socket.bind_device(Some(name.as_bytes()))?,
            _ => {}
        }
    }
    if options.contains(&"begun") {
        socket.set_nonblocking(true)?;
        return match socket.connect(&to.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
            _ => Ok(socket),
        };
    }
    if options.contains(&"nonblocking") {
        socket.set_nonblocking(true)?;
        match socket.connect(&to.into()) {
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
                wait(&socket, PollFlags::POLLOUT)?;
                if let Some(error) = socket.take_error()? {
                    return Err(error);
                }
            }
            other => other?,
        }
        socket.set_nonblocking(false)?;
        return Ok(socket);
    }
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.connect(&to.into())?;
    Ok(socket)
}

fn listen(at: SocketAddr, options: &[&str]) -> io::Result<Socket> {
    let socket = new_socket(at, options)?;
    socket.set_reuse_address(true)?;
    if options.contains(&"reuseport") {
        socket.set_reuse_port(true)?;
    }
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&at.into())?;
    socket.listen(128)?;
    Ok(socket)
}

/// A socket for datagrams, bound if the port or the address say so.
fn datagrams(at: SocketAddr, options: &[&str]) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(at), Type::DGRAM, Some(Protocol::UDP))?;
    for option in options {
        match option.split_once('=') {
            Some(("device", name)) => socket.bind_device(Some(name.as_bytes()))?,
            None if *option == "transparent" => {
                nix::sys::socket::setsockopt(
                    &socket,
                    nix::sys::socket::sockopt::IpTransparent,
                    &true,
                )?;
            }
            _ => {}
        }
    }
    if at.port() != 0 || !at.ip().is_unspecified() {
        socket.bind(&at.into())?;
    }
    Ok(socket)
}

fn accept(listener: &Socket) -> io::Result<Socket> {
    wait(listener, PollFlags::POLLIN)?;
    Ok(listener.accept()?.0)
}

fn wait(socket: &Socket, flags: PollFlags) -> io::Result<()> {
    use std::os::fd::AsFd;
    let mut fds = [PollFd::new(socket.as_fd(), flags)];
    let patience = PollTimeout::try_from(PATIENCE).map_err(io::Error::other)?;
    if poll(&mut fds, patience)? == 0 {
        return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
    }
    Ok(())
}

/// Puts a connected socket back into its first state, as an application may.
fn disconnect(socket: &Socket) -> io::Result<()> {
    let unspecified = libc::sockaddr {
        sa_family: libc::sa_family_t::try_from(libc::AF_UNSPEC).map_err(io::Error::other)?,
        sa_data: [0; 14],
    };
    let length =
        libc::socklen_t::try_from(size_of::<libc::sockaddr>()).map_err(io::Error::other)?;
    // SAFETY: an initialised address of the length given.
    let result = unsafe { libc::connect(socket.as_raw_fd(), &raw const unspecified, length) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets an option of a new socket to `length` bytes, of which the first four are `value`. `null`
/// passes no pointer at all.
fn setsockopt(family: &str, level: i32, name: i32, length: i32, value: &str) -> io::Result<()> {
    let (domain, kind) = match family {
        "v6" => (Domain::IPV6, Type::STREAM),
        _ => (Domain::IPV4, Type::STREAM),
    };
    let socket = Socket::new(domain, kind, None)?;
    let length = libc::socklen_t::try_from(length).map_err(io::Error::other)?;
    let mut bytes = vec![0u8; 65_536];
    let pointer = if value == "null" {
        std::ptr::null()
    } else {
        let value: u32 = value.parse().map_err(io::Error::other)?;
        bytes[..4].copy_from_slice(&value.to_ne_bytes());
        bytes.as_ptr()
    };
    // SAFETY: `bytes` is longer than any length that the tests use; the kernel checks a null pointer.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, pointer.cast(), length) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn describe(socket: &Socket) -> io::Result<String> {
    // One that is being opened has none yet.
    let peer = socket.peer_addr().map_or_else(|_| "-".to_owned(), |peer| address(&peer));
    Ok(format!("{} {} {peer}", socket.as_raw_fd(), local(socket)?))
}

fn local(socket: &Socket) -> io::Result<String> {
    Ok(address(&socket.local_addr()?))
}

fn address(address: &SockAddr) -> String {
    address.as_socket().map_or_else(|| "-".to_owned(), |address| address.to_string())
}
