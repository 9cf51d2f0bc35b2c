//! What annotations leave to a pod and to its namespace, shown by traffic: what they exclude goes past the
//! mesh, and nothing else does. All of them are followed while the pod runs.

use std::net::SocketAddr;
use std::thread;

use anyhow::ensure;
use tests::protocol::Behaviour;
use tests::{ECHO_PORT, House, PodSpec, eventually, talk};

use crate::stage::{REPAIR, Stage, close, told};

const BYPASS_INBOUND: &str = "ambient.istio.io/bypass-inbound-capture";
const EXCLUDED_INBOUND: &str = "warren.dev/exclude-inbound-ports";
const EXCLUDED_OUTBOUND: &str = "warren.dev/exclude-outbound-ports";
const EXCLUDED_CIDRS: &str = "warren.dev/exclude-cidrs";
/// What is excluded where a port is.
const EXCLUDED: u16 = 9090;

/// Whether somebody who has no identity reaches a port of `web`, which lets nobody in.
fn reaches(stage: &Stage, port: u16) -> bool {
    let connection = stage.old.actor.connect(stage.web.pod.at(port));
    connection.is_ok_and(|connection| talk(&connection, "knock").is_ok())
}

fn wait_reached(stage: &Stage, port: u16, wanted: bool) -> anyhow::Result<()> {
    eventually(&format!("port {port} is reached: {wanted}"), REPAIR * 2, || {
        Ok((reaches(stage, port) == wanted).then_some(()))
    })
}

/// Whether what `web` dials comes through the proxy, by what its log says until another connection of it,
/// which is captured, is told.
fn is_captured(stage: &Stage, target: SocketAddr) -> anyhow::Result<bool> {
    let marker = stage.old.pod.at_v6(ECHO_PORT);
    let log = stage.node.agent.log_mark();
    for target in [target, marker] {
        let connection = stage.web.actor.connect(target)?;
        talk(&connection, "out")?;
        connection.close()?;
    }
    let goes_to =
        |target: SocketAddr| move |line: &tests::AccessLine| line.destination == target.to_string();
    stage.node.agent.wait_access(log, "the other connection", goes_to(marker))?;
    Ok(stage.node.agent.access_log(log).iter().any(goes_to(target)))
}

fn wait_captured(stage: &Stage, target: SocketAddr, wanted: bool) -> anyhow::Result<()> {
    eventually(&format!("{target} is captured: {wanted}"), REPAIR * 2, || {
        Ok((is_captured(stage, target)? == wanted).then_some(()))
    })
}

#[test]
fn a_pod_may_bypass_the_capture_of_what_comes_in() -> anyhow::Result<()> {
    let stage = Stage::new()?;
    let Stage { web, old, node } = &stage;
    let job = node.house(PodSpec::new(1, "job"))?;
    // Its namespace has no say in it.
    node.annotate_namespace("shop", BYPASS_INBOUND, Some("true"))?;
    thread::sleep(REPAIR);
    ensure!(!reaches(&stage, ECHO_PORT), "a namespace bypasses");
    node.annotate_namespace("shop", BYPASS_INBOUND, None)?;
    node.annotate(&web.pod, BYPASS_INBOUND, Some("true"))?;
    wait_reached(&stage, ECHO_PORT, true)?;
    // Who is of the mesh is judged still, and so is what the pod dials.
    ensure!(job.greet(web, "of the mesh").is_err(), "the policy is gone");
    ensure!(is_captured(&stage, old.pod.at(ECHO_PORT))?, "what it dials is not captured");
    node.wait_captured(&web.pod, REPAIR)?;
    node.annotate(&web.pod, BYPASS_INBOUND, None)?;
    wait_reached(&stage, ECHO_PORT, false)?;
    stage.is_untouched()
}

#[test]
fn a_namespace_excludes_ports_of_its_pods_and_a_pod_cannot() -> anyhow::Result<()> {
    let stage = Stage::new()?;
    let Stage { web, node, .. } = &stage;
    web.actor.listen(([0_u16; 8], EXCLUDED).into(), Behaviour::Echo)?;
    node.annotate(&web.pod, EXCLUDED_INBOUND, Some("9090"))?;
    thread::sleep(REPAIR);
    ensure!(!reaches(&stage, EXCLUDED), "a pod excludes by itself");
    node.annotate_namespace("shop", EXCLUDED_INBOUND, Some("9090, 22"))?;
    wait_reached(&stage, EXCLUDED, true)?;
    ensure!(!reaches(&stage, ECHO_PORT), "what is not excluded is open");
    // What cannot be read excludes nothing, and is told.
    node.annotate_namespace("shop", EXCLUDED_INBOUND, Some("9090,http"))?;
    wait_reached(&stage, EXCLUDED, false)?;
    eventually("its owner is told", REPAIR * 2, || {
        let told = told(node, &web.pod);
        Ok(told.iter().any(|reason| reason == "SWITCH_IGNORED").then_some(()))
    })?;
    node.annotate_namespace("shop", EXCLUDED_INBOUND, None)?;
    eventually("nothing is wrong any more", REPAIR * 2, || Ok(stage.is_untouched().ok()))?;
    ensure!(!reaches(&stage, EXCLUDED), "the pod's own annotation counts");
    Ok(())
}

#[test]
fn a_namespace_excludes_what_its_pods_dial_and_a_pod_cannot() -> anyhow::Result<()> {
    let stage = Stage::new()?;
    let Stage { web, old, node } = &stage;
    old.actor.listen(([0_u16; 8], EXCLUDED).into(), Behaviour::Echo)?;
    let (echo, excluded) = (old.pod.at(ECHO_PORT), old.pod.at(EXCLUDED));
    let cidr = format!("{}/32", old.pod.ipv4());
    for (switch, value) in [(EXCLUDED_OUTBOUND, "9090"), (EXCLUDED_CIDRS, &cidr)] {
        node.annotate(&web.pod, switch, Some(value))?;
    }
    thread::sleep(REPAIR);
    ensure!(is_captured(&stage, excluded)?, "a pod excludes by itself");

    node.annotate_namespace("shop", EXCLUDED_OUTBOUND, Some("9090"))?;
    wait_captured(&stage, excluded, false)?;
    ensure!(is_captured(&stage, echo)?, "what is not excluded is not captured");
    node.annotate_namespace("shop", EXCLUDED_OUTBOUND, None)?;
    wait_captured(&stage, excluded, true)?;

    // By its destination: all ports of it, and only of that family.
    node.annotate_namespace("shop", EXCLUDED_CIDRS, Some(&cidr))?;
    wait_captured(&stage, echo, false)?;
    ensure!(!is_captured(&stage, excluded)?);
    ensure!(is_captured(&stage, old.pod.at_v6(EXCLUDED))?, "another destination is excluded");
    ensure!(stage.is_closed(), "what comes from there is not judged");
    node.annotate_namespace("shop", EXCLUDED_CIDRS, None)?;
    wait_captured(&stage, echo, true)?;
    stage.is_untouched()
}

/// A pod that starts has what its namespace says from its first connection.
#[test]
fn switches_hold_from_the_first_moment_of_a_pod() -> anyhow::Result<()> {
    let stage = Stage::new()?;
    let Stage { old, node, .. } = &stage;
    node.annotate_namespace("shop", EXCLUDED_INBOUND, Some("9090"))?;
    wait_heard(&stage)?;
    let pod = node.bind(PodSpec::new(1, "job"))?;
    close(node, &pod);
    node.annotate(&pod, EXCLUDED_INBOUND, Some("7007"))?;
    node.add(&pod)?.ok()?;
    let job = House::in_pod(pod)?;
    job.actor.listen(([0_u16; 8], EXCLUDED).into(), Behaviour::Echo)?;
    node.tell_running(&job.pod)?;
    let connection = old.actor.connect(job.pod.at(EXCLUDED))?;
    talk(&connection, "excluded")?;
    ensure!(old.greet(&job, "not excluded").is_err(), "the pod's own annotation counts");
    Ok(())
}

/// Until the namespace's word has come to the agent: the running pod has it too.
fn wait_heard(stage: &Stage) -> anyhow::Result<()> {
    stage.web.actor.listen(([0_u16; 8], EXCLUDED).into(), Behaviour::Echo)?;
    wait_reached(stage, EXCLUDED, true)?;
    Ok(())
}
