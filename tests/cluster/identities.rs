//! Who a pod is: never by its address alone.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use tests::{Room, eventually};

use crate::addresses::{Inheritance, address};
use crate::stage::{CAPTURED, SETTLE, START, all_answered, at, installed, none_answered};

/// How soon an address may belong to somebody else.
const REUSED: Duration = Duration::from_secs(1);
/// Only one account may.
const ONLY_FIRST: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
    metadata: {name: only-first, namespace: NAMESPACE}\n\
    spec:\n  selector: {matchLabels: {app: server}}\n  rules:\n  - from:\n    - source: \
    {principals: [cluster.local/ns/NAMESPACE/sa/first]}\n";

/// Removes that policy: whoever it refused is answered then, so nothing else was in the way.
fn let_in(room: &Room<'_>, pod: &str, target: &str) -> anyhow::Result<()> {
    room.remove("authorizationpolicy", "only-first")?;
    eventually(&format!("{pod} is let in"), SETTLE, || {
        Ok((room.ask(pod, target, 1)?["answered"] == 1).then_some(()))
    })
}

#[test]
fn who_gets_the_address_of_another_does_not_get_its_name() -> anyhow::Result<()> {
    let cluster = installed()?;
    let room = Room::new(cluster, "reused", true)?;
    let server = room.pod("server", "node1")?;
    let first = room.pod("first", "node2")?;
    cluster.wait_until_captured(&[&server, &first], CAPTURED)?;
    room.apply(ONLY_FIRST)?;
    let target = at(&server, 8080);
    eventually("the first is let in", SETTLE, || {
        Ok((room.ask("first", &target, 1)?["answered"] == 1).then_some(()))
    })?;

    let node = cluster.node("node2")?;
    let inherited = address(&first)?;
    let inheritance = Inheritance::of(node, inherited, "first", "second")?;
    room.start("second", "node2")?;
    eventually("the second waits for an address", START, || {
        Ok(inheritance.is_awaited().then_some(()))
    })?;
    let delete = ["delete", "pod", "first", "--force", "--grace-period=0"];
    cluster.kubectl(["-n", room.name()].into_iter().chain(delete))?;
    let second = room.ready("second")?;
    let now = address(&second)?;
    ensure!(now == inherited, "it got {now} and not {inherited}");
    let gap = inheritance.gap()?;
    println!("an address was another's after {} ms", gap.as_millis());
    ensure!(gap <= REUSED, "it was free for up to {gap:?}");
    cluster.wait_until_captured(&[&second], CAPTURED)?;
    none_answered(&room.ask("second", &target, 5)?)?;
    let_in(&room, "second", &target)
}

#[test]
fn a_pod_that_contradicts_itself_is_not_served_and_disturbs_nobody() -> anyhow::Result<()> {
    let cluster = installed()?;
    let room = Room::new(cluster, "odd", false)?;
    let server = room.pod("server", "node1")?;
    let client = room.pod("client", "node2")?;
    // It has an address that the API does not know.
    room.apply(
        r"apiVersion: v1
kind: Pod
metadata: {name: odd, namespace: NAMESPACE, labels: {app: odd}}
spec:
  nodeName: node1
  terminationGracePeriodSeconds: 0
  containers:
  - name: pod
    image: warren.test/pod:test
    command: [/bin/sh, -c, 'ip addr add 10.99.0.1/32 dev eth0 && exec /bin/pod serve']
    securityContext: {capabilities: {add: [NET_ADMIN]}}
    readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
",
    )?;
    let odd = cluster.wait_for_pods(room.name(), "app=odd", 1, START)?.remove(0);
    room.label(true)?;
    cluster.wait_until_captured(&[&server, &client], CAPTURED)?;
    all_answered(&room.ask("client", &at(&server, 8080), 5)?)?;
    eventually("its owner is told", SETTLE, || {
        Ok(cluster.events(room.name()).contains("IDENTITY_CONFLICT").then_some(()))
    })?;
    let state = cluster.state_of(&odd)?.unwrap_or_default();
    ensure!(state["state"]["state"] != "verified", "it is served: {state}");
    Ok(())
}

#[test]
fn a_pod_that_takes_the_address_of_another_keeps_its_own_name() -> anyhow::Result<()> {
    let cluster = installed()?;
    let room = Room::new(cluster, "taken", true)?;
    let server = room.pod("server", "node1")?;
    let first = room.pod("first", "node2")?;
    room.apply(
        r"apiVersion: v1
kind: Pod
metadata: {name: hostile, namespace: NAMESPACE, labels: {app: hostile}}
spec:
  nodeName: node2
  terminationGracePeriodSeconds: 0
  containers:
  - name: pod
    image: warren.test/pod:test
    args: [serve]
    securityContext: {capabilities: {add: [NET_ADMIN, NET_RAW]}}
    readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
",
    )?;
    let hostile = room.ready("hostile")?;
    cluster.wait_until_captured(&[&server, &first, &hostile], CAPTURED)?;
    room.apply(ONLY_FIRST)?;
    let target = at(&server, 8080);
    eventually("the first is let in, and the other is not", SETTLE, || {
        let answered = |pod| anyhow::Ok(room.ask(pod, &target, 1)?["answered"] == 1);
        Ok((answered("first")? && !answered("hostile")?).then_some(()))
    })?;
    let taken = address(&first)?;
    let hostile = |command: &str| cluster.exec(room.name(), "hostile", &["sh", "-c", command]);
    hostile(&format!("ip address add {taken}/32 dev eth0"))?;
    // Each may wait for an answer that goes elsewhere.
    for attempt in 0..3 {
        let said = hostile(&format!("/bin/pod ask {target} --from {taken}"))?;
        let report: Value = serde_json::from_str(&said).context("read a report")?;
        none_answered(&report).with_context(|| format!("attempt {attempt}"))?;
        std::thread::sleep(Duration::from_millis(500));
    }
    hostile(&format!("ip address delete {taken}/32 dev eth0"))?;
    none_answered(&room.ask("hostile", &target, 1)?)?;
    eventually("the first is let in again", SETTLE, || {
        Ok((room.ask("first", &target, 1)?["answered"] == 1).then_some(()))
    })?;
    let_in(&room, "hostile", &target)
}
