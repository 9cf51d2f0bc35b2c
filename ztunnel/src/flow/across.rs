//! The part of an outbound connection that goes through a tunnel: to a pod on another node, to a
//! waypoint, or through a gateway to another network: identity → tunnel → relay.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use hbone::{Authority, Baggage, ConnectHead, Forwarded, Traceparent};
use model::{SpiffeId, Workload};
use tls::Svid;
use tokio::net::TcpStream;

use super::attempt::Attempt;
use super::distrust::{distrusted, first};
use super::outbound::{client_gone, draining};
use super::pods::Pod;
use super::record::{Reason, Record};
use super::worker::Worker;
use crate::identity::NotReady;
use crate::relay::{self, Socket};
use crate::tunnel::{Behind, TunnelKey};

/// Who is reached through a tunnel.
pub(super) struct Far {
    /// Who ends the tunnel: the destination, its waypoint, or a gateway.
    pub(super) host: Arc<Workload>,
    /// What is dialled.
    pub(super) tunnel: SocketAddr,
    /// What is asked for.
    pub(super) authority: Authority,
    /// Identities of which the tunnel's certificate must carry one.
    pub(super) expected: Vec<SpiffeId>,
    /// Behind a gateway: the identities of which the certificate in the inner tunnel must carry one.
    pub(super) behind: Option<Vec<SpiffeId>>,
}

/// Through a tunnel to the destination's node.
pub(super) async fn across(
    worker: &Rc<Worker>,
    pod: &Arc<Pod>,
    socket: TcpStream,
    (source, far): (&Workload, Far),
    attempt: &Attempt,
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
        baggage: Baggage::of(source),
        forwarded: Forwarded::new(client, service),
        traceparent: Some(Traceparent::from_random(rand::random(), rand::random())),
        ..ConnectHead::to(far.authority.clone())
    };
    let key = key(pod, &svid, client, &far);
    let behind = far.behind.as_deref();
    let behind = behind.map(|expected| Behind { expected, network: &worker.config.network });
    let opening = worker.tunnels.open(key, pod.captured.namespace(), &svid, (&head, behind));
    let opened = tokio::select! {
        opened = opening => opened,
        () = relay::peer_reset(&socket) => return client_gone(),
        () = worker.stop.cut() => return draining(&socket),
    };
    let stream = match opened {
        Ok(stream) => stream,
        Err(error) => {
            relay::reset(&socket);
            if error.is_behind() {
                // The gateway that was chosen is well.
                attempt.stands();
            }
            return Reason::new(error.code(), error.to_string());
        }
    };
    record.outcome.destination.identity = Some(stream.peer().id().clone());
    if far.behind.is_some() {
        // The gateway chose the workload, and its node says which one.
        let told = stream.baggage().workload(stream.peer().id()).map(Arc::new);
        record.outcome.destination.workload = told.or(record.outcome.destination.workload.take());
    }
    // relay
    attempt.stands();
    record.established();
    let stop = first(worker.stop.ending(pod), distrusted(worker.trust.clone(), stream.chains()));
    let (stream, in_use) = stream.into_parts();
    let ending = relay::join_tunnel(Socket::Client, socket, stream, record, stop).await;
    drop(in_use);
    ending.into()
}

/// The address that a tunnel can be bound to on behalf of a client. A client may have any loopback
/// address: they are all one here, or it would get a tunnel for each.
fn bindable(client: IpAddr, tunnel: IpAddr) -> Option<IpAddr> {
    (client.is_ipv4() == tunnel.is_ipv4() && !client.is_loopback()).then_some(client)
}

/// What streams must have in common to share the tunnel.
fn key(pod: &Pod, svid: &Svid, client: SocketAddr, far: &Far) -> TunnelKey {
    TunnelKey {
        pod: pod.captured.uid().clone(),
        netns_cookie: pod.captured.namespace().cookie(),
        source: bindable(client.ip(), far.tunnel.ip()),
        identity: svid.identity().id().clone(),
        workload: far.host.uid.clone(),
        network: far.host.network.clone(),
        address: far.tunnel,
        expected: far.expected.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_cannot_choose_among_tunnels_by_its_loopback_address() {
        for (client, tunnel, bound) in [
            ("10.0.0.1", "10.0.0.2", true),
            ("fd00::1", "fd00::2", true),
            ("127.0.0.1", "10.0.0.2", false),
            ("127.9.9.9", "10.0.0.2", false),
            ("::1", "fd00::2", false),
            ("10.0.0.1", "fd00::2", false),
        ] {
            let client: IpAddr = client.parse().expect("an address");
            let tunnel = tunnel.parse().expect("an address");
            assert_eq!(bindable(client, tunnel), bound.then_some(client), "{client} to {tunnel}");
        }
    }
}
