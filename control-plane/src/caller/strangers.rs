//! What the log says of refused callers that proved nothing: anybody can be one, as often as they
//! like. Each is a line for who looks for it; everybody else is told how many they are, now and
//! then.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Refusal;

/// Time between two warnings. What is refused within it is counted, and told with the next refusal.
const INTERVAL: Duration = Duration::from_secs(1);

/// Refusals of callers that nobody knows.
#[derive(Default)]
pub struct Strangers(Mutex<State>);

#[derive(Default)]
struct State {
    told_at: Option<Instant>,
    untold: u64,
}

impl Strangers {
    /// Logs one. `service`: what was called.
    pub fn refused(&self, service: &'static str, address: Option<IpAddr>, refusal: &Refusal) {
        let code = refusal.code.as_str();
        tracing::debug!(
            service,
            ?address,
            code,
            "caller refused before it proved who it is: {refusal}"
        );
        if let Some(count) = self.0.lock().count(Instant::now()) {
            tracing::warn!(
                service,
                count,
                ?address,
                code,
                "callers refused before they proved who they are; the last: {refusal}"
            );
        }
    }
}

impl fmt::Debug for Strangers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Strangers").finish_non_exhaustive()
    }
}

impl State {
    /// How many there were since the last warning, if it is time for another.
    fn count(&mut self, now: Instant) -> Option<u64> {
        self.untold = self.untold.saturating_add(1);
        if self.told_at.is_some_and(|told_at| now.duration_since(told_at) < INTERVAL) {
            return None;
        }
        self.told_at = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_warning_in_a_while_tells_how_many_there_were() {
        let (start, mut state) = (Instant::now(), State::default());
        let mut at = |millis| state.count(start + Duration::from_millis(millis));
        assert_eq!([0, 1, 500, 999].map(&mut at), [Some(1), None, None, None]);
        assert_eq!([1000, 1001, 5000].map(at), [Some(4), None, Some(2)]);
    }
}
