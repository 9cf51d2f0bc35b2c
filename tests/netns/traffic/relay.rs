//! Bytes in motion: half-closes, resets and back-pressure pass through on every way, and bulk
//! arrives exact in bounded memory.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use tests::protocol::{Behaviour, Stream};
use tests::{Actor, Agent, AgentOptions, Digest, PodSpec, eventually};

use crate::stage::{Cast, SOON, Stage, any, echoes, ends_with_reset, enrolled, is_reset, plain};

const SINK: u16 = 9000;
const SOURCE: u16 = 9001;
const ECHO: u16 = 7000;
const RESET: u16 = 7001;
/// Reads 16 KiB and then not for hours.
const STUCK: u16 = 9002;
const FLOOD: u16 = 9003;
const DUPLEX: u16 = 9004;
const SLOW_DUPLEX: u16 = 9005;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const SOURCE_BYTES: u64 = 70_001;

fn cast() -> [Cast; 5] {
    [
        enrolled(PodSpec::new(1, "web")),
        enrolled(PodSpec::new(1, "near")),
        enrolled(PodSpec::new(2, "far")),
        plain(PodSpec::new(2, "old")),
        plain(PodSpec::new(1, "legacy")),
    ]
}

/// Path, client and server of the ways a connection can take.
const WAYS: [(&str, &str, &str); 4] = [
    ("hbone", "web", "far"),
    ("local", "web", "near"),
    ("passthrough", "web", "old"),
    ("plaintext", "legacy", "far"),
];

struct Actors(Vec<(&'static str, Actor)>);

impl Actors {
    fn start(stage: &Stage) -> anyhow::Result<Self> {
        let start = |name| Ok((name, stage.pod(name).actor()?));
        ["web", "legacy", "near", "far", "old"]
            .into_iter()
            .map(start)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    fn of(&self, name: &str) -> &Actor {
        &self.0.iter().find(|(other, _)| *other == name).expect("an actor of each pod").1
    }
}

#[test]
fn half_closes_and_resets_pass_through_on_every_way() {
    Stage::play(&AgentOptions::default(), cast(), Stage::mesh, |stage| {
        let actors = Actors::start(stage)?;
        for (path, client, server) in WAYS {
            let client = actors.of(client);
            client_ends_first(stage, client, actors.of(server), server)
                .with_context(|| format!("{path}: the client ends first"))?;
            server_ends_first(stage, client, actors.of(server), server)
                .with_context(|| format!("{path}: the server ends first"))?;
            resets(stage, path, client, actors.of(server), server)
                .with_context(|| format!("{path}: resets"))?;
        }
        Ok(())
    });
}

fn client_ends_first(
    stage: &Stage,
    client: &Actor,
    server: &Actor,
    name: &str,
) -> anyhow::Result<()> {
    let listener = server.listen(any(SINK), Behaviour::Sink)?;
    let connection = client.connect(stage.pod(name).at(SINK))?;
    connection.send(&vec![7; 100_000])?;
    connection.shutdown_write()?;
    // Said only after the server has read the end.
    let answer = String::from_utf8(connection.receive_all()?)?;
    ensure!(answer.starts_with("100000 "), "the server counted {answer:?}");
    connection.close()?;
    listener.stop()?;
    Ok(())
}

fn server_ends_first(
    stage: &Stage,
    client: &Actor,
    server: &Actor,
    name: &str,
) -> anyhow::Result<()> {
    let source = Behaviour::Source { bytes: SOURCE_BYTES, seed: 3 };
    let listener = server.listen(any(SOURCE), source)?;
    let connection = client.connect(stage.pod(name).at(SOURCE))?;
    let got = connection.receive_all()?;
    let mut digest = Digest::default();
    digest.update(&got);
    ensure!(digest.value() == Digest::of_pattern(3, SOURCE_BYTES), "{} other bytes", got.len());
    // The server has ended its side; ours is open as long as we like.
    connection.send(b"still here")?;
    connection.shutdown_write()?;
    eventually("the server reads on", SOON, || {
        let report = listener.report()?;
        let ended = report.connections.first().is_some_and(|c| c.end.as_deref() == Some("ok"));
        ensure!(ended, "{report:?}");
        Ok(report.connections.first().filter(|c| c.received == 10).map(|_| ()))
    })?;
    connection.close()?;
    listener.stop()?;
    Ok(())
}

fn resets(
    stage: &Stage,
    path: &str,
    client: &Actor,
    server: &Actor,
    name: &str,
) -> anyhow::Result<()> {
    let listener = server.listen(any(ECHO), Behaviour::Echo)?;
    let watch = stage.watch(stage.pod(name).node())?;
    let connection = client.connect(stage.pod(name).at(ECHO))?;
    ensure!(connection.exchange(b"x")? == b"x", "no echo");
    connection.reset()?;
    eventually("the client's reset reaches the server", SOON, || {
        let report = listener.report()?;
        let end = report.connections.first().and_then(|c| c.end.clone());
        ensure!(end.is_none_or(|end| end == "ECONNRESET"), "{report:?}");
        Ok(report.connections.first().and_then(|c| c.end.clone()))
    })?;
    if path != "passthrough" {
        watch.outcome("RESET", |line| line.path == path && line.direction == "inbound")?;
    }
    listener.stop()?;
    let listener = server.listen(any(RESET), Behaviour::Reset)?;
    is_reset(client, stage.pod(name).at(RESET)).context("the server's reset")?;
    listener.stop()?;
    Ok(())
}

#[test]
fn a_stopped_reader_stops_the_writer() {
    /// What may be under way: the windows and socket buffers of every leg.
    const UNDER_WAY_MAX: f64 = 32.0 * 1024.0 * 1024.0;
    const RSS_MAX: u64 = 100 * MIB;
    Stage::play(&AgentOptions::default(), cast(), Stage::mesh, |stage| {
        let actors = Actors::start(stage)?;
        let stuck = Behaviour::Duplex { bytes: 0, seed: 0, read_bytes_per_second: 1 };
        let flood = Behaviour::Source { bytes: GIB, seed: 4 };
        let mut stopped = Vec::new();
        for (path, client, server) in WAYS {
            let listener = actors.of(server);
            // "far" serves two of the ways.
            if path != "plaintext" {
                listener.listen(any(STUCK), stuck.clone())?;
                listener.listen(any(FLOOD), flood.clone())?;
                listener.listen(any(ECHO), Behaviour::Echo)?;
            }
            let upload = Stream { bytes: GIB, seed: 5 };
            let pending = actors.of(client).begin_transfer(stage.pod(server).at(STUCK), upload, 0);
            // Never read from.
            let reader = actors.of(client).connect(stage.pod(server).at(FLOOD))?;
            stopped.push((path, pending, reader));
        }
        for (path, client, server) in WAYS {
            let agent = stage.agent(if path == "plaintext" { 2 } else { 1 });
            let labels = [
                format!("source_workload=\"{client}\""),
                format!("destination_workload=\"{server}\""),
                format!(
                    "reporter=\"{}\"",
                    if path == "plaintext" { "destination" } else { "source" }
                ),
            ];
            for name in ["istio_tcp_received_bytes_total", "istio_tcp_sent_bytes_total"] {
                let bytes = stands_still(agent, name, &labels)
                    .with_context(|| format!("{path}: {name}"))?;
                ensure!(bytes > 16_000.0, "{path}: {name}: nothing moved at all");
                ensure!(bytes < UNDER_WAY_MAX, "{path}: {name}: {bytes} bytes were taken");
            }
            echoes(actors.of(client), stage.pod(server).at(ECHO))
                .with_context(|| format!("{path}: beside the stopped ones"))?;
        }
        for node in [1, 2] {
            let rss = stage.agent(node).rss_bytes()?;
            ensure!(rss < RSS_MAX, "node {node} takes {} MiB", rss / MIB);
        }
        Ok(())
    });
}

/// Waits until a counter has stopped rising; what it then says.
fn stands_still(agent: &Agent, name: &str, labels: &[String]) -> anyhow::Result<f64> {
    const STILL: Duration = Duration::from_millis(300);
    let labels: Vec<_> = labels.iter().map(String::as_str).collect();
    let (mut last, mut since) = (0.0, Instant::now());
    eventually("nothing moves any more", SOON * 2, || {
        let now = agent.metric(name, &labels)?;
        if (now - last).abs() > 0.5 {
            (last, since) = (now, Instant::now());
        }
        Ok((last > 0.0 && since.elapsed() > STILL).then_some(last))
    })
}

/// The "Shows 5".
#[test]
fn a_gibibyte_each_way_is_exact_in_bounded_memory() {
    const CONNECTIONS: u64 = 64;
    const EACH: u64 = GIB / CONNECTIONS;
    const SLOW: u64 = 3 * MIB;
    const RSS_MAX: u64 = 200 * MIB;
    Stage::play(&AgentOptions::default(), cast(), Stage::mesh, |stage| {
        let (client, server) = (stage.pod("web").actor()?, stage.pod("far").actor()?);
        let duplex =
            |seed, rate| Behaviour::Duplex { bytes: EACH, seed, read_bytes_per_second: rate };
        let listeners = [
            server.listen(any(DUPLEX), duplex(100, 0))?,
            server.listen(any(SLOW_DUPLEX), duplex(100, SLOW))?,
        ];
        let far = stage.pod("far");
        let start = Instant::now();
        // Connection 0 reads slowly here, connection 1 is read slowly there.
        let begin = |n| {
            let port = if n == 1 { SLOW_DUPLEX } else { DUPLEX };
            let rate = if n == 0 { SLOW } else { 0 };
            client.begin_transfer(far.at(port), Stream { bytes: EACH, seed: n }, rate)
        };
        let (most, done) = (AtomicU64::new(0), AtomicBool::new(false));
        let transfers = thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    for node in [1, 2] {
                        let rss = stage.agent(node).rss_bytes().unwrap_or(u64::MAX);
                        most.fetch_max(rss, Ordering::Relaxed);
                    }
                    thread::sleep(Duration::from_millis(20));
                }
            });
            let pending: Vec<_> = (0..CONNECTIONS).map(begin).collect();
            let all = pending.into_iter().map(tests::Pending::transferred);
            let transfers = all.collect::<Result<Vec<_>, _>>();
            done.store(true, Ordering::Relaxed);
            transfers
        })?;
        let (took, most) = (start.elapsed(), most.load(Ordering::Relaxed));
        println!("{CONNECTIONS} connections, 1 GiB each way: {took:?}, {} MiB", most / MIB);
        let wanted = Digest::of_pattern(100, EACH);
        let mut sent = Vec::new();
        for transfer in &transfers {
            ensure!(transfer.received == EACH, "{transfer:?}");
            ensure!(transfer.received_digest == wanted, "other bytes: {transfer:?}");
            sent.push((transfer.sent, transfer.sent_digest));
        }
        // The slow reader there may still have windows full to read.
        let mut got = eventually("the servers have read to the end", SOON * 2, || {
            let reports = listeners.map(|listener| listener.report());
            let all: Vec<_> = reports.into_iter().collect::<Result<_, _>>()?;
            let all: Vec<_> = all.into_iter().flat_map(|report| report.connections).collect();
            let ended = all.iter().all(|c| c.end.as_deref() == Some("ok"));
            let got: Vec<_> = all.iter().map(|c| (c.received, c.digest)).collect();
            Ok((ended && got.len() == transfers.len()).then_some(got))
        })?;
        sent.sort_unstable();
        got.sort_unstable();
        ensure!(sent == got, "what was sent is not what was received");
        ensure!(most < RSS_MAX, "an agent took {} MiB", most / MIB);
        Ok(())
    });
}

/// A connection that an agent's end cuts is never taken for a complete one.
#[test]
fn a_lost_tunnel_is_a_reset() {
    Stage::play(&AgentOptions::default(), cast(), Stage::mesh, |stage| {
        let (client, server) = (stage.pod("web").actor()?, stage.pod("far").actor()?);
        server.listen(any(ECHO), Behaviour::Echo)?;
        let connection = client.connect(stage.pod("far").at(ECHO))?;
        ensure!(connection.exchange(b"x")? == b"x", "no echo");
        let watch = stage.watch(1)?;
        stage.agent(2).signal(Signal::SIGKILL)?;
        ends_with_reset(&connection)?;
        watch.outcome("TUNNEL_LOST", |line| line.direction == "outbound")?;
        Ok(())
    });
}
