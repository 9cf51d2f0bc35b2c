//! Where workloads meet policies: the one place that calls the index of policies.

use std::collections::BTreeMap;

use cluster::{Labels, Object, ObjectKey, Text};
use prost::Message;
use proto::security as wire;

use crate::changes::Authorization;
use crate::condition::Condition;
use crate::policy::{PolicyIndex, Rebind};
use crate::settings::Settings;

/// Policies of the cluster, and those that were made: for waypoints, or in place of too many.
#[derive(Debug)]
pub(crate) struct Policies {
    index: PolicyIndex,
    /// Policies that were made, by name.
    made: BTreeMap<Text, wire::Authorization>,
    /// Those of them that changed.
    changed: BTreeMap<Text, Option<Authorization>>,
}

/// What changed of policies.
pub(crate) struct PolicyUpdate {
    pub(crate) policies: Vec<(Text, Option<Authorization>)>,
    pub(crate) conditions: Vec<(ObjectKey, Vec<Condition>)>,
    pub(crate) rebind: Rebind,
}

impl Policies {
    pub(crate) fn new(settings: &Settings) -> Self {
        let (made, changed) = (BTreeMap::new(), BTreeMap::new());
        Self { index: PolicyIndex::new(settings), made, changed }
    }

    pub(crate) fn set(&mut self, object: &Object) {
        self.index.set(object);
    }

    pub(crate) fn delete(&mut self, key: &ObjectKey) {
        self.index.delete(key);
    }

    /// Policies that a workload with these labels refers to, sorted.
    pub(crate) fn bound(&self, namespace: &str, labels: &Labels) -> Vec<Text> {
        self.index.bound(namespace, labels)
    }

    /// Replaces a policy that no object describes.
    pub(crate) fn make(&mut self, name: &Text, policy: Option<wire::Authorization>) {
        if self.made.get(name) == policy.as_ref() {
            return;
        }
        match policy {
            None => {
                self.made.remove(name);
                self.changed.insert(name.clone(), None);
            }
            Some(policy) => {
                self.changed.insert(name.clone(), Some(encode(name, &policy)));
                self.made.insert(name.clone(), policy);
            }
        }
    }

    /// What changed of policies that were made.
    pub(crate) fn take_made(&mut self) -> BTreeMap<Text, Option<Authorization>> {
        std::mem::take(&mut self.changed)
    }

    pub(crate) fn take_changes(&mut self) -> PolicyUpdate {
        let changes = self.index.take_changes();
        let mut policies = self.take_made();
        for (name, policy) in changes.policies {
            let policy = policy.map(|policy| encode(&name, &policy));
            policies.insert(name, policy);
        }
        let policies = policies.into_iter().collect();
        PolicyUpdate { policies, conditions: changes.conditions, rebind: changes.rebind }
    }

    /// Conditions of policies.
    pub(crate) fn conditions(&self) -> impl Iterator<Item = (&ObjectKey, &[Condition])> {
        self.index.conditions()
    }
}

fn encode(name: &Text, policy: &wire::Authorization) -> Authorization {
    Authorization { name: name.clone(), bytes: policy.encode_to_vec().into() }
}
