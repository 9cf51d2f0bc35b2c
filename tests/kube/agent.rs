//! A node's agent, as far as a control plane sees one: a discovery stream over TLS whose resources
//! are kept, and requests for certificates.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};
use authority::{Names, OwnKey};
use grpc_channel::{Address, ControlPlane, Credentials, Token};
use model::{SpiffeId, TrustDomain};
use prost::Message;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use proto::citadel::{
    CREATE_METHOD, IMPERSONATED_IDENTITY, IstioCertificateRequest, IstioCertificateResponse,
};
use proto::discovery::{DELTA_METHOD, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};
use proto::security::{AUTHORIZATION_TYPE, Authorization};
use proto::workload::address::Type;
use proto::workload::{ADDRESS_TYPE, Service, Workload};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tests::ClusterPlane;
use tls::{Compliance, RootSource, ServerTrust, TrustBundle};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Status, Streaming};
use tonic_prost::ProstCodec;

/// Requests that wait to be sent.
const REQUESTS_MAX: usize = 64;
/// Until something arrives; a kind whose definition came late is looked for every ten seconds, and
/// a server that was away every sixteen.
const TIMEOUT: Duration = Duration::from_secs(40);

/// How a plane is reached with a token, or without one.
fn reach(plane: &ClusterPlane, token: Option<&str>) -> anyhow::Result<ControlPlane> {
    let address = Address::parse(&format!("https://127.0.0.1:{}", plane.port()))?;
    let roots = RootSource::Pem(plane.roots()?);
    let names = ["localhost"];
    let trust = ServerTrust::new(roots, address.host(), names, Compliance::default())?;
    let token = token.map(|token| Token::Literal(token.to_owned()));
    Ok(ControlPlane::new(address, trust, Credentials::new(token, "Kubernetes", vec![])?))
}

/// An open discovery stream, and what it holds.
pub(crate) struct Agent {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
    pub(crate) workloads: BTreeMap<String, Workload>,
    pub(crate) services: BTreeMap<String, Service>,
    pub(crate) policies: BTreeMap<String, Authorization>,
    /// Policies that a workload named before they were there.
    pub(crate) late: BTreeSet<String>,
    answered: BTreeSet<String>,
}

impl Agent {
    /// Opens a stream and takes the whole mesh.
    pub(crate) async fn open(plane: &ClusterPlane, token: &str) -> anyhow::Result<Self> {
        let mut agent = Self::call(plane, Some(token)).await?.context("refused")?;
        agent.until("the first responses", |agent| agent.answered.len() == 2).await?;
        Ok(agent)
    }

    /// Opens a stream, or is refused.
    pub(crate) async fn call(
        plane: &ClusterPlane,
        token: Option<&str>,
    ) -> anyhow::Result<Result<Self, Status>> {
        let control_plane = reach(plane, token)?;
        let channel = control_plane.connect().await?;
        let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
        for kind in [AUTHORIZATION_TYPE, ADDRESS_TYPE] {
            let first = DeltaDiscoveryRequest {
                node: Some(Node { id: "ztunnel~test".to_owned(), ..Node::default() }),
                type_url: kind.to_owned(),
                ..DeltaDiscoveryRequest::default()
            };
            requests.send(first).await.context("ask")?;
        }
        let request = control_plane.request(ReceiverStream::new(receiver)).await?;
        let mut grpc = Grpc::new(channel);
        grpc.ready().await?;
        let path = PathAndQuery::from_static(DELTA_METHOD);
        let codec = ProstCodec::<DeltaDiscoveryRequest, DeltaDiscoveryResponse>::default();
        Ok(grpc.streaming(request, path, codec).await.map(|responses| Self {
            requests,
            responses: responses.into_inner(),
            workloads: BTreeMap::new(),
            services: BTreeMap::new(),
            policies: BTreeMap::new(),
            late: BTreeSet::new(),
            answered: BTreeSet::new(),
        }))
    }

    /// Takes and acknowledges responses until it is enough.
    pub(crate) async fn until(
        &mut self,
        what: &str,
        enough: impl Fn(&Self) -> bool,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + TIMEOUT;
        while !enough(self) {
            let response = timeout_at(deadline, self.responses.message()).await;
            let response = response.with_context(|| {
                let Self { workloads, services, policies, .. } = self;
                format!(
                    "{what}: not within {TIMEOUT:?}: {workloads:#?} {services:#?} {policies:#?}"
                )
            })?;
            let response = response.with_context(|| format!("{what}: the stream broke"))?;
            self.take(response.with_context(|| format!("{what}: the stream ended"))?).await?;
        }
        Ok(())
    }

    async fn take(&mut self, response: DeltaDiscoveryResponse) -> anyhow::Result<()> {
        let is_policies = response.type_url == AUTHORIZATION_TYPE;
        for name in &response.removed_resources {
            if is_policies {
                self.policies.remove(name);
            } else if self.workloads.remove(name).is_none() {
                self.services.remove(name);
            }
        }
        for resource in response.resources {
            let (name, value) = (resource.name, resource.resource.context("an empty resource")?);
            ensure!(value.type_url == response.type_url, "{name} is a {}", value.type_url);
            if is_policies {
                let policy = Authorization::decode(&*value.value).context("read a policy")?;
                self.policies.insert(name, policy);
                continue;
            }
            let address = proto::workload::Address::decode(&*value.value).context("read it")?;
            match address.r#type.with_context(|| format!("{name} is nothing"))? {
                Type::Workload(workload) => {
                    let named = workload.authorization_policies.iter();
                    self.late.extend(named.filter(|n| !self.policies.contains_key(*n)).cloned());
                    self.workloads.insert(name, workload);
                }
                Type::Service(service) => drop(self.services.insert(name, service)),
            }
        }
        self.answered.insert(response.type_url.clone());
        let answer = DeltaDiscoveryRequest {
            type_url: response.type_url,
            response_nonce: response.nonce,
            ..DeltaDiscoveryRequest::default()
        };
        self.requests.send(answer).await.context("acknowledge")
    }

    /// A pod's workload.
    pub(crate) fn pod(&self, namespace: &str, name: &str) -> Option<&Workload> {
        self.workloads.get(&format!("Kubernetes//Pod/{namespace}/{name}"))
    }

    /// A service's resource.
    pub(crate) fn service(&self, namespace: &str, name: &str) -> Option<&Service> {
        self.services.get(&format!("{namespace}/{name}.{namespace}.svc.cluster.local"))
    }
}

/// The identity of an account.
pub(crate) fn identity(namespace: &str, account: &str) -> anyhow::Result<SpiffeId> {
    SpiffeId::new(&TrustDomain::default(), namespace, account).context("an identity")
}

/// In whose name a certificate is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum For<'a> {
    /// For the token's own account, which the request has to name.
    Itself(&'a SpiffeId),
    /// For a pod of the node.
    Pod(&'a SpiffeId),
}

/// Asks for a certificate; the chain with the roots at its end, or why not.
pub(crate) async fn certify(
    plane: &ClusterPlane,
    token: Option<&str>,
    wanted: For<'_>,
) -> anyhow::Result<Result<Vec<String>, Status>> {
    let (identity, metadata) = match wanted {
        For::Itself(identity) => (identity, None),
        For::Pod(identity) => {
            let kind = Some(Kind::StringValue(identity.as_str().to_owned()));
            let field = (IMPERSONATED_IDENTITY.to_owned(), Value { kind });
            (identity, Some(Struct { fields: [field].into() }))
        }
    };
    let csr = OwnKey::new(&Names::of(identity.clone()))?.request;
    let request = IstioCertificateRequest { csr, validity_duration: 3600, metadata };
    let control_plane = reach(plane, token)?;
    let request = control_plane.request(request).await?;
    let mut grpc = Grpc::new(control_plane.connect().await?);
    grpc.ready().await?;
    let codec = ProstCodec::<IstioCertificateRequest, IstioCertificateResponse>::default();
    let answer = grpc.unary(request, PathAndQuery::from_static(CREATE_METHOD), codec).await;
    Ok(answer.map(|answer| answer.into_inner().cert_chain))
}

/// Whom a chain speaks for, by roots that were published.
pub(crate) fn speaks_for(chain: &[String], roots: &str) -> anyhow::Result<SpiffeId> {
    let (told, chain) = chain.split_last().context("an empty chain")?;
    ensure!(told.trim() == roots.trim(), "the answer tells of other roots");
    let bundle = TrustBundle::from_pem(TrustDomain::default(), roots.as_bytes());
    let certificates = chain.iter().map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()));
    let certificates = certificates.collect::<Result<Vec<_>, _>>().context("read a chain")?;
    let bundle = bundle.context("read roots")?;
    bundle.verify_chain(&certificates, SystemTime::now()).context("verify a chain")
}
