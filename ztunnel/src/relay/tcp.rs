//! Socket to socket: passthrough, plaintext and same-node connections.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::chunk::{ReadSize, SOCKET_READ_MAX, Turn, with_scratch};
use super::{Broken, Ending, Meter, Side, reset, until_stopped};

/// Joins two sockets until both directions have ended or `stop` resolves.
pub(crate) async fn join_tcp(
    mut client: TcpStream,
    mut server: TcpStream,
    meter: &impl Meter,
    stop: impl Future<Output = Ending>,
) -> Ending {
    let (mut client_read, mut client_write) = client.split();
    let (mut server_read, mut server_write) = server.split();
    let (mut request, mut response) = (OneWay::new(), OneWay::new());
    let copy = |cx: &mut Context<'_>| {
        let sent = request
            .poll(cx, &mut client_read, &mut server_write, |n| meter.request(n))
            .map_err(|fault| fault.between(Side::Client, Side::Server))?;
        let received = response
            .poll(cx, &mut server_read, &mut client_write, |n| meter.response(n))
            .map_err(|fault| fault.between(Side::Server, Side::Client))?;
        if sent.is_ready() && received.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    };
    let ending = until_stopped(copy, stop).await;
    if ending.code != model::Code::Ok {
        reset(&client);
        reset(&server);
    }
    ending
}

/// Which end of one direction failed.
pub(super) enum Fault {
    Reading(io::Error),
    Writing(io::Error),
}

impl Fault {
    fn between(self, from: Side, to: Side) -> Broken {
        match self {
            Self::Reading(error) => Broken::Socket(from, error),
            Self::Writing(error) => Broken::Socket(to, error),
        }
    }
}

/// One direction.
pub(super) struct OneWay {
    size: ReadSize,
    /// Bytes that were read but that the writer could not take yet.
    left: Vec<u8>,
    written: usize,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The reader ended; the writer must be told.
    Ending,
    Ended,
}

impl OneWay {
    pub(super) fn new() -> Self {
        let size = ReadSize::new(SOCKET_READ_MAX);
        Self { size, left: Vec::new(), written: 0, state: State::Open }
    }

    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        count: impl Fn(u64),
    ) -> Poll<Result<(), Fault>> {
        let mut turn = Turn::new();
        loop {
            ready!(self.poll_left(cx, to)).map_err(Fault::Writing)?;
            match self.state {
                State::Open => {}
                State::Ending => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(Fault::Writing)?;
                    self.state = State::Ended;
                    return Poll::Ready(Ok(()));
                }
                State::Ended => return Poll::Ready(Ok(())),
            }
            let bytes = ready!(with_scratch(self.size.next(), |scratch| {
                let mut buffer = ReadBuf::new(scratch);
                ready!(Pin::new(&mut *from).poll_read(cx, &mut buffer)).map_err(Fault::Reading)?;
                // Written from the shared buffer; only what does not fit is kept.
                let filled = buffer.filled();
                let mut written = 0;
                while written < filled.len() {
                    match Pin::new(&mut *to).poll_write(cx, &filled[written..]) {
                        Poll::Ready(Ok(0)) => {
                            return Poll::Ready(Err(Fault::Writing(
                                io::ErrorKind::WriteZero.into(),
                            )));
                        }
                        Poll::Ready(Ok(n)) => written += n,
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(Fault::Writing(error))),
                        Poll::Pending => break,
                    }
                }
                self.left.extend_from_slice(&filled[written..]);
                Poll::Ready(Ok(filled.len()))
            }))?;
            if bytes == 0 {
                self.state = State::Ending;
            }
            self.size.read(bytes);
            count(u64::try_from(bytes).unwrap_or(u64::MAX));
            ready!(turn.moved(bytes, cx));
        }
    }

    /// Writes what an earlier read left over, then gives its memory back.
    fn poll_left(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        while self.written < self.left.len() {
            let n = ready!(Pin::new(&mut *to).poll_write(cx, &self.left[self.written..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += n;
        }
        if self.written > 0 {
            self.left = Vec::new();
            self.written = 0;
        }
        Poll::Ready(Ok(()))
    }
}
