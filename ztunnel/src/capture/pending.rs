//! Self-test connections that are expected, and their recognition among real ones.
//!
//! An accepted connection is a test only if a pending test expects exactly its namespace, direction
//! and destination, and it comes from an address of the pod itself. Tests are rare, so the accept
//! path first asks a counter.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::self_test::TOKEN_BYTES;

/// What proves to the child that the agent answered.
pub(crate) type Token = [u8; TOKEN_BYTES];

/// A connection that a test will make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Expected {
    /// At the plaintext listener.
    Inbound {
        /// Inode of the pod's network namespace.
        namespace: u64,
        /// The accepted socket's own address.
        destination: SocketAddr,
    },
    /// At the outbound listener.
    Outbound {
        /// Inode of the pod's network namespace.
        namespace: u64,
        /// The original destination.
        destination: SocketAddr,
    },
}

/// The tests in progress. Cheap to clone; at most a few a pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct PendingTests(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    count: AtomicUsize,
    tests: Mutex<HashMap<Expected, Token>>,
}

/// Withdraws the expectation when dropped.
#[derive(Debug)]
pub(crate) struct Expectation {
    pending: PendingTests,
    expected: Expected,
    token: Token,
}

impl PendingTests {
    pub(crate) fn expect(&self, expected: Expected) -> Expectation {
        let token: Token = rand::random();
        let mut tests = self.0.tests.lock();
        tests.insert(expected, token);
        self.0.count.store(tests.len(), Ordering::Release);
        Expectation { pending: self.clone(), expected, token }
    }

    /// The answer, if `accepted` is a test. A test is answered once.
    pub(crate) fn recognise(&self, accepted: &Expected) -> Option<Token> {
        if self.0.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.take(accepted)
    }

    fn take(&self, expected: &Expected) -> Option<Token> {
        let mut tests = self.0.tests.lock();
        let token = tests.remove(expected);
        self.0.count.store(tests.len(), Ordering::Release);
        token
    }
}

impl Expectation {
    pub(crate) fn token(&self) -> Token {
        self.token
    }
}

impl Drop for Expectation {
    fn drop(&mut self) {
        self.pending.take(&self.expected);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_is_recognised_once_and_only_exactly() {
        let pending = PendingTests::default();
        let destination = "10.0.0.1:20000".parse().expect("address");
        let inbound = Expected::Inbound { namespace: 1, destination };
        assert_eq!(pending.recognise(&inbound), None);
        let expectation = pending.expect(inbound);
        assert_eq!(pending.recognise(&Expected::Outbound { namespace: 1, destination }), None);
        assert_eq!(pending.recognise(&Expected::Inbound { namespace: 2, destination }), None);
        assert_eq!(pending.recognise(&inbound), Some(expectation.token()));
        assert_eq!(pending.recognise(&inbound), None);
    }

    #[test]
    fn a_dropped_expectation_expects_nothing() {
        let pending = PendingTests::default();
        let destination = "10.0.0.1:20000".parse().expect("address");
        let inbound = Expected::Inbound { namespace: 1, destination };
        drop(pending.expect(inbound));
        assert_eq!(pending.recognise(&inbound), None);
    }
}
