//! How often a control plane that misbehaves may be told of in the log.

use std::time::{Duration, Instant};

/// Lines within [`PERIOD`]. Those beyond are left out, and the next line says how many.
const LINES_MAX: u32 = 10;
/// The period that lines are counted in.
const PERIOD: Duration = Duration::from_secs(10);

/// Lines of one kind.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    begun: Option<Instant>,
    told: u32,
    left_out: u64,
}

impl Lines {
    /// Whether a line may be written; if so, how many were left out since the last one.
    pub(crate) fn next(&mut self, now: Instant) -> Option<u64> {
        if self.begun.is_none_or(|begun| now.duration_since(begun) >= PERIOD) {
            (self.begun, self.told) = (Some(now), 0);
        }
        if self.told >= LINES_MAX {
            self.left_out += 1;
            return None;
        }
        self.told += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_becomes_a_few_lines_and_a_number() {
        let (mut lines, now) = (Lines::default(), Instant::now());
        for _ in 0..LINES_MAX {
            assert_eq!(lines.next(now), Some(0));
        }
        for _ in 0..7 {
            assert_eq!(lines.next(now + PERIOD / 2), None);
        }
        assert_eq!(lines.next(now + PERIOD), Some(7));
        assert_eq!(lines.next(now + PERIOD), Some(0));
    }
}
