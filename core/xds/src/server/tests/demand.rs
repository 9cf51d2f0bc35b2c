//! What is asked for by name.

use std::sync::Arc;

use proto::discovery::DeltaDiscoveryRequest;

use super::wire::{
    after, catalog, connection, decoded, endpoint, holding, on_demand, pod, policy, remove,
    request, set, settle, subscribe, uid, vip,
};
use crate::server::ResourceType::Address;
use crate::server::{Catalog, Collection, Connection, ConnectionSettings, Reach, Resource};

/// Pods 1 and 3 are on the client's node; 2 and 3 are behind a service.
fn shop() -> Arc<Catalog> {
    catalog(vec![
        Resource::workload(pod(1, "1")),
        Resource::workload(endpoint(2, "cart")),
        Resource::workload(endpoint(3, "cart")),
        Resource::workload(pod(4, "1")),
        Resource::service(vip("cart", 9)),
        policy("p", 0),
    ])
}

/// A client on demand that was told what is on its node.
fn asking(catalog: &Arc<Catalog>) -> Connection {
    let mut stream = connection(catalog);
    stream.receive(on_demand(Address)).expect("valid");
    assert_eq!(settle(&mut stream), [(Address, vec![uid(1), uid(3)])]);
    stream
}

#[track_caller]
fn check(names: &[&str], want: &[&str]) {
    let mut stream = asking(&shop());
    stream.receive(subscribe(Address, names)).expect("valid");
    let want = want.iter().map(ToString::to_string).collect();
    assert_eq!(settle(&mut stream), [(Address, want)]);
}

#[test]
fn each_kind_of_name_is_answered() {
    check(&[&uid(4)], &[&uid(4)]);
    check(&["n/10.0.0.4"], &[&uid(4)]);
    check(&["n/10.9.9.9"], &["-n/10.9.9.9"]);
    check(&["shop/none", &uid(4)], &["-shop/none", &uid(4)]);
}

#[test]
fn the_workloads_of_the_node_are_followed_without_being_asked_for() {
    let first = shop();
    let mut stream = asking(&first);
    stream.advance(after(&first, set([pod(2, "2"), pod(5, "1")].map(Resource::workload).into())));
    assert_eq!(settle(&mut stream), [(Address, vec![uid(5)])]);
    let mut stream = connection(&first);
    stream.receive(DeltaDiscoveryRequest { node: None, ..on_demand(Address) }).expect("valid");
    assert_eq!(settle(&mut stream), [(Address, vec![])], "nobody knows its node");
}

#[test]
fn a_service_comes_with_its_endpoints() {
    let all = [&*uid(2), "shop/cart"];
    check(&["n/10.1.0.9"], &all);
    check(&["shop/cart"], &all);
}

#[test]
fn aliases_are_told_to_who_asks_by_name_alone() {
    let mut stream = asking(&shop());
    stream.receive(subscribe(Address, &["n/10.0.0.4"])).expect("valid");
    let told = decoded(&stream.respond().expect("an answer"));
    assert_eq!(told.resources[0].aliases, ["n/10.0.0.4"]);
    let mut stream = connection(&shop());
    stream.receive(request(Address)).expect("valid");
    stream.settle();
    let told = decoded(&stream.respond().expect("everything"));
    assert!(told.resources.iter().all(|resource| resource.aliases.is_empty()));
}

#[test]
fn what_is_followed_is_kept_up_to_date_and_nothing_else() {
    let first = shop();
    let mut stream = asking(&first);
    stream.receive(subscribe(Address, &["n/10.0.0.4", "n/10.0.0.6"])).expect("valid");
    settle(&mut stream);
    let pods = [pod(2, "2"), pod(4, "2"), pod(6, "1")].map(Resource::workload);
    let second = after(&first, set(pods.into()));
    stream.advance(second.clone());
    assert_eq!(settle(&mut stream), [(Address, vec![uid(4), uid(6)])]);
    let third = after(&second, remove(Collection::Addresses, &uid(4)));
    stream.advance(third.clone());
    assert_eq!(settle(&mut stream), [(Address, vec![format!("-{}", uid(4))])]);
    let unsubscribe = vec!["n/10.0.0.6".to_owned()];
    let none =
        DeltaDiscoveryRequest { resource_names_unsubscribe: unsubscribe, ..request(Address) };
    stream.receive(none).expect("valid");
    stream.advance(after(&third, remove(Collection::Addresses, &uid(6))));
    assert_eq!(settle(&mut stream), []);
}

#[test]
fn an_endpoint_that_joins_a_service_follows() {
    let first = shop();
    let mut stream = asking(&first);
    stream.receive(subscribe(Address, &["n/10.1.0.8"])).expect("valid");
    assert_eq!(settle(&mut stream), [(Address, vec!["-n/10.1.0.8".to_owned()])]);
    // The service appears, with an endpoint that was there before.
    let behind = Resource::workload(endpoint(4, "late"));
    let second = after(&first, set(vec![Resource::service(vip("late", 8)), behind]));
    stream.advance(second.clone());
    let want = vec![uid(4), "shop/late".to_owned()];
    assert_eq!(settle(&mut stream), [(Address, want)]);
    stream.advance(after(&second, set(vec![Resource::workload(endpoint(6, "late"))])));
    assert_eq!(settle(&mut stream), [(Address, vec![uid(6)])]);
}

#[test]
fn who_comes_back_on_demand_is_sent_differences() {
    let version = Resource::workload(pod(4, "1")).version().to_string();
    let names = ["*", "n/10.0.0.4", "n/10.9.9.9"];
    let mut first = holding(subscribe(Address, &names), &[(&uid(4), &version), (&uid(8), "1")]);
    first.resource_names_unsubscribe = vec!["*".to_owned()];
    let mut stream = connection(&shop());
    stream.receive(first).expect("valid");
    let want = vec![format!("-{}", uid(8)), "-n/10.9.9.9".to_owned(), uid(1), uid(3)];
    assert_eq!(settle(&mut stream), [(Address, want)]);
}

#[test]
fn everything_can_be_asked_for_later_and_left_again() {
    let first = shop();
    let mut stream = asking(&first);
    stream.receive(subscribe(Address, &[&uid(4)])).expect("valid");
    settle(&mut stream);
    stream.receive(subscribe(Address, &["*"])).expect("valid");
    let want = vec![uid(2), "shop/cart".to_owned()];
    assert_eq!(settle(&mut stream), [(Address, want)]);
    let mut leave = request(Address);
    leave.resource_names_unsubscribe = vec!["*".to_owned()];
    stream.receive(leave).expect("valid");
    let pods = [pod(1, "2"), pod(4, "2")].map(Resource::workload);
    stream.advance(after(&first, set(pods.into())));
    assert_eq!(settle(&mut stream), [(Address, vec![uid(4)])]);
}

#[test]
fn who_asks_for_everything_is_sent_everything_wherever_it_runs() {
    // What it was not sent it would take for something outside the mesh.
    let settings = ConnectionSettings { node: Some("node-0".into()) };
    let mut stream = Connection::new(settings, shop());
    stream.receive(request(Address)).expect("valid");
    let sent = settle(&mut stream);
    let [(Address, names)] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!(names.len(), shop().len(Collection::Addresses));
    assert_eq!(stream.status()[0].reach, Reach::Everything);
}
