//! What the streams of one tunnel tell its driver. One thread, so cells and no locks.

use std::cell::{Cell, RefCell};
use std::task::Waker;

use crate::window::QUANTUM;

/// With this many streams waiting to send, the peer's connection window is likely used up: it is
/// four stream windows at Istio's ztunnel.
const WAITING_SENDERS: usize = 4;

/// Shared by a driver and its streams.
#[derive(Default)]
pub(crate) struct Load {
    /// Bytes received and not consumed.
    unread: Cell<usize>,
    /// Streams that want to send and have no window.
    waiting: Cell<usize>,
    /// `unread` when the driver last looked.
    seen: Cell<usize>,
    driver: RefCell<Option<Waker>>,
}

impl Load {
    pub(crate) fn received(&self, bytes: usize) {
        self.unread.set(self.unread.get() + bytes);
        self.report();
    }

    pub(crate) fn consumed(&self, bytes: usize) {
        self.unread.set(self.unread.get().saturating_sub(bytes));
        self.report();
    }

    pub(crate) fn begins_waiting(&self) {
        self.waiting.set(self.waiting.get() + 1);
        if self.waiting.get() == WAITING_SENDERS {
            self.wake();
        }
    }

    pub(crate) fn ends_waiting(&self) {
        self.waiting.set(self.waiting.get().saturating_sub(1));
        if self.waiting.get() == WAITING_SENDERS - 1 {
            self.wake();
        }
    }

    /// Called by the driver: what is unread now. Wakes it when that has changed much.
    pub(crate) fn look(&self, waker: &Waker) -> usize {
        let mut driver = self.driver.borrow_mut();
        if !driver.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *driver = Some(waker.clone());
        }
        self.seen.set(self.unread.get());
        self.unread.get()
    }

    pub(crate) fn senders_wait(&self) -> bool {
        self.waiting.get() >= WAITING_SENDERS
    }

    fn report(&self) {
        if self.unread.get().abs_diff(self.seen.get()) >= QUANTUM {
            self.wake();
        }
    }

    fn wake(&self) {
        // Cloned: waking may run code that looks here.
        let driver = self.driver.borrow().clone();
        if let Some(driver) = driver {
            driver.wake();
        }
    }
}
