//! Tunnels: where their sockets are, how many there are, and when they close.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tests::protocol::Behaviour;
use tests::{AgentOptions, Pod, PodSpec, eventually};

use crate::stage::{Cast, SOON, Stage, any, echoes, ends_with_reset, enrolled};

const ECHO: u16 = 7000;
/// Longer than the time between two connections of a test, shorter than its patience.
const IDLE: Duration = Duration::from_millis(1200);

fn cast() -> [Cast; 3] {
    [
        enrolled(PodSpec::new(1, "web")),
        enrolled(PodSpec::new(1, "other")),
        enrolled(PodSpec::new(2, "far")),
    ]
}

/// One thread, so that there is one pool: streams are counted per thread.
fn options() -> AgentOptions {
    AgentOptions::default()
        .set("ZTUNNEL_WORKER_THREADS", 1)
        .set("POOL_UNUSED_RELEASE_TIMEOUT", format!("{}ms", IDLE.as_millis()))
}

/// Local addresses of the established tunnel sockets in a namespace.
fn tunnels(stage: &Stage, pod: &Pod) -> anyhow::Result<Vec<String>> {
    sockets(pod.actor()?.shell(SS)?)
        .with_context(|| format!("{} of node {}", pod.name(), stage.agent_of(pod).node().name()))
}

const SS: &str = "ss -Htn state established dport = :15008";

fn sockets((status, text, error): (i32, String, String)) -> anyhow::Result<Vec<String>> {
    ensure!(status == 0, "ss: {error}");
    let local = |line: &str| line.split_whitespace().nth(2).map(str::to_owned);
    Ok(text.lines().filter_map(local).collect())
}

#[test]
fn tunnels_are_the_pods_shared_and_short_lived() {
    Stage::play(&options(), cast(), Stage::mesh, |stage| {
        let (web, far) = (stage.pod("web"), stage.pod("far"));
        let server = far.actor()?;
        server.listen(any(ECHO), Behaviour::Echo)?;
        let (client, other) = (web.actor()?, stage.pod("other").actor()?);

        let sniffer = stage.world.sniff_wire(1)?;
        for _ in 0..50 {
            echoes(&client, far.at(ECHO))?;
        }
        let capture = sniffer.stop()?;
        let dialled =
            |s: &tests::TcpSegment<'_>| s.syn && s.destination.port() == hbone::HBONE_PORT;
        let syns: Vec<_> = capture.segments().filter(dialled).map(|s| s.source).collect();
        ensure!(syns.len() == 1, "50 connections in turn took tunnels from {syns:?}");
        ensure!(syns[0].ip() == web.ipv4(), "the tunnel came from {}", syns[0]);

        // The socket is in the pod's namespace, with its address of the family that was dialled.
        let v6 = client.connect(far.at_v6(ECHO))?;
        ensure!(v6.exchange(b"six")? == b"six", "no echo over IPv6");
        let mut of_web = tunnels(stage, web)?;
        of_web.sort();
        let wanted = [format!("{}:", web.ipv4()), format!("[{}]:", web.ipv6())];
        let fits = of_web.len() == 2 && of_web.iter().zip(&wanted).all(|(a, b)| a.starts_with(b));
        ensure!(fits, "tunnels in web's namespace: {of_web:?}");
        let host = stage.world.node(1).actor("looker")?;
        let of_node = sockets(host.shell(SS)?)?;
        ensure!(of_node.is_empty(), "tunnels in the node's own namespace: {of_node:?}");
        v6.close()?;

        // Another pod does not travel in web's.
        echoes(&other, far.at(ECHO))?;
        ensure!(tunnels(stage, stage.pod("other"))?.len() == 1, "other has no tunnel of its own");

        // Full at 100 streams: then a second one.
        let (held, failures) = client.hold(far.at(ECHO), 120)?;
        ensure!(failures.is_empty(), "{failures:?}");
        for connection in &held {
            ensure!(connection.exchange(b"x")? == b"x", "no echo in a crowd");
        }
        let v4 = |all: Vec<String>| all.iter().filter(|a| a.starts_with(&wanted[0])).count();
        ensure!(v4(tunnels(stage, web)?) == 2, "120 streams: {:?}", tunnels(stage, web)?);
        for connection in held {
            connection.close()?;
        }
        let closing = Instant::now();
        eventually("idle tunnels close", SOON, || {
            let left = [tunnels(stage, web)?, tunnels(stage, stage.pod("other"))?].concat();
            Ok(left.is_empty().then_some(()))
        })?;
        ensure!(closing.elapsed() > IDLE / 3, "tunnels closed at once");
        echoes(&client, far.at(ECHO)).context("a new tunnel after the idle ones have closed")
    });
}

/// An address that was given to another workload gets a tunnel of its own, and what was in the old
/// one ends.
#[test]
fn a_tunnel_ends_with_the_workload_it_leads_to() {
    Stage::play(&options(), cast(), Stage::mesh, |stage| {
        let far = stage.pod("far");
        let server = far.actor()?;
        server.listen(any(ECHO), Behaviour::Echo)?;
        let client = stage.pod("web").actor()?;
        let connection = client.connect(far.at(ECHO))?;
        ensure!(connection.exchange(b"x")? == b"x", "no echo");
        let before = tunnels(stage, stage.pod("web"))?;

        // Nothing about far changes: nothing ends.
        let mesh = stage.mesh().to_string();
        stage.change_mesh(&format!("{mesh}\n# the same\n"))?;
        ensure!(connection.exchange(b"y")? == b"y", "an unrelated change ended the connection");

        let watch = stage.watch(1)?;
        let reborn = mesh.replace("Pod/shop/far", "Pod/shop/far-reborn");
        ensure!(reborn != mesh, "the mesh file has no uid of far");
        stage.change_mesh(&reborn)?;
        ends_with_reset(&connection)?;
        watch.outcome("TUNNEL_LOST", |line| line.direction == "outbound")?;
        echoes(&client, far.at(ECHO))?;
        let after = tunnels(stage, stage.pod("web"))?;
        ensure!(after.len() == 1 && after != before, "{before:?}, then {after:?}");
        Ok(())
    });
}

#[test]
fn soak_a_peer_that_vanishes_is_noticed_within_30_seconds() {
    Stage::play(&options(), cast(), Stage::mesh, |stage| {
        let far = stage.pod("far");
        let server = far.actor()?;
        server.listen(any(ECHO), Behaviour::Echo)?;
        let client = stage.pod("web").actor()?;
        let connection = client.connect(far.at(ECHO))?;
        ensure!(connection.exchange(b"x")? == b"x", "no echo");
        let watches = [stage.watch(1)?, stage.watch(2)?];
        stage.world.wire().ip(&["link set n2 down"])?;
        let start = Instant::now();
        let all = tests::protocol::Amount::All(1);
        let end = connection.receive_within(all, Duration::from_secs(40));
        let took = start.elapsed();
        let reset = end.as_ref().is_err_and(|end| end.errno == Some(libc::ECONNRESET));
        ensure!(reset, "not a reset but {end:?}");
        ensure!(took < Duration::from_secs(31), "it was noticed after {took:?}");
        for (watch, direction) in watches.iter().zip(["outbound", "inbound"]) {
            watch.outcome("TUNNEL_LOST", |line| line.direction == direction)?;
        }
        Ok(())
    });
}
