//! Waits between attempts: longer each time, bounded, and never in step with others.

use std::time::Duration;

/// The waits of one thing that is tried again.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    bound: Duration,
}

impl Backoff {
    /// The first wait is up to `first`, each up to twice the one before, none longer than `longest`.
    #[must_use]
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, bound: first }
    }

    /// The next wait: between half of its bound and its bound, by chance.
    pub fn wait(&mut self) -> Duration {
        let bound = self.bound;
        self.bound = (bound * 2).min(self.longest);
        bound.mul_f64(rand::random_range(0.5..=1.0))
    }

    /// It worked: the next wait is a first one.
    pub fn reset(&mut self) {
        self.bound = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        for bound in [1_u32, 2, 4, 5, 5] {
            let wait = backoff.wait();
            let bound = Duration::from_secs(1) * bound;
            assert!(wait >= bound / 2 && wait <= bound, "{wait:?} of {bound:?}");
        }
        backoff.reset();
        assert!(backoff.wait() <= Duration::from_secs(1));
    }
}
