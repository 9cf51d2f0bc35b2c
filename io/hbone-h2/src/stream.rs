//! The byte path of one HBONE stream, for either end.
//!
//! A reader calls [`HboneStream::poll_fill`] whenever it is polled, whether or not it can pass
//! bytes on: frames left inside h2 count against the whole tunnel, bytes taken out only against
//! this stream's window. It passes on [`HboneStream::buffered`] and reports how much with
//! [`HboneStream::consume`], and only that lets the peer send more. A writer asks
//! [`HboneStream::poll_capacity`] before it reads from its own source.

use std::io::IoSlice;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use model::Code;

use crate::buffer::Received;
use crate::load::Load;

/// Why a stream broke. It cannot be used any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The peer reset it, or h2 did because the peer broke a rule. Unlike an end of stream, this
    /// does not say that the bytes are complete. CANCEL is one too, although Istio's ztunnel reads
    /// it as an end: a peer that gives up half-way sends it, and what came may be a fragment.
    #[error("the stream was reset: {0}")]
    Reset(Reason),
    /// The peer had ended its side, and then let go of ours with RST_STREAM(NO_ERROR), as a server
    /// may (RFC 9113, section 8.1): all its bytes came, and it takes no more of ours.
    #[error("the peer has finished and takes no more")]
    Finished,
    /// The tunnel is gone.
    #[error("the tunnel was lost: {0}")]
    TunnelLost(String),
    /// We sent more than there was capacity for, or after the end.
    #[error("the stream was written to without capacity")]
    Overrun,
}

impl StreamError {
    /// The stable reason.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Reset(_) => Code::Reset,
            Self::Finished => Code::Ok,
            Self::TunnelLost(_) => Code::TunnelLost,
            Self::Overrun => Code::Internal,
        }
    }
}

impl From<h2::Error> for StreamError {
    fn from(error: h2::Error) -> Self {
        match error.reason() {
            Some(reason) if error.is_reset() => Self::Reset(reason),
            Some(_) | None => Self::TunnelLost(error.to_string()),
        }
    }
}

/// One stream. Dropping it resets what has not ended.
pub struct HboneStream {
    send: SendStream<Bytes>,
    recv: RecvStream,
    load: Rc<Load>,
    received: Received,
    ended: bool,
    /// Bytes that may be sent; granted by `poll_capacity` and not used yet.
    granted: usize,
    waiting: bool,
    finished: bool,
}

impl HboneStream {
    pub(crate) fn new(send: SendStream<Bytes>, recv: RecvStream, load: Rc<Load>) -> Self {
        Self {
            send,
            recv,
            load,
            received: Received::default(),
            ended: false,
            granted: 0,
            waiting: false,
            finished: false,
        }
    }

    /// Takes everything that has arrived out of h2. True: there is more in [`Self::buffered`].
    /// False: the peer has ended its side; what is buffered is all there will be.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, StreamError>> {
        if self.ended {
            return Poll::Ready(Ok(false));
        }
        let before = self.received.len();
        let end = loop {
            match self.recv.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => self.received.push(data),
                Poll::Ready(Some(Err(error))) => break Some(Err(StreamError::from(error))),
                Poll::Ready(None) => break Some(Ok(())),
                Poll::Pending => break None,
            }
        };
        let more = self.received.len() - before;
        if more > 0 {
            self.load.received(more);
        }
        match end {
            Some(Ok(())) => {
                self.ended = true;
                Poll::Ready(Ok(more > 0))
            }
            // An error is kept by h2 and reported again.
            Some(Err(error)) if more == 0 => Poll::Ready(Err(error)),
            None if more == 0 => Poll::Pending,
            Some(Err(_)) | None => Poll::Ready(Ok(true)),
        }
    }

    /// The next bytes to pass on; empty only if there are none.
    #[must_use]
    pub fn buffered(&self) -> &[u8] {
        self.received.front()
    }

    /// Fills `slices` with the next bytes, for a vectored write; how many were filled.
    pub fn buffered_slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.received.slices(slices)
    }

    /// The next bytes were passed on: the peer may send as many again.
    pub fn consume(&mut self, count: usize) {
        let count = self.received.consume(count);
        if count > 0 {
            self.load.consumed(count);
            // It fails only for more than was received, which the buffer rules out.
            let _ = self.recv.flow_control().release_capacity(count);
        }
    }

    /// Resolves with how many bytes may be sent now: at least 1, at most `want`. Ask for what is
    /// likely to be sent: what is reserved is taken from the tunnel's other streams.
    pub fn poll_capacity(
        &mut self,
        cx: &mut Context<'_>,
        want: usize,
    ) -> Poll<Result<usize, StreamError>> {
        if self.finished {
            return Poll::Ready(Err(StreamError::Overrun));
        }
        let want = want.max(1);
        self.send.reserve_capacity(want);
        loop {
            let capacity = self.send.capacity();
            if capacity > 0 {
                self.set_waiting(false);
                self.granted = capacity.min(want);
                return Poll::Ready(Ok(self.granted));
            }
            let Poll::Ready(news) = self.send.poll_capacity(cx) else {
                self.set_waiting(true);
                return Poll::Pending;
            };
            match news {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(self.why(error.into()))),
                None => return Poll::Ready(Err(self.why_closed(cx))),
            }
        }
    }

    /// Sends bytes, at most as many as were granted.
    pub fn send(&mut self, data: Bytes) -> Result<(), StreamError> {
        if data.is_empty() {
            // An empty DATA frame means nothing, and peers count them as an attack.
            return Ok(());
        }
        if data.len() > self.granted || self.finished {
            return Err(StreamError::Overrun);
        }
        self.granted -= data.len();
        self.send.send_data(data, false).map_err(|error| self.not_sent(error))
    }

    /// Gives back window that was granted and will not be used soon.
    pub fn release_capacity(&mut self) {
        self.granted = 0;
        self.send.reserve_capacity(0);
    }

    /// Ends our side. The peer may go on sending.
    pub fn finish(&mut self) -> Result<(), StreamError> {
        if self.finished {
            return Ok(());
        }
        self.finished = true;
        self.granted = 0;
        self.set_waiting(false);
        self.send.send_data(Bytes::new(), true).map_err(|error| self.not_sent(error))
    }

    /// Breaks the stream off, both ways.
    pub fn reset(&mut self) {
        self.finished = true;
        self.send.send_reset(Reason::CANCEL);
    }

    /// Resolves when the peer resets the stream or lets go of it, or the tunnel is lost: for while
    /// there is nothing to send and the peer has ended its side.
    pub fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        let error = match ready!(self.send.poll_reset(cx)) {
            Ok(reason) => StreamError::Reset(reason),
            Err(error) => error.into(),
        };
        Poll::Ready(self.why(error))
    }

    /// NO_ERROR counts as a finish only once the end of the peer's side was seen here. h2 forgets
    /// an end that the reset overtakes within one read; that is then a reset, never a false end.
    fn why(&self, error: StreamError) -> StreamError {
        if self.ended && error == StreamError::Reset(Reason::NO_ERROR) {
            return StreamError::Finished;
        }
        error
    }

    fn why_closed(&mut self, cx: &mut Context<'_>) -> StreamError {
        match self.poll_broken(cx) {
            Poll::Ready(error) => error,
            Poll::Pending => StreamError::Reset(Reason::STREAM_CLOSED),
        }
    }

    /// h2 blames the caller for writing to a stream that the peer has reset meanwhile.
    fn not_sent(&mut self, error: h2::Error) -> StreamError {
        let waker = std::task::Waker::noop();
        match self.poll_broken(&mut Context::from_waker(waker)) {
            Poll::Ready(why) => why,
            Poll::Pending => self.why(error.into()),
        }
    }

    fn set_waiting(&mut self, waiting: bool) {
        if self.waiting != waiting {
            self.waiting = waiting;
            if waiting {
                self.load.begins_waiting();
            } else {
                self.load.ends_waiting();
            }
        }
    }
}

impl Drop for HboneStream {
    fn drop(&mut self) {
        self.set_waiting(false);
        self.load.consumed(self.received.len());
    }
}
