//! Policies that a waypoint enforces: those with `targetRefs`. Whether each target is there, and
//! which waypoint stands before it.

use std::collections::{BTreeMap, BTreeSet};

use cluster::authorization_policy::PolicyTarget;
use cluster::{Kind, ObjectKey, ObjectName, Text};

use crate::condition::Condition;
use crate::policy::Attachment;
use crate::service;
use crate::settings::EntryVisibility;
use crate::waypoint::{Binding, bind};
use crate::world::World;

/// The condition that says whether waypoints enforce a policy.
pub const CONDITION: &str = "WaypointAccepted";
/// Targets that a message names; it says how many more there are.
const NAMED_MAX: usize = 8;
/// Characters of a name that a message repeats; the rest is cut.
const TEXT_CHARS_MAX: usize = 120;

/// Groups of the kinds that can be targets.
const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
const ISTIO_GROUP: &str = "networking.istio.io";

/// Attached policies, and what they name.
#[derive(Debug, Default)]
pub(crate) struct Attachments {
    policies: BTreeMap<ObjectKey, Attachment>,
    by_target: BTreeMap<ObjectKey, BTreeSet<ObjectKey>>,
}

/// What became of one target.
#[derive(Debug)]
enum Found {
    /// It is behind these waypoints, which have to enforce the policy.
    Enforced(Vec<ObjectName>),
    /// None does: for this reason, and because of this.
    Not(&'static str, String),
}

/// Reasons of [`CONDITION`].
mod reason {
    pub(super) const ACCEPTED: &str = "Accepted";
    pub(super) const INVALID: &str = "Invalid";
    pub(super) const PARTIALLY_INVALID: &str = "PartiallyInvalid";
    pub(super) const NOT_BOUND: &str = "AncestorNotBound";
    pub(super) const NOT_FOUND: &str = "TargetNotFound";
}

impl Attachments {
    /// Replaces what a policy is attached to; `None`: to nothing. Whether it was or is attached.
    pub(crate) fn set(&mut self, policy: &ObjectKey, attachment: Option<Attachment>) -> bool {
        let before = self.policies.remove(policy);
        for target in targets(policy, before.as_ref()) {
            if let Some(policies) = self.by_target.get_mut(&target) {
                policies.remove(policy);
                if policies.is_empty() {
                    self.by_target.remove(&target);
                }
            }
        }
        let is_any = before.is_some() || attachment.is_some();
        for target in targets(policy, attachment.as_ref()) {
            self.by_target.entry(target).or_default().insert(policy.clone());
        }
        if let Some(attachment) = attachment {
            self.policies.insert(policy.clone(), attachment);
        }
        is_any
    }

    /// Policies that name an object.
    pub(crate) fn of(&self, target: &ObjectKey) -> impl Iterator<Item = &ObjectKey> {
        self.by_target.get(target).into_iter().flatten()
    }

    /// What a policy's status says; `None`: it is not attached to anything.
    pub(crate) fn condition(&self, world: &World, policy: &ObjectKey) -> Option<Condition> {
        let attachment = self.policies.get(policy)?;
        if let Some(why) = &attachment.doubt {
            return Some(condition(reason::INVALID, why.clone()));
        }
        let found = attachment.targets.iter().map(|target| look(world, policy, target));
        Some(verdict(&attachment.targets, &found.collect::<Vec<_>>()))
    }

    /// The waypoints that have to enforce a policy, sorted; none for one that is not attached.
    pub(crate) fn enforcers(&self, world: &World, policy: &ObjectKey) -> Vec<ObjectName> {
        let attachment = self.policies.get(policy).filter(|a| a.doubt.is_none());
        let targets = attachment.into_iter().flat_map(|attachment| &attachment.targets);
        let found = targets.flat_map(|target| match look(world, policy, target) {
            Found::Enforced(waypoints) => waypoints,
            Found::Not(..) => Vec::new(),
        });
        let found: BTreeSet<ObjectName> = found.collect();
        found.into_iter().collect()
    }
}

/// Objects that a policy names, as far as it may.
fn targets(policy: &ObjectKey, attachment: Option<&Attachment>) -> Vec<ObjectKey> {
    let targets = attachment.into_iter().flat_map(|attachment| &attachment.targets);
    targets.filter_map(|target| object(policy, target).ok()).collect()
}

/// The object that a target means, or why it means none.
fn object(policy: &ObjectKey, target: &PolicyTarget) -> Result<ObjectKey, String> {
    let kind = match (&*target.group, &*target.kind) {
        (GATEWAY_GROUP, "GatewayClass") => Kind::GatewayClass,
        (GATEWAY_GROUP, "Gateway") => Kind::Gateway,
        ("" | "core", "Service") => Kind::Service,
        (ISTIO_GROUP, "ServiceEntry") => Kind::ServiceEntry,
        (group, kind) => {
            let (group, kind) = (shortened(group), shortened(kind));
            return Err(format!("{kind:?} of {group:?} is no kind that a policy can target"));
        }
    };
    let namespace = &policy.name.namespace;
    if target.namespace.as_ref().is_some_and(|named| named != namespace && !named.is_empty()) {
        return Err(format!("it is in another namespace than the policy, {namespace}"));
    }
    let is_class = kind == Kind::GatewayClass;
    let namespace = if is_class { Text::default() } else { namespace.clone() };
    Ok(ObjectKey { kind, name: ObjectName { namespace, name: target.name.clone() } })
}

fn look(world: &World, policy: &ObjectKey, target: &PolicyTarget) -> Found {
    let object = match object(policy, target) {
        Ok(object) => object,
        Err(why) => return Found::Not(reason::INVALID, why),
    };
    match object.kind {
        Kind::GatewayClass => class(world, policy, &object.name.name),
        Kind::Gateway => gateway(world, &object.name),
        Kind::Service => service(world, &object.name),
        Kind::ServiceEntry => entry(world, &object.name),
        // None of these is made above.
        Kind::Namespace
        | Kind::Node
        | Kind::PeerAuthentication
        | Kind::AuthorizationPolicy
        | Kind::RequestAuthentication
        | Kind::EndpointSlice
        | Kind::WorkloadEntry
        | Kind::Pod => Found::Not(reason::INVALID, "no policy can target it".to_owned()),
    }
}

/// A class stands for all its waypoints, in every namespace; so only the root namespace may name it.
fn class(world: &World, policy: &ObjectKey, name: &Text) -> Found {
    let root = &world.settings.root_namespace;
    if *policy.name.namespace != **root {
        let why = format!("only policies of the namespace {root} may target a class");
        return Found::Not(reason::INVALID, why);
    }
    if !world.store.classes.contains_key(name) {
        return not_found();
    }
    let of_class = world.store.spaces.values().flat_map(|space| space.gateways.values());
    let of_class = of_class.filter(|gateway| gateway.spec.gateway_class_name == *name);
    let names = of_class.map(|gateway| gateway.metadata.object_name());
    let is_ready =
        |name: &ObjectName| world.waypoints.ready(name).is_some() && world.waypoints.enforces(name);
    let mut ready: Vec<ObjectName> = names.filter(is_ready).collect();
    ready.sort_unstable();
    if ready.is_empty() {
        return Found::Not(reason::NOT_BOUND, "no waypoint of it has an address".to_owned());
    }
    Found::Enforced(ready)
}

fn gateway(world: &World, name: &ObjectName) -> Found {
    match (world.waypoints.gateway(name), world.waypoints.ready(name)) {
        (None, _) => not_found(),
        (Some(_), _) if !world.waypoints.enforces(name) => {
            Found::Not(reason::NOT_BOUND, "it is not a waypoint".to_owned())
        }
        (Some(_), None) => Found::Not(reason::NOT_BOUND, "it has no address yet".to_owned()),
        (Some(_), Some(_)) => Found::Enforced(vec![name.clone()]),
    }
}

fn service(world: &World, name: &ObjectName) -> Found {
    let service = world.store.service(name).filter(|_| world.is_seen(&name.namespace));
    let Some(service) = service else { return not_found() };
    if !service::has_host(service) {
        return Found::Not(reason::NOT_BOUND, "it is only an alias in DNS".to_owned());
    }
    bound(world, &bind(world, &service.metadata, crate::waypoint::Traffic::Service))
}

fn entry(world: &World, name: &ObjectName) -> Found {
    let entry = world.store.entry(name).filter(|entry| world.counts(&entry.metadata));
    let Some(entry) = entry else { return not_found() };
    let visibility = world.visibility(entry);
    if visibility == EntryVisibility::None {
        return Found::Not(reason::NOT_BOUND, "it is not published".to_owned());
    }
    bound(world, &bind(world, &entry.metadata, service::traffic(visibility)))
}

fn bound(world: &World, binding: &Binding<'_>) -> Found {
    match binding {
        Binding::Bound { .. } => {
            match binding.waypoints().find(|name| !world.waypoints.enforces(name)) {
                None => Found::Enforced(binding.waypoints().cloned().collect()),
                Some(other) => {
                    let why = format!("the gateway {other} before it is not a waypoint");
                    Found::Not(reason::NOT_BOUND, why)
                }
            }
        }
        Binding::None => Found::Not(reason::NOT_BOUND, "it is behind no waypoint".to_owned()),
        Binding::Failed { fault, .. } => Found::Not(reason::NOT_BOUND, fault.message().to_owned()),
    }
}

fn not_found() -> Found {
    Found::Not(reason::NOT_FOUND, "there is none".to_owned())
}

/// True only when every target has a waypoint before it. Whether that enforces the policy, it knows
/// itself.
fn verdict(targets: &[PolicyTarget], found: &[Found]) -> Condition {
    let reasons: BTreeSet<&'static str> = found
        .iter()
        .filter_map(|found| match found {
            Found::Enforced(_) => None,
            Found::Not(reason, _) => Some(*reason),
        })
        .collect();
    let is_some = found.iter().any(|found| matches!(found, Found::Enforced(_)));
    let reason = match (is_some, reasons.iter().next(), reasons.len()) {
        (_, None, _) => reason::ACCEPTED,
        (false, Some(one), 1) => one,
        (true, Some(_), _) => reason::PARTIALLY_INVALID,
        (false, Some(_), _) => reason::INVALID,
    };
    let each = targets.iter().zip(found).take(NAMED_MAX).map(|(target, found)| {
        let target = format!("{} {}", shortened(&target.kind), shortened(&target.name));
        match found {
            Found::Enforced(waypoints) => {
                let named: Vec<_> =
                    waypoints.iter().take(NAMED_MAX).map(ToString::to_string).collect();
                let named = named.join(", ");
                match waypoints.len().saturating_sub(NAMED_MAX) {
                    0 => {
                        format!("{target}: bound to the waypoint {named}, which has to enforce it")
                    }
                    more => format!(
                        "{target}: bound to {named} and {more} more, which have to enforce it"
                    ),
                }
            }
            Found::Not(_, why) => format!("{target}: not enforced, {why}"),
        }
    });
    let mut message = each.collect::<Vec<_>>().join("; ");
    if let Some(more) = found.len().checked_sub(NAMED_MAX).filter(|more| *more > 0) {
        message = format!("{message}; and {more} more targets");
    }
    condition(reason, message)
}

fn condition(reason: &'static str, message: String) -> Condition {
    let status = reason == reason::ACCEPTED;
    Condition { kind: CONDITION, status, reason, message: message.into() }
}

fn shortened(text: &str) -> String {
    text.chars().take(TEXT_CHARS_MAX).collect()
}
