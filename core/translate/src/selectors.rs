//! Selectors by one of their pairs, so that a pod is not compared with all of them.

use std::collections::HashMap;

use cluster::{Labels, Text};

/// Selectors of a namespace, each with what it stands for.
#[derive(Debug)]
pub(crate) struct SelectorIndex<T> {
    by_pair: HashMap<Text, HashMap<Text, Vec<(Labels, T)>>>,
    /// Empty selectors: they select everything.
    all: Vec<T>,
}

impl<T> Default for SelectorIndex<T> {
    fn default() -> Self {
        Self { by_pair: HashMap::new(), all: Vec::new() }
    }
}

impl<T: Clone + PartialEq> SelectorIndex<T> {
    /// Adds a selector under the pair that fewest others are under.
    pub(crate) fn insert(&mut self, selector: &Labels, what: T) {
        let bucket = |key: &str, value: &str| self.bucket(key, value).map_or(0, Vec::len);
        let Some((key, value)) = selector.iter().min_by_key(|(key, value)| bucket(key, value))
        else {
            self.all.push(what);
            return;
        };
        let values = self.by_pair.entry(key.into()).or_default();
        values.entry(value.into()).or_default().push((selector.clone(), what));
    }

    /// Takes a selector out.
    pub(crate) fn remove(&mut self, selector: &Labels, what: &T) {
        if selector.is_empty() {
            self.all.retain(|each| each != what);
            return;
        }
        for (key, value) in selector.iter() {
            let Some(values) = self.by_pair.get_mut(key) else { continue };
            if let Some(list) = values.get_mut(value) {
                list.retain(|(each, of)| each != selector || of != what);
                if list.is_empty() {
                    values.remove(value);
                }
            }
            if values.is_empty() {
                self.by_pair.remove(key);
            }
        }
    }

    /// What selects these labels.
    pub(crate) fn matching<'a>(&'a self, labels: &'a Labels) -> impl Iterator<Item = &'a T> {
        let candidates = labels.iter().filter_map(|(key, value)| self.bucket(key, value)).flatten();
        let matching = candidates.filter(|(selector, _)| {
            selector.iter().all(|(key, value)| labels.get(key) == Some(value))
        });
        self.all.iter().chain(matching.map(|(_, what)| what))
    }

    fn bucket(&self, key: &str, value: &str) -> Option<&Vec<(Labels, T)>> {
        self.by_pair.get(key)?.get(value)
    }
}
