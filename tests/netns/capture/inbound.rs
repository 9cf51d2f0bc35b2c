//! What arrives at a pod is judged by the proxy, whatever the port and however much it is.

use std::net::SocketAddr;
use std::time::Duration;

use tests::protocol::{Amount, Behaviour, ConnectOptions, Hammer};
use tests::{AgentOptions, Mesh, PodSpec, World, eventually};

use crate::stage::{
    GREETING, House, PATIENCE, answered, any, brief, canonical, counter, deny_all, reach, ready,
};

/// Ports that mean something to the mesh, or to nobody.
const SERVED: [u16; 6] = [1, 80, 8080, 15001, 15006, 65535];
/// The application squats on the tunnel's port and the agent's own; no listener is theirs.
const HBONE: u16 = 15008;
const UNSERVED: [u16; 3] = [2, 81, 15021];
/// Connections of the load, half in each family.
const MANY: u64 = 10_000;

#[test]
fn every_port_of_a_pod_is_judged_with_its_true_address() -> anyhow::Result<()> {
    let world = World::new(1)?;
    let server = House::new(&world, PodSpec::new(1, "server"))?;
    let client = House::new(&world, PodSpec::new(1, "client").outside())?;
    let mesh = Mesh::new().workloads([&server.pod, &client.pod]);
    world.set_mesh(&mesh)?;
    let agent = ready(&world, 1, AgentOptions::default())?;
    agent.enrol(&server.pod)?;
    let mut served = Vec::new();
    for port in SERVED {
        served.push(server.echo(port)?);
    }
    let squatter = server.actor.listen(any(HBONE), Behaviour::Echo)?;

    let mark = agent.log_mark();
    let judged = |port: u16, target: SocketAddr, code: &str| -> anyhow::Result<()> {
        let connection = client.actor.connect(target)?;
        // A refusal may be faster than the write; the read tells.
        let _ = connection.send(GREETING);
        let all = Amount::Exactly(tests::length(GREETING.len()));
        let answer = connection.receive_within(all, PATIENCE);
        let local = canonical(connection.local());
        connection.reset()?;
        let what = format!("{local} to {target}");
        // Both, because the kernel may give one client port to two destinations.
        let line = agent.wait_access(mark, &what, |line| {
            line.source == local.to_string() && line.destination == target.to_string()
        })?;
        assert_eq!(line.direction, "inbound", "{line:?}");
        assert_eq!(line.path, if port == HBONE { "hbone" } else { "plaintext" }, "{line:?}");
        assert!(line.code == code || (code == "OK" && line.code == "RESET"), "{line:?}");
        let echoed = answer.is_ok_and(|(bytes, _)| bytes == GREETING);
        assert_eq!(echoed, code == "OK", "{what}: {line:?}");
        Ok(())
    };
    let cases = SERVED.map(|port| (port, "OK")).into_iter();
    let cases = cases.chain(UNSERVED.map(|port| (port, "CONNECT_REFUSED")));
    for (port, code) in cases.chain([(HBONE, "TLS_FAILED")]) {
        for target in server.both(port) {
            judged(port, target, code)?;
        }
    }
    for listener in &served {
        let report = listener.report()?;
        assert_eq!(report.accepted, 2, "{}: {report:?}", listener.address());
        for accepted in report.connections {
            let client = [client.pod.ipv4(), client.pod.ipv6()];
            assert!(client.contains(&accepted.peer.ip().to_canonical()), "{accepted:?}");
        }
    }
    assert_eq!(squatter.report()?.accepted, 0, "the tunnel's port is the application's");

    // A port that policy closes is closed, though somebody listens.
    world.set_mesh(&deny_all(mesh))?;
    eventually("the policy is in force", Duration::from_secs(5), || {
        Ok((agent.status()?.config.policies == 1).then_some(()))
    })?;
    for port in SERVED.into_iter().chain([HBONE]) {
        for target in server.both(port) {
            assert!(!answered(&client.actor, target, brief()), "{target} answers");
        }
    }
    for listener in &served {
        assert_eq!(listener.report()?.accepted, 2, "{} was reached", listener.address());
    }
    Ok(())
}

/// The sockets that the proxy accepted for a port must not keep the application from it.
#[test]
fn an_application_listens_again_while_its_connections_stand() -> anyhow::Result<()> {
    let world = World::new(1)?;
    let server = House::new(&world, PodSpec::new(1, "server"))?;
    let client = House::new(&world, PodSpec::new(1, "client").outside())?;
    world.set_mesh(&Mesh::new().workloads([&server.pod, &client.pod]))?;
    let agent = ready(&world, 1, AgentOptions::default())?;
    agent.enrol(&server.pod)?;
    for address in [any(80), ([0, 0, 0, 0], 80).into()] {
        let first = server.actor.listen(address, Behaviour::Echo)?;
        let standing = reach(&client.actor, server.pod.at(80), brief())?;
        let closed = reach(&client.actor, server.pod.at(80), brief())?;
        closed.close()?;
        first.stop()?;
        let again = server.actor.listen(address, Behaviour::Echo)?;
        assert_eq!(standing.exchange(b"still here")?, b"still here");
        assert!(answered(&client.actor, server.pod.at(80), brief()), "not served again");
        again.stop()?;
        standing.close()?;
    }
    Ok(())
}

#[test]
fn thousands_of_connections_are_all_judged_also_with_syn_cookies() -> anyhow::Result<()> {
    let world = World::new(1)?;
    let server = House::new(&world, PodSpec::new(1, "server"))?;
    let client = House::new(&world, PodSpec::new(1, "client").outside())?;
    server.pod.netns().set_sysctl("ipv4/tcp_syncookies", "2")?;
    let policy = "name: not-9999\nnamespace: shop\nscope: Namespace\naction: Deny\nrules:\n\
                  - - - destinationPorts: [9999]\n";
    world.set_mesh(&Mesh::new().workloads([&server.pod, &client.pod]).policy(policy))?;
    let agent = ready(&world, 1, AgentOptions::default().set("RUST_LOG", "warn"))?;
    agent.enrol(&server.pod)?;
    let (open, closed) = (server.echo(80)?, server.echo(9999)?);
    let count = |name| counter(&agent, &server.pod, name);
    let (steered, passed) = (count("steered_plaintext")?, count("passed_proxy")?);

    let load = |target, connections| Hammer {
        target,
        options: ConnectOptions::default(),
        connections,
        duration_ms: 0,
        per_second: 0,
        workers: 16,
        message: "x".into(),
    };
    for target in server.both(80) {
        let done = client.actor.hammer(load(target, MANY / 2))?;
        assert_eq!(done.succeeded, MANY / 2, "{target}: {done:?}");
    }
    // With a cookie, the kernel looks a connection up more than once.
    assert!(count("steered_plaintext")? - steered >= MANY, "judged");
    assert!(count("passed_proxy")? - passed >= MANY, "by the proxy");
    assert_eq!(count("dropped_no_listener")?, 0);
    let report = open.report()?;
    assert_eq!(report.accepted, MANY);
    let ours = [client.pod.ipv4(), client.pod.ipv6()];
    let targets = server.both(80);
    for accepted in &report.connections {
        assert!(ours.contains(&accepted.peer.ip().to_canonical()), "{accepted:?}");
        assert!(targets.contains(&canonical(accepted.local)), "{accepted:?}");
    }
    for target in server.both(9999) {
        let done = client.actor.hammer(load(target, 200))?;
        assert_eq!(done.succeeded, 0, "{target}: {done:?}");
    }
    assert_eq!(closed.report()?.accepted, 0, "a refused connection reached the application");
    let cookies = server
        .pod
        .netns()
        .within(|| std::fs::read_to_string("/proc/thread-self/net/netstat"))??;
    assert!(cookies_received(&cookies) >= MANY, "SYN cookies were not used");
    Ok(())
}

/// `SyncookiesRecv` of a namespace.
fn cookies_received(netstat: &str) -> u64 {
    let mut lines = netstat.lines().filter(|line| line.starts_with("TcpExt:"));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { return 0 };
    let found = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "SyncookiesRecv");
    found.and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
}
