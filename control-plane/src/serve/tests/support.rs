//! A server on a port of the loopback, and clients of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use authority::{
    Authority, AuthorityPem, CertificateRequest, KeyAlgorithm, Names, OwnKey, make_root,
};
use grpc_channel::{Address, ControlPlane, Token};
use model::{SpiffeId, TrustDomain};
use prometheus_client::registry::Registry;
use proto::discovery::{DELTA_METHOD, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};
use proto::workload::Workload;
use tls::{Compliance, RootSource, ServerIdentity, ServerTls, ServerTrust, Trust, TrustView};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::service::Routes;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use tonic_prost::ProstCodec;
use xds::server::{Resource, ResourceType, Update};

use crate::caller::{
    Authenticate, Authenticating, Caller, Credentials, Proof, Refusal, RefusalCode, Role,
};
use crate::serve::{Clients, Metrics, Publisher, ServeSettings, Serving, serve};

/// Longer than anything here takes; only a failing test waits as long.
const PATIENCE: Duration = Duration::from_secs(30);
const NAME: &str = "control-plane.test";

/// Waits, but not for ever.
pub(super) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("in time")
}

/// Believes every token: it is the caller's role. Join tokens, until they are revoked.
#[derive(Default)]
struct Gullible {
    revoked: Arc<AtomicBool>,
}

impl Authenticate for Gullible {
    fn authenticate<'a>(&'a self, credentials: &'a Credentials) -> Authenticating<'a> {
        let role = match credentials.token.as_deref() {
            Some("node") => Ok(Role::NodeProxy),
            Some("joined") if !self.revoked.load(Ordering::Relaxed) => Ok(Role::NodeProxy),
            Some("gateway") => Ok(Role::Gateway),
            Some("workload") => Ok(Role::Workload),
            Some("later") => {
                Err(Refusal::new(RefusalCode::ReviewUnavailable, "the API server is away"))
            }
            Some(_) | None => Err(Refusal::new(RefusalCode::TokenRejected, "the token of nobody")),
        };
        let identity = SpiffeId::parse("spiffe://cluster.local/ns/warren/sa/ztunnel");
        let identity = identity.expect("an identity");
        let proof = match credentials.token.as_deref() {
            Some("joined") => Proof::JoinToken,
            Some(_) | None => Proof::ServiceAccountToken,
        };
        let node = Some("node-1".into());
        Box::pin(std::future::ready(role.map(|role| Caller {
            identity,
            node,
            pod: None,
            proof,
            role,
        })))
    }
}

/// A running server.
pub(super) struct Server {
    pub(super) publisher: Publisher,
    pub(super) clients: Clients,
    pub(super) revoked: Arc<AtomicBool>,
    pub(super) registry: Registry,
    pub(super) stop: CancellationToken,
    pub(super) task: JoinHandle<()>,
    address: SocketAddr,
    root: String,
}

impl Server {
    pub(super) async fn start(settings: ServeSettings) -> Self {
        let now = SystemTime::now();
        let domain = TrustDomain::parse("cluster.local").expect("a domain");
        let root = make_root(&domain, KeyAlgorithm::default(), now).expect("a root");
        let pem = AuthorityPem {
            certificate: &root.certificate,
            key: &root.key,
            chain: "",
            roots: &root.certificate,
        };
        let authority = Authority::from_pem(&domain, &pem, now).expect("an authority");
        let identity = SpiffeId::parse("spiffe://cluster.local/ns/warren/sa/control-plane");
        let names = Names::server(identity.expect("an identity"), &[NAME]).expect("names");
        let own = OwnKey::new(&names).expect("a key");
        let request = CertificateRequest::from_pem(&own.request).expect("a request");
        let signed = authority.sign(&request, &names, Duration::from_hours(1), now);
        let trust = TrustView::fixed(Trust::of(authority.bundle().clone()));
        let chain = vec![signed.expect("signed").leaf];
        let identity = ServerIdentity::new(chain, own.key, &trust).expect("an identity");
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (publisher, clients) = (Publisher::default(), Clients::default());
        let mut registry = Registry::default();
        let authenticator = Gullible::default();
        let revoked = authenticator.revoked.clone();
        let serving = Serving {
            listeners: vec![listener],
            tls: ServerTls::fixed(identity),
            authenticator: Arc::new(authenticator),
            catalog: publisher.view(),
            services: Routes::default(),
            clients: clients.clone(),
            metrics: Metrics::register(&mut registry),
            settings,
        };
        let stop = CancellationToken::new();
        let task = tokio::spawn(serve(serving, stop.clone()));
        Self { publisher, clients, revoked, registry, stop, task, address, root: root.certificate }
    }

    /// Where it is.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Opens a stream with that token, on a connection of its own.
    pub(super) async fn connect(&self, token: &str) -> Result<Stream, Status> {
        let channel = self.channel(token).await?;
        self.open(channel, token).await
    }

    /// Opens a connection.
    pub(super) async fn channel(&self, token: &str) -> Result<Channel, Status> {
        let channel = soon(self.control_plane(token).connect()).await;
        channel.map_err(|error| Status::unavailable(error.to_string()))
    }

    fn control_plane(&self, token: &str) -> ControlPlane {
        let address = Address::parse(&format!("https://{}", self.address)).expect("valid");
        let roots = RootSource::Pem(self.root.clone());
        let trust = ServerTrust::new(roots, address.host(), [NAME], Compliance::default());
        let token = Some(Token::Literal(token.to_owned()));
        let credentials = grpc_channel::Credentials::new(token, "Kubernetes", vec![]);
        ControlPlane::new(address, trust.expect("a name"), credentials.expect("valid"))
    }

    /// What is counted.
    pub(super) fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).expect("encodes");
        text
    }

    /// Opens a stream on a connection.
    pub(super) async fn open(&self, channel: Channel, token: &str) -> Result<Stream, Status> {
        let control_plane = self.control_plane(token);
        let (requests, receiver) = mpsc::channel(16);
        let request = control_plane.request(ReceiverStream::new(receiver)).await.expect("a token");
        let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(usize::MAX);
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let path = PathAndQuery::from_static(DELTA_METHOD);
        let codec = ProstCodec::<DeltaDiscoveryRequest, DeltaDiscoveryResponse>::default();
        let responses = soon(grpc.streaming(request, path, codec)).await?.into_inner();
        Ok(Stream { requests, responses })
    }

    /// A stream of a node's agent that has everything and said so.
    pub(super) async fn follow(&self) -> Stream {
        let mut stream = self.connect("node").await.expect("served");
        for kind in [ResourceType::Address, ResourceType::Authorization] {
            stream.ask(kind).await;
        }
        for _ in 0..2 {
            let response = stream.next().await;
            stream.accept(&response).await;
        }
        stream
    }

    pub(super) fn set(&self, resources: Vec<Resource>) {
        self.publisher.publish(Update { set: resources, removed: vec![] });
    }
}

/// An open stream.
pub(super) struct Stream {
    pub(super) requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Stream {
    pub(super) async fn ask(&self, kind: ResourceType) {
        let node = Node { id: "ztunnel~1".into(), ..Node::default() };
        let type_url = kind.url().into();
        self.send(DeltaDiscoveryRequest { node: Some(node), type_url, ..Default::default() }).await;
    }

    pub(super) async fn send(&self, request: DeltaDiscoveryRequest) {
        self.requests.send(request).await.expect("open");
    }

    pub(super) async fn accept(&self, response: &DeltaDiscoveryResponse) {
        let (type_url, nonce) = (response.type_url.clone(), response.nonce.clone());
        let answer =
            DeltaDiscoveryRequest { type_url, response_nonce: nonce, ..Default::default() };
        self.send(answer).await;
    }

    pub(super) async fn next(&mut self) -> DeltaDiscoveryResponse {
        self.message().await.expect("no error").expect("open")
    }

    pub(super) async fn message(&mut self) -> Result<Option<DeltaDiscoveryResponse>, Status> {
        soon(self.responses.message()).await
    }
}

/// One of many pods; `revision` is what changes.
pub(super) fn pod(number: u32, revision: u32) -> Resource {
    let [_, a, b, c] = number.to_be_bytes();
    Resource::workload(Workload {
        uid: format!("Kubernetes//Pod/shop/cart-{number}"),
        name: format!("cart-{number}"),
        namespace: "shop".into(),
        addresses: vec![vec![10, a, b, c].into()],
        service_account: "cart".into(),
        canonical_name: "cart".into(),
        canonical_revision: format!("v{revision}"),
        node: format!("node-{}", number % 100),
        ..Workload::default()
    })
}
