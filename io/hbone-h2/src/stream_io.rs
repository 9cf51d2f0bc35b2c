//! A stream as tokio's reader and writer: for what is carried inside it, such as another tunnel.
//!
//! Slower than the relay's own path: written bytes are copied once. What is read is taken out of
//! h2 as soon as the reader is polled, and counts as consumed once it has been handed on.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{HboneStream, StreamError};

/// Most bytes of one write: four TLS records.
const WRITE_MAX: usize = 64 * 1024;

/// The bytes of one [`HboneStream`]. Dropping the last clone of what it shares resets what has not
/// ended.
pub struct StreamIo {
    shared: Rc<Shared>,
}

/// The stream, for those who look after it while it is read and written elsewhere.
pub(crate) struct Shared {
    stream: RefCell<HboneStream>,
    broken: RefCell<Option<StreamError>>,
}

/// Why the stream below broke, within an [`io::Error`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stream below: {0}")]
pub struct BelowError(#[source] pub StreamError);

impl From<HboneStream> for StreamIo {
    fn from(stream: HboneStream) -> Self {
        let (stream, broken) = (RefCell::new(stream), RefCell::default());
        Self { shared: Rc::new(Shared { stream, broken }) }
    }
}

impl StreamIo {
    pub(crate) fn shared(&self) -> Rc<Shared> {
        self.shared.clone()
    }

    /// Waits for capacity for `len` bytes at most, then sends what `take` makes of it.
    fn poll_send(
        &self,
        cx: &mut Context<'_>,
        len: usize,
        take: impl FnOnce(usize) -> Bytes,
    ) -> Poll<io::Result<usize>> {
        if len == 0 {
            return Poll::Ready(Ok(0));
        }
        let mut stream = self.shared.stream.borrow_mut();
        let granted = ready!(stream.poll_capacity(cx, len.min(WRITE_MAX)));
        let sent = granted.and_then(|granted| {
            let data = take(granted);
            let len = data.len();
            stream.send(data).map(|()| len)
        });
        Poll::Ready(sent.map_err(|error| self.shared.note(error)))
    }
}

impl Shared {
    /// Why reading or writing failed, if it did.
    pub(crate) fn broken(&self) -> Option<StreamError> {
        self.broken.borrow().clone()
    }

    /// Drops what still comes; resolves when the peer has ended its side or let go.
    pub(crate) fn poll_drained(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut stream = self.stream.borrow_mut();
        loop {
            let more = ready!(stream.poll_fill(cx));
            stream.consume(usize::MAX);
            match more {
                Ok(true) => {}
                Ok(false) | Err(_) => return Poll::Ready(()),
            }
        }
    }

    fn note(&self, error: StreamError) -> io::Error {
        let kind = match &error {
            StreamError::Reset(_) => io::ErrorKind::ConnectionReset,
            StreamError::Finished | StreamError::TunnelLost(_) | StreamError::Overrun => {
                io::ErrorKind::BrokenPipe
            }
        };
        self.broken.borrow_mut().get_or_insert_with(|| error.clone());
        io::Error::new(kind, BelowError(error))
    }
}

impl AsyncRead for StreamIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut stream = self.shared.stream.borrow_mut();
        // Taken out even if there is something to hand on: see `HboneStream`.
        let ended = loop {
            match stream.poll_fill(cx) {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false)) => break true,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.shared.note(error))),
                Poll::Pending => break false,
            }
        };
        if stream.buffered().is_empty() && !ended {
            return Poll::Pending;
        }
        while into.remaining() > 0 && !stream.buffered().is_empty() {
            let piece = stream.buffered();
            let len = piece.len().min(into.remaining());
            into.put_slice(&piece[..len]);
            stream.consume(len);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for StreamIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, data.len(), |granted| Bytes::copy_from_slice(&data[..granted]))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len = data.iter().map(|slice| slice.len()).sum();
        self.poll_send(cx, len, |granted| {
            let mut joined = BytesMut::with_capacity(granted);
            for slice in data {
                let left = granted - joined.len();
                joined.extend_from_slice(&slice[..slice.len().min(left)]);
            }
            joined.freeze()
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What was sent is with the tunnel's driver.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let finished = self.shared.stream.borrow_mut().finish();
        Poll::Ready(finished.map_err(|error| self.shared.note(error)))
    }
}
