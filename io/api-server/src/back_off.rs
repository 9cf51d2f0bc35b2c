//! How long to wait after a failure, and how long a watch is asked to last. Chance is an argument.

use std::time::Duration;

use crate::Timing;

/// Failures in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BackOff {
    failures: u32,
}

impl BackOff {
    /// Counts a failure and says how long to wait: half of it is by chance, because all agents of a
    /// cluster see the API server fail at once. At least what the server asked for, within
    /// `wait_max`.
    pub(crate) fn wait(
        &mut self,
        timing: &Timing,
        asked: Option<Duration>,
        random: u32,
    ) -> Duration {
        let factor = 2_u32.saturating_pow(self.failures);
        self.failures = self.failures.saturating_add(1);
        let full = timing.wait_min.saturating_mul(factor).min(timing.wait_max);
        let half = full / 2;
        let wait = half + half.mul_f64(fraction(random));
        wait.max(asked.unwrap_or_default().min(timing.wait_max))
    }

    /// What was tried lasted for this long before it failed or ended.
    pub(crate) fn lasted(&mut self, timing: &Timing, time: Duration) {
        if time >= timing.steady {
            self.failures = 0;
        }
    }
}

/// `timeoutSeconds` of a watch: what is configured and up to a quarter more.
pub(crate) fn watch_seconds(timing: &Timing, random: u32) -> u64 {
    let least = timing.watch.as_secs().max(1);
    least + u64::from(random) % (least / 4 + 1)
}

/// From 0 to 1.
fn fraction(random: u32) -> f64 {
    f64::from(random) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_start_again() {
        let timing = Timing::default();
        let mut back_off = BackOff::default();
        for want in [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000] {
            let wait = back_off.wait(&timing, None, u32::MAX);
            assert_eq!(wait, Duration::from_millis(want));
        }
        back_off.failures = u32::MAX;
        assert_eq!(back_off.wait(&timing, None, 0), Duration::from_secs(15));
        back_off.lasted(&timing, Duration::from_secs(9));
        assert_eq!(back_off.wait(&timing, None, 0), Duration::from_secs(15));
        back_off.lasted(&timing, Duration::from_secs(10));
        assert_eq!(back_off.wait(&timing, None, 0), Duration::from_millis(250));
    }

    #[test]
    fn a_server_is_heard_within_the_bound() {
        let timing = Timing::default();
        for (asked, want) in [(0, 250), (2, 2000), (3600, 30000)] {
            let wait = BackOff::default().wait(&timing, Some(Duration::from_secs(asked)), 0);
            assert_eq!(wait, Duration::from_millis(want));
        }
    }

    #[test]
    fn watches_do_not_end_together() {
        let timing = Timing::default();
        for (random, want) in [(0, 240), (60, 300), (61, 240), (u32::MAX, 296)] {
            assert_eq!(watch_seconds(&timing, random), want, "{random}");
        }
        let short = Timing { watch: Duration::ZERO, ..timing };
        assert_eq!(watch_seconds(&short, u32::MAX), 1);
    }
}
