//! What people run: Deployments behind Services, taken in as they are, and replaced.

use std::time::Instant;

use anyhow::{Context, ensure};
use serde_json::Value;
use tests::{Kubernetes, Room};

use crate::agents::QUESTIONS;
use crate::stage::{
    CAPTURED, PROMISED, START, WEB_PODS, all_answered, at, installed, pair, web, web_pods,
};
use crate::stranger::Stranger;

/// Where a pod of `web` writes what became of its first words.
const FIRST_WORDS: &str = "/tmp/first-words";

#[test]
fn a_deployment_is_replaced_under_questions_and_speaks_from_its_first_word_as_itself()
-> anyhow::Result<()> {
    let cluster = installed()?;
    let (room, server, _) = pair(cluster, "deployed")?;
    let stranger = Stranger::new(cluster, "undeployed", "node2")?;
    let target = at(&server, 8080);
    // Whoever is outside when it speaks is not answered.
    stranger.shut_out(&room, &target)?;
    room.apply(&web(&format!("/bin/pod ask {target} >{FIRST_WORDS}; exec /bin/pod serve")))?;
    let before = speak_inside(cluster, &room)?;
    let service = cluster.get("service", room.name(), "web")?.context("the service")?;
    let service = format!("{}:80", service["spec"]["clusterIP"].as_str().unwrap_or_default());

    let questions = room.start_asking("client", &service, QUESTIONS)?;
    let start = Instant::now();
    cluster.kubectl(["-n", room.name(), "rollout", "restart", "deployment/web"])?;
    let after = speak_inside(cluster, &room)?;
    let report = questions.end()?;
    let took = start.elapsed().as_secs_f64();
    println!("questions while {WEB_PODS} pods were replaced within {took:.1} s: {report}");
    all_answered(&report)?;
    let old =
        |pod: &Value| before.iter().any(|old| old["metadata"]["uid"] == pod["metadata"]["uid"]);
    ensure!(!after.iter().any(old), "a pod was not replaced");
    stranger.let_in(&room, &target)
}

/// Pods of `web` that stay, once each is Ready: captured before it ran, and answered at its first word.
fn speak_inside(cluster: &Kubernetes, room: &Room<'_>) -> anyhow::Result<Vec<Value>> {
    let pods = web_pods(cluster, room)?;
    cluster.wait_until_captured(&pods.iter().collect::<Vec<_>>(), CAPTURED)?;
    for pod in &pods {
        let name = pod["metadata"]["name"].as_str().context("a pod without a name")?;
        let state = cluster.state_of(pod)?.unwrap_or_default();
        ensure!(state["source"] == "cni", "{name} ran before it was captured: {state}");
        let said = cluster.exec(room.name(), name, &["cat", FIRST_WORDS])?;
        let report = serde_json::from_str(&said).with_context(|| format!("read {said:?}"))?;
        all_answered(&report).with_context(|| format!("the first words of {name}"))?;
    }
    Ok(pods)
}

#[test]
fn all_pods_of_a_namespace_are_captured_within_two_seconds_of_its_label_and_none_restarts()
-> anyhow::Result<()> {
    let cluster = installed()?;
    let room = Room::new(cluster, "promised", false)?;
    room.apply(&web("exec /bin/pod serve"))?;
    room.pod("server", "node1")?;
    room.pod("client", "node2")?;
    web_pods(cluster, &room)?;
    let pods = cluster.wait_for_pods(room.name(), "", WEB_PODS + 2, START)?;
    let pods: Vec<_> = pods.iter().collect();
    let before = containers(cluster, &room)?;

    // From before the label is asked for until the agents have answered: more than the promise counts.
    let start = Instant::now();
    room.label(true)?;
    cluster.wait_until_verified(&pods, PROMISED)?;
    let took = start.elapsed();
    println!("{} pods captured {:.2} s after their label", pods.len(), took.as_secs_f64());
    ensure!(took <= PROMISED, "it took {took:?}");
    cluster.wait_until_captured(&pods, CAPTURED)?;
    all_answered(&room.ask("client", "web:80", 20)?)?;
    let after = containers(cluster, &room)?;
    ensure!(before == after, "containers were {before:?}, and are {after:?}");

    room.label(false)?;
    cluster.wait_until_released(&pods, CAPTURED)?;
    let after = containers(cluster, &room)?;
    ensure!(before == after, "containers were {before:?}, and are {after:?}");
    Ok(())
}

/// Of each container of a namespace its pod, its id, and how often it has restarted.
fn containers(cluster: &Kubernetes, room: &Room<'_>) -> anyhow::Result<Vec<[String; 3]>> {
    let mut found = Vec::new();
    for pod in cluster.list("pods", room.name(), "")? {
        for container in pod["status"]["containerStatuses"].as_array().into_iter().flatten() {
            let id = &container["containerID"];
            ensure!(id.is_string(), "a container without an id: {container}");
            let uid = &pod["metadata"]["uid"];
            found.push([uid, id, &container["restartCount"]].map(Value::to_string));
        }
    }
    found.sort();
    Ok(found)
}
