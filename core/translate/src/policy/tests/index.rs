//! Changes: only what is different, whatever the order; and what a change costs.

use std::sync::LazyLock;

use cluster::authorization_policy::{AuthorizationPolicySpec, Selector};
use cluster::{AuthorizationPolicy, Meta, Readable};
use proptest::prelude::*;

use super::*;

fn selected(namespace: &str, name: &str, rest: &str) -> Object {
    let spec = format!("{{selector: {{matchLabels: {{app: a}}}}, {rest}}}");
    policy("AuthorizationPolicy", namespace, name, &spec)
}

#[test]
fn only_real_changes_are_told() {
    let mut follower = Follower::new(&settings());
    let object = selected("shop", "p", "rules: [{}]");
    follower.index.set(&object);
    let changes = follower.follow();
    assert_eq!((changes.policies.len(), changes.conditions.len()), (1, 1));
    assert_eq!(changes.rebind, Rebind::Namespaces(["shop".into()].into()));

    follower.index.set(&object);
    assert!(follower.follow().is_empty());
    // There and back.
    follower.index.set(&selected("shop", "p", "rules: []"));
    follower.index.set(&object);
    assert!(follower.follow().is_empty());
    // Other rules bind the same workloads.
    follower.index.set(&selected("shop", "p", "rules: []"));
    let changes = follower.follow();
    assert_eq!((changes.policies.len(), changes.conditions.len()), (1, 0));
    assert!(changes.rebind.is_empty());
    // A policy that is no longer sent is no longer named.
    follower.index.set(&selected("shop", "p", "action: AUDIT"));
    let changes = follower.follow();
    assert_eq!(changes.policies, [("shop/p".into(), None)]);
    assert_eq!(changes.rebind, Rebind::Namespaces(["shop".into()].into()));
    assert!(follower.index.bound("shop", &labels(&[("app", "a")])).is_empty());

    follower.index.set(&selected("istio-system", "p", ""));
    assert_eq!(follower.follow().rebind, Rebind::Everything);
    follower.index.delete(&selected("istio-system", "p", "").key());
    let changes = follower.follow();
    assert_eq!((changes.rebind, changes.conditions.len()), (Rebind::Everything, 0));
    // Neither kind nor object is known.
    follower.index.delete(&selected("shop", "unknown", "").key());
    assert!(follower.follow().is_empty());
}

/// An object of the same name that is another one has no status yet.
#[test]
fn a_new_object_of_the_same_name_is_told_its_condition() {
    let object = |kind: &str, uid: &str| {
        objects(&format!(
            "apiVersion: security.istio.io/v1\nkind: {kind}\n\
             metadata: {{name: p, namespace: shop, uid: '{uid}'}}\nspec: {{}}\n"
        ))
        .remove(0)
    };
    for kind in ["AuthorizationPolicy", "PeerAuthentication", "RequestAuthentication"] {
        let mut follower = Follower::with(&settings(), &[object(kind, "1")]);
        follower.index.set(&object(kind, "2"));
        let changes = follower.follow();
        assert_eq!((changes.policies.len(), changes.conditions.len()), (0, 1), "{kind}");
        follower.index.delete(&object(kind, "2").key());
        follower.index.set(&object(kind, "2"));
        let changes = follower.follow();
        assert_eq!((changes.policies.len(), changes.conditions.len()), (0, 1), "{kind}");
    }
}

/// What a step of a history does.
#[derive(Clone, Debug)]
enum Step {
    Set(usize),
    Delete(usize),
    Take,
}

/// Few enough names that histories meet, of all kinds and levels.
static UNIVERSE: LazyLock<Vec<Object>> = LazyLock::new(|| {
    let mut all = Vec::new();
    let peers = [
        "{mtls: {mode: STRICT}}",
        "{mtls: {mode: PERMISSIVE}}",
        "{}",
        "{mtls: 7}",
        "{selector: 7}",
        "{selector: {matchLabels: {app: a}}, portLevelMtls: {80: {mode: STRICT}}}",
        "{selector: {matchLabels: {app: a}}, portLevelMtls: {80: {mode: DISABLE}}}",
        "{selector: {matchLabels: {app: a}}, mtls: {mode: STRICT}}",
        "{selector: {matchLabels: {x: z}}, mtls: {mode: DISABLE}}",
    ];
    let policies = [
        "{}",
        "{action: DENY}",
        "{action: AUDIT}",
        "{selector: {matchLabels: {app: a}}}",
        "{selector: {matchLabels: {app: a, x: z}}, rules: 7}",
    ];
    for namespace in ["istio-system", "foo", "bar"] {
        for name in ["p", "q"] {
            let of = |kind: &str, spec: &&str| policy(kind, namespace, name, spec);
            all.extend(peers.iter().map(|spec| of("PeerAuthentication", spec)));
            all.extend(policies.iter().map(|spec| of("AuthorizationPolicy", spec)));
        }
    }
    all
});

const PODS: [(&str, &[(&str, &str)]); 7] = [
    ("foo", &[]),
    ("foo", &[("app", "a")]),
    ("foo", &[("x", "z")]),
    ("foo", &[("app", "a"), ("x", "z")]),
    ("bar", &[("app", "a")]),
    ("istio-system", &[("app", "a"), ("x", "z")]),
    ("elsewhere", &[("app", "a")]),
];

fn bindings(index: &PolicyIndex) -> Vec<Vec<Text>> {
    PODS.iter().map(|(namespace, pairs)| index.bound(namespace, &labels(pairs))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(300)
    })]

    /// Any history ends where its last objects, in any order, would have begun; whoever follows it
    /// knows the same; no workload names what is not sent; and whoever is bound otherwise is told.
    #[test]
    fn a_history_is_worth_its_end(
        steps in prop::collection::vec(
            prop_oneof![
                4 => (0..84_usize).prop_map(Step::Set),
                2 => (0..84_usize).prop_map(Step::Delete),
                2 => Just(Step::Take),
            ],
            0..40,
        ),
        is_reversed in any::<bool>(),
    ) {
        let universe = &*UNIVERSE;
        prop_assert_eq!(universe.len(), 84);
        let mut follower = Follower::new(&settings());
        let mut last: BTreeMap<ObjectKey, Object> = BTreeMap::new();
        let mut bound = bindings(&follower.index);
        for step in steps.iter().chain([&Step::Take]) {
            match step {
                Step::Set(at) => {
                    last.insert(universe[*at].key(), universe[*at].clone());
                    follower.index.set(&universe[*at]);
                }
                Step::Delete(at) => {
                    last.remove(&universe[*at].key());
                    follower.index.delete(&universe[*at].key());
                }
                Step::Take => {
                    let rebind = follower.follow().rebind;
                    let now = bindings(&follower.index);
                    for ((pod, before), after) in PODS.iter().zip(&bound).zip(&now) {
                        let is_told = match &rebind {
                            Rebind::Everything => true,
                            Rebind::Namespaces(namespaces) => namespaces.contains(pod.0),
                        };
                        prop_assert!(before == after || is_told, "{:?}", pod);
                        for name in after {
                            prop_assert!(follower.policies.contains_key(name), "{}", name);
                        }
                    }
                    bound = now;
                }
            }
        }
        let mut end: Vec<Object> = last.values().cloned().collect();
        if is_reversed {
            end.reverse();
        }
        let fresh = Follower::with(&settings(), &end);
        prop_assert_eq!(&follower.policies, &fresh.policies);
        prop_assert_eq!(&bound, &bindings(&fresh.index));
        follower.conditions.retain(|key, _| last.contains_key(key));
        prop_assert_eq!(&follower.conditions, &fresh.conditions);
        prop_assert!(follower.index.policies().eq(&fresh.policies));
        fresh.store(&settings());
    }

    /// Whatever pairs a selector was found by, it is found exactly if it matches.
    #[test]
    fn selectors_are_found_if_they_match(
        selectors in prop::collection::vec(
            prop::collection::btree_map("[ab]", "[xy]", 0..3),
            0..12,
        ),
        removed in prop::collection::vec(any::<bool>(), 12),
        pod in prop::collection::btree_map("[ab]", "[xy]", 0..3),
    ) {
        let selectors: Vec<WorkloadSelector> = selectors
            .into_iter()
            .map(|pairs| WorkloadSelector(pairs.into_iter().collect()))
            .collect();
        let mut index = Selectors::default();
        for (id, selector) in selectors.iter().enumerate() {
            index.insert(id, selector);
        }
        for (id, selector) in selectors.iter().enumerate().filter(|(id, _)| removed[*id]) {
            index.remove(&id, selector);
        }
        let pod: Labels = pod.into_iter().collect();
        let mut found: Vec<usize> = index.matching(&pod).copied().collect();
        found.sort_unstable();
        let expected: Vec<usize> = selectors
            .iter()
            .enumerate()
            .filter(|(id, selector)| !removed[*id] && selector.matches(&pod))
            .map(|(id, _)| id)
            .collect();
        prop_assert_eq!(found, expected);
        for (id, selector) in selectors.iter().enumerate().filter(|(id, _)| !removed[*id]) {
            index.remove(&id, selector);
        }
        prop_assert!(index.is_empty());
    }
}

/// Every policy of a namespace shares a label with every pod, and is found by the other one. A look
/// at each of them would take half a thousand million comparisons.
#[test]
fn a_pod_is_bound_without_looking_at_every_policy() {
    let mut index = PolicyIndex::new(&settings());
    for number in 0..5_000 {
        let app = format!("app-{number}");
        let match_labels = WorkloadSelector(labels(&[("all", "same"), ("app", &app)]));
        let selector = Some(Selector { match_labels, ..Selector::default() });
        let spec = AuthorizationPolicySpec { selector, ..AuthorizationPolicySpec::default() };
        let (namespace, name) = ("shop".into(), format!("p-{number}").into());
        let metadata = Meta { namespace, name, ..Meta::default() };
        index.set(&AuthorizationPolicy { metadata, spec: Readable::Read(spec) }.into());
    }
    index.take_changes();
    for number in 0..100_000 {
        let app = format!("app-{}", number % 10_000);
        let pod = labels(&[("all", "same"), ("app", &app), ("pod-template-hash", "x")]);
        let expected = usize::from(number % 10_000 < 5_000);
        assert_eq!(index.bound("shop", &pod).len(), expected);
    }
}
