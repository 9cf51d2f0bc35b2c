//! Names that a client has to be told about, in the order in which that became so.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// What a client holds under a name that is pending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// Nothing.
    Nothing,
    /// That version.
    Version(Arc<str>),
    /// It asked, and is answered in any case.
    Asked {
        /// It holds some version.
        has: bool,
    },
}

impl Held {
    pub(super) fn of(version: Option<&Arc<str>>) -> Self {
        version.cloned().map_or(Self::Nothing, Self::Version)
    }

    pub(super) fn is_asked(&self) -> bool {
        matches!(self, Self::Asked { .. })
    }

    /// Whether the client holds anything.
    pub(super) fn is_any(&self) -> bool {
        match self {
            Self::Nothing => false,
            Self::Version(_) => true,
            Self::Asked { has } => *has,
        }
    }
}

/// Since when: the catalogue's sequence, then the order within.
type Since = (u64, u64);

#[derive(Debug)]
struct Waiting {
    since: Since,
    held: Held,
}

/// At most a name for each resource that there is or that the client said it had.
#[derive(Debug, Default)]
pub(super) struct Pending {
    order: BTreeMap<Since, Arc<str>>,
    names: HashMap<Arc<str>, Waiting>,
    next: u64,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// The sequence of the catalogue since which something is pending.
    pub(super) fn since(&self) -> Option<u64> {
        self.order.keys().next().map(|(sequence, _)| *sequence)
    }

    /// Adds a name. One that is pending keeps its place and what was held then: the client has been
    /// told nothing since.
    pub(super) fn add(&mut self, name: &Arc<str>, held: Held, sequence: u64) {
        if let Some(waiting) = self.names.get_mut(name) {
            if held.is_asked() {
                waiting.held = Held::Asked { has: waiting.held.is_any() };
            }
            return;
        }
        let since = (sequence, self.next);
        self.next += 1;
        self.order.insert(since, name.clone());
        self.names.insert(name.clone(), Waiting { since, held });
    }

    pub(super) fn first(&self) -> Option<&Arc<str>> {
        self.order.values().next()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.order.values()
    }

    pub(super) fn pop(&mut self) -> Option<(Arc<str>, Held)> {
        let (_, name) = self.order.pop_first()?;
        let waiting = self.names.remove(&name)?;
        Some((name, waiting.held))
    }

    pub(super) fn held(&self, name: &str) -> Option<&Held> {
        self.names.get(name).map(|waiting| &waiting.held)
    }

    pub(super) fn remove(&mut self, name: &str) -> Option<Held> {
        let waiting = self.names.remove(name)?;
        self.order.remove(&waiting.since);
        Some(waiting.held)
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&Arc<str>) -> bool) {
        self.order.retain(|_, name| keep(name));
        self.names.retain(|name, _| keep(name));
    }
}
