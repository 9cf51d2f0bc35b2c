//! Proxies, as far as they cost a control plane anything: each takes everything, acknowledges, and
//! notes when what arrived.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use grpc_channel::{Address, ControlPlane, Credentials, Token};
use prost::Message;
use prost::bytes::Bytes;
use proto::discovery::{DELTA_METHOD, DeltaDiscoveryRequest, Node};
use proto::security::AUTHORIZATION_TYPE;
use proto::workload::ADDRESS_TYPE;
use tls::{Compliance, RootSource, ServerTrust};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::codegen::http::uri::PathAndQuery;
use tonic_prost::ProstCodec;

/// Requests that wait to be sent.
const REQUESTS_MAX: usize = 64;
/// The whole mesh, to a hundred at once.
const FIRST_TIMEOUT: Duration = Duration::from_mins(2);

/// A response whose resources are not looked into.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Response {
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub(crate) resources: Vec<Bytes>,
    #[prost(string, tag = "4")]
    pub(crate) type_url: String,
    #[prost(string, tag = "5")]
    pub(crate) nonce: String,
    #[prost(string, repeated, tag = "6")]
    pub(crate) removed: Vec<String>,
}

/// Name and version of a resource: fields 3 and 1.
#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(string, tag = "3")]
    name: String,
}

/// Where the control plane is, and how it is recognised.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) port: u16,
    pub(crate) roots: String,
    pub(crate) name: &'static str,
}

/// An open stream.
pub(crate) struct Client {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<Response>,
}

impl Client {
    /// Opens a stream and asks for everything, with what it has already.
    pub(crate) async fn open(
        target: &Target,
        number: usize,
        versions: impl IntoIterator<Item = (String, String)>,
    ) -> anyhow::Result<Self> {
        let address = Address::parse(&format!("https://127.0.0.1:{}", target.port))?;
        let roots = RootSource::Pem(target.roots.clone());
        let trust = ServerTrust::new(roots, address.host(), [target.name], Compliance::default())?;
        let token = Some(Token::Literal("bench".to_owned()));
        let credentials = Credentials::new(token, "Kubernetes", vec![])?;
        let control_plane = ControlPlane::new(address, trust, credentials);
        let channel = control_plane.connect().await?;
        let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
        let request = control_plane.request(ReceiverStream::new(receiver)).await?;
        let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(usize::MAX);
        grpc.ready().await?;
        let path = PathAndQuery::from_static(DELTA_METHOD);
        let codec = ProstCodec::<DeltaDiscoveryRequest, Response>::default();
        let mut versions = Some(versions.into_iter().collect());
        for kind in [ADDRESS_TYPE, AUTHORIZATION_TYPE] {
            let first = DeltaDiscoveryRequest {
                node: Some(Node { id: format!("ztunnel~{number}"), ..Node::default() }),
                type_url: kind.to_owned(),
                initial_resource_versions: versions.take().unwrap_or_default(),
                ..DeltaDiscoveryRequest::default()
            };
            requests.send(first).await.context("ask")?;
        }
        let responses = grpc.streaming(request, path, codec).await?.into_inner();
        Ok(Self { requests, responses })
    }

    /// The next response, acknowledged, and when it came.
    pub(crate) async fn next(&mut self) -> anyhow::Result<(Response, Instant)> {
        let response = timeout(FIRST_TIMEOUT, self.responses.message()).await;
        let response = response.context("no response in time")??.context("the stream ended")?;
        let at = Instant::now();
        let answer = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..DeltaDiscoveryRequest::default()
        };
        self.requests.send(answer).await.context("acknowledge")?;
        Ok((response, at))
    }

    /// Takes the first response of both types; that of addresses.
    pub(crate) async fn first(&mut self) -> anyhow::Result<Response> {
        let mut addresses = None;
        for _ in 0..2 {
            let (response, _) = self.next().await?;
            if response.type_url == ADDRESS_TYPE {
                addresses = Some(response);
            }
        }
        addresses.context("no addresses came")
    }
}

/// Names and versions of what a response holds.
pub(crate) fn versions(response: &Response) -> anyhow::Result<Vec<(String, String)>> {
    let named = response.resources.iter().map(|bytes| {
        let named = Named::decode(bytes.clone()).context("a resource")?;
        ensure!(!named.name.is_empty(), "a resource without a name");
        Ok((named.name, named.version))
    });
    let named: Vec<_> = named.collect::<anyhow::Result<_>>()?;
    if named.is_empty() {
        bail!("an empty response");
    }
    Ok(named)
}
