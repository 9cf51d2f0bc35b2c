//! The program of pods in the tier `cluster`: servers, and clients that count what became of their
//! connections. Threads and blocking sockets only: it is to be small, and to be trusted.

mod health;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

/// How long a connection, a question or an answer may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two bytes of a connection that is held.
const BEAT: Duration = Duration::from_millis(50);
/// Longest head of a request or answer read.
const HEAD_BYTES_MAX: usize = 8192;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Answers HTTP on one port with this pod's name and the peer's address, echoes on another, and
    /// answers gRPC health checks on a third
    Serve {
        #[arg(long, default_value_t = 8080)]
        http: u16,
        #[arg(long, default_value_t = 9090)]
        echo: u16,
        #[arg(long, default_value_t = 7070)]
        health: u16,
    },
    /// Asks over a new connection each time, and prints as JSON how many answers came
    Ask {
        /// HOST:PORT
        target: String,
        #[arg(long, default_value_t = 1)]
        count: u32,
        /// Milliseconds between the beginnings of two
        #[arg(long, default_value_t = 0)]
        every: u64,
        /// How many ask at a time, each as often and as fast as said
        #[arg(long, default_value_t = 1)]
        at_once: u32,
        /// The source address; without one the kernel chooses
        #[arg(long)]
        from: Option<IpAddr>,
        /// Ends early once a line comes in, and says so
        #[arg(long)]
        until_told: bool,
    },
    /// Holds one connection to an echo server for so many seconds, or until a line comes in; prints `open`
    /// once it is, and at the end as JSON how many beats came back, in which time, whether it was told to
    /// end, and why it broke if it did
    Hold {
        /// HOST:PORT
        target: String,
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
    /// Waits for a connection to open and says how it went; for what should be refused
    Probe {
        /// HOST:PORT
        target: String,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().verb {
        Verb::Serve { http, echo, health } => serve(http, echo, health),
        Verb::Ask { target, count, every, at_once, from, until_told } => {
            let told = if until_told { Told::by_a_line() } else { Told::default() };
            let every = Duration::from_millis(every);
            let questions = Questions { target, from, count, every, told };
            println!("{}", ask_at_once(&questions, at_once));
            Ok(())
        }
        Verb::Hold { target, seconds } => hold(&target, Duration::from_secs(seconds)),
        Verb::Probe { target } => question(&target, None).map(|answer| println!("{answer}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(http: u16, echo: u16, health: u16) -> anyhow::Result<()> {
    let checks = TcpListener::bind(("::", health)).context("listen for health checks")?;
    thread::spawn(move || each(&checks, health::serve));
    let echoes = TcpListener::bind(("::", echo)).context("listen for echoes")?;
    thread::spawn(move || {
        each(&echoes, |mut stream| {
            let mut copy = stream.try_clone()?;
            std::io::copy(&mut stream, &mut copy).map(drop)
        });
    });
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").context("find our name")?;
    let listener = TcpListener::bind(("::", http)).context("listen for questions")?;
    each(&listener, move |mut stream| {
        stream.set_read_timeout(Some(PATIENCE))?;
        read_head(&mut stream)?;
        let peer = stream.peer_addr()?.ip().to_canonical();
        let body = format!("{} {peer}\n", name.trim());
        let length = body.len();
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        )
    });
    Ok(())
}

/// Serves every connection on a thread of its own, for ever.
fn each(
    listener: &TcpListener,
    serve: impl Fn(TcpStream) -> std::io::Result<()> + Clone + Send + 'static,
) {
    for stream in listener.incoming().filter_map(Result::ok) {
        let serve = serve.clone();
        // What a peer does wrong is the peer's business.
        thread::spawn(move || drop(serve(stream)));
    }
}

/// Reads up to the empty line.
fn read_head(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && head.len() < HEAD_BYTES_MAX {
        if stream.read(&mut byte)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        head.push(byte[0]);
    }
    Ok(head)
}

/// Whether somebody outside of the pod has said that it is enough.
#[derive(Clone, Default)]
struct Told(Arc<AtomicBool>);

impl Told {
    /// By a line of the input. That the input ends says nothing.
    fn by_a_line() -> Self {
        let told = Self::default();
        let teller = told.clone();
        thread::spawn(move || {
            let said = std::io::stdin().read_line(&mut String::new());
            teller.0.store(said.is_ok_and(|bytes| bytes > 0), Ordering::Relaxed);
        });
        told
    }

    fn enough(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

struct Questions {
    target: String,
    from: Option<IpAddr>,
    count: u32,
    every: Duration,
    told: Told,
}

/// What became of questions.
#[derive(Default)]
struct Asked {
    answered: u32,
    failed: u32,
    first_error: Option<String>,
    last: String,
    slowest: Duration,
}

impl Asked {
    fn add(&mut self, other: Self) {
        self.answered += other.answered;
        self.failed += other.failed;
        self.first_error = self.first_error.take().or(other.first_error);
        self.last = other.last;
        self.slowest = self.slowest.max(other.slowest);
    }
}

/// Asks in several threads. One that panics has not answered: its questions count as failed.
fn ask_at_once(questions: &Questions, at_once: u32) -> Value {
    let start = Instant::now();
    let mut all = Asked::default();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..at_once).map(|_| scope.spawn(|| ask(questions))).collect();
        for thread in threads {
            let panicked = |_| Asked { failed: questions.count, ..Asked::default() };
            all.add(thread.join().unwrap_or_else(panicked));
        }
    });
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    json!({
        "answered": all.answered, "failed": all.failed, "first_error": all.first_error,
        "answer": all.last, "slowest_ms": ms(all.slowest), "took_ms": ms(start.elapsed()),
        "told": questions.told.enough(),
    })
}

fn ask(questions: &Questions) -> Asked {
    let Questions { target, from, count, every, told } = questions;
    let mut asked = Asked::default();
    let begin = Instant::now();
    for number in 0..*count {
        if told.enough() {
            break;
        }
        let start = Instant::now();
        match question(target, *from) {
            Ok(answer) => {
                asked.answered += 1;
                asked.last = answer;
            }
            Err(error) => {
                asked.failed += 1;
                let at = begin.elapsed().as_millis();
                asked.first_error.get_or_insert_with(|| format!("{number}, at {at} ms: {error:#}"));
            }
        }
        asked.slowest = asked.slowest.max(start.elapsed());
        if number + 1 < *count {
            thread::sleep(every.saturating_sub(start.elapsed()));
        }
    }
    asked
}

/// One question over a connection of its own.
fn question(target: &str, from: Option<IpAddr>) -> anyhow::Result<String> {
    let mut stream = connect(target, from)?;
    write!(stream, "GET / HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n")
        .context("ask")?;
    let head = read_head(&mut stream).context("read the answer")?;
    ensure!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
    let mut body = String::new();
    stream.read_to_string(&mut body).context("read the answer's body")?;
    Ok(body.trim().to_owned())
}

fn connect(target: &str, from: Option<IpAddr>) -> anyhow::Result<TcpStream> {
    let addresses = target.to_socket_addrs().with_context(|| format!("resolve {target}"))?;
    let mut error = anyhow::anyhow!("{target} has no address");
    for address in addresses {
        match connect_from(from, address) {
            Ok(stream) => {
                stream.set_read_timeout(Some(PATIENCE)).context("set a time limit")?;
                stream.set_nodelay(true).context("send at once")?;
                return Ok(stream);
            }
            Err(cause) => {
                error = anyhow::Error::from(cause).context(format!("connect to {address}"));
            }
        }
    }
    Err(error)
}

fn connect_from(from: Option<IpAddr>, to: SocketAddr) -> std::io::Result<TcpStream> {
    let Some(from) = from else { return TcpStream::connect_timeout(&to, PATIENCE) };
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(from, 0).into())?;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    Ok(socket.into())
}

fn hold(target: &str, time: Duration) -> anyhow::Result<()> {
    let mut stream = connect(target, None)?;
    println!("open");
    let told = Told::by_a_line();
    let start = Instant::now();
    let (mut beats, mut broke) = (0_u32, None);
    while start.elapsed() < time && broke.is_none() && !told.enough() {
        let sent = beats.to_be_bytes();
        let mut received = [0; 4];
        match stream.write_all(&sent).and_then(|()| stream.read_exact(&mut received)) {
            Ok(()) if sent == received => beats += 1,
            Ok(()) => broke = Some("another beat came back than was sent".to_owned()),
            Err(error) => broke = Some(error.to_string()),
        }
        thread::sleep(BEAT);
    }
    let held = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    let told = told.enough();
    println!("{}", json!({ "beats": beats, "held_ms": held, "told": told, "broke": broke }));
    Ok(())
}
