//! Connections to an enrolled pod that come without a tunnel: from outside the mesh, or from
//! another pod of this node. They skip the tunnel, never the policy.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use model::{Connection, Direction, OriginalDst, Path, Peer};
use resolve::Asked;
use tls::Svid;
use tokio::net::TcpStream;

use super::admit::{Call, Refused, admit};
use super::attempt::Attempt;
use super::distrust::{first, revoked};
use super::pods::Pod;
use super::record::{Both, Reason, Record};
use super::target::target;
use super::worker::Worker;
use crate::capture::Captured;
use crate::policy::Via;
use crate::relay;
use crate::tunnel::ClientLeg;

/// Takes a connection from a client outside the mesh: policy sees its address and no identity.
pub(crate) async fn plaintext(worker: Rc<Worker>, pod: Arc<Pod>, captured: Captured) {
    let Captured { stream, peer, original_dst } = captured;
    let mut record =
        Record::start(&worker.telemetry, Direction::Inbound, Path::Plaintext, peer, original_dst);
    let connection =
        Connection { source: peer, peer: Peer::Plaintext, destination: original_dst.0 };
    // policy, dial
    let call = Call { connection, via: Via::Direct, leg: ClientLeg::Beside };
    let client_gone = relay::peer_reset(&stream);
    let admitted = match admit(&worker, &pod, call, client_gone, &mut record).await {
        Ok(admitted) => admitted,
        Err(Refused { reason, .. }) => {
            relay::reset(&stream);
            return record.end(reason);
        }
    };
    // relay, telemetry
    record.established();
    let _open = pod.captured.track();
    let stop = admitted.watch.revoked();
    let ending = relay::join_tcp(stream, admitted.application, &record, stop).await;
    record.end(ending);
}

/// One connection between two pods of this node.
pub(super) struct SameNode {
    /// The client's socket.
    pub(super) stream: TcpStream,
    /// The client's address.
    pub(super) source: SocketAddr,
    /// The client's certificate, of whose pod this agent holds the kernel objects.
    pub(super) svid: Arc<Svid>,
    /// The destination pod's address.
    pub(super) local: IpAddr,
    /// What a tunnel to it would be asked for.
    pub(super) asked: SocketAddr,
}

/// Takes a connection from another pod of this node: the inbound half of `Route::Local`.
///
/// Both sides report, as they would across nodes. Returns why the connection ended, for the
/// client's report.
pub(super) async fn same_node(
    worker: &Rc<Worker>,
    pod: &Pod,
    (call, attempt): (SameNode, &Attempt),
    client_record: &mut Record,
) -> Reason {
    let SameNode { stream, source, svid, local, asked } = call;
    let identity = svid.identity().clone();
    let mut record = Record::start(
        &worker.telemetry,
        Direction::Inbound,
        Path::Local,
        source,
        OriginalDst(asked),
    );
    record.outcome.service.clone_from(&client_record.outcome.service);
    record.outcome.source.identity = Some(identity.id().clone());
    // discovery
    let gone = relay::peer_reset(&stream);
    let target = match target(worker, pod, local, Asked::Address(asked), gone).await {
        Ok(target) => target,
        Err(reason) => {
            relay::reset(&stream);
            record.end(reason.clone());
            return reason;
        }
    };
    let peer = Peer::Verified(identity);
    let connection = Connection { source, peer, destination: target.destination };
    // policy, dial
    let call = Call { connection: connection.clone(), via: Via::Direct, leg: target.leg };
    let client_gone = relay::peer_reset(&stream);
    let mut admitted = match admit(worker, pod, call, client_gone, &mut record).await {
        Ok(admitted) => admitted,
        Err(Refused { reason, .. }) => {
            relay::reset(&stream);
            client_record.outcome.destination = record.outcome.destination.clone();
            record.end(reason.clone());
            return reason;
        }
    };
    if let Err(reason) = target.announce(&mut admitted.application, &connection).await {
        relay::reset(&stream);
        relay::reset(&admitted.application);
        record.end(reason.clone());
        return reason;
    }
    // relay, telemetry
    client_record.outcome.destination = record.outcome.destination.clone();
    client_record.outcome.policy.clone_from(&record.outcome.policy);
    attempt.stands();
    client_record.established();
    record.established();
    let _open = pod.captured.track();
    let certificates = std::iter::once(svid).chain(pod.identity.current());
    let revoked = revoked(worker.trust.clone(), certificates.collect());
    let stop = first(admitted.watch.revoked(), revoked);
    let both = Both(client_record, &record);
    let reason = Reason::from(relay::join_tcp(stream, admitted.application, &both, stop).await);
    record.end(reason.clone());
    reason
}
