//! What takes long, and is run by the tier `soak` alone: the same promises, under more load and for
//! more times. On two busy cores the label takes 1 minute, the reboots 1, the 10,000 connections 1, and
//! twenty rollouts 11.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tests::{Kubernetes, Questions, SYSTEM, eventually};

use crate::agents::DRAIN;
use crate::reboot::ready_inside;
use crate::stage::{CAPTURED, START, all_answered, at, installed, pair};

/// 400 in a second, and how many of them are asked while agents are replaced.
const MANY: Questions = Questions { at_once: 16, every: Duration::from_millis(40) };
const DURING_A_ROLLOUT: u64 = 10_000;
/// 50 in a second.
const STEADY: Questions = Questions { at_once: 3, every: Duration::from_millis(60) };
/// Connections that are held during the rollout.
const HELD: usize = 8;
const ROLLOUTS: u32 = 20;
const REBOOTS: u64 = 5;
/// For how long a label flips.
const FLIPPING: Duration = Duration::from_mins(1);

fn roll_out(cluster: &Kubernetes) -> anyhow::Result<()> {
    cluster.kubectl(["-n", SYSTEM, "rollout", "restart", "daemonset/ztunnel"])?;
    cluster.wait_for_rollout(SYSTEM, "daemonset/ztunnel", START * 2)
}

#[test]
fn soak_ten_thousand_new_connections_during_a_rollout_and_none_fails() -> anyhow::Result<()> {
    let cluster = installed()?;
    let (room, server, client) = pair(cluster, "ten-thousand")?;
    let hold = |_| room.hold("client", &at(&server, 9090));
    let held = (0..HELD).map(hold).collect::<anyhow::Result<Vec<_>>>()?;
    let questions = room.start_asking("client", &at(&server, 8080), MANY)?;
    let start = Instant::now();
    roll_out(cluster)?;
    // It lasts until those that were replaced are gone.
    eventually("agents that were replaced are gone", START, || {
        let agents = cluster.list("pods", SYSTEM, "app=ztunnel")?;
        Ok((agents.len() == cluster.nodes().len()).then_some(()))
    })?;
    let took = start.elapsed();
    let report = questions.end()?;
    println!("a rollout of {:.1} s, and questions: {report}", took.as_secs_f64());
    all_answered(&report)?;
    let number = |field: &str| report[field].as_u64().unwrap_or_default();
    let rollout = u64::try_from(took.as_millis()).context("a rollout's time")?;
    let during = number("answered") * rollout.min(number("took_ms")) / number("took_ms").max(1);
    ensure!(during >= DURING_A_ROLLOUT, "only {during} fell into the rollout: {report}");
    for connection in held {
        connection.end_after(DRAIN)?;
    }
    cluster.wait_until_captured(&[&server, &client], CAPTURED).map(drop)
}

#[test]
fn soak_twenty_rollouts_in_a_row_under_load() -> anyhow::Result<()> {
    let cluster = installed()?;
    let (room, server, client) = pair(cluster, "twenty")?;
    let (mut answered, start) = (0, Instant::now());
    for number in 1..=ROLLOUTS {
        let held = room.hold("client", &at(&server, 9090))?;
        let questions = room.start_asking("client", &at(&server, 8080), STEADY)?;
        roll_out(cluster).with_context(|| format!("rollout {number}"))?;
        let report = questions.end()?;
        all_answered(&report).with_context(|| format!("rollout {number}"))?;
        held.end_after(DRAIN).with_context(|| format!("rollout {number}"))?;
        answered += report["answered"].as_u64().unwrap_or_default();
    }
    let took = start.elapsed().as_secs_f64();
    println!("{ROLLOUTS} rollouts in {took:.0} s: {answered} questions, none failed");
    cluster.wait_until_captured(&[&server, &client], CAPTURED).map(drop)
}

#[test]
fn soak_a_node_that_reboots_again_and_again_starts_no_pod_outside_of_the_mesh() -> anyhow::Result<()>
{
    let cluster = installed()?;
    let (room, server, _) = pair(cluster, "again")?;
    let node = cluster.node("node2")?;
    for number in 1..=REBOOTS {
        let start = Instant::now();
        node.reboot()?;
        let client = ready_inside(cluster, &room, "client", number)?;
        cluster.wait_until_captured(&[&client], CAPTURED)?;
        all_answered(&room.ask("client", &at(&server, 8080), 20)?)?;
        all_answered(&room.ask("server", &at(&client, 8080), 20)?)?;
        println!("reboot {number}: talking again after {:.1} s", start.elapsed().as_secs_f64());
    }
    Ok(())
}

#[test]
fn soak_a_label_that_flips_for_a_minute_cuts_nothing_and_settles() -> anyhow::Result<()> {
    let cluster = installed()?;
    let (room, server, client) = pair(cluster, "flipping")?;
    let held = room.hold("client", &at(&server, 9090))?;
    let start = Instant::now();
    let mut flips = 0_u32;
    while start.elapsed() < FLIPPING {
        room.label(flips % 2 == 1)?;
        flips += 1;
    }
    room.label(true)?;
    let took = cluster.wait_until_captured(&[&server, &client], CAPTURED)?;
    println!("{flips} flips of the label; captured {:.1} s after the last", took.as_secs_f64());
    all_answered(&room.ask("client", &at(&server, 8080), 50)?)?;
    held.end()
}
