//! Delta discovery as a gRPC service: who may call it, and its messages on the wire.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes};
use proto::discovery::{DELTA_METHOD, DeltaDiscoveryRequest};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_util::task::AbortOnDropHandle;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::{Service, http};
use tonic::server::{NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};
use xds::server::{REQUEST_BYTES_MAX, RequestViolation};

use super::listener::Shared;
use super::peer::Peer;
use super::stream;
use crate::caller::{Caller, Credentials, Refusal, RefusalCode, Role, admit};

/// Responses that a stream's task has made and HTTP/2 has not taken: there is one of each type
/// until it is answered, and the status at the end. None waits for room.
const QUEUED_MAX: usize = 4;

/// A request that a client may send, or why it may not.
pub(super) type Read = Result<DeltaDiscoveryRequest, RequestViolation>;

/// The discovery service.
#[derive(Clone)]
pub(super) struct Discovery(pub(super) Arc<Shared>);

impl Discovery {
    async fn open(self, request: Request<Streaming<Read>>) -> Result<Response<Responses>, Status> {
        let Self(shared) = self;
        let (metadata, extensions, requests) = request.into_parts();
        let peer = extensions.get::<Peer>().cloned();
        let peer = peer.ok_or_else(|| Status::internal("a call without a connection"))?;
        let credentials = Credentials::of_call(&metadata, &extensions);
        let caller = admit(&*shared.authenticator, &credentials, &extensions).await;
        let caller = caller.map_err(|refusal| {
            shared.metrics.refused(refusal.code);
            shared.strangers.refused("discovery", Some(peer.address.ip()), &refusal);
            refusal.status()
        })?;
        let caller = is_served(caller).map_err(|refusal| {
            shared.metrics.refused(refusal.code);
            let code = refusal.code.as_str();
            tracing::warn!(peer = %peer.address, code, "caller of discovery refused: {refusal}");
            refusal.status()
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
            let why = format!("{who} is neither a node's agent nor a gateway");
            Err(Refusal::new(RefusalCode::NotServed, why))
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

impl StreamingService<Read> for Discovery {
    type Response = Bytes;
    type ResponseStream = Responses;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Responses>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<Read>>) -> Self::Future {
        Box::pin(self.clone().open(request))
    }
}

/// Requests as messages, responses as the bytes they are already.
struct EncodedResponses;

impl Codec for EncodedResponses {
    type Encode = Bytes;
    type Decode = Read;
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
    type Item = Read;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        Ok(Some(xds::server::decode(&bytes)))
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
