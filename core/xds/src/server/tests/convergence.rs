//! Many resources, any sequence: each client ends with what is to be served.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::wire::{answer, decoded, endpoint, pod, policy, request, uid, vip};
use crate::server::{
    Catalog, Collection, Connection, ConnectionSettings, Resource, ResourceType, Response, Update,
};

const KINDS: [ResourceType; 3] =
    [ResourceType::Authorization, ResourceType::Address, ResourceType::Workload];

#[derive(Clone, Debug)]
enum Step {
    Pod(u8, u8),
    Endpoint(u8),
    Service(u8),
    Policy(u8, i32),
    Remove(Vec<u8>),
    /// The client takes what was sent, and answers.
    Take,
    Reconnect,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..12_u8, 0..3_u8).prop_map(|(number, revision)| Step::Pod(number, revision)),
        1 => (0..12_u8).prop_map(Step::Endpoint),
        1 => (0..3_u8).prop_map(Step::Service),
        2 => (0..4_u8, 0..2_i32).prop_map(|(number, action)| Step::Policy(number, action)),
        2 => proptest::collection::vec(0..20_u8, 1..6).prop_map(Step::Remove),
        4 => Just(Step::Take),
        1 => Just(Step::Reconnect),
    ];
    proptest::collection::vec(step, 1..80)
}

fn update(step: &Step) -> Option<Update> {
    let set = |resource| Some(Update { set: vec![resource], removed: vec![] });
    match step {
        Step::Pod(number, revision) => set(Resource::workload(pod(*number, &revision.to_string()))),
        Step::Endpoint(number) => set(Resource::workload(endpoint(*number, "s0"))),
        Step::Service(number) => set(Resource::service(vip(&format!("s{number}"), *number))),
        Step::Policy(number, action) => set(policy(&format!("p{number}"), *action)),
        Step::Remove(numbers) => {
            let removed = numbers.iter().map(|number| match number {
                0..=11 => (Collection::Addresses, uid(*number).into()),
                12..=14 => (Collection::Addresses, format!("shop/s{}", number - 12).into()),
                _ => (Collection::Policies, format!("shop/p{}", number - 15).into()),
            });
            Some(Update { set: vec![], removed: removed.collect() })
        }
        Step::Take | Step::Reconnect => None,
    }
}

struct World {
    catalog: Arc<Catalog>,
    stream: Connection,
    on_the_way: Vec<Response>,
    held: BTreeMap<ResourceType, BTreeMap<String, String>>,
}

impl World {
    fn reconnect(&mut self) {
        self.stream = Connection::new(ConnectionSettings::default(), self.catalog.clone());
        self.on_the_way.clear();
        for kind in KINDS {
            let mut first = request(kind);
            first.initial_resource_versions = self.held.entry(kind).or_default().clone();
            self.stream.receive(first).expect("valid");
        }
    }

    fn take(&mut self) -> bool {
        self.on_the_way.extend(std::iter::from_fn(|| self.stream.respond()));
        let taken = std::mem::take(&mut self.on_the_way);
        for response in &taken {
            let held = self.held.entry(response.kind).or_default();
            let told = decoded(response);
            for resource in told.resources {
                let before = held.insert(resource.name, resource.version.clone());
                assert_ne!(before, Some(resource.version), "sent what was held");
            }
            for name in told.removed_resources {
                assert!(held.remove(&name).is_some(), "{name} was not held");
            }
            self.stream.receive(answer(response, None)).expect("valid");
        }
        !taken.is_empty()
    }
}

proptest! {
    #[test]
    fn a_client_ends_with_the_catalogue_and_was_sent_differences(steps in steps()) {
        let catalog = Arc::<Catalog>::default();
        let stream = Connection::new(ConnectionSettings::default(), catalog.clone());
        let mut world = World { catalog, stream, on_the_way: vec![], held: BTreeMap::new() };
        world.reconnect();
        for step in &steps {
            if let Some(next) = update(step).and_then(|update| world.catalog.apply(update)) {
                world.catalog = Arc::new(next);
                world.stream.advance(world.catalog.clone());
            }
            match step {
                Step::Take => drop(world.take()),
                Step::Reconnect => world.reconnect(),
                Step::Pod(..)
                | Step::Endpoint(_)
                | Step::Service(_)
                | Step::Policy(..)
                | Step::Remove(_) => world.on_the_way.extend(std::iter::from_fn(|| world.stream.respond())),
            }
        }
        while world.take() {}
        prop_assert!(!world.stream.is_pending());
        for kind in KINDS {
            let all = world.catalog.iter(kind);
            let want: BTreeMap<_, _> =
                all.map(|any| (any.name().to_string(), any.version().to_string())).collect();
            prop_assert_eq!(&world.held[&kind], &want);
        }
    }
}
