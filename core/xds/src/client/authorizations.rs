//! Applies a response of policies.

use std::collections::HashMap;
use std::sync::Arc;

use authz::{Binding, PolicyChange, Stored, StoredRef};
use prost::bytes::Bytes;
use proto::discovery::{DeltaDiscoveryResponse, Resource};

use super::response::{Applied, ambiguous, payload};
use super::{Client, Record, RecordBody, RejectedResource};
use crate::kind::Kind;
use crate::parse::{Problem, parse_policy, unreadable};

impl Client {
    /// Every policy that was sent is in force afterwards, or denies as an unreadable one.
    pub(super) fn apply_authorizations(&mut self, response: DeltaDiscoveryResponse) -> Applied {
        let mut applied = Applied::default();
        let ambiguous = ambiguous(&response);
        let mut changes = Vec::new();
        for name in &response.removed_resources {
            // One that is also sent is not gone.
            if ambiguous.contains_key(name) {
                continue;
            }
            if let Some(policy) = self.policies.remove(name) {
                changes.push(PolicyChange::Remove(policy));
                let name = name.clone();
                applied.records.push(Record { kind: Kind::Authorization, name, body: None });
            }
        }
        // Of a policy that was sent twice, the widest reach.
        let mut widest: HashMap<String, Binding> = HashMap::new();
        for resource in response.resources {
            let problem = ambiguous.get(&resource.name);
            let (mut stored, mut bytes) = self.read_policy(&resource, problem);
            if let (Some(_), Stored::Unreadable(policy)) = (problem, &mut stored) {
                let widest = widest.entry(resource.name.clone()).or_insert(policy.binding);
                *widest = policy.binding.max(*widest);
                policy.binding = *widest;
                // On its own it may be readable, which it must not be when it is read again.
                bytes = Bytes::from_static(match *widest {
                    Binding::Workload | Binding::Namespace => MALFORMED,
                    Binding::Mesh => NAMELESS,
                });
            }
            self.hold(resource, &stored, bytes, &mut applied);
            // Istio sends all policies again on each new stream, which is no change.
            if problem.is_some() || !self.is_in_force(&stored) {
                changes.push(PolicyChange::Set(stored));
            }
        }
        applied.changed = !changes.is_empty();
        if applied.changed {
            self.store = Arc::new(self.store.apply(changes));
            self.interner.sweep();
        }
        applied
    }

    fn is_in_force(&self, stored: &Stored) -> bool {
        match (stored, self.store.get(stored.name())) {
            (Stored::Policy(new), Some(StoredRef::Policy(old))) => new == old,
            (Stored::Unreadable(new), Some(StoredRef::Unreadable(old))) => new == old,
            (Stored::Policy(_) | Stored::Unreadable(_), _) => false,
        }
    }

    /// The policy, and the bytes that a copy of the state keeps for it.
    fn read_policy(&mut self, resource: &Resource, problem: Option<&Problem>) -> (Stored, Bytes) {
        match (payload(Kind::Authorization, resource), problem) {
            (Ok(bytes), None) => (parse_policy(&resource.name, &bytes, &mut self.interner), bytes),
            (Ok(bytes), Some(problem)) => {
                let policy = unreadable(&resource.name, &bytes, &problem.clone().into());
                (Stored::Unreadable(policy), bytes)
            }
            (Err(problem), _) => {
                let policy = unreadable(&resource.name, MALFORMED, &problem.into());
                (Stored::Unreadable(policy), Bytes::from_static(MALFORMED))
            }
        }
    }

    fn hold(&mut self, resource: Resource, stored: &Stored, bytes: Bytes, applied: &mut Applied) {
        let Resource { version, name, .. } = resource;
        let (policy, version) = match stored {
            Stored::Policy(policy) => (&policy.name, version),
            Stored::Unreadable(policy) => {
                applied.rejected.push(RejectedResource::new(&name, &policy.cause));
                (&policy.name, String::new())
            }
        };
        self.policies.set(name.as_str().into(), &version, policy.clone());
        let body = Some(RecordBody { version, aliases: Vec::new(), bytes });
        applied.records.push(Record { kind: Kind::Authorization, name, body });
    }
}

/// No message at all: an unreadable policy of the namespace it is sent under.
const MALFORMED: &[u8] = b"\xff";
/// A message without a namespace: an unreadable policy of the mesh.
const NAMELESS: &[u8] = b"";
