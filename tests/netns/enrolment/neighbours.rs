//! Programs of somebody else on a pod's cgroup: another mesh, a network plugin, a monitor.

mod programs;

use std::time::Duration;

use anyhow::{Context, ensure};
use tests::{House, PodSpec, Sandbox, eventually};

use crate::stage::{REPAIR, Stage, close, leaves_nothing};
use programs::{Attached, Manner, Program};

/// What the neighbour's program forbids to dial.
const FORBIDDEN: u16 = 9;
const FAIL_OPEN: &str = "warren.dev/fail-open";
/// What failed is tried again ever more slowly, 30 s apart at most.
const CAPTURED_LATE: Duration = Duration::from_secs(35);

/// Where both share the cgroup, both work: the neighbour's program decides what it decided before, and
/// the pod is captured.
#[test]
fn a_neighbour_that_shares_works_beside_us() -> anyhow::Result<()> {
    let stage = Stage::new()?;
    let Stage { old, node, .. } = &stage;
    let pod = node.bind(PodSpec::new(1, "job"))?;
    close(node, &pod);
    let connect = Program::forbids(FORBIDDEN)?;
    let sock_ops = Program::watches()?;
    let above = pod.cgroup().parent().context("a pod's cgroup has a parent")?;
    let theirs = [
        Attached::to(pod.cgroup(), &connect, Manner::Shared)?,
        Attached::to(pod.cgroup(), &sock_ops, Manner::Shared)?,
        Attached::to(above, &sock_ops, Manner::Shared)?,
    ];
    node.add(&pod)?.ok()?;
    let job = House::in_pod(pod)?;
    node.tell_running(&job.pod)?;
    node.wait_captured(&job.pod, REPAIR)?;
    ensure!(old.greet(&job, "in").is_err(), "its inbound connections are not captured");
    job.greet(old, "out")?;
    let refused = job.actor.connect(old.pod.at(FORBIDDEN)).err().context("it may dial all")?;
    ensure!(refused.message == "EPERM", "not by the neighbour: {refused}");
    // It goes, and we stay.
    drop(theirs);
    let refused = job.actor.connect(old.pod.at(FORBIDDEN)).err().map(|failure| failure.message);
    ensure!(refused.as_deref() != Some("EPERM"), "the neighbour is still there");
    ensure!(old.greet(&job, "in").is_err(), "its inbound connections are not captured any more");
    job.greet(old, "out")?;
    stage.is_untouched()
}

/// One that wants the cgroup for itself leaves no place for hooks: the pod does not start.
#[test]
fn a_neighbour_that_shares_with_nobody_keeps_the_pod_from_starting() -> anyhow::Result<()> {
    let stage = Stage::new()?;
    let Stage { node, .. } = &stage;
    let pod = node.bind(PodSpec::new(1, "job"))?;
    let theirs = Attached::to(pod.cgroup(), &Program::watches()?, Manner::Alone)?;
    let answer = node.add(&pod)?.refused("ATTACH_FAILED")?;
    let why = answer.json["details"].as_str().unwrap_or_default();
    ensure!(why.contains("attach"), "it does not say what failed: {answer:?}");
    leaves_nothing(node, &pod)?;
    drop(theirs);
    node.add(&pod)?.ok()?;
    stage.is_untouched()
}

/// A pod cannot say that it may start outside the mesh; its namespace can, until it can be captured.
#[test]
fn a_pod_that_cannot_be_captured_starts_only_where_its_namespace_fails_open() -> anyhow::Result<()>
{
    let stage = Stage::new()?;
    let Stage { old, node, .. } = &stage;
    let pod = node.bind(PodSpec::new(1, "job"))?;
    close(node, &pod);
    let theirs = Attached::to(pod.cgroup(), &Program::watches()?, Manner::Alone)?;
    node.annotate(&pod, FAIL_OPEN, Some("true"))?;
    node.add(&pod)?.refused("ATTACH_FAILED")?;
    node.annotate_namespace("shop", FAIL_OPEN, Some("true"))?;
    eventually("it may start", REPAIR * 2, || Ok(node.add(&pod)?.ok().ok()))?;
    leaves_nothing(node, &pod)?;
    let job = House::in_pod(pod)?;
    node.tell_running(&job.pod)?;
    old.greet(&job, "outside the mesh")?;
    ensure!(!node.is_annotated(&job.pod)?, "it is announced");
    drop(theirs);
    node.wait_captured(&job.pod, CAPTURED_LATE)?;
    ensure!(old.greet(&job, "in").is_err(), "its inbound connections are not captured");
    job.greet(old, "out")?;
    // Closed again, and one that is captured already stays so.
    node.annotate_namespace("shop", FAIL_OPEN, None)?;
    stage.is_untouched()
}

/// One that redirects by itself would have the pod's connections before us: the self-test notices.
#[test]
fn a_neighbour_that_redirects_fails_the_self_test() -> anyhow::Result<()> {
    let stage = Stage::new()?;
    let Stage { node, .. } = &stage;
    let pod = node.bind(PodSpec::new(1, "job"))?;
    let theirs = Attached::to(pod.cgroup(), &Program::redirects()?, Manner::Shared)?;
    let answer = node.runtime.add(&Sandbox::of(&pod))?.refused("SELF_TEST_FAILED")?;
    let why = answer.json["details"].as_str().unwrap_or_default();
    ensure!(why.contains("outbound connection"), "it does not say what failed: {answer:?}");
    leaves_nothing(node, &pod)?;
    drop(theirs);
    node.add(&pod)?.ok()?;
    stage.is_untouched()
}
