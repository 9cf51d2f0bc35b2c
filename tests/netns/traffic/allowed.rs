//! Connections that policy lets pass, on every way there is: identities, addresses, bytes,
//! metrics, and what the wire between the nodes shows of them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, ensure};
use tests::protocol::{Behaviour, Stream};
use tests::{AccessLine, Actor, AgentOptions, Digest, HttpAnswer, Pod, PodSpec, ServiceSpec};

use crate::stage::{SOON, Stage, any, enrolled, plain, stranger};

const HTTP: u16 = 8080;
const BANNER: u16 = 2525;
const DUPLEX: u16 = 9000;
/// What the clients send, and no wire may show.
const SECRET: &str = "correct-horse-battery-staple";
const GREETING: &str = "220 mail ready\r\n";
const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1));
/// From a documentation range: nothing in the mesh file names it.
const PUBLIC: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));

fn cast() -> [crate::stage::Cast; 6] {
    [
        enrolled(PodSpec::new(1, "web")),
        enrolled(PodSpec::new(1, "near")),
        enrolled(PodSpec::new(2, "far")),
        plain(PodSpec::new(2, "old")),
        plain(PodSpec::new(1, "legacy")),
        stranger(PodSpec::new(2, "public")),
    ]
}

fn serve<'a>(stage: &Stage, names: &[&'a str]) -> anyhow::Result<Vec<(&'a str, Actor)>> {
    let serve = |name: &&'a str| {
        let server = stage.pod(name).actor()?;
        server.listen(any(HTTP), Behaviour::Http { name: (*name).to_owned() })?;
        server.listen(any(BANNER), Behaviour::Banner { text: GREETING.to_owned() })?;
        let duplex =
            Behaviour::Duplex { bytes: DOWN.bytes, seed: DOWN.seed, read_bytes_per_second: 0 };
        server.listen(any(DUPLEX), duplex)?;
        Ok((*name, server))
    };
    names.iter().map(serve).collect()
}

const UP: Stream = Stream { bytes: 100_003, seed: 1 };
const DOWN: Stream = Stream { bytes: 50_001, seed: 2 };

#[test]
fn allowed_connections_carry_identity_address_and_bytes() {
    let service = |stage: &Stage| {
        ServiceSpec::new("shop", "far").vip(VIP).port(80, HTTP).endpoint(stage.pod("far"))
    };
    Stage::play(
        &AgentOptions::default(),
        cast(),
        |stage| stage.mesh().service(service(stage)),
        |stage| {
            let servers = serve(stage, &["near", "far", "old", "public"])?;
            let web = stage.pod("web").actor()?;
            http_across_nodes(stage, &web).context("HTTP across nodes")?;
            http_on_one_node(stage, &web).context("HTTP on one node")?;
            by_service(stage, &web).context("a service's address")?;
            server_first(stage, &web).context("server-first protocol")?;
            out_of_the_mesh(stage, &web).context("out of the mesh")?;
            from_outside(stage).context("from outside the mesh")?;
            metrics_match(stage, &web).context("metrics")?;
            drop(servers);
            Ok(())
        },
    );
}

fn get(client: &Actor, target: SocketAddr, server: &str) -> anyhow::Result<HttpAnswer> {
    let answer = client.http_get(target, "/", &format!("X-Secret: {SECRET}"))?;
    ensure!(answer.status == 200 && answer.field("server") == server, "{answer:?}");
    Ok(answer)
}

/// The server's kernel reports the client's own address and port family.
fn true_address(answer: &HttpAnswer, client: IpAddr) -> anyhow::Result<()> {
    let peer: SocketAddr = answer.field("peer").parse().context("the server's view")?;
    ensure!(peer.ip().to_canonical() == client, "the server saw {peer}, not {client}");
    Ok(())
}

fn between(line: &AccessLine, client: &Pod, server: &Pod, path: &str) -> anyhow::Result<()> {
    ensure!(line.path == path, "the path is not {path}: {line:?}");
    ensure!(line.source_identity == client.identity(), "{line:?}");
    ensure!(line.destination_identity == server.identity(), "{line:?}");
    ensure!(line.source_workload == client.name(), "{line:?}");
    ensure!(line.destination_workload == server.name(), "{line:?}");
    ensure!(line.message == "connection complete" && line.error.is_empty(), "{line:?}");
    Ok(())
}

fn http_across_nodes(stage: &Stage, client: &Actor) -> anyhow::Result<()> {
    let (web, far) = (stage.pod("web"), stage.pod("far"));
    let sniffer = stage.world.sniff_wire(1)?;
    for (target, own) in [(far.at(HTTP), web.ipv4()), (far.at_v6(HTTP), web.ipv6())] {
        let (here, there) = (stage.watch(1)?, stage.watch(2)?);
        let answer = get(client, target, "far")?;
        true_address(&answer, own)?;
        let line = here.outcome("OK", |line| line.source == answer.local.to_string())?;
        between(&line, web, far, "hbone")?;
        ensure!(line.direction == "outbound" && line.destination == target.to_string(), "{line:?}");
        let tunnel = SocketAddr::new(target.ip(), hbone::HBONE_PORT).to_string();
        ensure!(line.tunnel == tunnel, "{line:?}");
        let line = there.outcome("OK", |line| line.path == "hbone")?;
        between(&line, web, far, "hbone")?;
        ensure!(line.direction == "inbound" && line.destination == target.to_string(), "{line:?}");
    }
    let capture = sniffer.stop()?;
    ensure!(capture.lost() == 0, "frames were lost");
    ensure!(!capture.tcp_payload_contains(SECRET.as_bytes()), "the request is on the wire");
    ensure!(!capture.tcp_payload_contains(b"HTTP/1.1"), "plaintext HTTP is on the wire");
    for ((from, to), stream) in capture.streams() {
        let tunnel = from.port() == hbone::HBONE_PORT || to.port() == hbone::HBONE_PORT;
        ensure!(tunnel, "{from} -> {to} is no tunnel");
        all_tls(&stream).with_context(|| format!("{from} -> {to}"))?;
    }
    ensure!(capture.tls_records_of_port(hbone::HBONE_PORT) > 4, "little TLS");
    Ok(())
}

/// That a stream is TLS records and nothing else: handshake, then application data.
fn all_tls(mut stream: &[u8]) -> anyhow::Result<()> {
    const KINDS: [u8; 4] = [20, 21, 22, 23];
    while let [kind, 3, 1 | 3, high, low, rest @ ..] = stream {
        ensure!(KINDS.contains(kind), "a record of kind {kind}");
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        // The last record may not have been captured whole.
        stream = rest.get(length..).unwrap_or_default();
    }
    ensure!(stream.len() < 5, "not TLS: {:x?}", &stream[..stream.len().min(16)]);
    Ok(())
}

fn http_on_one_node(stage: &Stage, client: &Actor) -> anyhow::Result<()> {
    let (web, near) = (stage.pod("web"), stage.pod("near"));
    let sniffer = stage.world.sniff_pod(near)?;
    for (target, own) in [(near.at(HTTP), web.ipv4()), (near.at_v6(HTTP), web.ipv6())] {
        let watch = stage.watch(1)?;
        let answer = get(client, target, "near")?;
        true_address(&answer, own)?;
        for direction in ["outbound", "inbound"] {
            let line = watch.outcome("OK", |line| {
                line.source == answer.local.to_string() && line.direction == direction
            })?;
            between(&line, web, near, "local")?;
            ensure!(line.destination == target.to_string(), "{line:?}");
        }
    }
    let capture = sniffer.stop()?;
    ensure!(capture.segments().count() == 0, "a same-node connection left the agent");
    Ok(())
}

fn by_service(stage: &Stage, client: &Actor) -> anyhow::Result<()> {
    let (web, far) = (stage.pod("web"), stage.pod("far"));
    let clients = [(web, None), (far, Some(far.actor()?))];
    for (pod, actor) in &clients {
        let watch = stage.watch(pod.node())?;
        let target = SocketAddr::new(VIP, 80);
        let answer = get(actor.as_ref().unwrap_or(client), target, "far")?;
        true_address(&answer, pod.ipv4())?;
        let line = watch.outcome("OK", |line| {
            line.source == answer.local.to_string() && line.direction == "outbound"
        })?;
        ensure!(line.service == "far.shop.svc.cluster.local", "{line:?}");
        ensure!(line.destination_workload == "far", "{line:?}");
    }
    Ok(())
}

fn server_first(stage: &Stage, client: &Actor) -> anyhow::Result<()> {
    for server in ["near", "far", "old"] {
        let connection = client.connect(stage.pod(server).at(BANNER))?;
        let greeting = connection.receive(GREETING.len())?;
        ensure!(greeting == GREETING.as_bytes(), "{server} did not speak first");
        ensure!(connection.exchange(b"NOOP\r\n")? == b"NOOP\r\n", "no answer from {server}");
        connection.close()?;
    }
    Ok(())
}

/// To a workload that the mesh file calls TCP, to an address it does not know, and to one that
/// looks public. The pod's own address is the client's, as without a mesh.
fn out_of_the_mesh(stage: &Stage, client: &Actor) -> anyhow::Result<()> {
    let (web, old, public) = (stage.pod("web"), stage.pod("old"), stage.pod("public"));
    let (node, host) = (stage.world.node(2), public.host_interface());
    stage.world.node(1).namespace().ip(&[format!("route add {PUBLIC}/32 via {}", node.ipv4())])?;
    node.namespace().ip(&[format!("route add {PUBLIC}/32 dev {host}")])?;
    public.netns().ip(&[format!("addr add {PUBLIC}/32 dev eth0")])?;
    for (target, server, own, workload) in [
        (old.at(HTTP), "old", web.ipv4(), "old"),
        (old.at_v6(HTTP), "old", web.ipv6(), "old"),
        (public.at(HTTP), "public", web.ipv4(), ""),
        (SocketAddr::new(PUBLIC, HTTP), "public", web.ipv4(), ""),
    ] {
        let watch = stage.watch(1)?;
        let answer = get(client, target, server).with_context(|| target.to_string())?;
        true_address(&answer, own)?;
        let line = watch.outcome("OK", |line| line.source == answer.local.to_string())?;
        ensure!(line.path == "passthrough" && line.direction == "outbound", "{line:?}");
        ensure!(line.destination == target.to_string(), "{line:?}");
        ensure!(line.destination_workload == workload, "{line:?}");
        ensure!(line.source_identity.is_empty(), "an identity was shown to nobody: {line:?}");
        ensure!(line.destination_identity.is_empty(), "an identity was made up: {line:?}");
    }
    Ok(())
}

fn from_outside(stage: &Stage) -> anyhow::Result<()> {
    let legacy = stage.pod("legacy");
    let client = legacy.actor()?;
    for (server, target, own) in [
        ("far", stage.pod("far").at(HTTP), legacy.ipv4()),
        ("near", stage.pod("near").at_v6(HTTP), legacy.ipv6()),
    ] {
        let watch = stage.watch(stage.pod(server).node())?;
        let answer = get(&client, target, server)?;
        true_address(&answer, own)?;
        let line = watch.outcome("OK", |line| line.source == answer.local.to_string())?;
        ensure!(line.path == "plaintext" && line.direction == "inbound", "{line:?}");
        ensure!(line.source_identity.is_empty(), "an identity was made up: {line:?}");
        ensure!(line.source_workload == "legacy", "{line:?}");
    }
    Ok(())
}

/// Istio's names, labels and directions: "received" is what the client sent, on both sides.
fn metrics_match(stage: &Stage, client: &Actor) -> anyhow::Result<()> {
    let (web, far) = (stage.pod("web"), stage.pod("far"));
    let watches = [("source", stage.watch(1)?), ("destination", stage.watch(2)?)];
    let done = client.transfer(far.at(DUPLEX), UP)?;
    ensure!((done.sent, done.received) == (UP.bytes, DOWN.bytes), "{done:?}");
    ensure!(done.received_digest == Digest::of_pattern(DOWN.seed, DOWN.bytes), "other bytes");
    let principals = [web, far].map(Pod::identity);
    for (reporter, watch) in watches {
        let labels = [
            format!("reporter=\"{reporter}\""),
            format!("source_principal=\"{}\"", principals[0]),
            format!("destination_principal=\"{}\"", principals[1]),
            "source_workload=\"web\"".to_owned(),
            "source_canonical_service=\"web\"".to_owned(),
            "source_workload_namespace=\"shop\"".to_owned(),
            "destination_workload=\"far\"".to_owned(),
            "destination_workload_namespace=\"shop\"".to_owned(),
            "destination_service=\"unknown\"".to_owned(),
            "request_protocol=\"tcp\"".to_owned(),
            "connection_security_policy=\"mutual_tls\"".to_owned(),
            "response_flags=\"-\"".to_owned(),
        ];
        let labels: Vec<_> = labels.iter().map(String::as_str).collect();
        let wanted = [
            ("istio_tcp_connections_closed_total", 1),
            ("istio_tcp_connections_opened_total", 1),
            ("istio_tcp_received_bytes_total", UP.bytes),
            ("istio_tcp_sent_bytes_total", DOWN.bytes),
        ];
        for (name, wanted) in wanted {
            let wanted = f64::from(u32::try_from(wanted)?);
            let mut rise = 0.0;
            let reached = tests::wait_until(SOON, || {
                rise = watch.rise(name, &labels).unwrap_or_default();
                rise >= wanted
            });
            let exact = reached && (rise - wanted).abs() < 0.5;
            ensure!(exact, "{reporter}: {name} rose by {rise}, not {wanted}");
        }
    }
    Ok(())
}

#[test]
fn same_node_traffic_is_encrypted_when_asked() {
    let options = AgentOptions::default().set("WARREN_SAME_NODE", "tunnel");
    let cast = [enrolled(PodSpec::new(1, "web")), enrolled(PodSpec::new(1, "near"))];
    Stage::play(&options, cast, Stage::mesh, |stage| {
        let (web, near) = (stage.pod("web"), stage.pod("near"));
        let _servers = serve(stage, &["near"])?;
        let client = web.actor()?;
        let sniffer = stage.world.sniff_pod(near)?;
        let watch = stage.watch(1)?;
        let answer = get(&client, near.at(HTTP), "near")?;
        true_address(&answer, web.ipv4())?;
        for direction in ["outbound", "inbound"] {
            let line = watch.outcome("OK", |line| line.direction == direction)?;
            between(&line, web, near, "hbone")?;
        }
        let capture = sniffer.stop()?;
        ensure!(capture.lost() == 0, "frames were lost");
        ensure!(!capture.tcp_payload_contains(SECRET.as_bytes()), "the request is in the open");
        ensure!(capture.payload_of_port(hbone::HBONE_PORT) > 0, "no tunnel was made");
        ensure!(capture.payload_of_port(HTTP) == 0, "plaintext beside the tunnel");
        Ok(())
    });
}
