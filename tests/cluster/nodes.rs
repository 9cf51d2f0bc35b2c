//! What may happen to a node: it reboots, somebody rewrites its CNI configuration, the product leaves it.

use std::time::Duration;

use anyhow::{Context, ensure};
use tests::{Kubernetes, Room, SYSTEM, eventually};

use crate::stage::{CAPTURED, SETTLE, START, all_answered, at, installed, uninstall};

/// The agent's image, which a node without it cannot start the agent from.
const IMAGE: &str = "ghcr.io/warren-mesh/ztunnel:0.1.0";
/// How long the agent is held back.
const HELD_BACK: Duration = Duration::from_secs(30);
const CONF: &str = "/etc/cni/net.d";

#[test]
fn after_a_reboot_no_pod_of_the_mesh_runs_before_its_agent() -> anyhow::Result<()> {
    let cluster = installed()?;
    let room = Room::new(cluster, "rebooting", true)?;
    let server = room.pod("server", "node1")?;
    let client = room.pod("client", "node2")?;
    cluster.wait_until_captured(&[&server, &client], CAPTURED)?;
    let node = cluster.node("node2")?;
    let outcome = (|| {
        node.shell(&format!("ctr --namespace k8s.io images remove --sync {IMAGE}"))?;
        node.reboot()?;
        cluster.wait_until_ready(node)?;
        let deadline = std::time::Instant::now() + HELD_BACK;
        while std::time::Instant::now() < deadline {
            let pod = cluster.get("pod", room.name(), "client")?.context("the pod is gone")?;
            let status = &pod["status"]["containerStatuses"][0];
            let runs_again = status["restartCount"] != 0 && !status["state"]["running"].is_null();
            ensure!(!runs_again, "a pod runs without an agent on its node: {status}");
            std::thread::sleep(Duration::from_secs(1));
        }
        anyhow::Ok(())
    })();
    let archive = cluster.path().join("images/ztunnel.tar");
    let archive = archive.to_string_lossy().into_owned();
    node.run("ctr", ["--namespace", "k8s.io", "images", "import", &archive])?;
    cluster.kubectl(["-n", SYSTEM, "rollout", "restart", "daemonset/ztunnel"])?;
    cluster.wait_for_rollout(SYSTEM, "daemonset/ztunnel", START * 2)?;
    outcome?;
    let pods = cluster.wait_for_pods(room.name(), "app=client", 1, START * 2)?;
    cluster.wait_until_captured(&[&pods[0]], CAPTURED)?;
    all_answered(&room.ask("client", &at(&server, 8080), 5)?)
}

#[test]
fn a_configuration_that_another_plugin_rewrites_is_repaired() -> anyhow::Result<()> {
    let cluster = installed()?;
    let node = cluster.node("node1")?;
    let first = || node.shell(&format!("cat {CONF}/$(ls {CONF} | grep conf | head -1)"));
    let before = first()?;
    ensure!(before.contains("warren-cni"), "the first chain is not ours: {before}");
    // As an installer of another plugin does, with its own chain before ours and ours gone.
    node.shell(&format!(
        "cp {CONF}/10-bridge.conflist /run/theirs && rm -f {CONF}/*warren* && \
         cp /run/theirs {CONF}/05-theirs.conflist"
    ))?;
    let repaired = eventually("our chain comes first again", SETTLE, || {
        Ok(Some(first()?).filter(|chain| chain.contains("warren-cni")))
    });
    node.shell(&format!("rm -f {CONF}/05-theirs.conflist"))?;
    repaired?;
    let room = Room::new(cluster, "repaired", true)?;
    let pod = room.pod("server", "node1")?;
    cluster.wait_until_captured(&[&pod], CAPTURED).map(drop)
}

/// What the product has on a node, one thing a line.
fn traces(cluster: &Kubernetes) -> anyhow::Result<String> {
    let mut found = String::new();
    for node in cluster.nodes() {
        found.push_str(&node.shell(&format!(
            "find {CONF}/*warren* /opt/cni/bin/*warren* /run/warren /var/lib/warren \
             /sys/fs/bpf/warren 2>/dev/null | sed 's/^/{}: /'; true",
            node.name()
        ))?);
    }
    Ok(found)
}

#[test]
fn uninstalling_leaves_nothing_on_the_nodes_and_pods_go_on() -> anyhow::Result<()> {
    let cluster = installed()?;
    let room = Room::new(cluster, "left", true)?;
    let server = room.pod("server", "node1")?;
    let client = room.pod("client", "node2")?;
    cluster.wait_until_captured(&[&server, &client], CAPTURED)?;
    ensure!(!traces(cluster)?.is_empty(), "what is looked for is not there at all");
    uninstall(cluster)?;
    let mut left = String::new();
    eventually("the nodes are as they were", SETTLE, || {
        left = traces(cluster)?;
        Ok(left.is_empty().then_some(()))
    })
    .with_context(|| format!("left:\n{left}"))?;
    all_answered(&room.ask("client", &at(&server, 8080), 5)?)?;
    // A new pod starts without anybody's help.
    room.pod("late", "node1").map(drop)
}
