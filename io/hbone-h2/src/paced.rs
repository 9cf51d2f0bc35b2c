//! The connection below h2, read in portions.
//!
//! h2 reads until the socket is empty, in one poll, before any stream gets a turn. A peer that
//! sends fast could so pile up frames inside h2 that nobody had a chance to take out. With a
//! portion per poll, everybody who got something runs first: the driver yields to the whole
//! runtime, which wakes it only after it has polled what is ready, wherever that is (a task, a
//! `LocalSet`'s task, the future given to `block_on`). A plain wake would not do: within one tick
//! of a `LocalSet`, it lets the driver run 61 times before the main future.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most bytes read in one poll of a connection. The rest waits for the next one.
pub(crate) const READ_PER_POLL: usize = 128 * 1024;

/// What may still be read in this poll.
#[derive(Clone)]
pub(crate) struct Portion(Rc<Cell<usize>>);

impl Portion {
    /// A new poll of the connection begins.
    pub(crate) fn renew(&self) {
        self.0.set(READ_PER_POLL);
    }
}

/// A stream of bytes whose reads are portioned.
pub(crate) struct Paced<S> {
    inner: S,
    left: Portion,
}

impl<S> Paced<S> {
    pub(crate) fn new(inner: S) -> (Self, Portion) {
        let left = Portion(Rc::new(Cell::new(READ_PER_POLL)));
        (Self { inner, left: left.clone() }, left)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = self.left.0.get();
        if left == 0 {
            // Polled once, it puts the waker off until the runtime has gone round.
            return pin!(tokio::task::yield_now()).poll(cx).map(Ok);
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buffer);
        let count = buffer.filled().len() - before;
        self.left.0.set(left.saturating_sub(count));
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
