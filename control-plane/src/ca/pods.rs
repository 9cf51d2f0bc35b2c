//! Which pods run where, as far as certificates depend on it.
//!
//! A node's agent gets certificates for the accounts of pods that count on its node: their labels
//! select ambient (or, in manifests, an agent serves them), they have a network namespace of their
//! own, are pending or running, and bound to that node. Addresses and readiness do not matter: a
//! pod's first connection must not wait for either.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;

use cluster::pod::Phase;
use cluster::{Labels, Meta, Namespace, ObjectName, Pod, Text};
use parking_lot::RwLock;

/// Says whether a pod or the pods of a namespace belong to the mesh.
const MODE_LABEL: &str = "istio.io/dataplane-mode";
const AMBIENT: &str = "ambient";
/// What a node's agent writes on a pod that it serves; what a manifest has instead of a label. In a
/// cluster it selects nothing: it lags behind the labels, and whoever may write on pods may write it.
const REDIRECTION: &str = "ambient.istio.io/redirection";
const ENABLED: &str = "enabled";
/// Of a pod that a gateway's controller made, and for which gateway. Whoever may make pods may write
/// these: they count beside that Gateway only.
const MANAGED_LABEL: &str = "gateway.istio.io/managed";
const GATEWAY_LABEL: &str = "gateway.networking.k8s.io/gateway-name";
/// Fewest texts at which those that nobody uses any more are dropped.
const INTERNED_MIN: usize = 1024;

/// What puts a pod in the mesh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Selection {
    /// Labels of the pod or its namespace: in a cluster.
    #[default]
    Labels,
    /// These, or that an agent serves it: in a folder of manifests.
    LabelsOrRedirection,
}

/// A pod, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFacts {
    /// The instance.
    pub uid: Text,
    /// The account it runs as.
    pub account: Text,
    /// Where it is bound; empty before that.
    pub node: Text,
    mode: Mode,
    life: Life,
    network: Network,
    kind: PodKind,
}

/// What a pod itself says about the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    In,
    Out,
    AsItsNamespace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Lives,
    /// Ended, or its node does not answer.
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Network {
    Own,
    Host,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum PodKind {
    /// Says it is of the Gateway of this name.
    Gateway(Text),
    Workload,
}

impl PodFacts {
    /// Whether it has not ended.
    #[must_use]
    pub fn lives(&self) -> bool {
        self.life == Life::Lives
    }
}

/// What is counted: living pods of an account.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    node: Text,
    namespace: Text,
    account: Text,
}

/// Pods by name, and how many count by node and account.
#[derive(Debug, Default)]
pub struct PodIndex {
    selection: Selection,
    pods: BTreeMap<ObjectName, PodFacts>,
    /// Namespaces whose label selects ambient.
    ambient: HashSet<Text>,
    /// Gateway objects.
    gateway_objects: BTreeSet<ObjectName>,
    counted: HashMap<Place, usize>,
    /// Living pods by namespace and account, in the mesh or not.
    living: HashMap<(Text, Text), usize>,
    /// Living gateways by namespace and account.
    gateways: HashMap<(Text, Text), usize>,
    /// Names of nodes and accounts, which many pods share.
    interned: HashSet<Text>,
    interned_max: usize,
}

impl PodIndex {
    /// An empty one; the default is a cluster's.
    #[must_use]
    pub fn new(selection: Selection) -> Self {
        Self { selection, ..Self::default() }
    }

    /// Takes a pod, or what became of it.
    pub fn upsert_pod(&mut self, pod: &Pod) {
        let name = ObjectName {
            namespace: self.intern(&pod.metadata.namespace),
            name: pod.metadata.name.clone(),
        };
        self.remove_pod(&name);
        let facts = PodFacts {
            uid: pod.metadata.uid.clone(),
            account: self.intern(pod.service_account()),
            node: self.intern(&pod.spec.node_name),
            mode: mode(&pod.metadata, self.selection),
            life: match pod.status.phase {
                Phase::Pending | Phase::Running => Life::Lives,
                Phase::Succeeded | Phase::Failed | Phase::Unknown => Life::Over,
            },
            network: if pod.spec.host_network { Network::Host } else { Network::Own },
            kind: kind(&pod.metadata.labels),
        };
        self.count(&name, &facts, Change::Comes);
        self.pods.insert(name, facts);
    }

    /// Forgets a pod.
    pub fn remove_pod(&mut self, name: &ObjectName) {
        if let Some(facts) = self.pods.remove(name) {
            self.count(name, &facts, Change::Goes);
        }
    }

    /// Takes a namespace, or what became of its labels.
    pub fn upsert_namespace(&mut self, namespace: &Namespace) {
        let selects = namespace.metadata.labels.get(MODE_LABEL) == Some(AMBIENT);
        self.set_namespace(&namespace.metadata.name, selects);
    }

    /// Forgets a namespace.
    pub fn remove_namespace(&mut self, name: &str) {
        self.set_namespace(name, false);
    }

    /// Takes a Gateway: its pods are gateways.
    pub fn upsert_gateway(&mut self, namespace: &str, name: &str) {
        let gateway = ObjectName::new(namespace, name);
        if !self.gateway_objects.contains(&gateway) {
            self.recount(namespace, |index| {
                index.gateway_objects.insert(gateway);
            });
        }
    }

    /// Forgets a Gateway.
    pub fn remove_gateway(&mut self, namespace: &str, name: &str) {
        let gateway = ObjectName::new(namespace, name);
        if self.gateway_objects.contains(&gateway) {
            self.recount(namespace, |index| {
                index.gateway_objects.remove(&gateway);
            });
        }
    }

    /// A pod by name.
    #[must_use]
    pub fn pod(&self, name: &ObjectName) -> Option<&PodFacts> {
        self.pods.get(name)
    }

    /// Whether a pod of that account counts on that node.
    #[must_use]
    pub fn runs(&self, node: &str, namespace: &str, account: &str) -> bool {
        let place =
            Place { node: node.into(), namespace: namespace.into(), account: account.into() };
        !node.is_empty() && self.counted.contains_key(&place)
    }

    /// Whether a living pod of that account is anywhere.
    #[must_use]
    pub fn lives(&self, namespace: &str, account: &str) -> bool {
        self.living.contains_key(&(namespace.into(), account.into()))
    }

    /// Whether a pod is one of a Gateway that is there.
    #[must_use]
    pub fn is_gateway_pod(&self, name: &ObjectName) -> bool {
        self.pods.get(name).is_some_and(|facts| self.is_of_gateway(name, facts))
    }

    /// Whether a living pod of a Gateway that is there runs as that account.
    #[must_use]
    pub fn is_gateway(&self, namespace: &str, account: &str) -> bool {
        self.gateways.contains_key(&(namespace.into(), account.into()))
    }

    /// How many pods there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pods.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }

    fn set_namespace(&mut self, name: &str, selects: bool) {
        if self.ambient.contains(name) == selects {
            return;
        }
        self.recount(name, |index| {
            if selects {
                index.ambient.insert(name.into());
            } else {
                index.ambient.remove(name);
            }
        });
    }

    /// Changes what the pods of a namespace are counted by.
    fn recount(&mut self, namespace: &str, change: impl FnOnce(&mut Self)) {
        let first = ObjectName::new(namespace, "");
        let range = (Bound::Included(&first), Bound::Unbounded);
        let pods: Vec<_> = self
            .pods
            .range::<ObjectName, _>(range)
            .take_while(|(pod, _)| &*pod.namespace == namespace)
            .map(|(pod, facts)| (pod.clone(), facts.clone()))
            .collect();
        for (pod, facts) in &pods {
            self.count(pod, facts, Change::Goes);
        }
        change(self);
        for (pod, facts) in &pods {
            self.count(pod, facts, Change::Comes);
        }
    }

    fn is_of_gateway(&self, name: &ObjectName, facts: &PodFacts) -> bool {
        match &facts.kind {
            PodKind::Gateway(gateway) => {
                let namespace = name.namespace.clone();
                let gateway = ObjectName { namespace, name: gateway.clone() };
                self.gateway_objects.contains(&gateway)
            }
            PodKind::Workload => false,
        }
    }

    fn count(&mut self, name: &ObjectName, facts: &PodFacts, change: Change) {
        if !facts.lives() {
            return;
        }
        let account = (name.namespace.clone(), facts.account.clone());
        change.apply(&mut self.living, account.clone());
        if self.is_of_gateway(name, facts) {
            change.apply(&mut self.gateways, account);
        }
        let selected = match facts.mode {
            Mode::In => true,
            Mode::Out => false,
            Mode::AsItsNamespace => self.ambient.contains(&name.namespace),
        };
        if selected && facts.network == Network::Own && !facts.node.is_empty() {
            let place = Place {
                node: facts.node.clone(),
                namespace: name.namespace.clone(),
                account: facts.account.clone(),
            };
            change.apply(&mut self.counted, place);
        }
    }

    fn intern(&mut self, text: &str) -> Text {
        if let Some(known) = self.interned.get(text) {
            return known.clone();
        }
        if self.interned.len() >= self.interned_max.max(INTERNED_MIN) {
            self.interned.retain(|text| Arc::strong_count(text) > 1);
            self.interned_max = self.interned.len() * 2;
        }
        let new: Text = text.into();
        self.interned.insert(new.clone());
        new
    }
}

#[derive(Clone, Copy)]
enum Change {
    Comes,
    Goes,
}

impl Change {
    fn apply<K: Eq + std::hash::Hash>(self, counts: &mut HashMap<K, usize>, key: K) {
        match self {
            Self::Comes => *counts.entry(key).or_default() += 1,
            Self::Goes => {
                if let Some(count) = counts.get_mut(&key) {
                    *count -= 1;
                    if *count == 0 {
                        counts.remove(&key);
                    }
                }
            }
        }
    }
}

/// The label decides; without one, that an agent serves the pod, if that counts; else its namespace.
fn mode(meta: &Meta, selection: Selection) -> Mode {
    let is_served = || match selection {
        Selection::Labels => false,
        Selection::LabelsOrRedirection => meta.annotations.get(REDIRECTION) == Some(ENABLED),
    };
    match meta.labels.get(MODE_LABEL) {
        Some(AMBIENT) => Mode::In,
        Some(_) => Mode::Out,
        None if is_served() => Mode::In,
        None => Mode::AsItsNamespace,
    }
}

fn kind(labels: &Labels) -> PodKind {
    match (labels.get(MANAGED_LABEL), labels.get(GATEWAY_LABEL)) {
        (Some(_), Some(gateway)) => PodKind::Gateway(gateway.into()),
        (None, _) | (_, None) => PodKind::Workload,
    }
}

/// The index, shared by whoever feeds it and whoever asks. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Pods(Arc<RwLock<PodIndex>>);

impl Pods {
    /// Those of a folder of manifests; the default is a cluster's.
    #[must_use]
    pub fn of_manifests() -> Self {
        Self(Arc::new(RwLock::new(PodIndex::new(Selection::LabelsOrRedirection))))
    }

    /// Looks something up.
    pub fn read<T>(&self, look: impl FnOnce(&PodIndex) -> T) -> T {
        look(&self.0.read())
    }

    /// Changes it. Several changes at once are seen together.
    pub fn write<T>(&self, change: impl FnOnce(&mut PodIndex) -> T) -> T {
        change(&mut self.0.write())
    }
}

#[cfg(test)]
mod tests;
