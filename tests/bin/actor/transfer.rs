//! Bulk both ways at once, with digests of every byte.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use tests::protocol::{ConnectOptions, Failure, Response, Stream, Transfer};
use tests::{Digest, Pattern, length};

use crate::sockets;

/// Bytes of one read or write.
const PIECE_BYTES: usize = 256 * 1024;
/// A slow reader reads pieces of this size, so that its pauses are short.
const SLOW_PIECE_BYTES: usize = 16 * 1024;
/// A stream on which nothing moves for this long has failed.
const STALL_TIMEOUT: Duration = Duration::from_mins(1);

pub(crate) fn run(
    target: SocketAddr,
    options: &ConnectOptions,
    upload: Stream,
    read_bytes_per_second: u64,
) -> Result<Response, Failure> {
    let start = Instant::now();
    let stream = sockets::connect(target, options)?;
    let local = stream.local_addr().map_err(|error| Failure::io("getsockname", &error))?;
    let writer = stream.try_clone().map_err(|error| Failure::io("clone", &error))?;
    let writer = thread::spawn(move || send_pattern(&writer, upload));
    let received = receive(&stream, read_bytes_per_second, |_| ());
    let sent = writer.join().map_err(|_| Failure::other("send", "the writer panicked"))?;
    let sent = sent.map_err(|error| Failure::io("send", &error))?;
    let received = received.map_err(|error| Failure::io("receive", &error))?;
    Ok(Response::Transferred(Transfer {
        sent: sent.bytes(),
        sent_digest: sent.value(),
        received: received.bytes(),
        received_digest: received.value(),
        duration_ms: u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX),
        local,
    }))
}

/// Sends a pattern and finishes writing.
pub(crate) fn send_pattern(mut stream: &TcpStream, what: Stream) -> io::Result<Digest> {
    stream.set_write_timeout(Some(STALL_TIMEOUT))?;
    let (mut pattern, mut digest) = (Pattern::new(what.seed), Digest::default());
    let mut buffer = vec![0; PIECE_BYTES];
    while digest.bytes() < what.bytes {
        let left = usize::try_from(what.bytes - digest.bytes()).unwrap_or(usize::MAX);
        let piece = buffer.len().min(left);
        pattern.fill(&mut buffer[..piece]);
        stream.write_all(&buffer[..piece])?;
        digest.update(&buffer[..piece]);
    }
    stream.shutdown(Shutdown::Write)?;
    Ok(digest)
}

/// Reads to the end, no faster than given (0: no limit), and tells `progress` after each read.
pub(crate) fn receive(
    mut stream: &TcpStream,
    bytes_per_second: u64,
    mut progress: impl FnMut(&Digest),
) -> io::Result<Digest> {
    stream.set_read_timeout(Some(STALL_TIMEOUT))?;
    let mut digest = Digest::default();
    let slow = bytes_per_second > 0;
    let mut buffer = vec![0; if slow { SLOW_PIECE_BYTES } else { PIECE_BYTES }];
    let start = Instant::now();
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(digest),
            Ok(read) => digest.update(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        progress(&digest);
        if let Some(due_us) = (digest.bytes() * 1_000_000).checked_div(bytes_per_second) {
            thread::sleep(Duration::from_micros(due_us).saturating_sub(start.elapsed()));
        }
    }
}

/// Sends back what comes, until the peer has finished.
pub(crate) fn echo(mut stream: &TcpStream, mut progress: impl FnMut(&Digest)) -> io::Result<()> {
    let mut buffer = vec![0; PIECE_BYTES / 4];
    let mut digest = Digest::default();
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return stream.shutdown(Shutdown::Write);
        }
        digest.update(&buffer[..read]);
        progress(&digest);
        stream.write_all(&buffer[..read])?;
        debug_assert!(length(read) <= digest.bytes());
    }
}
