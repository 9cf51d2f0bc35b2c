//! Looking at what changed, stage by stage. A stage may add to later ones, never to earlier ones.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::mem::take;
use std::sync::Arc;

use cluster::{Kind, Labels, ObjectKey, ObjectName, Pod, Text, WorkloadEntry};
use ipnet::IpNet;
use prost::Message;
use proto::workload as wire;

use super::Translator;
use crate::changes::{Address, Authorization};
use crate::condition::Condition;
use crate::hosts::{Claim, Moved, Source};
use crate::networks;
use crate::policy::Rebind;
use crate::problem::{Part, Problem};
use crate::selectors::{LabelIndex, SelectorIndex};
use crate::service::{self, Translated};
use crate::settings::EntryVisibility;
use crate::waypoint::{self, Traffic, allow_policy, allow_policy_name, bind, condition};
use crate::wire_value::{alias, network_address, service_name};
use crate::workload::{
    deny_policy, deny_policy_name, endpoints, endpoints_of_slice, labels_of, pod,
    pod_labels_policies, pod_uid, pods_of, workload_entry, workload_entry_uid,
};

/// Policies and the conditions of their objects, as far as they changed.
type PolicyChanges = (Vec<(Text, Option<Authorization>)>, Vec<(ObjectKey, Vec<Condition>)>);

impl Translator {
    pub(super) fn run(&mut self) -> PolicyChanges {
        for name in take(&mut self.dirty.gateways) {
            self.look_at_gateway(&name);
        }
        for network in take(&mut self.dirty.networks) {
            self.look_at_network(&network);
        }
        self.look_at_services();
        for key in take(&mut self.dirty.attached) {
            let condition = self.attachments.condition(&self.world, &key);
            self.out.conditions.set(&key, condition.into_iter().collect());
        }
        for name in take(&mut self.dirty.slices) {
            self.look_at_slice(&name);
        }
        for (namespace, selectors) in take(&mut self.dirty.selectors) {
            self.mark_selected(&namespace, &selectors);
        }
        let changes = self.look_at_policies();
        for name in take(&mut self.dirty.endpoints) {
            self.look_at_endpoints(name);
        }
        for name in take(&mut self.dirty.workload_entries) {
            self.look_at_workload_entry(name);
        }
        for name in take(&mut self.dirty.pods) {
            self.look_at_pod(name);
        }
        let (mut policies, conditions) = changes;
        // Only now it is known whether a workload has it.
        let denies = self.out.published.has_denied().then(|| deny_policy(&self.world));
        self.policies.make(&deny_policy_name(&self.world), denies);
        policies.extend(self.policies.take_made());
        policies.sort_by(|(a, _), (b, _)| a.cmp(b));
        (policies, conditions)
    }

    fn look_at_gateway(&mut self, name: &ObjectName) {
        let world = &self.world;
        let mut problems = Vec::new();
        let stored = world.store.gateway(name);
        // Also of one that does not count: it may have counted before.
        let class = stored.map(|gateway| gateway.spec.gateway_class_name.clone());
        let gateway = stored.filter(|gateway| world.counts(&gateway.metadata));
        let of_gateway = gateway.map(|gateway| {
            let class = world.store.classes.get(&gateway.spec.gateway_class_name);
            let class = class.map(|class| &**class);
            let state = waypoint::read(&world.network, gateway, class, &mut problems);
            (state, networks::read(&world.network, gateway, class, &mut problems))
        });
        let (state, network_gateway) = of_gateway.unzip();
        let key = ObjectKey { kind: Kind::Gateway, name: name.clone() };
        self.out.problems.set(&key, Part::Object, problems);
        self.set_network_gateway(&key, network_gateway.flatten());
        if !self.world.waypoints.set(name, state) {
            return;
        }
        self.mark_attached(&key);
        if let Some(name) = class {
            let name = ObjectName { namespace: Text::default(), name };
            self.mark_attached(&ObjectKey { kind: Kind::GatewayClass, name });
        }
        self.dirty.accounts.insert(name.clone());
        for namespace in self.world.waypoints.namespaces_of(name) {
            self.mark_space(&namespace);
        }
        for key in self.world.waypoints.objects_of(name) {
            self.dirty.add(&key);
            if self.world.settings.allow_waypoints {
                self.mark_endpoints_of(&key);
            }
        }
    }

    fn look_at_services(&mut self) {
        let mut moved = Moved::default();
        let mut looked_at = take(&mut self.dirty.services);
        for key in &looked_at {
            self.look_at_claims(key, &mut moved);
        }
        for key in &moved.objects {
            self.mark_endpoints_of(key);
        }
        looked_at.append(&mut moved.objects);
        for (namespace, host) in &moved.hosts {
            self.look_at_vip(namespace, host);
        }
        let mut hosts = moved.hosts;
        hosts.append(&mut self.dirty.hosts);
        for name in self.world.vips.take_changes() {
            if let Some((namespace, host)) = name.split_once('/') {
                hosts.insert((namespace.into(), host.into()));
            }
        }
        for (namespace, host) in &hosts {
            let owner = self.world.hosts.owner(namespace, host);
            looked_at.extend(owner.map(|claim| claim.object(namespace)));
            self.publish_service(namespace, host);
        }
        for key in &looked_at {
            self.look_at_hosts(key);
        }
    }

    /// Which hosts an object says are its own, and what its status says.
    fn look_at_claims(&mut self, key: &ObjectKey, moved: &mut Moved) {
        let world = &self.world;
        let (mut problems, mut hosts, mut conditions) = (Vec::new(), Vec::new(), Vec::new());
        let name = key.name.name.clone();
        let (source, created, is_public) = if key.kind == Kind::Service {
            let service = world.store.service(&key.name);
            let service = service.filter(|service| service::has_host(service));
            if let Some(service) = service.filter(|_| world.is_seen(&key.name.namespace)) {
                hosts.push(world.service_host(&key.name.namespace, &name));
                conditions = service::service_conditions(world, service);
            }
            let created = service.map(|service| service.metadata.creation_timestamp.clone());
            (Source::Service, created, true)
        } else {
            let entry = world.store.entry(&key.name);
            let entry = entry.filter(|entry| world.counts(&entry.metadata));
            let mut is_public = true;
            if let Some(entry) = entry {
                let visibility = world.visibility(entry);
                is_public = visibility == EntryVisibility::Public;
                if visibility != EntryVisibility::None {
                    hosts = service::hosts(entry, &mut problems);
                }
                conditions = service::conditions(world, entry);
            }
            let created = entry.map(|entry| entry.metadata.creation_timestamp.clone());
            (Source::Entry, created, is_public)
        };
        let claim = Claim { source, created: created.unwrap_or_default(), name, is_public };
        self.world.hosts.set(key, claim, hosts, moved);
        self.out.problems.set(key, Part::Object, problems);
        self.out.conditions.set(key, conditions);
        self.mark_attached(key);
    }

    /// Which of its hosts an object has, and the addresses it was given for them.
    fn look_at_hosts(&mut self, key: &ObjectKey) {
        let world = &self.world;
        let namespace = &key.name.namespace;
        let claimed = world.hosts.claimed(key).iter();
        let lost = claimed.filter(|host| !world.hosts.owns(key, host)).filter_map(|host| {
            let to = world.hosts.owner(namespace, host)?.object(namespace);
            Some(Problem::HostTaken { host: host.clone(), to })
        });
        let lost: Vec<Problem> = lost.collect();
        if let Some(entry) = world.store.entry(&key.name).filter(|_| key.kind == Kind::ServiceEntry)
        {
            let hosts: Vec<&Text> = world.hosts.owned(key).collect();
            let assignments = service::assignments(world, entry, &hosts);
            self.out.assignments.set(key, assignments);
        }
        self.out.problems.set(key, Part::Taken, lost);
    }

    /// Whether a host has to be given an address, or has one that nobody else may get.
    fn look_at_vip(&mut self, namespace: &Text, host: &Text) {
        let world = &mut self.world;
        let name: Text = service_name(namespace, host).into();
        let owner = world.hosts.owner(namespace, host);
        let entry = owner.filter(|claim| claim.source == Source::Entry).and_then(|claim| {
            let name = ObjectName { namespace: namespace.clone(), name: claim.name.clone() };
            world.store.entry(&name).cloned()
        });
        let pins = entry.as_ref().map(|entry| service::pins(entry, host)).unwrap_or_default();
        world.vips.pin(&name, &pins);
        if entry.is_some_and(|entry| service::wants_address(&entry, host)) {
            world.vips.give(&name);
        } else {
            world.vips.take(&name);
        }
    }

    fn publish_service(&mut self, namespace: &Text, host: &Text) {
        let world = &self.world;
        let name: Text = service_name(namespace, host).into();
        let is_canonical = world.hosts.canonical(host) == Some(namespace);
        let owner = world.hosts.owner(namespace, host).map(|claim| claim.object(namespace));
        let translated = owner.as_ref().and_then(|key| {
            if key.kind == Kind::Service {
                let object = world.store.service(&key.name)?;
                Some(service::service(world, object, host, is_canonical))
            } else {
                let object = world.store.entry(&key.name)?;
                Some(service::entry(world, object, host, is_canonical))
            }
        });
        let before = self.overlaps.object(&name).cloned();
        if let Some(before) = before.filter(|before| owner.as_ref() != Some(before)) {
            self.out.problems.set(&before, Part::Host(host.clone()), Vec::new());
            self.out.problems.set(&before, Part::Vip(host.clone()), Vec::new());
        }
        let (Some(key), Some(translated)) = (owner, translated) else {
            self.out.published.remove(&name);
            let others = self.overlaps.set(&name, None);
            self.look_at_overlaps(others);
            return;
        };
        let Translated { mut message, nets, mut problems } = translated;
        let of_pods = if key.kind == Kind::ServiceEntry { self.of_pods(&nets) } else { Vec::new() };
        for (net, problem) in of_pods {
            let address = network_address(&self.world.network, net);
            message.addresses.retain(|other| *other != address);
            problems.push(problem);
        }
        self.out.problems.set(&key, Part::Host(host.clone()), problems);
        let is_sent = |net: &&IpNet| {
            let address = network_address(&self.world.network, **net);
            address.length.is_none() && message.addresses.contains(&address)
        };
        let one = nets.iter().filter(is_sent);
        let aliases = one.map(|net| alias(&world.network, net.addr())).collect();
        let r#type = Some(wire::address::Type::Service(message));
        let bytes = wire::Address { r#type }.encode_to_vec().into();
        let (node, services, policies) = (Text::default(), Vec::new(), Vec::new());
        let address = Address { name: name.clone(), aliases, bytes, node, services, policies };
        self.out.published.set(address);
        let mut changed = self.overlaps.set(&name, Some((key, nets)));
        changed.push(name);
        self.look_at_overlaps(changed);
    }

    /// Addresses that a pod has: they are the pod's. A service with one would take the pod's connections
    /// from any namespace.
    fn of_pods(&self, nets: &[IpNet]) -> Vec<(IpNet, Problem)> {
        let by_address = &self.world.store.by_address;
        let of_pod = nets.iter().filter(|net| net.prefix_len() == net.max_prefix_len());
        let of_pod = of_pod.filter_map(|net| {
            let claimants = by_address.get(&net.addr())?;
            let pod = claimants.iter().find(|key| key.kind == Kind::Pod)?.clone();
            Some((*net, Problem::AddressOfPod { address: net.addr(), pod }))
        });
        of_pod.collect()
    }

    fn look_at_overlaps(&mut self, services: Vec<Text>) {
        for name in services {
            let Some(key) = self.overlaps.object(&name) else { continue };
            let Some((_, host)) = name.split_once('/') else { continue };
            let problems = self.overlaps.problems(&name);
            self.out.problems.set(key, Part::Vip(host.into()), problems);
        }
    }

    /// Workloads that an object of hosts makes its endpoints.
    fn mark_endpoints_of(&mut self, key: &ObjectKey) {
        let ObjectName { namespace, name } = &key.name;
        let Some(space) = self.world.store.space(namespace) else { return };
        if key.kind == Kind::Service {
            let slices = space.slices_by_service.get(name).into_iter().flatten();
            let slice =
                |name: &Text| ObjectName { namespace: namespace.clone(), name: name.clone() };
            self.dirty.slices.extend(slices.map(slice));
            let selector = space.services.get(name).map(|service| &service.spec.selector.0);
            if let Some(selector) = selector.filter(|selector| !selector.is_empty()) {
                self.dirty.add_selected(namespace, selector);
            }
        } else {
            self.dirty.endpoints.insert(key.name.clone());
            let entry = space.entries.get(name);
            if let Some(selector) = entry.and_then(|entry| entry.spec.workload_selector.as_ref()) {
                self.dirty.add_selected(namespace, &selector.labels);
            }
        }
    }

    fn look_at_slice(&mut self, name: &ObjectName) {
        let namespace = &name.namespace;
        if let Some(space) = self.world.store.spaces.get_mut(namespace) {
            let slice = space.slices.get(&name.name);
            let pods = slice.map(|slice| pods_of(space, slice)).unwrap_or_default();
            let before = space.name_pods(&name.name, &pods);
            let of = |pod: &Text| ObjectName { namespace: namespace.clone(), name: pod.clone() };
            self.dirty.pods.extend(before.union(&pods).map(of));
        }
        let mut problems = Vec::new();
        let slice = self.world.store.slice(name);
        let slice = slice.map(|slice| endpoints_of_slice(&self.world, slice, &mut problems));
        let key = ObjectKey { kind: Kind::EndpointSlice, name: name.clone() };
        self.publish(&key, slice.unwrap_or_default());
        self.out.problems.set(&key, Part::Endpoints, problems);
    }

    /// Pods and workload entries that one of the selectors selects.
    fn mark_selected(&mut self, namespace: &Text, selectors: &[Labels]) {
        let Some(space) = self.world.store.space(namespace) else { return };
        let of = |name: &Text| ObjectName { namespace: namespace.clone(), name: name.clone() };
        let pods = selected(&space.pods, &space.pods_by_label, pod_labels, selectors);
        self.dirty.pods.extend(pods.into_iter().map(of));
        let (entries, by_label) = (&space.workload_entries, &space.workload_entries_by_label);
        let entries = selected(entries, by_label, entry_labels, selectors);
        self.dirty.workload_entries.extend(entries.into_iter().map(of));
    }

    fn look_at_policies(&mut self) -> PolicyChanges {
        for gateway in take(&mut self.dirty.accounts) {
            if self.world.settings.allow_waypoints {
                let policy = allow_policy(&self.world, &gateway);
                self.policies.make(&allow_policy_name(&gateway), policy);
            }
        }
        let update = self.policies.take_changes();
        let namespaces: BTreeSet<Text> = match update.rebind {
            Rebind::Namespaces(namespaces) => namespaces,
            Rebind::Everything => self.world.store.spaces.keys().cloned().collect(),
        };
        for namespace in &namespaces {
            self.mark_bound(namespace);
        }
        (update.policies, update.conditions)
    }

    /// Workloads of a namespace whose policies are others now. A pod is not translated for that
    /// question, since there may be a hundred thousand.
    fn mark_bound(&mut self, namespace: &Text) {
        let world = &self.world;
        let Some(space) = world.store.space(namespace) else { return };
        let of = |name: &Text| ObjectName { namespace: namespace.clone(), name: name.clone() };
        let makes_policies = world.settings.allow_waypoints;
        for (name, pod) in &space.pods {
            let name = of(name);
            let is_as_before = !makes_policies && {
                let policies = pod_labels_policies(&self.policies, pod);
                self.out.published.refers_to(&pod_uid(world, &name), &policies)
            };
            if !is_as_before {
                self.dirty.pods.insert(name);
            }
        }
        self.dirty.workload_entries.extend(space.workload_entries.keys().map(of));
        self.dirty.endpoints.extend(space.entries.keys().map(of));
    }

    fn look_at_endpoints(&mut self, name: ObjectName) {
        let mut problems = Vec::new();
        let entry = self.world.store.entry(&name);
        let addresses =
            entry.map(|entry| endpoints(&self.world, &self.policies, entry, &mut problems));
        let key = ObjectKey { kind: Kind::ServiceEntry, name };
        self.publish(&key, addresses.unwrap_or_default());
        self.out.problems.set(&key, Part::Endpoints, problems);
    }

    fn look_at_workload_entry(&mut self, name: ObjectName) {
        let world = &self.world;
        let mut problems = Vec::new();
        let entry = world.store.workload_entry(&name);
        let address =
            entry.and_then(|entry| workload_entry(world, &self.policies, entry, &mut problems));
        let counted = entry.filter(|entry| world.counts(&entry.metadata));
        let binding = counted.map(|entry| bind(world, &entry.metadata, Traffic::Workload));
        let conditions = binding.and_then(|binding| condition(&binding, false));
        self.publish_one(workload_entry_uid(world, &name).as_str(), address);
        let key = ObjectKey { kind: Kind::WorkloadEntry, name };
        self.out.conditions.set(&key, conditions.into_iter().collect());
        self.out.problems.set(&key, Part::Object, problems);
    }

    fn look_at_pod(&mut self, name: ObjectName) {
        let world = &self.world;
        let mut problems = Vec::new();
        let object = world.store.pod(&name);
        let address = object.and_then(|object| pod(world, &self.policies, object, &mut problems));
        self.publish_one(pod_uid(world, &name).as_str(), address);
        let key = ObjectKey { kind: Kind::Pod, name };
        self.out.problems.set(&key, Part::Object, problems);
    }

    fn publish_one(&mut self, name: &str, address: Option<Address>) {
        match address {
            Some(address) => self.out.published.set(address),
            None => self.out.published.remove(name),
        }
    }

    /// Replaces the resources of an object.
    fn publish(&mut self, key: &ObjectKey, addresses: Vec<Address>) {
        let names: Vec<Text> = addresses.iter().map(|address| address.name.clone()).collect();
        let before = if names.is_empty() {
            self.out.resources.remove(key)
        } else {
            self.out.resources.insert(key.clone(), names)
        };
        self.republish(before, addresses);
    }

    /// Replaces resources.
    pub(super) fn republish(&mut self, before: Option<Vec<Text>>, addresses: Vec<Address>) {
        let is_there = |name: &Text| addresses.iter().any(|address| address.name == *name);
        for name in before.into_iter().flatten().filter(|name| !is_there(name)) {
            self.out.published.remove(&name);
        }
        for address in addresses {
            self.out.published.set(address);
        }
    }
}

fn pod_labels(pod: &Arc<Pod>) -> Cow<'_, Labels> {
    Cow::Borrowed(&pod.metadata.labels)
}

fn entry_labels(entry: &Arc<WorkloadEntry>) -> Cow<'_, Labels> {
    Cow::Owned(labels_of(entry))
}

/// Names of the workloads that one of the selectors selects. Few selectors are looked up; when that
/// would cost more than one look at every workload, they all are looked at.
fn selected<'s, T>(
    all: &'s HashMap<Text, T>,
    by_label: &'s LabelIndex,
    labels: fn(&T) -> Cow<'_, Labels>,
    selectors: &[Labels],
) -> Vec<&'s Text> {
    let mut index = SelectorIndex::default();
    let mut candidates = Some(Vec::new());
    for selector in selectors {
        index.insert(selector, ());
        let more = by_label.candidates(selector);
        candidates = candidates.zip(more).map(|(mut list, more)| {
            list.extend(more);
            list
        });
        candidates = candidates.filter(|list| list.len() <= all.len());
    }
    let is_selected = |workload: &T| index.matching(&labels(workload)).next().is_some();
    if let Some(names) = candidates {
        let is_selected = |name: &&Text| all.get(&***name).is_some_and(is_selected);
        names.into_iter().filter(is_selected).collect()
    } else {
        let selected = all.iter().filter(|(_, workload)| is_selected(workload));
        selected.map(|(name, _)| name).collect()
    }
}
