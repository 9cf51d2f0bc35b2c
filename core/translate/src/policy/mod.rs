//! Policies: what a node's proxy is told to enforce, and what is wrong with them.
//!
//! A node sees connections, not requests. What it cannot check makes a policy stricter, never
//! weaker: an ALLOW rule with such an attribute is left out, a DENY rule with one matches every
//! connection, and a policy that cannot be read denies everything it is bound to. Each such thing
//! is said in a condition of the object. Nothing here knows which workloads there are: it is asked
//! what binds a pod ([`PolicyIndex::bound`]), and says after a change who should ask again.

mod authorization;
mod peer;
mod peers;
mod principals;
mod problem;
mod request;
mod rule;
mod selectors;
mod tracked;
mod values;

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};

use cluster::{Kind, Labels, Object, ObjectKey, Text, WorkloadSelector};
use proto::security::Authorization;

use crate::{Condition, Settings};
use cluster::authorization_policy::PolicyTarget;
use peers::PeerIndex;
use problem::Remarks;
use selectors::Selectors;
use tracked::Tracked;

pub use authorization::POLICY_BYTES_MAX;
pub use problem::{CONDITION, PROBLEMS_MAX, reason};

/// Every policy of the cluster, and what became of it.
///
/// Whoever feeds it leaves out objects of other revisions and of namespaces that are not seen. The
/// same objects in any order make the same index.
#[derive(Debug)]
pub struct PolicyIndex {
    settings: Settings,
    /// As they are sent, by `namespace/name`.
    policies: Tracked<Text, Authorization>,
    conditions: Tracked<ObjectKey, Vec<Condition>>,
    /// By the sent name, for policies that workloads name.
    selected: Tracked<Text, Selected>,
    by_namespace: HashMap<Text, Selectors<Text>>,
    /// Those of the root namespace: they select in every namespace.
    by_mesh: Selectors<Text>,
    peers: PeerIndex,
    /// An object that takes the place of another of its name has a status of its own.
    uids: HashMap<ObjectKey, Text>,
}

/// Where a policy selects, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Selected {
    namespace: Text,
    selector: WorkloadSelector,
}

/// What a waypoint is to enforce a policy for, instead of nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attachment {
    /// What the policy names.
    pub(crate) targets: Vec<PolicyTarget>,
    /// What is in it that keeps us from saying that a waypoint enforces it, if there is such a thing.
    pub(crate) doubt: Option<String>,
}

/// What is different since the last time; each key at most once, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicyChanges {
    /// By `namespace/name`; `None`: no longer sent.
    pub policies: Vec<(Text, Option<Authorization>)>,
    /// What an object's status should say. Objects that are gone are not named.
    pub conditions: Vec<(ObjectKey, Vec<Condition>)>,
    /// Whose answer of [`PolicyIndex::bound`] may be another one.
    pub rebind: Rebind,
}

impl PolicyChanges {
    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty() && self.conditions.is_empty() && self.rebind.is_empty()
    }
}

/// Workloads that should ask again which policies bind them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rebind {
    /// Those of these namespaces.
    Namespaces(BTreeSet<Text>),
    /// All.
    Everything,
}

impl Default for Rebind {
    fn default() -> Self {
        Self::Namespaces(BTreeSet::new())
    }
}

impl Rebind {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Namespaces(namespaces) => namespaces.is_empty(),
            Self::Everything => false,
        }
    }

    fn add(&mut self, namespace: &Text) {
        match self {
            Self::Namespaces(namespaces) => {
                namespaces.insert(namespace.clone());
            }
            Self::Everything => {}
        }
    }
}

impl PolicyIndex {
    /// An index without policies.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        Self {
            settings: settings.clone(),
            policies: Tracked::default(),
            conditions: Tracked::default(),
            selected: Tracked::default(),
            by_namespace: HashMap::new(),
            by_mesh: Selectors::default(),
            peers: PeerIndex::new(&settings.root_namespace),
            uids: HashMap::new(),
        }
    }

    /// An object that is new, or takes the place of the one of its key. Objects of other kinds are
    /// not looked at.
    pub fn set(&mut self, object: &Object) {
        let key = object.key();
        match object {
            Object::AuthorizationPolicy(policy) => {
                self.notice(&key, &object.meta().uid);
                let converted = authorization::convert(policy, &self.settings);
                let name = authorization::sent_name(&key.name);
                let selected = converted
                    .selector
                    .map(|selector| Selected { namespace: key.name.namespace.clone(), selector });
                self.select(&name, selected);
                self.policies.set(name, converted.policy);
                let condition = converted.remarks.nodes_condition();
                self.conditions.set(key, condition.map(|condition| vec![condition]));
            }
            Object::PeerAuthentication(peer) => {
                self.notice(&key, &object.meta().uid);
                self.peers.set(peer);
            }
            Object::RequestAuthentication(request) => {
                self.notice(&key, &object.meta().uid);
                let condition = request::remarks(request).nodes_condition();
                self.conditions.set(key, condition.map(|condition| vec![condition]));
            }
            Object::Namespace(_)
            | Object::Node(_)
            | Object::GatewayClass(_)
            | Object::Gateway(_)
            | Object::Service(_)
            | Object::ServiceEntry(_)
            | Object::EndpointSlice(_)
            | Object::WorkloadEntry(_)
            | Object::Pod(_) => {}
        }
    }

    /// An object that is gone. One that is not there is not an error.
    pub fn delete(&mut self, key: &ObjectKey) {
        self.uids.remove(key);
        match key.kind {
            Kind::AuthorizationPolicy => {
                let name = authorization::sent_name(&key.name);
                self.select(&name, None);
                self.policies.set(name, None);
            }
            Kind::PeerAuthentication => self.peers.delete(&key.name),
            Kind::RequestAuthentication => {}
            Kind::Namespace
            | Kind::Node
            | Kind::GatewayClass
            | Kind::Gateway
            | Kind::Service
            | Kind::ServiceEntry
            | Kind::EndpointSlice
            | Kind::WorkloadEntry
            | Kind::Pod => return,
        }
        self.conditions.set(key.clone(), None);
        self.conditions.forget(key);
    }

    /// The policies that a workload has to name, by `namespace/name`, sorted. Those that hold for
    /// its namespace or for the mesh hold without being named. Costs what the policies that may
    /// match its labels cost, and nothing for the others.
    #[must_use]
    pub fn bound(&self, namespace: &str, labels: &Labels) -> Vec<Text> {
        let own = self.by_namespace.get(namespace);
        let mut names: Vec<Text> = own
            .into_iter()
            .chain([&self.by_mesh])
            .flat_map(|selectors| selectors.matching(labels))
            .cloned()
            .chain(self.peers.bound(namespace, labels))
            .collect();
        names.sort_unstable();
        names
    }

    /// What is different since the last call.
    pub fn take_changes(&mut self) -> PolicyChanges {
        let mut rebind = self.peers.take(&mut self.policies, &mut self.conditions);
        for (_, before, after) in self.selected.take() {
            for selected in before.iter().chain(&after) {
                if selected.namespace == self.settings.root_namespace {
                    rebind = Rebind::Everything;
                } else {
                    rebind.add(&selected.namespace);
                }
            }
        }
        let policies = self.policies.take();
        let conditions = self.conditions.take();
        PolicyChanges {
            policies: policies.into_iter().map(|(name, _, after)| (name, after)).collect(),
            conditions: conditions
                .into_iter()
                .filter_map(|(key, _, after)| Some((key, after?)))
                .collect(),
            rebind,
        }
    }

    /// Every policy that is sent, by name, as of the last [`PolicyIndex::take_changes`].
    pub fn policies(&self) -> impl Iterator<Item = (&Text, &Authorization)> {
        self.policies.iter()
    }

    /// What is said about each object, as of the last [`PolicyIndex::take_changes`].
    pub fn conditions(&self) -> impl Iterator<Item = (&ObjectKey, &[Condition])> {
        self.conditions.iter().map(|(key, conditions)| (key, &**conditions))
    }

    fn notice(&mut self, key: &ObjectKey, uid: &Text) {
        let before = self.uids.insert(key.clone(), uid.clone());
        if before.is_some_and(|before| before != *uid) {
            self.conditions.forget(key);
        }
    }

    fn select(&mut self, name: &Text, selected: Option<Selected>) {
        let root = &self.settings.root_namespace;
        if self.selected.get(name) == selected.as_ref() {
            return;
        }
        if let Some(before) = self.selected.get(name) {
            if before.namespace == *root {
                self.by_mesh.remove(name, &before.selector);
            } else if let Some(selectors) = self.by_namespace.get_mut(&before.namespace) {
                selectors.remove(name, &before.selector);
                if selectors.is_empty() {
                    self.by_namespace.remove(&before.namespace);
                }
            }
        }
        if let Some(after) = &selected {
            let selectors = if after.namespace == *root {
                &mut self.by_mesh
            } else {
                self.by_namespace.entry(after.namespace.clone()).or_default()
            };
            selectors.insert(name.clone(), &after.selector);
        }
        self.selected.set(name.clone(), selected);
    }
}

/// What a policy is attached to; `None`: nodes enforce it, or nobody.
pub(crate) fn attachment(object: &Object) -> Option<Attachment> {
    match object {
        Object::AuthorizationPolicy(policy) => authorization::attachment(policy),
        Object::RequestAuthentication(request) => request::attachment(request),
        Object::PeerAuthentication(_)
        | Object::Namespace(_)
        | Object::Node(_)
        | Object::GatewayClass(_)
        | Object::Gateway(_)
        | Object::Service(_)
        | Object::ServiceEntry(_)
        | Object::EndpointSlice(_)
        | Object::WorkloadEntry(_)
        | Object::Pod(_) => None,
    }
}

/// Whether nodes would enforce an object as it is written; otherwise every reason why not. The same
/// reading as the conversion's. A policy for a waypoint need only be readable; objects of other
/// kinds have nothing that could be wrong here.
pub fn review(object: &Object, settings: &Settings) -> Result<(), Vec<String>> {
    let remarks: Remarks = match object {
        Object::AuthorizationPolicy(policy) => authorization::convert(policy, settings).remarks,
        Object::PeerAuthentication(peer) => {
            peer::Demand::read(peer, &settings.root_namespace).remarks
        }
        Object::RequestAuthentication(request) => request::remarks(request),
        Object::Namespace(_)
        | Object::Node(_)
        | Object::GatewayClass(_)
        | Object::Gateway(_)
        | Object::Service(_)
        | Object::ServiceEntry(_)
        | Object::EndpointSlice(_)
        | Object::WorkloadEntry(_)
        | Object::Pod(_) => return Ok(()),
    };
    remarks.verdict()
}
