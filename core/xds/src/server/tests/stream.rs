//! One stream, step by step.

use prost::Message;
use proto::workload::Workload;

use super::wire::{
    after, answer, catalog, connection, decoded, endpoint, holding, pod, policy, remove, request,
    said, set, settle, subscribe, uid,
};
use crate::server::{
    Catalog, Collection, FIRST_RESPONSE_BYTES_MAX, Heard, NAME_BYTES_MAX, RECENT_CHANGES_MAX,
    RESPONSE_BYTES_MAX, RequestViolation, Resource, ResourceType, SUBSCRIBED_MAX, WORKLOAD_TYPE,
};
use ResourceType::{Address, Authorization};

#[test]
fn the_first_response_holds_everything_even_if_that_is_nothing() {
    let full = catalog(vec![Resource::workload(pod(1, "1")), policy("p", 0)]);
    let empty = std::sync::Arc::default();
    for (catalog, want) in [(&full, vec![uid(1)]), (&empty, vec![])] {
        let mut stream = connection(catalog);
        assert_eq!(stream.receive(request(Address)), Ok(Heard::Subscribed(Address)));
        assert_eq!(settle(&mut stream), [(Address, want)]);
        assert_eq!(settle(&mut stream), []);
        assert!(!stream.is_pending());
    }
}

#[test]
fn addresses_wait_for_policies_but_not_for_ever() {
    let first = catalog(vec![Resource::workload(pod(1, "1")), policy("p", 0)]);
    let mut stream = connection(&first);
    stream.receive(request(Address)).expect("valid");
    assert!(stream.respond().is_none());
    stream.receive(request(Authorization)).expect("valid");
    let policies = stream.respond().expect("policies");
    let addresses = stream.respond().expect("addresses, before the policies are accepted");
    assert_eq!((policies.kind, addresses.kind), (Authorization, Address));
    assert!(stream.respond().is_none());
    let mut alone = connection(&first);
    alone.receive(request(Address)).expect("valid");
    alone.settle();
    assert_eq!(alone.respond().expect("addresses").kind, Address);
}

#[test]
fn a_policy_comes_before_the_workload_that_names_it_and_goes_after() {
    let first = catalog(vec![Resource::workload(pod(1, "1")), policy("old", 0)]);
    let mut stream = connection(&first);
    stream.receive(request(Authorization)).expect("valid");
    stream.receive(request(Address)).expect("valid");
    settle(&mut stream);
    let mut update = set(vec![Resource::workload(pod(1, "2")), policy("new", 0)]);
    update.removed.push((Collection::Policies, "shop/old".into()));
    stream.advance(after(&first, update));
    let want = [
        (Authorization, vec!["shop/new".to_owned()]),
        (Address, vec![uid(1)]),
        (Authorization, vec!["-shop/old".to_owned()]),
    ];
    assert_eq!(settle(&mut stream), want);
}

#[test]
fn what_changes_while_a_response_is_in_flight_is_sent_once_and_as_it_is_then() {
    let mut now = catalog(vec![Resource::workload(pod(1, "1")), Resource::workload(pod(2, "1"))]);
    let mut stream = connection(&now);
    stream.receive(request(Address)).expect("valid");
    stream.settle();
    let first = stream.respond().expect("everything");
    let updates = [
        set(vec![Resource::workload(pod(1, "2"))]),
        set(vec![Resource::workload(pod(1, "3"))]),
        // There and gone again: the client never had it.
        set(vec![Resource::workload(pod(3, "1"))]),
        remove(Collection::Addresses, &uid(3)),
        // Different and as before again.
        set(vec![Resource::workload(pod(2, "2"))]),
        set(vec![Resource::workload(pod(2, "1"))]),
    ];
    for update in updates {
        now = after(&now, update);
        stream.advance(now.clone());
        assert!(stream.respond().is_none(), "one in flight");
    }
    // An answer to another response is none.
    let mut stale = answer(&first, None);
    stale.response_nonce = "other".into();
    assert_eq!(stream.receive(stale), Ok(Heard::Other(Address)));
    assert!(stream.respond().is_none());
    stream.receive(answer(&first, None)).expect("valid");
    let second = stream.respond().expect("what changed");
    assert_eq!(said(&second), [uid(1)]);
    let body = decoded(&second).resources[0].resource.clone().expect("a body").value;
    assert_eq!(body, Resource::workload(pod(1, "3")).body());
}

#[test]
fn what_was_refused_is_counted_and_not_sent_until_it_changes() {
    let first = catalog(vec![Resource::workload(pod(1, "1"))]);
    let mut stream = connection(&first);
    stream.receive(request(Address)).expect("valid");
    stream.settle();
    let response = stream.respond().expect("everything");
    let heard = stream.receive(answer(&response, Some("unreadable"))).expect("valid");
    assert!(matches!(heard, Heard::Answered(answered) if answered.is_rejected));
    assert!(stream.respond().is_none());
    let status = stream.status().remove(0);
    assert_eq!((status.rejections, status.last_rejection.as_deref()), (1, Some("unreadable")));
    stream.advance(after(&first, set(vec![Resource::workload(pod(1, "2"))])));
    assert_eq!(settle(&mut stream), [(Address, vec![uid(1)])]);
}

#[test]
fn who_comes_back_is_sent_the_differences() {
    let first = catalog(vec![
        Resource::workload(pod(1, "1")),
        Resource::workload(pod(2, "1")),
        Resource::workload(pod(3, "1")),
    ]);
    let version = Resource::workload(pod(1, "1")).version().to_string();
    let held = [
        (&*uid(1), &*version),
        (&*uid(2), "older"),
        // Refused before: it has none.
        (&*uid(3), ""),
        (&*uid(4), "any"),
    ];
    let want = vec![format!("-{}", uid(4)), uid(2), uid(3)];
    let mut stream = connection(&first);
    stream.receive(holding(request(Address), &held)).expect("valid");
    assert_eq!(settle(&mut stream), [(Address, want)]);
    // The same for who had everything.
    let mut stream = connection(&catalog(vec![Resource::workload(pod(1, "1"))]));
    stream.receive(holding(request(Address), &held[..1])).expect("valid");
    assert_eq!(settle(&mut stream), [(Address, vec![])]);
}

#[test]
fn waypoints_are_sent_workloads_as_such() {
    let first = catalog(vec![
        Resource::workload(endpoint(1, "cart")),
        Resource::service(super::wire::vip("cart", 1)),
    ]);
    let mut stream = connection(&first);
    stream.receive(request(ResourceType::Workload)).expect("valid");
    stream.settle();
    let response = decoded(&stream.respond().expect("workloads"));
    let [resource] = &*response.resources else { panic!("{response:?}") };
    let body = resource.resource.clone().expect("a body");
    assert_eq!(body.type_url, WORKLOAD_TYPE);
    assert_eq!(Workload::decode(body.value), Ok(endpoint(1, "cart")));
}

#[test]
fn only_later_responses_are_split() {
    let long = "x".repeat(60_000);
    let many = |revision: &str| {
        let pods = (0..=255).map(|number| pod(number, &format!("{revision}{long}")));
        set(pods.map(Resource::workload).collect())
    };
    let first = after(&Catalog::default(), many("1"));
    let mut stream = connection(&first);
    stream.receive(request(Address)).expect("valid");
    stream.settle();
    let response = stream.respond().expect("everything");
    assert_eq!(response.resources, 256);
    assert!((RESPONSE_BYTES_MAX..FIRST_RESPONSE_BYTES_MAX).contains(&response.bytes.len()));
    stream.receive(answer(&response, None)).expect("valid");
    stream.advance(after(&first, many("2")));
    let mut sent = 0;
    while let Some(response) = stream.respond() {
        assert!(response.bytes.len() <= RESPONSE_BYTES_MAX);
        sent += response.resources;
        stream.receive(answer(&response, None)).expect("valid");
    }
    assert_eq!(sent, 256);
}

#[test]
fn who_is_far_behind_misses_nothing() {
    let first = catalog(vec![Resource::workload(pod(1, "0")), Resource::workload(pod(2, "0"))]);
    let mut stream = connection(&first);
    stream.receive(request(Address)).expect("valid");
    settle(&mut stream);
    let mut now = after(&first, remove(Collection::Addresses, &uid(2)));
    for number in 0..=RECENT_CHANGES_MAX {
        now = after(&now, set(vec![Resource::workload(pod(3, &number.to_string()))]));
    }
    stream.advance(now);
    assert_eq!(settle(&mut stream), [(Address, vec![format!("-{}", uid(2)), uid(3)])]);
}

#[test]
fn what_is_beyond_the_bounds_ends_the_stream() {
    let first = catalog(vec![policy("p", 0)]);
    let mut stream = connection(&first);
    let long = "x".repeat(NAME_BYTES_MAX + 1);
    let refused = stream.receive(subscribe(Address, &[&long]));
    assert_eq!(refused, Err(RequestViolation::LongName(long.len())));
    let names: Vec<_> = (0..=SUBSCRIBED_MAX).map(|number| format!("n/{number}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    stream.receive(subscribe(Address, &names[1..])).expect("as many as may be");
    let refused = stream.receive(subscribe(Address, &names[..1]));
    assert_eq!(refused, Err(RequestViolation::TooManyNames(names.len())));
}

#[test]
fn a_type_that_is_not_served_is_not_answered() {
    let mut stream = connection(&catalog(vec![policy("p", 0)]));
    let mut other = request(Address);
    other.type_url = "type.googleapis.com/envoy.config.cluster.v3.Cluster".into();
    assert_eq!(stream.receive(other), Ok(Heard::UnknownType));
    assert_eq!((stream.unknown_types(), settle(&mut stream)), (1, vec![]));
}

#[test]
fn an_update_that_changes_nothing_is_none() {
    let first = catalog(vec![policy("p", 0)]);
    assert!(first.apply(set(vec![policy("p", 0)])).is_none());
    assert!(first.apply(remove(Collection::Addresses, "shop/p")).is_none());
    let changed = after(&first, set(vec![policy("p", 1)]));
    assert_eq!((changed.sequence(), changed.len(Collection::Policies)), (2, 1));
}

#[test]
fn a_policy_that_is_gone_does_not_wait_for_what_came_and_went() {
    let first = catalog(vec![policy("p", 0)]);
    let mut stream = connection(&first);
    stream.receive(request(Authorization)).expect("valid");
    stream.receive(request(Address)).expect("valid");
    settle(&mut stream);
    let second = after(&first, set(vec![Resource::workload(pod(1, "1"))]));
    let third = after(&second, remove(Collection::Policies, "shop/p"));
    let fourth = after(&third, remove(Collection::Addresses, &uid(1)));
    for next in [second, third, fourth] {
        stream.advance(next);
    }
    let gone = vec!["-shop/p".to_owned()];
    assert_eq!(settle(&mut stream), [(Authorization, gone)]);
}
