//! A control plane's certificate authority: `IstioCertificateService` over gRPC.

use std::collections::BTreeMap;
use std::time::Duration;

use grpc_channel::{ChannelError, ControlPlane, CredentialError};
use model::SpiffeId;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use proto::citadel::{
    CREATE_METHOD, IMPERSONATED_IDENTITY, IstioCertificateRequest, IstioCertificateResponse,
};
use tls::{BundleError, RESPONSE_BYTES_MAX, ResponseError, TrustBundle, issued_chain};
use tokio::sync::Mutex;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

use crate::csr::{Csr, CsrError};
use crate::issuer::{IssueError, Issued, Issuer, Issuing};

/// How long one request may take, the connection to the authority included.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the authority gave no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CaClientError {
    /// No connection.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// We cannot say who we are.
    #[error("what the authority is sent")]
    Credentials(#[from] CredentialError),
    /// No request.
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// The authority refused, or the connection broke.
    #[error("the authority answered {:?}: {}", .0.code(), .0.message())]
    Status(Box<tonic::Status>),
    /// It took longer than [`CALL_TIMEOUT`].
    #[error("the authority did not answer within {CALL_TIMEOUT:?}")]
    Timeout,
    /// The answer cannot be read.
    #[error("the authority's answer")]
    Response(#[from] ResponseError),
    /// The roots cannot be used.
    #[error("the roots in the authority's answer")]
    Bundle(#[from] BundleError),
}

/// Asks a control plane for certificates in the name of this node's workloads.
pub struct CaClient {
    plane: ControlPlane,
    /// Kept between calls. Given up after a failure, so that roots are read anew.
    channel: Mutex<Option<Channel>>,
}

impl CaClient {
    /// Nothing is connected yet.
    #[must_use]
    pub fn new(plane: ControlPlane) -> Self {
        Self { plane, channel: Mutex::new(None) }
    }

    async fn create(&self, identity: &SpiffeId, ttl: Duration) -> Result<Issued, CaClientError> {
        let csr = Csr::new(identity)?;
        let request = request(&csr, identity, ttl);
        let called = tokio::time::timeout(CALL_TIMEOUT, self.call(request)).await;
        let response = match called {
            Ok(Ok(response)) => response,
            failed => {
                // A later call connects anew; others that are under way keep their channel.
                *self.channel.lock().await = None;
                return Err(failed.map_or(CaClientError::Timeout, |result| match result {
                    Ok(_) => CaClientError::Timeout,
                    Err(error) => error,
                }));
            }
        };
        let issued = issued_chain(&response.cert_chain)?;
        let bundle = TrustBundle::new(identity.domain(), issued.roots)?;
        // Whether it is for this identity and key, and verifies, is checked when it is made ready.
        Ok(Issued { chain: issued.chain, key: csr.key, bundle })
    }

    async fn call(
        &self,
        message: IstioCertificateRequest,
    ) -> Result<IstioCertificateResponse, CaClientError> {
        let status = |status| CaClientError::Status(Box::new(status));
        let channel = self.channel().await?;
        let request = self.plane.request(message).await?;
        let mut grpc = Grpc::new(channel).max_decoding_message_size(RESPONSE_BYTES_MAX);
        let ready = grpc.ready().await;
        ready.map_err(|error| status(tonic::Status::unavailable(model::causes(&error))))?;
        let path = PathAndQuery::from_static(CREATE_METHOD);
        let response = grpc.unary(request, path, ProstCodec::default()).await.map_err(status)?;
        Ok(response.into_inner())
    }

    async fn channel(&self) -> Result<Channel, ChannelError> {
        // Held while connecting: those who ask meanwhile want the same connection.
        let mut channel = self.channel.lock().await;
        match &*channel {
            Some(channel) => Ok(channel.clone()),
            None => Ok(channel.insert(self.plane.connect().await?).clone()),
        }
    }
}

impl Issuer for CaClient {
    fn issue<'a>(&'a self, identity: &'a SpiffeId, ttl: Duration) -> Issuing<'a> {
        Box::pin(async move {
            let created = self.create(identity, ttl).await;
            created.map_err(|cause| IssueError::new(identity, cause))
        })
    }
}

fn request(csr: &Csr, identity: &SpiffeId, ttl: Duration) -> IstioCertificateRequest {
    let name = Value { kind: Some(Kind::StringValue(identity.as_str().to_owned())) };
    IstioCertificateRequest {
        csr: csr.pem.clone(),
        validity_duration: i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX),
        metadata: Some(Struct {
            fields: BTreeMap::from([(IMPERSONATED_IDENTITY.to_owned(), name)]),
        }),
    }
}
