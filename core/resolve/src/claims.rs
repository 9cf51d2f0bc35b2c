//! Those who claim one address or name, the one that counts first.

use std::cmp::Ordering;
use std::slice;
use std::sync::Arc;

use crate::sharded::Left;

/// Claimants in an order that does not depend on when they came. Nearly always one, which then
/// takes no memory of its own.
#[derive(Clone, Debug)]
pub(crate) enum Claims<T> {
    One(Arc<T>),
    /// Sorted.
    Many(Vec<Arc<T>>),
}

impl<T> Default for Claims<T> {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl<T> Claims<T> {
    /// All of them, sorted.
    pub(crate) fn all(&self) -> &[Arc<T>] {
        match self {
            Self::One(claimant) => slice::from_ref(claimant),
            Self::Many(claimants) => claimants,
        }
    }

    /// The one that counts.
    pub(crate) fn first(&self) -> Option<&Arc<T>> {
        self.all().first()
    }

    /// Adds a claimant, or replaces the equal one. `order` must be total.
    pub(crate) fn add(&mut self, claimant: Arc<T>, order: impl Fn(&T, &T) -> Ordering) -> Left {
        let mut claimants = self.all().to_vec();
        match claimants.binary_search_by(|other| order(other, &claimant)) {
            Ok(place) => {
                if let Some(equal) = claimants.get_mut(place) {
                    *equal = claimant;
                }
            }
            Err(place) => claimants.insert(place, claimant),
        }
        self.set(claimants)
    }

    /// Takes a claimant away, if it is there.
    pub(crate) fn take(&mut self, unwanted: impl Fn(&T) -> bool) -> Left {
        let left = self.all().iter().filter(|claimant| !unwanted(claimant)).cloned().collect();
        self.set(left)
    }

    fn set(&mut self, claimants: Vec<Arc<T>>) -> Left {
        let left = if claimants.is_empty() { Left::Nothing } else { Left::Something };
        *self = match <[_; 1]>::try_from(claimants) {
            Ok([only]) => Self::One(only),
            Err(claimants) => Self::Many(claimants),
        };
        left
    }
}
