//! Which object a host stands for, and who may see it.

use super::*;
use crate::{EntryVisibility, VisibilityRule};
use cluster::{LabelSelector, WorkloadSelector};

fn entry(namespace: &str, name: &str, created: u8, host: &str) -> String {
    format!(
        "---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: '2026-01-0{created}T00:00:00Z', labels: {{name: {name}}}}}
spec: {{hosts: [{host}], resolution: STATIC, addresses: [10.0.0.{created}], endpoints: [{{address: 1.1.1.{created}}}]}}
"
    )
}

fn endpoint(namespace: &str, name: &str, address: &str) -> String {
    format!("Kubernetes/networking.istio.io/ServiceEntry/{namespace}/{name}/{address}")
}

#[test]
fn a_service_before_entries_and_of_entries_the_oldest() {
    let host = "svc.ns.svc.cluster.local";
    let key = format!("ns/{host}");
    let mut mesh = Mesh::of(&entry("ns", "young", 2, host));
    assert_eq!(mesh.service(&key).name, "young");
    mesh.set(&entry("ns", "old", 1, host));
    assert_eq!(mesh.service(&key).name, "old");
    assert_eq!(mesh.names(), [&*endpoint("ns", "old", "1.1.1.1"), &key]);
    assert_eq!(
        mesh.problems(),
        [format!(
            "ServiceEntry ns/young: the host {host} belongs to ServiceEntry ns/old, so it was left out"
        )]
    );
    mesh.set("{apiVersion: v1, kind: Service, metadata: {name: svc, namespace: ns}}");
    assert_eq!(mesh.service(&key).name, "svc");
    assert_eq!(mesh.names(), [&*key]);
    assert_eq!(mesh.problems().len(), 2);
    mesh.delete(Kind::Service, "ns", "svc");
    assert_eq!(mesh.service(&key).name, "old");
    mesh.delete(Kind::ServiceEntry, "ns", "old");
    assert_eq!(mesh.service(&key).name, "young");
    assert_eq!(mesh.names(), [&*endpoint("ns", "young", "1.1.1.2"), &key]);
    assert_eq!(mesh.problems(), [""; 0]);
}

#[test]
fn one_namespace_is_canonical() {
    let canonical = |mesh: &Mesh, host: &str| -> Vec<String> {
        let names = mesh.names().into_iter().filter(|name| name.ends_with(&format!("/{host}")));
        let names = names.filter(|name| mesh.service(name).canonical);
        names.map(str::to_owned).collect()
    };
    let mut mesh = Mesh::of(&format!(
        "{}{}",
        entry("b", "se", 2, "x.example"),
        entry("c", "se", 3, "x.example")
    ));
    assert_eq!(canonical(&mesh, "x.example"), ["b/x.example"]);
    let changes = mesh.set(&entry("a", "se", 1, "x.example"));
    assert_eq!(canonical(&mesh, "x.example"), ["a/x.example"]);
    assert_eq!(changed(&changes), [&*endpoint("a", "se", "1.1.1.1"), "a/x.example", "b/x.example"]);
    mesh.delete(Kind::ServiceEntry, "a", "se");
    assert_eq!(canonical(&mesh, "x.example"), ["b/x.example"]);

    let host = "svc.z.svc.cluster.local";
    mesh.set(&entry("b", "se2", 1, host));
    assert_eq!(canonical(&mesh, host), [format!("b/{host}")]);
    mesh.set("{apiVersion: v1, kind: Service, metadata: {name: svc, namespace: z}}");
    assert_eq!(canonical(&mesh, host), [format!("z/{host}")]);
}

fn rule(namespace: &str, entry: &str, visibility: EntryVisibility) -> VisibilityRule {
    let labels = |key: &str, value: &str| {
        (!value.is_empty()).then(|| (Text::from(key), Text::from(value))).into_iter()
    };
    VisibilityRule {
        namespaces: LabelSelector {
            match_labels: labels("kubernetes.io/metadata.name", namespace).collect(),
            match_expressions: Vec::new(),
        },
        entries: WorkloadSelector(labels("name", entry).collect()),
        visibility,
    }
}

#[test]
fn the_first_rule_of_visibility_counts() {
    let rules = [
        rule("ns", "hidden", EntryVisibility::None),
        rule("ns", "", EntryVisibility::Namespace),
        rule("other", "", EntryVisibility::None),
    ];
    let settings = Settings { entry_visibility: rules.to_vec(), ..settings() };
    let text = [("ns", "hidden"), ("ns", "own"), ("other", "x"), ("third", "all")]
        .map(|(namespace, name)| entry(namespace, name, 1, &format!("{name}.example")))
        .concat();
    let mesh = Mesh::with(settings, &text);
    assert_eq!(
        mesh.names(),
        [
            &*endpoint("ns", "own", "1.1.1.1"),
            &*endpoint("third", "all", "1.1.1.1"),
            "ns/own.example",
            "third/all.example"
        ]
    );
    assert_eq!(mesh.service("ns/own.example").visibility, 1);
    assert!(!mesh.service("ns/own.example").canonical);
    assert_eq!(mesh.service("third/all.example").visibility, 0);
    assert!(mesh.service("third/all.example").canonical);
    for (namespace, name, expected) in
        [("ns", "hidden", "None"), ("ns", "own", "Namespace"), ("third", "all", "Public")]
    {
        let expected = format!("istio.io/VisibilityApplied true {expected}");
        assert_eq!(mesh.conditions(Kind::ServiceEntry, namespace, name), [expected]);
    }
}

#[test]
fn hosts_that_are_none_are_left_out() {
    let mesh = Mesh::of(&entry("ns", "se", 1, "'a/b', a.example, a.example, ''"));
    assert_eq!(mesh.names(), [&*endpoint("ns", "se", "1.1.1.1"), "ns/a.example"]);
    assert_eq!(mesh.problems().len(), 3, "{:?}", mesh.problems());
}

#[test]
fn namespaces_that_are_not_seen_have_nothing() {
    let selector = LabelSelector {
        match_labels: [("mesh".into(), "yes".into())].into(),
        match_expressions: Vec::new(),
    };
    let settings = Settings { discovery_selectors: vec![selector], ..settings() };
    let text = "
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: ns, labels: {app: a}}
status: {phase: Running, podIP: 1.2.3.4}
---
{apiVersion: v1, kind: Service, metadata: {name: svc, namespace: ns}}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: ns}, spec: {selector: {matchLabels: {app: a}}}}
---
{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: we, namespace: ns}, spec: {address: 1.2.3.5}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: ns}}
";
    let seen = "{apiVersion: v1, kind: Namespace, metadata: {name: ns, labels: {mesh: 'yes'}}}";
    let mut mesh = Mesh::with(settings, text);
    assert_eq!(mesh.names(), [""; 0]);
    assert!(mesh.policies.is_empty());
    mesh.set(seen);
    assert_eq!(mesh.names().len(), 3);
    assert_eq!(mesh.pod("ns/a").authorization_policies, ["ns/p"]);
    assert_eq!(mesh.policies.len(), 1);
    mesh.delete(Kind::Namespace, "", "ns");
    assert_eq!(mesh.names(), [""; 0]);
    assert!(mesh.policies.is_empty());
    // What holds for the whole mesh does not depend on selectors.
    mesh.set(
        "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, \
          metadata: {name: q, namespace: istio-system}}",
    );
    assert!(mesh.policies.contains_key("istio-system/q"));
}

#[test]
fn entries_of_another_revision_are_not_ours() {
    let text = entry("ns", "se", 1, "a.example");
    let mut mesh = Mesh::of(&text);
    assert_eq!(mesh.names().len(), 2);
    mesh.set(&text.replace("labels: {", "labels: {istio.io/rev: canary, "));
    assert_eq!(mesh.names(), [""; 0]);
}
