//! The store as a value: what a change does, to this store and to the one before.

use std::collections::BTreeMap;

use model::{Code, PolicyName};
use proptest::prelude::*;

use crate::authorize;
use crate::policy::{Action, Mode, Policy, Rule, Scope};
use crate::settings::Settings;
use crate::store::{Binding, PolicyChange, PolicyStore, Stored, StoredRef, UnreadablePolicy};
use crate::tests::{ROOT, connection, workload};
use crate::verdict::Verdict;

fn name(key: &str) -> PolicyName {
    PolicyName::parse(key).expect("literal")
}

fn policy(key: &str, scope: Scope, action: Action) -> Stored {
    let rules = vec![Rule::default()];
    Stored::Policy(Policy { name: name(key), scope, action, mode: Mode::Enforce, rules })
}

fn unreadable(key: &str, binding: Binding) -> Stored {
    Stored::Unreadable(UnreadablePolicy { name: name(key), binding, cause: "bad".to_owned() })
}

fn set(stored: &Stored) -> PolicyChange {
    PolicyChange::Set(stored.clone())
}

/// The code for a plaintext connection to `shop/cart`, which names `shop/n`.
fn code(store: &PolicyStore) -> Code {
    let conn = connection(None, "10.0.0.1:1", 80);
    match authorize(store, &workload(&["shop/n"]), &conn).verdict {
        Verdict::Allow(_) => Code::Ok,
        Verdict::Deny(denial) => denial.code,
    }
}

#[test]
fn the_store_finds_what_it_was_given() {
    let policies = vec![
        policy("shop/a", Scope::Namespace, Action::Allow),
        unreadable("shop/u", Binding::Mesh),
    ];
    let store = PolicyStore::compile(policies, &Settings::rooted(ROOT));
    assert_eq!((store.len(), store.is_empty(), store.iter().count()), (2, false, 2));
    let get = |key| store.get(&name(key));
    assert!(matches!(get("shop/a"), Some(StoredRef::Policy(_))));
    assert!(matches!(get("shop/u"), Some(StoredRef::Unreadable(_))));
    assert!(get("shop/x").is_none());
    assert!(PolicyStore::default().is_empty());
}

#[test]
fn a_change_leaves_the_store_before_as_it_was() {
    let named = policy("shop/n", Scope::WorkloadSelector, Action::Allow);
    let before = PolicyStore::empty(&Settings::rooted(ROOT)).apply(vec![set(&named)]);
    let deny = policy("shop/d", Scope::Namespace, Action::Deny);
    let after = before.apply(vec![set(&deny)]);
    assert_eq!((code(&before), code(&after)), (Code::Ok, Code::PolicyDenied));
    let again = after.apply(vec![PolicyChange::Remove(name("shop/d"))]);
    assert_eq!((code(&after), code(&again)), (Code::PolicyDenied, Code::Ok));
}

#[test]
fn a_policy_leaves_the_binding_it_had() {
    let empty = PolicyStore::empty(&Settings::rooted(ROOT));
    let mut store =
        empty.apply(vec![set(&policy("shop/n", Scope::WorkloadSelector, Action::Allow))]);
    // The same name through every binding and kind; only the last one counts.
    for (stored, expected) in [
        (policy("shop/x", Scope::Global, Action::Deny), Code::PolicyDenied),
        (unreadable("shop/x", Binding::Mesh), Code::PolicyUnreadable),
        (policy("shop/x", Scope::Namespace, Action::Allow), Code::Ok),
        (unreadable("shop/x", Binding::Namespace), Code::PolicyUnreadable),
        (policy("shop/x", Scope::Namespace, Action::Deny), Code::PolicyDenied),
        (policy("shop/x", Scope::WorkloadSelector, Action::Deny), Code::Ok),
        (unreadable("shop/x", Binding::Workload), Code::Ok),
    ] {
        store = store.apply(vec![set(&stored)]);
        assert_eq!(code(&store), expected, "{stored:?}");
        assert_eq!(store.len(), 2);
    }
}

#[test]
fn the_last_change_of_a_name_wins() {
    let named = policy("shop/n", Scope::WorkloadSelector, Action::Allow);
    let deny = policy("shop/d", Scope::Namespace, Action::Deny);
    let allow = policy("shop/d", Scope::Namespace, Action::Allow);
    let remove = || PolicyChange::Remove(name("shop/d"));
    for (changes, expected) in [
        (vec![set(&deny), set(&allow)], Code::Ok),
        (vec![set(&allow), set(&deny)], Code::PolicyDenied),
        (vec![set(&deny), remove()], Code::Ok),
        (vec![remove(), set(&deny)], Code::PolicyDenied),
    ] {
        let store = PolicyStore::empty(&Settings::rooted(ROOT)).apply(vec![set(&named)]);
        assert_eq!(code(&store.apply(changes)), expected);
    }
}

#[test]
fn what_is_removed_and_still_named_denies() {
    let named = policy("shop/n", Scope::WorkloadSelector, Action::Allow);
    let store = PolicyStore::empty(&Settings::rooted(ROOT));
    assert_eq!(code(&store), Code::PolicyUnknown);
    let store = store.apply(vec![set(&named)]);
    assert_eq!(code(&store), Code::Ok);
    assert_eq!(code(&store.apply(vec![PolicyChange::Remove(name("shop/n"))])), Code::PolicyUnknown);
}

fn stored() -> impl Strategy<Value = Stored> {
    (
        prop::sample::select(vec!["shop", "bank", ROOT]),
        prop::sample::select(vec!["a", "b", "n"]),
        prop::sample::select(vec![Scope::Global, Scope::Namespace, Scope::WorkloadSelector]),
        prop::sample::select(vec![Action::Allow, Action::Deny]),
        prop::sample::select(vec![Mode::Enforce, Mode::DryRun]),
        0..4_u8,
    )
        .prop_map(|(namespace, name, scope, action, mode, readable)| {
            let name = PolicyName::new(namespace, name);
            match readable {
                0 => {
                    let cause = String::new();
                    Stored::Unreadable(UnreadablePolicy { name, binding: scope.into(), cause })
                }
                // An ALLOW without rules denies, so that it shows.
                _ => Stored::Policy(Policy { name, scope, action, mode, rules: Vec::new() }),
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    /// Changes one by one, in batches, or everything from nothing: the same store.
    #[test]
    fn changes_lead_where_compiling_leads(
        steps in prop::collection::vec((stored(), 0..3_u8), 0..30),
        batch in 1..8_usize,
    ) {
        let settings = Settings::rooted(ROOT);
        let changes: Vec<_> = steps.into_iter().map(|(stored, kind)| match kind {
            0 => PolicyChange::Remove(stored.name().clone()),
            _ => PolicyChange::Set(stored),
        }).collect();
        let mut model = BTreeMap::new();
        for change in &changes {
            match change {
                PolicyChange::Set(stored) => { model.insert(stored.name().clone(), stored.clone()); }
                PolicyChange::Remove(name) => { model.remove(name); }
            }
        }
        let mut changed = PolicyStore::empty(&settings);
        for batch in changes.chunks(batch) {
            changed = changed.apply(batch.to_vec());
        }
        let compiled = PolicyStore::compile(model.values().cloned().collect(), &settings);
        prop_assert_eq!(changed.len(), model.len());
        for (name, stored) in &model {
            let found = match (changed.get(name), stored) {
                (Some(StoredRef::Policy(found)), Stored::Policy(policy)) => found == policy,
                (Some(StoredRef::Unreadable(found)), Stored::Unreadable(policy)) => found == policy,
                _ => false,
            };
            prop_assert!(found, "{}", name);
        }
        for named in [&[][..], &["shop/n"], &["bank/n", "istio-system/a"]] {
            for peer in [None, Some("cluster.local/ns/shop/sa/web")] {
                let (workload, conn) = (workload(named), connection(peer, "10.0.0.1:1", 80));
                let says = |store| format!("{:?}", authorize(store, &workload, &conn));
                prop_assert_eq!(says(&changed), says(&compiled));
            }
        }
    }
}
