//! On demand: who waits for which name, what is subscribed to, and what does not exist.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::{NetworkAddress, ServiceName, WorkloadUid};

/// How long a look-up waits for its answer; then the connection it is for is refused.
pub const LOOKUP_WAIT: Duration = Duration::from_secs(5);
/// How long the control plane's word that a name does not exist is kept. It says so when that
/// changes, but not when the name is no longer asked for; asking again costs one request.
pub const ABSENT_FOR: Duration = Duration::from_secs(30);
/// Names subscribed to at once, those that do not exist included. A look-up beyond is refused as if
/// it had waited in vain.
pub const NAMES_MAX: usize = 65_536;
/// Look-ups within [`LOOKUP_WAIT`]. One beyond is refused as if it had waited in vain.
pub const WAITERS_MAX: usize = 65_536;

/// Pause between two looks through the names that do not exist.
const SWEEP_MIN: Duration = Duration::from_secs(1);

/// What is looked up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LookupKey {
    /// Whatever has that address.
    Address(NetworkAddress),
    /// A workload.
    Workload(WorkloadUid),
    /// A service.
    Service(ServiceName),
}

impl LookupKey {
    /// The name it is asked for by.
    #[must_use]
    pub fn resource_name(&self) -> Arc<str> {
        match self {
            Self::Address(address) => address.to_string().into(),
            Self::Workload(uid) => uid.0.clone(),
            Self::Service(name) => name.to_string().into(),
        }
    }
}

/// A look-up that waits. Never used again within a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WaiterId(u64);

/// What became of a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is in the state.
    Found,
    /// The control plane says that there is none.
    Absent,
    /// The control plane did not say in time.
    TimedOut,
}

/// A change of the subscription.
#[derive(Debug, Default)]
pub(super) struct Resubscribe {
    pub(super) subscribe: Vec<String>,
    pub(super) unsubscribe: Vec<String>,
}

impl Resubscribe {
    pub(super) fn is_empty(&self) -> bool {
        self.subscribe.is_empty() && self.unsubscribe.is_empty()
    }
}

/// Look-ups and the names they made known to the control plane.
#[derive(Debug, Default)]
pub(super) struct Lookups {
    waiting: HashMap<Arc<str>, Vec<WaiterId>>,
    /// In the order of their ends, since all wait equally long. Answered ones stay until then.
    ends: VecDeque<(Instant, WaiterId, Arc<str>)>,
    /// Everything this client asked for and did not give up. Names that wait, that exist, and that
    /// do not.
    subscribed: HashSet<Arc<str>>,
    /// Names that do not exist, and until when that is believed. A part of `subscribed`.
    absent: HashMap<Arc<str>, Instant>,
    /// When `absent` is looked through next.
    sweep: Option<Instant>,
    next: u64,
}

impl Lookups {
    /// What is known of a name that is not held.
    pub(super) fn is_absent(&self, name: &str, now: Instant) -> bool {
        self.absent.get(name).is_some_and(|end| *end > now)
    }

    /// Lets a look-up wait; `None` at a bound. Subscribes if nobody has.
    pub(super) fn wait(
        &mut self,
        name: Arc<str>,
        now: Instant,
        changes: &mut Resubscribe,
    ) -> Option<WaiterId> {
        let is_new = !self.subscribed.contains(&name);
        if self.ends.len() >= WAITERS_MAX || is_new && self.subscribed.len() >= NAMES_MAX {
            return None;
        }
        let id = WaiterId(self.next);
        self.next += 1;
        let waiters = self.waiting.entry(name.clone()).or_default();
        // Also for a name whose absence has expired and was not given up yet.
        if waiters.is_empty() {
            changes.subscribe.push(name.to_string());
        }
        waiters.push(id);
        self.subscribed.insert(name.clone());
        self.absent.remove(&name);
        self.ends.push_back((now + LOOKUP_WAIT, id, name));
        Some(id)
    }

    /// A new stream asks for that name too, though nobody waits for it. Beyond [`NAMES_MAX`] it does not:
    /// the next connection that needs it looks it up.
    pub(super) fn ask(&mut self, name: Arc<str>) {
        if self.subscribed.len() < NAMES_MAX {
            self.subscribed.insert(name);
        }
    }

    /// That name is in the state now.
    pub(super) fn found(&mut self, name: &str, released: &mut Vec<(WaiterId, Answer)>) {
        self.absent.remove(name);
        self.release(name, Answer::Found, released);
    }

    /// The control plane says that there is nothing of that name.
    pub(super) fn gone(
        &mut self,
        name: &str,
        now: Instant,
        released: &mut Vec<(WaiterId, Answer)>,
    ) {
        self.release(name, Answer::Absent, released);
        // Of names that nobody asked for, only those in use matter.
        if let Some(name) = self.subscribed.get(name).cloned() {
            self.absent.insert(name, now + ABSENT_FOR);
            self.sweep.get_or_insert(now + ABSENT_FOR);
        }
    }

    /// Nothing in the state has that name any more, and the control plane did not say that nothing
    /// has it at all.
    pub(super) fn lost(&mut self, name: &str, changes: &mut Resubscribe) {
        if !self.waiting.contains_key(name)
            && !self.absent.contains_key(name)
            && self.subscribed.remove(name)
        {
            changes.unsubscribe.push(name.to_owned());
        }
    }

    fn release(&mut self, name: &str, answer: Answer, released: &mut Vec<(WaiterId, Answer)>) {
        let waiters = self.waiting.remove(name).unwrap_or_default();
        released.extend(waiters.into_iter().map(|id| (id, answer)));
    }

    /// Ends what has waited long enough, and gives up names that do not exist.
    pub(super) fn expire(
        &mut self,
        now: Instant,
        released: &mut Vec<(WaiterId, Answer)>,
        changes: &mut Resubscribe,
    ) {
        while self.ends.front().is_some_and(|(end, ..)| *end <= now) {
            let Some((_, id, name)) = self.ends.pop_front() else { break };
            let Some(waiters) = self.waiting.get_mut(&name) else { continue };
            let before = waiters.len();
            waiters.retain(|waiter| *waiter != id);
            if waiters.len() == before {
                continue;
            }
            released.push((id, Answer::TimedOut));
            if waiters.is_empty() {
                self.waiting.remove(&name);
                self.lost(&name, changes);
            }
        }
        if self.sweep.is_some_and(|due| due <= now) {
            let expired: Vec<_> = self.absent.extract_if(|_, end| *end <= now).collect();
            // The next look comes for the first that is left, but not for each of many at once.
            let first = self.absent.values().min().copied();
            self.sweep = first.map(|end| end.max(now + SWEEP_MIN));
            for (name, _) in expired {
                self.lost(&name, changes);
            }
        }
    }

    /// When [`Self::expire`] has something to do next, unless something comes before.
    pub(super) fn next_end(&self) -> Option<Instant> {
        let waiting = self.ends.front().map(|(end, ..)| *end);
        waiting.into_iter().chain(self.sweep).min()
    }

    /// Names that a new stream has to ask for.
    pub(super) fn subscribed(&self) -> impl Iterator<Item = &Arc<str>> {
        self.subscribed.iter()
    }
}
