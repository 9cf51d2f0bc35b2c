//! One stream: requests and catalogues in, responses out.

use std::sync::Arc;

use prost_types::value::Kind as ValueKind;
use proto::discovery::{DeltaDiscoveryRequest, Node};

use super::catalog::Catalog;
use super::kind::ResourceType;
use super::request::{NAME_BYTES_MAX, RequestViolation, SUBSCRIBED_MAX, VERSIONS_MAX};
use super::response::Response;
use super::status::TypeStatus;
use super::subscription::{EVERYTHING, Subscription, Wanted};

/// What is known about a client from elsewhere.
#[derive(Clone, Debug, Default)]
pub struct ConnectionSettings {
    /// The node it was proved to run on; else it is what the client says.
    pub node: Option<Arc<str>>,
}

/// What a request meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A type was subscribed to.
    Subscribed(ResourceType),
    /// A response was answered.
    Answered(Answered),
    /// Names were subscribed to or unsubscribed from, or a response answered that was answered
    /// before.
    Other(ResourceType),
    /// A type that is not served. It is not answered: an empty answer would tell its client that
    /// there is nothing of what others may have told it.
    UnknownType,
}

/// The answer to a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// Its type.
    pub kind: ResourceType,
    /// The catalogue it led to.
    pub sequence: u64,
    /// Something in it was refused. What that was is not sent again until it changes.
    pub is_rejected: bool,
}

/// What becomes of a large first response that is due.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Large {
    Sent,
    Waits,
}

/// One client's stream.
#[derive(Debug)]
pub struct Connection {
    settings: ConnectionSettings,
    catalog: Arc<Catalog>,
    subscriptions: [Option<Subscription>; 3],
    responses: u64,
    is_settled: bool,
    unknown_types: u64,
}

impl Connection {
    /// A stream on which nothing was asked yet.
    #[must_use]
    pub fn new(settings: ConnectionSettings, catalog: Arc<Catalog>) -> Self {
        Self {
            settings,
            catalog,
            subscriptions: [None, None, None],
            responses: 0,
            is_settled: false,
            unknown_types: 0,
        }
    }

    /// The client's node, as far as it is known.
    #[must_use]
    pub fn node(&self) -> Option<&Arc<str>> {
        self.settings.node.as_ref()
    }

    /// Requests for types that are not served.
    #[must_use]
    pub fn unknown_types(&self) -> u64 {
        self.unknown_types
    }

    /// Takes a request. After a [`RequestViolation`] the stream must be closed.
    pub fn receive(&mut self, request: DeltaDiscoveryRequest) -> Result<Heard, RequestViolation> {
        if self.settings.node.is_none() {
            self.settings.node = request.node.as_ref().and_then(node_name);
        }
        let Some(kind) = ResourceType::of(&request.type_url) else {
            self.unknown_types = self.unknown_types.saturating_add(1);
            return Ok(Heard::UnknownType);
        };
        self.check(kind, &request)?;
        let wanted = Wanted::Everything;
        let Some(place) = self.subscriptions.get_mut(kind.place()) else {
            return Ok(Heard::UnknownType);
        };
        let (catalog, node) = (&*self.catalog, self.settings.node.clone());
        let Some(subscription) = place else {
            *place = Some(begin(kind, node, wanted, request, catalog));
            return Ok(Heard::Subscribed(kind));
        };
        // An answer to an older response means nothing; what the request asks for does.
        let rejection = request.error_detail.as_ref().map(|status| status.message.as_str());
        let answered = subscription.answered(&request.response_nonce, rejection);
        for name in &request.resource_names_unsubscribe {
            subscription.unsubscribe(name, catalog);
        }
        for name in &request.resource_names_subscribe {
            subscription.subscribe(name, wanted, catalog);
        }
        let is_rejected = rejection.is_some();
        Ok(answered.map_or(Heard::Other(kind), |sequence| {
            Heard::Answered(Answered { kind, sequence, is_rejected })
        }))
    }

    fn check(
        &self,
        kind: ResourceType,
        request: &DeltaDiscoveryRequest,
    ) -> Result<(), RequestViolation> {
        let versions = &request.initial_resource_versions;
        if versions.len() > VERSIONS_MAX {
            return Err(RequestViolation::TooManyVersions(versions.len()));
        }
        let held = self.subscription(kind).map_or(0, Subscription::names);
        let names = held + request.resource_names_subscribe.len();
        if names > SUBSCRIBED_MAX {
            return Err(RequestViolation::TooManyNames(names));
        }
        let names = request.resource_names_subscribe.iter().chain(versions.keys());
        match names.map(String::len).find(|length| *length > NAME_BYTES_MAX) {
            Some(length) => Err(RequestViolation::LongName(length)),
            None => Ok(()),
        }
    }

    /// There is a new catalogue, made from the one before.
    pub fn advance(&mut self, catalog: Arc<Catalog>) {
        let subscriptions = &mut self.subscriptions;
        catalog.changes_since(&self.catalog, |changed| {
            for subscription in subscriptions.iter_mut().flatten() {
                subscription.changed(changed, &catalog);
            }
        });
        self.catalog = catalog;
    }

    /// The client had time to subscribe to all it wants: addresses do not wait for policies that it
    /// did not ask for.
    pub fn settle(&mut self) {
        self.is_settled = true;
    }

    /// Whether addresses wait for [`Self::settle`].
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.is_settled
    }

    /// The next response, if one is due. Each has to be sent, in this order; there is at most one
    /// of each type until its answer is received.
    pub fn respond(&mut self) -> Option<Response> {
        self.next_response(Large::Sent)
    }

    /// The same, but a first response that is large waits: for the driver's turn to send it.
    /// Everything else that is due does not wait for it.
    pub fn respond_meanwhile(&mut self) -> Option<Response> {
        self.next_response(Large::Waits)
    }

    fn next_response(&mut self, large: Large) -> Option<Response> {
        let mut next =
            || ResourceType::ALL.into_iter().find_map(|kind| self.respond_to(kind, large));
        // Addresses that came and went leave nothing to be told, and policies wait for them.
        next().or_else(next)
    }

    fn respond_to(&mut self, kind: ResourceType, large: Large) -> Option<Response> {
        if !self.is_due(kind) || large == Large::Waits && self.is_large_first(kind) {
            return None;
        }
        // What may still name a policy that is gone has to be told first.
        let is_told = self.addresses_told();
        let nonce = format!("{:x}", self.responses + 1);
        let subscription = self.subscriptions.get_mut(kind.place())?.as_mut()?;
        let may_go = |since: u64| is_told.is_none_or(|told| told > since);
        let response = subscription.respond(nonce, &self.catalog, may_go)?;
        self.responses += 1;
        Some(response)
    }

    /// Whether nothing else has to come before that type.
    fn is_due(&self, kind: ResourceType) -> bool {
        match (kind, self.subscription(ResourceType::Authorization)) {
            (ResourceType::Authorization, _) => true,
            (ResourceType::Address | ResourceType::Workload, Some(policies)) => policies.is_ahead(),
            (ResourceType::Address | ResourceType::Workload, None) => self.is_settled,
        }
    }

    /// The catalogue from which on addresses have not been told; `None` if all were.
    fn addresses_told(&self) -> Option<u64> {
        let address = self.subscription(ResourceType::Address);
        let workload = self.subscription(ResourceType::Workload);
        if !self.is_settled && address.is_none() && workload.is_none() {
            return Some(0);
        }
        address.into_iter().chain(workload).filter_map(Subscription::behind_since).min()
    }

    /// Whether a large first response is due: the first of its type, with [`LARGE_BYTES`] or more.
    ///
    /// [`LARGE_BYTES`]: super::LARGE_BYTES
    #[must_use]
    pub fn is_large_due(&self) -> bool {
        let mut kinds = ResourceType::ALL.into_iter().filter(|kind| self.is_due(*kind));
        kinds.any(|kind| self.is_large_first(kind))
    }

    /// Whether a large first response is still to come, even if something else has to come before.
    #[must_use]
    pub fn is_large_to_come(&self) -> bool {
        ResourceType::ALL.into_iter().any(|kind| self.is_large_first(kind))
    }

    fn is_large_first(&self, kind: ResourceType) -> bool {
        let subscription = self.subscription(kind);
        subscription.is_some_and(|subscription| subscription.is_large_first(&self.catalog))
    }

    /// Whether the client has to be told something, now or once it has answered.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.subscriptions.iter().flatten().any(Subscription::is_pending)
    }

    /// Where the client stands, by type.
    #[must_use]
    pub fn status(&self) -> Vec<TypeStatus> {
        self.subscriptions.iter().flatten().map(Subscription::status).collect()
    }

    fn subscription(&self, kind: ResourceType) -> Option<&Subscription> {
        self.subscriptions.get(kind.place()).and_then(Option::as_ref)
    }
}

fn begin(
    kind: ResourceType,
    node: Option<Arc<str>>,
    everything: Wanted,
    request: DeltaDiscoveryRequest,
    catalog: &Catalog,
) -> Subscription {
    let DeltaDiscoveryRequest {
        resource_names_subscribe: subscribe,
        resource_names_unsubscribe: unsubscribe,
        initial_resource_versions: versions,
        ..
    } = request;
    let is_everything = |name: &String| name == EVERYTHING;
    // Without names, the first request asks for everything.
    let asks = subscribe.is_empty() || subscribe.iter().any(is_everything);
    let asks = asks && !unsubscribe.iter().any(is_everything);
    let wanted = match kind {
        _ if asks => everything,
        // An unmodified agent that asks on demand waits for its own pods without asking for them.
        ResourceType::Address if node.is_some() => Wanted::Local,
        ResourceType::Address | ResourceType::Workload | ResourceType::Authorization => {
            Wanted::Names
        }
    };
    let mut subscription = Subscription::new(kind, node, wanted, versions, catalog);
    for name in subscribe.iter().filter(|name| *name != EVERYTHING) {
        subscription.begin(name, catalog);
    }
    subscription
}

/// `NODE_NAME` of the metadata.
fn node_name(node: &Node) -> Option<Arc<str>> {
    match node.metadata.as_ref()?.fields.get("NODE_NAME")?.kind.as_ref()? {
        ValueKind::StringValue(name) if !name.is_empty() => Some(name.as_str().into()),
        ValueKind::StringValue(_)
        | ValueKind::NullValue(_)
        | ValueKind::NumberValue(_)
        | ValueKind::BoolValue(_)
        | ValueKind::StructValue(_)
        | ValueKind::ListValue(_) => None,
    }
}
