//! How much to read at once, and the buffer to read into.

use std::cell::RefCell;

/// Reads of a new or idle flow: one page or so costs nothing to touch.
const READ_MIN: usize = 16 * 1024;
/// Reads of a sustained bulk flow between two sockets. Measured: 1 MiB beats 256 KiB there.
pub(super) const SOCKET_READ_MAX: usize = 1024 * 1024;
/// Reads of a bulk flow into a tunnel, which keeps them until they are encrypted.
pub(super) const TUNNEL_READ_MAX: usize = 256 * 1024;

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

#[cfg(test)]
mod tests {
    use super::*;

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
