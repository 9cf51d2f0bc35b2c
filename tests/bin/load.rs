//! Load for the benchmarks: a server and a closed-loop client, each one thread.
//!
//! The client says in its first byte what it wants of a connection: `r` request and response
//! ([`REQUEST`] bytes each way), `p` push (the server swallows), `g` pull (the server sends until
//! the client leaves). Results are one JSON line.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Parser, ValueEnum};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// Bytes of one request and of one response.
const REQUEST: usize = 64;
/// Bytes of one write or read of a bulk stream.
const BULK: usize = 256 * 1024;
/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4096;
/// Time before measuring starts: connections are made, buffers and windows have grown.
const WARM_UP: Duration = Duration::from_millis(300);

#[derive(Parser)]
#[command(about = "Load generator of the benchmarks")]
enum Cli {
    /// Serve until killed.
    Serve {
        listen: SocketAddr,
        /// Congestion control of its sockets.
        #[arg(long)]
        congestion: Option<String>,
    },
    /// Drive a server and print the result.
    Drive {
        target: SocketAddr,
        #[arg(long)]
        mode: Mode,
        #[arg(long, default_value_t = 1)]
        connections: usize,
        #[arg(long, default_value_t = 2.0)]
        seconds: f64,
        /// Congestion control of its sockets.
        #[arg(long)]
        congestion: Option<String>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Requests on kept connections.
    Rr,
    /// A new connection for each request.
    Crr,
    /// One-way bulk from the client.
    Push,
    /// One-way bulk to the client.
    Pull,
}

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    match Cli::parse() {
        Cli::Serve { listen, congestion } => {
            local.block_on(&runtime, serve(listen, congestion.as_deref()))
        }
        Cli::Drive { target, mode, connections, seconds, congestion } => {
            let goal = Rc::new(Goal { target, mode, congestion });
            let time = Duration::from_secs_f64(seconds);
            local.block_on(&runtime, drive(goal, connections, time))
        }
    }
}

/// A socket with that congestion control. An accepted one inherits its listener's.
fn socket(address: SocketAddr, congestion: Option<&str>) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(name) = congestion {
        SockRef::from(&socket).set_tcp_congestion(name.as_bytes())?;
    }
    Ok(socket)
}

async fn serve(listen: SocketAddr, congestion: Option<&str>) -> anyhow::Result<()> {
    let socket = socket(listen, congestion).context("making a socket")?;
    socket.set_reuseaddr(true)?;
    socket.bind(listen).context("binding")?;
    let listener = socket.listen(BACKLOG).context("listening")?;
    println!("{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        // A client that leaves is the normal end of every exchange.
        tokio::task::spawn_local(async move { serve_one(stream).await.ok() });
    }
}

async fn serve_one(mut stream: TcpStream) -> io::Result<()> {
    match stream.read_u8().await? {
        b'r' => {
            let mut message = [0; REQUEST];
            loop {
                stream.read_exact(&mut message).await?;
                stream.write_all(&message).await?;
            }
        }
        b'p' => {
            let mut buffer = vec![0; BULK];
            while stream.read(&mut buffer).await? > 0 {}
            stream.write_u8(b'.').await
        }
        _ => {
            let buffer = vec![0x5a; BULK];
            loop {
                stream.write_all(&buffer).await?;
            }
        }
    }
}

/// What is counted while measuring.
#[derive(Default)]
struct Tally {
    measuring: Cell<bool>,
    operations: Cell<u64>,
    bytes: Cell<u64>,
    latencies_us: RefCell<Vec<u32>>,
    errors: Cell<u64>,
}

impl Tally {
    fn operation(&self, took: Duration) {
        if self.measuring.get() {
            self.operations.set(self.operations.get() + 1);
            self.latencies_us
                .borrow_mut()
                .push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
        }
    }

    fn moved(&self, bytes: usize) {
        if self.measuring.get() {
            self.bytes.set(self.bytes.get() + u64::try_from(bytes).unwrap_or(0));
        }
    }
}

/// What the clients are for.
struct Goal {
    target: SocketAddr,
    mode: Mode,
    congestion: Option<String>,
}

async fn drive(goal: Rc<Goal>, connections: usize, time: Duration) -> anyhow::Result<()> {
    let tally = Rc::new(Tally::default());
    let mut clients = Vec::new();
    for _ in 0..connections {
        let (tally, goal) = (tally.clone(), goal.clone());
        clients.push(tokio::task::spawn_local(async move {
            loop {
                let result = match goal.mode {
                    Mode::Rr => kept(&goal, &tally).await,
                    Mode::Crr => fresh(&goal, &tally).await,
                    Mode::Push => push(&goal, &tally).await,
                    Mode::Pull => pull(&goal, &tally).await,
                };
                if result.is_err() {
                    tally.errors.set(tally.errors.get() + 1);
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }));
    }
    tokio::time::sleep(WARM_UP).await;
    tally.measuring.set(true);
    let start = Instant::now();
    tokio::time::sleep(time).await;
    tally.measuring.set(false);
    let took = start.elapsed().as_secs_f64();
    for client in clients {
        client.abort();
    }
    let mut latencies = tally.latencies_us.take();
    latencies.sort_unstable();
    let percentile = |p: usize| latencies.get(latencies.len() * p / 100).copied().unwrap_or(0);
    println!(
        "{}",
        serde_json::json!({
            "operations_per_second": precise(tally.operations.get()) / took,
            "bytes_per_second": precise(tally.bytes.get()) / took,
            "p50_us": percentile(50),
            "p99_us": percentile(99),
            "errors": tally.errors.get(),
        })
    );
    Ok(())
}

/// Counts stay far below 2^53.
#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "figures for people")]
fn precise(count: u64) -> f64 {
    count as f64
}

async fn connect(goal: &Goal, wish: u8) -> io::Result<TcpStream> {
    let socket = socket(goal.target, goal.congestion.as_deref())?;
    let mut stream = socket.connect(goal.target).await?;
    stream.set_nodelay(true)?;
    stream.write_u8(wish).await?;
    Ok(stream)
}

async fn request(stream: &mut TcpStream) -> io::Result<()> {
    let mut message = [b'x'; REQUEST];
    stream.write_all(&message).await?;
    stream.read_exact(&mut message).await?;
    Ok(())
}

async fn kept(goal: &Goal, tally: &Tally) -> io::Result<()> {
    let mut stream = connect(goal, b'r').await?;
    loop {
        let start = Instant::now();
        request(&mut stream).await?;
        tally.operation(start.elapsed());
    }
}

async fn fresh(goal: &Goal, tally: &Tally) -> io::Result<()> {
    let start = Instant::now();
    let mut stream = connect(goal, b'r').await?;
    request(&mut stream).await?;
    tally.operation(start.elapsed());
    Ok(())
}

async fn push(goal: &Goal, tally: &Tally) -> io::Result<()> {
    let mut stream = connect(goal, b'p').await?;
    let buffer = vec![0x5a; BULK];
    loop {
        let n = stream.write(&buffer).await?;
        tally.moved(n);
    }
}

async fn pull(goal: &Goal, tally: &Tally) -> io::Result<()> {
    let mut stream = connect(goal, b'g').await?;
    let mut buffer = vec![0; BULK];
    loop {
        let n = stream.read(&mut buffer).await?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        tally.moved(n);
    }
}
