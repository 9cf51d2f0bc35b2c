//! Asks the agent over its socket, within a bounded time.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use cni::{Question, REPLY_BYTES_MAX, Reply, Silence};

/// Pause before an agent that is away is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Asks until there is a reply, the agent was away for too long, or time is up.
pub(crate) fn ask(question: &Question) -> Result<Reply, Silence> {
    let start = Instant::now();
    loop {
        let left = question.wait().saturating_sub(start.elapsed());
        if left.is_zero() {
            return Err(Silence::Slow);
        }
        let line = question.line(left).map_err(|error| Silence::Unreadable(error.to_string()))?;
        match attempt(question.socket(), line, left) {
            // Also when the agent went away before it answered: what is asked may be asked twice.
            Err(Silence::Away(_)) if start.elapsed() + RETRY_PAUSE < question.patience() => {
                thread::sleep(RETRY_PAUSE);
            }
            outcome => return outcome,
        }
    }
}

/// One connection. On a thread of its own, because `connect` waits without a bound for an agent
/// that accepts nothing.
fn attempt(socket: &Path, line: Vec<u8>, left: Duration) -> Result<Reply, Silence> {
    let (sender, receiver) = mpsc::channel();
    let socket: PathBuf = socket.to_owned();
    let exchange = move || {
        // Nobody listens when time is up; the process ends then.
        let _ = sender.send(exchange(&socket, &line));
    };
    if let Err(error) = thread::Builder::new().spawn(exchange) {
        return Err(Silence::Away(error.to_string()));
    }
    let reply = match receiver.recv_timeout(left) {
        Ok(reply) => reply.map_err(|error| Silence::Away(error.to_string()))?,
        Err(RecvTimeoutError::Timeout) => return Err(Silence::Slow),
        Err(RecvTimeoutError::Disconnected) => {
            return Err(Silence::Away("the exchange broke off".to_owned()));
        }
    };
    Reply::decode(&reply).map_err(|error| Silence::Unreadable(error.to_string()))
}

/// The reply's line. An agent that ends without one is an agent that is away.
fn exchange(socket: &Path, line: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket)?;
    // An agent may refuse without reading, so its reply counts, not this error.
    let sent = stream.write_all(line);
    let max = u64::try_from(REPLY_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    let mut reply = Vec::new();
    let read = BufReader::new(&stream).take(max).read_until(b'\n', &mut reply);
    if reply.ends_with(b"\n") || reply.len() > REPLY_BYTES_MAX {
        return Ok(reply);
    }
    sent?;
    read?;
    let message = "it closed the connection before it replied";
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, message))
}
