use std::sync::Arc;

use model::{TrustDomain, Workload};

use super::TRUST_DOMAINS_MAX;
use crate::sharded::SHARDS;
use crate::tests::{service, serving, workload};
use crate::{Change, Snapshot};

fn pod(id: usize) -> Workload {
    serving(workload(&format!("shop/cart{id}"), &["10.0.0.1"]), "shop/cart.svc", &[(80, 80)])
}

#[test]
fn equal_texts_are_one() {
    let snapshot = Snapshot::build(vec![pod(1)], vec![service("shop/cart.svc", &[], &[])]);
    let snapshot = snapshot.apply([Change::Workload(pod(2))]);
    let [one, other] = [pod(1), pod(2)]
        .map(|pod| snapshot.workload_by_uid(&pod.uid).expect("it is there").clone());
    let texts = |workload: &Workload| {
        let service = workload.services.keys().next().expect("one").clone();
        [
            workload.key.namespace.clone(),
            workload.key.service_account.clone(),
            workload.network.0.clone(),
            workload.node.clone(),
            workload.cluster.clone(),
            workload.workload_name.clone(),
            workload.locality.zone.clone(),
            service.namespace,
            service.hostname,
        ]
    };
    for (one, other) in texts(&one).iter().zip(&texts(&other)) {
        assert!(Arc::ptr_eq(one, other), "{one}");
    }
    // A service's own texts are those of its endpoints.
    let service = snapshot.services().next().expect("one");
    assert!(Arc::ptr_eq(&service.name.hostname, &texts(&one)[8]));
    // And what nobody shares stays as it came.
    assert_eq!((&*one.key.name, &*other.key.name), ("cart1", "cart2"));
}

#[test]
fn unused_texts_go() {
    let mut snapshot = Snapshot::default();
    let mut kept = Vec::new();
    for step in 0..5 * SHARDS {
        let node: Arc<str> = format!("node{step}").into();
        kept.push(Arc::downgrade(&node));
        let change = Workload { node, ..pod(1) };
        snapshot = snapshot.apply([Change::Workload(change)]);
    }
    let alive = kept.iter().filter(|text| text.strong_count() > 0).count();
    // A sweep of every part finds nearly all of them; the last one is in use.
    assert!((1..=2 * SHARDS).contains(&alive), "{alive}");
}

#[test]
fn trust_domains_are_bounded() {
    let mut snapshot = Snapshot::default();
    for step in 0..2 * TRUST_DOMAINS_MAX + 7 {
        let trust_domain = TrustDomain::parse(&format!("td{step}")).expect("valid");
        snapshot = snapshot.apply([Change::Workload(Workload { trust_domain, ..pod(1) })]);
        assert!(snapshot.texts.trust_domains.len() <= TRUST_DOMAINS_MAX);
    }
}
