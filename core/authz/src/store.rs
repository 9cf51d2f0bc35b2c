//! The policies of a node, indexed by what they are bound to.

use std::collections::HashMap;
use std::sync::Arc;

use model::{PolicyName, Workload};

use crate::compiled::Compiled;
use crate::policy::{Action, Mode, Policy, Scope};

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

/// What an unreadable policy denies, from narrow to wide.
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

/// Compiled policies. Immutable: a change builds a new store.
#[derive(Debug, Default)]
pub struct PolicyStore {
    by_name: HashMap<PolicyName, Entry>,
    mesh: Group,
    namespaces: HashMap<Arc<str>, Group>,
}

#[derive(Clone, Debug)]
struct Entry {
    binding: Binding,
    body: Body,
}

#[derive(Clone, Debug)]
enum Body {
    Policy(Arc<Compiled>),
    Unreadable(Arc<UnreadablePolicy>),
}

/// Policies with one binding, split by what they can do, each list sorted by name.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub(crate) deny: Vec<Arc<Compiled>>,
    pub(crate) allow: Vec<Arc<Compiled>>,
    pub(crate) dry_run_deny: Vec<Arc<Compiled>>,
    pub(crate) dry_run_allow: Vec<Arc<Compiled>>,
    pub(crate) unreadable: Vec<Arc<UnreadablePolicy>>,
}

impl Group {
    fn push(&mut self, body: Body) {
        match body {
            Body::Unreadable(policy) => self.unreadable.push(policy),
            Body::Policy(policy) => match (policy.policy.action, policy.policy.mode) {
                (Action::Deny, Mode::Enforce) => self.deny.push(policy),
                (Action::Allow, Mode::Enforce) => self.allow.push(policy),
                (Action::Deny, Mode::DryRun) => self.dry_run_deny.push(policy),
                (Action::Allow, Mode::DryRun) => self.dry_run_allow.push(policy),
            },
        }
    }
}

/// The policies that judge one workload.
pub(crate) struct Bound<'s> {
    /// Mesh, namespace, and those the workload names.
    pub(crate) mesh: &'s Group,
    pub(crate) namespace: Option<&'s Group>,
    pub(crate) named: Group,
    /// The first policy the workload names and the store does not have.
    pub(crate) unknown: Option<PolicyName>,
}

impl Bound<'_> {
    /// The groups, widest first.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &Group> {
        [Some(self.mesh), self.namespace, Some(&self.named)].into_iter().flatten()
    }
}

impl PolicyStore {
    /// Compiles policies. Two with one name cannot both be right, so the pair counts as one
    /// unreadable policy with the wider of their bindings.
    ///
    /// `root_namespace`: policies of that namespace that are bound to their namespace are bound
    /// to the mesh. Empty: there is none.
    #[must_use]
    pub fn compile(policies: Vec<Stored>, root_namespace: &str) -> Self {
        let mut by_name: HashMap<PolicyName, Entry> = HashMap::with_capacity(policies.len());
        for stored in policies {
            let (name, entry) = Entry::new(stored, root_namespace);
            let binding = by_name.get(&name).map(|other| other.binding.max(entry.binding));
            let entry = match binding {
                None => entry,
                Some(binding) => Entry::duplicate(name.clone(), binding),
            };
            by_name.insert(name, entry);
        }
        let mut store = Self::default();
        let mut names: Vec<_> = by_name.keys().cloned().collect();
        names.sort_unstable();
        for name in names {
            let Some(entry) = by_name.get(&name) else { continue };
            match entry.binding {
                Binding::Mesh => store.mesh.push(entry.body.clone()),
                Binding::Namespace => {
                    let namespace = store.namespaces.entry(name.namespace.clone()).or_default();
                    namespace.push(entry.body.clone());
                }
                Binding::Workload => {}
            }
        }
        store.by_name = by_name;
        store
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
        self.by_name.is_empty()
    }

    /// The policies that judge `workload`. Costs nothing for the others.
    pub(crate) fn bound_to(&self, workload: &Workload) -> Bound<'_> {
        let namespace = &workload.key.namespace;
        let mut named = Group::default();
        let mut unknown = None;
        for name in &workload.policies {
            match self.by_name.get(name) {
                None => unknown = unknown.or_else(|| Some(name.clone())),
                // Those bound to the mesh or to the workload's own namespace are counted there.
                Some(Entry { binding: Binding::Mesh, .. }) => {}
                Some(Entry { binding: Binding::Namespace, .. }) if name.namespace == *namespace => {
                }
                Some(entry) => named.push(entry.body.clone()),
            }
        }
        Bound { mesh: &self.mesh, namespace: self.namespaces.get(namespace), named, unknown }
    }
}

impl Entry {
    fn new(stored: Stored, root_namespace: &str) -> (PolicyName, Self) {
        let (name, binding, body) = match stored {
            Stored::Policy(policy) => (
                policy.name.clone(),
                Binding::from(policy.scope),
                Body::Policy(Arc::new(Compiled::new(policy))),
            ),
            Stored::Unreadable(policy) => {
                (policy.name.clone(), policy.binding, Body::Unreadable(Arc::new(policy)))
            }
        };
        let in_root = !root_namespace.is_empty() && *name.namespace == *root_namespace;
        let binding = match binding {
            Binding::Namespace if in_root => Binding::Mesh,
            Binding::Workload | Binding::Namespace | Binding::Mesh => binding,
        };
        (name, Self { binding, body })
    }

    fn duplicate(name: PolicyName, binding: Binding) -> Self {
        let cause = "two policies have this name".to_owned();
        let policy = UnreadablePolicy { name, binding, cause };
        Self { binding, body: Body::Unreadable(Arc::new(policy)) }
    }

    fn stored(&self) -> StoredRef<'_> {
        match &self.body {
            Body::Policy(compiled) => StoredRef::Policy(&compiled.policy),
            Body::Unreadable(policy) => StoredRef::Unreadable(policy),
        }
    }
}
