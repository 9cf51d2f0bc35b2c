//! Connections that an enrolled pod makes:
//! capture → discovery → identity → tunnel → relay → telemetry.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use hbone::Authority;
use model::{Code, DialledService, Direction, OriginalDst, Path, Workload};
use resolve::{Choice, Route};
use tokio::net::TcpStream;

use super::across::{Far, across};
use super::attempt::Attempt;
use super::passthrough::passthrough;
use super::plaintext::{SameNode, same_node};
use super::pods::Pod;
use super::questions;
use super::record::{Reason, Record};
use super::worker::Worker;
use crate::capture::Captured;
use crate::discovery::{self, Answered};
use crate::identity::NotReady;
use crate::mesh::MeshState;
use crate::relay;

/// Takes one captured connection to wherever its application wanted it to go.
pub(crate) async fn outbound(worker: Rc<Worker>, pod: Arc<Pod>, captured: Captured) {
    if questions::is_one(&pod, captured.original_dst) {
        return Box::pin(questions::stream(worker, pod, captured)).await;
    }
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
    let route = match route(&worker, mesh, &source, original_dst, &stream).await {
        Ok(route) => route,
        Err(reason) => return record.end(reason),
    };
    let (route, choice) = match addressed(&worker, &source, route, &stream).await {
        Ok(addressed) => addressed,
        Err(reason) => return record.end(reason),
    };
    let attempt = Attempt::new(&worker, choice);
    let reason = match route {
        Route::Passthrough { address, workload, service, choice: _ } => {
            record.outcome.destination.workload = workload;
            record.outcome.service = service;
            passthrough(&worker, &pod, stream, (address, &attempt), &mut record).await
        }
        Route::Hbone { workload, tunnel, authority, expected, service, choice: _ } => {
            tunnelled(&mut record, &workload, tunnel, service);
            let authority = Authority::Address(authority);
            let far = Far { host: workload, tunnel, authority, expected, behind: None };
            across(&worker, &pod, stream, (&source, far), &attempt, &mut record).await
        }
        Route::DoubleHbone {
            workload,
            gateway,
            tunnel,
            authority: (name, port),
            outer_expected,
            inner_expected,
            service,
            choice: _,
        } => {
            tunnelled(&mut record, &workload, tunnel, service);
            match NonZeroU16::new(port) {
                Some(port) => {
                    let authority = Authority::Host { name: (*name).into(), port };
                    let (expected, behind) = (outer_expected, Some(inner_expected));
                    let far = Far { host: gateway, tunnel, authority, expected, behind };
                    across(&worker, &pod, stream, (&source, far), &attempt, &mut record).await
                }
                None => not_carried(&stream, "port 0"),
            }
        }
        Route::Local { workload, address, authority, service, choice: _ } => {
            record.outcome.path = Path::Local;
            record.outcome.service = service;
            record.outcome.destination.workload = Some(workload.clone());
            let near = Near { source: &source, workload: &workload, address, authority };
            local(&worker, &pod, stream, (near, &attempt), &mut record).await
        }
        Route::Refused { code, detail, service, workload } => {
            relay::reset(&stream);
            record.outcome.service = service;
            record.outcome.destination.workload = workload;
            Reason::new(code, detail)
        }
        // A host name was looked up above, and the control plane asked.
        Route::Lookup(lookup) => not_carried(&stream, lookup.hostname()),
        Route::Ask { resource, .. } => not_carried(&stream, &resource.to_string()),
    };
    attempt.ended(reason.code);
    record.end(reason);
}

/// The route of a connection. On demand, the control plane is asked for what nobody asked for yet.
async fn route(
    worker: &Worker,
    mut mesh: Arc<MeshState>,
    source: &Workload,
    original_dst: OriginalDst,
    stream: &TcpStream,
) -> Result<Route, Reason> {
    let mut answered = Answered::default();
    loop {
        let route = route_in(worker, &mesh, source, original_dst, &answered);
        let Route::Ask { resource, .. } = route else { return Ok(route) };
        let view = worker.mesh.borrow().clone();
        let asked = tokio::select! {
            asked = worker.asking.ask(view, resource, &mut answered) => asked,
            () = relay::peer_reset(stream) => return Err(client_gone()),
            () = worker.stop.cut() => return Err(draining(stream)),
        };
        mesh = asked.map_err(|(code, detail)| {
            relay::reset(stream);
            Reason::new(code, detail)
        })?;
    }
}

/// The route in one state, past the endpoints that are known to fail.
fn route_in(
    worker: &Worker,
    mesh: &MeshState,
    source: &Workload,
    original_dst: OriginalDst,
    answered: &Answered,
) -> Route {
    let ejections = worker.ejections.borrow();
    worker.asking.within(answered, |extent| {
        discovery::route(
            mesh,
            &discovery::Question {
                network: &worker.config.network,
                source,
                original_dst,
                local: &|workload| worker.local_pod(workload).is_some(),
                same_node: worker.config.same_node,
                extent,
                ejected: ejections.at(Instant::now()),
            },
        )
    })
}

/// The route with an address, where the destination has only a name; and the endpoint that was
/// chosen for it.
async fn addressed(
    worker: &Worker,
    source: &Arc<Workload>,
    route: Route,
    stream: &TcpStream,
) -> Result<(Route, Option<Choice>), Reason> {
    let Route::Lookup(lookup) = route else {
        let choice = route.choice().cloned();
        return Ok((route, choice));
    };
    worker.telemetry.looked_up(source, lookup.hostname());
    let choice = lookup.choice().cloned();
    let route = tokio::select! {
        route = worker.hostnames.resolve(*lookup) => route,
        () = relay::peer_reset(stream) => return Err(client_gone()),
        () = worker.stop.cut() => return Err(draining(stream)),
    };
    Ok((route, choice))
}

/// What is known of a connection that goes into a tunnel.
fn tunnelled(
    record: &mut Record,
    workload: &Arc<Workload>,
    tunnel: SocketAddr,
    service: Option<DialledService>,
) {
    record.outcome.path = Path::Hbone;
    record.outcome.hbone = Some(tunnel);
    record.outcome.service = service;
    record.outcome.destination.workload = Some(workload.clone());
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

/// A pod on this node, and who calls it.
struct Near<'a> {
    source: &'a Workload,
    workload: &'a Workload,
    /// Its address.
    address: SocketAddr,
    /// What is asked for: the same, or what lies behind a waypoint.
    authority: SocketAddr,
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
    (near, attempt): (Near<'_>, &Attempt),
    record: &mut Record,
) -> Reason {
    let Near { source, workload, address, authority } = near;
    // identity
    let svid = match pod.identity.ready().await {
        Ok(svid) => svid,
        Err(error) => {
            relay::reset(&stream);
            return Reason::new(NotReady::CODE, error.to_string());
        }
    };
    record.outcome.source.identity = Some(svid.identity().id().clone());
    // The pod may have left since the route was chosen.
    let (Some(server), Some(client)) = (worker.local_pod(workload), record.outcome.source.address)
    else {
        relay::reset(&stream);
        return Code::PodGone.into();
    };
    let Some(source) = told_source(source, client, address.ip()) else {
        relay::reset(&stream);
        let detail = format!("{} has no known address to call {address} from", source.key);
        return Reason::new(Code::SourceUnknown, detail);
    };
    let call = SameNode { stream, source, svid, local: address.ip(), asked: authority };
    same_node(worker, &server, (call, attempt), record).await
}

/// The client gave up before the connection stood.
pub(super) fn client_gone() -> Reason {
    Reason::new(Code::Reset, "client: reset before the destination was reached")
}

pub(super) fn draining(socket: &TcpStream) -> Reason {
    relay::reset(socket);
    Code::Draining.into()
}
