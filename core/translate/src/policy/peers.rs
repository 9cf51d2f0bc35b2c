//! Peer authentications by level: which counts for a workload.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use cluster::{Kind, Labels, ObjectKey, ObjectName, PeerAuthentication, Text, WorkloadSelector};
use proto::security::Authorization;

use super::Rebind;
use super::peer::{
    Demand, Demanded, Level, Precedence, Reference, own_key, static_key, static_policy,
};
use super::problem::overridden;
use super::selectors::Selectors;
use super::tracked::Tracked;
use crate::Condition;

/// Those of the cluster. Of each level the oldest counts; what it leaves open, the level above
/// says: workload, namespace, mesh.
#[derive(Debug)]
pub(super) struct PeerIndex {
    root_namespace: Text,
    /// Only namespaces that have some.
    namespaces: BTreeMap<Text, Peers>,
    /// What may make workloads of a namespace name other policies.
    facts: Tracked<ObjectName, Fact>,
    /// Objects and levels that were touched since changes were taken.
    touched: BTreeSet<ObjectName>,
    touched_levels: BTreeSet<Text>,
    /// What was demanded then: of the mesh, and of namespaces where that was not the same.
    mesh_before: Demanded,
    namespaces_before: HashMap<Text, Demanded>,
}

/// Those of one namespace.
#[derive(Debug, Default)]
struct Peers {
    by_name: BTreeMap<Text, Demand>,
    /// Those for all of it.
    level: BTreeSet<Precedence>,
    workloads: Selectors<Precedence>,
}

/// What one on the workload level does to workloads.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fact {
    selector: WorkloadSelector,
    precedence: Precedence,
    reference: Reference,
}

impl Peers {
    fn insert(&mut self, demand: Demand) {
        let precedence = demand.precedence.clone();
        match &demand.level {
            Level::Namespace => {
                self.level.insert(precedence);
            }
            Level::Workloads(selector) => self.workloads.insert(precedence, selector),
            Level::Nowhere => {}
        }
        self.by_name.insert(demand.precedence.name.clone(), demand);
    }

    fn remove(&mut self, name: &str) -> Option<Demand> {
        let demand = self.by_name.remove(name)?;
        match &demand.level {
            Level::Namespace => {
                self.level.remove(&demand.precedence);
            }
            Level::Workloads(selector) => self.workloads.remove(&demand.precedence, selector),
            Level::Nowhere => {}
        }
        Some(demand)
    }

    /// What the oldest for all of it says.
    fn mode(&self) -> Option<Demanded> {
        self.by_name.get(&self.level.first()?.name)?.mode
    }
}

impl PeerIndex {
    pub(super) fn new(root_namespace: &Text) -> Self {
        Self {
            root_namespace: root_namespace.clone(),
            namespaces: BTreeMap::new(),
            facts: Tracked::default(),
            touched: BTreeSet::new(),
            touched_levels: BTreeSet::new(),
            mesh_before: Demanded::No,
            namespaces_before: HashMap::new(),
        }
    }

    pub(super) fn set(&mut self, peer: &PeerAuthentication) {
        let name = peer.metadata.object_name();
        let demand = Demand::read(peer, &self.root_namespace);
        let peers = self.namespaces.entry(name.namespace.clone()).or_default();
        let before = peers.remove(&name.name);
        let levels = before.iter().chain([&demand]).map(|demand| &demand.level);
        if levels.into_iter().any(|level| *level == Level::Namespace) {
            self.touched_levels.insert(name.namespace.clone());
        }
        peers.insert(demand);
        self.touched.insert(name);
    }

    pub(super) fn delete(&mut self, name: &ObjectName) {
        let Some(peers) = self.namespaces.get_mut(&name.namespace) else { return };
        let Some(demand) = peers.remove(&name.name) else { return };
        if peers.by_name.is_empty() {
            self.namespaces.remove(&name.namespace);
        }
        if demand.level == Level::Namespace {
            self.touched_levels.insert(name.namespace.clone());
        }
        self.touched.insert(name.clone());
    }

    /// The policy that a workload has to name, if there is one.
    pub(super) fn bound(&self, namespace: &str, labels: &Labels) -> Option<Text> {
        let parent = self.demanded_of(namespace);
        let peers = self.namespaces.get(namespace);
        let counts = peers.and_then(|peers| {
            let precedence = peers.workloads.matching(labels).min()?;
            peers.by_name.get(&precedence.name)
        });
        let reference = match (counts, parent) {
            (Some(demand), _) => demand.reference(parent),
            (None, Demanded::Yes) => Reference::Static,
            (None, Demanded::No) => Reference::Nothing,
        };
        match (reference, counts) {
            (Reference::Static, _) => Some(static_key(&self.root_namespace)),
            (Reference::Own, Some(demand)) => Some(own_key(namespace, &demand.precedence.name)),
            (Reference::Own, None) | (Reference::Nothing, _) => None,
        }
    }

    fn demanded_of_mesh(&self) -> Demanded {
        let root = self.namespaces.get(&self.root_namespace);
        root.and_then(Peers::mode).unwrap_or(Demanded::No)
    }

    /// Of a workload for which no workload level counts.
    fn demanded_of(&self, namespace: &str) -> Demanded {
        let own = self.namespaces.get(namespace).and_then(Peers::mode);
        own.unwrap_or_else(|| self.demanded_of_mesh())
    }

    /// Brings policies and conditions up to date. Returns whom to bind again.
    pub(super) fn take(
        &mut self,
        policies: &mut Tracked<Text, Authorization>,
        conditions: &mut Tracked<ObjectKey, Vec<Condition>>,
    ) -> Rebind {
        let mut rebind = self.take_levels();
        let root = &self.root_namespace;
        let is_any = !self.namespaces.is_empty();
        policies.set(static_key(root), is_any.then(|| static_policy(root)));
        for name in std::mem::take(&mut self.touched) {
            let parent = self.demanded_of(&name.namespace);
            let peers = self.namespaces.get(&name.namespace);
            let found = peers.and_then(|peers| Some((peers, peers.by_name.get(&name.name)?)));
            let demand = found.map(|(_, demand)| demand);
            let policy = demand.and_then(|demand| demand.policy(&name.namespace, parent));
            policies.set(own_key(&name.namespace, &name.name), policy);
            let fact = demand.and_then(|demand| match &demand.level {
                Level::Workloads(selector) => Some(Fact {
                    selector: selector.clone(),
                    precedence: demand.precedence.clone(),
                    reference: demand.reference(parent),
                }),
                Level::Namespace | Level::Nowhere => None,
            });
            self.facts.set(name.clone(), fact);
            // Those that are gone have none, which is known where they went.
            if let Some((peers, demand)) = found {
                let condition = vec![condition(peers, demand)];
                conditions.set(ObjectKey { kind: Kind::PeerAuthentication, name }, Some(condition));
            }
        }
        for (name, ..) in self.facts.take() {
            rebind.add(&name.namespace);
        }
        rebind
    }

    /// What the touched levels change: touches what depends on them.
    fn take_levels(&mut self) -> Rebind {
        let mut rebind = Rebind::default();
        let mesh = self.demanded_of_mesh();
        let mut levels = std::mem::take(&mut self.touched_levels);
        for namespace in &levels {
            // Which of a level counts is said of each of them.
            let Some(peers) = self.namespaces.get(namespace) else { continue };
            let names = peers.level.iter().map(|precedence| precedence.name.clone());
            let names = names.map(|name| ObjectName { namespace: namespace.clone(), name });
            self.touched.extend(names);
        }
        if mesh != self.mesh_before {
            rebind = Rebind::Everything;
            levels.extend(self.namespaces.keys().cloned());
        }
        for namespace in levels {
            let now = self.demanded_of(&namespace);
            let before = self.namespaces_before.remove(&namespace).unwrap_or(self.mesh_before);
            if now != mesh {
                self.namespaces_before.insert(namespace.clone(), now);
            }
            if now == before {
                continue;
            }
            rebind.add(&namespace);
            let peers = self.namespaces.get(&namespace);
            let names = peers.into_iter().flat_map(|peers| peers.by_name.values());
            let names = names.filter(|demand| demand.mode.is_none()).map(|demand| ObjectName {
                namespace: namespace.clone(),
                name: demand.precedence.name.clone(),
            });
            self.touched.extend(names);
        }
        self.mesh_before = mesh;
        rebind
    }
}

/// What is said about one: of a level only the first counts.
fn condition(peers: &Peers, demand: &Demand) -> Condition {
    match (&demand.level, peers.level.first()) {
        (Level::Namespace, Some(first)) if *first != demand.precedence => overridden(&first.name),
        (Level::Namespace | Level::Workloads(_) | Level::Nowhere, _) => demand.remarks.condition(),
    }
}
