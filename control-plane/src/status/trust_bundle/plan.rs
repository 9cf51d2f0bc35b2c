//! What is to be done about the trust bundle of each namespace: pure.

use std::collections::BTreeMap;
use std::sync::Arc;

/// The ConfigMap of each namespace.
pub const CONFIG_MAP: &str = "istio-ca-root-cert";
/// Its key.
pub const KEY: &str = "root-cert.pem";
/// The label of those that are ours.
pub const LABEL: (&str, &str) = ("warren.dev/trust-bundle", "true");

/// A ConfigMap of that name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Whether it has our label.
    pub(super) is_ours: bool,
    /// Whether its bundle is the one to be published.
    pub(super) bundle: Option<String>,
    /// Its version, by which the server tells whether it changed since.
    pub(super) version: String,
}

/// What is to be done in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// Make it.
    Create,
    /// Write ours anew.
    Replace,
    /// It is there.
    Nothing,
    /// It is another's, and says something else: it is left alone.
    Refuse,
}

/// Every namespace and what it has.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Those that are being deleted are not among them: nothing can be made there.
    namespaces: BTreeMap<String, Option<Found>>,
    /// ConfigMaps of namespaces that were not seen yet.
    early: BTreeMap<String, Found>,
}

impl Plan {
    /// A namespace is there and not being deleted.
    pub(super) fn namespace(&mut self, name: &str) {
        let early = self.early.remove(name);
        let found = self.namespaces.entry(name.to_owned()).or_default();
        if early.is_some() {
            *found = early;
        }
    }

    /// A namespace is gone, or being deleted.
    pub(super) fn no_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
        self.early.remove(name);
    }

    /// A namespace has such a ConfigMap, or none any more.
    pub(super) fn found(&mut self, namespace: &str, found: Option<Found>) {
        match (self.namespaces.get_mut(namespace), found) {
            (Some(known), found) => *known = found,
            (None, Some(found)) => drop(self.early.insert(namespace.to_owned(), found)),
            (None, None) => drop(self.early.remove(namespace)),
        }
    }

    /// What is to be done so that each namespace has the bundle.
    pub(super) fn tasks(&self, bundle: &Arc<str>) -> impl Iterator<Item = (&str, Task, &str)> {
        let bundle = bundle.clone();
        self.namespaces.iter().map(move |(namespace, found)| {
            let version = found.as_ref().map_or("", |found| &found.version);
            (namespace.as_str(), task(found.as_ref(), &bundle), version)
        })
    }
}

fn task(found: Option<&Found>, bundle: &str) -> Task {
    match found {
        None => Task::Create,
        // Whoever wrote it: a shared root is the way to change from one mesh to the other.
        Some(found) if found.bundle.as_deref() == Some(bundle) => Task::Nothing,
        Some(found) if found.is_ours => Task::Replace,
        Some(_) => Task::Refuse,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(is_ours: bool, bundle: Option<&str>) -> Found {
        Found { is_ours, bundle: bundle.map(str::to_owned), version: "7".to_owned() }
    }

    fn tasks(plan: &Plan) -> Vec<(String, Task)> {
        let bundle = Arc::from("pem");
        plan.tasks(&bundle).map(|(name, task, _)| (name.to_owned(), task)).collect()
    }

    #[test]
    fn only_what_is_absent_or_ours_is_written() {
        let cases = [
            (None, Task::Create),
            (Some(found(true, Some("pem"))), Task::Nothing),
            (Some(found(true, Some("old"))), Task::Replace),
            (Some(found(true, None)), Task::Replace),
            (Some(found(false, Some("pem"))), Task::Nothing),
            (Some(found(false, Some("istiod's"))), Task::Refuse),
            (Some(found(false, None)), Task::Refuse),
        ];
        for (found, expected) in cases {
            let mut plan = Plan::default();
            plan.namespace("shop");
            plan.found("shop", found.clone());
            assert_eq!(tasks(&plan), [("shop".to_owned(), expected)], "{found:?}");
        }
    }

    #[test]
    fn namespaces_and_maps_come_in_any_order() {
        let mut plan = Plan::default();
        plan.found("a", Some(found(false, Some("istiod's"))));
        assert_eq!(tasks(&plan), []);
        plan.namespace("a");
        plan.namespace("b");
        let both = [("a".to_owned(), Task::Refuse), ("b".to_owned(), Task::Create)];
        assert_eq!(tasks(&plan), both);
        plan.namespace("a");
        assert_eq!(tasks(&plan), both, "seen again");
        plan.found("a", None);
        plan.no_namespace("b");
        assert_eq!(tasks(&plan), [("a".to_owned(), Task::Create)]);
        plan.no_namespace("a");
        plan.found("a", None);
        assert_eq!(tasks(&plan), [], "being deleted");
    }
}
