//! Policies with one binding, and those that judge one workload.

use std::sync::Arc;

use model::PolicyName;

use crate::compiled::Compiled;
use crate::policy::{Action, Mode};
use crate::store::UnreadablePolicy;

/// What a policy became.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    Policy(Arc<Compiled>),
    Unreadable(Arc<UnreadablePolicy>),
}

/// Policies with one binding, split by what they can do, each list sorted by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Group {
    deny: Vec<Arc<Compiled>>,
    allow: Vec<Arc<Compiled>>,
    dry_run_deny: Vec<Arc<Compiled>>,
    dry_run_allow: Vec<Arc<Compiled>>,
    unreadable: Vec<Arc<UnreadablePolicy>>,
}

trait Named {
    fn name(&self) -> &PolicyName;
}

impl Named for Compiled {
    fn name(&self) -> &PolicyName {
        &self.policy.name
    }
}

impl Named for UnreadablePolicy {
    fn name(&self) -> &PolicyName {
        &self.name
    }
}

fn insert<T: Named>(list: &mut Vec<Arc<T>>, policy: Arc<T>) {
    match list.binary_search_by(|other| other.name().cmp(policy.name())) {
        Ok(place) => list[place] = policy,
        Err(place) => list.insert(place, policy),
    }
}

fn remove<T: Named>(list: &mut Vec<Arc<T>>, name: &PolicyName) {
    if let Ok(place) = list.binary_search_by(|other| other.name().cmp(name)) {
        list.remove(place);
    }
}

impl Group {
    pub(crate) fn insert(&mut self, body: Body) {
        match body {
            Body::Unreadable(policy) => insert(&mut self.unreadable, policy),
            Body::Policy(policy) => {
                insert(self.list_mut(policy.policy.action, policy.policy.mode), policy);
            }
        }
    }

    pub(crate) fn remove(&mut self, body: &Body) {
        match body {
            Body::Unreadable(policy) => remove(&mut self.unreadable, policy.name()),
            Body::Policy(policy) => {
                let list = self.list_mut(policy.policy.action, policy.policy.mode);
                remove(list, policy.name());
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        [&self.deny, &self.allow, &self.dry_run_deny, &self.dry_run_allow]
            .into_iter()
            .all(Vec::is_empty)
            && self.unreadable.is_empty()
    }

    fn list(&self, action: Action, mode: Mode) -> &[Arc<Compiled>] {
        match (action, mode) {
            (Action::Deny, Mode::Enforce) => &self.deny,
            (Action::Allow, Mode::Enforce) => &self.allow,
            (Action::Deny, Mode::DryRun) => &self.dry_run_deny,
            (Action::Allow, Mode::DryRun) => &self.dry_run_allow,
        }
    }

    fn list_mut(&mut self, action: Action, mode: Mode) -> &mut Vec<Arc<Compiled>> {
        match (action, mode) {
            (Action::Deny, Mode::Enforce) => &mut self.deny,
            (Action::Allow, Mode::Enforce) => &mut self.allow,
            (Action::Deny, Mode::DryRun) => &mut self.dry_run_deny,
            (Action::Allow, Mode::DryRun) => &mut self.dry_run_allow,
        }
    }
}

/// The policies that judge one workload.
pub(crate) struct Bound<'s> {
    pub(crate) mesh: &'s Group,
    pub(crate) namespace: Option<&'s Group>,
    /// Those the workload names, in its order, without those that the groups hold.
    pub(crate) named: Vec<&'s Body>,
    /// The first policy the workload names and the store does not have.
    pub(crate) unknown: Option<&'s PolicyName>,
}

impl<'s> Bound<'s> {
    fn groups(&self) -> impl Iterator<Item = &'s Group> {
        std::iter::once(self.mesh).chain(self.namespace)
    }

    /// The policies of one kind, widest binding first.
    pub(crate) fn policies(
        &self,
        action: Action,
        mode: Mode,
    ) -> impl Iterator<Item = &'s Compiled> {
        let named = self.named.iter().filter_map(move |body| match body {
            Body::Policy(policy) => {
                let same_kind = policy.policy.action == action && policy.policy.mode == mode;
                same_kind.then_some(&**policy)
            }
            Body::Unreadable(_) => None,
        });
        self.groups()
            .flat_map(move |group| group.list(action, mode))
            .map(|policy| &**policy)
            .chain(named)
    }

    /// The first that cannot be read, widest binding first.
    pub(crate) fn unreadable(&self) -> Option<&'s UnreadablePolicy> {
        let named = self.named.iter().find_map(|body| match body {
            Body::Unreadable(policy) => Some(&**policy),
            Body::Policy(_) => None,
        });
        let grouped = self.groups().find_map(|group| group.unreadable.first());
        grouped.map(|policy| &**policy).or(named)
    }
}
