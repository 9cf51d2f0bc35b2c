//! Server and client as a pair: all short sequences of what may happen to them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};

use super::wire::{decoded, pod, policy, remove, set, uid};
use crate::client::{Client, ClientSettings, Mode};
use crate::kind::Kind;
use crate::server::{
    Catalog, Collection, Connection, ConnectionSettings, Resource, ResourceType, Update,
};

#[derive(Clone, Copy, Debug)]
enum Input {
    /// A pod appears or becomes different.
    Pod,
    PodGone,
    Policy,
    PolicyGone,
    /// What is on its way to the server arrives.
    Hear,
    /// One response arrives at the client.
    Deliver,
    Break,
}

use Input::{Break, Deliver, Hear, Pod, PodGone, Policy, PolicyGone};

const INPUTS: [Input; 7] = [Pod, PodGone, Policy, PolicyGone, Hear, Deliver, Break];
const LENGTH: u32 = 5;

struct Pair {
    catalog: Arc<Catalog>,
    revision: i32,
    server: Connection,
    client: Client,
    /// On their way.
    requests: VecDeque<DeltaDiscoveryRequest>,
    responses: VecDeque<DeltaDiscoveryResponse>,
    /// Versions that the client holds, by name.
    held: BTreeMap<String, String>,
}

impl Pair {
    fn new() -> Self {
        let catalog = Arc::<Catalog>::default();
        let node = Node { id: "node".into(), ..Node::default() };
        let policies = authz::Settings::default();
        let mut client = Client::new(ClientSettings { node, mode: Mode::Wildcard, policies });
        let requests = client.opened().into();
        Self {
            server: Connection::new(ConnectionSettings::default(), catalog.clone()),
            catalog,
            revision: 0,
            client,
            requests,
            responses: VecDeque::new(),
            held: BTreeMap::new(),
        }
    }

    fn step(&mut self, input: Input, now: Instant) {
        match input {
            Pod => {
                self.revision += 1;
                self.update(set(vec![Resource::workload(pod(1, &self.revision.to_string()))]));
            }
            PodGone => self.update(remove(Collection::Addresses, &uid(1))),
            Policy => {
                self.revision += 1;
                self.update(set(vec![policy("p", self.revision % 2)]));
            }
            PolicyGone => self.update(remove(Collection::Policies, "shop/p")),
            Hear => {
                for request in std::mem::take(&mut self.requests) {
                    self.server.receive(request).expect("within the protocol");
                }
            }
            Deliver => {
                let Some(response) = self.responses.pop_front() else { return };
                self.note(&response);
                let received = self.client.receive(response, now).expect("within the protocol");
                assert_eq!((received.refusal, received.rejected), (None, vec![]));
                self.requests.extend(received.requests);
            }
            Break => {
                self.client.closed(0);
                self.responses.clear();
                self.requests = self.client.opened().into();
                let settings = ConnectionSettings::default();
                self.server = Connection::new(settings, self.catalog.clone());
            }
        }
        while let Some(response) = self.server.respond() {
            self.responses.push_back(decoded(&response));
        }
        let in_flight =
            self.responses.iter().filter(|r| Kind::of(&r.type_url) == Some(Kind::Address));
        assert!(in_flight.count() <= 1);
    }

    fn update(&mut self, update: Update) {
        if let Some(next) = self.catalog.apply(update) {
            self.catalog = Arc::new(next);
            self.server.advance(self.catalog.clone());
        }
    }

    /// Nothing is sent that the client has, and nothing is taken from it that it has not.
    fn note(&mut self, response: &DeltaDiscoveryResponse) {
        for resource in &response.resources {
            let before = self.held.insert(resource.name.clone(), resource.version.clone());
            assert_ne!(before.as_ref(), Some(&resource.version), "{} again", resource.name);
        }
        for name in &response.removed_resources {
            assert!(self.held.remove(name).is_some(), "{name} was not held");
        }
    }

    /// Lets all that is on its way arrive.
    fn finish(&mut self, now: Instant) {
        for _ in 0..8 {
            self.step(Hear, now);
            self.step(Deliver, now);
            self.step(Deliver, now);
        }
        let kinds = [ResourceType::Address, ResourceType::Authorization];
        let all = kinds.into_iter().flat_map(|kind| self.catalog.iter(kind));
        let want: BTreeMap<_, _> =
            all.map(|any| (any.name().to_string(), any.version().to_string())).collect();
        assert_eq!(self.held, want);
        let workloads = self.client.snapshot().workloads().count();
        assert_eq!(workloads, self.catalog.len(Collection::Addresses));
        assert_eq!(self.client.policies().len(), self.catalog.len(Collection::Policies));
        assert_eq!(self.client.sync(), crate::client::Sync::Live);
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "an Instant has no other origin")]
fn after_any_sequence_the_client_holds_the_catalogue_and_was_sent_differences() {
    let now = Instant::now();
    let count = INPUTS.len();
    for number in 0..count.pow(LENGTH) {
        let mut rest = number;
        let mut pair = Pair::new();
        for _ in 0..LENGTH {
            pair.step(INPUTS[rest % count], now);
            rest /= count;
        }
        pair.finish(now);
    }
}
