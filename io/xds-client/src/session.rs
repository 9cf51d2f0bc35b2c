//! One connection, from the first request to its end.

use std::fmt;
use std::time::{Instant, SystemTime};

use grpc_channel::{ChannelError, CredentialError};
use model::causes;
use prost::Message;
use prost::bytes::Bytes;
use proto::discovery::{DELTA_METHOD, DeltaDiscoveryResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use xds::{Kind, Received, Termination, Violation};

use crate::codec::RawResponses;
use crate::driver::{Driver, Outgoing};
use crate::lines::Lines;

/// Largest response read, in bytes: some 400,000 workloads. A larger one ends the stream.
const MESSAGE_BYTES_MAX: usize = 200 << 20;
/// Requests that the control plane has not read yet. One beyond ends the stream: every response is
/// answered with one, so a control plane that sends and does not read would fill memory.
const REQUESTS_QUEUED_MAX: usize = 4096;

/// How a session ended.
#[derive(Debug)]
pub(crate) enum End {
    /// There was no connection.
    Connect(ChannelError),
    /// There was nothing to prove who we are.
    Credentials(CredentialError),
    /// The call failed, or the stream broke.
    Status(tonic::Status),
    /// The control plane ended the stream.
    Complete,
    /// It does not keep to the protocol.
    Violation(Violation),
    /// A response that is no message.
    Garbage(prost::DecodeError),
    /// It does not read requests.
    Deaf,
    /// Applying a response failed in a way that it must not; the machine began anew.
    Panicked,
    /// The stored state was lost: everything has to be sent again.
    Resend,
    /// Nobody uses the client any more.
    Unused,
}

impl End {
    /// The reason that is counted.
    pub(crate) fn termination(&self) -> Option<Termination> {
        match self {
            Self::Connect(_) | Self::Credentials(_) => Some(Termination::ConnectionError),
            Self::Status(status) => {
                Some(Termination::of_status(status.code().into(), status.message()))
            }
            Self::Complete => Some(Termination::Complete),
            Self::Violation(_) | Self::Garbage(_) | Self::Deaf | Self::Panicked => {
                Some(Termination::Error)
            }
            Self::Resend | Self::Unused => None,
        }
    }

    /// Whether it is no reason to worry.
    pub(crate) fn is_orderly(&self) -> bool {
        match self.termination() {
            Some(Termination::Complete | Termination::Reconnect) | None => true,
            Some(Termination::Error | Termination::ConnectionError) => false,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => f.write_str(&causes(error)),
            Self::Credentials(error) => f.write_str(&causes(error)),
            Self::Status(status) => write!(f, "{:?}: {}", status.code(), status.message()),
            Self::Complete => f.write_str("the control plane ended the stream"),
            Self::Violation(violation) => violation.fmt(f),
            Self::Garbage(error) => write!(f, "a response cannot be decoded: {error}"),
            Self::Deaf => write!(f, "{REQUESTS_QUEUED_MAX} requests were not read"),
            Self::Panicked => f.write_str("applying a response panicked"),
            Self::Resend => f.write_str("the stored state was lost: it is asked for again"),
            Self::Unused => f.write_str("nobody uses the client"),
        }
    }
}

impl Driver {
    /// One connection, from the first request to its end.
    pub(crate) async fn session(&mut self) -> End {
        match self.stream().await {
            Ok(end) | Err(end) => end,
        }
    }

    async fn stream(&mut self) -> Result<End, End> {
        let mut responses = self.open().await?;
        let now = SystemTime::now();
        tracing::info!(control_plane = %self.settings.control_plane.address(), "connected");
        self.status.send_modify(|status| status.connected_since = Some(now));
        loop {
            let message = self.serving(responses.message()).await?;
            match message.map_err(End::Status)? {
                None => return Ok(End::Complete),
                Some(bytes) => self.apply(bytes).await?,
            }
        }
    }

    /// Connects, and sends the first requests. A control plane may begin its answer only when it
    /// has something to say, so this can take as long as that.
    async fn open(&mut self) -> Result<Streaming<Bytes>, End> {
        let plane = self.settings.control_plane.clone();
        let connecting = async move {
            let channel = plane.connect().await.map_err(End::Connect)?;
            let (sender, receiver) = mpsc::channel(REQUESTS_QUEUED_MAX);
            let requests = plane.request(ReceiverStream::new(receiver)).await;
            Ok((channel, sender, requests.map_err(End::Credentials)?))
        };
        let (channel, sender, requests) = self.serving(connecting).await??;
        self.outgoing = Outgoing::Open(sender);
        for request in self.machine.opened() {
            self.send(request);
        }
        self.serving(call(channel, requests)).await?.map_err(End::Status)
    }

    /// Applies a response on a thread where it may take its time, publishes, and answers.
    async fn apply(&mut self, bytes: Bytes) -> Result<(), End> {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let started = Instant::now();
        let mut machine = self.take_machine();
        let work = tokio::task::spawn_blocking(move || {
            let received = DeltaDiscoveryResponse::decode(bytes).map(|response| {
                let kind = Kind::of(&response.type_url);
                (kind, machine.receive(response, started))
            });
            (machine, received)
        });
        let Ok((machine, received)) = work.await else {
            self.lost_machine();
            return Err(End::Panicked);
        };
        self.machine = machine;
        let (kind, received) = received.map_err(End::Garbage)?;
        self.status.send_modify(|status| {
            let messages = status.messages(kind);
            messages.count += 1;
            messages.bytes += length;
        });
        let received = received.map_err(End::Violation)?;
        self.applied(received, started);
        Ok(())
    }

    fn applied(&mut self, received: Received, started: Instant) {
        let now = SystemTime::now();
        if received.published {
            self.publish(now);
        }
        log(&received, started, &mut self.refusals);
        let is_live = self.machine.sync() == xds::Sync::Live;
        let followed = received.kind.is_some() && is_live;
        if followed && self.status.borrow().stale_since.is_some() {
            self.keeper.follow(true, Instant::now());
        }
        self.keeper.note(received.records, is_live, Instant::now());
        self.status.send_modify(|status| {
            let refusal = received.requests.first().and_then(|r| r.error_detail.as_ref());
            status.nacks += u64::from(refusal.is_some());
            status.refused += u64::from(received.refusal.is_some());
            if let Some(refusal) = refusal {
                let text = refusal.message.clone();
                status.last_error = Some(crate::status::LastError { at: now, text });
            }
            if received.kind.is_some() {
                status.last_push = Some(now);
            }
            if followed {
                status.stale_since = None;
            }
            status.rejected(received.rejected);
        });
        for request in received.requests {
            self.send(request);
        }
        self.release(received.released);
    }
}

async fn call(
    channel: Channel,
    requests: tonic::Request<ReceiverStream<proto::discovery::DeltaDiscoveryRequest>>,
) -> Result<Streaming<Bytes>, tonic::Status> {
    let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let unavailable = |error| tonic::Status::unavailable(causes(&error));
    grpc.ready().await.map_err(unavailable)?;
    let path = PathAndQuery::from_static(DELTA_METHOD);
    Ok(grpc.streaming(requests, path, RawResponses).await?.into_inner())
}

fn log(received: &Received, started: Instant, refusals: &mut Lines) {
    // The rest is in the status: a flood of bad resources does not become one of lines.
    let first = received.rejected.first();
    let is_refused = received.refusal.is_some() || first.is_some();
    if let Some(left_out) = is_refused.then(|| refusals.next(started)).flatten() {
        if let Some(refusal) = &received.refusal {
            tracing::warn!(%refusal, left_out, "response of the control plane refused");
        }
        if let Some(first) = first {
            let count = received.rejected.len();
            tracing::warn!(count, %first, left_out, "resources of the control plane rejected");
        }
    }
    if let Some(kind) = received.kind {
        let changed = received.records.len();
        let took = started.elapsed();
        tracing::debug!(kind = kind.url(), changed, ?took, "response of the control plane applied");
    }
}
