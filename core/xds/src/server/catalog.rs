//! What there is to be served, as one immutable value.

use std::collections::VecDeque;
use std::sync::Arc;

use super::kind::{Collection, ResourceType};
use super::resource::Resource;
use super::sharded::{Group, Sharded};

/// Changes that a catalogue remembers. A connection that is further behind compares the two
/// catalogues, which costs it some milliseconds.
pub const RECENT_CHANGES_MAX: usize = 128;
/// Names in all of them: they keep what they replaced. Older changes are forgotten first.
pub const RECENT_NAMES_MAX: usize = 16_384;

/// What becomes different in one step. A name that is both removed and set is set.
#[derive(Clone, Debug, Default)]
pub struct Update {
    /// Set.
    pub set: Vec<Resource>,
    /// Removed.
    pub removed: Vec<(Collection, Arc<str>)>,
}

/// One difference: what was there and what is, one of which exists.
#[derive(Clone, Debug)]
pub(super) struct Changed {
    pub(super) before: Option<Arc<Resource>>,
    pub(super) after: Option<Arc<Resource>>,
}

#[derive(Debug)]
struct Change {
    sequence: u64,
    changed: Vec<Changed>,
}

/// All resources. Cheap to clone; a change copies a small part.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    sequence: u64,
    addresses: Sharded,
    policies: Sharded,
    /// Without gaps, up to this catalogue's own.
    recent: VecDeque<Arc<Change>>,
    recent_names: usize,
}

impl Catalog {
    /// The catalogue after an update; `None` if that changes nothing.
    #[must_use]
    pub fn apply(&self, update: Update) -> Option<Self> {
        let mut next = self.clone();
        let mut changed = Vec::new();
        for (collection, name) in update.removed {
            if let Some(before) = next.collection_mut(collection).remove(&name) {
                changed.push(Changed { before: Some(before), after: None });
            }
        }
        for resource in update.set {
            let collection = resource.collection();
            let held = next.collection(collection).get(resource.name());
            if held.is_some_and(|held| held.version() == resource.version()) {
                continue;
            }
            let after = Arc::new(resource);
            let before = next.collection_mut(collection).insert(&after);
            changed.push(Changed { before, after: Some(after) });
        }
        if changed.is_empty() {
            return None;
        }
        next.sequence += 1;
        next.remember(Change { sequence: next.sequence, changed });
        Some(next)
    }

    fn remember(&mut self, change: Change) {
        self.recent_names += change.changed.len();
        self.recent.push_back(Arc::new(change));
        while self.recent.len() > RECENT_CHANGES_MAX || self.recent_names > RECENT_NAMES_MAX {
            let Some(oldest) = self.recent.pop_front() else { break };
            self.recent_names -= oldest.changed.len();
        }
    }

    /// How many changes led here.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Resources in a collection.
    #[must_use]
    pub fn len(&self, collection: Collection) -> usize {
        self.collection(collection).len()
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.addresses.len() + self.policies.len() == 0
    }

    /// Every resource of a type, in no particular order.
    pub fn iter(&self, kind: ResourceType) -> impl Iterator<Item = &Arc<Resource>> {
        let all = self.collection(kind.collection()).iter();
        all.filter(move |resource| resource.is_a(kind))
    }

    /// The resource of that name.
    #[must_use]
    pub fn get(&self, kind: ResourceType, name: &str) -> Option<&Arc<Resource>> {
        self.collection(kind.collection()).get(name).filter(|resource| resource.is_a(kind))
    }

    /// The resource of that name, or else all that have it as an alias.
    #[must_use]
    pub fn find(&self, kind: ResourceType, name: &str) -> Vec<Arc<Resource>> {
        if let Some(resource) = self.get(kind, name) {
            return vec![resource.clone()];
        }
        let named = self.collection(kind.collection()).group(Group::Alias, name);
        named.filter(|resource| resource.is_a(kind)).cloned().collect()
    }

    /// The workloads behind a service.
    pub(super) fn backends<'a>(
        &'a self,
        service: &'a str,
    ) -> impl Iterator<Item = &'a Arc<Resource>> {
        self.addresses.group(Group::Service, service)
    }

    /// The workloads of a node.
    pub(super) fn on_node<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Arc<Resource>> {
        self.addresses.group(Group::Node, node)
    }

    /// Each difference to `older`, which this catalogue was made from, in the order in which they
    /// came about where that is still known.
    pub(super) fn changes_since(&self, older: &Self, mut changed: impl FnMut(&Changed)) {
        let next = older.sequence + 1;
        let is_remembered = self.recent.front().is_some_and(|first| first.sequence <= next);
        if self.sequence <= older.sequence {
            return;
        }
        if is_remembered {
            let recent = self.recent.iter().filter(|change| change.sequence >= next);
            recent.flat_map(|change| &change.changed).for_each(changed);
            return;
        }
        for (new, old) in [(&self.policies, &older.policies), (&self.addresses, &older.addresses)] {
            new.differences(old, |before, after| {
                changed(&Changed { before: before.cloned(), after: after.cloned() });
            });
        }
    }

    fn collection(&self, collection: Collection) -> &Sharded {
        match collection {
            Collection::Addresses => &self.addresses,
            Collection::Policies => &self.policies,
        }
    }

    fn collection_mut(&mut self, collection: Collection) -> &mut Sharded {
        match collection {
            Collection::Addresses => &mut self.addresses,
            Collection::Policies => &mut self.policies,
        }
    }
}
