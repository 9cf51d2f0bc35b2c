//! A mode of capture that nodes would not choose by themselves, for pods that Kubernetes enrols.

use anyhow::ensure;
use serde_json::Value;
use tests::{Asking, Kubernetes, Room, eventually};

use crate::agents::QUESTIONS;
use crate::stage::{CAPTURED, SETTLE, START, all_answered, at, installed};
use crate::stranger::Stranger;

/// Pods that the hooks on the root have captured, and questions that one asks the other all the while.
struct Captured {
    server: Value,
    client: Value,
    late: Value,
    questions: Asking,
}

#[test]
fn hooks_on_the_root_capture_what_kubernetes_says_and_give_it_back() -> anyhow::Result<()> {
    let cluster = installed()?;
    let room = Room::new(cluster, "rooted", false)?;
    let stranger = Stranger::new(cluster, "unrooted", "node2")?;
    let forced = cluster.upgrade_product(&["--set=agent.redirection=ebpf-root"]);
    let captured = forced.and_then(|()| capture(cluster, &room, &stranger));
    // Others follow in this cluster.
    cluster.upgrade_product(&[])?;
    let Captured { server, client, late, questions } = captured?;

    cluster.wait_until_captured(&[&server, &client, &late], START)?;
    is_so(cluster, ("ebpf", "POD_CGROUPS"), false)?;
    let report = questions.end()?;
    println!("questions while pods were moved: {report}");
    all_answered(&report)?;
    all_answered(&room.ask("late", &at(&client, 8080), 5)?)?;
    stranger.let_in(&room, &at(&server, 8080))
}

fn capture(cluster: &Kubernetes, room: &Room<'_>, stranger: &Stranger) -> anyhow::Result<Captured> {
    let server = room.pod("server", "node1")?;
    let client = room.pod("client", "node2")?;
    let target = at(&server, 8080);
    is_so(cluster, ("ebpf-root", "FORCED"), false)?;

    room.label(true)?;
    let took = cluster.wait_until_captured(&[&server, &client], CAPTURED)?;
    println!("captured by hooks on the root {:.1} s after the label", took.as_secs_f64());
    is_so(cluster, ("ebpf-root", "FORCED"), true)?;
    let questions = room.start_asking("client", &target, QUESTIONS)?;
    stranger.shut_out(room, &target)?;
    all_answered(&room.ask("client", &target, 20)?)?;
    let flows = cluster.warren("node1", &["flows"])?;
    let seen = flows.contains("hbone") && flows.contains("rooted/client@");
    ensure!(seen, "the client was not seen by name: {flows}");

    // The plugin holds a new one until it is captured; then it is Ready, so its probe passes.
    let late = room.pod("late", "node1")?;
    let state = cluster.state_of(&late)?.unwrap_or_default();
    ensure!(state["source"] == "cni", "it ran before it was captured: {state}");
    all_answered(&room.ask("late", &at(&client, 8080), 5)?)?;
    all_answered(&room.ask("client", &at(&late, 8080), 5)?)?;
    stranger.is_refused(&at(&late, 8080))?;
    Ok(Captured { server, client, late, questions })
}

/// What every agent says of its mode, and what is on the root of every node.
fn is_so(
    cluster: &Kubernetes,
    (mode, code): (&str, &str),
    on_the_root: bool,
) -> anyhow::Result<()> {
    for node in cluster.nodes() {
        let status = cluster.warren_json(node.name(), &["status"])?;
        ensure!(status["mode"] == mode && status["mode_code"] == code, "{}: {status}", node.name());
        // Pods of tests before may be about to go.
        eventually(
            &format!("hooks are on the root of {}: {on_the_root}", node.name()),
            SETTLE,
            || {
                let hooks = node.shell("find /sys/fs/bpf/warren -name 'root_link_*'")?;
                Ok((hooks.is_empty() != on_the_root).then_some(()))
            },
        )?;
    }
    Ok(())
}
