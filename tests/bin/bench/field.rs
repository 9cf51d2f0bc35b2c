//! The pods between which load runs: a pair each for direct and for Warren, near and far.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tests::protocol::Request;
use tests::{Actor, Agent, AgentOptions, Mesh, Pending, Pod, PodSpec, World, binaries, eventually};

use crate::case::{Case, Figures, Place, Way};

const PORT: u16 = 9000;
/// Until a server listens.
const START_TIMEOUT: Duration = Duration::from_secs(5);

/// Clients, and where their servers are.
pub(crate) struct Field {
    load: PathBuf,
    congestion: String,
    direct: Lane,
    warren: Lane,
    agents: [Agent; 2],
}

struct Lane {
    client: Actor,
    near: SocketAddr,
    far: SocketAddr,
    /// Dropping an actor ends what runs in it only with the world; the answers never come.
    _servers: Vec<(Actor, Pending)>,
}

impl Field {
    /// Makes pods, agents and servers. The direct pods stay outside the mesh.
    pub(crate) fn set(world: &World, congestion: &str) -> anyhow::Result<Self> {
        let load = binaries()?.join("load");
        let lane = |name: &str| -> anyhow::Result<[Pod; 3]> {
            let spec = |node, part| {
                let spec = PodSpec::new(node, &format!("{name}-{part}"));
                if name == "direct" { spec.outside() } else { spec }
            };
            Ok([
                world.pod(spec(1, "client"))?,
                world.pod(spec(1, "near"))?,
                world.pod(spec(2, "far"))?,
            ])
        };
        let (direct, warren) = (lane("direct")?, lane("warren")?);
        // One ALLOW policy, so that each connection is judged by a rule.
        let mesh = Mesh::new().workloads(direct.iter().chain(&warren));
        world.set_mesh(&mesh.allow("shop", "bench", &[&warren[0].identity()]))?;
        let options = || {
            let options = AgentOptions::default().set("WARREN_TCP_CONGESTION", congestion);
            // An access-log line for each connection is part of the work.
            options.set("RUST_LOG", "info")
        };
        let mut agents = [world.agent(1, options())?, world.agent(2, options())?];
        for agent in &mut agents {
            agent.wait_ready()?;
        }
        for pod in &warren {
            let agent = if pod.node() == 1 { &agents[0] } else { &agents[1] };
            agent.enrol(pod)?;
        }
        let field = |pods: &[Pod; 3]| Lane::set(pods, &load, congestion);
        let (direct, warren) = (field(&direct)?, field(&warren)?);
        Ok(Self { load, congestion: congestion.to_owned(), direct, warren, agents })
    }

    /// Runs one load.
    pub(crate) fn measure(
        &self,
        place: Place,
        case: &Case,
        way: Way,
        seconds: f64,
    ) -> anyhow::Result<Figures> {
        let lane = match way {
            Way::Direct => &self.direct,
            Way::Warren => &self.warren,
        };
        let target = match place {
            Place::SameNode => lane.near,
            Place::CrossNode => lane.far,
        };
        let command = format!(
            "{} drive {target} --mode {} --connections {} --seconds {seconds} --congestion {}",
            self.load.display(),
            case.mode,
            case.connections,
            self.congestion,
        );
        let (cpu, start) = (self.agents_cpu_seconds()?, Instant::now());
        let (status, output, errors) = lane.client.shell(&command)?;
        ensure!(status == 0, "{command} ended with {status}: {errors}");
        let figures: Figures =
            serde_json::from_str(&output).with_context(|| format!("read {output:?}"))?;
        Ok(Figures {
            agents_cpu_seconds: self.agents_cpu_seconds()? - cpu,
            elapsed_seconds: start.elapsed().as_secs_f64(),
            ..figures
        })
    }

    /// User and system time of both agents, from their cgroups.
    fn agents_cpu_seconds(&self) -> anyhow::Result<f64> {
        let mut seconds = 0.0;
        for agent in &self.agents {
            let path = agent.node().cgroup().join("agent/cpu.stat");
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            let usage = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
            let usage: f64 = usage.context("no usage_usec")?.trim().parse()?;
            seconds += usage / 1e6;
        }
        Ok(seconds)
    }
}

impl Lane {
    fn set(pods: &[Pod; 3], load: &std::path::Path, congestion: &str) -> anyhow::Result<Self> {
        let [client, near, far] = pods;
        let mut servers = Vec::new();
        for pod in [near, far] {
            let actor = pod.actor()?;
            let address = SocketAddr::from(([0, 0, 0, 0], PORT));
            let program = load.display();
            let command = format!("exec {program} serve {address} --congestion {congestion}");
            let running = actor.begin(Request::Shell { command });
            servers.push((actor, running));
        }
        let client = client.actor()?;
        for target in [near.at(PORT), far.at(PORT)] {
            eventually(&format!("{target} answers"), START_TIMEOUT, || {
                let connection = client.connect(target)?;
                let answer = connection.send(b"r").and_then(|()| connection.exchange(&[b'x'; 64]));
                connection.close()?;
                Ok((answer?.len() == 64).then_some(()))
            })?;
        }
        Ok(Self { client, near: near.at(PORT), far: far.at(PORT), _servers: servers })
    }
}
