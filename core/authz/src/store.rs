//! The policies of a node, indexed by what they are bound to.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::{PolicyName, Workload};

use crate::compiled::Compiled;
use crate::group::{Body, Bound, Group};
use crate::policy::{Policy, Scope};
use crate::settings::Settings;
use crate::shared_map::SharedMap;

/// A policy as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It was understood.
    Policy(Policy),
    /// It was not, and so denies what it is bound to.
    Unreadable(UnreadablePolicy),
}

/// A policy that could not be read. Leaving it out could widen access.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadablePolicy {
    /// Namespace and name.
    pub name: PolicyName,
    /// What it denies.
    pub binding: Binding,
    /// Why it could not be read.
    pub cause: String,
}

/// What an unreadable policy denies, from narrow to wide. One whose own scope cannot be read is
/// bound to its namespace; one whose namespace cannot be read, to the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Binding {
    /// The workloads that name it.
    Workload,
    /// Every workload of its namespace; of the mesh, if that is the root namespace.
    Namespace,
    /// Every workload of the mesh.
    Mesh,
}

impl From<Scope> for Binding {
    fn from(scope: Scope) -> Self {
        match scope {
            Scope::Global => Self::Mesh,
            Scope::Namespace => Self::Namespace,
            Scope::WorkloadSelector => Self::Workload,
        }
    }
}

/// A policy in the store.
#[derive(Clone, Copy, Debug)]
pub enum StoredRef<'s> {
    /// It was understood.
    Policy(&'s Policy),
    /// It was not.
    Unreadable(&'s UnreadablePolicy),
}

/// One change of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyChange {
    /// A policy that is new, or takes the place of the one of its name.
    Set(Stored),
    /// A policy that is gone. One the store does not have is not an error.
    Remove(PolicyName),
}

/// Compiled policies. Immutable: a change makes a new store, which shares what did not change.
#[derive(Clone, Debug, Default)]
pub struct PolicyStore {
    settings: Arc<Settings>,
    by_name: SharedMap<PolicyName, Entry>,
    mesh: Arc<Group>,
    namespaces: SharedMap<Arc<str>, Arc<Group>>,
}

#[derive(Clone, Debug)]
struct Entry {
    binding: Binding,
    body: Body,
}

impl PolicyStore {
    /// A store without policies.
    #[must_use]
    pub fn empty(settings: &Settings) -> Self {
        Self { settings: Arc::new(settings.clone()), ..Self::default() }
    }

    /// Compiles the policies of one file. Two with one name cannot both be right, so the pair
    /// counts as one unreadable policy with the wider of their bindings.
    #[must_use]
    pub fn compile(policies: Vec<Stored>, settings: &Settings) -> Self {
        let mut by_name: BTreeMap<PolicyName, Stored> = BTreeMap::new();
        for stored in policies {
            let name = stored.name().clone();
            let stored = match by_name.get(&name) {
                None => stored,
                Some(other) => Stored::Unreadable(UnreadablePolicy {
                    name: name.clone(),
                    binding: other.binding().max(stored.binding()),
                    cause: "two policies have this name".to_owned(),
                }),
            };
            by_name.insert(name, stored);
        }
        let mut store = Self::empty(settings);
        // In the order of names each belongs at the end of its list.
        for stored in by_name.into_values() {
            store.set(stored);
        }
        store
    }

    /// A store with the changes, one after the other: of several for one name the last wins. This
    /// store stays as it is. Costs what the changes cost, and little for the rest.
    #[must_use]
    pub fn apply(&self, changes: Vec<PolicyChange>) -> Self {
        let mut store = self.clone();
        for change in changes {
            match change {
                PolicyChange::Set(stored) => store.set(stored),
                PolicyChange::Remove(name) => store.remove(&name),
            }
        }
        store
    }

    fn set(&mut self, stored: Stored) {
        let name = stored.name().clone();
        self.remove(&name);
        let entry = Entry::new(stored, &self.settings);
        let body = entry.body.clone();
        match entry.binding {
            Binding::Mesh => Arc::make_mut(&mut self.mesh).insert(body),
            Binding::Namespace => self.namespaces.alter(name.namespace.clone(), |group| {
                let mut group = group.unwrap_or_default();
                Arc::make_mut(&mut group).insert(body);
                Some(group)
            }),
            Binding::Workload => {}
        }
        self.by_name.insert(name, entry);
    }

    fn remove(&mut self, name: &PolicyName) {
        let Some(Entry { binding, body }) = self.by_name.remove(name) else { return };
        match binding {
            Binding::Mesh => Arc::make_mut(&mut self.mesh).remove(&body),
            Binding::Namespace => self.namespaces.alter(name.namespace.clone(), |group| {
                let mut group = group?;
                Arc::make_mut(&mut group).remove(&body);
                (!group.is_empty()).then_some(group)
            }),
            Binding::Workload => {}
        }
    }

    /// What it was made with.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The policy of that name.
    #[must_use]
    pub fn get(&self, name: &PolicyName) -> Option<StoredRef<'_>> {
        self.by_name.get(name).map(Entry::stored)
    }

    /// Every policy, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&PolicyName, StoredRef<'_>)> {
        self.by_name.iter().map(|(name, entry)| (name, entry.stored()))
    }

    /// How many policies there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The policies that judge `workload`. Costs nothing for the others.
    pub(crate) fn bound_to<'s>(&'s self, workload: &'s Workload) -> Bound<'s> {
        let namespace = &workload.key.namespace;
        let mut named = Vec::with_capacity(workload.policies.len());
        let mut unknown = None;
        for name in &workload.policies {
            match self.by_name.get(name) {
                None => unknown = unknown.or(Some(name)),
                // Those bound to the mesh or to the workload's own namespace are counted there.
                Some(Entry { binding: Binding::Mesh, .. }) => {}
                Some(Entry { binding: Binding::Namespace, .. }) if name.namespace == *namespace => {
                }
                Some(entry) => named.push(&entry.body),
            }
        }
        let namespace = self.namespaces.get(&**namespace).map(|group| &**group);
        Bound { mesh: &self.mesh, namespace, named, unknown }
    }
}

impl Stored {
    /// Namespace and name.
    #[must_use]
    pub fn name(&self) -> &PolicyName {
        match self {
            Self::Policy(policy) => &policy.name,
            Self::Unreadable(policy) => &policy.name,
        }
    }

    fn binding(&self) -> Binding {
        match self {
            Self::Policy(policy) => policy.scope.into(),
            Self::Unreadable(policy) => policy.binding,
        }
    }
}

impl Entry {
    fn new(stored: Stored, settings: &Settings) -> Self {
        let root = &settings.root_namespace;
        let in_root = !root.is_empty() && stored.name().namespace == *root;
        let binding = match stored.binding() {
            Binding::Namespace if in_root => Binding::Mesh,
            binding @ (Binding::Workload | Binding::Namespace | Binding::Mesh) => binding,
        };
        let body = match stored {
            Stored::Policy(policy) => Body::Policy(Arc::new(Compiled::new(policy, settings))),
            Stored::Unreadable(policy) => Body::Unreadable(Arc::new(policy)),
        };
        Self { binding, body }
    }

    fn stored(&self) -> StoredRef<'_> {
        match &self.body {
            Body::Policy(compiled) => StoredRef::Policy(&compiled.policy),
            Body::Unreadable(policy) => StoredRef::Unreadable(policy),
        }
    }
}
