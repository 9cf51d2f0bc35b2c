//! The cluster itself, and the product on it: what every other test takes for granted.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tests::{Kubernetes, Room, SYSTEM, eventually};

use crate::stage::{SETTLE, START, at, installed};

/// Where the bundle of roots is in every namespace.
const BUNDLE: &str = "istio-ca-root-cert";

#[test]
fn a_cluster_has_ready_nodes_and_pods_that_talk() -> anyhow::Result<()> {
    let cluster = Kubernetes::shared()?;
    println!("nodes Ready after {:.1} s", cluster.ready_after().as_secs_f64());
    cluster.wait_for_pods("kube-system", "k8s-app=kube-dns", 1, START)?;
    for node in cluster.nodes() {
        let kubelet = node.shell("cat /sys/fs/cgroup/kubelet/cgroup.procs")?;
        ensure!(kubelet.lines().count() == 1, "the kubelet is not alone: {kubelet}");
    }
    let room = Room::new(cluster, "plain", false)?;
    let server = room.pod("server", "node1")?;
    room.pod("client", "node2")?;
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: NAMESPACE}\n\
                   spec: {selector: {app: server}, ports: [{port: 80, targetPort: http}]}\n";
    room.apply(service)?;
    let by_address = room.ask("client", &at(&server, 8080), 5)?;
    ensure!(by_address["failed"] == 0, "{by_address}");
    eventually("the service answers by its name", SETTLE, || {
        let answer = room.ask("client", "web.plain.svc.cluster.local:80", 1)?;
        Ok((answer["answered"] == 1).then_some(()))
    })
}

#[test]
fn a_node_that_loses_its_power_comes_back_with_its_pods() -> anyhow::Result<()> {
    let cluster = Kubernetes::shared()?;
    let node = cluster.node("node2")?;
    let room = Room::new(cluster, "rebooted", false)?;
    let before = room.pod("server", node.name())?;
    let start = Instant::now();
    node.reboot()?;
    let restarts = |count: u64| {
        eventually("the pod runs again", Duration::from_mins(1), || {
            let pod = cluster.get("pod", room.name(), "server")?.context("the pod is gone")?;
            let status = &pod["status"]["containerStatuses"][0];
            let again = status["restartCount"].as_u64() >= Some(count) && status["ready"] == true;
            Ok(again.then_some(pod))
        })
    };
    let after = restarts(1)?;
    println!("a pod is Ready {:.1} s after the power went", start.elapsed().as_secs_f64());
    ensure!(after["metadata"]["uid"] == before["metadata"]["uid"], "it is another pod");
    Ok(())
}

#[test]
fn helm_installs_a_product_that_is_well() -> anyhow::Result<()> {
    let start = Instant::now();
    let cluster = installed()?;
    println!("installed and Ready after {:.1} s", start.elapsed().as_secs_f64());
    let status = cluster.kubectl([
        "-n",
        SYSTEM,
        "exec",
        "deployment/control-plane",
        "--",
        "/usr/local/bin/warren",
        "cp",
        "status",
    ]);
    let status = status.context("the control plane is not well")?;
    ensure!(status.contains("kubernetes"), "{status}");
    let bundle = eventually("the roots are in every namespace", SETTLE, || {
        cluster.get("configmap", "default", BUNDLE)
    })?;
    let text = bundle["data"]["root-cert.pem"].as_str().unwrap_or_default();
    ensure!(text.contains("BEGIN CERTIFICATE"), "{bundle}");
    for node in cluster.nodes() {
        // DNS may just be coming back from a reboot.
        eventually("the agent is well", START, || {
            let said = cluster.warren(node.name(), &["status"])?;
            Ok(said.contains(node.name()).then_some(()))
        })?;
    }
    Ok(())
}
