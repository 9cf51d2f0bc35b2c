//! The discovery service of the test control plane: holds a set of resources, sends differences as
//! Istio's does, remembers what it was asked and told, and misbehaves when asked to.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use parking_lot::Mutex;
use prost::Message;
use prost::bytes::{BufMut, Bytes};
use proto::discovery::{
    Any, DELTA_METHOD, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource,
};
use proto::security::{AUTHORIZATION_TYPE, Authorization};
use proto::workload::{ADDRESS_TYPE, Address, NetworkAddress, Service, Workload, address};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http;
use tonic::server::{NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};

/// A request, and the number of the stream it came on, from 1.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Which stream.
    pub stream: u64,
    /// What was asked, or told.
    pub request: DeltaDiscoveryRequest,
}

/// A handle on the service. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct TestXds {
    state: Arc<Mutex<State>>,
    /// Counts requests and streams, for those who wait for one.
    changes: Arc<watch::Sender<u64>>,
}

impl fmt::Debug for TestXds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestXds")
            .field("asked", &self.state.lock().asked.len())
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    resources: BTreeMap<&'static str, BTreeMap<String, Held>>,
    version: u64,
    streams: Vec<Stream>,
    opened: u64,
    asked: Vec<Asked>,
    /// Types that are not answered for now.
    held_back: BTreeSet<&'static str>,
    /// How new streams are refused.
    refusing: Option<Status>,
}

/// What becomes of a response that says nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Empty {
    Omitted,
    Sent,
}

struct Held {
    version: String,
    value: Bytes,
    aliases: Vec<String>,
}

struct Stream {
    number: u64,
    sender: mpsc::UnboundedSender<Result<Bytes, Status>>,
    watched: BTreeMap<&'static str, Watched>,
    sent: u64,
    last: Option<Bytes>,
}

/// What a stream knows of one type.
#[derive(Default)]
struct Watched {
    wildcard: bool,
    /// Names asked for, and names sent for them.
    names: BTreeSet<String>,
    versions: BTreeMap<String, String>,
}

/// Changes that are sent as one response of each type.
pub struct Update<'s> {
    state: &'s mut State,
    touched: BTreeMap<&'static str, BTreeSet<String>>,
}

impl Update<'_> {
    /// Adds or replaces a workload.
    pub fn workload(&mut self, workload: Workload) -> &mut Self {
        let name = workload.uid.clone();
        let aliases = workload.addresses.iter().filter_map(|ip| alias(&workload.network, ip));
        let aliases = aliases.collect();
        let body = Address { r#type: Some(address::Type::Workload(workload)) };
        self.set(ADDRESS_TYPE, &name, body.encode_to_vec(), aliases)
    }

    /// Adds or replaces a service.
    pub fn service(&mut self, service: Service) -> &mut Self {
        let name = format!("{}/{}", service.namespace, service.hostname);
        let vip = |vip: &NetworkAddress| alias(&vip.network, &vip.address);
        let aliases = service.addresses.iter().filter_map(vip).collect();
        let body = Address { r#type: Some(address::Type::Service(service)) };
        self.set(ADDRESS_TYPE, &name, body.encode_to_vec(), aliases)
    }

    /// Adds or replaces a policy.
    pub fn policy(&mut self, policy: &Authorization) -> &mut Self {
        let name = format!("{}/{}", policy.namespace, policy.name);
        self.set(AUTHORIZATION_TYPE, &name, policy.encode_to_vec(), Vec::new())
    }

    /// Adds or replaces whatever these bytes are.
    pub fn raw(&mut self, type_url: &'static str, name: &str, bytes: Vec<u8>) -> &mut Self {
        self.set(type_url, name, bytes, Vec::new())
    }

    /// Removes a workload by its uid, a service by `namespace/hostname`.
    pub fn remove(&mut self, name: &str) -> &mut Self {
        self.unset(ADDRESS_TYPE, name)
    }

    /// Removes a policy by `namespace/name`.
    pub fn remove_policy(&mut self, name: &str) -> &mut Self {
        self.unset(AUTHORIZATION_TYPE, name)
    }

    fn unset(&mut self, type_url: &'static str, name: &str) -> &mut Self {
        self.state.resources.entry(type_url).or_default().remove(name);
        self.touched.entry(type_url).or_default().insert(name.to_owned());
        self
    }

    fn set(
        &mut self,
        type_url: &'static str,
        name: &str,
        bytes: Vec<u8>,
        aliases: Vec<String>,
    ) -> &mut Self {
        self.state.version += 1;
        // As Istio does: policies have no versions.
        let version = match type_url {
            AUTHORIZATION_TYPE => String::new(),
            _ => format!("v{}", self.state.version),
        };
        let held = Held { version, value: bytes.into(), aliases };
        self.state.resources.entry(type_url).or_default().insert(name.to_owned(), held);
        self.touched.entry(type_url).or_default().insert(name.to_owned());
        self
    }
}

/// `network/address`.
fn alias(network: &str, bytes: &[u8]) -> Option<String> {
    let v4 = <[u8; 4]>::try_from(bytes).map(std::net::IpAddr::from);
    let ip = v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(std::net::IpAddr::from)).ok()?;
    Some(format!("{network}/{ip}"))
}

impl Default for TestXds {
    fn default() -> Self {
        Self::new()
    }
}

impl TestXds {
    /// A service that holds nothing.
    #[must_use]
    pub fn new() -> Self {
        Self { state: Arc::default(), changes: Arc::new(watch::Sender::new(0)) }
    }

    /// Changes the set, and sends the differences on every stream.
    pub fn update(&self, change: impl FnOnce(&mut Update<'_>)) {
        let mut state = self.state.lock();
        let mut update = Update { state: &mut state, touched: BTreeMap::new() };
        change(&mut update);
        let touched = update.touched;
        // In Istio's order: a workload may come before the policies it names.
        for type_url in [ADDRESS_TYPE, AUTHORIZATION_TYPE] {
            if let Some(names) = touched.get(type_url) {
                state.push(type_url, names, Empty::Omitted);
            }
        }
    }

    /// Answers nothing of a type until [`Self::release`].
    pub fn hold_back(&self, type_url: &'static str) {
        self.state.lock().held_back.insert(type_url);
    }

    /// Answers that type again, and those who wait for it.
    pub fn release(&self, type_url: &'static str) {
        let mut state = self.state.lock();
        state.held_back.remove(type_url);
        let names: BTreeSet<_> =
            state.resources.entry(type_url).or_default().keys().cloned().collect();
        state.push(type_url, &names, Empty::Sent);
    }

    /// Refuses new streams, or accepts them again.
    pub fn refuse(&self, status: Option<Status>) {
        self.state.lock().refusing = status;
    }

    /// Ends every stream: in order, or with a status.
    pub fn close(&self, status: Option<&Status>) {
        for stream in self.state.lock().streams.drain(..) {
            if let Some(status) = status {
                // Gone already, which is as good.
                let _ = stream.sender.send(Err(status.clone()));
            }
        }
    }

    /// Sends a response on every stream, as it is.
    pub fn send(&self, response: &DeltaDiscoveryResponse) {
        self.send_bytes(&response.encode_to_vec().into());
    }

    /// Sends bytes in place of a response.
    pub fn send_bytes(&self, bytes: &Bytes) {
        for stream in &self.state.lock().streams {
            // Gone already, which is as good.
            let _ = stream.sender.send(Ok(bytes.clone()));
        }
    }

    /// Sends the last response of each stream again, with its old nonce.
    pub fn replay(&self) {
        for stream in &self.state.lock().streams {
            if let Some(last) = &stream.last {
                // Gone already, which is as good.
                let _ = stream.sender.send(Ok(last.clone()));
            }
        }
    }

    /// Streams that are open.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.state.lock().streams.iter().filter(|stream| !stream.sender.is_closed()).count()
    }

    /// Streams so far.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.state.lock().opened
    }

    /// Every request so far.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        self.state.lock().asked.clone()
    }

    /// Texts of the refusals so far.
    #[must_use]
    pub fn refusals(&self) -> Vec<String> {
        let details = |asked: Asked| asked.request.error_detail.map(|status| status.message);
        self.asked().into_iter().filter_map(details).collect()
    }

    /// Waits until a request fits; looks at all of them.
    pub async fn wait_for(&self, mut fits: impl FnMut(&Asked) -> bool) -> Asked {
        let mut changes = self.changes.subscribe();
        loop {
            changes.borrow_and_update();
            if let Some(asked) = self.asked().into_iter().find(|asked| fits(asked)) {
                return asked;
            }
            // The sender is this handle's own.
            let _ = changes.changed().await;
        }
    }

    /// The gRPC service.
    #[must_use]
    pub fn service(&self) -> XdsService {
        XdsService(self.clone())
    }

    fn serve(
        &self,
        mut requests: Streaming<DeltaDiscoveryRequest>,
    ) -> Result<UnboundedReceiverStream<Result<Bytes, Status>>, Status> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let number = {
            let mut state = self.state.lock();
            if let Some(status) = &state.refusing {
                return Err(status.clone());
            }
            state.opened += 1;
            let number = state.opened;
            let watched = BTreeMap::new();
            state.streams.push(Stream { number, sender, watched, sent: 0, last: None });
            number
        };
        let this = self.clone();
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                let mut state = this.state.lock();
                state.asked.push(Asked { stream: number, request: request.clone() });
                state.take(number, request);
                drop(state);
                this.changes.send_modify(|count| *count += 1);
            }
            this.state.lock().streams.retain(|stream| stream.number != number);
        });
        Ok(UnboundedReceiverStream::new(receiver))
    }
}

impl State {
    fn take(&mut self, number: u64, request: DeltaDiscoveryRequest) {
        let types = [ADDRESS_TYPE, AUTHORIZATION_TYPE];
        let Some(type_url) = types.into_iter().find(|url| *url == request.type_url) else { return };
        let Some(stream) = self.streams.iter_mut().find(|stream| stream.number == number) else {
            return;
        };
        let is_first = !stream.watched.contains_key(type_url);
        let watched = stream.watched.entry(type_url).or_default();
        let mut subscribed: BTreeSet<_> = request.resource_names_subscribe.into_iter().collect();
        let everything = subscribed.remove("*");
        if is_first {
            watched.wildcard = subscribed.is_empty() && !everything
                || everything && !request.resource_names_unsubscribe.iter().any(|n| n == "*");
            watched.names.extend(request.initial_resource_versions.keys().cloned());
            watched.versions = request.initial_resource_versions;
        }
        for name in request.resource_names_unsubscribe {
            watched.names.remove(&name);
        }
        watched.names.extend(subscribed.iter().cloned());
        if is_first && watched.wildcard {
            let held = self.resources.entry(type_url).or_default().keys().cloned();
            let names: BTreeSet<_> = held.chain(watched.versions.keys().cloned()).collect();
            self.respond(number, type_url, &names, Empty::Sent);
        } else if !subscribed.is_empty() {
            self.respond(number, type_url, &subscribed, Empty::Omitted);
        }
    }

    fn push(&mut self, type_url: &'static str, names: &BTreeSet<String>, empty: Empty) {
        for number in self.streams.iter().map(|stream| stream.number).collect::<Vec<_>>() {
            self.respond(number, type_url, names, empty);
        }
    }

    /// Sends what changed of these names, for those who watch them.
    fn respond(
        &mut self,
        number: u64,
        type_url: &'static str,
        names: &BTreeSet<String>,
        empty: Empty,
    ) {
        let Some(stream) = self.streams.iter_mut().find(|stream| stream.number == number) else {
            return;
        };
        let Some(watched) = stream.watched.get_mut(type_url) else { return };
        if self.held_back.contains(type_url) {
            return;
        }
        let held = self.resources.entry(type_url).or_default();
        let mut response = DeltaDiscoveryResponse {
            type_url: type_url.to_owned(),
            ..DeltaDiscoveryResponse::default()
        };
        let mut found = BTreeSet::new();
        for asked in names {
            let by_alias =
                |(name, held): (&String, &Held)| held.aliases.contains(asked).then(|| name.clone());
            let name = match held.get_key_value(asked) {
                Some((name, _)) => Some(name.clone()),
                None => held.iter().find_map(by_alias),
            };
            match name {
                Some(name) => {
                    found.insert(name);
                }
                None if watched.versions.remove(asked).is_some()
                    || watched.names.contains(asked) =>
                {
                    response.removed_resources.push(asked.clone());
                }
                None => {}
            }
        }
        for name in found {
            let Some(held) = held.get(&name) else { continue };
            let wanted = watched.wildcard
                || watched.names.contains(&name)
                || held.aliases.iter().any(|alias| watched.names.contains(alias));
            // What is asked for by name is sent even if it was sent before.
            let known = watched.versions.get(&name) == Some(&held.version);
            if !wanted || known && !held.version.is_empty() && watched.wildcard {
                continue;
            }
            watched.versions.insert(name.clone(), held.version.clone());
            if !watched.wildcard {
                watched.names.insert(name.clone());
            }
            response.resources.push(Resource {
                version: held.version.clone(),
                resource: Some(Any { type_url: type_url.to_owned(), value: held.value.clone() }),
                name,
                aliases: if watched.wildcard { Vec::new() } else { held.aliases.clone() },
            });
        }
        let is_empty = response.resources.is_empty() && response.removed_resources.is_empty();
        if is_empty && empty == Empty::Omitted {
            return;
        }
        stream.sent += 1;
        response.nonce = format!("{number}-{}", stream.sent);
        let bytes: Bytes = response.encode_to_vec().into();
        stream.last = Some(bytes.clone());
        // Gone already, which is as good.
        let _ = stream.sender.send(Ok(bytes));
    }
}

impl StreamingService<DeltaDiscoveryRequest> for TestXds {
    type Response = Bytes;
    type ResponseStream = UnboundedReceiverStream<Result<Bytes, Status>>;
    type Future = std::future::Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<DeltaDiscoveryRequest>>) -> Self::Future {
        std::future::ready(self.serve(request.into_inner()).map(Response::new))
    }
}

/// Requests as messages, responses as the bytes they were made to be.
struct RawResponses;

impl Codec for RawResponses {
    type Encode = Bytes;
    type Decode = DeltaDiscoveryRequest;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for RawResponses {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, bytes: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(bytes);
        Ok(())
    }
}

impl Decoder for RawResponses {
    type Item = DeltaDiscoveryRequest;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        let request = DeltaDiscoveryRequest::decode(buffer);
        request.map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

/// The discovery service as a gRPC service.
#[derive(Clone, Debug)]
pub struct XdsService(TestXds);

impl NamedService for XdsService {
    const NAME: &'static str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
}

impl tonic::codegen::Service<http::Request<tonic::body::Body>> for XdsService {
    type Response = http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let xds = self.0.clone();
        Box::pin(async move {
            let mut grpc =
                tonic::server::Grpc::new(RawResponses).max_decoding_message_size(usize::MAX);
            match request.uri().path() {
                DELTA_METHOD => Ok(grpc.streaming(xds, request).await),
                path => Ok(Status::unimplemented(path.to_owned()).into_http()),
            }
        })
    }
}
