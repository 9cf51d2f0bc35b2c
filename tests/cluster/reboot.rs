//! A node that reboots while its agent is held back: what its pods of the mesh do meanwhile, and what
//! passes on the wire.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::Value;
use tests::{Capture, KubeNode, Kubernetes, Room, SYSTEM};

use crate::stage::{CAPTURED, START, all_answered, at, installed};

/// The agent's image, which a node without it cannot start the agent from.
const IMAGE: &str = "ghcr.io/warren-mesh/ztunnel:0.1.0";
/// How long the agent is held back.
const HELD_BACK: Duration = Duration::from_secs(30);
/// Where the mesh's own bytes go.
const HBONE: u16 = 15008;
/// What every question of a pod begins with, once it is readable.
const QUESTION: &[u8] = b"GET / HTTP/1.1";
/// A namespace that the charts exclude: its pods start without an agent.
const PASSING: &str = "kube-system";
/// Between two looks at pods.
const LOOK: Duration = Duration::from_millis(500);

#[test]
fn after_a_reboot_no_pod_of_the_mesh_runs_or_speaks_before_its_agent() -> anyhow::Result<()> {
    let cluster = installed()?;
    let room = Room::new(cluster, "rebooting", true)?;
    let outside = Room::new(cluster, "unprotected", false)?;
    let server = room.pod("server", "node1")?;
    let client = room.pod("client", "node2")?;
    outside.pod("stranger", "node1")?;
    cluster.wait_until_captured(&[&server, &client], CAPTURED)?;
    let node = cluster.node("node2")?;

    let wire = cluster.sniff()?;
    // The wire is looked at where bytes would be seen.
    all_answered(&outside.ask("stranger", &at(&client, 8080), 1)?)?;
    ensure!(wire.look(|seen| seen.tcp_payload_contains(QUESTION)), "no plaintext is seen at all");
    let asked = ["/bin/pod", "ask", &at(&client, 8080), "--count", "200", "--every", "200"];
    let mut questions = cluster.start_exec(room.name(), "server", &asked)?;
    let held = (|| {
        hold_back(node)?;
        node.reboot()?;
        let inside = node.sniff()?;
        hold(cluster, &room, node, &at(&server, 8080))?;
        anyhow::Ok(inside)
    })();
    release(cluster, node)?;
    let remove = ["delete", "pod", "passing", "--ignore-not-found", "--wait=false"];
    cluster.kubectl(["-n", PASSING].into_iter().chain(remove))?;
    let inside = held?;

    let before = client;
    let client = ready_inside(cluster, &room, "client", 1)?;
    let eager = ready_inside(cluster, &room, "eager", 0)?;
    cluster.wait_until_captured(&[&client, &eager], CAPTURED)?;
    all_answered(&room.ask("client", &at(&server, 8080), 5)?)?;
    all_answered(&room.ask("server", &at(&client, 8080), 5)?)?;
    // The node is looked at where bytes would be seen, too.
    all_answered(&outside.ask("stranger", &at(&client, 8080), 1)?)?;
    ensure!(inside.look(|seen| seen.tcp_payload_contains(QUESTION)), "no plaintext is seen there");
    // They go to an address that nobody may have any more.
    questions.kill().context("end the questions")?;
    questions.wait().context("wait for questions")?;
    let pods = addresses([&server, &before, &client, &eager])?;
    for (place, capture) in [("the wire", wire.stop()?), ("the node", inside.stop()?)] {
        check(&capture, &pods).with_context(|| format!("on {place}"))?;
    }
    Ok(())
}

/// The agent cannot start again on a node until it is released.
fn hold_back(node: &KubeNode) -> anyhow::Result<()> {
    node.shell(&format!("ctr --namespace k8s.io images remove --sync {IMAGE}")).map(drop)
}

/// No pod of the mesh runs meanwhile, neither one that was there nor a new one that asks at once.
fn hold(
    cluster: &Kubernetes,
    room: &Room<'_>,
    node: &KubeNode,
    target: &str,
) -> anyhow::Result<()> {
    cluster.wait_until_ready(node)?;
    room.apply(&eager(target))?;
    cluster.apply(&passing(node))?;
    let deadline = Instant::now() + HELD_BACK;
    while Instant::now() < deadline {
        for (name, restarts) in [("client", 1), ("eager", 0)] {
            let pod = cluster.get("pod", room.name(), name)?.context("the pod is gone")?;
            let running = runs(&pod, restarts);
            ensure!(!running, "{name} runs without an agent on its node: {}", pod["status"]);
        }
        std::thread::sleep(LOOK);
    }
    // The agent is what they lack: one that needs none has started meanwhile.
    cluster.wait_for_pods(PASSING, "app=passing", 1, LOOK)?;
    let why = cluster.events(room.name());
    ensure!(why.contains("AGENT_AWAY"), "{why}");
    Ok(())
}

/// Whether the container of a pod has started again so many times, and runs. What the API says of the time
/// before a reboot is no news: the kubelet has not spoken yet.
fn runs(pod: &Value, restarts: u64) -> bool {
    let status = &pod["status"]["containerStatuses"][0];
    status["restartCount"].as_u64() >= Some(restarts) && !status["state"]["running"].is_null()
}

fn release(cluster: &Kubernetes, node: &KubeNode) -> anyhow::Result<()> {
    let archive = cluster.path().join("images/ztunnel.tar");
    let archive = archive.to_string_lossy().into_owned();
    node.run("ctr", ["--namespace", "k8s.io", "images", "import", &archive])?;
    // The kubelet would try again by itself, after minutes.
    cluster.kubectl(["-n", SYSTEM, "rollout", "restart", "daemonset/ztunnel"])?;
    cluster.wait_for_rollout(SYSTEM, "daemonset/ztunnel", START * 2)
}

/// Waits until a pod is Ready again. From its first moment on it is captured.
pub(crate) fn ready_inside(
    cluster: &Kubernetes,
    room: &Room<'_>,
    name: &str,
    restarts: u64,
) -> anyhow::Result<Value> {
    let deadline = Instant::now() + START * 2;
    loop {
        let pod = cluster.get("pod", room.name(), name)?.context("the pod is gone")?;
        if runs(&pod, restarts) {
            let state = cluster.state_of(&pod)?.unwrap_or_default();
            ensure!(state["state"]["state"] == "verified", "{name} runs, and is {state}");
            if pod["status"]["containerStatuses"][0]["ready"] == true {
                return Ok(pod);
            }
        }
        ensure!(Instant::now() < deadline, "{name} is not Ready: {}", pod["status"]);
        std::thread::sleep(LOOK);
    }
}

/// A pod whose first process asks before it serves.
fn eager(target: &str) -> String {
    let command = format!("/bin/pod ask {target} --count 300 --every 100 & exec /bin/pod serve");
    format!(
        r"apiVersion: v1
kind: Pod
metadata: {{name: eager, namespace: NAMESPACE, labels: {{app: eager}}}}
spec:
  nodeName: node2
  terminationGracePeriodSeconds: 0
  containers:
  - name: pod
    image: warren.test/pod:test
    command: [/bin/sh, -c, {command:?}]
    readinessProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1}}
"
    )
}

/// A pod that needs no agent.
fn passing(node: &KubeNode) -> String {
    format!(
        r"apiVersion: v1
kind: Pod
metadata: {{name: passing, namespace: {PASSING}, labels: {{app: passing}}}}
spec:
  nodeName: {}
  terminationGracePeriodSeconds: 0
  containers:
  - name: pod
    image: warren.test/pod:test
    args: [serve]
",
        node.name()
    )
}

fn addresses<const N: usize>(pods: [&Value; N]) -> anyhow::Result<BTreeSet<IpAddr>> {
    let address = |pod: &Value| {
        let text = pod["status"]["podIP"].as_str().context("a pod without an address")?;
        text.parse().context("read an address")
    };
    pods.into_iter().map(address).collect()
}

/// Between these pods bytes pass as HBONE or not at all; and some did.
fn check(capture: &Capture, pods: &BTreeSet<IpAddr>) -> anyhow::Result<()> {
    ensure!(capture.lost() == 0, "{} frames are missing", capture.lost());
    let between = |from: IpAddr, to: IpAddr| pods.contains(&from) && pods.contains(&to);
    let mut protected = 0_usize;
    for segment in capture.segments().filter(|segment| !segment.payload.is_empty()) {
        if !between(segment.source.ip(), segment.destination.ip()) {
            continue;
        }
        let is_hbone = segment.source.port() == HBONE || segment.destination.port() == HBONE;
        let text = String::from_utf8_lossy(segment.payload);
        ensure!(is_hbone, "{} told {}: {text:?}", segment.source, segment.destination);
        protected += 1;
    }
    for ((from, to), bytes) in capture.streams() {
        let readable = bytes.windows(QUESTION.len()).any(|part| part == QUESTION);
        ensure!(!readable || !between(from.ip(), to.ip()), "{from} asked {to} in plaintext");
    }
    ensure!(protected > 0, "nothing passed between the pods at all");
    println!("{protected} segments between pods of the mesh, all of them HBONE");
    Ok(())
}
