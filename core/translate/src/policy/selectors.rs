//! Selectors, found by the labels that they may match.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use cluster::{Labels, Text, WorkloadSelector};

/// Selectors by one of their pairs each, so that a pod's labels find the few that may match.
#[derive(Debug)]
pub(super) struct Selectors<I> {
    by_pair: HashMap<Text, HashMap<Text, BTreeMap<I, WorkloadSelector>>>,
    /// Those without a pair: they match everything.
    all: BTreeSet<I>,
}

impl<I> Default for Selectors<I> {
    fn default() -> Self {
        Self { by_pair: HashMap::new(), all: BTreeSet::new() }
    }
}

impl<I: Ord + Clone> Selectors<I> {
    /// Adds one that is not there. Of its pairs it takes that which the fewest others have taken:
    /// a label that everybody has finds little.
    pub(super) fn insert(&mut self, id: I, selector: &WorkloadSelector) {
        let taken = |(key, value): &(&str, &str)| {
            self.by_pair.get(*key).and_then(|values| values.get(*value)).map_or(0, BTreeMap::len)
        };
        match selector.0.iter().min_by_key(taken) {
            None => {
                self.all.insert(id);
            }
            Some((key, value)) => {
                let values = self.by_pair.entry(key.into()).or_default();
                values.entry(value.into()).or_default().insert(id, selector.clone());
            }
        }
    }

    /// Removes one that was added with this selector.
    pub(super) fn remove(&mut self, id: &I, selector: &WorkloadSelector) {
        self.all.remove(id);
        for (key, value) in selector.0.iter() {
            let Some(values) = self.by_pair.get_mut(key) else { continue };
            let Some(few) = values.get_mut(value) else { continue };
            few.remove(id);
            if few.is_empty() {
                values.remove(value);
            }
            if values.is_empty() {
                self.by_pair.remove(key);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_pair.is_empty() && self.all.is_empty()
    }

    /// Those that match, each once, in no particular order.
    pub(super) fn matching<'s>(&'s self, labels: &'s Labels) -> impl Iterator<Item = &'s I> {
        let few = labels.iter().filter_map(|(key, value)| self.by_pair.get(key)?.get(value));
        let matching = few.flatten().filter(|(_, selector)| selector.matches(labels));
        self.all.iter().chain(matching.map(|(id, _)| id))
    }
}
