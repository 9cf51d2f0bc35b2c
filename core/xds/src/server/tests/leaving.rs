//! Any sequence of names that are asked for and left again: the client holds what it follows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use proto::discovery::DeltaDiscoveryRequest;

use super::wire::{
    after, answer, connection, decoded, endpoint, on_demand, pod, remove, request, set, settle,
    subscribe, uid, vip,
};
use crate::server::ResourceType::Address;
use crate::server::{Catalog, Collection, Connection, Reach, Resource, Response, Update};

#[derive(Clone, Debug)]
enum Step {
    Set(u8, u8),
    Remove(u8),
    Subscribe(u8),
    Unsubscribe(u8),
    /// The client answers what was sent.
    Answer,
}

const PODS: u8 = 6;
const SERVICES: u8 = 2;

/// Resources by their names, then by their addresses, then everything.
fn name(number: u8) -> String {
    const NAMED: u8 = PODS + SERVICES;
    match number {
        0..PODS => uid(number),
        PODS..NAMED => format!("shop/s{}", number - PODS),
        NAMED.. if number == 2 * NAMED => "*".to_owned(),
        NAMED.. if number < NAMED + PODS => format!("n/10.0.0.{}", number - NAMED),
        NAMED.. => format!("n/10.1.0.{}", number - NAMED - PODS),
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (resources, names) = (PODS + SERVICES, 2 * (PODS + SERVICES));
    let step = prop_oneof![
        4 => (0..resources, 0..4_u8).prop_map(|(number, revision)| Step::Set(number, revision)),
        2 => (0..resources).prop_map(Step::Remove),
        3 => (0..=names).prop_map(Step::Subscribe),
        3 => (0..=names).prop_map(Step::Unsubscribe),
        1 => Just(Step::Subscribe(names)),
        1 => Just(Step::Unsubscribe(names)),
        3 => Just(Step::Answer),
    ];
    proptest::collection::vec(step, 1..60)
}

fn resource(number: u8, revision: u8) -> Resource {
    match (number, revision) {
        (PODS.., _) => {
            let mut service = vip(&format!("s{}", number - PODS), number - PODS);
            service.name = revision.to_string();
            Resource::service(service)
        }
        (_, 0 | 1) => Resource::workload(pod(number, &revision.to_string())),
        (_, 2..) => Resource::workload(endpoint(number, &format!("s{}", revision - 2))),
    }
}

struct World {
    catalog: Arc<Catalog>,
    stream: Connection,
    names: BTreeSet<String>,
    unanswered: Vec<Response>,
    held: BTreeMap<String, String>,
}

impl World {
    fn is_asked_for(&self, resource: &Resource) -> bool {
        self.names.contains(&**resource.name())
            || resource.aliases().iter().any(|alias| self.names.contains(&**alias))
    }

    fn is_wanted(&self, resource: &Resource) -> bool {
        let is_local = match self.stream.status()[0].reach {
            Reach::Everything => return true,
            Reach::NodeAndAsked => resource.node().is_some_and(|node| **node == *"node-1"),
            Reach::Asked => false,
        };
        let is_behind = |service: &Arc<str>| {
            self.catalog.get(Address, service).is_some_and(|service| self.is_asked_for(service))
        };
        is_local || self.is_asked_for(resource) || resource.services().iter().any(is_behind)
    }

    /// What the client follows no more it forgets at once.
    fn unsubscribe(&mut self, name: String) {
        let from = self.stream.status()[0].reach;
        let found: Vec<_> = match (&*name, from) {
            ("*", Reach::Everything) => self.catalog.iter(Address).cloned().collect(),
            ("*", Reach::NodeAndAsked | Reach::Asked) => vec![],
            (name, _) if !self.names.remove(name) => vec![],
            (name, _) => self.catalog.find(Address, name),
        };
        let resource_names_unsubscribe = vec![name];
        let leave = DeltaDiscoveryRequest { resource_names_unsubscribe, ..request(Address) };
        self.stream.receive(leave).expect("valid");
        for resource in found {
            if !self.is_wanted(&resource) {
                self.held.remove(&**resource.name());
            }
        }
    }

    fn step(&mut self, step: &Step) {
        let update = match step {
            Step::Set(number, revision) => set(vec![resource(*number, *revision)]),
            Step::Remove(number) => remove(Collection::Addresses, &name(*number)),
            Step::Subscribe(number) => {
                let name = name(*number);
                self.stream.receive(subscribe(Address, &[&name])).expect("valid");
                if name != "*" {
                    self.names.insert(name);
                }
                Update::default()
            }
            Step::Unsubscribe(number) => {
                self.unsubscribe(name(*number));
                Update::default()
            }
            Step::Answer => {
                for response in std::mem::take(&mut self.unanswered) {
                    self.stream.receive(answer(&response, None)).expect("valid");
                }
                Update::default()
            }
        };
        if let Some(next) = self.catalog.apply(update) {
            self.catalog = Arc::new(next);
            self.stream.advance(self.catalog.clone());
        }
        while let Some(response) = self.stream.respond() {
            let told = decoded(&response);
            let resources = told.resources.into_iter();
            self.held.extend(resources.map(|resource| (resource.name, resource.version)));
            for name in told.removed_resources {
                self.held.remove(&name);
            }
            self.unanswered.push(response);
        }
    }
}

proptest! {
    #[test]
    fn a_client_that_leaves_names_holds_what_it_follows(steps in steps()) {
        let catalog = Arc::<Catalog>::default();
        let mut stream = connection(&catalog);
        stream.receive(on_demand(Address)).expect("valid");
        stream.settle();
        let (names, held) = Default::default();
        let mut world = World { catalog, stream, names, unanswered: vec![], held };
        for step in &steps {
            world.step(step);
        }
        while !world.unanswered.is_empty() {
            world.step(&Step::Answer);
        }
        prop_assert!(!world.stream.is_pending());
        for (name, version) in &world.held {
            let is = world.catalog.get(Address, name).map(|resource| &**resource.version());
            prop_assert_eq!(is, Some(&**version), "{}", name);
        }
        for resource in world.catalog.iter(Address).filter(|resource| world.is_wanted(resource)) {
            prop_assert!(world.held.contains_key(&**resource.name()), "{}", resource.name());
        }
    }
}

#[test]
fn a_name_that_is_left_takes_nothing_with_it_that_is_followed_otherwise() {
    let pods = [pod(1, "1"), endpoint(2, "cart")].map(Resource::workload);
    let service = Resource::service(vip("cart", 9));
    let first = after(&Catalog::default(), set(pods.into()));
    let first = after(&first, set(vec![service]));
    for (asked, left, changed) in [
        (vec!["*"], uid(1), pod(1, "2")),
        (vec![], uid(1), pod(1, "2")),
        (vec!["n/10.1.0.9"], "shop/cart".to_owned(), endpoint(4, "cart")),
    ] {
        let mut stream = connection(&first);
        stream.receive(on_demand(Address)).expect("valid");
        stream.receive(subscribe(Address, &[&asked[..], &[&*left]].concat())).expect("valid");
        settle(&mut stream);
        let name = changed.uid.clone();
        stream.advance(after(&first, set(vec![Resource::workload(changed)])));
        let resource_names_unsubscribe = vec![left];
        let leave = DeltaDiscoveryRequest { resource_names_unsubscribe, ..request(Address) };
        stream.receive(leave).expect("valid");
        assert_eq!(settle(&mut stream), [(Address, vec![name])], "{asked:?}");
    }
}
