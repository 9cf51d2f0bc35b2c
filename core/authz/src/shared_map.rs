//! A map whose copies share what they have in common, so that a change of one entry among many
//! costs a change of one part.

use std::borrow::Borrow;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash};
use std::sync::Arc;

/// Parts of a map. With 10,000 entries a part holds 40, which is what a change copies. A power of
/// two, so that every part is as likely as any other.
const PARTS: u64 = 256;

/// Entries by key, in [`PARTS`] parts.
#[derive(Clone, Debug)]
pub(crate) struct SharedMap<K, V> {
    parts: Vec<Arc<Part<K, V>>>,
    len: usize,
}

/// Sorted by hash. Keys with one hash, which can only be made on purpose, are searched in turn.
type Part<K, V> = Vec<Slot<K, V>>;

#[derive(Clone, Debug)]
struct Slot<K, V> {
    hash: u64,
    key: K,
    value: V,
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        let empty = Arc::new(Part::new());
        Self { parts: (0..PARTS).map(|_| empty.clone()).collect(), len: 0 }
    }
}

/// The same in every copy and every process: which entries share a part is no secret.
fn hash_of<Q: Hash + ?Sized>(key: &Q) -> u64 {
    BuildHasherDefault::<DefaultHasher>::new().hash_one(key)
}

fn part_of(hash: u64) -> usize {
    // The remainder is below `PARTS`, which fits.
    usize::try_from(hash % PARTS).unwrap_or(0)
}

/// Where the key is in its part, or else where it belongs.
fn find<K, V, Q>(part: &Part<K, V>, hash: u64, key: &Q) -> Result<usize, usize>
where
    K: Borrow<Q>,
    Q: Eq + ?Sized,
{
    let start = part.partition_point(|slot| slot.hash < hash);
    let same_hash = part.iter().skip(start).take_while(|slot| slot.hash == hash);
    let place = same_hash.enumerate().find(|(_, slot)| slot.key.borrow() == key);
    place.map(|(offset, _)| start + offset).ok_or(start)
}

impl<K, V> SharedMap<K, V> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// In no particular order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.parts.iter().flat_map(|part| part.iter()).map(|slot| (&slot.key, &slot.value))
    }

    pub(crate) fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let hash = hash_of(key);
        let part = self.parts.get(part_of(hash))?;
        part.get(find(part, hash, key).ok()?).map(|slot| &slot.value)
    }
}

impl<K: Clone + Hash + Eq, V: Clone> SharedMap<K, V> {
    pub(crate) fn insert(&mut self, key: K, value: V) {
        let hash = hash_of(&key);
        let Some(part) = self.parts.get_mut(part_of(hash)).map(Arc::make_mut) else { return };
        match find(part, hash, &key) {
            Ok(place) => part[place].value = value,
            Err(place) => {
                part.insert(place, Slot { hash, key, value });
                self.len = self.len.saturating_add(1);
            }
        }
    }

    /// Replaces, adds or removes (`None`) one value, given the old one, which nothing else of this
    /// copy holds meanwhile.
    pub(crate) fn alter(&mut self, key: K, change: impl FnOnce(Option<V>) -> Option<V>) {
        let old = self.remove(&key);
        if let Some(value) = change(old) {
            self.insert(key, value);
        }
    }

    pub(crate) fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let hash = hash_of(key);
        let part = self.parts.get_mut(part_of(hash))?;
        // Found first: a key that is not there must not cost a copy.
        let place = find(part, hash, key).ok()?;
        self.len = self.len.saturating_sub(1);
        Some(Arc::make_mut(part).remove(place).value)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn shared(a: &SharedMap<u32, u32>, b: &SharedMap<u32, u32>) -> usize {
        a.parts.iter().zip(&b.parts).filter(|(a, b)| Arc::ptr_eq(a, b)).count()
    }

    #[test]
    fn a_change_copies_one_part() {
        let mut before = SharedMap::default();
        (0..10_000).for_each(|key| before.insert(key, key));
        let mut after = before.clone();
        after.insert(7, 0);
        assert_eq!((before.get(&7), after.get(&7)), (Some(&7), Some(&0)));
        assert_eq!(shared(&before, &after), 255);
        let mut same = before.clone();
        assert_eq!(same.remove(&10_000), None);
        assert_eq!(shared(&before, &same), 256);
    }

    #[test]
    fn keys_with_one_hash_are_told_apart() {
        #[derive(Clone, Debug, PartialEq, Eq)]
        struct Colliding(u8);
        impl Hash for Colliding {
            fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
                0_u8.hash(state);
            }
        }
        let mut map = SharedMap::default();
        (0..5).for_each(|key| map.insert(Colliding(key), key));
        assert_eq!(map.remove(&Colliding(2)), Some(2));
        let values: Vec<_> = (0..5).map(|key| map.get(&Colliding(key)).copied()).collect();
        assert_eq!(values, [Some(0), Some(1), None, Some(3), Some(4)]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn does_what_a_map_does(steps in prop::collection::vec((0..40_u32, any::<bool>()), 0..200)) {
            let (mut map, mut model) = (SharedMap::default(), HashMap::new());
            for (step, (key, set)) in (0_u32..).zip(steps) {
                if set {
                    map.insert(key, step);
                    model.insert(key, step);
                } else {
                    prop_assert_eq!(map.remove(&key), model.remove(&key));
                }
                prop_assert_eq!(map.len(), model.len());
            }
            let all: HashMap<u32, u32> = map.iter().map(|(key, value)| (*key, *value)).collect();
            prop_assert_eq!(&all, &model);
            for key in 0..40 {
                prop_assert_eq!(map.get(&key), model.get(&key));
            }
        }
    }
}
