//! What may happen to a node: somebody rewrites its CNI configuration, the product leaves it.

use anyhow::{Context, ensure};
use tests::{Kubernetes, Room, SYSTEM, eventually};

use crate::stage::{CAPTURED, SETTLE, START, all_answered, at, installed, uninstall};

const CONF: &str = "/etc/cni/net.d";

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

#[test]
fn a_folder_of_chains_that_cannot_be_written_is_told_and_then_mended() -> anyhow::Result<()> {
    /// The same folder, where it can be written.
    const WRITABLE: &str = "/run/writable-chains";
    let cluster = installed()?;
    let node = cluster.node("node2")?;
    let restart = || {
        let agent = cluster.pod_on(node.name(), SYSTEM, "app=ztunnel")?;
        cluster.kubectl(["-n", SYSTEM, "delete", "pod", &agent])?;
        cluster.wait_for_rollout(SYSTEM, "daemonset/ztunnel", START)
    };
    node.shell(&format!(
        "mkdir -p {WRITABLE} && mount --bind {CONF} {WRITABLE} && \
         mount --bind {CONF} {CONF} && mount -o remount,bind,ro {CONF}"
    ))?;
    let told = restart().and_then(|()| {
        node.shell(&format!("rm {WRITABLE}/*warren*"))?;
        eventually("the agent says what it cannot do", SETTLE, || {
            // Its exit code says that something is wrong.
            let said = cluster.warren(node.name(), &["status"]);
            let said = said.unwrap_or_else(|error| format!("{error:#}"));
            Ok(said.contains("CNI_CONFLIST_NOT_WRITTEN").then_some(()))
        })
    });
    node.shell(&format!("umount {CONF} && umount {WRITABLE}"))?;
    // The agent's own mount of the folder is as it was when the agent started.
    restart()?;
    told?;
    eventually("our chain is there again", SETTLE, || {
        Ok(node.shell(&format!("cat {CONF}/*warren*")).ok().map(drop))
    })?;
    let room = Room::new(cluster, "mended", true)?;
    let pod = room.pod("server", node.name())?;
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
