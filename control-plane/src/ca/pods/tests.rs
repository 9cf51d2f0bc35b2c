use serde_json::{Value, json};

use super::*;

fn pod(value: Value) -> Pod {
    serde_json::from_value(value).expect("a pod")
}

fn cart(change: impl FnOnce(&mut Value)) -> Pod {
    let mut value = json!({
        "metadata": {"name": "cart-1", "namespace": "shop", "uid": "u1",
            "labels": {"istio.io/dataplane-mode": "ambient"}},
        "spec": {"nodeName": "n1", "serviceAccountName": "cart"},
        "status": {"phase": "Running"},
    });
    change(&mut value);
    pod(value)
}

fn namespace(labels: &Value) -> Namespace {
    serde_json::from_value(json!({"metadata": {"name": "shop", "labels": labels}}))
        .expect("a namespace")
}

#[test]
fn a_pod_counts_when_it_is_in_the_mesh_on_that_node_now() {
    type Case = (&'static str, fn(&mut Value), bool);
    let cases: [Case; 11] = [
        ("as it is", |_| {}, true),
        ("pending", |p| p["status"]["phase"] = json!("Pending"), true),
        ("succeeded", |p| p["status"]["phase"] = json!("Succeeded"), false),
        ("failed", |p| p["status"]["phase"] = json!("Failed"), false),
        ("unknown", |p| p["status"]["phase"] = json!("Unknown"), false),
        ("host network", |p| p["spec"]["hostNetwork"] = json!(true), false),
        ("not bound", |p| p["spec"]["nodeName"] = json!(""), false),
        ("elsewhere", |p| p["spec"]["nodeName"] = json!("n2"), false),
        ("another account", |p| p["spec"]["serviceAccountName"] = json!("bank"), false),
        ("opted out", |p| p["metadata"]["labels"][MODE_LABEL] = json!("none"), false),
        ("without a label", |p| p["metadata"]["labels"] = json!({}), false),
    ];
    for (what, change, counts) in cases {
        let mut index = PodIndex::default();
        index.upsert_pod(&cart(change));
        assert_eq!(index.runs("n1", "shop", "cart"), counts, "{what}");
    }
}

#[test]
fn that_an_agent_serves_a_pod_counts_in_manifests_only() {
    type Case = (&'static str, fn(&mut Value), bool);
    let cases: [Case; 2] = [
        ("without a label", |p| p["metadata"]["labels"] = json!({}), true),
        ("opted out", |p| p["metadata"]["labels"][MODE_LABEL] = json!("none"), false),
    ];
    for (what, change, counts) in cases {
        let served = cart(|p| {
            change(p);
            p["metadata"]["annotations"] = json!({"ambient.istio.io/redirection": "enabled"});
        });
        for (pods, counts) in [(Pods::of_manifests(), counts), (Pods::default(), false)] {
            pods.write(|index| index.upsert_pod(&served));
            assert_eq!(pods.read(|index| index.runs("n1", "shop", "cart")), counts, "{what}");
        }
    }
}

#[test]
fn a_namespace_speaks_for_pods_that_say_nothing() {
    let mut index = PodIndex::default();
    index.upsert_pod(&cart(|p| p["metadata"]["labels"] = json!({})));
    let mut other = cart(|p| p["metadata"]["labels"] = json!({}));
    other.metadata.namespace = "shop2".into();
    index.upsert_pod(&other);
    let selects = namespace(&json!({"istio.io/dataplane-mode": "ambient"}));
    index.upsert_namespace(&selects);
    index.upsert_namespace(&selects);
    assert!(index.runs("n1", "shop", "cart"));
    assert!(!index.runs("n1", "shop2", "cart"), "another namespace with the same beginning");
    index.upsert_namespace(&namespace(&json!({})));
    assert!(!index.runs("n1", "shop", "cart"));
    index.upsert_namespace(&selects);
    index.remove_namespace("shop");
    assert!(!index.runs("n1", "shop", "cart"));
}

#[test]
fn the_last_pod_of_an_account_ends_it() {
    let mut index = PodIndex::default();
    let second = cart(|p| p["metadata"]["name"] = json!("cart-2"));
    index.upsert_pod(&cart(|_| {}));
    index.upsert_pod(&cart(|_| {}));
    index.upsert_pod(&second);
    index.remove_pod(&ObjectName::new("shop", "cart-1"));
    assert!(index.runs("n1", "shop", "cart"));
    index.upsert_pod(&cart(|p| {
        p["metadata"]["name"] = json!("cart-2");
        p["spec"]["nodeName"] = json!("n2");
    }));
    assert!(!index.runs("n1", "shop", "cart") && index.runs("n2", "shop", "cart"));
    index.remove_pod(&ObjectName::new("shop", "cart-2"));
    assert!(index.is_empty() && index.counted.is_empty() && index.living.is_empty());
}

#[test]
fn an_account_lives_while_a_pod_of_it_does() {
    let mut index = PodIndex::default();
    index.upsert_pod(&cart(|p| p["metadata"]["labels"] = json!({})));
    assert!(index.lives("shop", "cart"), "in the mesh or not");
    assert!(!index.lives("shop", "bank") && !index.lives("cart", "shop"));
    index.upsert_pod(&cart(|p| p["status"]["phase"] = json!("Succeeded")));
    assert!(!index.lives("shop", "cart"));
}

fn waypoint() -> Pod {
    cart(|p| {
        p["metadata"]["labels"] = json!({
            "gateway.istio.io/managed": "istio.io-mesh-controller",
            "gateway.networking.k8s.io/gateway-name": "waypoint",
        });
    })
}

#[test]
fn gateways_are_known_by_what_their_controller_wrote() {
    let mut index = PodIndex::default();
    let name = ObjectName::new("shop", "cart-1");
    index.upsert_gateway("shop", "waypoint");
    index.upsert_pod(&waypoint());
    assert!(index.is_gateway("shop", "cart") && !index.is_gateway("shop", "bank"));
    assert!(index.is_gateway_pod(&name));
    index.upsert_pod(&cart(|_| {}));
    assert!(!index.is_gateway("shop", "cart") && !index.is_gateway_pod(&name));
}

/// Labels alone would let whoever may make pods have a gateway.
#[test]
fn a_pod_of_a_gateway_needs_that_gateway() {
    let mut index = PodIndex::default();
    let name = ObjectName::new("shop", "cart-1");
    index.upsert_pod(&waypoint());
    assert!(!index.is_gateway("shop", "cart") && !index.is_gateway_pod(&name));
    index.upsert_gateway("shop", "another");
    index.upsert_gateway("bank", "waypoint");
    assert!(!index.is_gateway("shop", "cart") && !index.is_gateway_pod(&name));
    index.upsert_gateway("shop", "waypoint");
    index.upsert_gateway("shop", "waypoint");
    assert!(index.is_gateway("shop", "cart") && index.is_gateway_pod(&name));
    index.remove_gateway("shop", "waypoint");
    index.remove_gateway("shop", "waypoint");
    assert!(!index.is_gateway("shop", "cart") && !index.is_gateway_pod(&name));
    index.remove_pod(&name);
    assert!(index.gateways.is_empty());
}

#[test]
fn names_that_nobody_uses_are_dropped() {
    let mut index = PodIndex::default();
    for number in 0..INTERNED_MIN * 3 {
        index.upsert_pod(&cart(|p| p["spec"]["nodeName"] = json!(format!("n{number}"))));
    }
    assert!(index.interned.len() <= INTERNED_MIN, "{}", index.interned.len());
}
