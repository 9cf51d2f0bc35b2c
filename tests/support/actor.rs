//! A test's handle of an actor: the program `actor` inside a pod or a node.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use parking_lot::Mutex;

use crate::http;
use crate::namespace::Namespace;
use crate::protocol::{
    Amount, Behaviour, ConnectOptions, Envelope, Failure, Hammer, Hammered, Hex, Report, Request,
    Response, Stream, Transfer,
};
use crate::wait::binary;

pub use crate::http::HttpAnswer;

/// Longest wait for an answer, unless the request itself takes its time. Then the actor counts as
/// dead and the call fails.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for a transfer, a load or a shell command.
const LONG_ANSWER_TIMEOUT: Duration = Duration::from_mins(5);
/// Default bound of one receive.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer read to its end.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// Where and as whom an actor runs.
#[derive(Clone, Debug)]
pub struct ActorOptions {
    /// Its network namespace.
    pub namespace: Namespace,
    /// Its cgroup.
    pub cgroup: PathBuf,
    /// Only these capabilities (`net_admin`, …); `None` is all of them.
    pub capabilities: Option<Vec<String>>,
    /// Folders that are hidden when capabilities are reduced.
    pub hidden: Vec<PathBuf>,
}

/// A running actor. Dropping it kills it.
#[derive(Debug)]
pub struct Actor {
    name: String,
    child: Child,
    next: AtomicU64,
    line: Mutex<ChildStdin>,
    waiting: Arc<Mutex<Waiting>>,
}

/// Who waits for which answer; `None` once the actor has ended.
type Waiting = Option<BTreeMap<u64, Sender<Response>>>;

/// An answer that is on its way.
#[derive(Debug)]
#[must_use = "the request runs, but nobody looks at its answer"]
pub struct Pending {
    actor: String,
    answer: Receiver<Response>,
    timeout: Duration,
}

impl Pending {
    /// Waits for the answer.
    pub fn wait(self) -> Result<Response, Failure> {
        match self.answer.recv_timeout(self.timeout) {
            Ok(Response::Failed(failure)) => Err(failure),
            Ok(response) => Ok(response),
            Err(RecvTimeoutError::Timeout) => Err(Failure::other(&self.actor, "no answer in time")),
            Err(RecvTimeoutError::Disconnected) => {
                Err(Failure::other(&self.actor, "the actor has ended"))
            }
        }
    }
}

impl Actor {
    /// Starts one; `name` is for messages.
    pub fn start(name: &str, options: &ActorOptions) -> anyhow::Result<Self> {
        let mut command = Command::new(binary("actor")?);
        command.arg("--netns").arg(options.namespace.path()).arg("--cgroup").arg(&options.cgroup);
        if let Some(capabilities) = &options.capabilities {
            command.arg("--capabilities").arg(capabilities.join(","));
            for path in &options.hidden {
                command.arg("--hide").arg(path);
            }
        }
        // A group of its own: Ctrl-C is for the test, which ends its actors in order.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start an actor")?;
        let stdin = child.stdin.take().context("an actor's input is missing")?;
        let stdout = child.stdout.take().context("an actor's output is missing")?;
        let waiting = Arc::new(Mutex::new(Some(BTreeMap::new())));
        let (name, dispatch) = (format!("actor {name}"), waiting.clone());
        thread::Builder::new()
            .name(name.clone())
            .spawn(move || dispatch_answers(BufReader::new(stdout), &dispatch))
            .context("start a thread")?;
        Ok(Self { name, child, next: AtomicU64::new(1), line: Mutex::new(stdin), waiting })
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a request and does not wait: many may run at once.
    pub fn begin(&self, request: Request) -> Pending {
        let timeout = match &request {
            Request::Transfer { .. }
            | Request::Hammer(_)
            | Request::Shell { .. }
            | Request::Hold { .. } => LONG_ANSWER_TIMEOUT,
            Request::Receive { timeout_ms, .. } => {
                ANSWER_TIMEOUT + Duration::from_millis(*timeout_ms)
            }
            Request::Listen { .. }
            | Request::StopListening { .. }
            | Request::Report { .. }
            | Request::Connect { .. }
            | Request::Send { .. }
            | Request::ShutdownWrite { .. }
            | Request::Close { .. }
            | Request::Reset { .. }
            | Request::SendUdp { .. }
            | Request::Ask { .. }
            | Request::Resolve { .. }
            | Request::Asked { .. }
            | Request::Bpf { .. } => ANSWER_TIMEOUT,
        };
        let (sender, answer) = channel();
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        if let Some(waiting) = self.waiting.lock().as_mut() {
            waiting.insert(id, sender);
        }
        let line = serde_json::to_string(&Envelope { id, body: request });
        let sent = line.map_err(std::io::Error::from).and_then(|line| {
            let mut pipe = self.line.lock();
            writeln!(pipe, "{line}").and_then(|()| pipe.flush())
        });
        if sent.is_err() {
            // The sender goes with its entry, and the waiter learns at once.
            self.waiting.lock().as_mut().map(|waiting| waiting.remove(&id));
        }
        Pending { actor: self.name.clone(), answer, timeout }
    }

    fn call(&self, request: Request) -> Result<Response, Failure> {
        self.begin(request).wait()
    }

    fn done(&self, request: Request) -> Result<(), Failure> {
        let Response::Done = self.call(request)? else { return Err(unexpected()) };
        Ok(())
    }

    /// Serves; the address has the port that was chosen for port 0.
    pub fn listen(
        &self,
        address: SocketAddr,
        behaviour: Behaviour,
    ) -> Result<Listener<'_>, Failure> {
        let Response::Listening { listener, address } =
            self.call(Request::Listen { address, behaviour })?
        else {
            return Err(unexpected());
        };
        Ok(Listener { actor: self, id: listener, address })
    }

    /// Connects with an ordinary socket.
    pub fn connect(&self, target: SocketAddr) -> Result<Connection<'_>, Failure> {
        self.connect_with(target, ConnectOptions::default())
    }

    /// Connects.
    pub fn connect_with(
        &self,
        target: SocketAddr,
        options: ConnectOptions,
    ) -> Result<Connection<'_>, Failure> {
        let Response::Connected { connection, peer, local } =
            self.call(Request::Connect { target, options })?
        else {
            return Err(unexpected());
        };
        Ok(Connection { actor: self, id: connection, peer, local })
    }

    /// One HTTP request on a connection of its own.
    pub fn http_get(
        &self,
        target: SocketAddr,
        path: &str,
        header: &str,
    ) -> Result<HttpAnswer, Failure> {
        let connection = self.connect(target)?;
        let answer = connection
            .send(http::get(target, path, header).as_bytes())
            .and_then(|()| connection.receive_all());
        let local = connection.local();
        connection.close()?;
        http::parse(&answer?, local).ok_or_else(|| Failure::other("http", "not an HTTP answer"))
    }

    /// Opens `count` connections one after another and keeps them. How many, and why the others
    /// failed.
    pub fn hold(
        &self,
        target: SocketAddr,
        count: u64,
    ) -> Result<(Vec<Connection<'_>>, BTreeMap<String, u64>), Failure> {
        let options = ConnectOptions::default();
        let Response::Held { connections, failures } =
            self.call(Request::Hold { target, options: options.clone(), count })?
        else {
            return Err(unexpected());
        };
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        let connection = |id| Connection { actor: self, id, peer: None, local: unknown };
        Ok((connections.into_iter().map(connection).collect(), failures))
    }

    /// Sends a pattern and reads what comes, both at once, until both ways are finished.
    pub fn transfer(&self, target: SocketAddr, upload: Stream) -> Result<Transfer, Failure> {
        self.begin_transfer(target, upload, 0).transferred()
    }

    /// The same without waiting; reads no faster than given (0: no limit).
    pub fn begin_transfer(
        &self,
        target: SocketAddr,
        upload: Stream,
        read_bytes_per_second: u64,
    ) -> Pending {
        let options = ConnectOptions::default();
        self.begin(Request::Transfer { target, options, upload, read_bytes_per_second })
    }

    /// Makes a load of short connections.
    pub fn hammer(&self, hammer: Hammer) -> Result<Hammered, Failure> {
        self.begin(Request::Hammer(hammer)).hammered()
    }

    /// Runs a shell command: its status (-1: killed), standard output and standard error.
    pub fn shell(&self, command: &str) -> Result<(i32, String, String), Failure> {
        let Response::Shell { status, stdout, stderr } =
            self.call(Request::Shell { command: command.to_owned() })?
        else {
            return Err(unexpected());
        };
        Ok((status, stdout, stderr))
    }

    /// Sends one datagram; of the options, source, device and mark count.
    pub fn send_udp(
        &self,
        target: SocketAddr,
        data: &[u8],
        options: ConnectOptions,
    ) -> Result<(), Failure> {
        self.done(Request::SendUdp { target, data: Hex(data.to_vec()), options })
    }

    /// Asks one question in a datagram. The answer, its source, and `getpeername` of the socket, which is
    /// connected first if `connected` says so.
    pub fn ask(
        &self,
        target: SocketAddr,
        message: &[u8],
        connected: bool,
    ) -> Result<(Vec<u8>, SocketAddr, Option<SocketAddr>), Failure> {
        let questions = vec![(target, Hex(message.to_vec()))];
        let options = ConnectOptions::default();
        let Response::Answered { answers, peer } =
            self.call(Request::Ask { questions, connected, options })?
        else {
            return Err(unexpected());
        };
        let (source, Hex(answer)) = answers.into_iter().next().ok_or_else(unexpected)?;
        Ok((answer, source, peer))
    }

    /// Asks several questions from one socket. The answers with their sources.
    pub fn ask_all(
        &self,
        questions: &[(SocketAddr, &[u8])],
    ) -> Result<Vec<(SocketAddr, Vec<u8>)>, Failure> {
        let questions = questions.iter().map(|(to, data)| (*to, Hex(data.to_vec()))).collect();
        let options = ConnectOptions::default();
        let Response::Answered { answers, .. } =
            self.call(Request::Ask { questions, connected: false, options })?
        else {
            return Err(unexpected());
        };
        Ok(answers.into_iter().map(|(source, Hex(answer))| (source, answer)).collect())
    }

    /// Becomes a resolver, over UDP and TCP.
    pub fn resolve(&self, address: SocketAddr, mark: &str) -> Result<Resolver<'_>, Failure> {
        let Response::Listening { listener, .. } =
            self.call(Request::Resolve { address, mark: mark.to_owned() })?
        else {
            return Err(unexpected());
        };
        Ok(Resolver { actor: self, id: listener })
    }

    /// Makes a `bpf(2)` call with these attributes. At `netns_at` of them the descriptor of the
    /// actor's network namespace is filled in.
    pub fn bpf(
        &self,
        command: i64,
        attributes: &[u8],
        netns_at: Option<usize>,
    ) -> Result<(), Failure> {
        self.done(Request::Bpf { command, attributes: Hex(attributes.to_vec()), netns_at })
    }

    /// Kills it, as a container's crash does: its sockets close.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // It may have ended by itself; then there is nothing to kill, only to reap.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        self.end();
    }
}

impl Pending {
    /// The answer to a transfer.
    pub fn transferred(self) -> Result<Transfer, Failure> {
        let Response::Transferred(transfer) = self.wait()? else { return Err(unexpected()) };
        Ok(transfer)
    }

    /// The answer to a load.
    pub fn hammered(self) -> Result<Hammered, Failure> {
        let Response::Hammered(hammered) = self.wait()? else { return Err(unexpected()) };
        Ok(hammered)
    }
}

/// A resolver of an actor.
#[derive(Clone, Copy, Debug)]
pub struct Resolver<'a> {
    actor: &'a Actor,
    id: u64,
}

impl Resolver<'_> {
    /// Who asked what so far, in order.
    pub fn asked(&self) -> Result<Vec<(SocketAddr, Vec<u8>)>, Failure> {
        let Response::Asked { questions } =
            self.actor.call(Request::Asked { resolver: self.id })?
        else {
            return Err(unexpected());
        };
        Ok(questions.into_iter().map(|(source, Hex(message))| (source, message)).collect())
    }
}

/// A listener of an actor.
#[derive(Clone, Copy, Debug)]
pub struct Listener<'a> {
    actor: &'a Actor,
    id: u64,
    address: SocketAddr,
}

impl Listener<'_> {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has seen.
    pub fn report(&self) -> Result<Report, Failure> {
        let Response::Report(report) = self.actor.call(Request::Report { listener: self.id })?
        else {
            return Err(unexpected());
        };
        Ok(report)
    }

    /// Accepts no more.
    pub fn stop(self) -> Result<(), Failure> {
        self.actor.done(Request::StopListening { listener: self.id })
    }
}

/// A connection of an actor. Dropping the handle leaves it open: close it.
#[derive(Debug)]
pub struct Connection<'a> {
    actor: &'a Actor,
    id: u64,
    peer: Option<SocketAddr>,
    local: SocketAddr,
}

impl Connection<'_> {
    /// `getpeername` after connecting; `None` if it failed, as with TCP_FASTOPEN_CONNECT.
    #[must_use]
    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// `getsockname` after connecting.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Writes it all.
    pub fn send(&self, data: &[u8]) -> Result<(), Failure> {
        self.actor.done(Request::Send { connection: self.id, data: Hex(data.to_vec()) })
    }

    /// Reads within a bounded time; whether the stream has ended comes with it.
    pub fn receive_within(
        &self,
        amount: Amount,
        timeout: Duration,
    ) -> Result<(Vec<u8>, bool), Failure> {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let Response::Received { data, ended } =
            self.actor.call(Request::Receive { connection: self.id, amount, timeout_ms })?
        else {
            return Err(unexpected());
        };
        Ok((data.0, ended))
    }

    /// Reads exactly this many bytes, unless the stream ends before.
    pub fn receive(&self, bytes: usize) -> Result<Vec<u8>, Failure> {
        let amount = Amount::Exactly(crate::length(bytes));
        Ok(self.receive_within(amount, RECEIVE_TIMEOUT)?.0)
    }

    /// Reads to the end of the stream.
    pub fn receive_all(&self) -> Result<Vec<u8>, Failure> {
        Ok(self.receive_within(Amount::All(ANSWER_BYTES_MAX), RECEIVE_TIMEOUT)?.0)
    }

    /// Sends, and reads as many bytes back.
    pub fn exchange(&self, data: &[u8]) -> Result<Vec<u8>, Failure> {
        self.send(data)?;
        self.receive(data.len())
    }

    /// Finishes writing; reading goes on.
    pub fn shutdown_write(&self) -> Result<(), Failure> {
        self.actor.done(Request::ShutdownWrite { connection: self.id })
    }

    /// Closes it.
    pub fn close(self) -> Result<(), Failure> {
        self.actor.done(Request::Close { connection: self.id })
    }

    /// Closes it with a reset.
    pub fn reset(self) -> Result<(), Failure> {
        self.actor.done(Request::Reset { connection: self.id })
    }
}

fn dispatch_answers(lines: impl BufRead, waiting: &Mutex<Waiting>) {
    for line in lines.lines().map_while(Result::ok) {
        let answer: Envelope<Response> = match serde_json::from_str(&line) {
            Ok(answer) => answer,
            Err(error) => {
                eprintln!("an actor said {line:?}: {error}");
                continue;
            }
        };
        let waiter = waiting.lock().as_mut().and_then(|waiting| waiting.remove(&answer.id));
        if let Some(waiter) = waiter {
            // Who gave up waiting does not care.
            let _ = waiter.send(answer.body);
        }
    }
    // Everyone who still waits learns that no answer will come.
    *waiting.lock() = None;
}

fn unexpected() -> Failure {
    Failure::other("actor", "gave another answer than was asked for")
}
