//! What is to be done about the ConfigMap of each namespace: pure.
//!
//! One that is ours and that another writer changed is not fought over: an istiod that comes later
//! writes its own roots into it, again each time. It is written a few times more, later and later,
//! in case it was a person's slip, and then left alone and shown.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Who owns the fields that we write.
pub const MANAGER: &str = "warren-trust-bundle";
/// Who owned them before this manager had a name: the server called it so.
pub(super) const FORMER_MANAGER: &str = "unknown";
/// Waits before each time that ours is written over what another writer made of it. After the last,
/// it is left alone until another replica leads or the ConfigMap is deleted.
const CONTEST_WAITS: [Duration; 3] =
    [Duration::from_secs(10), Duration::from_mins(1), Duration::from_mins(10)];
/// After so long without another change, the next one is the first of its kind again.
const CALM: Duration = Duration::from_hours(1);
/// The label of those that are ours.
pub const LABEL: (&str, &str) = ("warren.dev/trust-bundle", "true");

/// A ConfigMap of that name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Whether it has our label.
    pub(super) is_ours: bool,
    /// What it says.
    pub(super) bundle: Option<String>,
    /// Who wrote that, if it was another and not we.
    pub(super) other_writer: Option<String>,
    /// Its version, by which the server tells whether it changed since.
    pub(super) version: String,
}

/// What is to be done in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// Make it.
    Create,
    /// Write ours anew.
    Replace,
    /// It is there.
    Nothing,
    /// It is another's, and says something else: it is left alone.
    Refuse,
    /// It is ours and another writer changed it: it is left alone, at least for now.
    Contested,
}

/// A ConfigMap of ours that others write.
#[derive(Debug)]
struct Contest {
    /// How often ours was written over it.
    attempts: usize,
    changed_at: Instant,
    /// Of the change: a list shows what a watch has shown already.
    version: String,
    writer: String,
}

/// Every namespace and what it has.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Those that are being deleted are not among them: nothing can be made there.
    namespaces: BTreeMap<String, Option<Found>>,
    /// ConfigMaps of namespaces that were not seen yet.
    early: BTreeMap<String, Found>,
    /// By namespace.
    contests: BTreeMap<String, Contest>,
}

impl Plan {
    /// A namespace is there and not being deleted.
    pub(super) fn namespace(&mut self, name: &str) {
        let early = self.early.remove(name);
        let found = self.namespaces.entry(name.to_owned()).or_default();
        if early.is_some() {
            *found = early;
        }
    }

    /// A namespace is gone, or being deleted.
    pub(super) fn no_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
        self.early.remove(name);
        self.contests.remove(name);
    }

    /// A namespace has such a ConfigMap, or none any more.
    pub(super) fn found(&mut self, namespace: &str, found: Option<Found>, now: Instant) {
        match &found {
            None => drop(self.contests.remove(namespace)),
            Some(found) if found.is_ours => {
                if let Some(writer) = &found.other_writer {
                    self.contested(namespace, writer, &found.version, now);
                }
            }
            Some(_) => {}
        }
        match (self.namespaces.get_mut(namespace), found) {
            (Some(known), found) => *known = found,
            (None, Some(found)) => drop(self.early.insert(namespace.to_owned(), found)),
            (None, None) => drop(self.early.remove(namespace)),
        }
    }

    fn contested(&mut self, namespace: &str, writer: &str, version: &str, now: Instant) {
        let new = || Contest {
            attempts: 0,
            changed_at: now,
            version: String::new(),
            writer: writer.to_owned(),
        };
        let contest = self.contests.entry(namespace.to_owned()).or_insert_with(new);
        if contest.version == version {
            return;
        }
        version.clone_into(&mut contest.version);
        if now.duration_since(contest.changed_at) > CALM {
            contest.attempts = 0;
        }
        contest.changed_at = now;
        writer.clone_into(&mut contest.writer);
    }

    /// Ours was written, whatever was there.
    pub(super) fn wrote(&mut self, namespace: &str) {
        if let Some(contest) = self.contests.get_mut(namespace) {
            contest.attempts += 1;
        }
    }

    /// Who changed that of a namespace last, if it is contested.
    pub(super) fn contester(&self, namespace: &str) -> Option<&str> {
        self.contests.get(namespace).map(|contest| contest.writer.as_str())
    }

    /// What is to be done so that each namespace has the bundle; if that is empty, so that none has
    /// the one that was.
    pub(super) fn tasks(
        &self,
        bundle: &Arc<str>,
        now: Instant,
    ) -> impl Iterator<Item = (&str, Task, &str)> {
        let bundle = bundle.clone();
        self.namespaces.iter().map(move |(namespace, found)| {
            let version = found.as_ref().map_or("", |found| &found.version);
            let contest = self.contests.get(namespace);
            (namespace.as_str(), task(found.as_ref(), &bundle, contest, now), version)
        })
    }
}

fn task(found: Option<&Found>, bundle: &str, contest: Option<&Contest>, now: Instant) -> Task {
    let is_left = || {
        contest.is_some_and(|contest| {
            let wait = CONTEST_WAITS.get(contest.attempts);
            wait.is_none_or(|wait| now.duration_since(contest.changed_at) < *wait)
        })
    };
    match found {
        // Nothing is said any more: what is ours goes, and nothing else is touched.
        None if bundle.is_empty() => Task::Nothing,
        Some(found) if bundle.is_empty() && (!found.is_ours || found.bundle.is_none()) => {
            Task::Nothing
        }
        None => Task::Create,
        // Whoever wrote it: a shared root is the way to change from one mesh to the other.
        Some(found) if found.bundle.as_deref() == Some(bundle) => Task::Nothing,
        Some(found) if found.is_ours && found.other_writer.is_some() && is_left() => {
            Task::Contested
        }
        Some(found) if found.is_ours => Task::Replace,
        Some(_) => Task::Refuse,
    }
}

#[cfg(test)]
mod tests;
