//! Agents that are replaced while pods talk: what becomes of new connections and of open ones.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tests::protocol::{ConnectOptions, Hammer, Request};
use tests::{
    Agent, AgentOptions, Connection, ECHO_PORT, House, Mesh, Pending, PodSpec, World, talk,
};

use super::none_of;
use crate::decisions::Figure;

/// Across nodes and on one, in both directions.
const WAYS: usize = 4;
/// New connections of each.
const EACH: u64 = 2_500;
/// Connections begun each second on each way: it takes long enough for both agents to be replaced, and
/// leaves a machine of two cores room for them to start.
const PER_SECOND: u64 = 125;
/// Open connections of each way.
const HELD: usize = 20;
/// How long an agent that ends gives what is open.
const DRAIN: &str = "30s";
/// From the next agent's start to the end of the change, on a busy machine.
const REPLACED: Duration = Duration::from_secs(30);
/// Before the first agent is replaced.
const BEFORE: Duration = Duration::from_secs(2);

pub(crate) fn figures() -> anyhow::Result<Vec<Figure>> {
    let all = EACH * u64::try_from(WAYS)?;
    println!("{all} new connections while both nodes' agents are replaced …");
    let world = World::new(2)?;
    let house = |node, name| House::new(&world, PodSpec::new(node, name));
    let (web, near, shop) = (house(1, "web")?, house(1, "near")?, house(2, "shop")?);
    world.set_mesh(&Mesh::new().workloads([&web.pod, &near.pod, &shop.pod]))?;
    let options = AgentOptions::default().set("CONNECTION_TERMINATION_DEADLINE", DRAIN);
    let mut agents = Vec::new();
    for node in [1, 2] {
        let mut agent = world.agent(node, options.clone())?;
        agent.wait_ready()?;
        agents.push(agent);
    }
    for (agent, pod) in [(0, &web.pod), (0, &near.pod), (1, &shop.pod)] {
        agents[agent].enrol(pod)?;
    }
    let ways: [_; WAYS] = [(&web, &shop), (&web, &near), (&shop, &near), (&near, &shop)];
    let held: Vec<Connection<'_>> = ways
        .iter()
        .flat_map(|(from, to)| (0..HELD).map(|_| from.connect(to)))
        .collect::<Result<_, _>>()
        .context("open connections to be kept")?;
    let begun = Instant::now();
    let loads: Vec<_> = ways.iter().map(|(from, to)| load(from, to)).collect();
    std::thread::sleep(BEFORE);
    let mut retired = Vec::new();
    for agent in &mut agents {
        let next = replace(&world, agent, &options)?;
        retired.push(std::mem::replace(agent, next));
    }
    let took = begun.elapsed();
    let (mut attempts, mut failures) = (0, Vec::new());
    for load in loads {
        let load = load.hammered()?;
        attempts += load.attempts;
        failures.extend(load.failures);
    }
    let load = Duration::from_secs(EACH / PER_SECOND);
    ensure!(took < load, "both agents were replaced after {took:?}, and the load took {load:?}");
    ensure!(attempts == all, "{attempts} connections were begun");
    let broken = held.iter().filter(|connection| talk(connection, "still there").is_err()).count();
    let failed = failures.iter().map(|(_, count)| count).sum();
    if failed > 0 {
        println!("failures: {failures:?}");
    }
    Ok(vec![
        none_of(&format!("of {attempts} new connections in a rollout, failed"), failed)?,
        none_of(
            &format!("of {} open ones, broken when both agents were replaced", held.len()),
            u64::try_from(broken)?,
        )?,
    ])
}

/// New connections one after another, with a message there and back.
fn load(from: &House, to: &House) -> Pending {
    from.actor.begin(Request::Hammer(Hammer {
        target: to.pod.at(ECHO_PORT),
        options: ConnectOptions::default(),
        connections: EACH,
        duration_ms: 0,
        per_second: PER_SECOND,
        workers: 8,
        message: "in a rollout".to_owned(),
    }))
}

/// Starts another agent beside the one of a node, which gives it its pods and then only serves what it has.
fn replace(world: &World, agent: &Agent, options: &AgentOptions) -> anyhow::Result<Agent> {
    let node = agent.node();
    let mark = agent.log_mark();
    let next = options
        .clone()
        .set("WARREN_TAKE_OVER", "true")
        .set("WARREN_CGROUP", node.cgroup().join("next-agent").display());
    let next = world.agent(node.number(), next)?;
    agent.wait_message(mark, "giving the pods to the next agent", REPLACED)?;
    next.wait_message(mark, "ready", REPLACED)?;
    Ok(next)
}
