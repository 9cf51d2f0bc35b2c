//! Connections that an enrolled pod makes:
//! capture → discovery → identity → tunnel → relay → telemetry.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use hbone::{Authority, Baggage, ConnectHead, Forwarded, Traceparent};
use model::{Code, Direction, Path, SpiffeId, Workload};
use resolve::Route;
use tokio::net::TcpStream;

use super::passthrough::passthrough;
use super::plaintext::{SameNode, same_node};
use super::pods::Pod;
use super::record::{Reason, Record};
use super::worker::Worker;
use crate::capture::Captured;
use crate::discovery;
use crate::identity::NotReady;
use crate::mesh::MeshState;
use crate::relay::{self, Socket};
use crate::tunnel::TunnelKey;

/// Takes one captured connection to wherever its application wanted it to go.
pub(crate) async fn outbound(worker: Rc<Worker>, pod: Arc<Pod>, captured: Captured) {
    let Captured { stream, peer, original_dst } = captured;
    let mut record = Record::start(
        &worker.telemetry,
        Direction::Outbound,
        Path::Passthrough,
        peer,
        original_dst,
    );
    let _open = pod.captured.track();
    // discovery
    let (mesh, source) = match source(&worker, &pod, &stream).await {
        Ok(known) => known,
        Err(reason) => return record.end(reason),
    };
    record.outcome.source.workload = Some(source.clone());
    let route = discovery::route(
        &mesh,
        &discovery::Question {
            network: &worker.config.network,
            source: &source,
            original_dst,
            local: &|workload| worker.local_pod(workload).is_some(),
            same_node: worker.config.same_node,
        },
    );
    let reason = match route {
        Route::Passthrough { address, workload, service, choice: _ } => {
            record.outcome.destination.workload = workload;
            record.outcome.service = service;
            passthrough(&worker, &pod, stream, address, &mut record).await
        }
        Route::Hbone { workload, tunnel, authority, expected, service, choice: _ } => {
            record.outcome.path = Path::Hbone;
            record.outcome.hbone = Some(tunnel);
            record.outcome.service = service;
            record.outcome.destination.workload = Some(workload.clone());
            let far = Far { workload, tunnel, authority, expected };
            across(&worker, &pod, stream, &source, far, &mut record).await
        }
        // A waypoint on this node: what it is asked for is not itself.
        Route::Local { workload, address, authority, service, .. } if address != authority => {
            record.outcome.service = service;
            record.outcome.destination.workload = Some(workload);
            not_carried(&stream, "a waypoint on this node")
        }
        Route::Local { workload, address, authority: _, service, choice: _ } => {
            record.outcome.path = Path::Local;
            record.outcome.service = service;
            record.outcome.destination.workload = Some(workload.clone());
            let near = Near { source: &source, workload: &workload, destination: address };
            local(&worker, &pod, stream, near, &mut record).await
        }
        Route::DoubleHbone { workload, service, .. } => {
            record.outcome.service = service;
            record.outcome.destination.workload = Some(workload);
            not_carried(&stream, "a gateway to another network")
        }
        Route::Lookup(lookup) => {
            record.outcome.service = lookup.service().cloned();
            record.outcome.destination.workload = Some(lookup.workload().clone());
            not_carried(&stream, "a host name")
        }
        Route::Ask { resource, service } => {
            record.outcome.service = service;
            not_carried(&stream, &format!("{resource}, which is asked for when it is needed"))
        }
        Route::Refused { code, detail, service, workload } => {
            relay::reset(&stream);
            record.outcome.service = service;
            record.outcome.destination.workload = workload;
            Reason::new(code, detail)
        }
    };
    record.end(reason);
}

/// The end of a route that this version cannot carry.
fn not_carried(stream: &TcpStream, what: &str) -> Reason {
    relay::reset(stream);
    Reason::new(Code::RouteUnsupported, format!("the route leads to {what}"))
}

/// The state of the mesh, with the workload of the client in it.
async fn source(
    worker: &Rc<Worker>,
    pod: &Pod,
    stream: &TcpStream,
) -> Result<(Arc<MeshState>, Arc<Workload>), Reason> {
    let key = pod.captured.workload();
    let mesh = worker.mesh.borrow_mut().current().clone();
    if let Some(source) = discovery::source_in(&mesh, key) {
        return Ok((mesh, source));
    }
    let view = worker.mesh.borrow().clone();
    let known = tokio::select! {
        known = discovery::source(view, key) => known,
        () = relay::peer_reset(stream) => return Err(client_gone()),
        () = worker.stop.cut() => return Err(draining(stream)),
    };
    known.map_err(|(code, detail)| {
        relay::reset(stream);
        Reason::new(code, detail)
    })
}

/// A pod on another node.
struct Far {
    workload: Arc<Workload>,
    tunnel: SocketAddr,
    authority: SocketAddr,
    expected: Vec<SpiffeId>,
}

/// Through a tunnel to the destination's node.
async fn across(
    worker: &Rc<Worker>,
    pod: &Arc<Pod>,
    socket: TcpStream,
    source: &Workload,
    far: Far,
    record: &mut Record,
) -> Reason {
    // identity
    let svid = match pod.identity.ready().await {
        Ok(svid) => svid,
        Err(error) => {
            relay::reset(&socket);
            return Reason::new(NotReady::CODE, error.to_string());
        }
    };
    record.outcome.source.identity = Some(svid.identity().id().clone());
    // tunnel
    let client = record.outcome.source.address.unwrap_or(far.tunnel);
    let service = record.outcome.service.as_ref().map(|service| &*service.name.hostname);
    let head = ConnectHead {
        authority: Authority::Address(far.authority),
        baggage: Baggage::of(source),
        forwarded: Forwarded::new(client, service),
        traceparent: Some(Traceparent::from_random(rand::random(), rand::random())),
        forwarded_network: None,
    };
    let key = TunnelKey {
        pod: pod.captured.uid().clone(),
        netns_cookie: pod.captured.namespace().cookie(),
        source: client.ip(),
        identity: svid.identity().id().clone(),
        workload: far.workload.uid.clone(),
        network: far.workload.network.clone(),
        address: far.tunnel,
        expected: far.expected,
    };
    let opening = worker.tunnels.open(key, pod.captured.namespace(), &svid, &head);
    let opened = tokio::select! {
        opened = opening => opened,
        () = relay::peer_reset(&socket) => return client_gone(),
        () = worker.stop.cut() => return draining(&socket),
    };
    let stream = match opened {
        Ok(stream) => stream,
        Err(error) => {
            relay::reset(&socket);
            return Reason::new(error.code(), error.to_string());
        }
    };
    record.outcome.destination.identity = Some(stream.peer().id().clone());
    // relay
    record.established();
    let stop = worker.stop.ending(pod);
    let (stream, in_use) = stream.into_parts();
    let ending = relay::join_tunnel(Socket::Client, socket, stream, record, stop).await;
    drop(in_use);
    ending.into()
}

/// A pod on this node, and who calls it.
struct Near<'a> {
    source: &'a Workload,
    workload: &'a Workload,
    destination: SocketAddr,
}

/// The client's address as policy and the application are told it.
///
/// A client may bind loopback, or any address that it can put on an interface of its own, and here
/// no packet has to find its way back to it. So only an address that the mesh knows as the
/// workload's counts; for another, one of those stands. `None`: the mesh knows none of the family.
fn told_source(source: &Workload, client: SocketAddr, to: IpAddr) -> Option<SocketAddr> {
    let mut known = source.addresses.iter().filter(|ip| ip.is_ipv4() == to.is_ipv4());
    let first = *known.clone().next()?;
    let ip = known.find(|ip| **ip == client.ip()).copied().unwrap_or(first);
    Some(SocketAddr::new(ip, client.port()))
}

/// To a pod of this very node: its inbound flow takes over.
async fn local(
    worker: &Rc<Worker>,
    pod: &Arc<Pod>,
    stream: TcpStream,
    near: Near<'_>,
    record: &mut Record,
) -> Reason {
    let Near { source, workload, destination } = near;
    // identity
    let svid = match pod.identity.ready().await {
        Ok(svid) => svid,
        Err(error) => {
            relay::reset(&stream);
            return Reason::new(NotReady::CODE, error.to_string());
        }
    };
    let identity = svid.identity().clone();
    record.outcome.source.identity = Some(identity.id().clone());
    // The pod may have left since the route was chosen.
    let (Some(server), Some(client)) = (worker.local_pod(workload), record.outcome.source.address)
    else {
        relay::reset(&stream);
        return Code::PodGone.into();
    };
    let Some(source) = told_source(source, client, destination.ip()) else {
        relay::reset(&stream);
        let detail = format!("{} has no known address to call {destination} from", source.key);
        return Reason::new(Code::SourceUnknown, detail);
    };
    let call = SameNode { stream, source, identity, destination };
    same_node(worker, &server, call, record).await
}

/// The client gave up before the connection stood.
pub(super) fn client_gone() -> Reason {
    Reason::new(Code::Reset, "client: reset before the destination was reached")
}

fn draining(socket: &TcpStream) -> Reason {
    relay::reset(socket);
    Code::Draining.into()
}
