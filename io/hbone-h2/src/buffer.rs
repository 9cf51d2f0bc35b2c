//! What a stream has received and its reader has not consumed.
//!
//! Bounded by the stream's window, because that is given back only on consumption. Small pieces
//! are copied together: a frame of one byte would otherwise keep alive the read buffer it came in.
//! Large pieces are kept as they are while the reader keeps up.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

/// A piece of at least this is not copied, if the reader keeps up.
const KEEP_FROM: usize = 8 * 1024;
/// With more than this unread, the reader does not keep up, and every piece is copied.
const KEEP_UP_TO: usize = 256 * 1024;
/// Size of a full block of copied pieces.
const BLOCK: usize = 64 * 1024;
/// An empty block of at most this is kept for the next piece.
const KEEP_BLOCK: usize = 4 * 1024;

/// A queue of bytes.
#[derive(Default)]
pub(crate) struct Received {
    chunks: VecDeque<Bytes>,
    /// The block being filled; behind all chunks.
    tail: BytesMut,
    /// How much of `tail` is consumed. Kept apart, because advancing a block gives up its front.
    tail_read: usize,
    len: usize,
}

impl Received {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn push(&mut self, data: Bytes) {
        let keeps_up = self.len <= KEEP_UP_TO;
        self.len += data.len();
        if keeps_up && data.len() >= KEEP_FROM {
            self.seal();
            self.chunks.push_back(data);
            return;
        }
        let mut data = &data[..];
        while !data.is_empty() {
            if self.tail.len() >= BLOCK {
                self.seal();
            }
            let (now, later) = data.split_at(data.len().min(BLOCK - self.tail.len()));
            self.tail.extend_from_slice(now);
            data = later;
        }
    }

    /// The next bytes; empty only if there are none.
    pub(crate) fn front(&self) -> &[u8] {
        self.chunks.front().map_or(&self.tail[self.tail_read..], |chunk| chunk)
    }

    /// Fills `slices` with the next bytes; how many slices were filled.
    pub(crate) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let tail = Some(&self.tail[self.tail_read..]).filter(|tail| !tail.is_empty());
        let pieces = self.chunks.iter().map(|chunk| &chunk[..]).chain(tail);
        let mut filled = 0;
        for (slot, piece) in slices.iter_mut().zip(pieces) {
            *slot = IoSlice::new(piece);
            filled += 1;
        }
        filled
    }

    /// Drops the next bytes, all of them if there are fewer; how many there were.
    pub(crate) fn consume(&mut self, count: usize) -> usize {
        let count = count.min(self.len);
        let mut left = count;
        while let Some(chunk) = self.chunks.front_mut() {
            let now = left.min(chunk.len());
            chunk.advance(now);
            left -= now;
            if !chunk.is_empty() {
                break;
            }
            self.chunks.pop_front();
        }
        self.tail_read += left;
        self.len -= count;
        if self.len == 0 {
            self.tail_read = 0;
            // An idle stream should cost little.
            if self.tail.capacity() <= KEEP_BLOCK {
                self.tail.clear();
            } else {
                self.tail = BytesMut::new();
            }
        }
        count
    }

    fn seal(&mut self) {
        let mut block = std::mem::take(&mut self.tail).freeze();
        block.advance(std::mem::take(&mut self.tail_read));
        if !block.is_empty() {
            self.chunks.push_back(block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_kept_whatever_the_sizes() {
        let sizes = [1, 7, KEEP_FROM, 1, BLOCK - 1, 3, BLOCK * 3, KEEP_FROM - 1, 300_000, 2];
        for step in [1, 5, 4096, 100_000] {
            let (mut queue, mut sent, mut got) = (Received::default(), Vec::new(), Vec::new());
            for round in 0..40_usize {
                let byte = u8::try_from(round).expect("small");
                let data = vec![byte; sizes[round % sizes.len()]];
                sent.extend_from_slice(&data);
                queue.push(data.into());
                if round % 3 == 0 {
                    let mut left = step;
                    while left > 0 && !queue.front().is_empty() {
                        let n = queue.front().len().min(left);
                        got.extend_from_slice(&queue.front()[..n]);
                        assert_eq!(queue.consume(n), n);
                        left -= n;
                    }
                }
                assert_eq!(queue.len(), sent.len() - got.len());
            }
            let mut slices = [IoSlice::new(&[]); 1000];
            let filled = queue.slices(&mut slices);
            slices[..filled].iter().for_each(|slice| got.extend_from_slice(slice));
            assert!(got == sent, "step {step}");
            let len = queue.len();
            assert_eq!(queue.consume(usize::MAX), len);
            assert!(queue.front().is_empty());
        }
    }

    /// A stalled reader costs about what was sent to it, in few pieces, whatever the frames.
    #[test]
    fn small_pieces_are_joined() {
        let source = Bytes::from(vec![1; BLOCK]);
        let mut queue = Received::default();
        for _ in 0..1_000_000 {
            queue.push(source.slice(..1));
        }
        assert_eq!(queue.len(), 1_000_000);
        assert_eq!(queue.chunks.len(), 1_000_000 / BLOCK);
        assert!(queue.chunks.iter().all(|chunk| chunk.len() == BLOCK));
        let mut queue = Received::default();
        for _ in 0..512 {
            queue.push(source.slice(..KEEP_FROM));
        }
        assert!(queue.chunks.len() < 100, "{}", queue.chunks.len());
    }

    #[test]
    fn an_idle_stream_keeps_little() {
        let mut queue = Received::default();
        queue.push(vec![1; KEEP_FROM - 1].into());
        queue.consume(usize::MAX);
        assert_eq!(queue.tail.capacity(), 0);
        queue.push(vec![1; 100].into());
        queue.consume(usize::MAX);
        let kept = queue.tail.capacity();
        assert!((1..=KEEP_BLOCK).contains(&kept), "{kept}");
    }
}
