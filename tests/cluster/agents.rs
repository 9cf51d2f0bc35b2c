//! Agents that are replaced, killed, or without a control plane, while pods talk.

use std::process::Child;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use tests::{Kubernetes, Room, SYSTEM};

use crate::stage::{CAPTURED, START, STRICT, all_answered, at, installed};

/// Questions under way while something happens, and the time between two: 20 s.
const QUESTIONS: (&str, &str) = ("1000", "20");

/// Two pods on two nodes, captured.
fn pair(cluster: &'static Kubernetes, name: &str) -> anyhow::Result<(Room<'static>, Value, Value)> {
    let room = Room::new(cluster, name, true)?;
    let server = room.pod("server", "node1")?;
    let client = room.pod("client", "node2")?;
    cluster.wait_until_captured(&[&server, &client], CAPTURED)?;
    Ok((room, server, client))
}

/// Starts questions that go on for a while.
fn asking(cluster: &Kubernetes, room: &Room<'_>, target: &str) -> anyhow::Result<Child> {
    let (count, every) = QUESTIONS;
    let command = ["/bin/pod", "ask", target, "--count", count, "--every", every];
    cluster.start_exec(room.name(), "client", &command)
}

/// What they came to.
fn asked(child: Child) -> anyhow::Result<Value> {
    let output = child.wait_with_output().context("wait for questions")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "asking failed: {complaint}");
    serde_json::from_slice(&output.stdout).context("read a report")
}

#[test]
fn a_rollout_of_the_agents_fails_no_new_connection_and_cuts_no_open_one() -> anyhow::Result<()> {
    let cluster = installed()?;
    let (room, server, client) = pair(cluster, "rollout")?;
    let held = room.hold("client", &at(&server, 9090), 15)?;
    let questions = asking(cluster, &room, &at(&server, 8080))?;
    cluster.kubectl(["-n", SYSTEM, "rollout", "restart", "daemonset/ztunnel"])?;
    cluster.wait_for_rollout(SYSTEM, "daemonset/ztunnel", START * 2)?;
    let report = asked(questions)?;
    println!("questions during a rollout: {report}");
    all_answered(&report)?;
    held.end()?;
    cluster.wait_until_captured(&[&server, &client], CAPTURED)?;
    Ok(())
}

#[test]
fn an_upgrade_of_the_product_fails_no_new_connection() -> anyhow::Result<()> {
    let cluster = installed()?;
    let (room, server, client) = pair(cluster, "upgraded")?;
    let questions = asking(cluster, &room, &at(&server, 8080))?;
    // Another revision of everything: both are started anew.
    let changes = ["--set=controlPlane.env.UPGRADED=1", "--set=agent.env.UPGRADED=1"];
    let upgraded = cluster.upgrade_product(&changes);
    let report = asked(questions)?;
    upgraded?;
    println!("questions during an upgrade: {report}");
    all_answered(&report)?;
    cluster.wait_until_captured(&[&server, &client], CAPTURED)?;
    cluster.helm(["rollback", "warren", "--namespace", SYSTEM, "--wait", "--timeout=120s"])?;
    cluster.wait_for_rollout(SYSTEM, "daemonset/ztunnel", START)?;
    all_answered(&room.ask("client", &at(&server, 8080), 5)?)
}

#[test]
fn a_killed_agent_lets_nothing_past_and_takes_its_pods_back() -> anyhow::Result<()> {
    let cluster = installed()?;
    let (room, server, client) = pair(cluster, "killed")?;
    let stranger = Room::new(cluster, "stranger", false)?;
    stranger.pod("stranger", "node2")?;
    room.apply(STRICT)?;
    let target = at(&server, 8080);
    std::thread::sleep(Duration::from_secs(2));
    let killed = cluster.node("node1")?.kill_container("ztunnel")?;
    ensure!(killed == 1, "{killed} agents were killed");
    // Whatever is asked while it is away is not answered in plaintext.
    let report = stranger.ask("stranger", &target, 3)?;
    ensure!(report["answered"] == 0, "plaintext passed while the agent was away: {report}");
    cluster.wait_for_rollout(SYSTEM, "daemonset/ztunnel", START)?;
    cluster.wait_until_captured(&[&server, &client], CAPTURED)?;
    all_answered(&room.ask("client", &target, 10)?)
}

#[test]
fn without_a_control_plane_pods_go_on() -> anyhow::Result<()> {
    let cluster = installed()?;
    let (room, server, _) = pair(cluster, "alone")?;
    let target = at(&server, 8080);
    let scale = |replicas: &str| {
        let replicas = format!("--replicas={replicas}");
        cluster.kubectl(["-n", SYSTEM, "scale", "deployment/control-plane", &replicas])
    };
    scale("0")?;
    let asked = (|| {
        cluster.kubectl([
            "-n",
            SYSTEM,
            "wait",
            "pod",
            "-l",
            "app=control-plane",
            "--for=delete",
            "--timeout=60s",
        ])?;
        all_answered(&room.ask("client", &target, 20)?)
    })();
    scale("2")?;
    cluster.wait_for_rollout(SYSTEM, "deployment/control-plane", START)?;
    asked
}
