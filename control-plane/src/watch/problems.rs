//! What could not be read, for people: by the place it is in.

use std::collections::BTreeMap;
use std::sync::Arc;

use cluster::{Object, Readable};
use parking_lot::Mutex;

/// Places that are remembered. A problem at one more is logged and counted, but not listed until
/// another place is sound again.
const PLACES_MAX: usize = 1000;
/// Problems of one place that are remembered. The last one then says how many more there are.
const PROBLEMS_MAX: usize = 20;

/// What is wrong at a place. Clones share the list.
#[derive(Clone, Debug, Default)]
pub struct Problems {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    places: BTreeMap<String, Vec<String>>,
    seen: u64,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// A file, an object or a kind.
    pub place: String,
    /// What is wrong there and what follows from it.
    pub text: String,
}

impl Problems {
    /// States everything that is wrong at a place, which replaces what was stated before. What is
    /// new is logged.
    pub fn state(&self, place: &str, mut texts: Vec<String>) {
        if texts.len() > PROBLEMS_MAX {
            let more = texts.len() + 1 - PROBLEMS_MAX;
            texts.truncate(PROBLEMS_MAX - 1);
            texts.push(format!("and {more} more"));
        }
        let mut state = self.state.lock();
        let before = state.places.remove(place).unwrap_or_default();
        for text in texts.iter().filter(|text| !before.contains(text)) {
            state.seen = state.seen.saturating_add(1);
            tracing::warn!(place, problem = text, "cannot be read");
        }
        if texts.is_empty() {
            if !before.is_empty() {
                tracing::info!(place, "can be read again");
            }
        } else if state.places.len() < PLACES_MAX {
            state.places.insert(place.to_owned(), texts);
        }
    }

    /// Forgets a place: it is sound again, or gone.
    pub fn clear(&self, place: &str) {
        self.state(place, Vec::new());
    }

    /// Everything that is wrong now, by place.
    #[must_use]
    pub fn list(&self) -> Vec<Problem> {
        let state = self.state.lock();
        let each = state.places.iter().flat_map(|(place, texts)| {
            texts.iter().map(|text| Problem { place: place.clone(), text: text.clone() })
        });
        each.collect()
    }

    /// How many there have been, for a metric.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.state.lock().seen
    }
}

/// Why a policy is there but was not understood: it still denies where it is bound.
pub(super) fn not_understood(object: &Object) -> Option<String> {
    let cause = match object {
        Object::AuthorizationPolicy(policy) => cause(&policy.spec),
        Object::PeerAuthentication(policy) => cause(&policy.spec),
        Object::RequestAuthentication(policy) => cause(&policy.spec),
        Object::Namespace(_)
        | Object::Node(_)
        | Object::GatewayClass(_)
        | Object::Gateway(_)
        | Object::Service(_)
        | Object::ServiceEntry(_)
        | Object::EndpointSlice(_)
        | Object::WorkloadEntry(_)
        | Object::Pod(_) => None,
    }?;
    Some(format!("{}: spec: {cause}; it is not accepted as it is written", object.key()))
}

fn cause<T>(spec: &Readable<T>) -> Option<&str> {
    match spec {
        Readable::Read(_) => None,
        Readable::Unreadable(unreadable) => Some(&unreadable.cause),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(problems: &Problems) -> Vec<String> {
        problems.list().into_iter().map(|p| format!("{}: {}", p.place, p.text)).collect()
    }

    #[test]
    fn a_place_has_what_was_stated_last() {
        let problems = Problems::default();
        problems.state("b.yaml", vec!["one".into(), "two".into()]);
        problems.state("a.yaml", vec!["three".into()]);
        assert_eq!(texts(&problems), ["a.yaml: three", "b.yaml: one", "b.yaml: two"]);
        problems.state("b.yaml", vec!["two".into()]);
        assert_eq!(texts(&problems), ["a.yaml: three", "b.yaml: two"]);
        problems.clear("a.yaml");
        problems.clear("never");
        assert_eq!(texts(&problems), ["b.yaml: two"]);
        assert_eq!(problems.seen(), 3, "what stays is not counted again");
    }

    #[test]
    fn the_list_is_bounded() {
        let problems = Problems::default();
        for place in 0..=PLACES_MAX {
            problems.state(&format!("{place:06}"), vec!["x".into()]);
        }
        assert_eq!(problems.list().len(), PLACES_MAX);
        problems.state("000000", vec!["x".into(); PROBLEMS_MAX + 5]);
        let first = problems.list();
        assert_eq!(first[PROBLEMS_MAX - 1].text, "and 6 more");
        assert_eq!(first.len(), PLACES_MAX + PROBLEMS_MAX - 1);
    }
}
