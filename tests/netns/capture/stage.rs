//! What the themes share: agents that are ready, pods with a process, and what a server counts.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, ensure};
use tests::protocol::{Amount, Behaviour, ConnectOptions};
use tests::{Actor, Agent, AgentOptions, Connection, Listener, Mesh, Pod, PodSpec, World};

/// Bound of a connect that a broken network may swallow. Attempts that work take a millisecond.
pub(crate) const PATIENCE_MS: u64 = 400;
/// What clients say and servers repeat: longer than the head of a TLS record, so that a tunnel's
/// port, too, knows at once that it is none.
pub(crate) const GREETING: &[u8] = b"is anybody there?";
/// Bound of an exchange on a connection that stands, unless it is refused at once.
pub(crate) const PATIENCE: Duration = Duration::from_millis(800);

/// `[::]:port`, which serves both families.
pub(crate) fn any(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))
}

/// A node's agent, ready.
pub(crate) fn ready(world: &World, node: u8, options: AgentOptions) -> anyhow::Result<Agent> {
    let mut agent = world.agent(node, options)?;
    agent.wait_ready()?;
    Ok(agent)
}

/// A pod and its application.
pub(crate) struct House {
    pub(crate) actor: Actor,
    pub(crate) pod: Pod,
}

impl House {
    pub(crate) fn new(world: &World, spec: PodSpec) -> anyhow::Result<Self> {
        let pod = world.pod(spec)?;
        Ok(Self { actor: pod.actor()?, pod })
    }

    /// Both its addresses with a port.
    pub(crate) fn both(&self, port: u16) -> [SocketAddr; 2] {
        [self.pod.at(port), self.pod.at_v6(port)]
    }

    /// Echoes on a port, in both families.
    pub(crate) fn echo(&self, port: u16) -> anyhow::Result<Listener<'_>> {
        self.actor.listen(any(port), Behaviour::Echo).with_context(|| format!("port {port}"))
    }
}

/// Options of an attempt that must not take long.
pub(crate) fn brief() -> ConnectOptions {
    ConnectOptions { timeout_ms: PATIENCE_MS, ..ConnectOptions::default() }
}

/// Sends the greeting and gets it back; the connection that it came over.
pub(crate) fn reach(
    client: &Actor,
    target: SocketAddr,
    options: ConnectOptions,
) -> anyhow::Result<Connection<'_>> {
    let connection = client.connect_with(target, options)?;
    match converse(&connection) {
        Ok(()) => Ok(connection),
        Err(error) => {
            connection.reset()?;
            Err(error)
        }
    }
}

fn converse(connection: &Connection<'_>) -> anyhow::Result<()> {
    connection.send(GREETING)?;
    let all = Amount::Exactly(tests::length(GREETING.len()));
    let (answer, _) = connection.receive_within(all, PATIENCE)?;
    ensure!(answer == GREETING, "the answer is {answer:?}");
    Ok(())
}

/// Whether a client gets an answer, whatever became of the connection else.
pub(crate) fn answered(client: &Actor, target: SocketAddr, options: ConnectOptions) -> bool {
    match reach(client, target, options) {
        Ok(connection) => {
            // What matters is known; the close of a reset connection may fail.
            let _ = connection.close();
            true
        }
        Err(_) => false,
    }
}

/// A counter of a pod's programs.
pub(crate) fn counter(agent: &Agent, pod: &Pod, name: &str) -> anyhow::Result<u64> {
    let pods = agent.pods()?;
    let found = pods.iter().find(|found| found.uid == pod.uid()).context("not enrolled")?;
    found.counters.get(name).copied().with_context(|| format!("no counter {name}"))
}

/// The mesh with a policy that lets nobody into namespace `shop`.
pub(crate) fn deny_all(mesh: Mesh) -> Mesh {
    mesh.policy("name: nobody\nnamespace: shop\nscope: Namespace\naction: Allow\nrules: []\n")
}

/// An address without the v4-mapped form.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
