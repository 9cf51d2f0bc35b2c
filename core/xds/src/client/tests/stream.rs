use authz::{Binding, StoredRef};
use model::PolicyName;
use proto::discovery::DeltaDiscoveryResponse;
use proto::security::Scope;

use super::wire::{
    address, address_of, client, nack, policy, raw, response, service, settings, start, told, uids,
    workload,
};
use crate::client::{
    Client, Mode, NACK_BYTES_MAX, RESOURCES_HELD_MAX, Received, Refusal, Sync, Violation,
};
use crate::kind::Kind;

fn receive(client: &mut Client, response: DeltaDiscoveryResponse) -> Received {
    client.receive(response, start()).expect("within the protocol")
}

fn unreadable(client: &Client, name: &str) -> Option<Binding> {
    match client.policies().get(&PolicyName::parse(name).expect("a name"))? {
        StoredRef::Unreadable(policy) => Some(policy.binding),
        StoredRef::Policy(_) => None,
    }
}

#[test]
fn the_first_requests_say_who_asks_and_what_is_held() {
    let mut client = client(Mode::Wildcard);
    let [addresses, policies] = client.opened().try_into().expect("one of each type");
    for (request, kind) in [(&addresses, Kind::Address), (&policies, Kind::Authorization)] {
        assert_eq!(request.node.as_ref().expect("a node").id, "node");
        assert_eq!(request.type_url, kind.url());
        assert!(request.resource_names_subscribe.is_empty());
        assert!(request.resource_names_unsubscribe.is_empty());
        assert!(told(request).is_empty() && request.response_nonce.is_empty());
    }
    let sent = vec![address(1, "v1"), address(2, &"v".repeat(200)), service("cart", 1)];
    receive(&mut client, response(Kind::Address, "a", sent, &[]));
    let sent = vec![policy("p", Scope::Namespace)];
    receive(&mut client, response(Kind::Authorization, "a", sent, &[]));
    client.closed(0);
    let [addresses, policies] = client.opened().try_into().expect("one of each type");
    // A version that is too long to keep is not told.
    let held = [("k//Pod/shop/w1", "v1"), ("k//Pod/shop/w2", ""), ("shop/cart", "1")];
    assert_eq!(told(&addresses), held);
    // Istio sends policies without versions.
    assert_eq!(told(&policies), [("shop/p", "")]);
}

#[test]
fn each_resource_is_accepted_on_its_own() {
    let mut client = client(Mode::Wildcard);
    client.opened();
    let first = receive(&mut client, response(Kind::Address, "a", vec![address(1, "v1")], &[]));
    assert_eq!((nack(&first), first.published), (None, true));
    assert_eq!(first.requests.len(), 1);
    assert_eq!(first.requests[0].response_nonce, "a");
    assert_eq!(first.requests[0].type_url, Kind::Address.url());
    assert_eq!(first.requests[0].node, None);

    let mut bad = workload(1);
    bad.status = 9;
    let mut other_type = address(4, "v1");
    other_type.resource.as_mut().expect("set").type_url = "x".into();
    let nothing =
        proto::discovery::Resource { name: "k//Pod/shop/w5".into(), ..Default::default() };
    let sent = vec![address_of(bad, "v2"), address(2, "v1"), other_type, nothing];
    let second = receive(&mut client, response(Kind::Address, "b", sent, &[]));
    let text = "\"k//Pod/shop/w1\": status: 9 is not a known value; \
                \"k//Pod/shop/w4\": is a \"x\"; \"k//Pod/shop/w5\": is missing";
    assert_eq!((nack(&second), second.published), (Some(text), true));
    assert_eq!(second.requests[0].error_detail.as_ref().expect("refused").code, 3);
    let names: Vec<_> = second.rejected.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["k//Pod/shop/w1", "k//Pod/shop/w4", "k//Pod/shop/w5"]);
    // The old version of the first stays in force, but is not told as such.
    assert_eq!(uids(&client), ["k//Pod/shop/w1", "k//Pod/shop/w2"]);
    let workload = client.snapshot().workload_by_uid(&model::WorkloadUid("k//Pod/shop/w1".into()));
    assert_eq!(workload.expect("held").health, model::Health::Healthy);
    client.closed(0);
    let requests = client.opened();
    assert_eq!(told(&requests[0]), [("k//Pod/shop/w1", ""), ("k//Pod/shop/w2", "v1")]);
}

#[test]
fn a_policy_that_cannot_be_read_is_refused_and_in_force() {
    let mut client = client(Mode::Wildcard);
    client.opened();
    let bytes = b"\x0a\x01p\x12\x04shop\x18\x02\x40\x01".to_vec();
    let sent = vec![raw(Kind::Authorization, "shop/p", "v", bytes), policy("q", Scope::Namespace)];
    let received = receive(&mut client, response(Kind::Authorization, "a", sent, &[]));
    assert_eq!(nack(&received), Some("\"shop/p\": field 8 is not known"));
    assert_eq!(unreadable(&client, "shop/p"), Some(Binding::Workload));
    assert_eq!((unreadable(&client, "shop/q"), client.policies().len()), (None, 2));
    // The same again is no change.
    let bytes = b"\x0a\x01p\x12\x04shop\x18\x02\x40\x01".to_vec();
    let sent = vec![raw(Kind::Authorization, "shop/p", "v", bytes), policy("q", Scope::Namespace)];
    let received = receive(&mut client, response(Kind::Authorization, "b", sent, &[]));
    assert_eq!((received.published, received.rejected.len()), (false, 1));
    // It is asked for again, and a readable version takes its place.
    client.closed(0);
    assert_eq!(told(&client.opened()[1]), [("shop/p", ""), ("shop/q", "")]);
    let sent = vec![policy("p", Scope::Namespace)];
    let received = receive(&mut client, response(Kind::Authorization, "a", sent, &["shop/q"]));
    assert_eq!((nack(&received), unreadable(&client, "shop/p")), (None, None));
    assert_eq!(client.policies().len(), 1);
}

#[test]
fn what_a_response_says_twice_is_not_believed() {
    let mut client = client(Mode::Wildcard);
    client.opened();
    receive(&mut client, response(Kind::Address, "a", vec![address(1, "v1")], &[]));
    let sent = vec![address(1, "v2"), address(2, "v1"), address(1, "v3")];
    let received = receive(&mut client, response(Kind::Address, "b", sent, &[]));
    let text = "\"k//Pod/shop/w1\": is given twice; \"k//Pod/shop/w1\": is given twice";
    assert_eq!(nack(&received), Some(text));
    let sent = vec![address(2, "v2")];
    let received = receive(&mut client, response(Kind::Address, "c", sent, &["k//Pod/shop/w2"]));
    assert_eq!(nack(&received), Some("\"k//Pod/shop/w2\": is both sent and removed"));
    assert_eq!(uids(&client), ["k//Pod/shop/w1", "k//Pod/shop/w2"]);

    let sent = vec![policy("p", Scope::WorkloadSelector), policy("p", Scope::Global)];
    receive(&mut client, response(Kind::Authorization, "a", sent, &[]));
    assert_eq!(unreadable(&client, "shop/p"), Some(Binding::Mesh));
    let sent = vec![policy("q", Scope::WorkloadSelector)];
    let received = receive(&mut client, response(Kind::Authorization, "b", sent, &["shop/q"]));
    assert_eq!(nack(&received), Some("\"shop/q\": is both sent and removed"));
    assert_eq!(unreadable(&client, "shop/q"), Some(Binding::Workload));
}

#[test]
fn names_and_aliases_are_removed() {
    let mut client = client(Mode::Wildcard);
    client.opened();
    let mut aliased = address(2, "v1");
    aliased.aliases = vec!["/10.0.0.2".into()];
    let sent = vec![address(1, "v1"), aliased.clone(), service("cart", 1)];
    receive(&mut client, response(Kind::Address, "a", sent, &[]));
    let gone = ["k//Pod/shop/w1", "shop/cart", "unknown"];
    let received = receive(&mut client, response(Kind::Address, "b", vec![], &gone));
    assert_eq!((nack(&received), received.published), (None, true));
    assert_eq!(uids(&client), ["k//Pod/shop/w2"]);
    assert_eq!(client.snapshot().services().len(), 0);
    // Istio may say of a name that was asked for that it is gone, and send what has it as alias.
    let sent = vec![aliased];
    let received = receive(&mut client, response(Kind::Address, "c", sent, &["/10.0.0.2"]));
    assert_eq!((nack(&received), uids(&client).len()), (None, 1));
    receive(&mut client, response(Kind::Address, "d", vec![], &["/10.0.0.2"]));
    assert!(uids(&client).is_empty());
    // Nothing of that name: nothing changes.
    let received = receive(&mut client, response(Kind::Address, "e", vec![], &["/10.0.0.2"]));
    assert_eq!((nack(&received), received.published), (None, false));
}

#[test]
fn what_nobody_asked_for_and_what_is_old_changes_nothing() {
    let mut client = client(Mode::Wildcard);
    client.opened();
    receive(&mut client, response(Kind::Address, "a", vec![address(1, "v1")], &[]));
    let mut unknown = response(Kind::Address, "b", vec![address(2, "v1")], &[]);
    unknown.type_url = "type.googleapis.com/envoy.config.cluster.v3.Cluster".into();
    let received = receive(&mut client, unknown);
    assert!(matches!(received.refusal, Some(Refusal::UnknownType(_))));
    assert!(nack(&received).expect("refused").ends_with("is not subscribed to"));
    assert!(received.requests[0].type_url.ends_with("Cluster"));
    let old = response(Kind::Address, "a", vec![], &["k//Pod/shop/w1"]);
    let received = receive(&mut client, old);
    assert_eq!(received.refusal, Some(Refusal::OldNonce));
    assert!(!received.published);
    assert_eq!(uids(&client), ["k//Pod/shop/w1"]);
    // Each type counts its own, and each stream anew.
    let received = receive(&mut client, response(Kind::Authorization, "a", vec![], &[]));
    assert_eq!(received.refusal, None);
    client.closed(0);
    client.opened();
    let received = receive(&mut client, response(Kind::Address, "a", vec![], &[]));
    assert_eq!(received.refusal, None);
}

#[test]
fn what_cannot_be_answered_ends_the_stream() {
    let mut client = client(Mode::Wildcard);
    let now = start();
    let empty = |nonce: &str| response(Kind::Address, nonce, vec![], &[]);
    assert_eq!(client.receive(empty("a"), now).err(), Some(Violation::NotOpen));
    client.opened();
    assert_eq!(client.receive(empty(""), now).err(), Some(Violation::NoNonce));
    let long = client.receive(empty(&"n".repeat(300)), now);
    assert_eq!(long.err(), Some(Violation::LongNonce(300)));
    client.closed(0);
    assert_eq!(client.receive(empty("a"), now).err(), Some(Violation::NotOpen));
}

#[test]
fn a_flood_is_refused_as_a_whole() {
    let mut client = client(Mode::Wildcard);
    client.opened();
    let names = RESOURCES_HELD_MAX + 1;
    let mut flood = response(Kind::Address, "a", vec![], &[]);
    flood.removed_resources = vec![String::new(); names];
    let received = receive(&mut client, flood);
    assert_eq!(received.refusal, Some(Refusal::TooManyNames(names)));
    assert!(!received.published);
    let mut long = policy("p", Scope::Namespace);
    long.name = "n".repeat(3000);
    let received = receive(&mut client, response(Kind::Authorization, "a", vec![long], &[]));
    assert_eq!(received.refusal, Some(Refusal::LongName(3000)));
    // Neither counts as an answer.
    assert_eq!(client.sync(), Sync::Waiting);
    // Of many bad resources some are named and the rest counted.
    let bad = |number: usize| raw(Kind::Address, &format!("n{number}"), "", vec![0xff]);
    let sent = (0..1000).map(bad).collect();
    let received = receive(&mut client, response(Kind::Address, "b", sent, &[]));
    let text = nack(&received).expect("refused");
    assert!(text.len() <= NACK_BYTES_MAX && text.ends_with(" more"), "{text}");
    assert_eq!(received.rejected.len(), 1000);
}

#[test]
fn the_state_is_complete_after_one_response_of_each_type() {
    for kinds in [[Kind::Address, Kind::Authorization], [Kind::Authorization, Kind::Address]] {
        let mut client = client(Mode::Wildcard);
        client.opened();
        let [first, second] = kinds.map(|kind| response(kind, "a", vec![], &[]));
        receive(&mut client, first);
        assert_eq!(client.sync(), Sync::Waiting);
        // What was complete stays so: the next stream goes on from there.
        client.closed(0);
        client.opened();
        let received = receive(&mut client, second);
        assert_eq!((client.sync(), received.published), (Sync::Live, true));
        client.closed(0);
        assert_eq!(client.sync(), Sync::Live);
    }
}

#[test]
fn a_stored_state_is_used_and_then_confirmed() {
    let mut first = client(Mode::Wildcard);
    first.opened();
    let mut records = Vec::new();
    let bad = raw(Kind::Authorization, "shop/r", "v", b"\xff".to_vec());
    let twice = policy("s", Scope::Global);
    let wrong_type = raw(Kind::Address, "shop/t", "v", vec![]);
    // Of several, the widest counts, also if it is not the last.
    let (wide, narrow) = (policy("u", Scope::Global), policy("u", Scope::Namespace));
    for response in [
        response(Kind::Address, "a", vec![address(1, "v1"), address(2, "v1")], &[]),
        response(
            Kind::Authorization,
            "a",
            vec![
                policy("p", Scope::Namespace),
                bad,
                twice.clone(),
                twice,
                wrong_type,
                wide,
                narrow,
            ],
            &[],
        ),
        response(Kind::Address, "b", vec![service("cart", 1)], &["k//Pod/shop/w2"]),
    ] {
        records.extend(receive(&mut first, response).records);
    }
    // What a copy on disk does: the last of each name counts.
    let mut copy = std::collections::BTreeMap::new();
    for record in records {
        copy.insert((record.kind, record.name.clone()), record);
    }
    let mut second = Client::new(settings(Mode::Wildcard));
    let rejected = second.restore(copy.into_values().collect());
    assert_eq!((rejected.len(), second.sync()), (4, Sync::Stored));
    assert_eq!(uids(&second), uids(&first));
    assert_eq!(second.policies().len(), first.policies().len());
    for name in ["shop/p", "shop/r", "shop/s", "shop/t", "shop/u"] {
        assert_eq!(unreadable(&second, name), unreadable(&first, name), "{name}");
    }
    let requests = second.opened();
    assert_eq!(told(&requests[0]), [("k//Pod/shop/w1", "v1"), ("shop/cart", "1")]);
    receive(&mut second, response(Kind::Address, "a", vec![], &["k//Pod/shop/w1"]));
    assert_eq!((second.sync(), uids(&second).len()), (Sync::Stored, 0));
    receive(&mut second, response(Kind::Authorization, "a", vec![], &[]));
    assert_eq!(second.sync(), Sync::Live);
}

#[test]
fn a_name_may_come_to_mean_another_kind_of_thing() {
    let mut client = client(Mode::Wildcard);
    client.opened();
    receive(&mut client, response(Kind::Address, "a", vec![service("cart", 1)], &[]));
    let mut odd = workload(1);
    odd.uid = "shop/cart".into();
    receive(&mut client, response(Kind::Address, "b", vec![address_of(odd, "2")], &[]));
    assert_eq!(client.snapshot().services().len(), 0);
    assert_eq!(uids(&client), ["shop/cart"]);
    receive(&mut client, response(Kind::Address, "c", vec![], &["shop/cart"]));
    assert!(uids(&client).is_empty());
}
