//! An API server that is away for a while.

use std::time::Duration;

use anyhow::Context;
use serde_json::Value;
use tests::{SYSTEM, eventually};

use crate::reboot::ready_inside;
use crate::stage::{CAPTURED, START, all_answered, at, installed, pair};

/// Until a kubelet has tried to make a sandbox again and was refused.
const REFUSED: Duration = Duration::from_secs(30);

#[test]
fn without_an_api_server_pods_go_on_and_a_new_sandbox_waits_with_a_code() -> anyhow::Result<()> {
    let cluster = installed()?;
    let (room, server, client) = pair(cluster, "cut-off")?;
    let node = cluster.node("node2")?;
    let said = cluster.kubelet_log(node)?.len();
    let outage = cluster.stop_api_server()?;
    let ask = ["/bin/pod", "ask", &at(&server, 8080), "--count", "50"];
    let report: Value =
        serde_json::from_str(&node.exec(&client, &ask)?).context("read a report")?;
    all_answered(&report)?;
    node.kill_sandbox(&client)?;
    eventually("the kubelet is told why it cannot start a pod", REFUSED, || {
        let log = cluster.kubelet_log(node)?;
        Ok(log.get(said..).is_some_and(|log| log.contains("API_AWAY")).then_some(()))
    })?;
    outage.end()?;

    let client = ready_inside(cluster, &room, "client", 1)?;
    cluster.wait_until_captured(&[&server, &client], CAPTURED)?;
    all_answered(&room.ask("client", &at(&server, 8080), 20)?)?;
    // Whatever the outage has cost, both nodes are there.
    for node in cluster.nodes() {
        cluster.wait_until_ready(node)?;
    }
    cluster.wait_for_rollout(SYSTEM, "daemonset/ztunnel", START)
}
