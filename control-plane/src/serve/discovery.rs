//! Delta discovery as a gRPC service: who may call it, and its messages on the wire.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes};
use prost::Message;
use proto::discovery::{DELTA_METHOD, DeltaDiscoveryRequest};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_util::task::AbortOnDropHandle;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::{Service, http};
use tonic::server::{NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};

use super::listener::Shared;
use super::peer::{Peer, refused};
use super::stream;
use crate::caller::{Caller, Credentials, Refusal, Role};

/// Largest request, in bytes: what a client says it holds, a million times. The stream of one that
/// sends more ends.
pub const REQUEST_BYTES_MAX: usize = 128 << 20;
/// Responses that a stream's task has made and HTTP/2 has not taken: there is one of each type
/// until it is answered, and the status at the end. None waits for room.
const QUEUED_MAX: usize = 4;

/// The discovery service.
#[derive(Clone)]
pub(super) struct Discovery(pub(super) Arc<Shared>);

impl Discovery {
    async fn open(
        self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let Self(shared) = self;
        let (metadata, extensions, requests) = request.into_parts();
        let peer = extensions.get::<Peer>().cloned();
        let peer = peer.ok_or_else(|| Status::internal("a call without a connection"))?;
        let credentials = Credentials::of_call(&metadata, &extensions);
        let caller = shared.authenticator.authenticate(&credentials).await.and_then(is_served);
        let caller = caller.map_err(|refusal| {
            shared.metrics.refused.inc();
            tracing::warn!(peer = %peer.address, %refusal, "caller of discovery refused");
            refused(&refusal)
        })?;
        let (sender, receiver) = mpsc::channel(QUEUED_MAX);
        let running = stream::run(shared, peer, (Arc::new(caller), credentials), requests, sender);
        let task = AbortOnDropHandle::new(tokio::spawn(running));
        Ok(Response::new(Responses { receiver, _task: task }))
    }
}

/// The whole mesh is told to those only whose work it is.
fn is_served(caller: Caller) -> Result<Caller, Refusal> {
    match caller.role {
        Role::NodeProxy | Role::Gateway => Ok(caller),
        Role::Workload => {
            let who = &caller.identity;
            Err(Refusal::Forbidden(format!("{who} is neither a node's agent nor a gateway")))
        }
    }
}

/// The responses of a stream. Its task ends with it.
pub(super) struct Responses {
    receiver: mpsc::Receiver<Result<Bytes, Status>>,
    _task: AbortOnDropHandle<()>,
}

impl Stream for Responses {
    type Item = Result<Bytes, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.receiver.poll_recv(cx)
    }
}

impl StreamingService<DeltaDiscoveryRequest> for Discovery {
    type Response = Bytes;
    type ResponseStream = Responses;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Responses>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<DeltaDiscoveryRequest>>) -> Self::Future {
        Box::pin(self.clone().open(request))
    }
}

/// Requests as messages, responses as the bytes they are already.
struct EncodedResponses;

impl Codec for EncodedResponses {
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

impl Encoder for EncodedResponses {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, bytes: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(bytes);
        Ok(())
    }
}

impl Decoder for EncodedResponses {
    type Item = DeltaDiscoveryRequest;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        let request = DeltaDiscoveryRequest::decode(buffer);
        request.map(Some).map_err(|_| Status::invalid_argument("the request cannot be decoded"))
    }
}

impl NamedService for Discovery {
    const NAME: &'static str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
}

impl Service<http::Request<tonic::body::Body>> for Discovery {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let discovery = self.clone();
        Box::pin(async move {
            if request.uri().path() != DELTA_METHOD {
                let status = Status::unimplemented("only delta discovery is served");
                return Ok(status.into_http());
            }
            let mut grpc = tonic::server::Grpc::new(EncodedResponses)
                .max_decoding_message_size(REQUEST_BYTES_MAX)
                .max_encoding_message_size(usize::MAX);
            Ok(grpc.streaming(discovery, request).await)
        })
    }
}
