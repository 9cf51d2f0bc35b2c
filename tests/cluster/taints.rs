//! The taint of a node whose agent is not verified yet.

use anyhow::{Context, ensure};
use serde_json::Value;
use tests::{Kubernetes, Room, eventually};

use crate::stage::{CAPTURED, SETTLE, START, installed};

/// What the operator gave the node, and what somebody else did.
const OURS: &str = "warren.dev/not-ready";
const THEIRS: &str = "example.com/kept";
/// The account of the agent of a node.
const AGENT: [&str; 3] = [
    "--as=system:serviceaccount:istio-system:ztunnel",
    "--as-group=system:serviceaccounts",
    "--as-group=system:authenticated",
];

/// Keys of a node's taints.
fn taints(cluster: &Kubernetes, node: &str) -> anyhow::Result<Vec<String>> {
    let node = cluster.get("node", "", node)?.context("the node is gone")?;
    let taints = node["spec"]["taints"].as_array().into_iter().flatten();
    Ok(taints.filter_map(|taint| taint["key"].as_str()).map(str::to_owned).collect())
}

/// Changes a node as an agent would; what became of it.
fn patch(cluster: &Kubernetes, of: &str, node: &str, patch: &str) -> anyhow::Result<String> {
    let of = format!("--as-user-extra=authentication.kubernetes.io/node-name={of}");
    let change = ["patch", "node", node, "--type=merge", "-p", patch];
    cluster.kubectl(change.into_iter().chain(AGENT).chain([of.as_str()]))
}

#[test]
fn a_node_takes_pods_once_its_agent_is_verified() -> anyhow::Result<()> {
    let cluster = installed()?;
    let room = Room::new(cluster, "tainted", true)?;
    let (ours, theirs) = (format!("{OURS}=:NoSchedule"), format!("{THEIRS}=:PreferNoSchedule"));
    cluster.kubectl(["taint", "node", "node2", &ours, &theirs])?;
    let outcome = untaint(cluster, &room);
    cluster.kubectl(["taint", "node", "node2", &format!("{THEIRS}-")])?;
    // Fails where the agent has removed it, as it should.
    let _ = cluster.kubectl(["taint", "node", "node2", &format!("{OURS}-")]);
    let restored = cluster.upgrade_product(&["--set=agent.nodeTaint=false"]);
    outcome?;
    restored
}

fn untaint(cluster: &Kubernetes, room: &Room<'_>) -> anyhow::Result<()> {
    room.apply(
        r"apiVersion: v1
kind: Pod
metadata: {name: waiting, namespace: NAMESPACE, labels: {app: waiting}}
spec:
  nodeSelector: {kubernetes.io/hostname: node2}
  terminationGracePeriodSeconds: 0
  containers:
  - name: pod
    image: warren.test/pod:test
    args: [serve]
    readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
",
    )?;
    let pod = || cluster.get("pod", room.name(), "waiting")?.context("the pod is gone");
    eventually("the pod finds no node", SETTLE, || {
        let pod = pod()?;
        ensure!(pod["spec"]["nodeName"].is_null(), "it is on {}", pod["spec"]["nodeName"]);
        let conditions = pod["status"]["conditions"].to_string();
        Ok(conditions.contains("Unschedulable").then_some(()))
    })?;
    // Agents that were not told leave taints alone.
    std::thread::sleep(SETTLE / 4);
    ensure!(taints(cluster, "node2")?.iter().any(|key| key == OURS), "it was removed by itself");
    cluster.upgrade_product(&["--set=agent.nodeTaint=true"])?;
    let pods = cluster.wait_for_pods(room.name(), "app=waiting", 1, START)?;
    cluster.wait_until_captured(&[&pods[0]], CAPTURED)?;
    let left = taints(cluster, "node2")?;
    ensure!(left == [THEIRS], "{left:?}");
    nothing_else_of_a_node(cluster)
}

/// What an agent may not do to nodes, although it has the right to patch them.
fn nothing_else_of_a_node(cluster: &Kubernetes) -> anyhow::Result<()> {
    let refused = [
        ("node1", "node2", r#"{"spec":{"taints":null}}"#, "own node only"),
        ("node2", "node2", r#"{"spec":{"taints":null}}"#, "changes no other"),
        ("node2", "node2", r#"{"metadata":{"labels":{"role":"x"}}}"#, "nothing of a node"),
        ("node2", "node2", r#"{"metadata":{"annotations":{"x":"y"}}}"#, "nothing of a node"),
        ("node2", "node2", r#"{"spec":{"unschedulable":true}}"#, "nothing of a node"),
    ];
    for (of, node, change, reason) in refused {
        // A policy is in force a little after it was made.
        eventually(&format!("the agent of {of} is refused {change}"), SETTLE, || {
            let Err(error) = patch(cluster, of, node, change) else { return Ok(None) };
            let error = format!("{error:#}");
            ensure!(error.contains(reason), "{error}");
            Ok(Some(()))
        })?;
    }
    let node: Value = cluster.get("node", "", "node2")?.context("the node is gone")?;
    ensure!(node["metadata"]["labels"]["role"].is_null(), "{}", node["metadata"]["labels"]);
    Ok(())
}
