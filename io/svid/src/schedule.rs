//! When to ask for which certificate. A machine: the time and a random number are arguments.
//!
//! An identity is wanted from `hold` to `release`. It is asked for at once, again at half of its
//! certificate's life, and after a failure with growing pauses, which shrink as the certificate in
//! use nears its end. Of those that are due, one that a connection waits for goes first, then one
//! that is new, then those that are renewed in good time. A bounded number is under way.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use model::SpiffeId;

/// Most requests to the authority at once; further ones wait for their turn.
pub const ISSUES_AT_ONCE: usize = 8;
/// Pause after the first failed request; it doubles with each further one.
pub const RETRY_MIN: Duration = Duration::from_secs(1);
/// Longest pause between requests.
pub const RETRY_MAX: Duration = Duration::from_mins(1);
/// Pause after a failed request while a connection waits.
pub const RETRY_WAITED_FOR: Duration = Duration::from_secs(2);
/// A pause is this far from its nominal length at most, in both directions: what was issued
/// together is not renewed together.
const JITTER: f64 = 0.1;

/// How badly a certificate is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Priority {
    /// One is in use and good for a while.
    Background,
    /// There is none, and nobody waits yet.
    Warmup,
    /// A connection waits, or the one in use will not last long.
    RealTime,
}

/// One request to the authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Attempt(u64);

/// A certificate that may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    /// Since when it is held.
    pub(crate) age: Duration,
    /// For how long it is still good.
    pub(crate) left: Duration,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Issued(Life),
    Failed,
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Ask for this one. It counts as under way until [`Schedule::finished`].
    Start(SpiffeId, Attempt),
    /// Nothing before this moment; none: before the next input.
    Sleep(Option<Instant>),
}

#[derive(Clone, Debug)]
enum Phase {
    /// To be asked for at `due`.
    Waiting { due: Instant, priority: Priority },
    /// Asked for.
    Running(Attempt),
}

#[derive(Clone, Debug)]
struct Entry {
    phase: Phase,
    /// Failures since the last success.
    failures: u32,
    failed_at: Option<Instant>,
    /// Until when a certificate is in use, and when that is so near that it counts as none.
    lasts: Option<(Instant, Instant)>,
}

/// The identities in use. At most [`crate::IDENTITIES_MAX`], by its caller: choosing looks at each.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    at_once: usize,
    entries: HashMap<SpiffeId, Entry>,
    /// Requests under way, those of released identities included.
    running: HashMap<Attempt, SpiffeId>,
    attempts: u64,
}

impl Schedule {
    /// A schedule of nothing. At most `at_once` requests are under way.
    pub(crate) fn new(at_once: usize) -> Self {
        Self { at_once, entries: HashMap::new(), running: HashMap::new(), attempts: 0 }
    }

    /// From now on this identity is wanted; `kept` is a certificate that is there already.
    pub(crate) fn hold(&mut self, id: &SpiffeId, kept: Option<Life>, now: Instant, random: f64) {
        let entry = match kept {
            Some(life) => Entry::issued(life, now, random),
            None => Entry {
                phase: Phase::Waiting { due: now, priority: Priority::Warmup },
                failures: 0,
                failed_at: None,
                lasts: None,
            },
        };
        self.entries.entry(id.clone()).or_insert(entry);
    }

    /// It is not wanted any more. A request under way for it comes to nothing.
    pub(crate) fn release(&mut self, id: &SpiffeId) {
        self.entries.remove(id);
    }

    /// A connection waits for it, or the certificate in use must not be used any more.
    pub(crate) fn demand(&mut self, id: &SpiffeId, now: Instant) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        // Connections may come in any number; the authority must not hear of each.
        let earliest = entry.failed_at.map_or(now, |failed| failed + RETRY_WAITED_FOR);
        if let Phase::Waiting { due, priority } = &mut entry.phase {
            *priority = Priority::RealTime;
            *due = earliest.min(*due);
        }
    }

    /// A request has ended. Tells for which identity, unless it is not wanted any more.
    pub(crate) fn finished(
        &mut self,
        attempt: Attempt,
        end: End,
        now: Instant,
        random: f64,
    ) -> Option<SpiffeId> {
        let id = self.running.remove(&attempt)?;
        let entry = self.entries.get_mut(&id)?;
        if !matches!(entry.phase, Phase::Running(current) if current == attempt) {
            return None;
        }
        match end {
            End::Issued(life) => *entry = Entry::issued(life, now, random),
            End::Failed => entry.fail(now, random),
        }
        Some(id)
    }

    /// What to do now. To be asked again after each start and each input.
    pub(crate) fn next(&mut self, now: Instant) -> Next {
        if self.running.len() >= self.at_once {
            return Next::Sleep(None);
        }
        let waiting = self.entries.iter().filter_map(|(id, entry)| match entry.phase {
            Phase::Waiting { due, .. } if due > now => {
                // Not a candidate yet, however urgent it will be.
                Some((true, Reverse(Priority::Background), due, id))
            }
            Phase::Waiting { due, priority } => {
                Some((false, Reverse(entry.priority(priority, now)), due, id))
            }
            Phase::Running(_) => None,
        });
        match waiting.min() {
            None => Next::Sleep(None),
            Some((true, _, due, _)) => Next::Sleep(Some(due)),
            Some((false, _, _, id)) => {
                let id = id.clone();
                self.start(id)
            }
        }
    }

    fn start(&mut self, id: SpiffeId) -> Next {
        let attempt = Attempt(self.attempts);
        self.attempts += 1;
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.phase = Phase::Running(attempt);
        }
        self.running.insert(attempt, id.clone());
        Next::Start(id, attempt)
    }
}

impl Entry {
    fn issued(life: Life, now: Instant, random: f64) -> Self {
        let half = (life.age + life.left) / 2;
        // An authority that hands out short lives must not be asked in a loop.
        let pause = jittered(half, random).saturating_sub(life.age).max(RETRY_MIN);
        Self {
            phase: Phase::Waiting { due: now + pause, priority: Priority::Background },
            failures: 0,
            failed_at: None,
            lasts: Some((now + life.left, now + life.left * 3 / 4)),
        }
    }

    fn fail(&mut self, now: Instant, random: f64) {
        let doublings = self.failures.min(16);
        let mut pause = (RETRY_MIN * (1 << doublings)).min(RETRY_MAX);
        let left = self.lasts.map(|(until, _)| until.saturating_duration_since(now));
        let priority = match left {
            // Several more tries before it ends.
            Some(left) if !left.is_zero() => {
                pause = pause.min(left / 4).max(RETRY_MIN);
                Priority::Background
            }
            Some(_) | None => Priority::Warmup,
        };
        self.failures = self.failures.saturating_add(1);
        self.failed_at = Some(now);
        self.phase = Phase::Waiting { due: now + jittered(pause, random), priority };
    }

    /// A certificate that will not last long is as urgent as none.
    fn priority(&self, given: Priority, now: Instant) -> Priority {
        match self.lasts {
            Some((_, late)) if late <= now => Priority::RealTime,
            Some(_) | None => given,
        }
    }
}

/// `random` is from 0 to 1.
fn jittered(nominal: Duration, random: f64) -> Duration {
    nominal.mul_f64(1.0 - JITTER + 2.0 * JITTER * random.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests;
