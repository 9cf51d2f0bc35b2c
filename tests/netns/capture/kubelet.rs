//! The kubelet's probes pass to probe ports; nothing else of the node does, from the same address.

use std::net::SocketAddr;

use tests::protocol::{ConnectOptions, Hammer};
use tests::{Actor, Agent, AgentOptions, Mesh, PodSpec, World};

use crate::stage::{House, counter, deny_all, ready};

const PROBE: u16 = 8080;
const OTHER: u16 = 8081;
/// Connections of each kind.
const CALLS: u64 = 100;

/// Of [`CALLS`] connections, how many were answered.
fn answers(client: &Actor, target: SocketAddr) -> anyhow::Result<u64> {
    let done = client.hammer(Hammer {
        target,
        options: ConnectOptions::default(),
        connections: CALLS,
        duration_ms: 0,
        per_second: 0,
        workers: 4,
        message: "probe".into(),
    })?;
    Ok(done.succeeded)
}

#[test]
fn the_kubelets_probes_pass_and_its_neighbours_do_not() -> anyhow::Result<()> {
    probes_pass_alone(AgentOptions::default())
}

#[test]
fn so_do_they_with_hooks_on_the_root() -> anyhow::Result<()> {
    probes_pass_alone(AgentOptions::default().on_root())
}

fn probes_pass_alone(options: AgentOptions) -> anyhow::Result<()> {
    let world = World::new(1)?;
    let server = House::new(&world, PodSpec::new(1, "server"))?;
    world.set_mesh(&deny_all(Mesh::new().workload(&server.pod)))?;
    let node = world.node(1);
    let kubelet = node.actor("kubelet")?;
    let neighbours = [node.actor("sibling")?, node.actor("kubelet/below")?];
    let path = node.cgroup().join("kubelet");
    let options = options.set("WARREN_KUBELET_CGROUP", path.display());
    let agent = ready(&world, 1, options)?;
    let mut words = Agent::enrolment(&server.pod);
    words.extend(["--probe-port".to_owned(), PROBE.to_string()]);
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    agent.warren(&words)?.ok()?;
    let (probes, other) = (server.echo(PROBE)?, server.echo(OTHER)?);

    for target in server.both(PROBE) {
        assert_eq!(answers(&kubelet, target)?, CALLS, "{target}: the kubelet's probes");
        for neighbour in &neighbours {
            assert_eq!(answers(neighbour, target)?, 0, "{target}: a neighbour's");
        }
    }
    for target in server.both(OTHER) {
        assert_eq!(answers(&kubelet, target)?, 0, "{target} is no probe port");
    }
    assert_eq!(counter(&agent, &server.pod, "passed_probe")?, 2 * CALLS);
    let report = probes.report()?;
    assert_eq!(report.accepted, 2 * CALLS, "others reached the application");
    assert_eq!(other.report()?.accepted, 0);
    let refused = agent.flows()?;
    let refused = refused.iter().filter(|flow| flow.code == "POLICY_NO_MATCH");
    let sources: std::collections::BTreeSet<_> =
        refused.filter_map(|flow| flow.source.address.map(|address| address.ip())).collect();
    let probing: std::collections::BTreeSet<_> =
        report.connections.iter().map(|accepted| accepted.peer.ip().to_canonical()).collect();
    assert_eq!(sources, probing, "the refused calls came from other addresses than the probes");
    Ok(())
}
