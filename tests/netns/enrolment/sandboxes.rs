//! What a container runtime asks by the CNI plugin.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::ensure;
use tests::{AgentOptions, EnrollingNode, House, PodSpec, Sandbox, eventually, pod_path};

use crate::stage::{REPAIR, Stage, close, leaves_nothing, logged};

/// Until an ADD that was asked for has come to the pod's self-test.
const BEGUN: Duration = Duration::from_millis(700);

#[test]
fn a_pod_is_held_until_it_is_captured() -> anyhow::Result<()> {
    let node = EnrollingNode::new(AgentOptions::default())?;
    node.label("shop", Some("ambient"))?;
    let pod = node.bind(PodSpec::new(1, "web"))?;
    close(&node, &pod);
    let sandbox = Sandbox::of(&pod);
    node.runtime.call("CHECK", &sandbox)?.refused("NOT_CAPTURED")?;
    let answer = node.add(&pod)?.ok()?;
    ensure!(answer.json["ips"][0]["address"].is_string(), "the result was lost: {answer:?}");
    let shown = node.shown(&pod)?;
    let is_captured = shown.as_ref().is_some_and(|shown| {
        shown.state == admin::PodState::Verified && shown.source.as_deref() == Some("cni")
    });
    ensure!(is_captured, "{shown:?}");
    ensure!(node.ca.issued().iter().any(|issued| issued.identity == pod.identity()));
    node.runtime.call("CHECK", &sandbox)?.ok()?;
    let web = House::in_pod(pod)?;
    node.tell_running(&web.pod)?;
    node.wait_captured(&web.pod, REPAIR)?;
    node.delete(&web.pod)?;
    eventually("nothing is left of it", REPAIR * 2, || {
        Ok(leaves_nothing(&node, &web.pod).is_ok().then_some(()))
    })
}

/// The self-test is held in the pod's frozen cgroup, and the pod is deleted then.
#[test]
fn a_pod_that_is_deleted_during_add_is_gone() -> anyhow::Result<()> {
    let node = EnrollingNode::new(AgentOptions::default())?;
    node.label("shop", Some("ambient"))?;
    let pod = node.bind(PodSpec::new(1, "web"))?;
    let freezer = pod.cgroup().join("cgroup.freeze");
    fs::write(&freezer, "1")?;
    let answer = thread::scope(|scope| {
        let add = scope.spawn(|| node.add(&pod));
        thread::sleep(BEGUN);
        node.api.remove(&pod_path(&pod))?;
        thread::sleep(BEGUN);
        fs::write(&freezer, "0")?;
        add.join().map_err(|_| anyhow::anyhow!("a panic"))?
    })?;
    let answer = answer.refused("POD_GONE")?;
    ensure!(answer.took < Duration::from_secs(8), "{:?}", answer.took);
    // Asked once more, it is gone from the start.
    node.add(&pod)?.refused("POD_GONE")?;
    // What was attached meanwhile goes with its sandbox.
    node.runtime.call("DEL", &Sandbox::of(&pod))?.ok()?;
    eventually("nothing is left of it", REPAIR, || {
        Ok(leaves_nothing(&node, &pod).is_ok().then_some(()))
    })
}

#[test]
fn two_adds_for_one_sandbox_are_one_enrolment() -> anyhow::Result<()> {
    let node = EnrollingNode::new(AgentOptions::default())?;
    node.label("shop", Some("ambient"))?;
    let pod = node.bind(PodSpec::new(1, "web"))?;
    let answers = thread::scope(|scope| {
        let adds = [(); 4].map(|()| scope.spawn(|| node.add(&pod)));
        adds.map(|add| add.join().map_err(|_| anyhow::anyhow!("a panic")).flatten())
    });
    for answer in answers {
        answer?.ok()?;
    }
    // As a runtime does that lost the answer.
    node.add(&pod)?.ok()?;
    ensure!(logged(&node, "pod enrolled") == 1, "enrolled {}", logged(&node, "pod enrolled"));
    node.wait_captured(&pod, REPAIR)
}

/// Its network is made anew: the old one's capture does not count for it.
#[test]
fn a_sandbox_that_is_made_anew_is_captured_anew() -> anyhow::Result<()> {
    let stage = Stage::new()?;
    let Stage { node, .. } = &stage;
    let pod = node.bind(PodSpec::new(1, "job"))?;
    node.add(&pod)?.ok()?;
    let first = node.shown(&pod)?.map(|shown| shown.netns_inode);
    node.runtime.call("DEL", &Sandbox::of(&pod))?.ok()?;
    eventually("the first is let go", REPAIR, || Ok((!node.is_captured(&pod)?).then_some(())))?;
    let again = Sandbox { id: format!("again-{}", pod.uid()), ..Sandbox::of(&pod) };
    node.runtime.add(&again)?.ok()?;
    let second = node.shown(&pod)?;
    ensure!(second.as_ref().map(|shown| shown.netns_inode) == first, "{second:?}");
    stage.is_untouched()
}

/// Peers of the one before that never close theirs must not hold the next one up.
#[test]
fn a_sandbox_that_is_made_anew_waits_for_no_connection_of_the_one_before() -> anyhow::Result<()> {
    let stage = Stage::new()?;
    let Stage { node, web, old } = &stage;
    let _open = web.connect(old)?;
    node.runtime.call("DEL", &Sandbox::of(&web.pod))?.ok()?;
    let again = Sandbox { id: format!("again-{}", web.pod.uid()), ..Sandbox::of(&web.pod) };
    let added = node.runtime.add(&again)?.ok()?;
    ensure!(added.took < REPAIR, "{:?}", added.took);
    node.wait_captured(&web.pod, REPAIR)?;
    stage.is_untouched()
}
