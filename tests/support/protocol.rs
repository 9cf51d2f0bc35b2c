//! What a test and its actors say to each other: one JSON object a line, on the actor's standard
//! input and output. Requests carry a number; each runs on a thread of its own, so answers may
//! come in any order.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// A numbered request or response.
#[derive(Debug, Serialize, Deserialize)]
pub struct Envelope<T> {
    /// Chosen by the asker; the answer repeats it.
    pub id: u64,
    /// What is said.
    pub body: T,
}

/// How a client's socket is made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent socket options, any may be combined"
)]
pub struct ConnectOptions {
    /// Bound to this address first.
    pub source: Option<SocketAddr>,
    /// `SO_BINDTODEVICE`.
    pub device: Option<String>,
    /// Connected without blocking, as event loops do.
    pub non_blocking: bool,
    /// An AF_INET6 socket connected to `::ffff:a.b.c.d`.
    pub mapped: bool,
    /// `TCP_FASTOPEN_CONNECT`: the first write is the connect.
    pub fast_open: bool,
    /// A socket of IPPROTO_MPTCP.
    pub mptcp: bool,
    /// Connected by io_uring.
    pub io_uring: bool,
    /// `SO_MARK`.
    pub mark: Option<u32>,
    /// How long connecting may take. 0: ten seconds.
    pub timeout_ms: u64,
}

/// What a listener does with each connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Behaviour {
    /// Sends back what it receives, until the client has finished.
    Echo,
    /// Answers each request of HTTP/1.1 with 200 and a JSON body: `server`, `peer` and `local` (as
    /// the kernel reports them), `request` (the request line).
    Http {
        /// `server` of the body.
        name: String,
    },
    /// Speaks first, then echoes.
    Banner {
        /// What it says, without an added line end.
        text: String,
    },
    /// Reads until the client has finished; the report has count and digest. Then sends
    /// `<bytes> <digest in hex>` and a line end.
    Sink,
    /// Sends bytes of a pattern and finishes; then reads until the client has finished.
    Source {
        /// How many.
        bytes: u64,
        /// Of which pattern.
        seed: u64,
    },
    /// [`Behaviour::Source`] and [`Behaviour::Sink`] at once, without the sink's last line.
    Duplex {
        /// How many it sends.
        bytes: u64,
        /// Of which pattern.
        seed: u64,
        /// Reads no faster than this; 0 is no limit.
        read_bytes_per_second: u64,
    },
    /// Sends the client's address as text and finishes.
    Peer,
    /// Accepts and does nothing until the client has finished.
    Silent,
    /// Resets each connection at once.
    Reset,
}

/// How much to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Amount {
    /// This many bytes; fewer only at the end of the stream.
    Exactly(u64),
    /// What one read gives, at most this many bytes.
    Some(u64),
    /// Until the peer has finished, at most this many bytes.
    All(u64),
}

/// A stream of pattern bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    /// How many.
    pub bytes: u64,
    /// Of which pattern.
    pub seed: u64,
}

/// A load of short connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hammer {
    /// Where to.
    pub target: SocketAddr,
    /// How each socket is made.
    pub options: ConnectOptions,
    /// Stops after this many connections; 0 is no bound.
    pub connections: u64,
    /// Stops after this long; 0 is no bound.
    pub duration_ms: u64,
    /// Connections begun each second, all workers together; 0 is as many as possible.
    pub per_second: u64,
    /// How many are open at once.
    pub workers: u64,
    /// What each sends and expects back; empty: only connects and closes.
    pub message: String,
}

/// A request to an actor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Serve on an address. Answer: [`Response::Listening`].
    Listen { address: SocketAddr, behaviour: Behaviour },
    /// Accept no more; open connections go on. Answer: [`Response::Done`].
    StopListening { listener: u64 },
    /// What a listener has seen. Answer: [`Response::Report`].
    Report { listener: u64 },
    /// Open a connection and keep it. Answer: [`Response::Connected`].
    Connect { target: SocketAddr, options: ConnectOptions },
    /// Write it all. Answer: [`Response::Done`].
    Send { connection: u64, data: Hex },
    /// Read, for a bounded time. Answer: [`Response::Received`].
    Receive { connection: u64, amount: Amount, timeout_ms: u64 },
    /// Finish writing. Answer: [`Response::Done`].
    ShutdownWrite { connection: u64 },
    /// Close. Answer: [`Response::Done`].
    Close { connection: u64 },
    /// Close with a reset. Answer: [`Response::Done`].
    Reset { connection: u64 },
    /// Open many connections one after another and keep them. Answer: [`Response::Held`].
    Hold { target: SocketAddr, options: ConnectOptions, count: u64 },
    /// Connect, send a pattern and finish, read until the end. Answer: [`Response::Transferred`].
    Transfer {
        target: SocketAddr,
        options: ConnectOptions,
        upload: Stream,
        read_bytes_per_second: u64,
    },
    /// A load of short connections. Answer: [`Response::Hammered`].
    Hammer(Hammer),
    /// Run a shell command. Answer: [`Response::Shell`].
    Shell { command: String },
    /// Send one datagram. Answer: [`Response::Done`].
    SendUdp { target: SocketAddr, data: Hex, options: ConnectOptions },
    /// Send datagrams from one socket, which is connected to the first target if it says so, and wait for
    /// as many answers. Answer: [`Response::Answered`].
    Ask { questions: Vec<(SocketAddr, Hex)>, connected: bool, options: ConnectOptions },
    /// Be a resolver on an address, over UDP and TCP: each message comes back as an answer, with the
    /// resolver's mark behind it. Answer: [`Response::Listening`].
    Resolve { address: SocketAddr, mark: String },
    /// What a resolver was asked. Answer: [`Response::Asked`].
    Asked { resolver: u64 },
    /// Make a `bpf(2)` call. At `netns_at` of the attributes the descriptor of the own network
    /// namespace is filled in. Answer: [`Response::Done`].
    Bpf { command: i64, attributes: Hex, netns_at: Option<usize> },
}

/// An actor's answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Response {
    /// It is done.
    Done,
    /// The address, with the port that was chosen for port 0.
    Listening { listener: u64, address: SocketAddr },
    /// What a listener has seen.
    Report(Report),
    /// `getpeername` and `getsockname`.
    Connected { connection: u64, peer: Option<SocketAddr>, local: SocketAddr },
    /// What was read, and whether the stream has ended.
    Received { data: Hex, ended: bool },
    /// The connections that opened, and how many failed how.
    Held { connections: Vec<u64>, failures: BTreeMap<String, u64> },
    /// Both ways of a transfer.
    Transferred(Transfer),
    /// What became of the connections.
    Hammered(Hammered),
    /// Answers in the order in which they came, each with its source; `getpeername` of the socket.
    Answered { answers: Vec<(SocketAddr, Hex)>, peer: Option<SocketAddr> },
    /// Who asked what, in order.
    Asked { questions: Vec<(SocketAddr, Hex)> },
    /// A command's exit status (-1: killed) and output.
    Shell { status: i32, stdout: String, stderr: String },
    /// It failed.
    Failed(Failure),
}

/// One connection that a listener accepted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Accepted {
    /// `getpeername`.
    pub peer: SocketAddr,
    /// `getsockname`.
    pub local: SocketAddr,
    /// Bytes read so far.
    pub received: u64,
    /// Their digest, once the client has finished.
    pub digest: u64,
    /// How it ended: `None` while it is open, `ok`, or the name of an error.
    pub end: Option<String>,
}

/// What a listener has seen: at most [`Report::KEPT`] connections are described.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Connections accepted.
    pub accepted: u64,
    /// The first of them, in order.
    pub connections: Vec<Accepted>,
}

impl Report {
    /// Connections described; later ones are only counted.
    pub const KEPT: usize = 20_000;
}

/// Both ways of a transfer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Transfer {
    /// Bytes written.
    pub sent: u64,
    /// Digest of the bytes written.
    pub sent_digest: u64,
    /// Bytes read.
    pub received: u64,
    /// Digest of the bytes read.
    pub received_digest: u64,
    /// From connect to the end of both ways.
    pub duration_ms: u64,
    /// `getsockname`.
    pub local: SocketAddr,
}

/// What became of a load's connections.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Hammered {
    /// Connections begun.
    pub attempts: u64,
    /// Connected, and the message came back.
    pub succeeded: u64,
    /// The others, by operation and error, such as `connect ECONNREFUSED`.
    pub failures: BTreeMap<String, u64>,
}

/// What failed in an actor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{operation}: {message}")]
pub struct Failure {
    /// `connect`, `receive`, …
    pub operation: String,
    /// The kernel's error number.
    pub errno: Option<i32>,
    /// For people.
    pub message: String,
}

impl Failure {
    /// A failed system call.
    #[must_use]
    pub fn io(operation: &str, error: &io::Error) -> Self {
        Self {
            operation: operation.to_owned(),
            errno: error.raw_os_error(),
            message: error_name(error),
        }
    }

    /// Anything else.
    #[must_use]
    pub fn other(operation: &str, message: impl Into<String>) -> Self {
        Self { operation: operation.to_owned(), errno: None, message: message.into() }
    }
}

/// `ECONNREFUSED` and the like.
#[must_use]
pub fn error_name(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => format!("{:?}", nix::errno::Errno::from_raw(number)),
        None if matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) => {
            "ETIMEDOUT".to_owned()
        }
        None => error.to_string(),
    }
}

/// Bytes, in hexadecimal on the line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Hex(pub Vec<u8>);

impl From<Hex> for String {
    fn from(hex: Hex) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digit = |value: u8| char::from(DIGITS[usize::from(value)]);
        hex.0.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
    }
}

impl TryFrom<String> for Hex {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
        let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return Err("odd length") };
        let byte = |pair: &[u8; 2]| Some((digit(pair[0])? << 4) | digit(pair[1])?);
        pairs.iter().map(byte).collect::<Option<_>>().map(Self).ok_or("not hexadecimal")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_the_line() {
        let all = Hex((0..=255).collect());
        let line = serde_json::to_string(&all).expect("a string");
        assert_eq!(serde_json::from_str::<Hex>(&line).expect("the same"), all);
        assert!(serde_json::from_str::<Hex>("\"0\"").is_err());
        assert!(serde_json::from_str::<Hex>("\"+f\"").is_err());
    }
}
