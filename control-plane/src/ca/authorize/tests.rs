use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::caller::{CallerPod, RefusalKind};

const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";

fn pods() -> Pods {
    let pods = Pods::default();
    put(&pods, "istio-system", "ztunnel-1", "ztunnel", "n1", &json!({}));
    let ambient = json!({"istio.io/dataplane-mode": "ambient"});
    put(&pods, "shop", "cart-1", "cart", "n1", &ambient);
    put(&pods, "shop", "bank-1", "bank", "n2", &ambient);
    put(&pods, "shop", "plain-1", "plain", "n1", &json!({}));
    pods
}

fn put(pods: &Pods, namespace: &str, name: &str, account: &str, node: &str, labels: &Value) {
    let pod = json!({
        "metadata": {"name": name, "namespace": namespace, "uid": "u1", "labels": labels},
        "spec": {"nodeName": node, "serviceAccountName": account},
        "status": {"phase": "Running"},
    });
    pods.write(|index| index.upsert_pod(&serde_json::from_value(pod).expect("a pod")));
}

fn agent() -> Caller {
    Caller {
        identity: SpiffeId::parse("spiffe://cluster.local/ns/istio-system/sa/ztunnel")
            .expect("literal"),
        node: Some(Arc::from("n1")),
        pod: Some(CallerPod { name: "ztunnel-1".into(), uid: "u1".into() }),
        proof: Proof::ServiceAccountToken,
        role: Role::NodeProxy,
    }
}

#[test]
fn a_node_gets_identities_of_its_own_pods_only() {
    let authorizer = Authorizer::new(TrustDomain::default(), pods());
    let granted = authorizer.grant(&agent(), Some(CART)).expect("runs there");
    assert_eq!((granted.identity.as_str(), granted.holder.as_str()), (CART, "n1"));
    for (wanted, why) in [
        ("spiffe://cluster.local/ns/shop/sa/bank", "runs on node n1"),
        ("spiffe://cluster.local/ns/shop/sa/plain", "runs on node n1"),
        ("spiffe://cluster.local/ns/istio-system/sa/ztunnel", "runs on node n1"),
        ("spiffe://cluster.local/ns/cart/sa/shop", "runs on node n1"),
        ("spiffe://other.domain/ns/shop/sa/cart", "not of our trust domain"),
        ("spiffe://cluster.local/ns/shop/sa/cart/x", "no workload's identity"),
        ("", "no workload's identity"),
    ] {
        let refused = authorizer.grant(&agent(), Some(wanted)).expect_err(wanted);
        assert!(refused.kind() == RefusalKind::Forbidden, "{refused:?}");
        assert!(refused.to_string().contains(why), "{refused}");
    }
}

#[test]
fn the_caller_must_be_a_node_and_prove_which() {
    type Case = (&'static str, fn(&mut Caller));
    let cases: [Case; 7] = [
        ("may not ask", |c| c.role = Role::Workload),
        ("may not ask", |c| c.role = Role::Gateway),
        ("does not say where", |c| c.proof = Proof::Certificate),
        ("bound to no pod", |c| c.pod = None),
        ("another instance", |c| {
            c.pod = Some(CallerPod { name: "ztunnel-1".into(), uid: "u2".into() });
        }),
        ("another account", |c| {
            c.identity = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/x").expect("literal");
            c.pod = Some(CallerPod { name: "cart-1".into(), uid: "u1".into() });
        }),
        ("another trust domain", |c| {
            c.identity =
                SpiffeId::parse("spiffe://other/ns/istio-system/sa/ztunnel").expect("literal");
        }),
    ];
    let authorizer = Authorizer::new(TrustDomain::default(), pods());
    for (why, change) in cases {
        let mut caller = agent();
        change(&mut caller);
        let refused = authorizer.grant(&caller, Some(CART)).expect_err(why);
        assert!(refused.kind() == RefusalKind::Forbidden, "{refused:?}");
        assert!(refused.to_string().contains(why), "{refused} / {why}");
    }
    let mut unknown = agent();
    unknown.pod = Some(CallerPod { name: "ztunnel-9".into(), uid: "u1".into() });
    let refused = authorizer.grant(&unknown, Some(CART)).expect_err("not known yet");
    assert!(refused.kind() == RefusalKind::Unavailable, "it may try again: {refused:?}");
}

#[test]
fn a_join_token_proves_its_node() {
    let authorizer = Authorizer::new(TrustDomain::default(), pods());
    let mut caller = Caller { proof: Proof::JoinToken, pod: None, ..agent() };
    authorizer.grant(&caller, Some(CART)).expect("its node");
    caller.node = Some(Arc::from("n2"));
    authorizer.grant(&caller, Some(CART)).expect_err("another node");
    caller.node = None;
    authorizer.grant(&caller, Some(CART)).expect_err("no node");
}

#[test]
fn what_holds_is_what_is_there_now() {
    let pods = pods();
    let authorizer = Authorizer::new(TrustDomain::default(), pods.clone());
    // The caller was authenticated before; its pod has moved since.
    put(&pods, "istio-system", "ztunnel-1", "ztunnel", "n2", &json!({}));
    authorizer.grant(&agent(), Some(CART)).expect_err("its node is another");
    put(&pods, "istio-system", "ztunnel-1", "ztunnel", "n1", &json!({}));
    pods.write(|index| index.remove_pod(&ObjectName::new("shop", "cart-1")));
    authorizer.grant(&agent(), Some(CART)).expect_err("the pod is gone");
}

#[test]
fn others_get_their_own_identity() {
    let authorizer = Authorizer::new(TrustDomain::default(), pods());
    let (identity, role) = (SpiffeId::parse(CART).expect("literal"), Role::Workload);
    let proof = Proof::ServiceAccountToken;
    let caller = Caller { identity: identity.clone(), node: None, pod: None, proof, role };
    let granted = authorizer.grant(&caller, None).expect("its own");
    assert_eq!(granted, Granted { identity, holder: CART.to_owned() });
}

/// A stolen certificate must not outlive its pod by renewing itself.
#[test]
fn a_certificate_renews_that_of_living_agents_and_gateways_only() {
    let pods = pods();
    let authorizer = Authorizer::new(TrustDomain::default(), pods.clone());
    let by_certificate = |uri: &str, role| {
        let identity = SpiffeId::parse(uri).expect("literal");
        Caller { identity, node: None, pod: None, proof: Proof::Certificate, role }
    };
    let refused = |caller: &Caller, why: &str| {
        let refused = authorizer.grant(caller, None).expect_err(why);
        assert!(refused.kind() == RefusalKind::Forbidden, "{refused:?}");
        assert!(refused.to_string().contains(why), "{refused}");
    };
    refused(&by_certificate(CART, Role::Workload), "may not renew");
    let agent = by_certificate(agent().identity.as_str(), Role::NodeProxy);
    let gateway = by_certificate(CART, Role::Gateway);
    for caller in [&agent, &gateway] {
        let granted = authorizer.grant(caller, None).expect("its pod lives");
        assert_eq!(granted.identity, caller.identity);
    }
    pods.write(|index| {
        index.remove_pod(&ObjectName::new("istio-system", "ztunnel-1"));
        index.remove_pod(&ObjectName::new("shop", "cart-1"));
    });
    refused(&agent, "lives");
    refused(&gateway, "lives");
}
