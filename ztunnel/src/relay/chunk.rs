//! How much to read at once and in one turn, and the buffer to read into.

use std::cell::RefCell;
use std::pin::pin;
use std::task::{Context, Poll};

/// Reads of a new or idle flow: one page or so costs nothing to touch.
const READ_MIN: usize = 16 * 1024;
/// Reads of a sustained bulk flow between two sockets. Measured: 1 MiB beats 256 KiB there.
pub(super) const SOCKET_READ_MAX: usize = 1024 * 1024;
/// Reads of a bulk flow into a tunnel, which keeps them until they are encrypted.
pub(super) const TUNNEL_READ_MAX: usize = 256 * 1024;

/// Bytes that one direction of a connection moves before all others of the thread have their turn.
/// Tokio's own budget counts calls, not bytes: with the largest reads it allows over 100 MiB.
pub(super) const TURN: usize = 1024 * 1024;

thread_local! {
    /// One buffer per data-plane thread. It is borrowed within a single poll only, so a connection
    /// that waits owns no buffer at all.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; SOCKET_READ_MAX]);
}

/// Runs `read` with the thread's buffer.
pub(super) fn with_scratch<T>(limit: usize, read: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| {
        let limit = limit.min(scratch.len());
        read(&mut scratch[..limit])
    })
}

/// The size of the next read: doubles while reads come back full, falls back when they do not.
#[derive(Debug)]
pub(super) struct ReadSize {
    next: usize,
    most: usize,
}

impl ReadSize {
    pub(super) fn new(most: usize) -> Self {
        Self { next: READ_MIN, most }
    }

    pub(super) fn next(&self) -> usize {
        self.next
    }

    pub(super) fn read(&mut self, bytes: usize) {
        if bytes >= self.next {
            self.next = (self.next * 2).min(self.most);
        } else if bytes < self.next / 4 {
            self.next = (self.next / 2).max(READ_MIN);
        }
    }
}

/// One direction's turn: a poll of it.
#[derive(Debug)]
pub(super) struct Turn {
    left: usize,
}

impl Turn {
    pub(super) fn new() -> Self {
        Self { left: TURN }
    }

    /// Counts bytes. `Pending` when the turn is over: the next one is due once the runtime has gone
    /// round.
    pub(super) fn moved(&mut self, bytes: usize, cx: &mut Context<'_>) -> Poll<()> {
        self.left = self.left.saturating_sub(bytes);
        if self.left > 0 {
            return Poll::Ready(());
        }
        // Polled once, it puts the waker off; a plain wake may run this task again first.
        pin!(tokio::task::yield_now()).poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_turn_ends_after_its_bytes_and_another_follows() {
        for _ in 0..3 {
            let mut turn = Turn::new();
            let mut polls = 0;
            std::future::poll_fn(|cx| {
                polls += 1;
                if polls > 1 {
                    return Poll::Ready(());
                }
                assert!(turn.moved(TURN - 1, cx).is_ready());
                turn.moved(1, cx)
            })
            .await;
            assert_eq!(polls, 2, "it is woken again");
        }
    }

    #[test]
    fn reads_grow_with_the_flow_and_shrink_when_it_idles() {
        let mut size = ReadSize::new(SOCKET_READ_MAX);
        for _ in 0..20 {
            size.read(size.next());
        }
        assert_eq!(size.next(), SOCKET_READ_MAX);
        for _ in 0..20 {
            size.read(100);
        }
        assert_eq!(size.next(), READ_MIN);
    }
}
