//! Connections of an enrolled pod to destinations outside the mesh: plain TCP to where the
//! application wanted to go, from the pod itself.

use std::net::SocketAddr;
use std::rc::Rc;

use model::Code;
use tokio::net::TcpStream;

use super::attempt::Attempt;
use super::outbound::client_gone;
use super::pods::Pod;
use super::record::{Reason, Record};
use super::worker::Worker;
use crate::relay;
use crate::tunnel;

/// Carries one connection out of the mesh.
pub(super) async fn passthrough(
    worker: &Rc<Worker>,
    pod: &Pod,
    stream: TcpStream,
    (destination, attempt): (SocketAddr, &Attempt),
    record: &mut Record,
) -> Reason {
    record.outcome.destination.address = Some(destination);
    let dialling = tunnel::passthrough(pod.captured.namespace(), destination, &worker.tuning);
    let dialled = tokio::select! {
        dialled = dialling => dialled,
        () = relay::peer_reset(&stream) => return client_gone(),
        () = worker.stop.cut() => {
            relay::reset(&stream);
            return Code::Draining.into();
        }
    };
    let upstream = match dialled {
        Ok(upstream) => upstream,
        Err(error) => {
            relay::reset(&stream);
            return Reason::new(error.code(), error.detail());
        }
    };
    attempt.stands();
    record.established();
    relay::join_tcp(stream, upstream, record, worker.stop.ending(pod)).await.into()
}
