//! What a test plays on: two nodes with an agent each, and pods that joined the mesh or did not.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use tests::{
    AccessLine, Actor, Agent, AgentOptions, Connection, LogMark, Mesh, Pod, PodSpec, World,
    eventually,
};

/// Until a flow, a log line or a counter is there, or a new mesh is in force.
pub(crate) const SOON: Duration = Duration::from_secs(5);

/// A pod and its part.
pub(crate) struct Cast {
    spec: PodSpec,
    in_mesh_file: bool,
    enrolled: bool,
}

/// A pod of the mesh.
pub(crate) fn enrolled(spec: PodSpec) -> Cast {
    Cast { spec, in_mesh_file: true, enrolled: true }
}

/// The mesh file says HBONE, but no agent has the pod: the test itself speaks for it.
pub(crate) fn bare(spec: PodSpec) -> Cast {
    Cast { spec, in_mesh_file: true, enrolled: false }
}

/// Known to the mesh file as a plain workload.
pub(crate) fn plain(spec: PodSpec) -> Cast {
    Cast { spec: spec.outside(), in_mesh_file: true, enrolled: false }
}

/// Nothing in the mesh file names it.
pub(crate) fn stranger(spec: PodSpec) -> Cast {
    Cast { spec: spec.outside(), in_mesh_file: false, enrolled: false }
}

/// Agents before the world: they end before what they run in is removed.
pub(crate) struct Stage {
    agents: Vec<Agent>,
    cast: Vec<(Cast, Pod)>,
    pub(crate) world: World,
}

impl Stage {
    /// Sets the stage and runs a test on it. A failed check panics while the agents still stand, so
    /// that the ends of their logs are printed.
    pub(crate) fn play(
        options: &AgentOptions,
        cast: impl IntoIterator<Item = Cast>,
        mesh: impl FnOnce(&Self) -> Mesh,
        test: impl FnOnce(&mut Self) -> anyhow::Result<()>,
    ) {
        let world = World::new(2).expect("a world is made");
        let mut stage = Self { agents: Vec::new(), cast: Vec::new(), world };
        let result = stage.set(options, cast, mesh).and_then(|()| test(&mut stage));
        assert!(result.is_ok(), "{:?}", result.err());
    }

    fn set(
        &mut self,
        options: &AgentOptions,
        cast: impl IntoIterator<Item = Cast>,
        mesh: impl FnOnce(&Self) -> Mesh,
    ) -> anyhow::Result<()> {
        for part in cast {
            let pod = self.world.pod(part.spec.clone())?;
            self.cast.push((part, pod));
        }
        self.world.set_mesh(&mesh(self))?;
        for node in [1, 2] {
            self.agents.push(self.world.agent(node, options.clone())?);
        }
        for agent in &mut self.agents {
            agent.wait_ready()?;
        }
        for (_, pod) in self.cast.iter().filter(|(part, _)| part.enrolled) {
            let enrolled = self.agent_of(pod).enrol(pod)?;
            ensure!(enrolled.state == admin::PodState::Verified, "{enrolled:?}");
        }
        Ok(())
    }

    /// A pod by name.
    pub(crate) fn pod(&self, name: &str) -> &Pod {
        let found = self.cast.iter().find(|(_, pod)| pod.name() == name);
        &found.expect("the pod is in the cast").1
    }

    /// The agent of a node, counted from 1.
    pub(crate) fn agent(&self, node: u8) -> &Agent {
        let found = self.agents.iter().find(|agent| agent.node().number() == node);
        found.expect("each node has an agent")
    }

    /// The same, to start and stop it.
    pub(crate) fn agent_mut(&mut self, node: u8) -> &mut Agent {
        let found = self.agents.iter_mut().find(|agent| agent.node().number() == node);
        found.expect("each node has an agent")
    }

    /// The agent of a pod's node.
    pub(crate) fn agent_of(&self, pod: &Pod) -> &Agent {
        self.agent(pod.node())
    }

    /// A mesh with everybody whom the mesh file knows.
    pub(crate) fn mesh(&self) -> Mesh {
        Mesh::new()
            .workloads(self.cast.iter().filter(|(part, _)| part.in_mesh_file).map(|(_, pod)| pod))
    }

    /// Puts a new mesh in force on all nodes.
    pub(crate) fn change_mesh(&self, text: &str) -> anyhow::Result<()> {
        let loaded = |agent: &Agent| agent.status().map(|status| status.config.loaded_unix_ms);
        let before: Vec<_> = self.agents.iter().map(loaded).collect::<Result<_, _>>()?;
        self.world.set_mesh_text(text)?;
        for (agent, before) in self.agents.iter().zip(before) {
            eventually("the new mesh is in force", SOON, || {
                Ok((loaded(agent)? != before).then_some(()))
            })?;
        }
        Ok(())
    }

    /// Looks at what an agent reports from now on.
    pub(crate) fn watch(&self, node: u8) -> anyhow::Result<Watch<'_>> {
        let agent = self.agent(node);
        Ok(Watch { agent, mark: agent.log_mark(), metrics: agent.metrics()? })
    }
}

/// What an agent reports of a connection: the access log, the flows and the counters must agree.
pub(crate) struct Watch<'a> {
    agent: &'a Agent,
    mark: LogMark,
    metrics: String,
}

impl Watch<'_> {
    /// Waits for the report of one connection, and checks it in all three places.
    pub(crate) fn outcome(
        &self,
        code: &str,
        matches: impl Fn(&AccessLine) -> bool,
    ) -> anyhow::Result<AccessLine> {
        let line = self.agent.wait_access(self.mark, code, &matches)?;
        ensure!(line.code == code, "the code is not {code}: {line:?}");
        eventually("a flow tells the same", SOON, || {
            let flows = self.agent.flows()?;
            let same = flows.into_iter().find(|flow| {
                let text = |address: Option<SocketAddr>| {
                    address.map_or_else(String::new, |address| address.to_string())
                };
                flow.code == code
                    && text(flow.source.address) == line.source
                    && text(flow.destination.address) == line.destination
                    && flow.path.as_str() == line.path
                    && flow.source.identity.clone().unwrap_or_default() == line.source_identity
                    && flow.destination.identity.clone().unwrap_or_default()
                        == line.destination_identity
                    && flow.policy.clone().unwrap_or_default() == line.policy
                    && flow.detail.clone().unwrap_or_default() == line.error
                    && (flow.bytes_received, flow.bytes_sent) == (line.bytes_recv, line.bytes_sent)
            });
            Ok(same.map(|_| ()))
        })
        .with_context(|| format!("{line:?}"))?;
        let labels = [
            format!("direction=\"{}\"", line.direction),
            format!("path=\"{}\"", line.path),
            format!("code=\"{code}\""),
        ];
        let labels: Vec<_> = labels.iter().map(String::as_str).collect();
        let now = self.agent.metrics()?;
        let rise = sum(&now, CONNECTIONS, &labels) - sum(&self.metrics, CONNECTIONS, &labels);
        ensure!(rise >= 1.0, "{CONNECTIONS} {labels:?} did not rise");
        Ok(line)
    }

    /// How much a metric rose since the beginning.
    pub(crate) fn rise(&self, name: &str, labels: &[&str]) -> anyhow::Result<f64> {
        Ok(sum(&self.agent.metrics()?, name, labels) - sum(&self.metrics, name, labels))
    }
}

const CONNECTIONS: &str = "warren_connections_total";

/// The sum of the series of a metric whose line holds all labels.
fn sum(metrics: &str, name: &str, labels: &[&str]) -> f64 {
    let series = metrics.lines().filter(|line| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|label| line.contains(label))
    });
    series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// `[::]` with a port: serves both families.
pub(crate) fn any(port: u16) -> SocketAddr {
    SocketAddr::from(([0_u16; 8], port))
}

/// That a connection to `target` gives a reset, never a byte nor an orderly end. Its own address.
pub(crate) fn is_reset(client: &Actor, target: SocketAddr) -> anyhow::Result<()> {
    match client.connect(target) {
        // The reset came before the client looked at its socket.
        Err(failure) => expect_reset(Err::<(), _>(failure)),
        Ok(connection) => ends_with_reset(&connection),
    }
}

/// That an open connection is reset by the other side.
pub(crate) fn ends_with_reset(connection: &Connection<'_>) -> anyhow::Result<()> {
    expect_reset(connection.receive_all())
}

fn expect_reset<T: Debug>(result: Result<T, tests::Failure>) -> anyhow::Result<()> {
    match result {
        Ok(data) => anyhow::bail!("an orderly end after {data:?} instead of a reset"),
        Err(failure) => {
            let reset = failure.errno == Some(libc::ECONNRESET);
            ensure!(reset, "not a reset: {failure}");
            Ok(())
        }
    }
}

/// That a connection to an echo server works both ways.
pub(crate) fn echoes(client: &Actor, target: SocketAddr) -> anyhow::Result<()> {
    let connection = client.connect(target)?;
    let answer = connection.exchange(b"are you there?")?;
    ensure!(answer == b"are you there?", "another answer: {answer:?}");
    connection.shutdown_write()?;
    ensure!(connection.receive_all()?.is_empty(), "more than the echo");
    connection.close()?;
    Ok(())
}
