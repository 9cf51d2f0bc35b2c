//! Waypoints: a pod that takes what is asked of others, is told who asks, and cannot be gone past.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, ensure};
use hbone::ProxyHeader;
use model::SpiffeId;
use tests::protocol::Behaviour;
use tests::{Actor, AgentOptions, Mesh, Pod, PodSpec, ServiceSpec};

use crate::stage::{Cast, Stage, any, echoes, ends_with_reset, enrolled, is_reset, plain};

const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1));
/// Port of the service, of its pod, and of the waypoint's application tunnel.
const HTTP: u16 = 80;
const API: u16 = 8080;
const TUNNEL: u16 = 15088;

/// The waypoint is on node 1 and what lies behind it on node 2; each has a client beside it.
fn cast() -> [Cast; 5] {
    [
        enrolled(PodSpec::new(1, "wp")),
        enrolled(PodSpec::new(1, "near")),
        enrolled(PodSpec::new(2, "api")),
        enrolled(PodSpec::new(2, "web")),
        plain(PodSpec::new(1, "legacy")),
    ]
}

/// The service's port is denied on every pod: what reaches the waypoint is judged by its own.
fn mesh(stage: &Stage, waypoint: &str) -> Mesh {
    let wp = ServiceSpec::new("shop", "wp").port(15008, 15008).endpoint(stage.pod("wp"));
    let api = ServiceSpec::new("shop", "api").vip(VIP).port(HTTP, API).endpoint(stage.pod("api"));
    stage
        .mesh()
        .with(stage.pod("wp"), &format!("applicationTunnel: {{protocol: PROXY, port: {TUNNEL}}}"))
        .service(wp)
        .service(if waypoint.is_empty() { api } else { api.with(waypoint) })
        .policy(&format!(
            "name: not-there\nnamespace: shop\nscope: Namespace\naction: Deny\nrules:\n\
             - - - destinationPorts: [{HTTP}]\n"
        ))
}

const WAYPOINT: &str =
    "waypoint: {destination: shop/wp.shop.svc.cluster.local, hboneMtlsPort: 15008}";

fn waypointed(stage: &Stage) -> Mesh {
    mesh(stage, WAYPOINT)
}

/// That a connection to the service arrives at the waypoint, which is told who calls and what for.
/// What it was told of the client's address: as policy sees it, so with the port of the tunnel.
fn is_announced(client: &Actor, pod: &Pod) -> anyhow::Result<SocketAddr> {
    let service = SocketAddr::new(VIP, HTTP);
    let connection = client.connect(service)?;
    let local = connection.local();
    let identity = Some(SpiffeId::parse(&pod.identity())?);
    let source = SocketAddr::new(local.ip().to_canonical(), local.port());
    let header = ProxyHeader { identity, ..ProxyHeader::new(source, service) };
    connection.send(b"hello")?;
    let got = connection.receive(header.encode().len() + b"hello".len())?;
    let (told, end) = ProxyHeader::decode(&got)?;
    ensure!(told.source.ip() == source.ip(), "{told:?} instead of {header:?}");
    ensure!(ProxyHeader { source, ..told.clone() } == header, "{told:?} instead of {header:?}");
    ensure!(&got[end..] == b"hello", "{got:?}");
    connection.shutdown_write()?;
    ensure!(connection.receive_all()?.is_empty(), "more than the echo");
    connection.close()?;
    Ok(told.source)
}

#[test]
fn a_waypoint_is_told_who_calls() {
    Stage::play(&AgentOptions::default(), cast(), waypointed, |stage| {
        let (wp, api) = (stage.pod("wp"), stage.pod("api"));
        let waypoint = wp.actor()?;
        let loopback = SocketAddr::from(([127, 0, 0, 1], TUNNEL));
        let listener = waypoint.listen(loopback, Behaviour::Echo)?;
        let server = api.actor()?;
        server.listen(any(API), Behaviour::Echo)?;
        let (web, near) = (stage.pod("web").actor()?, stage.pod("near").actor()?);

        // From another node, and from its own.
        for (client, name, path) in [(&web, "web", "hbone"), (&near, "near", "local")] {
            let watch = stage.watch(1)?;
            let source = is_announced(client, stage.pod(name)).context(name)?;
            let line = watch.outcome("OK", |line| line.direction == "inbound")?;
            ensure!(line.source == source.to_string() && line.path == path, "{line:?}");
            ensure!(line.destination == wp.at(TUNNEL).to_string(), "{line:?}");
            ensure!(line.destination_workload == "wp", "{line:?}");
            ensure!(line.service == "api.shop.svc.cluster.local", "{line:?}");
        }
        for seen in listener.report()?.connections {
            ensure!(seen.peer.ip().is_loopback() && seen.local == loopback, "{seen:?}");
        }
        // What it does next, and what others may do unless it is required.
        echoes(&waypoint, api.at(API)).context("from the waypoint")?;
        echoes(&near, api.at(API)).context("past the waypoint")?;

        // Nobody can write a header that the waypoint would believe.
        let legacy = stage.pod("legacy").actor()?;
        let watch = stage.watch(1)?;
        is_reset(&legacy, wp.at(TUNNEL))?;
        watch.outcome("SELF_CALL", |line| line.path == "plaintext")?;
        Ok(())
    });
}

#[test]
fn an_application_tunnel_may_be_on_the_pods_address() {
    let options = AgentOptions::default().set("LOCALHOST_APP_TUNNEL", false);
    Stage::play(&options, cast(), waypointed, |stage| {
        let waypoint = stage.pod("wp").actor()?;
        let listener = waypoint.listen(any(TUNNEL), Behaviour::Echo)?;
        let source = is_announced(&stage.pod("web").actor()?, stage.pod("web"))?;
        let report = listener.report()?;
        let seen = report.connections.first().context("a connection")?;
        ensure!(seen.peer.ip().to_canonical() == source.ip(), "{seen:?}");
        ensure!(seen.local.ip().to_canonical() == stage.pod("wp").ipv4(), "{seen:?}");
        Ok(())
    });
}

/// A waypoint that wants the bytes alone, on the port that was asked for.
#[test]
fn a_waypoint_without_a_tunnel_takes_what_names_it() {
    let mesh = |stage: &Stage| {
        let wp = ServiceSpec::new("shop", "wp").port(15008, 15008).endpoint(stage.pod("wp"));
        let api = ServiceSpec::new("shop", "api").vip(VIP).port(HTTP, API);
        let api = api.endpoint(stage.pod("api"));
        // Two by weight: the second takes all.
        let gateway = |weight: u8| {
            let host = if weight == 0 { "api" } else { "wp" };
            format!(
                "{{destination: {{destination: shop/{host}.shop.svc.cluster.local, \
                 hboneMtlsPort: 15008}}, weight: {weight}}}"
            )
        };
        let weighted = format!("weightedWaypoints: [{}, {}]", gateway(0), gateway(7));
        stage.mesh().service(wp).service(api.with(&weighted))
    };
    Stage::play(&AgentOptions::default(), cast(), mesh, |stage| {
        let waypoint = stage.pod("wp").actor()?;
        waypoint.listen(any(HTTP), Behaviour::Echo)?;
        let web = stage.pod("web").actor()?;
        echoes(&web, SocketAddr::new(VIP, HTTP))?;
        // Another destination does not name it.
        let watch = stage.watch(1)?;
        let from =
            crate::peer::Peer::new(stage.world.folder(), stage.pod("legacy"), stage.pod("wp"))?;
        let tunnel = from.tunnel(&stage.pod("web").identity())?;
        let answer = tunnel.connect(&stage.pod("api").at(HTTP).to_string(), &[])?;
        ensure!(answer.status == 400, "answered {}", answer.status);
        watch.outcome("DESTINATION_MISMATCH", |line| line.source == tunnel.local.to_string())?;
        let answer = tunnel.connect(&format!("{VIP}:{HTTP}"), &[])?;
        answer.stream.context("not opened")?.echoes()
    });
}

#[test]
fn a_required_waypoint_cannot_be_gone_past() {
    let options = AgentOptions::default().set("WARREN_REQUIRE_WAYPOINT", "enforce");
    Stage::play(&options, cast(), waypointed, |stage| {
        let (wp, api) = (stage.pod("wp").actor()?, stage.pod("api"));
        wp.listen(SocketAddr::from(([127, 0, 0, 1], TUNNEL)), Behaviour::Echo)?;
        let server = api.actor()?;
        server.listen(any(API), Behaviour::Echo)?;
        server.listen(any(API + 1), Behaviour::Echo)?;
        let (web, near) = (stage.pod("web").actor()?, stage.pod("near").actor()?);
        let legacy = stage.pod("legacy").actor()?;

        is_announced(&web, stage.pod("web"))?;
        echoes(&wp, api.at(API)).context("from the waypoint")?;
        for (client, path) in [(&near, "hbone"), (&web, "local"), (&legacy, "plaintext")] {
            let watch = stage.watch(2)?;
            is_reset(client, api.at(API)).context(path)?;
            let line = watch.outcome("WAYPOINT_REQUIRED", |line| line.direction == "inbound")?;
            ensure!(line.path == path && line.error.contains("shop/wp."), "{line:?}");
        }
        let watch = stage.watch(1)?;
        is_reset(&near, api.at(API))?;
        watch.outcome("POLICY_DENIED_BY_PEER", |line| line.direction == "outbound")?;
        // No port of the service, so none of its traffic.
        echoes(&near, api.at(API + 1)).context("another port")?;

        // What is open is judged again: a service gets its waypoint while a connection stands.
        stage.change_mesh(&mesh(stage, "").to_string())?;
        let open = near.connect(api.at(API))?;
        ensure!(open.exchange(b"x")? == b"x", "no echo without a waypoint");
        let watch = stage.watch(2)?;
        stage.change_mesh(&waypointed(stage).to_string())?;
        ends_with_reset(&open)?;
        let line = watch.outcome("POLICY_REVOKED", |line| line.direction == "inbound")?;
        ensure!(line.error.contains("must be reached through"), "{line:?}");
        Ok(())
    });
}
