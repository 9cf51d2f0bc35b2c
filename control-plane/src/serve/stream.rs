//! One stream of discovery: drives its machine.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::discovery::DeltaDiscoveryRequest;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, sleep, sleep_until};
use tonic::{Status, Streaming};
use xds::server::{Connection, ConnectionSettings, Heard, ResourceType};

use super::clients::Entry;
use super::listener::Shared;
use super::peer::{Peer, refused};
use super::publisher::Published;
use crate::caller::{Caller, Credentials, Proof, Refusal};

/// How long addresses wait for a client to subscribe to policies. One that never does waits as long
/// for its first answer.
pub const POLICY_WAIT: Duration = Duration::from_millis(200);
/// Large first responses that are made or on their way at once. Each holds a copy of what it says,
/// some 60 MiB for 100,000 workloads; when all clients come back together, the others wait.
pub const FIRST_RESPONSES_MAX: usize = 4;
/// How long a client may take to answer one before the next client's turn comes all the same.
pub const FIRST_HELD: Duration = Duration::from_secs(3);
/// A smaller response is none of those.
const LARGE: usize = 1 << 20;

/// Runs until the client goes, misbehaves, or is moved away.
pub(super) async fn run(
    shared: Arc<Shared>,
    peer: Peer,
    (caller, credentials): (Arc<Caller>, Credentials),
    requests: Streaming<DeltaDiscoveryRequest>,
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
        shared,
        entry,
        machine,
        sender: sender.clone(),
        behind: Some(Instant::now()),
        sent: [None; 3],
        turn: None,
    };
    let unwelcome = until_unwelcome(driver.shared.clone(), caller, credentials);
    let unwelcome = async move {
        let refusal = unwelcome.await;
        tracing::warn!(stream, peer = %peer.address, %refusal, "client of discovery refused");
        refused(&refusal)
    };
    match driver.drive(catalog, requests, &peer, unwelcome).await {
        Ok(()) => tracing::info!(stream, "stream of discovery closed"),
        Err(status) => {
            let reason = status.message();
            tracing::info!(stream, code = ?status.code(), reason, "stream of discovery ended");
            // There is room: it is the last. If the client is gone, nobody is told.
            let _ = sender.try_send(Err(status));
        }
    }
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
    /// The turn to send a large first response, until when.
    turn: Option<(OwnedSemaphorePermit, Instant)>,
}

impl Driver {
    async fn drive(
        mut self,
        mut catalog: super::CatalogView,
        mut requests: Streaming<DeltaDiscoveryRequest>,
        peer: &Peer,
        unwelcome: impl Future<Output = Status>,
    ) -> Result<(), Status> {
        let settled = sleep(POLICY_WAIT);
        tokio::pin!(settled, unwelcome);
        loop {
            tokio::select! {
                // Nothing is lost when this is dropped: a turn that was taken is given back.
                sent = self.send_due() => sent?,
                () = peer.draining.cancelled() => return Err(moved()),
                status = &mut unwelcome => return Err(status),
            }
            self.entry.update(self.machine.node(), self.machine.status());
            let turn_ends = self.turn.as_ref().map(|(_, end)| *end);
            // Each of these may be dropped while it waits: what it would have returned comes again.
            tokio::select! {
                request = requests.message() => match request? {
                    Some(request) => self.receive(request)?,
                    None => return Ok(()),
                },
                published = catalog.changed() => self.advance(published),
                () = &mut settled, if !self.machine.is_settled() => self.machine.settle(),
                () = sleep_until(turn_ends.unwrap_or_else(Instant::now)), if turn_ends.is_some() => {
                    self.turn = None;
                }
                () = peer.draining.cancelled() => return Err(moved()),
                status = &mut unwelcome => return Err(status),
            }
        }
    }

    fn receive(&mut self, request: DeltaDiscoveryRequest) -> Result<(), Status> {
        if let Some(node) = request.node.as_ref().filter(|node| !node.id.is_empty()) {
            self.entry.named(&node.id);
        }
        let refusal = request.error_detail.as_ref().map(|status| status.message.clone());
        let heard = self.machine.receive(request);
        match heard.map_err(|violation| Status::resource_exhausted(violation.to_string()))? {
            Heard::Subscribed(_) | Heard::Other(_) | Heard::UnknownType => {}
            Heard::Answered(answered) => {
                self.turn = None;
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

    /// Sends every response that is due.
    async fn send_due(&mut self) -> Result<(), Status> {
        loop {
            if self.machine.is_first_due() && self.turn.is_none() {
                let turns = self.shared.first_responses.clone();
                let turn = turns.acquire_owned().await;
                let turn = turn.map_err(|_| Status::unavailable("stopping"))?;
                self.turn = Some((turn, Instant::now() + FIRST_HELD));
            }
            let started = Instant::now();
            let Some(response) = self.machine.respond() else { break };
            self.shared.metrics.pushed(response.kind, response.bytes.len(), started.elapsed());
            *self.sent_at(response.kind) = self.behind;
            if response.bytes.len() < LARGE {
                self.turn = None;
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
            queued.map_err(|_| Status::cancelled("the client is gone"))?;
        }
        if !self.machine.is_pending() {
            self.behind = None;
        }
        Ok(())
    }
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
            Ok(_) => return Refusal::Forbidden("the token is somebody else's now".to_owned()),
            Err(Refusal::Unavailable(_)) => {}
            Err(refusal) => return refusal,
        }
    }
}

/// Clients come back at once, to whoever serves them now.
fn moved() -> Status {
    Status::unavailable("moving away")
}
