//! One pod's listeners on one thread: accept, hand to the flow, and own the connections.

use std::rc::Rc;
use std::sync::Arc;

use model::{Code, Direction, OriginalDst, Path};
use tokio::task::JoinSet;

use super::pods::Pod;
use super::record::Record;
use super::worker::Worker;
use super::{inbound, outbound, plaintext, questions};
use crate::capture::{Accepted, Acceptor, Captured, Refused, ThreadAcceptors};
use crate::relay;

/// Connections of one pod on one thread, in each direction. The kernel's bound on the tuples of a pod
/// is about as large. Beyond it, connections wait in the accept queue.
const CONNECTIONS_MAX: usize = 65_536;
/// Tunnels that end at one pod on one thread, at about 40 KiB each when idle. Beyond it, peers wait in
/// the accept queue until one of the others ends.
const TUNNELS_MAX: usize = 4096;

/// Serves one pod on this thread until it leaves and its last connection has ended.
pub(crate) async fn serve_pod(worker: Rc<Worker>, pod: Arc<Pod>, acceptors: ThreadAcceptors) {
    let ThreadAcceptors { outbound, hbone, plaintext, dns } = acceptors;
    let mut questions = JoinSet::new();
    for socket in dns {
        questions.spawn_local(questions::datagrams(worker.clone(), pod.clone(), socket));
    }
    tokio::join!(
        accept(&worker, &pod, (Direction::Outbound, CONNECTIONS_MAX), outbound, outbound::outbound),
        accept(&worker, &pod, (Direction::Inbound, TUNNELS_MAX), hbone, inbound::hbone),
        accept(
            &worker,
            &pod,
            (Direction::Inbound, CONNECTIONS_MAX),
            plaintext,
            plaintext::plaintext
        ),
        async { while questions.join_next().await.is_some() {} },
    );
}

async fn accept<F: Future<Output = ()> + 'static>(
    worker: &Rc<Worker>,
    pod: &Arc<Pod>,
    (direction, most): (Direction, usize),
    acceptor: Acceptor,
    flow: impl Fn(Rc<Worker>, Arc<Pod>, Captured) -> F,
) {
    let mut acceptor = match acceptor.start() {
        Ok(acceptor) => acceptor,
        Err(error) => {
            // The listener closes here: the kernel refuses what it would have taken, and the pod's
            // self-test says so.
            tracing::error!(pod = %pod.captured.uid(), %error, "cannot serve a listener");
            return;
        }
    };
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = worker.stop.draining() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = acceptor.accept(), if connections.len() < most => accepted,
        };
        // The pod takes no new connections.
        let Some(accepted) = accepted else { break };
        let room = most - connections.len();
        if let Some(captured) = admissible(worker, pod, direction, accepted, room) {
            connections.spawn_local(flow(worker.clone(), pod.clone(), captured));
        }
    }
    // New connections go elsewhere by now. These do not know that nobody has accepted them yet.
    for accepted in acceptor.into_queued() {
        let room = most - connections.len();
        if let Some(captured) = admissible(worker, pod, direction, accepted, room) {
            connections.spawn_local(flow(worker.clone(), pod.clone(), captured));
        }
    }
    while connections.join_next().await.is_some() {}
}

/// The connection, if it is to be served; reports it otherwise.
fn admissible(
    worker: &Worker,
    pod: &Pod,
    direction: Direction,
    accepted: Accepted,
    room: usize,
) -> Option<Captured> {
    let refused = match accepted {
        Accepted::Connection(captured) => {
            let code = if pod.captured.gone().is_cancelled() {
                Some(Code::PodGone)
            } else {
                (room == 0).then_some(Code::LimitReached)
            };
            let Some(code) = code else {
                if let Err(error) = worker.tuning.apply(&captured.stream) {
                    // The peer is gone already, or the option does not exist: no reason to refuse.
                    tracing::debug!(%error, "tuning an accepted socket failed");
                }
                return Some(captured);
            };
            relay::reset(&captured.stream);
            Refused { peer: captured.peer, local: captured.original_dst.0, code }
        }
        Accepted::Refused(refused) => refused,
    };
    let Refused { peer, local, code } = refused;
    let destination = OriginalDst(local);
    Record::start(&worker.telemetry, direction, Path::Passthrough, peer, destination).end(code);
    None
}
