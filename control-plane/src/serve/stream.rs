//! One stream of discovery: drives its machine.

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::discovery::DeltaDiscoveryRequest;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, sleep, sleep_until};
use tonic::{Code, Status, Streaming};
use xds::server::{
    Connection, ConnectionSettings, Heard, LARGE_BYTES, REQUEST_BYTES_MAX, RequestViolation,
    ResourceType,
};

use super::clients::Entry;
use super::discovery::Read;
use super::listener::Shared;
use super::peer::Peer;
use super::publisher::Published;
use crate::caller::{Caller, Credentials, Proof, Refusal, RefusalCode, RefusalKind};

/// How long addresses wait for a client to subscribe to policies. One that never does waits as long
/// for its first answer.
pub const POLICY_WAIT: Duration = Duration::from_millis(200);
/// Large first responses that are made or on their way at once. Each holds a copy of what it says,
/// some 60 MiB for 100,000 workloads; when all clients come back together, the others wait for theirs,
/// and for nothing else: what they ask meanwhile is heard, and what is small is sent.
pub const FIRST_RESPONSES_MAX: usize = 4;
/// How long a client may take to answer one before the next client's turn comes all the same.
pub const FIRST_HELD: Duration = Duration::from_secs(3);

/// Runs until the client goes, misbehaves, or is moved away.
pub(super) async fn run(
    shared: Arc<Shared>,
    peer: Peer,
    (caller, credentials): (Arc<Caller>, Credentials),
    requests: Streaming<Read>,
    sender: mpsc::Sender<Result<Bytes, Status>>,
) {
    let entry = shared.clients.enter(caller.clone(), peer.address);
    let (stream, identity) = (entry.stream(), caller.identity.clone());
    tracing::info!(stream, peer = %peer.address, %identity, "stream of discovery opened");
    shared.metrics.streams.inc();
    let _open = Open(shared.clone());
    let mut catalog = shared.catalog.clone();
    let published = catalog.current();
    let node = caller.node.clone();
    let settings = ConnectionSettings { node };
    let machine = Connection::new(settings, published.catalog.clone());
    let driver = Driver {
        shared: shared.clone(),
        entry,
        machine,
        sender: sender.clone(),
        behind: Some(Instant::now()),
        sent: [None; 3],
        turn: Turn::None,
    };
    let unwelcome = until_unwelcome(shared.clone(), caller, credentials);
    let status = match driver.drive(catalog, requests, &peer, unwelcome).await {
        Ok(()) => {
            tracing::info!(stream, "stream of discovery closed");
            return;
        }
        Err(Ended::Refused(refusal)) => {
            shared.metrics.refused(refusal.code);
            let code = refusal.code.as_str();
            tracing::warn!(stream, peer = %peer.address, code, "client of discovery refused: {refusal}");
            refusal.status()
        }
        Err(Ended::Status(status)) => {
            let reason = status.message();
            tracing::info!(stream, code = ?status.code(), reason, "stream of discovery ended");
            status
        }
    };
    // There is room: it is the last. If the client is gone, nobody is told.
    let _ = sender.try_send(Err(status));
}

/// Why a stream ended.
enum Ended {
    /// By us, for what the client did or is.
    Refused(Refusal),
    /// In another way.
    Status(Status),
}

/// Counts a stream until it is dropped, however its task ends.
struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.metrics.streams.dec();
    }
}

struct Driver {
    shared: Arc<Shared>,
    entry: Entry,
    machine: Connection,
    sender: mpsc::Sender<Result<Bytes, Status>>,
    /// When the oldest change was published that the client was not sent.
    behind: Option<Instant>,
    /// The same of responses that were not answered, by type.
    sent: [Option<Instant>; 3],
    turn: Turn,
}

/// The turn to send large first responses.
enum Turn {
    /// None is wanted.
    None,
    /// One is waited for, beside everything else.
    Awaited(Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>),
    /// It is ours.
    Held {
        _permit: OwnedSemaphorePermit,
        until: Instant,
        /// The large response that was sent last.
        sent: Option<ResourceType>,
    },
}

impl Turn {
    /// Waits for what comes next: the turn, or its end. Cancel safe.
    async fn next(&mut self) -> Result<(), Ended> {
        match self {
            Self::None => pending().await,
            Self::Awaited(turn) => {
                let stopping = |_| Ended::Status(Status::unavailable("stopping"));
                let permit = turn.await.map_err(stopping)?;
                let until = Instant::now() + FIRST_HELD;
                *self = Self::Held { _permit: permit, until, sent: None };
            }
            Self::Held { until, .. } => {
                sleep_until(*until).await;
                *self = Self::None;
            }
        }
        Ok(())
    }
}

impl Driver {
    async fn drive(
        mut self,
        mut catalog: super::CatalogView,
        mut requests: Streaming<Read>,
        peer: &Peer,
        unwelcome: impl Future<Output = Refusal>,
    ) -> Result<(), Ended> {
        let settled = sleep(POLICY_WAIT);
        tokio::pin!(settled, unwelcome);
        loop {
            self.send_due()?;
            self.entry.update(self.machine.node(), self.machine.status());
            // Each of these may be dropped while it waits: what it would have returned comes again.
            tokio::select! {
                request = requests.message() => match request.map_err(unread)? {
                    Some(request) => self.receive(request.map_err(violated)?)?,
                    None => return Ok(()),
                },
                published = catalog.changed() => self.advance(published),
                () = &mut settled, if !self.machine.is_settled() => self.machine.settle(),
                changed = self.turn.next() => changed?,
                () = peer.draining.cancelled() => return Err(Ended::Status(moved())),
                refusal = &mut unwelcome => return Err(Ended::Refused(refusal)),
            }
        }
    }

    fn receive(&mut self, request: DeltaDiscoveryRequest) -> Result<(), Ended> {
        if let Some(node) = request.node.as_ref().filter(|node| !node.id.is_empty()) {
            self.entry.named(&node.id);
        }
        let refusal = request.error_detail.as_ref().map(|status| status.message.clone());
        match self.machine.receive(request).map_err(violated)? {
            Heard::Subscribed(_) | Heard::Other(_) | Heard::UnknownType => {}
            Heard::Answered(answered) => {
                if matches!(&self.turn, Turn::Held { sent, .. } if *sent == Some(answered.kind)) {
                    self.turn = Turn::None;
                }
                let stream = self.entry.stream();
                if answered.is_rejected {
                    self.shared.metrics.rejected();
                    let kind = answered.kind.label();
                    let reason: String = refusal.unwrap_or_default().chars().take(512).collect();
                    tracing::warn!(stream, kind, ?reason, "client refused a response");
                } else if let Some(since) = self.sent_at(answered.kind).take() {
                    self.shared.metrics.converged(since.elapsed());
                }
            }
        }
        Ok(())
    }

    fn advance(&mut self, published: Published) {
        self.machine.advance(published.catalog);
        if self.machine.is_pending() {
            self.behind.get_or_insert(published.at);
        }
    }

    fn sent_at(&mut self, kind: ResourceType) -> &mut Option<Instant> {
        let [authorization, address, workload] = &mut self.sent;
        match kind {
            ResourceType::Authorization => authorization,
            ResourceType::Address => address,
            ResourceType::Workload => workload,
        }
    }

    /// Sends every response that is due, large first ones in turn with those of others.
    fn send_due(&mut self) -> Result<(), Ended> {
        loop {
            let started = Instant::now();
            let response = match self.turn {
                Turn::Held { .. } => self.machine.respond(),
                Turn::None | Turn::Awaited(_) => self.machine.respond_meanwhile(),
            };
            let Some(response) = response else { break };
            self.shared.metrics.pushed(response.kind, response.bytes.len(), started.elapsed());
            *self.sent_at(response.kind) = self.behind;
            if let Turn::Held { sent, .. } = &mut self.turn
                && response.bytes.len() >= LARGE_BYTES
            {
                *sent = Some(response.kind);
            }
            tracing::debug!(
                stream = self.entry.stream(),
                kind = response.kind.label(),
                resources = response.resources,
                removed = response.removed,
                bytes = response.bytes.len(),
                sequence = response.sequence,
                "response sent"
            );
            // One of each type is on its way at most, so there is room unless the client is gone.
            let queued = self.sender.try_send(Ok(response.bytes));
            queued.map_err(|_| Ended::Status(Status::cancelled("the client is gone")))?;
        }
        if !self.machine.is_pending() {
            self.behind = None;
        }
        match (&self.turn, self.machine.is_large_due()) {
            (Turn::None, true) => {
                let turns = self.shared.first_responses.clone();
                self.turn = Turn::Awaited(Box::pin(turns.acquire_owned()));
            }
            // What was taken for large may have turned out small, or gone. What has to wait for
            // something else, such as a policy that changed just now, keeps its place.
            (Turn::Awaited(_) | Turn::Held { sent: None, .. }, false)
                if !self.machine.is_large_to_come() =>
            {
                self.turn = Turn::None;
            }
            (Turn::None, false) | (Turn::Awaited(_) | Turn::Held { .. }, _) => {}
        }
        Ok(())
    }
}

fn violated(violation: RequestViolation) -> Ended {
    let code = match violation {
        RequestViolation::TooManyNames(_) => RefusalCode::TooManyNames,
        RequestViolation::LongName(_) | RequestViolation::LongVersion(_) => {
            RefusalCode::NameTooLong
        }
        RequestViolation::TooManyVersions(_) => RefusalCode::TooManyVersions,
        RequestViolation::TooMuchElse(_) => RefusalCode::RequestTooLarge,
        RequestViolation::Undecodable => RefusalCode::RequestUnreadable,
    };
    Ended::Refused(Refusal::new(code, violation.to_string()))
}

/// A request that did not come: too large to be read at all, or the connection's end.
fn unread(status: Status) -> Ended {
    if status.code() == Code::OutOfRange {
        let why = format!("a request has more than {REQUEST_BYTES_MAX} bytes");
        return Ended::Refused(Refusal::new(RefusalCode::RequestTooLarge, why));
    }
    Ended::Status(status)
}

/// Ends when a client with that join token would no longer be let in: it was revoked, or is over.
/// Tokens of service accounts and certificates end by themselves, and their clients are asked to
/// come again before long.
async fn until_unwelcome(
    shared: Arc<Shared>,
    caller: Arc<Caller>,
    credentials: Credentials,
) -> Refusal {
    match caller.proof {
        Proof::JoinToken => {}
        Proof::Certificate | Proof::ServiceAccountToken => return pending().await,
    }
    loop {
        sleep(shared.settings.recheck).await;
        match shared.authenticator.authenticate(&credentials).await {
            Ok(again) if again == *caller => {}
            Ok(_) => {
                let why = "the token is somebody else's now";
                return Refusal::new(RefusalCode::TokenChangedHands, why);
            }
            Err(refusal) if refusal.kind() == RefusalKind::Unavailable => {}
            Err(refusal) => return refusal,
        }
    }
}

/// Clients come back at once, to whoever serves them now.
fn moved() -> Status {
    Status::unavailable("moving away")
}
