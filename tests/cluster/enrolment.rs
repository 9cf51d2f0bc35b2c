//! One label takes a namespace in, and out again.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use tests::{Room, eventually};

use crate::stage::{CAPTURED, START, STRICT, all_answered, at, installed};
use crate::stranger::Stranger;

#[test]
fn a_label_takes_running_pods_in_and_out_without_touching_connections() -> anyhow::Result<()> {
    let cluster = installed()?;
    let room = Room::new(cluster, "labelled", false)?;
    let stranger = Stranger::new(cluster, "outside", "node2")?;
    let server = room.pod("server", "node1")?;
    let client = room.pod("client", "node2")?;
    let (echo, http) = (at(&server, 9090), at(&server, 8080));
    stranger.is_answered(&http)?;

    let held = room.hold("client", &echo)?;
    room.label(true)?;
    let took = cluster.wait_until_captured(&[&server, &client], CAPTURED)?;
    println!("captured {:.1} s after the label", took.as_secs_f64());
    all_answered(&room.ask("client", &http, 20)?)?;
    let flows = cluster.warren("node1", &["flows"])?;
    let seen = flows.contains("hbone") && flows.contains("labelled/client@");
    ensure!(seen, "the client was not seen by name: {flows}");

    // Without a policy plaintext still passes; with one it does not, and the mesh still does.
    stranger.shut_out(&room, &http)?;
    all_answered(&room.ask("client", &http, 20)?)?;

    room.label(false)?;
    cluster.wait_until_released(&[&server, &client], CAPTURED)?;
    stranger.is_answered(&http)?;
    held.end()
}

#[test]
fn a_pod_starts_inside_the_mesh_and_its_first_words_have_its_name() -> anyhow::Result<()> {
    let cluster = installed()?;
    let room = Room::new(cluster, "starting", true)?;
    let stranger = Stranger::new(cluster, "not-starting", "node2")?;
    let server = room.pod("server", "node1")?;
    cluster.wait_until_captured(&[&server], CAPTURED)?;
    let http = at(&server, 8080);
    // Whoever is outside when it speaks is not answered.
    stranger.shut_out(&room, &http)?;
    // The first process of each speaks at once: an init container, a sidecar, a job.
    let ask = format!("/bin/pod ask {http} | grep '\"answered\":1'");
    room.apply(&format!(
        r"apiVersion: batch/v1
kind: Job
metadata: {{name: first-words, namespace: NAMESPACE}}
spec:
  backoffLimit: 0
  template:
    metadata: {{labels: {{app: first-words}}}}
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 0
      nodeName: node2
      initContainers:
      - name: first
        image: warren.test/pod:test
        command: [/bin/sh, -c, {ask:?}]
      - name: beside
        restartPolicy: Always
        image: warren.test/pod:test
        command: [/bin/sh, -c, {beside:?}]
      containers:
      - name: last
        image: warren.test/pod:test
        command: [/bin/sh, -c, {ask:?}]
",
        beside = format!("{ask} && sleep 10000"),
    ))?;
    let mut seen = Value::Null;
    eventually("the job is done", START, || {
        seen = cluster.get("job", room.name(), "first-words")?.context("the job is gone")?;
        ensure!(seen["status"]["failed"].as_u64().unwrap_or(0) == 0, "{}", seen["status"]);
        Ok((seen["status"]["succeeded"] == 1).then_some(()))
    })
    .with_context(|| format!("{}{}", seen["status"], cluster.events(room.name())))?;
    stranger.let_in(&room, &http)
}

#[test]
fn every_kind_of_probe_passes_under_strict() -> anyhow::Result<()> {
    let cluster = installed()?;
    let room = Room::new(cluster, "probed", true)?;
    let stranger = Stranger::new(cluster, "unprobed", "node2")?;
    room.apply(STRICT)?;
    let probes = [
        ("http", "httpGet: {path: /, port: 8080}"),
        ("tcp", "tcpSocket: {port: 9090}"),
        ("exec", "exec: {command: [/bin/true]}"),
        ("grpc", "grpc: {port: 7070}"),
    ];
    for (name, probe) in probes {
        room.apply(&format!(
            r"apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: NAMESPACE, labels: {{app: {name}}}}}
spec:
  nodeName: node1
  terminationGracePeriodSeconds: 0
  containers:
  - name: pod
    image: warren.test/pod:test
    args: [serve]
    startupProbe: {{{probe}, periodSeconds: 1, failureThreshold: 30}}
    readinessProbe: {{{probe}, periodSeconds: 1}}
    livenessProbe: {{{probe}, periodSeconds: 1}}
"
        ))?;
    }
    for (name, _) in probes {
        let selector = format!("app={name}");
        let pods = cluster.wait_for_pods(room.name(), &selector, 1, START)?;
        cluster
            .wait_until_captured(&[&pods[0]], CAPTURED)
            .with_context(|| format!("the pod with the {name} probe"))?;
    }
    // Long enough for a liveness probe that fails to have killed its container.
    std::thread::sleep(Duration::from_secs(6));
    for pod in cluster.list("pods", room.name(), "")? {
        let name = &pod["metadata"]["name"];
        let status = &pod["status"]["containerStatuses"][0];
        ensure!(status["restartCount"] == 0 && status["ready"] == true, "{name}: {status}");
    }
    // Others than the kubelet were refused all the while.
    let http = cluster.get("pod", room.name(), "http")?.context("the pod is gone")?;
    stranger.let_in(&room, &at(&http, 8080))
}
