//! What the client holds, by the names it was sent under.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use model::{PolicyName, ServiceName, WorkloadUid};
use resolve::Change;

/// Longest version kept, in bytes; Istio's are hashes. A resource with a longer one is sent again
/// after each reconnect.
const VERSION_BYTES_MAX: usize = 128;

/// Resources of one type with their versions.
#[derive(Debug)]
pub(super) struct ByName<T>(HashMap<Arc<str>, Versioned<T>>);

#[derive(Debug)]
struct Versioned<T> {
    version: Box<str>,
    value: T,
}

impl<T> Default for ByName<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T> ByName<T> {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn holds(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub(super) fn set(&mut self, name: Arc<str>, version: &str, value: T) {
        let version = if version.len() > VERSION_BYTES_MAX { "" } else { version };
        self.0.insert(name, Versioned { version: version.into(), value });
    }

    pub(super) fn remove(&mut self, name: &str) -> Option<T> {
        self.0.remove(name).map(|held| held.value)
    }

    /// A later version was rejected: this one stays in force, and is not told as the client's.
    pub(super) fn outdated(&mut self, name: &str) {
        if let Some(held) = self.0.get_mut(name) {
            held.version = Box::default();
        }
    }

    /// Versions by name. Names are told even without a version: only of what it was told can the
    /// control plane say that it is gone.
    pub(super) fn versions(&self) -> BTreeMap<String, String> {
        let told =
            |(name, held): (&Arc<str>, &Versioned<T>)| (name.to_string(), held.version.to_string());
        self.0.iter().map(told).collect()
    }
}

/// Policies, the unreadable ones included.
pub(super) type Policies = ByName<PolicyName>;

/// What is held under one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Thing {
    Workload,
    Service,
}

impl Thing {
    /// The end of it. Its name is its uid, or its namespace and host name.
    pub(super) fn removal(self, name: &Arc<str>) -> Option<Change> {
        match self {
            Self::Workload => Some(Change::RemoveWorkload(WorkloadUid(name.clone()))),
            Self::Service => ServiceName::parse(name).map(Change::RemoveService),
        }
    }
}

#[derive(Debug)]
pub(super) struct HeldAddress {
    pub(super) thing: Thing,
    pub(super) aliases: Box<[Arc<str>]>,
}

/// Workloads and services.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    pub(super) by_name: ByName<HeldAddress>,
    /// From an alias to the name it belongs to.
    aliases: HashMap<Arc<str>, Arc<str>>,
}

impl Addresses {
    /// Whether something is held under that name or alias.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.by_name.holds(name) || self.aliases.contains_key(name)
    }

    /// The name that an alias stands for; a name stands for itself.
    pub(super) fn name_of(&self, name: &str) -> Option<Arc<str>> {
        match self.by_name.0.get_key_value(name) {
            Some((name, _)) => Some(name.clone()),
            None => self.aliases.get(name).cloned(),
        }
    }

    /// Holds a resource, and returns what was held under its name.
    pub(super) fn set(
        &mut self,
        name: &Arc<str>,
        version: &str,
        thing: Thing,
        aliases: Vec<Arc<str>>,
    ) -> Option<HeldAddress> {
        let old = self.remove(name);
        for alias in &aliases {
            self.aliases.insert(alias.clone(), name.clone());
        }
        let held = HeldAddress { thing, aliases: aliases.into() };
        self.by_name.set(name.clone(), version, held);
        old
    }

    pub(super) fn remove(&mut self, name: &str) -> Option<HeldAddress> {
        let held = self.by_name.remove(name)?;
        for alias in &held.aliases {
            // Unless another resource has taken it over.
            if self.aliases.get(alias).is_some_and(|owner| **owner == *name) {
                self.aliases.remove(alias);
            }
        }
        Some(held)
    }
}
