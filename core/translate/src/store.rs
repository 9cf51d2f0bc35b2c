//! The objects as they are, and what refers to what by labels alone.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use cluster::{
    EndpointSlice, Gateway, GatewayClass, Labels, Meta, Namespace, Node, Object, ObjectKey,
    ObjectName, Pod, Service, ServiceEntry, Text, WorkloadEntry,
};

use crate::names;
use crate::selectors::{LabelIndex, SelectorIndex};
use crate::settings::Settings;

/// What selects workloads of its namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Selecting {
    Service(Text),
    Entry(Text),
}

/// Objects of one namespace.
#[derive(Debug, Default)]
pub(crate) struct Space {
    pub(crate) namespace: Option<Arc<Namespace>>,
    pub(crate) pods: HashMap<Text, Arc<Pod>>,
    pub(crate) services: HashMap<Text, Arc<Service>>,
    pub(crate) entries: HashMap<Text, Arc<ServiceEntry>>,
    pub(crate) workload_entries: HashMap<Text, Arc<WorkloadEntry>>,
    pub(crate) slices: HashMap<Text, Arc<EndpointSlice>>,
    pub(crate) gateways: HashMap<Text, Arc<Gateway>>,
    /// Policies of all kinds: they are given away again when the namespace is seen or not.
    pub(crate) policies: HashMap<ObjectKey, Object>,
    pub(crate) selectors: SelectorIndex<Selecting>,
    pub(crate) pods_by_label: LabelIndex,
    pub(crate) workload_entries_by_label: LabelIndex,
    pub(crate) slices_by_service: HashMap<Text, BTreeSet<Text>>,
    /// Slices of services without a selector that name a pod.
    pub(crate) slices_by_pod: HashMap<Text, BTreeSet<Text>>,
    /// The same, the other way.
    pods_by_slice: HashMap<Text, BTreeSet<Text>>,
}

impl Space {
    /// Metadata of the namespace, if it is known.
    pub(crate) fn meta(&self) -> Option<&Meta> {
        self.namespace.as_ref().map(|namespace| &namespace.metadata)
    }

    /// Replaces the pods that a slice names. Those it named before.
    pub(crate) fn name_pods(&mut self, slice: &Text, pods: &BTreeSet<Text>) -> BTreeSet<Text> {
        for pod in pods {
            self.slices_by_pod.entry(pod.clone()).or_default().insert(slice.clone());
        }
        let before = if pods.is_empty() {
            self.pods_by_slice.remove(slice).unwrap_or_default()
        } else {
            self.pods_by_slice.insert(slice.clone(), pods.clone()).unwrap_or_default()
        };
        for pod in before.difference(pods) {
            if let Some(slices) = self.slices_by_pod.get_mut(pod) {
                slices.remove(slice);
                if slices.is_empty() {
                    self.slices_by_pod.remove(pod);
                }
            }
        }
        before
    }

    /// Whether nothing is left of it.
    pub(crate) fn is_empty(&self) -> bool {
        self.namespace.is_none()
            && self.pods.is_empty()
            && self.services.is_empty()
            && self.entries.is_empty()
            && self.workload_entries.is_empty()
            && self.slices.is_empty()
            && self.gateways.is_empty()
            && self.policies.is_empty()
    }
}

/// Objects of the cluster.
#[derive(Debug, Default)]
pub(crate) struct Store {
    pub(crate) spaces: HashMap<Text, Space>,
    pub(crate) nodes: HashMap<Text, Arc<Node>>,
    pub(crate) classes: HashMap<Text, Arc<GatewayClass>>,
    pub(crate) pods_by_node: HashMap<Text, HashSet<ObjectName>>,
    /// Pods that were made for a gateway.
    pub(crate) pods_by_gateway: HashMap<ObjectName, BTreeSet<Text>>,
    /// Pods that have an address to themselves, and entries of both kinds that say they do, whatever
    /// network they say it is of.
    pub(crate) by_address: HashMap<IpAddr, Vec<ObjectKey>>,
}

impl Store {
    pub(crate) fn space(&self, namespace: &str) -> Option<&Space> {
        self.spaces.get(namespace)
    }

    pub(crate) fn space_mut(&mut self, namespace: &Text) -> &mut Space {
        self.spaces.entry(namespace.clone()).or_default()
    }

    pub(crate) fn namespace(&self, name: &str) -> Option<&Meta> {
        self.space(name)?.meta()
    }

    pub(crate) fn pod(&self, name: &ObjectName) -> Option<&Arc<Pod>> {
        self.space(&name.namespace)?.pods.get(&name.name)
    }

    pub(crate) fn service(&self, name: &ObjectName) -> Option<&Arc<Service>> {
        self.space(&name.namespace)?.services.get(&name.name)
    }

    pub(crate) fn entry(&self, name: &ObjectName) -> Option<&Arc<ServiceEntry>> {
        self.space(&name.namespace)?.entries.get(&name.name)
    }

    pub(crate) fn workload_entry(&self, name: &ObjectName) -> Option<&Arc<WorkloadEntry>> {
        self.space(&name.namespace)?.workload_entries.get(&name.name)
    }

    pub(crate) fn slice(&self, name: &ObjectName) -> Option<&Arc<EndpointSlice>> {
        self.space(&name.namespace)?.slices.get(&name.name)
    }

    pub(crate) fn gateway(&self, name: &ObjectName) -> Option<&Arc<Gateway>> {
        self.space(&name.namespace)?.gateways.get(&name.name)
    }

    /// Whether objects of a namespace are seen at all. The root namespace always is: its policies
    /// hold for the whole mesh, and a selector that forgets it must not lift them.
    pub(crate) fn is_seen(&self, settings: &Settings, namespace: &str) -> bool {
        let is_root = *namespace == *settings.root_namespace;
        is_root || settings.discovery_selectors.is_empty() || {
            let labels = self.namespace_labels(namespace);
            settings.discovery_selectors.iter().any(|selector| selector.matches(&labels))
        }
    }

    /// A namespace's labels, with the name that an API server puts among them.
    pub(crate) fn namespace_labels(&self, name: &str) -> Labels {
        let labels = self.namespace(name).map(|meta| &meta.labels);
        let pairs = labels.into_iter().flat_map(Labels::iter);
        [(names::NAMESPACE_NAME, name)].into_iter().chain(pairs).collect()
    }
}

/// Whether an object is for this control plane: of its revision, or everybody's.
pub(crate) fn is_ours(settings: &Settings, meta: &Meta) -> bool {
    meta.label(names::REVISION).is_none_or(|revision| *revision == *settings.revision)
}
