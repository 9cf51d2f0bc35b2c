//! Connections to an enrolled pod that come in a tunnel:
//! capture → identity → tunnel (read CONNECT) → discovery → policy → tunnel (dial) → relay →
//! telemetry.

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hbone::{Baggage, ConnectHead};
use hbone_h2::{Incoming, Server};
use model::{Code, Connection, DialledService, Direction, OriginalDst, Path, Peer, Workload};
use resolve::{Snapshot, service_behind};
use tls::{PeerChain, VerifiedPeer};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::admit::{Call, Refused, admit};
use super::distrust::{distrusted, first};
use super::handshakes::Handshakes;
use super::pods::Pod;
use super::record::{Reason, Record};
use super::target::{asked, target};
use super::worker::Worker;
use crate::capture::Captured;
use crate::identity::NotReady;
use crate::policy::Via;
use crate::relay::{self, Socket};
use crate::tunnel;

/// A tunnel without streams is told to go after this. Longer than any client keeps one, so that only
/// forgotten tunnels are closed from this side.
const IDLE_MAX: Duration = Duration::from_mins(10);

/// The far end of one tunnel.
#[derive(Clone)]
struct Client {
    address: SocketAddr,
    peer: Peer,
    /// Judged again when trust changes.
    chain: PeerChain,
    /// The pod's address that the tunnel ends at.
    local: OriginalDst,
}

/// Takes one HBONE connection to a pod and serves its streams until it ends.
pub(crate) async fn hbone(worker: Rc<Worker>, pod: Arc<Pod>, captured: Captured) {
    let Captured { stream, peer: address, original_dst: local } = captured;
    let record =
        || Record::start(&worker.telemetry, Direction::Inbound, Path::Hbone, address, local);
    // A handshake that stalls, or waits for our certificate, holds one of a bounded number of slots,
    // for a bounded time.
    let Some(slot) = Handshakes::begin(&pod.handshakes, address.ip()) else {
        relay::reset(&stream);
        let detail = "too many handshakes with this pod are under way";
        return record().end(Reason::new(Code::LimitReached, detail));
    };
    // identity
    let svid = match pod.identity.ready().await {
        Ok(svid) => svid,
        Err(error) => {
            relay::reset(&stream);
            return record().end(Reason::new(NotReady::CODE, error.to_string()));
        }
    };
    // tunnel
    let (server, peer) = match tunnel::accept(stream, &svid, &worker.tunnel_options).await {
        Ok(accepted) => accepted,
        Err(error) => return record().end(Reason::new(error.code(), error.detail())),
    };
    drop(slot);
    let VerifiedPeer { identity, chain } = peer;
    let client = Client { address, peer: Peer::Verified(identity), chain, local };
    serve(worker, pod, server, client).await;
}

/// Serves the streams of one tunnel. A failing stream concerns no other.
async fn serve(worker: Rc<Worker>, pod: Arc<Pod>, mut server: Server, client: Client) {
    let mut streams = JoinSet::new();
    let mut told_to_leave = false;
    let mut idle = pin!(tokio::time::sleep(IDLE_MAX));
    let mut distrusted = pin!(distrusted(worker.trust.clone(), [client.chain.clone()]));
    loop {
        tokio::select! {
            incoming = server.next() => {
                let Some(incoming) = incoming else { break };
                let (worker, pod, client) = (worker.clone(), pod.clone(), client.clone());
                streams.spawn_local(stream(worker, pod, incoming, client));
            }
            Some(_) = streams.join_next(), if !streams.is_empty() => {
                idle.as_mut().reset(Instant::now() + IDLE_MAX);
            }
            () = &mut idle, if streams.is_empty() && !told_to_leave => {
                told_to_leave = true;
                server.shutdown();
            }
            // GOAWAY: the peer opens no new streams here; those that are open go on.
            () = worker.stop.leaving(&pod), if !told_to_leave => {
                told_to_leave = true;
                server.shutdown();
            }
            // The streams end for the same reason, each with its own report.
            _ = &mut distrusted, if !told_to_leave => {
                told_to_leave = true;
                server.shutdown();
            }
            () = worker.stop.cut() => break,
            // Its interface is gone too: the peer hears nothing, and would be waited for in vain.
            () = pod.captured.gone().cancelled() => break,
        }
    }
    // A peer that breaks the rules may have no stream left to tell of it.
    if let Some(error) = server.error().filter(|error| error.is_violation()) {
        let mut record = Record::start(
            &worker.telemetry,
            Direction::Inbound,
            Path::Hbone,
            client.address,
            client.local,
        );
        record.outcome.hbone = Some(client.local.0);
        record.outcome.source.identity = client.peer.identity().map(|peer| peer.id().clone());
        record.end(Reason::new(error.code(), model::causes(error)));
    }
    // What is left ends with its tunnel, and each stream leaves its own record.
    drop(server);
    while streams.join_next().await.is_some() {}
}

/// One stream of a tunnel.
async fn stream(worker: Rc<Worker>, pod: Arc<Pod>, incoming: Incoming, client: Client) {
    let mut record = Record::start(
        &worker.telemetry,
        Direction::Inbound,
        Path::Hbone,
        client.address,
        client.local,
    );
    record.outcome.hbone = Some(client.local.0);
    record.outcome.source.identity = client.peer.identity().map(|peer| peer.id().clone());
    // tunnel (read CONNECT)
    let (head, mut responder) = match incoming {
        Incoming::Connect(head, responder) => (head, responder),
        Incoming::Refused(error) => {
            return record.end(Reason::new(error.code(), error.to_string()));
        }
    };
    let gateway = head.from_gateway(&worker.config.network);
    let via = if gateway { Via::Gateway } else { Via::Direct };
    record.outcome.source.workload = source(&worker, &client, &head, via);
    // discovery
    let asked = asked(&head.authority);
    let target = match target(&worker, &pod, client.local.0.ip(), asked, responder.gone()).await {
        Ok(target) => target,
        Err(reason) => {
            responder.refuse(hbone::status_of(reason.code));
            return record.end(reason.about(format!("CONNECT {}", head.authority)));
        }
    };
    record.outcome.service.clone_from(&target.service);
    // policy, tunnel (dial)
    let connection =
        Connection { source: client.address, peer: client.peer, destination: target.destination };
    let call = Call { connection: connection.clone(), via, leg: target.leg };
    let client_gone = responder.gone();
    let mut admitted = match admit(&worker, &pod, call, client_gone, &mut record).await {
        Ok(admitted) => admitted,
        Err(Refused { reason, status }) => {
            responder.refuse(status);
            return record.end(reason);
        }
    };
    let server = record.outcome.destination.workload.clone();
    if record.outcome.service.is_none() {
        let mesh = worker.mesh.borrow_mut().current().clone();
        record.outcome.service =
            server.as_deref().and_then(|server| dialled(&mesh.snapshot, server, &head));
    }
    let baggage = server.as_deref().map(Baggage::of).unwrap_or_default();
    let stream = match responder.accept(&baggage) {
        Ok(stream) => stream,
        Err(error) => {
            relay::reset(&admitted.application);
            return record.end(Reason::new(Code::TunnelLost, error.to_string()));
        }
    };
    if let Err(reason) = target.announce(&mut admitted.application, &connection).await {
        relay::reset(&admitted.application);
        return record.end(reason);
    }
    // relay, telemetry
    record.established();
    let _open = pod.captured.track();
    let distrusted = distrusted(worker.trust.clone(), [client.chain]);
    let stop = first(admitted.watch.revoked(), distrusted);
    let ending =
        relay::join_tunnel(Socket::Server, admitted.application, stream, &record, stop).await;
    record.end(ending);
}

/// The client, for reports. What its own node tells counts only where nobody else can: behind a
/// gateway, whose address it has, and from an address that is no workload's. One that is another
/// workload's is a contradiction, and then the client is not known.
fn source(worker: &Worker, client: &Client, head: &ConnectHead, via: Via) -> Option<Arc<Workload>> {
    let identity = client.peer.identity()?;
    let mesh = worker.mesh.borrow_mut().current().clone();
    let ip = client.address.ip();
    let at_address = mesh.snapshot.workload_by_address(&worker.config.network, ip);
    match (via, at_address) {
        (Via::Direct, Some(_)) => worker.workload_of(&mesh, ip, Some(identity)),
        (Via::Direct, None) | (Via::Gateway, _) => {
            head.baggage.workload(identity.id()).map(Arc::new)
        }
    }
}

/// The service that the client says it dialled, if the workload has to do with it. For reports only.
fn dialled(snapshot: &Snapshot, workload: &Workload, head: &ConnectHead) -> Option<DialledService> {
    let host = head.forwarded.host.as_deref()?;
    service_behind(snapshot, workload, host).map(|service| service.dialled())
}
