//! Nonces of one type in one stream.

use std::collections::{HashSet, VecDeque};

/// Nonces remembered, in a stream that lives some thirty minutes. A response that repeats an older
/// one counts as new.
const NONCES_MAX: usize = 4096;
/// Longest nonce, in bytes; it is sent back, so it is not cut. A stream with a longer one ends.
pub(super) const NONCE_BYTES_MAX: usize = 256;

/// The nonces that were answered.
#[derive(Debug, Default)]
pub(super) struct Nonces {
    seen: HashSet<Box<str>>,
    order: VecDeque<Box<str>>,
}

impl Nonces {
    /// Remembers a nonce; `false` if it was there before.
    pub(super) fn is_new(&mut self, nonce: &str) -> bool {
        if self.seen.contains(nonce) {
            return false;
        }
        if self.order.len() == NONCES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        self.seen.insert(nonce.into());
        self.order.push_back(nonce.into());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_new_once_within_the_bound() {
        let mut nonces = Nonces::default();
        assert!(nonces.is_new("a"));
        assert!(!nonces.is_new("a"));
        for number in 0..NONCES_MAX {
            assert!(nonces.is_new(&number.to_string()));
        }
        assert_eq!((nonces.seen.len(), nonces.order.len()), (NONCES_MAX, NONCES_MAX));
        assert!(nonces.is_new("a"));
    }
}
