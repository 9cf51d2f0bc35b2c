//! Resources by name and by what they belong to, in a value whose copies share memory.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::ops::Bound;
use std::sync::Arc;

use super::resource::Resource;

/// Parts. A change copies one of them: of 100,000 workloads about 100, with some 500 marks. More
/// parts would make the copy of their list dearer than that.
const SHARDS: usize = 1 << 10;

/// What resources can be found by, beside their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Group {
    Alias,
    Service,
    Node,
}

/// That a resource belongs to a group of that key.
type Mark = (Group, Arc<str>, Arc<str>);

#[derive(Clone, Debug, Default)]
struct Shard {
    resources: BTreeMap<Arc<str>, Arc<Resource>>,
    /// Of the resources here, so that a group of any size is changed by one small copy. Reading one
    /// looks into each part; that is done once for a name that a client asks for.
    marks: BTreeSet<Mark>,
}

#[derive(Clone, Debug)]
pub(super) struct Sharded {
    hasher: RandomState,
    shards: Arc<[Arc<Shard>]>,
    count: usize,
}

impl Default for Sharded {
    fn default() -> Self {
        let empty = Arc::<Shard>::default();
        Self { hasher: RandomState::new(), shards: vec![empty; SHARDS].into(), count: 0 }
    }
}

impl Sharded {
    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.shards.iter().flat_map(|shard| shard.resources.values())
    }

    pub(super) fn get(&self, name: &str) -> Option<&Arc<Resource>> {
        self.shards.get(self.index(name))?.resources.get(name)
    }

    /// The resources of a group.
    pub(super) fn group<'a>(
        &'a self,
        group: Group,
        key: &'a str,
    ) -> impl Iterator<Item = &'a Arc<Resource>> {
        let first: Mark = (group, key.into(), "".into());
        self.shards.iter().flat_map(move |shard| {
            let from = (Bound::Included(&first), Bound::Unbounded);
            let marks = shard.marks.range::<Mark, _>(from);
            let marks = marks.take_while(move |mark| mark.0 == group && *mark.1 == *key);
            marks.filter_map(|(_, _, name)| shard.resources.get(name))
        })
    }

    /// Sets a resource and returns the one before.
    pub(super) fn insert(&mut self, resource: &Arc<Resource>) -> Option<Arc<Resource>> {
        let shard = self.shard_mut(resource.name())?;
        let before = shard.resources.insert(resource.name().clone(), resource.clone());
        if let Some(before) = &before {
            for mark in marks(before) {
                shard.marks.remove(&mark);
            }
        }
        shard.marks.extend(marks(resource));
        self.count += usize::from(before.is_none());
        before
    }

    pub(super) fn remove(&mut self, name: &str) -> Option<Arc<Resource>> {
        // Looking first saves the copy of a part that does not change.
        self.get(name)?;
        let shard = self.shard_mut(name)?;
        let before = shard.resources.remove(name)?;
        for mark in marks(&before) {
            shard.marks.remove(&mark);
        }
        self.count -= 1;
        Some(before)
    }

    /// Every resource that differs from `older`, a map that this one was made from: what was there
    /// and what is. Parts that both share are not looked at.
    pub(super) fn differences(
        &self,
        older: &Self,
        mut found: impl FnMut(Option<&Arc<Resource>>, Option<&Arc<Resource>>),
    ) {
        for (new, old) in self.shards.iter().zip(older.shards.iter()) {
            if Arc::ptr_eq(new, old) {
                continue;
            }
            for (name, before) in &old.resources {
                match new.resources.get(name) {
                    Some(after) if Arc::ptr_eq(before, after) => {}
                    after => found(Some(before), after),
                }
            }
            let added = new.resources.iter().filter(|(name, _)| !old.resources.contains_key(*name));
            added.for_each(|(_, after)| found(None, Some(after)));
        }
    }

    fn index(&self, name: &str) -> usize {
        let [low, high, ..] = self.hasher.hash_one(name).to_le_bytes();
        usize::from(u16::from_le_bytes([low, high])) % SHARDS
    }

    fn shard_mut(&mut self, name: &str) -> Option<&mut Shard> {
        let index = self.index(name);
        Arc::make_mut(&mut self.shards).get_mut(index).map(Arc::make_mut)
    }
}

fn marks(resource: &Resource) -> impl Iterator<Item = Mark> {
    let of = |group: Group, key: &Arc<str>| (group, key.clone(), resource.name().clone());
    let aliases = resource.aliases().iter().map(move |key| of(Group::Alias, key));
    let services = resource.services().iter().map(move |key| of(Group::Service, key));
    let node = resource.node().into_iter().map(move |key| of(Group::Node, key));
    aliases.chain(services).chain(node)
}
