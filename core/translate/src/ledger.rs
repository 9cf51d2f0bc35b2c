//! What was said last, so that only what is different is said again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hasher};

use cluster::{ObjectKey, Text};

use crate::changes::Address;
use crate::workload::has_deny_policy;

/// Marks the second half of a print, so that the halves differ.
const SECOND_HALF: u8 = 1;

/// What is remembered of a resource that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Print {
    content: u128,
    policies: u64,
}

/// Resources that were sent: prints of them, since the messages themselves would fill the memory.
#[derive(Debug, Default)]
pub(crate) struct Published {
    prints: HashMap<Text, Print>,
    changed: BTreeMap<Text, Option<Address>>,
    /// Those that have the policy in place of too many.
    denied: HashSet<Text>,
}

impl Published {
    pub(crate) fn set(&mut self, address: Address) {
        let content = print(&address.bytes);
        let new = Print { content, policies: policies_print(&address.policies) };
        if self.prints.get(&address.name) != Some(&new) {
            if has_deny_policy(&address.policies) {
                self.denied.insert(address.name.clone());
            } else {
                self.denied.remove(&address.name);
            }
            self.prints.insert(address.name.clone(), new);
            self.changed.insert(address.name.clone(), Some(address));
        }
    }

    pub(crate) fn remove(&mut self, name: &str) {
        if let Some((name, _)) = self.prints.remove_entry(name) {
            self.denied.remove(&name);
            self.changed.insert(name, None);
        }
    }

    /// Whether a resource was sent, and with these policies.
    pub(crate) fn refers_to(&self, name: &str, policies: &[Text]) -> bool {
        self.prints.get(name).is_some_and(|print| print.policies == policies_print(policies))
    }

    /// Whether one of them has the policy in place of too many.
    pub(crate) fn has_denied(&self) -> bool {
        !self.denied.is_empty()
    }

    pub(crate) fn take_changes(&mut self) -> Vec<(Text, Option<Address>)> {
        std::mem::take(&mut self.changed).into_iter().collect()
    }
}

/// 128 bits of a message. The inputs come from a cluster's own objects, and a collision only means
/// that a change is not seen until the next one.
pub(crate) fn print(bytes: &[u8]) -> u128 {
    let half = |salt: &[u8]| {
        let mut hasher = DefaultHasher::new();
        hasher.write(salt);
        hasher.write(bytes);
        u128::from(hasher.finish())
    };
    (half(&[]) << 64) | half(&[SECOND_HALF])
}

fn policies_print(policies: &[Text]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for name in policies {
        hasher.write(name.as_bytes());
        hasher.write_u8(0);
    }
    hasher.finish()
}

/// Lists by object: conditions, assignments. An empty list is as none.
#[derive(Debug)]
pub(crate) struct Lists<T> {
    kept: BTreeMap<ObjectKey, Vec<T>>,
    changed: BTreeMap<ObjectKey, Vec<T>>,
}

impl<T> Default for Lists<T> {
    fn default() -> Self {
        Self { kept: BTreeMap::new(), changed: BTreeMap::new() }
    }
}

impl<T: Clone + PartialEq> Lists<T> {
    pub(crate) fn set(&mut self, key: &ObjectKey, list: Vec<T>) {
        let had = self.kept.get(key).map_or(&[][..], Vec::as_slice);
        if had == list {
            return;
        }
        if list.is_empty() {
            self.kept.remove(key);
        } else {
            self.kept.insert(key.clone(), list.clone());
        }
        self.changed.insert(key.clone(), list);
    }

    /// Forgets an object that is gone: there is nothing left to say it to.
    pub(crate) fn forget(&mut self, key: &ObjectKey) {
        self.kept.remove(key);
        self.changed.remove(key);
    }

    pub(crate) fn get(&self, key: &ObjectKey) -> Option<&[T]> {
        self.kept.get(key).map(Vec::as_slice)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ObjectKey, &[T])> {
        self.kept.iter().map(|(key, list)| (key, list.as_slice()))
    }

    pub(crate) fn take_changes(&mut self) -> Vec<(ObjectKey, Vec<T>)> {
        std::mem::take(&mut self.changed).into_iter().collect()
    }
}
