//! What a pod opens reaches the proxy with the destination that was dialled, whatever the socket.

use std::net::SocketAddr;

use anyhow::Context;
use tests::protocol::ConnectOptions;
use tests::{Agent, AgentOptions, Listener, LogMark, Mesh, PodSpec, World};

use crate::stage::{House, PATIENCE, canonical, ready};

/// First of the ports; each way has its own.
const PORT: u16 = 7001;

/// A way to connect.
struct Way {
    name: &'static str,
    v6: bool,
    options: ConnectOptions,
}

/// Every kind of socket, in every family it exists in.
fn ways(client: &House) -> Vec<Way> {
    let plain = ConnectOptions::default;
    let mut ways = Vec::new();
    for v6 in [false, true] {
        let own = if v6 { client.pod.at_v6(0) } else { client.pod.at(0) };
        let loopback: SocketAddr =
            if v6 { ([0, 0, 0, 0, 0, 0, 0, 1], 0).into() } else { ([127, 0, 0, 1], 0).into() };
        let device = Some("eth0".to_owned());
        let mut add = |name, options| ways.push(Way { name, v6, options });
        add("plain", plain());
        add("source-bound", ConnectOptions { source: Some(own), ..plain() });
        add("loopback-bound", ConnectOptions { source: Some(loopback), ..plain() });
        add("device-bound", ConnectOptions { device: device.clone(), ..plain() });
        add("non-blocking", ConnectOptions { non_blocking: true, ..plain() });
        add(
            "bound and non-blocking",
            ConnectOptions { source: Some(own), device, non_blocking: true, ..plain() },
        );
        add("fast open", ConnectOptions { fast_open: true, ..plain() });
        add("multipath", ConnectOptions { mptcp: true, ..plain() });
        add("io_uring", ConnectOptions { io_uring: true, ..plain() });
        add("marked", ConnectOptions { mark: Some(0x539), ..plain() });
    }
    let mapped = || ConnectOptions { mapped: true, ..plain() };
    let mut add = |name, options| ways.push(Way { name, v6: false, options });
    add("v4-mapped", mapped());
    add("v4-mapped, non-blocking", ConnectOptions { non_blocking: true, ..mapped() });
    add("v4-mapped, io_uring", ConnectOptions { io_uring: true, ..mapped() });
    add("v4-mapped, device-bound", ConnectOptions { device: Some("eth0".into()), ..mapped() });
    ways
}

/// A server outside the mesh sees no connection that the proxy did not make: with the proxy, each
/// way arrives and is reported with its true destination; without it, not a packet leaves the pod.
#[test]
fn every_kind_of_socket_is_captured_and_none_gets_past_the_proxy() -> anyhow::Result<()> {
    none_gets_past(AgentOptions::default())
}

#[test]
fn nor_past_hooks_on_the_root() -> anyhow::Result<()> {
    none_gets_past(AgentOptions::default().on_root())
}

fn none_gets_past(options: AgentOptions) -> anyhow::Result<()> {
    let world = World::new(2)?;
    let client = House::new(&world, PodSpec::new(1, "client"))?;
    let store = House::new(&world, PodSpec::new(2, "store").outside())?;
    world.set_mesh(&Mesh::new().workload(&client.pod))?;
    let mut agent = ready(&world, 1, options)?;
    agent.enrol(&client.pod)?;
    let mark = agent.log_mark();
    let mut visits = Vec::new();
    for (port, way) in (PORT..).zip(ways(&client)) {
        let listener = store.echo(port)?;
        let target = if way.v6 { store.pod.at_v6(port) } else { store.pod.at(port) };
        let name = format!("{} to {target}", way.name);
        visits.push(Visit { listener, target, way, name });
    }
    for visit in &visits {
        visit.arrives(&agent, mark, &client).with_context(|| visit.name.clone())?;
    }
    assert_eq!(crate::stage::counter(&agent, &client.pod, "tuple_insert_failed")?, 0);

    let sniffer = world.sniff_pod(&client.pod)?;
    agent.kill9()?;
    for visit in &visits {
        assert!(!visit.is_answered(&client), "{}: answered without the proxy", visit.name);
    }
    let wire = sniffer.stop()?;
    assert_eq!(wire.lost(), 0, "the capture is not whole");
    let store_ips = [store.pod.ipv4(), store.pod.ipv6()];
    let leaked: Vec<_> = wire
        .segments()
        .filter(|s| store_ips.contains(&s.destination.ip()))
        .filter(|s| s.syn)
        .collect();
    assert!(leaked.is_empty(), "left the pod without the proxy: {leaked:?}");
    for visit in &visits {
        assert_eq!(visit.listener.report()?.accepted, 1, "{}", visit.name);
    }
    Ok(())
}

/// One way and the server it goes to.
struct Visit<'a> {
    listener: Listener<'a>,
    target: SocketAddr,
    way: Way,
    name: String,
}

impl Visit<'_> {
    fn is_answered(&self, client: &House) -> bool {
        let options = ConnectOptions { timeout_ms: 500, ..self.way.options.clone() };
        crate::stage::answered(&client.actor, self.target, options)
    }

    fn arrives(&self, agent: &Agent, mark: LogMark, client: &House) -> anyhow::Result<()> {
        let Self { listener, target, way, name } = self;
        let connection = client.actor.connect_with(*target, way.options.clone())?;
        connection.send(b"?")?;
        let (answer, _) =
            connection.receive_within(tests::protocol::Amount::Exactly(1), PATIENCE)?;
        assert_eq!(answer, b"?", "{name}");
        // MPTCP asks another socket than the one that connected; a fast-open socket has no peer
        // before its first write.
        if !way.options.mptcp && !way.options.fast_open {
            let peer = connection.peer().context("getpeername failed")?;
            assert_eq!(canonical(peer), *target, "{name}: getpeername");
            assert_eq!(peer.ip().is_ipv6(), way.v6 || way.options.mapped, "{name}: its family");
        }
        let local = canonical(connection.local());
        connection.close()?;
        let line = agent.wait_access(mark, name, |line| line.destination == target.to_string())?;
        assert_eq!((&*line.direction, &*line.path, &*line.code), ("outbound", "passthrough", "OK"));
        if !way.options.fast_open {
            assert_eq!(line.source, local.to_string(), "{name}: the client");
        }
        let report = listener.report()?;
        let [accepted] = report.connections.as_slice() else { panic!("{name}: {report:?}") };
        let peer = accepted.peer.ip().to_canonical();
        let own = if way.v6 { client.pod.ipv6() } else { client.pod.ipv4() };
        assert_eq!(peer, own, "{name}: the server sees another client");
        Ok(())
    }
}
