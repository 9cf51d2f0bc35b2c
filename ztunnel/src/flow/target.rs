//! What a connection reaches in its pod. `resolve::inbound_target` decides; this waits for the pod's
//! workload to be known, and turns the decision into what the next stages need.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use hbone::{Authority, ProxyHeader};
use model::{Code, Connection, DialledService};
use resolve::{Asked, Handover, InboundQuery, InboundTarget, TunnelAddress, inbound_target};
use tokio::net::TcpStream;

use super::pods::Pod;
use super::record::Reason;
use super::worker::Worker;
use crate::discovery;
use crate::tunnel::{self, ClientLeg};

/// Where one connection goes, and how the application is handed it.
pub(super) struct Target {
    /// What policy judges.
    pub(super) destination: SocketAddr,
    /// How the application is dialled.
    pub(super) leg: ClientLeg,
    /// The service that was asked for by host name.
    pub(super) service: Option<DialledService>,
    announced: Option<(SocketAddr, Option<Arc<str>>)>,
}

/// Finds the target of a connection to `local`, an address of the pod.
pub(super) async fn target(
    worker: &Rc<Worker>,
    pod: &Pod,
    local: IpAddr,
    asked: Asked<'_>,
    client_gone: impl Future<Output = ()>,
) -> Result<Target, Reason> {
    let view = worker.mesh.borrow().clone();
    let server = tokio::select! {
        server = discovery::server(view, pod.captured.workload()) => server,
        () = pin!(client_gone) => return Err(Code::TunnelLost.into()),
        () = worker.stop.cut() => return Err(Code::Draining.into()),
        () = pod.captured.gone().cancelled() => return Err(Code::PodGone.into()),
    };
    let (mesh, workload) = server.map_err(|(code, detail)| Reason::new(code, detail))?;
    let query = InboundQuery {
        network: &worker.config.network,
        workload: &workload,
        local,
        own: &|ip| pod.has_address(ip),
        asked,
        tunnel_address: worker.config.tunnel_address,
    };
    match inbound_target(&mesh.snapshot, &query) {
        Ok(target) => Ok(Target::of(target)),
        Err(refusal) => Err(Reason::new(refusal.code, refusal.detail)),
    }
}

/// What the head of a CONNECT asks for.
pub(super) fn asked(authority: &Authority) -> Asked<'_> {
    match authority {
        Authority::Address(address) => Asked::Address(*address),
        Authority::Host { name, port } => Asked::Host(name, port.get()),
    }
}

impl Target {
    fn of(target: InboundTarget) -> Self {
        let InboundTarget { destination, handover, service } = target;
        let (leg, announced) = match handover {
            Handover::Plain => (ClientLeg::Elsewhere, None),
            Handover::Proxy { address: TunnelAddress::Loopback, asked, host } => {
                (ClientLeg::Told, Some((asked, host)))
            }
            Handover::Proxy { address: TunnelAddress::Pod, asked, host } => {
                (ClientLeg::Elsewhere, Some((asked, host)))
            }
        };
        let service = service.map(|service| service.dialled());
        Self { destination, leg, service, announced }
    }

    /// Tells the application who calls and what for, if it wants to be told.
    pub(super) async fn announce(
        &self,
        application: &mut TcpStream,
        connection: &Connection,
    ) -> Result<(), Reason> {
        let Some((asked, host)) = &self.announced else { return Ok(()) };
        let header = ProxyHeader {
            identity: connection.peer.identity().map(|peer| peer.id().clone()),
            service: host.as_deref().map(Into::into),
            ..ProxyHeader::new(connection.source, *asked)
        };
        let written = tunnel::announce(application, &header).await;
        written.map_err(|error| Reason::new(error.code(), model::causes(&error)))
    }
}
