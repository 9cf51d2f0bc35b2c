//! The program of pods in the tier `cluster`: servers, and clients that count what became of their
//! connections. Threads and blocking sockets only: it is to be small, and to be trusted.

mod health;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::{Parser, Subcommand};
use serde_json::{Value, json};

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
    },
    /// Holds one connection to an echo server for so many seconds; prints `open` once it is, and at the
    /// end as JSON how many beats came back. Fails if it breaks
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
        Verb::Ask { target, count, every } => {
            println!("{}", ask(&target, count, Duration::from_millis(every)));
            Ok(())
        }
        Verb::Hold { target, seconds } => hold(&target, Duration::from_secs(seconds)),
        Verb::Probe { target } => question(&target).map(|answer| println!("{answer}")),
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

/// What became of each question.
fn ask(target: &str, count: u32, every: Duration) -> Value {
    let (mut answered, mut failed) = (0_u32, 0_u32);
    let (mut first_error, mut last) = (None, String::new());
    let mut slowest = Duration::ZERO;
    for number in 0..count {
        let start = Instant::now();
        match question(target) {
            Ok(answer) => {
                answered += 1;
                last = answer;
            }
            Err(error) => {
                failed += 1;
                first_error.get_or_insert_with(|| format!("at {number}: {error:#}"));
            }
        }
        slowest = slowest.max(start.elapsed());
        if number + 1 < count {
            thread::sleep(every.saturating_sub(start.elapsed()));
        }
    }
    json!({
        "answered": answered, "failed": failed, "first_error": first_error,
        "answer": last, "slowest_ms": u64::try_from(slowest.as_millis()).unwrap_or(u64::MAX),
    })
}

/// One question over a connection of its own.
fn question(target: &str) -> anyhow::Result<String> {
    let mut stream = connect(target)?;
    write!(stream, "GET / HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n")
        .context("ask")?;
    let head = read_head(&mut stream).context("read the answer")?;
    ensure!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
    let mut body = String::new();
    stream.read_to_string(&mut body).context("read the answer's body")?;
    Ok(body.trim().to_owned())
}

fn connect(target: &str) -> anyhow::Result<TcpStream> {
    let addresses = target.to_socket_addrs().with_context(|| format!("resolve {target}"))?;
    let mut error = anyhow::anyhow!("{target} has no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, PATIENCE) {
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

fn hold(target: &str, time: Duration) -> anyhow::Result<()> {
    let mut stream = connect(target)?;
    println!("open");
    let start = Instant::now();
    let mut beats = 0_u32;
    while start.elapsed() < time {
        let sent = beats.to_be_bytes();
        let mut received = [0; 4];
        let beat = stream.write_all(&sent).and_then(|()| stream.read_exact(&mut received));
        if let Err(error) = beat {
            bail!("after {beats} beats and {} ms: {error}", start.elapsed().as_millis());
        }
        ensure!(sent == received, "another beat came back than was sent");
        beats += 1;
        thread::sleep(BEAT);
    }
    println!("{}", json!({ "beats": beats }));
    Ok(())
}
