//! Pods join the mesh by labels and leave it, while their connections go on.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::Value;
use tests::protocol::{ConnectOptions, Hammer};
use tests::{AgentOptions, ECHO_PORT, EnrollingNode, PodSpec, eventually, talk};

use crate::stage::{REPAIR, Stage, logged, wait_code};

/// How long the traffic of a test lasts.
const TRAFFIC: Duration = Duration::from_secs(5);
/// A label changes that often.
const FLIP: Duration = Duration::from_millis(100);

#[test]
fn a_label_captures_what_runs_and_lets_it_go_under_traffic() -> anyhow::Result<()> {
    let node = EnrollingNode::new(AgentOptions::default())?;
    let web = node.house(PodSpec::new(1, "web"))?;
    node.namespace("legacy", None)?;
    let old = node.house(PodSpec::new(1, "old").namespace("legacy").outside())?;
    ensure!(!node.is_captured(&web.pod)?, "nobody wants it");
    let (before_in, before_out) = (old.connect(&web)?, web.connect(&old)?);
    let hammer = |target| Hammer {
        target,
        options: ConnectOptions::default(),
        connections: 0,
        duration_ms: u64::try_from(TRAFFIC.as_millis()).unwrap_or(u64::MAX),
        per_second: 200,
        workers: 2,
        message: "new".into(),
    };
    let results = thread::scope(|scope| {
        let inbound = scope.spawn(|| old.actor.hammer(hammer(web.pod.at(ECHO_PORT))));
        let outbound = scope.spawn(|| web.actor.hammer(hammer(old.pod.at(ECHO_PORT))));
        let changes = || -> anyhow::Result<()> {
            thread::sleep(Duration::from_millis(500));
            node.label("shop", Some("ambient"))?;
            node.wait_captured(&web.pod, REPAIR)?;
            let (during_in, during_out) = (old.connect(&web)?, web.connect(&old)?);
            for connection in [&before_in, &before_out, &during_in, &during_out] {
                talk(connection, "captured")?;
            }
            node.label("shop", None)?;
            node.wait_released(&web.pod, REPAIR)?;
            for connection in [before_in, before_out, during_in, during_out] {
                talk(&connection, "let go")?;
                connection.close()?;
            }
            Ok(())
        };
        let changed = changes();
        let ended = [inbound.join(), outbound.join()];
        changed.map(|()| ended)
    })?;
    for result in results {
        let hammered = result.map_err(|_| anyhow::anyhow!("a panic"))?.context("traffic")?;
        ensure!(hammered.failures.is_empty(), "new connections failed: {hammered:?}");
        ensure!(hammered.succeeded > 500, "too little traffic: {hammered:?}");
    }
    Ok(())
}

#[test]
fn a_flip_flopping_label_costs_little_and_its_last_word_counts() -> anyhow::Result<()> {
    let stage = Stage::new()?;
    let Stage { web, old, node } = &stage;
    let open = web.connect(old)?;
    let (enrolled, asked) = (logged(node, "pod enrolled"), node.api.asked().len());
    for (last, flips) in [(Some("ambient"), 21), (None, 10), (Some("ambient"), 11)] {
        for flip in 1..=flips {
            let is_on = flip % 2 == 1;
            node.label("shop", is_on.then_some("ambient"))?;
            talk(&open, "flipping")?;
            thread::sleep(FLIP);
        }
        let settled = Instant::now();
        match last {
            Some(_) => node.wait_captured(&web.pod, REPAIR)?,
            None => node.wait_released(&web.pod, REPAIR)?,
        }
        ensure!(settled.elapsed() < REPAIR, "{last:?}: after {:?}", settled.elapsed());
        talk(&open, "settled")?;
    }
    let enrolments = logged(node, "pod enrolled") - enrolled;
    // 42 changes of the label: let go once, and so enrolled once more.
    ensure!(enrolments == 1, "{enrolments} enrolments");
    let asked = node.api.asked().len() - asked;
    ensure!(asked <= 8, "{asked} requests at the API server");
    open.close()?;
    stage.is_untouched()
}

#[test]
fn the_annotation_is_written_last_and_removed_first() -> anyhow::Result<()> {
    let node = EnrollingNode::new(AgentOptions::default())?;
    let web = node.house(PodSpec::new(1, "web"))?;
    node.api.hold_patches(true);
    node.label("shop", Some("ambient"))?;
    let patched = |value: &Value| {
        let asked = node.api.asked();
        let of_pod = asked.iter().filter(|asked| asked.method == "PATCH");
        of_pod.filter(|a| annotation(&a.body) == Some(value)).map(|a| a.body.clone()).next_back()
    };
    let enabled = Value::from("enabled");
    let patch = eventually("the annotation is asked for", REPAIR, || Ok(patched(&enabled)))?;
    ensure!(patch["metadata"]["uid"] == web.pod.uid(), "for whichever pod has the name: {patch}");
    // It was asked for when all else was done already.
    let shown = node.shown(&web.pod)?.context("web is not shown")?;
    ensure!(shown.state == admin::PodState::Verified, "announced too early: {shown:?}");
    ensure!(!node.is_annotated(&web.pod)?, "the test's server did not wait");
    node.api.hold_patches(false);
    node.wait_captured(&web.pod, REPAIR)?;
    // Where it cannot be removed, the pod stays captured, and that is told.
    node.api.refuse_patches(Some(500));
    node.label("shop", None)?;
    eventually("its removal is asked for", REPAIR, || Ok(patched(&Value::Null)))?;
    wait_code(&node, &web.pod, "ANNOTATION_FAILED")?;
    thread::sleep(REPAIR);
    ensure!(node.is_captured(&web.pod)?, "let go before the promise was taken back");
    node.api.refuse_patches(None);
    node.wait_released(&web.pod, REPAIR * 3)
}

fn annotation(patch: &Value) -> Option<&Value> {
    patch.pointer("/metadata/annotations/ambient.istio.io~1redirection")
}
