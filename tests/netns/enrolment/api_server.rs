//! Bad days of the API server: what was known stays, and what is new acts when it is back.

use std::thread;
use std::time::Duration;

use anyhow::ensure;
use tests::{AgentOptions, EnrollingNode, PodSpec, eventually, pod_path};

use crate::stage::{AFTER_OUTAGE, REPAIR, Stage, logged, problems};

/// ADD says within this that the API server is away: one that refuses does so at once.
const REFUSED_SOON: Duration = Duration::from_secs(5);
/// The bound of one request at the API server, and what else ADD needs.
const SLOW_BOUND: Duration = Duration::from_secs(12);

#[test]
fn away_at_the_start() -> anyhow::Result<()> {
    let mut node = EnrollingNode::prepare(AgentOptions::default(), None)?;
    node.label("shop", Some("ambient"))?;
    node.agent.restart()?;
    node.wait_installed()?;
    let pod = node.bind(PodSpec::new(1, "web"))?;
    // It answers, although it knows nothing.
    let answer = node.add(&pod)?.refused("API_AWAY")?;
    ensure!(answer.took < REFUSED_SOON, "{:?}", answer.took);
    let told = problems(&node)?;
    for what in ["pods", "namespaces"] {
        ensure!(
            told.contains(&format!("the API server's {what} have not been followed")),
            "{told}"
        );
    }
    let early = node.agent.wait_ready_within(Duration::from_millis(300));
    ensure!(early.is_err(), "ready without having read anything");
    node.start_api()?;
    node.agent.wait_ready()?;
    node.add(&pod)?.ok()?;
    ensure!(problems(&node)?.is_empty(), "{}", problems(&node)?);
    Ok(())
}

#[test]
fn away_later() -> anyhow::Result<()> {
    let mut stage = Stage::new()?;
    let rest = stage.node.bind(PodSpec::new(1, "rest"))?;
    stage.node.namespace("later", None)?;
    let late = stage.node.house(PodSpec::new(1, "late").namespace("later"))?;
    stage.node.stop_api()?;
    // Both are said while nobody hears it.
    stage.node.label("later", Some("ambient"))?;
    stage.node.label("shop", None)?;
    stage.node.add(&rest)?.refused("API_AWAY")?;
    thread::sleep(REPAIR);
    ensure!(!stage.node.is_captured(&late.pod)?, "by what it could not know");
    stage.is_untouched()?;
    ensure!(stage.node.agent.metric("warren_enrolment_watch_age_seconds", &["pods"])? >= 1.0);
    stage.node.start_api()?;
    stage.node.wait_captured(&late.pod, AFTER_OUTAGE)?;
    stage.node.wait_released(&stage.web.pod, AFTER_OUTAGE)
}

#[test]
fn slow() -> anyhow::Result<()> {
    let stage = Stage::new()?;
    let Stage { node, .. } = &stage;
    let (late, later) = (node.bind(PodSpec::new(1, "late"))?, node.bind(PodSpec::new(1, "later"))?);
    // Slow, but in time.
    node.api.delay(Duration::from_millis(1500));
    node.add(&late)?.ok()?;
    // Slower than a request may be.
    node.api.delay(Duration::from_mins(1));
    let answer = node.add(&later)?.refused("API_AWAY")?;
    ensure!(answer.took < SLOW_BOUND, "{:?}", answer.took);
    stage.is_untouched()?;
    node.api.delay(Duration::ZERO);
    node.add(&later)?.ok().map(drop)
}

#[test]
fn expired_watches_and_lists_let_nothing_go() -> anyhow::Result<()> {
    let stage = Stage::new()?;
    let Stage { web, node, .. } = &stage;
    node.namespace("later", None)?;
    let late = node.house(PodSpec::new(1, "late").namespace("later"))?;
    // In pages of one object, whose marks expire twice; and an object is missing that runs.
    node.api.page(1);
    node.api.expire_pages(2);
    let object = node.api.get(&pod_path(&web.pod))?;
    node.api.expire_watches();
    node.api.remove(&pod_path(&web.pod))?;
    node.label("later", Some("ambient"))?;
    eventually("lists are cut", AFTER_OUTAGE, || {
        Ok((node.api.expired_pages_left() == 0).then_some(()))
    })?;
    node.wait_captured(&late.pod, AFTER_OUTAGE)?;
    ensure!(node.is_captured(&web.pod)?, "one that runs was taken for gone");
    node.api.put(&pod_path(&web.pod), object)?;
    // Once more, and by a watch that just ends.
    node.api.expire_watches();
    node.api.end_watches();
    thread::sleep(REPAIR);
    ensure!(logged(node, "letting a pod go") == 0, "a pod was let go in between");
    ensure!(logged(node, "pod enrolled") == 2, "a pod was enrolled anew");
    stage.is_untouched()
}
