//! How long to wait before the next connection.

use std::time::Duration;

/// First delay after a failure; it doubles with each further one.
pub const RETRY_MIN: Duration = Duration::from_millis(10);
/// Longest delay.
pub const RETRY_MAX: Duration = Duration::from_secs(15);
/// Within this time after the end of a stream that had worked. A control plane that restarts ends
/// all of its streams at once; its nodes come back spread over this time.
pub const RETURN_MAX: Duration = Duration::from_millis(500);

/// Why a connection ended. The text is the value of Istio's metric label `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Termination {
    /// There was none: connecting failed.
    ConnectionError,
    /// The stream broke.
    Error,
    /// The server wants to be connected to again.
    Reconnect,
    /// The server ended the stream.
    Complete,
}

/// Codes of gRPC (`grpc/status.h`) that servers and proxies end long streams with.
const CANCELLED: i32 = 1;
const UNKNOWN: i32 = 2;
const DEADLINE_EXCEEDED: i32 = 4;
/// What Go's client and server say when a connection is closed in order.
const ORDERLY: [&str; 2] = ["transport is closing", "received prior goaway"];

impl Termination {
    /// Every reason, for metrics.
    pub const ALL: [Self; 4] =
        [Self::ConnectionError, Self::Error, Self::Reconnect, Self::Complete];

    /// What the end with that status means.
    #[must_use]
    pub fn of_status(code: i32, message: &str) -> Self {
        let orderly = matches!(code, CANCELLED | UNKNOWN | DEADLINE_EXCEEDED)
            || ORDERLY.iter().any(|text| message.contains(text));
        if orderly { Self::Reconnect } else { Self::Error }
    }

    /// The label's value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConnectionError => "ConnectionError",
            Self::Error => "Error",
            Self::Reconnect => "Reconnect",
            Self::Complete => "Complete",
        }
    }
}

/// The delays of one client.
#[derive(Debug, Default)]
pub(super) struct Retry {
    failures: u32,
}

impl Retry {
    /// The delay after a connection. One that worked was no failure, however it ended; one that
    /// did not was, even if the server ended it politely.
    pub(super) fn after(&mut self, worked: bool, random: u64) -> Duration {
        if worked {
            self.failures = 0;
            return share(RETURN_MAX, random);
        }
        let delay = RETRY_MIN.saturating_mul(1 << self.failures.min(16)).min(RETRY_MAX);
        self.failures = self.failures.saturating_add(1);
        delay / 2 + share(delay / 2, random)
    }
}

/// A random part of a time.
fn share(whole: Duration, random: u64) -> Duration {
    let permille = u32::try_from(random % 1000).unwrap_or(0);
    whole * permille / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_and_are_spread() {
        let mut retry = Retry::default();
        let mut expected = RETRY_MIN;
        for _ in 0..40 {
            let delay = retry.after(false, 999);
            assert!(delay > expected * 99 / 100 && delay <= expected, "{delay:?} {expected:?}");
            expected = (expected * 2).min(RETRY_MAX);
        }
        assert_eq!(retry.after(false, 0), RETRY_MAX / 2);
        // A stream that had worked starts over, spread over its own time.
        assert_eq!(retry.after(true, 500), RETURN_MAX / 2);
        assert_eq!(retry.after(false, 0), RETRY_MIN / 2);
    }

    #[test]
    fn orderly_ends_are_told_from_errors() {
        for (code, message, reason) in [
            (1, "", Termination::Reconnect),
            (2, "", Termination::Reconnect),
            (4, "", Termination::Reconnect),
            (14, "the transport is closing", Termination::Reconnect),
            (14, "received prior goaway: code: NO_ERROR", Termination::Reconnect),
            (14, "refused", Termination::Error),
            (13, "", Termination::Error),
            (16, "", Termination::Error),
        ] {
            assert_eq!(Termination::of_status(code, message), reason, "{code} {message}");
        }
    }
}
