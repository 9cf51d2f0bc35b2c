//! Socket to tunnel stream: the two ends of a cross-node connection.

use std::future::Future;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use hbone_h2::{HboneStream, StreamError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

use super::chunk::{ReadSize, TUNNEL_READ_MAX, Turn, with_scratch};
use super::{Broken, Ending, Meter, Side, reset, until_stopped};

/// From this read size on, a flow is bulk: it reads into the buffer that h2 keeps. Smaller reads go
/// through the thread's buffer and are copied to their exact size, so that a small message never
/// pins a large buffer while it waits to be encrypted.
const BULK: usize = 64 * 1024;
/// Pieces of one vectored write; more than any kernel buffer takes at once.
const PIECES: usize = 16;

/// Which end of the connection the socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Socket {
    /// The client's: this is the client's node.
    Client,
    /// The application's: this is the server's node.
    Server,
}

impl Socket {
    fn side(self) -> Side {
        match self {
            Self::Client => Side::Client,
            Self::Server => Side::Server,
        }
    }
}

/// Joins a socket and a tunnel stream until both directions have ended or `stop` resolves.
pub(crate) async fn join_tunnel(
    which: Socket,
    mut socket: TcpStream,
    mut stream: HboneStream,
    meter: &impl Meter,
    stop: impl Future<Output = Ending>,
) -> Ending {
    let (mut read, mut write) = socket.split();
    let (mut into, mut out_of) = (IntoTunnel::new(), OutOfTunnel::default());
    let copy = |cx: &mut Context<'_>| {
        let up = into.poll(cx, which, &mut read, &mut stream, |n| match which {
            Socket::Client => meter.request(n),
            Socket::Server => meter.response(n),
        })?;
        let down = out_of.poll(cx, which, &mut stream, &mut write, |n| match which {
            Socket::Client => meter.response(n),
            Socket::Server => meter.request(n),
        })?;
        match (up.is_ready(), down.is_ready()) {
            (true, true) => Poll::Ready(Ok(())),
            // The peer has ended its side and may still reset the stream: nothing else tells.
            (false, true) => stream.poll_broken(cx).map(|error| {
                if matches!(error, StreamError::Finished) { Ok(()) } else { Err(broken(&error)) }
            }),
            (_, false) => Poll::Pending,
        }
    };
    let ending = until_stopped(copy, stop).await;
    if ending.code != model::Code::Ok {
        stream.reset();
        reset(&socket);
    }
    ending
}

fn broken(error: &StreamError) -> Broken {
    Broken::Stream(error.code(), error.to_string())
}

/// From the socket into the tunnel.
struct IntoTunnel {
    size: ReadSize,
    finished: bool,
}

impl IntoTunnel {
    fn new() -> Self {
        Self { size: ReadSize::new(TUNNEL_READ_MAX), finished: false }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        which: Socket,
        from: &mut (impl AsyncRead + Unpin),
        stream: &mut HboneStream,
        count: impl Fn(u64),
    ) -> Poll<Result<(), Broken>> {
        let mut turn = Turn::new();
        loop {
            if self.finished {
                // The peer may still reset the stream while only the other direction flows.
                return Poll::Ready(Ok(()));
            }
            // Nothing is read that the tunnel has no window for: that is the back-pressure.
            let window = match ready!(stream.poll_capacity(cx, self.size.next())) {
                Ok(window) => window,
                // Nobody reads it any more. What the peer sent must still reach the socket.
                Err(StreamError::Finished) => {
                    self.finished = true;
                    continue;
                }
                Err(error) => return Poll::Ready(Err(broken(&error))),
            };
            let limit = window.min(self.size.next());
            let chunk = match read(cx, from, limit) {
                Poll::Ready(chunk) => chunk.map_err(|error| Broken::Socket(which.side(), error))?,
                Poll::Pending => {
                    // Window that waits for a silent socket is missing elsewhere: of the window that a
                    // connection has by default, four silent streams would hold all.
                    stream.release_capacity();
                    return Poll::Pending;
                }
            };
            self.size.read(chunk.len());
            if chunk.is_empty() {
                stream.finish().map_err(|e| broken(&e))?;
                self.finished = true;
            } else {
                let bytes = chunk.len();
                count(u64::try_from(bytes).unwrap_or(u64::MAX));
                stream.send(chunk).map_err(|e| broken(&e))?;
                ready!(turn.moved(bytes, cx));
            }
        }
    }
}

/// Reads at most `limit` bytes; none means the end.
fn read(
    cx: &mut Context<'_>,
    from: &mut (impl AsyncRead + Unpin),
    limit: usize,
) -> Poll<std::io::Result<Bytes>> {
    if limit >= BULK {
        let mut buffer = BytesMut::with_capacity(limit);
        ready!(poll_read_buf(Pin::new(from), cx, &mut buffer))?;
        return Poll::Ready(Ok(buffer.freeze()));
    }
    with_scratch(limit, |scratch| {
        let mut buffer = ReadBuf::new(scratch);
        ready!(Pin::new(from).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(Bytes::copy_from_slice(buffer.filled())))
    })
}

/// From the tunnel to the socket.
#[derive(Default)]
struct OutOfTunnel {
    ended: bool,
    shut: bool,
}

impl OutOfTunnel {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        which: Socket,
        stream: &mut HboneStream,
        to: &mut (impl AsyncWrite + Unpin),
        count: impl Fn(u64),
    ) -> Poll<Result<(), Broken>> {
        let wrong = |error| Broken::Socket(which.side(), error);
        let mut turn = Turn::new();
        loop {
            if self.shut {
                return Poll::Ready(Ok(()));
            }
            // Everything the tunnel holds for this stream is taken out first, whether the socket
            // can take it or not: frames left inside would count against the whole tunnel.
            while !self.ended {
                match stream.poll_fill(cx) {
                    Poll::Ready(Ok(more)) => self.ended = !more,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(broken(&error))),
                    Poll::Pending => break,
                }
            }
            if stream.buffered().is_empty() {
                if !self.ended {
                    return Poll::Pending;
                }
                ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(wrong)?;
                self.shut = true;
                return Poll::Ready(Ok(()));
            }
            let mut pieces = [IoSlice::new(&[]); PIECES];
            let filled = stream.buffered_slices(&mut pieces);
            let write = Pin::new(&mut *to).poll_write_vectored(cx, &pieces[..filled]);
            let written = ready!(write).map_err(wrong)?;
            if written == 0 {
                return Poll::Ready(Err(wrong(std::io::ErrorKind::WriteZero.into())));
            }
            count(u64::try_from(written).unwrap_or(u64::MAX));
            // Only now may the peer send as much again.
            stream.consume(written);
            ready!(turn.moved(written, cx));
        }
    }
}
