//! How much window a connection gets beyond its own: as much as its streams hold unread.
//!
//! So bytes are credited to the connection when they are received, and to the stream when they
//! are consumed, although h2 credits both at once. What is granted comes from one budget per
//! thread, so that many tunnels with stalled readers stay bounded together.

use std::cell::Cell;

/// Most unread bytes on one thread that connections are given extra window for: 16 stalled readers
/// with windows of 4 MiB. Beyond it, the streams of a tunnel share the connection's own window.
pub const UNREAD_MAX: usize = 64 * 1024 * 1024;
/// Grants are whole multiples of this, so that they seldom change.
pub(crate) const QUANTUM: usize = 1024 * 1024;
/// What HTTP/2 can express.
const WINDOW_MAX: usize = (1 << 31) - 1;

thread_local! {
    /// Granted to all connections of this thread.
    static GRANTED: Cell<usize> = const { Cell::new(0) };
}

/// The window of one connection.
pub(crate) struct ConnectionWindow {
    own: usize,
    granted: usize,
}

/// What became of a look at the unread bytes.
pub(crate) struct Adjusted {
    /// The new target for the connection's window, if it changed.
    pub(crate) target: Option<u32>,
    /// Are unread bytes taking half of the connection's own window?
    pub(crate) stalled: bool,
}

impl ConnectionWindow {
    pub(crate) fn new(own: u32) -> Self {
        Self { own: usize::try_from(own).unwrap_or(WINDOW_MAX).min(WINDOW_MAX), granted: 0 }
    }

    /// Grants extra window for what is unread, as far as the thread's budget goes.
    pub(crate) fn adjust(&mut self, unread: usize) -> Adjusted {
        let wanted = (unread - unread % QUANTUM).min(WINDOW_MAX - self.own);
        let others = GRANTED.get() - self.granted;
        let grant = wanted.min(UNREAD_MAX.saturating_sub(others));
        let changed = grant != self.granted;
        self.granted = grant;
        GRANTED.set(others + grant);
        let target = u32::try_from(self.own + grant).ok().filter(|_| changed);
        // Less than a quantum is never covered, and is no stall.
        let uncovered = unread.saturating_sub(grant);
        Adjusted { target, stalled: uncovered >= QUANTUM.max(self.own / 2) }
    }
}

impl Drop for ConnectionWindow {
    fn drop(&mut self) {
        GRANTED.set(GRANTED.get() - self.granted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1024 * 1024;

    #[test]
    fn grants_follow_what_is_unread_within_the_threads_budget() {
        let mut one = ConnectionWindow::new(16 * 1024 * 1024);
        assert_eq!(one.adjust(MIB - 1).target, None);
        assert_eq!(one.adjust(4 * MIB + 5).target, Some(20 * 1024 * 1024));
        assert_eq!(one.adjust(4 * MIB + 9).target, None);
        let mut two = ConnectionWindow::new(16 * 1024 * 1024);
        let much = two.adjust(67 * MIB);
        assert_eq!((much.target, much.stalled), (Some(76 * 1024 * 1024), false));
        assert!(two.adjust(68 * MIB).stalled, "8 MiB of 16 are not covered");
        assert_eq!(one.adjust(0).target, Some(16 * 1024 * 1024));
        assert_eq!(two.adjust(68 * MIB).target, Some(80 * 1024 * 1024));
        drop(two);
        assert_eq!(one.adjust(64 * MIB).target, Some(80 * 1024 * 1024));
        drop(one);
        assert_eq!(GRANTED.get(), 0);
    }
}
