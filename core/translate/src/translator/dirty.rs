//! What has to be looked at again.

use std::collections::{BTreeSet, HashMap, HashSet};

use cluster::{Kind, Labels, ObjectKey, ObjectName, Text};

/// Objects by kind, each once. A set, so that a burst of changes of one object is one look.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    pub(super) gateways: BTreeSet<ObjectName>,
    /// Networks whose gateways are others.
    pub(super) networks: BTreeSet<Text>,
    /// Services and entries: their claims and conditions.
    pub(super) services: BTreeSet<ObjectKey>,
    /// Hosts, by namespace: what is sent of them.
    pub(super) hosts: BTreeSet<(Text, Text)>,
    /// Slices: whose pods they name, and endpoints.
    pub(super) slices: HashSet<ObjectName>,
    /// Entries: their endpoints.
    pub(super) endpoints: HashSet<ObjectName>,
    pub(super) pods: HashSet<ObjectName>,
    pub(super) workload_entries: HashSet<ObjectName>,
    /// Selectors by namespace: what they select.
    pub(super) selectors: HashMap<Text, Vec<Labels>>,
    /// Policies that waypoints enforce: what their status says.
    pub(super) attached: BTreeSet<ObjectKey>,
    /// Gateways whose pods' accounts may be others.
    pub(super) accounts: BTreeSet<ObjectName>,
}

impl Dirty {
    /// An object of a kind that becomes workloads or services.
    pub(super) fn add(&mut self, key: &ObjectKey) {
        let name = key.name.clone();
        match key.kind {
            Kind::Gateway => {
                self.gateways.insert(name);
            }
            Kind::Service => {
                self.services.insert(key.clone());
            }
            Kind::ServiceEntry => {
                self.services.insert(key.clone());
                self.endpoints.insert(name);
            }
            Kind::EndpointSlice => {
                self.slices.insert(name);
            }
            Kind::WorkloadEntry => {
                self.workload_entries.insert(name);
            }
            Kind::Pod => {
                self.pods.insert(name);
            }
            // These are looked at by what depends on them.
            Kind::Namespace
            | Kind::Node
            | Kind::GatewayClass
            | Kind::PeerAuthentication
            | Kind::AuthorizationPolicy
            | Kind::RequestAuthentication => {}
        }
    }

    /// The workloads of an entry, which has some in another network.
    pub(super) fn add_workloads(&mut self, key: &ObjectKey) {
        if key.kind == Kind::ServiceEntry {
            self.endpoints.insert(key.name.clone());
        } else {
            self.add(key);
        }
    }

    /// What a selector selects.
    pub(super) fn add_selected(&mut self, namespace: &Text, selector: &Labels) {
        let selectors = self.selectors.entry(namespace.clone()).or_default();
        if !selectors.contains(selector) {
            selectors.push(selector.clone());
        }
    }
}
