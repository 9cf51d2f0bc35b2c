//! Waypoints: which gateways are one, who is behind which, and why not.

mod allow;
mod binding;
mod gateway;

pub(crate) use allow::{allow_policy, allow_policy_name, gateway_of};
pub(crate) use binding::{Binding, Traffic, bind, condition, users_of};
pub(crate) use gateway::{GatewayState, HBONE, HOSTNAME, IP_ADDRESS, Waypoint, read};

use std::collections::{BTreeSet, HashMap};

use cluster::{Meta, ObjectKey, ObjectName, Text};

use crate::names;

/// Gateways, and who names them.
#[derive(Debug, Default)]
pub(crate) struct Waypoints {
    gateways: HashMap<ObjectName, GatewayState>,
    /// Namespaces whose label names a gateway, ready or not.
    namespaces: HashMap<ObjectName, BTreeSet<Text>>,
    /// Objects whose own label does.
    objects: HashMap<ObjectName, BTreeSet<ObjectKey>>,
}

impl Waypoints {
    /// What a gateway is; `None`: there is none of that name.
    pub(crate) fn gateway(&self, name: &ObjectName) -> Option<&GatewayState> {
        self.gateways.get(name)
    }

    /// A waypoint that takes traffic.
    pub(crate) fn ready(&self, name: &ObjectName) -> Option<&Waypoint> {
        Some(&self.gateway(name)?.waypoint).filter(|waypoint| waypoint.destination.is_some())
    }

    /// Whether a gateway is a waypoint, so that it takes policies: one that only has an address is not.
    pub(crate) fn enforces(&self, name: &ObjectName) -> bool {
        self.gateway(name).is_some_and(|gateway| gateway.is_waypoint)
    }

    /// Replaces what a gateway is. Whether it is something else now.
    pub(crate) fn set(&mut self, name: &ObjectName, state: Option<GatewayState>) -> bool {
        if self.gateways.get(name) == state.as_ref() {
            return false;
        }
        match state {
            None => self.gateways.remove(name),
            Some(state) => self.gateways.insert(name.clone(), state),
        };
        true
    }

    /// The gateway that an object was made for, if that is a waypoint: nothing may be put behind
    /// another waypoint that is one itself.
    pub(crate) fn is_waypoint(&self, meta: &Meta) -> bool {
        let managed = meta.label(names::GATEWAY_MANAGED);
        managed.is_some_and(|by| names::MANAGED_WAYPOINTS.contains(&by))
            || self.made_for(meta).is_some_and(|gateway| gateway.is_waypoint)
    }

    /// The gateway that an object was made for.
    pub(crate) fn made_for(&self, meta: &Meta) -> Option<&GatewayState> {
        let name = meta.label(names::GATEWAY_NAME)?;
        self.gateway(&ObjectName { namespace: meta.namespace.clone(), name: name.into() })
    }

    /// Replaces what a namespace's labels name.
    pub(crate) fn set_namespace(&mut self, name: &Text, old: Option<&Meta>, new: Option<&Meta>) {
        let users = |meta: Option<&Meta>| meta.map(|m| users_of(m, name)).unwrap_or_default();
        for gateway in users(old) {
            remove(&mut self.namespaces, &gateway, name);
        }
        for gateway in users(new) {
            self.namespaces.entry(gateway).or_default().insert(name.clone());
        }
    }

    /// Replaces what an object's labels name.
    pub(crate) fn set_object(&mut self, key: &ObjectKey, old: Option<&Meta>, new: Option<&Meta>) {
        let namespace = &key.name.namespace;
        let users = |meta: Option<&Meta>| meta.map(|m| users_of(m, namespace)).unwrap_or_default();
        for gateway in users(old) {
            remove(&mut self.objects, &gateway, key);
        }
        for gateway in users(new) {
            self.objects.entry(gateway).or_default().insert(key.clone());
        }
    }

    /// Namespaces whose label names a gateway.
    pub(crate) fn namespaces_of(&self, gateway: &ObjectName) -> Vec<Text> {
        self.namespaces.get(gateway).into_iter().flatten().cloned().collect()
    }

    /// Objects whose own label does.
    pub(crate) fn objects_of(&self, gateway: &ObjectName) -> Vec<ObjectKey> {
        self.objects.get(gateway).into_iter().flatten().cloned().collect()
    }
}

fn remove<T: Ord>(map: &mut HashMap<ObjectName, BTreeSet<T>>, gateway: &ObjectName, user: &T) {
    if let Some(users) = map.get_mut(gateway) {
        users.remove(user);
        if users.is_empty() {
            map.remove(gateway);
        }
    }
}
