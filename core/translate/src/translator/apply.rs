//! Noting a change: the store and its indices, and what may depend on it.

use std::sync::Arc;

use cluster::{
    EndpointSlice, Gateway, GatewayClass, Kind, Labels, Meta, Namespace, Node, Object, ObjectKey,
    ObjectName, Pod, Service, ServiceEntry, Text, WorkloadEntry,
};

use super::Translator;
use crate::changes::Change;
use crate::names;
use crate::networks::of_endpoints;
use crate::policy::{Attachment, attachment};
use crate::problem::{Part, Problem};
use crate::store::{Selecting, Space, is_ours};
use crate::text;
use crate::waypoint::gateway_of;
use crate::wire_value::parse_ip;
use crate::workload::{endpoint_ips, entry_ip, labels_of};

impl Translator {
    /// Notes a change. Cheap: what it means is found out by [`Translator::settle`].
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Delete(key) => {
                self.replace(&key, None);
                let spaces = &mut self.world.store.spaces;
                if spaces.get(&key.name.namespace).is_some_and(Space::is_empty) {
                    spaces.remove(&key.name.namespace);
                }
                self.out.problems.forget(&key);
                self.out.conditions.forget(&key);
                self.out.assignments.forget(&key);
            }
            Change::Set(object) => {
                let key = object.key();
                if text::is_key(&key) {
                    self.out.problems.set(&key, Part::Name, Vec::new());
                    self.replace(&key, Some(object));
                } else {
                    let problem = Problem::name("metadata", &key.name.to_string());
                    self.out.problems.set(&key, Part::Name, vec![problem]);
                }
            }
        }
    }

    fn replace(&mut self, key: &ObjectKey, object: Option<Object>) {
        macro_rules! of_kind {
            ($kind:ident) => {
                match object {
                    None => None,
                    Some(Object::$kind(object)) => Some(object),
                    // A key has the kind of its object.
                    Some(_) => return,
                }
            };
        }
        match key.kind {
            Kind::Namespace => self.namespace(&key.name.name, of_kind!(Namespace).as_ref()),
            Kind::Node => self.node(&key.name.name, of_kind!(Node).as_ref()),
            Kind::GatewayClass => self.class(&key.name.name, of_kind!(GatewayClass).as_ref()),
            Kind::Gateway => self.gateway(key, of_kind!(Gateway).as_ref()),
            Kind::Service => self.service(key, of_kind!(Service).as_ref()),
            Kind::ServiceEntry => self.entry(key, of_kind!(ServiceEntry).as_ref()),
            Kind::EndpointSlice => self.slice(key, of_kind!(EndpointSlice).as_ref()),
            Kind::WorkloadEntry => self.workload_entry(key, of_kind!(WorkloadEntry).as_ref()),
            Kind::Pod => self.pod(key, of_kind!(Pod).as_ref()),
            Kind::PeerAuthentication | Kind::AuthorizationPolicy | Kind::RequestAuthentication => {
                self.policy(key, object);
            }
        }
    }

    fn namespace(&mut self, name: &Text, new: Option<&Arc<Namespace>>) {
        let was_seen = self.world.is_seen(name);
        let space = self.world.store.space_mut(name);
        let old = std::mem::replace(&mut space.namespace, new.cloned());
        let (old, new) = (old.as_ref().map(|n| &n.metadata), new.map(|n| &n.metadata));
        self.world.waypoints.set_namespace(name, old, new);
        let read = |meta: Option<&Meta>| meta.map(|m| (m.labels.clone(), m.annotations.clone()));
        if read(old).unwrap_or_default() == read(new).unwrap_or_default() {
            return;
        }
        self.mark_space(name);
        if self.world.is_seen(name) != was_seen {
            self.mark_gateways(name);
            self.mark_address_sharers(name);
            self.feed_policies(name);
        }
        if *name == self.world.settings.root_namespace {
            let label = new.and_then(|meta| meta.label(names::NETWORK));
            let network = label.filter(|label| text::is_name(label)).map(Text::from);
            let network = network.unwrap_or_else(|| self.world.settings.network.clone());
            if network != self.world.network {
                self.world.network = network;
                self.mark_everything();
            }
        }
    }

    fn node(&mut self, name: &Text, new: Option<&Arc<Node>>) {
        let place = |node: Option<&Arc<Node>>| {
            let meta = node.map(|node| &node.metadata)?;
            let label = |key| meta.label(key).map(Text::from);
            Some([names::REGION, names::ZONE, names::SUBZONE].map(label))
        };
        let store = &mut self.world.store;
        let (was, is) = (place(store.nodes.get(name)), place(new));
        match new {
            None => store.nodes.remove(name),
            Some(node) => store.nodes.insert(name.clone(), node.clone()),
        };
        if was != is {
            let pods = store.pods_by_node.get(name).into_iter().flatten();
            self.dirty.pods.extend(pods.cloned());
        }
    }

    fn class(&mut self, name: &Text, new: Option<&Arc<GatewayClass>>) {
        match new {
            None => self.world.store.classes.remove(name),
            Some(class) => self.world.store.classes.insert(name.clone(), class.clone()),
        };
        self.mark_class_policies(name);
        for space in self.world.store.spaces.values() {
            let of_class = |gateway: &&Arc<Gateway>| gateway.spec.gateway_class_name == *name;
            let gateways = space.gateways.values().filter(of_class);
            self.dirty.gateways.extend(gateways.map(|gateway| gateway.metadata.object_name()));
        }
    }

    fn gateway(&mut self, key: &ObjectKey, new: Option<&Arc<Gateway>>) {
        let ObjectName { namespace, name } = &key.name;
        let old = put(&mut self.world.store.space_mut(namespace).gateways, name, new);
        for gateway in old.iter().chain(new) {
            self.mark_class_policies(&gateway.spec.gateway_class_name);
        }
        self.dirty.add(key);
    }

    fn service(&mut self, key: &ObjectKey, new: Option<&Arc<Service>>) {
        let ObjectName { namespace, name } = &key.name;
        let space = self.world.store.space_mut(namespace);
        let old = put(&mut space.services, name, new);
        let selector = |service: &Service| {
            Some(service.spec.selector.0.clone()).filter(|selector| !selector.is_empty())
        };
        let old_selector = old.as_deref().and_then(selector);
        let new_selector = new.and_then(|new| selector(new));
        let what = Selecting::Service(name.clone());
        reselect(space, &what, old_selector.as_ref(), new_selector.as_ref());
        let slices = space.slices_by_service.get(name).into_iter().flatten();
        let slice = |name: &Text| ObjectName { namespace: namespace.clone(), name: name.clone() };
        self.dirty.slices.extend(slices.map(slice));
        for selector in old_selector.iter().chain(&new_selector) {
            self.dirty.add_selected(namespace, selector);
        }
        let (old, new) = (old.as_ref().map(|s| &s.metadata), new.map(|s| &s.metadata));
        self.notice(key, old, new);
        self.world.waypoints.set_object(key, old, new);
        self.dirty.add(key);
    }

    fn entry(&mut self, key: &ObjectKey, new: Option<&Arc<ServiceEntry>>) {
        let ObjectName { namespace, name } = &key.name;
        let space = self.world.store.space_mut(namespace);
        let old = put(&mut space.entries, name, new);
        let selector = |entry: &ServiceEntry| {
            entry.spec.workload_selector.as_ref().map(|selector| selector.labels.clone())
        };
        let old_ips = old.as_deref().map(endpoint_ips).unwrap_or_default();
        let new_ips = new.map(|new| endpoint_ips(new)).unwrap_or_default();
        let old_selector = old.as_deref().and_then(selector);
        let new_selector = new.and_then(|new| selector(new));
        let what = Selecting::Entry(name.clone());
        reselect(space, &what, old_selector.as_ref(), new_selector.as_ref());
        for selector in old_selector.iter().chain(&new_selector) {
            self.dirty.add_selected(namespace, selector);
        }
        self.claim(key, &old_ips, &new_ips);
        let networks = |entry: Option<&ServiceEntry>| entry.map(of_endpoints).unwrap_or_default();
        let (old_networks, new_networks) = (networks(old.as_deref()), networks(new.map(|e| &**e)));
        self.world.networks.set_user(key, &old_networks, &new_networks);
        let (old, new) = (old.as_ref().map(|e| &e.metadata), new.map(|e| &e.metadata));
        self.notice(key, old, new);
        self.world.waypoints.set_object(key, old, new);
        self.dirty.add(key);
    }

    fn slice(&mut self, key: &ObjectKey, new: Option<&Arc<EndpointSlice>>) {
        let ObjectName { namespace, name } = &key.name;
        let service =
            |slice: &EndpointSlice| slice.metadata.label(names::SLICE_SERVICE).map(Text::from);
        let space = self.world.store.space_mut(namespace);
        let old = put(&mut space.slices, name, new);
        if let Some(service) = old.as_deref().and_then(service)
            && let Some(slices) = space.slices_by_service.get_mut(&service)
        {
            slices.remove(name);
            if slices.is_empty() {
                space.slices_by_service.remove(&service);
            }
        }
        if let Some(service) = new.and_then(|new| service(new)) {
            space.slices_by_service.entry(service).or_default().insert(name.clone());
        }
        self.dirty.add(key);
    }

    fn workload_entry(&mut self, key: &ObjectKey, new: Option<&Arc<WorkloadEntry>>) {
        let ObjectName { namespace, name } = &key.name;
        let space = self.world.store.space_mut(namespace);
        let old = put(&mut space.workload_entries, name, new);
        let labels = |entry: &Arc<WorkloadEntry>| labels_of(entry);
        let (old_labels, new_labels) = (old.as_ref().map(labels), new.map(labels));
        space.workload_entries_by_label.set(name, old_labels.as_ref(), new_labels.as_ref());
        let (old_ip, new_ip) =
            (old.as_deref().and_then(entry_ip), new.and_then(|new| entry_ip(new)));
        self.claim(key, old_ip.as_slice(), new_ip.as_slice());
        let network = |entry: &Arc<WorkloadEntry>| entry.spec.network.clone();
        let (old_network, new_network) = (old.as_ref().map(network), new.map(network));
        let own = |network: Option<Text>| {
            network.into_iter().filter(|network| !network.is_empty()).collect()
        };
        self.world.networks.set_user(key, &own(old_network), &own(new_network));
        let (old, new) = (old.as_ref().map(|e| &e.metadata), new.map(|e| &e.metadata));
        self.notice(key, old, new);
        self.world.waypoints.set_object(key, old, new);
        self.dirty.add(key);
    }

    fn pod(&mut self, key: &ObjectKey, new: Option<&Arc<Pod>>) {
        let ObjectName { namespace, name } = &key.name;
        let space = self.world.store.space_mut(namespace);
        let old = put(&mut space.pods, name, new);
        let old_labels = old.as_ref().map(|pod| &pod.metadata.labels);
        space.pods_by_label.set(name, old_labels, new.map(|pod| &pod.metadata.labels));
        let ips = |pod: &Pod| {
            let has_own = !pod.spec.host_network && !pod.has_ended();
            pod.ips().filter(|_| has_own).filter_map(parse_ip).collect::<Vec<_>>()
        };
        let old_ips = old.as_deref().map(ips).unwrap_or_default();
        let new_ips = new.map(|new| ips(new)).unwrap_or_default();
        // Who is newer may be another one, though the address is the same.
        self.claim(key, &old_ips, &new_ips);
        let node =
            |pod: &Arc<Pod>| Some(pod.spec.node_name.clone()).filter(|node| !node.is_empty());
        let (old_node, new_node) = (old.as_ref().and_then(node), new.and_then(node));
        if old_node != new_node {
            let by_node = &mut self.world.store.pods_by_node;
            if let Some(node) = old_node
                && let Some(pods) = by_node.get_mut(&node)
            {
                pods.remove(&key.name);
                if pods.is_empty() {
                    by_node.remove(&node);
                }
            }
            if let Some(node) = new_node {
                by_node.entry(node).or_default().insert(key.name.clone());
            }
        }
        let (old, new) = (old.as_ref().map(|p| &p.metadata), new.map(|p| &p.metadata));
        self.pod_of_gateway(old, new);
        self.notice(key, old, new);
        self.world.waypoints.set_object(key, old, new);
        self.dirty.add(key);
    }

    fn pod_of_gateway(&mut self, old: Option<&Meta>, new: Option<&Meta>) {
        let by_gateway = &mut self.world.store.pods_by_gateway;
        if let Some(meta) = old
            && let Some(gateway) = gateway_of(meta)
        {
            if let Some(pods) = by_gateway.get_mut(&gateway) {
                pods.remove(&meta.name);
                if pods.is_empty() {
                    by_gateway.remove(&gateway);
                }
            }
            self.dirty.accounts.insert(gateway);
        }
        if let Some(meta) = new
            && let Some(gateway) = gateway_of(meta)
        {
            by_gateway.entry(gateway.clone()).or_default().insert(meta.name.clone());
            self.dirty.accounts.insert(gateway);
        }
    }

    fn policy(&mut self, key: &ObjectKey, new: Option<Object>) {
        let namespace = &key.name.namespace;
        let space = self.world.store.space_mut(namespace);
        match new {
            None => {
                space.policies.remove(key);
                self.policies.delete(key);
                self.attach(key, None);
            }
            Some(object) => {
                let old = space.policies.insert(key.clone(), object.clone());
                self.notice(key, old.as_ref().map(Object::meta), Some(object.meta()));
                self.feed_policy(key, &object);
            }
        }
    }

    /// Gives a policy to whoever it is for, or takes it away.
    fn feed_policy(&mut self, key: &ObjectKey, object: &Object) {
        let world = &self.world;
        if is_ours(&world.settings, object.meta()) && world.is_seen(&key.name.namespace) {
            self.policies.set(object);
            self.attach(key, attachment(object));
        } else {
            self.policies.delete(key);
            self.attach(key, None);
        }
    }

    fn attach(&mut self, key: &ObjectKey, attachment: Option<Attachment>) {
        let is_attached = attachment.is_some();
        if self.attachments.set(key, attachment) {
            if is_attached {
                self.dirty.attached.insert(key.clone());
            } else {
                // The index of policies says what its status says now.
                self.dirty.attached.remove(key);
                self.out.conditions.forget(key);
            }
        }
    }

    fn mark_class_policies(&mut self, class: &Text) {
        let name = ObjectName { namespace: Text::default(), name: class.clone() };
        self.mark_attached(&ObjectKey { kind: Kind::GatewayClass, name });
    }

    /// Policies that name an object.
    pub(super) fn mark_attached(&mut self, target: &ObjectKey) {
        self.dirty.attached.extend(self.attachments.of(target).cloned());
    }

    /// Gives a namespace's policies to the index, or takes them away.
    fn feed_policies(&mut self, namespace: &Text) {
        let Some(space) = self.world.store.space(namespace) else { return };
        let policies: Vec<_> =
            space.policies.iter().map(|(key, object)| (key.clone(), object.clone())).collect();
        for (key, object) in &policies {
            self.feed_policy(key, object);
        }
    }

    /// Replaces the addresses of a pod or an entry. Others with one of them are looked at again, as
    /// far as it matters to them.
    fn claim(&mut self, key: &ObjectKey, old: &[std::net::IpAddr], new: &[std::net::IpAddr]) {
        if key.kind == Kind::Pod {
            let left = old.iter().filter(|ip| !new.contains(ip));
            for ip in left.chain(new.iter().filter(|ip| !old.contains(ip))) {
                let services = self.overlaps.at(*ip).filter_map(|name| name.split_once('/'));
                let hosts = services.map(|(namespace, host)| (namespace.into(), host.into()));
                self.dirty.hosts.extend(hosts);
            }
        }
        let by_address = &mut self.world.store.by_address;
        for ip in old {
            let Some(claimants) = by_address.get_mut(ip) else { continue };
            claimants.retain(|other| other != key);
            for other in claimants.iter().filter(|other| matters(key.kind, other.kind)) {
                self.dirty.add(other);
            }
            if claimants.is_empty() {
                by_address.remove(ip);
            }
        }
        for ip in new {
            let claimants = by_address.entry(*ip).or_default();
            if !claimants.contains(key) {
                for other in claimants.iter().filter(|other| matters(key.kind, other.kind)) {
                    self.dirty.add(other);
                }
                claimants.push(key.clone());
                claimants.sort_unstable();
            }
        }
    }

    /// An object that takes the place of another of its name has a status of its own.
    fn notice(&mut self, key: &ObjectKey, old: Option<&Meta>, new: Option<&Meta>) {
        if let (Some(old), Some(new)) = (old, new)
            && old.uid != new.uid
        {
            self.out.conditions.forget(key);
            self.out.assignments.forget(key);
        }
    }

    /// Everything of a namespace that becomes workloads or services.
    pub(super) fn mark_space(&mut self, namespace: &Text) {
        let Some(space) = self.world.store.space(namespace) else { return };
        let mut mark = |kind, names: Vec<&Text>| {
            for name in names {
                let name = ObjectName { namespace: namespace.clone(), name: name.clone() };
                self.dirty.add(&ObjectKey { kind, name });
            }
        };
        mark(Kind::Service, space.services.keys().collect());
        mark(Kind::ServiceEntry, space.entries.keys().collect());
        mark(Kind::EndpointSlice, space.slices.keys().collect());
        mark(Kind::WorkloadEntry, space.workload_entries.keys().collect());
        mark(Kind::Pod, space.pods.keys().collect());
    }

    fn mark_gateways(&mut self, namespace: &Text) {
        let Some(space) = self.world.store.space(namespace) else { return };
        let gateways = space.gateways.values().map(|gateway| gateway.metadata.object_name());
        self.dirty.gateways.extend(gateways);
    }

    /// Those of other namespaces that share an address with one of this.
    fn mark_address_sharers(&mut self, namespace: &Text) {
        let shared = self.world.store.by_address.values().filter(|claimants| {
            claimants.len() > 1 && claimants.iter().any(|key| key.name.namespace == *namespace)
        });
        for key in shared.flatten() {
            self.dirty.add(key);
        }
    }

    fn mark_everything(&mut self) {
        let namespaces: Vec<Text> = self.world.store.spaces.keys().cloned().collect();
        for namespace in namespaces {
            self.mark_gateways(&namespace);
            self.mark_space(&namespace);
        }
    }
}

/// Whether it matters to an object of the second kind that one of the first has its address: a pod's
/// matters to all, a workload entry's to others of its kind.
fn matters(kind: Kind, to: Kind) -> bool {
    kind == Kind::Pod || (kind == Kind::WorkloadEntry && to == Kind::WorkloadEntry)
}

fn put<T>(
    map: &mut std::collections::HashMap<Text, Arc<T>>,
    name: &Text,
    new: Option<&Arc<T>>,
) -> Option<Arc<T>> {
    match new {
        None => map.remove(name),
        Some(object) => map.insert(name.clone(), object.clone()),
    }
}

fn reselect(space: &mut Space, what: &Selecting, old: Option<&Labels>, new: Option<&Labels>) {
    if old == new {
        return;
    }
    if let Some(selector) = old {
        space.selectors.remove(selector, what);
    }
    if let Some(selector) = new {
        space.selectors.insert(selector, what.clone());
    }
}
