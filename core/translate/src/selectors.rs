//! Selectors by one of their pairs, so that a pod is not compared with all of them, and labels by
//! each of their pairs, so that a selector is not compared with all pods.

use std::collections::{HashMap, HashSet};

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

/// Names of a namespace's workloads, by their labels.
#[derive(Debug, Default)]
pub(crate) struct LabelIndex {
    by_pair: HashMap<Text, HashMap<Text, HashSet<Text>>>,
}

impl LabelIndex {
    /// Replaces a workload's labels.
    pub(crate) fn set(&mut self, name: &Text, old: Option<&Labels>, new: Option<&Labels>) {
        if old == new {
            return;
        }
        for (key, value) in old.into_iter().flat_map(Labels::iter) {
            self.remove(key, value, name);
        }
        for (key, value) in new.into_iter().flat_map(Labels::iter) {
            let values = self.by_pair.entry(key.into()).or_default();
            values.entry(value.into()).or_default().insert(name.clone());
        }
    }

    /// Workloads that a selector may select: those with its rarest pair. `None`: it is empty, and
    /// selects all.
    pub(crate) fn candidates(&self, selector: &Labels) -> Option<Vec<&Text>> {
        if selector.is_empty() {
            return None;
        }
        let names = selector.iter().map(|(key, value)| self.by_pair.get(key)?.get(value));
        let rarest = names.min_by_key(|names| names.map_or(0, HashSet::len)).flatten();
        Some(rarest.into_iter().flatten().collect())
    }

    fn remove(&mut self, key: &str, value: &str, name: &str) {
        let Some(values) = self.by_pair.get_mut(key) else { return };
        if let Some(names) = values.get_mut(value) {
            names.remove(name);
            if names.is_empty() {
                values.remove(value);
            }
        }
        if values.is_empty() {
            self.by_pair.remove(key);
        }
    }
}
