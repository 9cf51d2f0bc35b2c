//! Connections to an enrolled pod that come without a tunnel: from outside the mesh, or from
//! another pod of this node. They skip the tunnel, never the policy.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use model::{Connection, Direction, OriginalDst, Path, Peer, VerifiedIdentity};
use tokio::net::TcpStream;

use super::admit::{Refused, admit};
use super::pods::Pod;
use super::record::{Both, Reason, Record};
use super::worker::Worker;
use crate::capture::Captured;
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
    let admitted = match admit(
        &worker,
        &pod,
        connection,
        ClientLeg::Beside,
        relay::peer_reset(&stream),
        &mut record,
    )
    .await
    {
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
    /// The client's identity, which this agent has proven.
    pub(super) identity: VerifiedIdentity,
    /// The destination pod's address and port.
    pub(super) destination: SocketAddr,
}

/// Takes a connection from another pod of this node: the inbound half of `Route::Local`.
///
/// Both sides report, as they would across nodes. Returns why the connection ended, for the
/// client's report.
pub(super) async fn same_node(
    worker: &Rc<Worker>,
    pod: &Pod,
    call: SameNode,
    client_record: &mut Record,
) -> Reason {
    let SameNode { stream, source, identity, destination } = call;
    let mut record = Record::start(
        &worker.telemetry,
        Direction::Inbound,
        Path::Local,
        source,
        OriginalDst(destination),
    );
    record.outcome.service.clone_from(&client_record.outcome.service);
    let connection = Connection { source, peer: Peer::Verified(identity), destination };
    // policy, dial
    let admitted = match admit(
        worker,
        pod,
        connection,
        ClientLeg::Elsewhere,
        relay::peer_reset(&stream),
        &mut record,
    )
    .await
    {
        Ok(admitted) => admitted,
        Err(Refused { reason, .. }) => {
            relay::reset(&stream);
            client_record.outcome.destination = record.outcome.destination.clone();
            record.end(reason.clone());
            return reason;
        }
    };
    // relay, telemetry
    client_record.outcome.destination = record.outcome.destination.clone();
    client_record.outcome.policy.clone_from(&record.outcome.policy);
    client_record.established();
    record.established();
    let _open = pod.captured.track();
    let stop = admitted.watch.revoked();
    let both = Both(client_record, &record);
    let reason = Reason::from(relay::join_tcp(stream, admitted.application, &both, stop).await);
    record.end(reason.clone());
    reason
}
