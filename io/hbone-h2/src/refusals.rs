//! What h2 refuses by itself, told by the frames that it writes.
//!
//! h2 answers a header list beyond its bound with 431, and a stream beyond the advertised number with
//! RST_STREAM(REFUSED_STREAM), and tells nobody. A server sends one HEADERS in each stream, its
//! answer: one in a stream that nobody was told of is h2's. Only frame heads are looked at (RFC 9113,
//! section 4.1), so a byte of payload costs nothing.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use h2::Reason;
use hbone::HeadError;
use model::Code;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{SERVER_HEADERS_MAX, SERVER_STREAMS_MAX};

/// Streams that are asked in and not answered yet. More than can be open at once, because those that
/// the peer resets just before the answer are never seen answered; beyond it, the oldest is forgotten.
const UNANSWERED_MAX: usize = 4 * 1024;

/// Why a request was refused. The peer has been told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestRefused {
    /// Its head cannot be read.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// Its header list is larger than [`SERVER_HEADERS_MAX`].
    #[error("the header list is larger than {SERVER_HEADERS_MAX} bytes")]
    HeadTooLarge,
    /// The tunnel has [`SERVER_STREAMS_MAX`] streams already.
    #[error("the tunnel has {SERVER_STREAMS_MAX} streams already")]
    TooManyStreams,
}

impl RequestRefused {
    /// The stable reason.
    #[must_use]
    pub fn code(self) -> Code {
        match self {
            Self::Head(error) => error.code(),
            Self::HeadTooLarge => Code::HeadTooLarge,
            Self::TooManyStreams => Code::TooManyStreams,
        }
    }
}

/// What h2 has refused on one connection. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Refusals(Rc<RefCell<Counts>>);

#[derive(Default)]
struct Counts {
    unanswered: BTreeSet<u32>,
    // Numbers, and no list: they stay small however many refusals wait to be told.
    heads_too_large: u32,
    too_many_streams: u32,
}

impl Refusals {
    /// h2 has yielded the request of a stream: the next HEADERS in it is ours.
    pub(crate) fn yielded(&self, stream: u32) {
        let unanswered = &mut self.0.borrow_mut().unanswered;
        unanswered.insert(stream);
        if unanswered.len() > UNANSWERED_MAX {
            unanswered.pop_first();
        }
    }

    /// The next refusal that was not told yet.
    pub(crate) fn next(&self) -> Option<RequestRefused> {
        let mut counts = self.0.borrow_mut();
        if let Some(left) = counts.heads_too_large.checked_sub(1) {
            counts.heads_too_large = left;
            return Some(RequestRefused::HeadTooLarge);
        }
        let left = counts.too_many_streams.checked_sub(1)?;
        counts.too_many_streams = left;
        Some(RequestRefused::TooManyStreams)
    }

    fn written(&self, frame: Written) {
        let mut counts = self.0.borrow_mut();
        match frame {
            Written::Headers { stream } => {
                if !counts.unanswered.remove(&stream) {
                    counts.heads_too_large = counts.heads_too_large.saturating_add(1);
                }
            }
            Written::Reset { stream, error } => {
                counts.unanswered.remove(&stream);
                // Nobody else gives this reason.
                if error == u32::from(Reason::REFUSED_STREAM) {
                    counts.too_many_streams = counts.too_many_streams.saturating_add(1);
                }
            }
        }
    }
}

/// A stream of bytes whose written frames are looked at.
pub(crate) struct Watched<S> {
    inner: S,
    frames: Frames,
    refusals: Refusals,
}

impl<S> Watched<S> {
    pub(crate) fn new(inner: S) -> (Self, Refusals) {
        let refusals = Refusals::default();
        (Self { inner, frames: Frames::default(), refusals: refusals.clone() }, refusals)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = Pin::new(&mut this.inner).poll_write(cx, data);
        if let Poll::Ready(Ok(count)) = written {
            this.frames.pass(&data[..count], |frame| this.refusals.written(frame));
        }
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = Pin::new(&mut this.inner).poll_write_vectored(cx, data);
        if let Poll::Ready(Ok(mut count)) = written {
            for slice in data {
                let part = &slice[..count.min(slice.len())];
                count -= part.len();
                this.frames.pass(part, |frame| this.refusals.written(frame));
            }
        }
        written
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

/// A frame that says something about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    Headers { stream: u32 },
    Reset { stream: u32, error: u32 },
}

/// Where in the sequence of frames the written bytes are. A server writes nothing before the first.
#[derive(Debug)]
enum Frames {
    Head {
        bytes: [u8; 9],
        filled: usize,
    },
    /// The payload of RST_STREAM.
    Error {
        stream: u32,
        bytes: [u8; 4],
        filled: usize,
    },
    Payload {
        left: usize,
    },
}

impl Default for Frames {
    fn default() -> Self {
        Self::Head { bytes: [0; 9], filled: 0 }
    }
}

impl Frames {
    /// Follows bytes that were written, however they are cut.
    fn pass(&mut self, mut data: &[u8], mut each: impl FnMut(Written)) {
        while !data.is_empty() {
            match self {
                Self::Head { bytes, filled } => {
                    if fill(bytes, filled, &mut data) {
                        *self = Self::after(*bytes, &mut each);
                    }
                }
                Self::Error { stream, bytes, filled } => {
                    if fill(bytes, filled, &mut data) {
                        each(Written::Reset { stream: *stream, error: u32::from_be_bytes(*bytes) });
                        *self = Self::default();
                    }
                }
                Self::Payload { left } => {
                    let part = data.len().min(*left);
                    data = &data[part..];
                    *left -= part;
                    if *left == 0 {
                        *self = Self::default();
                    }
                }
            }
        }
    }

    /// What follows a frame's head.
    fn after(
        [a, b, c, kind, _flags, stream @ ..]: [u8; 9],
        each: &mut impl FnMut(Written),
    ) -> Self {
        const HEADERS: u8 = 1;
        const RST_STREAM: u8 = 3;
        let stream = u32::from_be_bytes(stream);
        let length = u32::from_be_bytes([0, a, b, c]);
        match kind {
            HEADERS => each(Written::Headers { stream }),
            RST_STREAM => return Self::Error { stream, bytes: [0; 4], filled: 0 },
            _ => {}
        }
        match usize::try_from(length) {
            Ok(0) => Self::default(),
            Ok(left) => Self::Payload { left },
            // A frame has 24 bits of length.
            Err(_) => Self::Payload { left: usize::MAX },
        }
    }
}

/// Moves bytes from `data` into `into`; whether that is full now.
fn fill(into: &mut [u8], filled: &mut usize, data: &mut &[u8]) -> bool {
    let part = data.len().min(into.len() - *filled);
    into[*filled..*filled + part].copy_from_slice(&data[..part]);
    *data = &data[part..];
    *filled += part;
    *filled == into.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let [_, a, b, c] = u32::try_from(payload.len()).expect("short").to_be_bytes();
        [&[a, b, c, kind, 0], &stream.to_be_bytes()[..], payload].concat()
    }

    #[test]
    fn an_answer_that_nobody_gave_is_a_head_too_large() {
        let refusals = Refusals::default();
        refusals.yielded(1);
        refusals.yielded(3);
        for stream in [1, 5, 3] {
            refusals.written(Written::Headers { stream });
        }
        assert_eq!(refusals.next(), Some(RequestRefused::HeadTooLarge));
        assert_eq!(refusals.next(), None);
    }

    #[test]
    fn only_refused_streams_are_too_many() {
        let refusals = Refusals::default();
        refusals.yielded(1);
        for (stream, reason) in
            [(1, Reason::CANCEL), (3, Reason::REFUSED_STREAM), (5, Reason::PROTOCOL_ERROR)]
        {
            refusals.written(Written::Reset { stream, error: reason.into() });
        }
        assert_eq!(refusals.next(), Some(RequestRefused::TooManyStreams));
        assert_eq!(refusals.next(), None);
    }

    #[test]
    fn streams_that_are_never_answered_are_forgotten() {
        let refusals = Refusals::default();
        for n in 0..2 * u32::try_from(UNANSWERED_MAX).expect("small") {
            refusals.yielded(2 * n + 1);
        }
        assert_eq!(refusals.0.borrow().unanswered.len(), UNANSWERED_MAX);
    }

    proptest! {
        #[test]
        fn frames_are_followed_however_they_are_cut(
            frames in prop::collection::vec((0_u8..10, 1_u32..9, 0_usize..30), 0..20),
            cuts in prop::collection::vec(1_usize..25, 1..10),
        ) {
            let mut bytes = Vec::new();
            let mut wanted = Vec::new();
            for (kind, stream, length) in frames {
                match kind {
                    1 => wanted.push(Written::Headers { stream }),
                    3 => wanted.push(Written::Reset { stream, error: 7 }),
                    _ => {}
                }
                let payload = if kind == 3 { vec![0, 0, 0, 7] } else { vec![kind; length] };
                bytes.extend(frame(kind, stream, &payload));
            }
            let (mut follower, mut seen) = (Frames::default(), Vec::new());
            let (mut rest, mut cuts) = (&bytes[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let cut = cuts.next().copied().unwrap_or(1).min(rest.len());
                follower.pass(&rest[..cut], |frame| seen.push(frame));
                rest = &rest[cut..];
            }
            prop_assert_eq!(seen, wanted);
        }
    }
}
