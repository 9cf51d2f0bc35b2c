//! Agents that are replaced, killed, or without a control plane, while pods talk.

use std::time::Duration;

use anyhow::{Context, ensure};
use tests::{Questions, SYSTEM};

use crate::stage::{CAPTURED, START, all_answered, at, installed, pair};
use crate::stranger::Stranger;

/// Asked while something happens: 50 in a second.
pub(crate) const QUESTIONS: Questions = Questions { at_once: 4, every: Duration::from_millis(80) };

/// How long an agent that was replaced serves the connections that it has: the charts' 30 s without what
/// it keeps in reserve.
pub(crate) const DRAIN: Duration = Duration::from_secs(25);

#[test]
fn a_rollout_of_the_agents_fails_no_new_connection_and_cuts_no_open_one_early() -> anyhow::Result<()>
{
    let cluster = installed()?;
    let (room, server, client) = pair(cluster, "rollout")?;
    let held = room.hold("client", &at(&server, 9090))?;
    let questions = room.start_asking("client", &at(&server, 8080), QUESTIONS)?;
    cluster.kubectl(["-n", SYSTEM, "rollout", "restart", "daemonset/ztunnel"])?;
    cluster.wait_for_rollout(SYSTEM, "daemonset/ztunnel", START * 2)?;
    let report = questions.end()?;
    println!("questions during a rollout: {report}");
    all_answered(&report)?;
    // The second agent is replaced once the first is gone, and that one waits for this connection.
    held.end_after(DRAIN)?;
    cluster.wait_until_captured(&[&server, &client], CAPTURED)?;
    Ok(())
}

#[test]
fn an_upgrade_of_the_product_fails_no_new_connection() -> anyhow::Result<()> {
    let cluster = installed()?;
    let (room, server, client) = pair(cluster, "upgraded")?;
    let questions = room.start_asking("client", &at(&server, 8080), QUESTIONS)?;
    // Another revision of everything: both are started anew.
    let changes = ["--set=controlPlane.env.UPGRADED=1", "--set=agent.env.UPGRADED=1"];
    let upgraded = cluster.upgrade_product(&changes);
    let captured =
        upgraded.and_then(|()| cluster.wait_until_captured(&[&server, &client], CAPTURED));
    cluster.helm(["rollback", "warren", "--namespace", SYSTEM, "--wait", "--timeout=120s"])?;
    cluster.wait_for_rollout(SYSTEM, "daemonset/ztunnel", START)?;
    captured?;
    let report = questions.end()?;
    println!("questions during an upgrade and its rollback: {report}");
    all_answered(&report)?;
    cluster.wait_until_captured(&[&server, &client], CAPTURED).map(drop)
}

#[test]
fn a_killed_agent_lets_nothing_past_and_takes_its_pods_back() -> anyhow::Result<()> {
    let cluster = installed()?;
    let (room, server, client) = pair(cluster, "killed")?;
    let stranger = Stranger::new(cluster, "stranger", "node2")?;
    let plain = stranger.room().pod("plain", "node1")?;
    let target = at(&server, 8080);
    stranger.shut_out(&room, &target)?;
    let killed = cluster.node("node1")?.kill_container("ztunnel")?;
    ensure!(killed == 1, "{killed} agents were killed");
    // Whatever is asked while it is away is not answered in plaintext, although the way is there.
    stranger.is_refused(&target).context("while the agent was away")?;
    stranger.is_answered(&at(&plain, 8080))?;
    cluster.wait_for_rollout(SYSTEM, "daemonset/ztunnel", START)?;
    cluster.wait_until_captured(&[&server, &client], CAPTURED)?;
    all_answered(&room.ask("client", &target, 10)?)?;
    stranger.let_in(&room, &target)
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
