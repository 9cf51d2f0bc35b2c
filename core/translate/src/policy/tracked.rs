//! A map that remembers what it was.

use std::collections::BTreeMap;

/// Values by key, and for each key that was touched what it had when changes were last taken.
#[derive(Debug)]
pub(super) struct Tracked<K, V> {
    now: BTreeMap<K, V>,
    before: BTreeMap<K, Option<V>>,
}

/// A key, what it had, and what it has.
pub(super) type Change<K, V> = (K, Option<V>, Option<V>);

impl<K, V> Default for Tracked<K, V> {
    fn default() -> Self {
        Self { now: BTreeMap::new(), before: BTreeMap::new() }
    }
}

impl<K: Ord + Clone, V: PartialEq + Clone> Tracked<K, V> {
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.now.get(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.now.iter()
    }

    /// Gives a key its value, or takes it away.
    pub(super) fn set(&mut self, key: K, value: Option<V>) {
        if self.now.get(&key) == value.as_ref() {
            return;
        }
        let before = match value {
            Some(value) => self.now.insert(key.clone(), value),
            None => self.now.remove(&key),
        };
        self.before.entry(key).or_insert(before);
    }

    /// Whatever it had was another's: the next value is a change even if it is the same.
    pub(super) fn forget(&mut self, key: &K) {
        self.before.insert(key.clone(), None);
    }

    /// What is different since the last call, by key.
    pub(super) fn take(&mut self) -> Vec<Change<K, V>> {
        let touched = std::mem::take(&mut self.before).into_iter();
        touched
            .map(|(key, before)| {
                let after = self.now.get(&key).cloned();
                (key, before, after)
            })
            .filter(|(_, before, after)| before != after)
            .collect()
    }
}
