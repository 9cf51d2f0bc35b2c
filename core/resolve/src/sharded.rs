//! A map whose copies share memory: a change copies one small part of it.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;

/// Parts of a map. A change copies one of them: of 100,000 entries about 400, which takes some
/// tens of microseconds. More parts would make the copy of the list of parts dearer than that.
pub(crate) const SHARDS: usize = 1 << 8;

/// A hash map in parts that copies share until one of them changes.
///
/// Looking up takes no lock and no walk: two hashes and two indirections at any size.
#[derive(Clone, Debug)]
pub(crate) struct Sharded<K, V> {
    hasher: RandomState,
    shards: Arc<[Arc<HashMap<K, V>>]>,
}

impl<K, V> Default for Sharded<K, V> {
    fn default() -> Self {
        let empty = Arc::new(HashMap::new());
        Self { hasher: RandomState::new(), shards: vec![empty; SHARDS].into() }
    }
}

impl<K, V> Sharded<K, V> {
    /// Entries.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.len()).sum()
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| shard.is_empty())
    }

    /// Every entry, in no particular order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.shards.iter().flat_map(|shard| shard.iter())
    }

    /// Every value, in no particular order.
    pub(crate) fn values(&self) -> Counted<impl Iterator<Item = &V>> {
        Counted { left: self.len(), items: self.iter().map(|(_, value)| value) }
    }
}

impl<K: Eq + Hash, V> Sharded<K, V> {
    fn index<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        // As many parts as a byte has values.
        let [byte, ..] = self.hasher.hash_one(key).to_le_bytes();
        usize::from(byte)
    }

    fn shard<Q: Hash + ?Sized>(&self, key: &Q) -> Option<&HashMap<K, V>> {
        self.shards.get(self.index(key)).map(|shard| &**shard)
    }

    pub(crate) fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.shard(key)?.get(key)
    }

    /// The key in the map that equals this one.
    pub(crate) fn key<Q>(&self, key: &Q) -> Option<&K>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.shard(key)?.get_key_value(key).map(|(key, _)| key)
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Sharded<K, V> {
    fn shard_mut<Q: Hash + ?Sized>(&mut self, key: &Q) -> Option<&mut HashMap<K, V>> {
        let index = self.index(key);
        Arc::make_mut(&mut self.shards).get_mut(index).map(Arc::make_mut)
    }

    /// Sets a value and returns the one before.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.shard_mut(&key)?.insert(key, value)
    }

    pub(crate) fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        // Looking first saves the copy of a part that does not change.
        self.get(key)?;
        self.shard_mut(key)?.remove(key)
    }

    pub(crate) fn get_mut<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.get(key)?;
        self.shard_mut(key)?.get_mut(key)
    }

    /// Changes the value of a key, or the default one where there is none, and drops the entry if
    /// `change` says that nothing is left of it.
    pub(crate) fn update(&mut self, key: &K, change: impl FnOnce(&mut V) -> Left)
    where
        V: Default,
    {
        let Some(shard) = self.shard_mut(key) else { return };
        let left = match shard.get_mut(key) {
            Some(value) => change(value),
            None => change(shard.entry(key.clone()).or_default()),
        };
        match left {
            Left::Something => {}
            Left::Nothing => {
                shard.remove(key);
            }
        }
    }

    /// Drops the entries of one part that nobody needs. `unneeded` is also told how many copies of
    /// the entry older maps hold, as far as that is known.
    pub(crate) fn sweep(&mut self, part: usize, unneeded: impl Fn(&K, usize) -> bool) {
        let Some(shard) = self.shards.get(part) else { return };
        let shared = Arc::strong_count(&self.shards) > 1 || Arc::strong_count(shard) > 1;
        let others = usize::from(!shared);
        if !shard.keys().any(|key| unneeded(key, others)) {
            return;
        }
        // Copying the part adds a copy of each entry.
        let others = 1;
        if let Some(shard) = Arc::make_mut(&mut self.shards).get_mut(part).map(Arc::make_mut) {
            shard.retain(|key, _| !unneeded(key, others));
        }
    }
}

/// Whether a change left something of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    Something,
    Nothing,
}

/// An iterator that knows its length.
pub(crate) struct Counted<I> {
    left: usize,
    items: I,
}

impl<I: Iterator> Iterator for Counted<I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        self.left = self.left.saturating_sub(1);
        self.items.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<I: Iterator> ExactSizeIterator for Counted<I> {}
