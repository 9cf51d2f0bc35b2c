//! The harness tests itself: without any agent, a world is just a network.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tests::protocol::{Amount, Behaviour, ConnectOptions, Hammer, Stream};
use tests::{AgentOptions, Digest, Mesh, PodSpec, ServiceSpec, World};

#[test]
fn a_world_is_made_quickly_and_leaves_nothing() -> anyhow::Result<()> {
    let start = Instant::now();
    let world = World::new(2)?;
    for (node, name) in [(1, "a"), (1, "b"), (2, "c"), (2, "d")] {
        world.pod(PodSpec::new(node, name))?;
    }
    let made = start.elapsed();
    ensure!(made < Duration::from_millis(1500), "making it took {made:?}");
    let (prefix, folder) = (world.prefix().to_string(), world.folder().to_owned());
    ensure!(count(Path::new("/run/netns"), &prefix) == 7, "namespaces are missing");
    let start = Instant::now();
    drop(world);
    let gone = start.elapsed();
    ensure!(gone < Duration::from_secs(2), "removing it took {gone:?}");
    println!("made in {made:?}, removed in {gone:?}");
    let cgroups = tests::cgroup_mount()?;
    for place in [Path::new("/run/netns"), &cgroups, Path::new("/sys/fs/bpf")] {
        ensure!(count(place, &prefix) == 0, "{} still holds {prefix}", place.display());
    }
    ensure!(!folder.exists(), "{} is still there", folder.display());
    Ok(())
}

fn count(folder: &Path, prefix: &str) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix)).count()
}

#[test]
fn pods_reach_each_other_and_the_wire_shows_it() -> anyhow::Result<()> {
    let world = World::new(2)?;
    let web = world.pod(PodSpec::new(1, "web"))?;
    let shop = world.pod(PodSpec::new(2, "shop"))?;
    let near = world.pod(PodSpec::new(1, "near"))?;
    let (client, server, other) = (web.actor()?, shop.actor()?, near.actor()?);
    let any = |port| SocketAddr::from(([0_u16; 8], port));
    let http = server.listen(any(8080), Behaviour::Http { name: "shop".into() })?;
    let sniffer = world.sniff_wire(1)?;
    for target in [shop.at(8080), shop.at_v6(8080)] {
        let answer = client.http_get(target, "/secret-path", "X-Token: hunter2")?;
        ensure!(answer.status == 200, "{answer:?}");
        ensure!(answer.field("server") == "shop", "{answer:?}");
        ensure!(answer.field("request") == "GET /secret-path HTTP/1.1", "{answer:?}");
        let peer: SocketAddr = answer.field("peer").parse().context("an address")?;
        let client = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        ensure!(client == answer.local, "the server saw {client}, not {}", answer.local);
        let expected = [web.ipv4(), web.ipv6()];
        ensure!(expected.contains(&client.ip()), "{client} is not the pod's");
    }
    ensure!(http.report()?.accepted == 2, "{:?}", http.report()?);
    let banner = server.listen(any(2525), Behaviour::Banner { text: "220 hello\r\n".into() })?;
    let connection = other.connect(banner_at(&shop.at(0), banner.address()))?;
    ensure!(connection.receive(11)? == b"220 hello\r\n", "no greeting");
    ensure!(connection.exchange(b"ping")? == b"ping", "no echo");
    connection.shutdown_write()?;
    ensure!(connection.receive_all()?.is_empty(), "more than the echo");
    connection.close()?;
    let capture = sniffer.stop()?;
    ensure!(capture.lost() == 0, "frames were lost");
    ensure!(capture.tcp_payload_contains(b"hunter2"), "the request is not on the wire");
    ensure!(!capture.contains(b"nothing like this"), "found what was not sent");
    ensure!(capture.payload_of_port(8080) > 200, "little payload");
    ensure!(capture.tls_records_of_port(8080) == 0, "HTTP is not TLS");
    let pcap = world.folder().join("wire.pcap");
    capture.write_pcap(&pcap)?;
    ensure!(std::fs::metadata(&pcap)?.len() > 1000, "the pcap file is short");
    Ok(())
}

fn banner_at(pod: &SocketAddr, listener: SocketAddr) -> SocketAddr {
    SocketAddr::new(pod.ip(), listener.port())
}

#[test]
fn sockets_are_made_as_asked() -> anyhow::Result<()> {
    let world = World::new(1)?;
    let (web, shop) = (world.pod(PodSpec::new(1, "web"))?, world.pod(PodSpec::new(1, "shop"))?);
    let (client, server) = (web.actor()?, shop.actor()?);
    server.listen(shop.at(7), Behaviour::Echo)?;
    let plain = ConnectOptions::default();
    let ways = [
        ("plain", plain.clone()),
        ("bound", ConnectOptions { source: Some(web.at(0)), ..plain.clone() }),
        ("device", ConnectOptions { device: Some("eth0".into()), ..plain.clone() }),
        ("non-blocking", ConnectOptions { non_blocking: true, ..plain.clone() }),
        ("mapped", ConnectOptions { mapped: true, ..plain.clone() }),
        ("fast open", ConnectOptions { fast_open: true, ..plain.clone() }),
        ("mptcp", ConnectOptions { mptcp: true, ..plain.clone() }),
        ("mark", ConnectOptions { mark: Some(7), ..plain.clone() }),
    ];
    for (name, options) in ways {
        let connection = client.connect_with(shop.at(7), options.clone()).context(name)?;
        ensure!(connection.exchange(name.as_bytes())? == name.as_bytes(), "{name}");
        let peer = connection.peer().map(|peer| peer.ip());
        if !options.fast_open {
            ensure!(peer.map(|ip| ip.to_canonical()) == Some(shop.ipv4()), "{name}: {peer:?}");
        }
        ensure!(peer.is_none_or(|ip| ip.is_ipv6() == options.mapped), "{name}: {peer:?}");
        connection.reset()?;
    }
    let refused = client.connect(shop.at(8)).expect_err("nobody listens");
    ensure!(refused.message == "ECONNREFUSED", "{refused:?}");
    let options = ConnectOptions { timeout_ms: 300, ..plain };
    let nowhere = client.connect_with(SocketAddr::new(IpAddr::from([10, 1, 99, 99]), 1), options);
    let nowhere = nowhere.expect_err("there is no such pod");
    ensure!(nowhere.operation == "connect", "{nowhere:?}");
    server.listen(shop.at(9), Behaviour::Silent)?;
    let connection = client.connect(shop.at(9))?;
    let late = connection.receive_within(Amount::Some(1), Duration::from_millis(100));
    ensure!(late.expect_err("it is silent").message.contains("after 0 bytes"), "another error");
    client.send_udp(shop.at(53), b"query", ConnectOptions::default())?;
    Ok(())
}

#[test]
fn bulk_is_exact_both_ways_and_loads_are_counted() -> anyhow::Result<()> {
    const MIB: u64 = 1 << 20;
    let world = World::new(1)?;
    let (web, shop) = (world.pod(PodSpec::new(1, "web"))?, world.pod(PodSpec::new(1, "shop"))?);
    let (client, server) = (web.actor()?, shop.actor()?);
    let behaviour = Behaviour::Duplex { bytes: 8 * MIB, seed: 2, read_bytes_per_second: 0 };
    let bulk = server.listen(shop.at(9000), behaviour)?;
    let pending: Vec<_> = (0..8)
        .map(|n| client.begin_transfer(shop.at(9000), Stream { bytes: 4 * MIB + n, seed: n }, 0))
        .collect();
    let mut sent = Vec::new();
    for transfer in pending {
        let transfer = transfer.transferred()?;
        ensure!(transfer.received_digest == Digest::of_pattern(2, 8 * MIB), "{transfer:?}");
        sent.push((transfer.sent, transfer.sent_digest));
    }
    let report = bulk.report()?;
    let mut got: Vec<_> = report.connections.iter().map(|c| (c.received, c.digest)).collect();
    sent.sort_unstable();
    got.sort_unstable();
    ensure!(sent == got, "sent {sent:?}, received {got:?}");
    ensure!(sent[3].1 == Digest::of_pattern(3, 4 * MIB + 3), "another pattern was sent");
    let slow = Instant::now();
    let upload = Stream { bytes: 0, seed: 0 };
    client.begin_transfer(shop.at(9000), upload, 16 * MIB).transferred()?;
    ensure!(slow.elapsed() > Duration::from_millis(400), "a slow reader was fast");
    let echo = server.listen(shop.at(7), Behaviour::Echo)?;
    let load = Hammer {
        target: shop.at(7),
        options: ConnectOptions::default(),
        connections: 2000,
        duration_ms: 0,
        per_second: 0,
        workers: 8,
        message: "hello".into(),
    };
    let done = client.hammer(load.clone())?;
    ensure!((done.attempts, done.succeeded) == (2000, 2000), "{done:?}");
    ensure!(echo.report()?.accepted == 2000, "another count");
    echo.stop()?;
    let done = client.hammer(Hammer { connections: 5, ..load })?;
    ensure!(done.failures.get("connect ECONNREFUSED") == Some(&5), "{done:?}");
    server.listen(shop.at(10), Behaviour::Echo)?;
    let (held, failures) = client.hold(shop.at(10), 500)?;
    ensure!(held.len() == 500 && failures.is_empty(), "{} {failures:?}", held.len());
    ensure!(held[499].exchange(b"x")? == b"x", "no echo");
    Ok(())
}

#[test]
fn actors_are_where_they_should_be() -> anyhow::Result<()> {
    let world = World::new(1)?;
    let web = world.pod(PodSpec::new(1, "web"))?;
    let actor = web.actor()?;
    let (_, cgroup, _) = actor.shell("grep ^0:: /proc/self/cgroup")?;
    ensure!(cgroup.trim() == format!("0::/{}/web/c", world.prefix()), "{cgroup}");
    let confined = web.confined_actor(&["net_admin", "net_raw"])?;
    let (_, capabilities, _) = confined.shell("grep CapEff /proc/self/status")?;
    ensure!(capabilities.trim().ends_with("0000000000003000"), "{capabilities}");
    let hidden = format!("ls /sys/fs/bpf /sys/fs/cgroup {}", world.folder().display());
    let (_, seen, _) = confined.shell(&hidden)?;
    ensure!(seen.lines().all(|line| line.is_empty() || line.ends_with(':')), "{seen}");
    let (status, _, error) = confined.shell("ip link set lo down && ip link set lo up")?;
    ensure!(status == 0, "net_admin does not work: {error}");
    let host = world.node(1).actor("kubelet")?;
    let (_, cgroup, _) = host.shell("grep ^0:: /proc/self/cgroup")?;
    ensure!(cgroup.trim().ends_with("/node-1/kubelet"), "{cgroup}");
    let (_, links, _) = host.shell("ip -br link")?;
    ensure!(links.contains(&web.host_interface()), "{links}");
    actor.kill();
    world.remove_pod(&web)?;
    ensure!(!web.cgroup().exists(), "the cgroup is still there");
    let (_, links, _) = host.shell("ip -br link")?;
    ensure!(!links.contains(&web.host_interface()), "{links}");
    ensure!(confined.shell("true").is_err(), "the pod's processes live on");
    // Its name is free again.
    world.pod(PodSpec::new(1, "web"))?;
    Ok(())
}

#[test]
fn the_mesh_file_is_what_the_agents_read() -> anyhow::Result<()> {
    let world = World::new(2)?;
    let web = world.pod(PodSpec::new(1, "web"))?;
    let shop = world.pod(PodSpec::new(2, "shop").namespace("store").account("seller"))?;
    let old = world.pod(PodSpec::new(2, "old").outside())?;
    let vip = IpAddr::from([10, 96, 0, 1]);
    let service = ServiceSpec::new("store", "shop").vip(vip).port(80, 8080).endpoint(&shop);
    let mesh = Mesh::new().workloads([&web, &shop, &old]).service(service);
    let mesh = mesh.allow("store", "only-web", &[&web.identity()]).policy(
        "
        name: deny-9999
        namespace: store
        scope: Namespace
        action: Deny
        rules:
        - - - destinationPorts: [9999]
        ",
    );
    for mesh in [Mesh::new(), mesh] {
        world.set_mesh(&mesh)?;
        let text = std::fs::read_to_string(world.mesh_path())?;
        local_config::parse("mesh.yaml", &text, &local_config::Defaults::default())
            .map_err(|e| anyhow::anyhow!("{e}\n{text}"))?;
    }
    let text = std::fs::read_to_string(world.mesh_path())?;
    let config = local_config::parse("mesh.yaml", &text, &local_config::Defaults::default())
        .map_err(|e| anyhow::anyhow!("{e}"))?;
    ensure!(config.workloads.len() == 3, "{text}");
    ensure!(config.services.len() == 1 && config.policies.len() == 2, "{text}");
    Ok(())
}

#[test]
fn what_a_dead_process_left_is_removed() -> anyhow::Result<()> {
    let world = World::new(1)?;
    let pod = world.pod(PodSpec::new(1, "web"))?;
    let actor = pod.actor()?;
    // The same names under a prefix whose maker cannot live: process ids end at 2^22.
    let dead = "ww4194305x1x1";
    for words in [vec!["netns", "add", dead], vec!["netns", "add", "ww-not-ours"]] {
        ensure!(std::process::Command::new("ip").args(words).status()?.success(), "ip");
    }
    let cgroup = tests::cgroup_mount()?.join(dead).join("pod");
    std::fs::create_dir_all(&cgroup)?;
    World::cleanup_stale();
    let kept = Path::new("/run/netns/ww-not-ours").exists();
    ensure!(
        std::process::Command::new("ip").args(["netns", "del", "ww-not-ours"]).status()?.success()
    );
    ensure!(kept, "another's namespace was removed");
    ensure!(!cgroup.exists(), "the cgroup is still there");
    ensure!(!Path::new("/run/netns").join(dead).exists(), "the namespace is still there");
    ensure!(actor.shell("true")?.0 == 0, "a living world was removed");
    // A teardown from a signal handler ends what runs.
    world.teardown().run();
    ensure!(actor.shell("true").is_err(), "the actor lives on");
    Ok(())
}

#[test]
fn an_agent_is_driven_through_its_life() -> anyhow::Result<()> {
    let world = World::new(1)?;
    let (web, shop) = (world.pod(PodSpec::new(1, "web"))?, world.pod(PodSpec::new(1, "shop"))?);
    let mesh = Mesh::new().workloads([&web, &shop]);
    world.set_mesh(&mesh.clone().allow("shop", "only-web", &[&web.identity()]))?;
    let (client, server) = (web.actor()?, shop.actor()?);
    server.listen(shop.at(8080), Behaviour::Http { name: "shop".into() })?;
    let mut agent = world.agent(1, AgentOptions::default())?;
    agent.wait_ready()?;
    for pod in [&web, &shop] {
        ensure!(agent.enrol(pod)?.state == admin::PodState::Verified, "not verified");
    }
    let mark = agent.log_mark();
    ensure!(client.http_get(shop.at(8080), "/", "")?.status == 200, "no answer");
    let line = agent.wait_access(mark, "the request", |line| line.direction == "inbound")?;
    ensure!(line.source_identity == web.identity(), "{line:?}");
    ensure!(line.code == "OK" && line.bytes_sent > 0, "{line:?}");
    ensure!(
        agent.metric("istio_tcp_connections_opened_total", &["destination"])? > 0.0,
        "{}",
        agent.metrics()?
    );
    ensure!(agent.rss_bytes()? > 1 << 20, "too small");
    ensure!(agent.flows()?.iter().any(|flow| flow.code == "OK"), "no flow");
    ensure!(agent.pods()?.len() == 2 && agent.status()?.node == "node-1", "status");
    ensure!(agent.warren(&["pods", "unenrol", "nobody"])?.status == 1, "another exit code");
    // A policy change is a change of one file.
    world.set_mesh(&mesh.clone().allow(
        "shop",
        "only-web",
        &["spiffe://cluster.local/ns/a/sa/b"],
    ))?;
    let denied = tests::wait_until(Duration::from_secs(3), || {
        client.http_get(shop.at(8080), "/", "").is_err()
    });
    ensure!(denied, "still allowed");
    ensure!(!agent.why("shop/web", &shop.at(8080).to_string())?.passes(), "why says it passes");
    world.set_mesh_text("workloads: [")?;
    let told = tests::wait_until(Duration::from_secs(3), || {
        agent.status().is_ok_and(|status| status.config.last_error.is_some())
    });
    ensure!(told, "a wrong file is not reported");
    world.set_mesh(&mesh)?;
    let back = tests::wait_until(Duration::from_secs(3), || {
        client.http_get(shop.at(8080), "/", "").is_ok()
    });
    ensure!(back, "not allowed again");
    agent.kill9()?;
    ensure!(client.http_get(shop.at(8080), "/", "").is_err(), "answered without an agent");
    ensure!(agent.warren(&["status"])?.status == 3, "another exit code");
    agent.restart()?;
    agent.wait_ready()?;
    let back = tests::wait_until(Duration::from_secs(3), || {
        client.http_get(shop.at(8080), "/", "").is_ok()
    });
    ensure!(back, "capture did not resume: {:?}", agent.pods()?);
    for pod in [&shop, &web] {
        agent.unenrol(pod)?;
    }
    // As if there were no mesh.
    ensure!(client.http_get(shop.at(8080), "/", "")?.status == 200, "not reachable without mesh");
    let status = agent.terminate()?;
    ensure!(status.success(), "ended with {status}");
    Ok(())
}
