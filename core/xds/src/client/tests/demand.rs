use std::time::{Duration, Instant};

use model::{Network, NetworkAddress, ServiceName, WorkloadUid};
use proto::discovery::DeltaDiscoveryRequest;

use super::wire::{
    address, address_of, block, client, response, service, start, told, uids, workload,
};
use crate::client::{
    ABSENT_FOR, Answer, Client, LOOKUP_WAIT, Lookup, LookupKey, Mode, NAMES_MAX, Sync, WaiterId,
};
use crate::kind::Kind;

fn by_address(text: &str) -> LookupKey {
    LookupKey::Address(NetworkAddress {
        network: Network::default(),
        ip: text.parse().expect("an address"),
    })
}

fn opened() -> (Client, Instant) {
    let mut client = client(Mode::OnDemand);
    client.opened();
    (client, start())
}

/// Starts a look-up that has to wait.
fn wait(client: &mut Client, key: &LookupKey, now: Instant) -> (WaiterId, Vec<String>) {
    match client.lookup(key, now) {
        Lookup::Wait { waiter, request } => (waiter, subscribed(request.as_deref())),
        Lookup::Known(answer) => panic!("{answer:?}"),
    }
}

fn known(client: &mut Client, key: &LookupKey, now: Instant) -> Answer {
    match client.lookup(key, now) {
        Lookup::Known(answer) => answer,
        Lookup::Wait { .. } => panic!("it waits"),
    }
}

fn subscribed(request: Option<&DeltaDiscoveryRequest>) -> Vec<String> {
    request.map(|request| request.resource_names_subscribe.clone()).unwrap_or_default()
}

fn unsubscribed(request: Option<&DeltaDiscoveryRequest>) -> Vec<String> {
    request.map(|request| request.resource_names_unsubscribe.clone()).unwrap_or_default()
}

#[test]
fn the_first_request_asks_for_nothing_but_what_was_looked_up() {
    let mut client = client(Mode::OnDemand);
    let now = start();
    let requests = client.opened();
    assert_eq!(requests[0].resource_names_subscribe, ["*"]);
    assert_eq!(requests[0].resource_names_unsubscribe, ["*"]);
    // Policies are not on demand.
    assert!(requests[1].resource_names_subscribe.is_empty());
    client.closed(0);
    let (_, sent) = wait(&mut client, &by_address("10.0.0.2"), now);
    assert!(sent.is_empty(), "there is no stream");
    wait(&mut client, &by_address("10.0.0.1"), now);
    let requests = client.opened();
    assert_eq!(requests[0].resource_names_subscribe, ["*", "/10.0.0.1", "/10.0.0.2"]);
    assert_eq!(requests[0].resource_names_unsubscribe, ["*"]);
    // Policies come after whatever addresses there were.
    let received = client.receive(response(Kind::Authorization, "a", vec![], &[]), now);
    assert!(received.expect("valid").published);
    assert_eq!(client.sync(), Sync::Live);
}

#[test]
fn a_lookup_is_released_by_name_and_by_alias() {
    let uid = LookupKey::Workload(WorkloadUid("k//Pod/shop/w1".into()));
    let name = LookupKey::Service(ServiceName::parse("shop/cart").expect("a name"));
    let mut declared = address(1, "v");
    declared.aliases = vec!["/10.9.9.9".into()];
    let cases = [
        (by_address("10.0.0.1"), "/10.0.0.1", address(1, "v")),
        (uid, "k//Pod/shop/w1", address(1, "v")),
        (by_address("10.9.9.9"), "/10.9.9.9", declared),
        (by_address("10.1.0.7"), "/10.1.0.7", service("cart", 7)),
        (name, "shop/cart", service("cart", 7)),
    ];
    for (key, expected, resource) in cases {
        let (mut client, now) = opened();
        let (first, sent) = wait(&mut client, &key, now);
        assert_eq!(sent, [expected]);
        // A second waiter asks nobody.
        let (second, sent) = wait(&mut client, &key, now);
        assert!(sent.is_empty());
        let other = client.receive(response(Kind::Address, "a", vec![address(9, "v")], &[]), now);
        assert!(other.expect("valid").released.is_empty());
        let received = client.receive(response(Kind::Address, "b", vec![resource], &[]), now);
        let released = received.expect("valid").released;
        assert_eq!(released, [(first, Answer::Found), (second, Answer::Found)], "{expected}");
        assert_eq!(known(&mut client, &key, now), Answer::Found);
    }
}

#[test]
fn a_block_around_an_address_is_no_answer_for_it() {
    let (mut client, now) = opened();
    let received = client.receive(response(Kind::Address, "a", vec![block("wide", 8)], &[]), now);
    assert!(received.expect("valid").published);
    let (waiter, sent) = wait(&mut client, &by_address("10.0.0.1"), now);
    assert_eq!(sent, ["/10.0.0.1"]);
    let received = client.receive(response(Kind::Address, "b", vec![], &["/10.0.0.1"]), now);
    assert_eq!(received.expect("valid").released, [(waiter, Answer::Absent)]);
}

#[test]
fn only_the_control_planes_word_makes_a_name_absent() {
    let (mut client, now) = opened();
    let key = by_address("10.0.0.1");
    let (waiter, _) = wait(&mut client, &key, now);
    // In vain.
    let late = now + LOOKUP_WAIT;
    assert_eq!(client.next_end(), Some(late));
    let early = client.expire(late.checked_sub(Duration::from_millis(1)).expect("later"));
    assert!(early.released.is_empty() && early.request.is_none());
    let expired = client.expire(late);
    assert_eq!(expired.released, [(waiter, Answer::TimedOut)]);
    assert_eq!(unsubscribed(expired.request.as_ref()), ["/10.0.0.1"]);
    // Nothing was learnt by that.
    let (waiter, sent) = wait(&mut client, &key, late);
    assert_eq!(sent, ["/10.0.0.1"]);
    let gone = client.receive(response(Kind::Address, "a", vec![], &["/10.0.0.1"]), late);
    assert_eq!(gone.expect("valid").released, [(waiter, Answer::Absent)]);
    assert_eq!(known(&mut client, &key, late), Answer::Absent);
    // Not for ever.
    let end = late + ABSENT_FOR;
    let (_, sent) = wait(&mut client, &key, end);
    assert_eq!(sent, ["/10.0.0.1"], "asked for again");
}

#[test]
fn an_absent_name_is_given_up_or_appears() {
    let (mut client, now) = opened();
    let (one, two) = (by_address("10.0.0.1"), by_address("10.0.0.2"));
    wait(&mut client, &one, now);
    wait(&mut client, &two, now);
    let gone = ["/10.0.0.1", "/10.0.0.2", "/10.0.0.3"];
    let received = client.receive(response(Kind::Address, "a", vec![], &gone), now);
    assert_eq!(received.expect("valid").released.len(), 2);
    let received = client.receive(response(Kind::Address, "b", vec![address(1, "v")], &[]), now);
    assert!(received.expect("valid").published);
    assert_eq!(known(&mut client, &one, now), Answer::Found);
    let later = now + ABSENT_FOR;
    let expired = client.expire(later);
    assert!(expired.released.is_empty());
    assert_eq!(unsubscribed(expired.request.as_ref()), ["/10.0.0.2"]);
    assert_eq!(client.next_end(), None);
    // The one that exists is still subscribed to.
    client.closed(0);
    let requests = client.opened();
    assert_eq!(requests[0].resource_names_subscribe, ["*", "/10.0.0.1"]);
    assert_eq!(told(&requests[0]), [("k//Pod/shop/w1", "v")]);
}

#[test]
fn what_loses_its_name_is_asked_for_again() {
    let (mut client, now) = opened();
    let key = by_address("10.0.0.1");
    wait(&mut client, &key, now);
    let sent = vec![address(1, "v")];
    client.receive(response(Kind::Address, "a", sent, &[]), now).expect("valid");
    // The pod is gone, and nothing was said about its address.
    let gone = response(Kind::Address, "b", vec![], &["k//Pod/shop/w1"]);
    let received = client.receive(gone, now).expect("valid");
    assert!(uids(&client).is_empty());
    assert_eq!(unsubscribed(received.requests.get(1)), ["/10.0.0.1"]);
    let (_, sent) = wait(&mut client, &key, now);
    assert_eq!(sent, ["/10.0.0.1"]);
    // Another pod takes the address over, then leaves it for another one.
    let mut second = workload(2);
    second.addresses = workload(1).addresses;
    let sent = vec![address_of(second.clone(), "v")];
    let received = client.receive(response(Kind::Address, "c", sent, &[]), now).expect("valid");
    assert_eq!(received.released.len(), 1);
    second.addresses = workload(3).addresses;
    let sent = vec![address_of(second, "w")];
    let received = client.receive(response(Kind::Address, "d", sent, &[]), now).expect("valid");
    assert_eq!(unsubscribed(received.requests.get(1)), ["/10.0.0.1"]);
    assert_eq!(known(&mut client, &by_address("10.0.0.3"), now), Answer::Found);
}

#[test]
fn a_name_that_moves_within_a_response_is_still_subscribed_to() {
    let (mut client, now) = opened();
    let key = by_address("10.0.0.1");
    wait(&mut client, &key, now);
    let sent = vec![address(1, "v")];
    client.receive(response(Kind::Address, "a", sent, &[]), now).expect("valid");
    let mut second = workload(2);
    second.addresses = workload(1).addresses;
    // To a pod that takes the place of one that is gone.
    let sent = vec![address_of(second.clone(), "v")];
    let moved = response(Kind::Address, "b", sent, &["k//Pod/shop/w1"]);
    let received = client.receive(moved, now).expect("valid");
    assert!(!unsubscribed(received.requests.get(1)).contains(&"/10.0.0.1".to_owned()));
    // To one that stands, from one that stands.
    second.addresses = workload(2).addresses;
    let sent = vec![address_of(second, "w"), address(1, "v")];
    let received = client.receive(response(Kind::Address, "c", sent, &[]), now).expect("valid");
    assert!(!unsubscribed(received.requests.get(1)).contains(&"/10.0.0.1".to_owned()));
    client.closed(0);
    let subscribed = client.opened().swap_remove(0).resource_names_subscribe;
    assert_eq!(subscribed, ["*", "/10.0.0.1"]);
    assert_eq!(known(&mut client, &key, now), Answer::Found);
}

#[test]
fn a_rejected_resource_answers_nobody() {
    let (mut client, now) = opened();
    let key = by_address("10.0.0.1");
    let (waiter, _) = wait(&mut client, &key, now);
    let mut bad = workload(1);
    bad.status = 9;
    let sent = vec![address_of(bad, "v")];
    let received = client.receive(response(Kind::Address, "a", sent, &[]), now).expect("valid");
    assert!(received.released.is_empty());
    let expired = client.expire(now + LOOKUP_WAIT);
    assert_eq!(expired.released, [(waiter, Answer::TimedOut)]);
}

#[test]
fn names_are_bounded() {
    let (mut client, now) = opened();
    for number in 0..NAMES_MAX {
        let number = u32::try_from(number).expect("fits");
        wait(&mut client, &by_address(&std::net::Ipv4Addr::from(number).to_string()), now);
    }
    let beyond = by_address("::1");
    assert_eq!(known(&mut client, &beyond, now), Answer::TimedOut);
    let later = now + LOOKUP_WAIT;
    assert_eq!(client.expire(later).released.len(), NAMES_MAX);
    wait(&mut client, &beyond, later);
}

#[test]
fn a_wildcard_client_asks_nobody() {
    let mut client = client(Mode::Wildcard);
    let now = start();
    client.opened();
    let key = by_address("10.0.0.1");
    assert_eq!(known(&mut client, &key, now), Answer::TimedOut);
    let sent = vec![address(1, "v"), service("cart", 1)];
    client.receive(response(Kind::Address, "a", sent, &[]), now).expect("valid");
    client.receive(response(Kind::Authorization, "a", vec![], &[]), now).expect("valid");
    assert_eq!(known(&mut client, &key, now), Answer::Found);
    assert_eq!(known(&mut client, &by_address("10.1.0.1"), now), Answer::Found);
    assert_eq!(known(&mut client, &by_address("10.0.0.2"), now), Answer::Absent);
    let name = LookupKey::Service(ServiceName::parse("shop/cart").expect("a name"));
    assert_eq!(known(&mut client, &name, now), Answer::Found);
}

/// A client that holds two workloads, one looked up by address, and has lost what was stored of them.
fn begun_anew() -> (Client, Instant) {
    let (mut client, now) = opened();
    wait(&mut client, &by_address("10.0.0.1"), now);
    let both = response(Kind::Address, "a", vec![address(1, "v"), address(2, "v")], &[]);
    client.receive(both, now).expect("valid");
    let policies = client.receive(response(Kind::Authorization, "b", vec![], &[]), now);
    assert!(policies.expect("valid").published);
    let in_force = client.snapshot().clone();
    client.begin_anew(&in_force);
    assert_eq!((client.sync(), client.snapshot().workloads().len()), (Sync::Waiting, 0));
    (client, now)
}

#[test]
fn a_client_that_begins_anew_asks_for_what_is_in_force() {
    let (mut client, now) = begun_anew();
    let (waiter, _) = wait(&mut client, &by_address("10.0.0.3"), now);
    let requests = client.opened();
    let names = ["*", "/10.0.0.1", "/10.0.0.3", "k//Pod/shop/w1", "k//Pod/shop/w2"];
    assert_eq!(requests[0].resource_names_subscribe, names);
    assert!(requests[0].initial_resource_versions.is_empty());
    // Policies alone would make a state without the workloads.
    let policies = client.receive(response(Kind::Authorization, "a", vec![], &[]), now);
    assert!(!policies.expect("valid").published);
    assert_eq!(client.sync(), Sync::Waiting);
    let all = vec![address(1, "v"), address(2, "v"), address(3, "v")];
    let received = client.receive(response(Kind::Address, "b", all, &[]), now).expect("valid");
    assert!(received.published);
    assert_eq!(received.released, [(waiter, Answer::Found)], "look-ups go on");
    assert_eq!((client.sync(), client.snapshot().workloads().len()), (Sync::Live, 3));
}

#[test]
fn policies_wait_for_carried_names_only_so_long() {
    let (mut client, now) = begun_anew();
    client.opened();
    let first = client.receive(response(Kind::Authorization, "a", vec![], &[]), now);
    assert!(!first.expect("valid").published);
    let later = now + Duration::from_secs(1);
    let second = client.receive(response(Kind::Authorization, "b", vec![], &[]), later);
    assert!(!second.expect("valid").published, "it does not begin to wait again");
    let end = now + LOOKUP_WAIT;
    assert_eq!(client.next_end(), Some(end));
    assert!(!client.expire(later).published);
    assert!(client.expire(end).published);
    assert_eq!((client.sync(), client.next_end()), (Sync::Live, None));
}

#[test]
fn a_client_that_begins_anew_with_nothing_waits_for_no_address() {
    let mut client = client(Mode::OnDemand);
    client.begin_anew(&resolve::Snapshot::default());
    client.opened();
    let policies = client.receive(response(Kind::Authorization, "a", vec![], &[]), start());
    assert!(policies.expect("valid").published);
}
