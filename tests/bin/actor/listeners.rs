//! Servers: a thread for each listener and one for each of its connections.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use socket2::{Domain, SockRef, Socket, Type};
use tests::protocol::{Accepted, Behaviour, Failure, Report, Response, Stream, error_name};

use crate::transfer;

/// Connections that may wait to be accepted. Deep, so that bursts are the kernel's business.
const BACKLOG: i32 = 4096;
/// How often a listener looks whether it was stopped.
const STOP_POLL: Duration = Duration::from_millis(20);
/// Largest body of a request that is read and thrown away.
const BODY_BYTES_MAX: u64 = 1 << 20;

/// Listeners by number.
#[derive(Default)]
pub(crate) struct Listeners {
    next: AtomicU64,
    open: Mutex<BTreeMap<u64, Arc<Listener>>>,
}

#[derive(Default)]
struct Listener {
    stopped: AtomicBool,
    report: Mutex<Report>,
}

impl Listeners {
    pub(crate) fn listen(
        &self,
        address: SocketAddr,
        behaviour: Behaviour,
    ) -> Result<Response, Failure> {
        let socket = bind(address).map_err(|error| Failure::io("listen", &error))?;
        let address = socket.local_addr().map_err(|error| Failure::io("getsockname", &error))?;
        let listener = Arc::new(Listener::default());
        let accepting = listener.clone();
        thread::Builder::new()
            .spawn(move || accept(&socket, &accepting, &Arc::new(behaviour)))
            .map_err(|error| Failure::io("start a thread", &error))?;
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.open.lock().insert(id, listener);
        Ok(Response::Listening { listener: id, address })
    }

    fn get(&self, id: u64) -> Result<Arc<Listener>, Failure> {
        let listener = self.open.lock().get(&id).cloned();
        listener.ok_or_else(|| Failure::other("listener", format!("there is no listener {id}")))
    }

    pub(crate) fn stop(&self, id: u64) -> Result<Response, Failure> {
        self.get(id)?.stopped.store(true, Ordering::Relaxed);
        // The port is free when the answer arrives.
        thread::sleep(STOP_POLL * 3);
        Ok(Response::Done)
    }

    pub(crate) fn report(&self, id: u64) -> Result<Response, Failure> {
        Ok(Response::Report(self.get(id)?.report.lock().clone()))
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // `[::]` serves both families.
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    // `accept` honours it, so that a stopped listener is noticed.
    socket.set_read_timeout(Some(STOP_POLL))?;
    Ok(socket.into())
}

fn accept(socket: &TcpListener, listener: &Arc<Listener>, behaviour: &Arc<Behaviour>) {
    while !listener.stopped.load(Ordering::Relaxed) {
        let (stream, peer) = match socket.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            // The client left before it was accepted, or descriptors ran out for now.
            Err(_) => {
                thread::sleep(STOP_POLL);
                continue;
            }
        };
        let (listener, behaviour) = (listener.clone(), behaviour.clone());
        let started = thread::Builder::new().spawn(move || {
            if let Ok(local) = stream.local_addr() {
                let entry = Entry::open(&listener, peer, local);
                let result = serve(&stream, peer, local, &behaviour, &entry);
                drop(stream);
                entry.close(&result);
            }
        });
        if started.is_err() {
            thread::sleep(STOP_POLL);
        }
    }
}

/// One connection's line of the report.
struct Entry<'a> {
    listener: &'a Listener,
    /// `None`: the report is full.
    index: Option<usize>,
}

impl<'a> Entry<'a> {
    fn open(listener: &'a Listener, peer: SocketAddr, local: SocketAddr) -> Self {
        let mut report = listener.report.lock();
        report.accepted += 1;
        let index = report.connections.len();
        if index >= Report::KEPT {
            return Self { listener, index: None };
        }
        report.connections.push(Accepted { peer, local, received: 0, digest: 0, end: None });
        Self { listener, index: Some(index) }
    }

    fn update(&self, change: impl FnOnce(&mut Accepted)) {
        let mut report = self.listener.report.lock();
        if let Some(accepted) = self.index.and_then(|index| report.connections.get_mut(index)) {
            change(accepted);
        }
    }

    fn received(&self, bytes: u64) {
        self.update(|accepted| accepted.received = bytes);
    }

    fn close(&self, result: &io::Result<()>) {
        let end = result.as_ref().map_or_else(error_name, |()| "ok".to_owned());
        self.update(|accepted| accepted.end = Some(end));
    }
}

fn serve(
    mut stream: &TcpStream,
    peer: SocketAddr,
    local: SocketAddr,
    behaviour: &Behaviour,
    entry: &Entry<'_>,
) -> io::Result<()> {
    if matches!(behaviour, Behaviour::Reset) {
        return SockRef::from(stream).set_linger(Some(Duration::ZERO));
    }
    // An accepted socket inherits the listener's.
    stream.set_read_timeout(None)?;
    stream.set_nodelay(true)?;
    let progress = |digest: &tests::Digest| entry.received(digest.bytes());
    match behaviour {
        Behaviour::Echo => transfer::echo(stream, progress),
        Behaviour::Banner { text } => {
            stream.write_all(text.as_bytes())?;
            transfer::echo(stream, progress)
        }
        Behaviour::Http { name } => serve_http(stream, name, peer, local),
        Behaviour::Sink => {
            let digest = transfer::receive(stream, 0, progress)?;
            entry.update(|accepted| accepted.digest = digest.value());
            writeln!(stream, "{} {:016x}", digest.bytes(), digest.value())
        }
        Behaviour::Source { bytes, seed } => {
            transfer::send_pattern(stream, Stream { bytes: *bytes, seed: *seed })?;
            transfer::receive(stream, 0, progress).map(|_| ())
        }
        Behaviour::Duplex { bytes, seed, read_bytes_per_second } => {
            let (writer, what) = (stream.try_clone()?, Stream { bytes: *bytes, seed: *seed });
            let writer = thread::spawn(move || transfer::send_pattern(&writer, what));
            let digest = transfer::receive(stream, *read_bytes_per_second, progress)?;
            entry.update(|accepted| accepted.digest = digest.value());
            let sent = writer.join().map_err(|_| io::Error::other("the writer panicked"))?;
            sent.map(|_| ())
        }
        Behaviour::Peer => {
            write!(stream, "{peer}")?;
            stream.shutdown(Shutdown::Write)?;
            transfer::receive(stream, 0, progress).map(|_| ())
        }
        // No time limit: it waits as long as the client likes.
        Behaviour::Silent | Behaviour::Reset => io::copy(&mut stream, &mut io::sink()).map(|_| ()),
    }
}

fn serve_http(
    stream: &TcpStream,
    name: &str,
    peer: SocketAddr,
    local: SocketAddr,
) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let (mut close, mut body) = (false, 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim_end().to_ascii_lowercase();
            match line.split_once(':') {
                Some(("connection", value)) => close = value.trim() == "close",
                Some(("content-length", value)) => body = value.trim().parse().unwrap_or(0),
                Some(_) => {}
                None => break,
            }
        }
        io::copy(&mut reader.by_ref().take(body.min(BODY_BYTES_MAX)), &mut io::sink())?;
        let answer = serde_json::json!({
            "server": name, "peer": peer.to_string(), "local": local.to_string(),
            "request": request.trim_end(),
        });
        let answer = format!("{answer}\n");
        let keep = if close { "close" } else { "keep-alive" };
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
        let length = answer.len();
        let text = format!("{head}Connection: {keep}\r\nContent-Length: {length}\r\n\r\n{answer}");
        (&*stream).write_all(text.as_bytes())?;
        if close {
            return stream.shutdown(Shutdown::Write);
        }
    }
}
