//! The client's half of delta xDS, without I/O, clock or randomness.
//!
//! The driver opens a stream and calls [`Client::opened`], hands each response to
//! [`Client::receive`] and sends the requests it gets back, in order. When the stream has ended it
//! calls [`Client::closed`] and waits as long as that says. Beside that it may ask
//! [`Client::lookup`] and, when [`Client::next_end`] is over, [`Client::expire`].
//!
//! What was applied stays in force whatever the control plane does next. Each response is applied
//! as a whole, and then there is one new state.

mod addresses;
mod authorizations;
mod held;
mod lookup;
mod nonces;
mod request;
mod response;
mod retry;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use authz::PolicyStore;
use model::NetworkAddress;
use proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};
use resolve::Snapshot;

use crate::kind::Kind;
use crate::parse::Interner;
use held::{Addresses, Policies};
use lookup::{Lookups, Resubscribe};
use nonces::{NONCE_BYTES_MAX, Nonces};

pub use lookup::{ABSENT_FOR, Answer, LOOKUP_WAIT, LookupKey, NAMES_MAX, WAITERS_MAX, WaiterId};
pub use request::NACK_BYTES_MAX;
pub use response::{
    ALIASES_MAX, RESOURCES_HELD_MAX, Received, Record, RecordBody, Refusal, RejectedResource,
    Violation,
};
pub use retry::{RETRY_MAX, RETRY_MIN, RETURN_MAX, Termination};

/// What is subscribed to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Everything.
    #[default]
    Wildcard,
    /// All policies, and those addresses that were looked up.
    OnDemand,
}

/// What a client is made with.
#[derive(Clone, Debug, Default)]
pub struct ClientSettings {
    /// Who asks.
    pub node: Node,
    /// What for.
    pub mode: Mode,
    /// How policies are understood.
    pub policies: authz::Settings,
}

/// How far the state can be trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Sync {
    /// It is not complete: nothing may be decided by it.
    #[default]
    Waiting,
    /// It is that of an earlier agent; the control plane has not confirmed it yet.
    Stored,
    /// The control plane has sent all there was.
    Live,
}

/// What a look-up leads to.
#[derive(Debug)]
pub enum Lookup {
    /// The answer is known.
    Known(Answer),
    /// It will be in [`Received::released`] or [`Expired::released`].
    Wait {
        /// Which look-up it will be for.
        waiter: WaiterId,
        /// To send, if a stream is open.
        request: Option<Box<DeltaDiscoveryRequest>>,
    },
}

/// What time has brought about.
#[derive(Debug, Default)]
pub struct Expired {
    /// To send.
    pub request: Option<DeltaDiscoveryRequest>,
    /// Look-ups that waited in vain.
    pub released: Vec<(WaiterId, Answer)>,
    /// There is a new state.
    pub published: bool,
}

/// One client: its state of the mesh, and where it stands with the control plane.
#[derive(Debug)]
pub struct Client {
    settings: ClientSettings,
    interner: Interner,
    addresses: Addresses,
    policies: Policies,
    lookups: Lookups,
    snapshot: Arc<Snapshot>,
    store: Arc<PolicyStore>,
    sync: Sync,
    /// Which types the control plane has sent in full, on whichever stream.
    complete: [bool; 2],
    carried: Carried,
    stream: Option<Stream>,
    retry: retry::Retry,
}

/// Names that a client which begins anew asks for at once: a state without them would be a worse one
/// than that which is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carried {
    /// There are none, or the control plane has answered.
    Nothing,
    /// It has not.
    Asked,
    /// It has not until then: what else it has said must not wait any longer.
    Until(Instant),
}

/// An open stream.
#[derive(Debug, Default)]
struct Stream {
    nonces: [Nonces; 2],
    /// A response was applied.
    worked: bool,
}

fn place(kind: Kind) -> usize {
    match kind {
        Kind::Address => 0,
        Kind::Authorization => 1,
    }
}

impl Client {
    /// A client that holds nothing.
    #[must_use]
    pub fn new(settings: ClientSettings) -> Self {
        let store = Arc::new(PolicyStore::empty(&settings.policies));
        Self {
            settings,
            interner: Interner::default(),
            addresses: Addresses::default(),
            policies: Policies::default(),
            lookups: Lookups::default(),
            snapshot: Arc::default(),
            store,
            sync: Sync::Waiting,
            complete: [false, false],
            carried: Carried::Nothing,
            stream: None,
            retry: retry::Retry::default(),
        }
    }

    /// Workloads and services.
    #[must_use]
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// Policies.
    #[must_use]
    pub fn policies(&self) -> &Arc<PolicyStore> {
        &self.store
    }

    /// How far they can be trusted.
    #[must_use]
    pub fn sync(&self) -> Sync {
        self.sync
    }

    /// Takes over the state of an earlier client, complete in both types. What it does not
    /// understand is treated as if the control plane had sent it.
    pub fn restore(&mut self, records: Vec<Record>) -> Vec<RejectedResource> {
        let mut responses = [DeltaDiscoveryResponse::default(), DeltaDiscoveryResponse::default()];
        for record in records {
            if let Some(response) = responses.get_mut(place(record.kind)) {
                response.resources.extend(record.into_resource());
            }
        }
        let [addresses, authorizations] = responses;
        // Nobody waits yet, so the time is of no matter.
        let mut rejected = self.apply_addresses(addresses, None).rejected;
        rejected.extend(self.apply_authorizations(authorizations).rejected);
        self.sync = Sync::Stored;
        rejected
    }

    /// Forgets what it holds, so that the control plane sends it again; look-ups go on. On demand, it asks
    /// for what the state in force holds.
    pub fn begin_anew(&mut self, in_force: &Snapshot) {
        let lookups = std::mem::take(&mut self.lookups);
        *self = Self { lookups, ..Self::new(self.settings.clone()) };
        match self.settings.mode {
            Mode::Wildcard => return,
            Mode::OnDemand => {}
        }
        let workloads = in_force.workloads().map(|workload| workload.uid.0.clone());
        let services = in_force.services().map(|service| service.name.to_string().into());
        for name in workloads.chain(services) {
            self.lookups.ask(name);
        }
        if self.lookups.subscribed().next().is_some() {
            self.carried = Carried::Asked;
        }
    }

    /// A stream is open; returns its first requests.
    pub fn opened(&mut self) -> Vec<DeltaDiscoveryRequest> {
        self.stream = Some(Stream::default());
        Kind::ALL.into_iter().map(|kind| self.initial(kind)).collect()
    }

    fn initial(&self, kind: Kind) -> DeltaDiscoveryRequest {
        let versions = match kind {
            Kind::Address => self.addresses.by_name.versions(),
            Kind::Authorization => self.policies.versions(),
        };
        let (subscribe, unsubscribe) = match (kind, self.settings.mode) {
            // Without names, the first request asks for everything.
            (Kind::Authorization, _) | (Kind::Address, Mode::Wildcard) => (vec![], vec![]),
            (Kind::Address, Mode::OnDemand) => {
                let names = self.lookups.subscribed().map(ToString::to_string);
                let mut names: Vec<_> = names.collect();
                names.sort_unstable();
                // Subscribed and unsubscribed at once, so that no names do not mean everything.
                names.insert(0, EVERYTHING.to_owned());
                (names, vec![EVERYTHING.to_owned()])
            }
        };
        request::initial(&self.settings.node, kind, subscribe, unsubscribe, versions)
    }

    /// Applies a response. After a [`Violation`] the stream must be closed.
    pub fn receive(
        &mut self,
        response: DeltaDiscoveryResponse,
        now: Instant,
    ) -> Result<Received, Violation> {
        let stream = self.stream.as_mut().ok_or(Violation::NotOpen)?;
        match response.nonce.len() {
            0 => return Err(Violation::NoNonce),
            length if length > NONCE_BYTES_MAX => return Err(Violation::LongNonce(length)),
            _ => {}
        }
        let (url, nonce) = (response.type_url.clone(), response.nonce.clone());
        let applied = match Kind::of(&url) {
            None => Err(Refusal::UnknownType(crate::parse::shortened(&url))),
            Some(kind) if !stream.nonces.get_mut(place(kind)).is_some_and(|n| n.is_new(&nonce)) => {
                Err(Refusal::OldNonce)
            }
            Some(kind) => self.apply(kind, response, now),
        };
        let mut received = match applied {
            Ok(received) => received,
            Err(refusal) => Received { refusal: Some(refusal), ..Received::default() },
        };
        let refusal = received.refusal.as_ref().map(ToString::to_string);
        let text = refusal.or_else(|| request::rejections(&received.rejected));
        received.requests.insert(0, request::answer(url, nonce, text));
        Ok(received)
    }

    fn apply(
        &mut self,
        kind: Kind,
        response: DeltaDiscoveryResponse,
        now: Instant,
    ) -> Result<Received, Refusal> {
        self.check_bounds(kind, &response)?;
        let before = self.sync;
        let applied = match kind {
            Kind::Address => self.apply_addresses(response, Some(now)),
            Kind::Authorization => self.apply_authorizations(response),
        };
        self.advance(kind, now);
        Ok(Received {
            requests: self.resubscription(applied.changes).into_iter().collect(),
            kind: Some(kind),
            published: applied.changed || self.sync != before,
            rejected: applied.rejected,
            refusal: None,
            released: applied.released,
            records: applied.records,
        })
    }

    /// A response was applied: the state is complete once there was one of each type. The first
    /// of a type holds all there is of it, and what comes later keeps it so, since each stream
    /// begins with what is held.
    fn advance(&mut self, kind: Kind, now: Instant) {
        if let Some(stream) = &mut self.stream {
            stream.worked = true;
        }
        if let Some(complete) = self.complete.get_mut(place(kind)) {
            *complete = true;
        }
        self.carried = match (kind, self.carried) {
            (Kind::Address, _) | (_, Carried::Nothing) => Carried::Nothing,
            (Kind::Authorization, Carried::Asked) => Carried::Until(now + LOOKUP_WAIT),
            (Kind::Authorization, Carried::Until(end)) => Carried::Until(end),
        };
        // On demand nothing is sent for no names. Requests are answered in order, so addresses had
        // their turn when policies arrive.
        let on_demand = self.settings.mode == Mode::OnDemand
            && kind == Kind::Authorization
            && self.carried == Carried::Nothing;
        if on_demand || self.complete == [true, true] {
            self.sync = Sync::Live;
        }
    }

    /// The stream has ended, or there was none; returns how long to wait before the next.
    pub fn closed(&mut self, random: u64) -> Duration {
        let stream = self.stream.take();
        let worked = stream.is_some_and(|stream| stream.worked);
        self.retry.after(worked, random)
    }

    /// Whether something exists. Only on demand is anything asked for: else the state is all there
    /// is.
    pub fn lookup(&mut self, key: &LookupKey, now: Instant) -> Lookup {
        let name = key.resource_name();
        if self.knows(key, &name) {
            return Lookup::Known(Answer::Found);
        }
        match (self.settings.mode, self.sync) {
            (Mode::Wildcard, Sync::Waiting) => return Lookup::Known(Answer::TimedOut),
            (Mode::Wildcard, Sync::Stored | Sync::Live) => return Lookup::Known(Answer::Absent),
            (Mode::OnDemand, _) if self.lookups.is_absent(&name, now) => {
                return Lookup::Known(Answer::Absent);
            }
            (Mode::OnDemand, _) => {}
        }
        let mut changes = Resubscribe::default();
        match self.lookups.wait(name, now, &mut changes) {
            None => Lookup::Known(Answer::TimedOut),
            Some(waiter) => {
                let request = self.resubscription(changes).map(Box::new);
                Lookup::Wait { waiter, request }
            }
        }
    }

    fn knows(&self, key: &LookupKey, name: &str) -> bool {
        match (key, self.settings.mode) {
            (LookupKey::Address(NetworkAddress { network, ip }), Mode::Wildcard) => {
                self.snapshot.workload_by_address(network, *ip).is_some()
                    || self.snapshot.service_by_vip(network, *ip, "").is_some()
            }
            // Not by what is held: a service whose block holds the address may be known, and a
            // workload that has just that address may not.
            (LookupKey::Address(_), Mode::OnDemand)
            | (LookupKey::Workload(_) | LookupKey::Service(_), _) => self.addresses.knows(name),
        }
    }

    /// When [`Self::expire`] is due, unless there is reason for it before.
    #[must_use]
    pub fn next_end(&self) -> Option<Instant> {
        let carried = match self.carried {
            Carried::Until(end) => Some(end),
            Carried::Nothing | Carried::Asked => None,
        };
        self.lookups.next_end().into_iter().chain(carried).min()
    }

    /// Ends look-ups that have waited long enough.
    pub fn expire(&mut self, now: Instant) -> Expired {
        let (mut released, mut changes) = (Vec::new(), Resubscribe::default());
        self.lookups.expire(now, &mut released, &mut changes);
        let published = match self.carried {
            Carried::Until(end) => end <= now,
            Carried::Nothing | Carried::Asked => false,
        };
        if published {
            self.carried = Carried::Nothing;
            self.sync = Sync::Live;
        }
        Expired { request: self.resubscription(changes), released, published }
    }

    /// A change of subscription; without a stream there is nobody to tell, and the next stream
    /// begins with all of it.
    fn resubscription(&self, changes: Resubscribe) -> Option<DeltaDiscoveryRequest> {
        if changes.is_empty() || self.stream.is_none() {
            return None;
        }
        Some(request::subscription(changes.subscribe, changes.unsubscribe))
    }
}

/// The name that stands for every resource.
const EVERYTHING: &str = "*";
