//! Many pods on one node: how soon all are captured, and what they cost while nothing happens.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tests::{AgentOptions, EnrollingNode, Pod, PodSpec, eventually};

use super::cost::{Memory, Others, share_of_a_core};
use super::{single, time};
use crate::decisions::{Figure, Unit};

/// Pods that start at once.
const TOGETHER: usize = 100;
/// Pods of a full node, as kubelets have it by default.
const FULL: usize = 110;
const VERIFIED: Duration = Duration::from_secs(5);
const MEMORY_MIB: f64 = 60.0;
/// Below what one can tell from nothing: a hundredth of a core.
const CPU_SHARE: f64 = 0.01;
/// For how long nothing happens.
const IDLE: Duration = Duration::from_secs(30);
/// After a change, before what it left to be done counts as idleness.
const SETTLE: Duration = Duration::from_secs(5);
/// Until everything is as it should be; a benchmark that waits longer is broken.
const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) fn figures() -> anyhow::Result<Vec<Figure>> {
    let others = Others::now()?;
    let node = EnrollingNode::new(AgentOptions::default())?;
    let pid = node.agent.pid().context("an agent that runs")?;
    thread::sleep(SETTLE);
    println!("an agent without pods, for {} s …", IDLE.as_secs());
    let alone = share_of_a_core(pid, IDLE)?;
    let empty = Memory::of(pid, &others)?;
    node.label("shop", Some("ambient"))?;

    println!("{TOGETHER} pods start together …");
    let bound: Vec<Pod> = (0..TOGETHER)
        .map(|number| node.bind(PodSpec::new(1, &format!("pod-{number}"))))
        .collect::<anyhow::Result<_>>()?;
    let together = start_together(&node, &bound)?;
    for pod in &bound {
        node.start(pod)?;
    }
    for number in TOGETHER..FULL {
        node.idle(PodSpec::new(1, &format!("pod-{number}")))?;
    }
    wait_verified(&node, FULL)?;
    thread::sleep(SETTLE);
    println!("{FULL} idle pods, for {} s …", IDLE.as_secs());
    let crowded = share_of_a_core(pid, IDLE)?;
    let full = Memory::of(pid, &others)?;

    println!("one label for {FULL} pods that run …");
    node.label("shop", None)?;
    wait_verified(&node, 0)?;
    let start = Instant::now();
    node.label("shop", Some("ambient"))?;
    wait_verified(&node, FULL)?;
    let by_label = start.elapsed();

    let grown = [full.process - empty.process, full.bpf - empty.bpf];
    Ok(vec![
        time("100 pods that start together, until all are verified", &[together], Some(VERIFIED)),
        time("110 running pods and one label, until all are verified", &[by_label], None),
        single("memory of an agent without pods", Unit::Mebibytes, empty.process, None),
        single("eBPF memory without pods", Unit::Mebibytes, empty.bpf, None),
        single("memory that 110 idle pods add to it", Unit::Mebibytes, grown[0], None),
        single("eBPF memory that 110 idle pods add", Unit::Mebibytes, grown[1], None),
        single("both together", Unit::Mebibytes, grown.iter().sum::<f64>(), Some(MEMORY_MIB)),
        single("share of a core of an agent without pods", Unit::Ratio, alone, None),
        single(
            "share of a core that 110 idle pods add",
            Unit::Ratio,
            (crowded - alone).max(0.0),
            Some(CPU_SHARE),
        ),
    ])
}

/// From the first request until the last pod is verified.
fn start_together(node: &EnrollingNode, pods: &[Pod]) -> anyhow::Result<Duration> {
    let start = Instant::now();
    thread::scope(|scope| {
        let adding: Vec<_> = pods.iter().map(|pod| scope.spawn(|| node.add(pod)?.ok())).collect();
        for added in adding {
            added.join().map_err(|_| anyhow::anyhow!("a runtime panicked"))??;
        }
        anyhow::Ok(())
    })?;
    wait_verified(node, pods.len())?;
    Ok(start.elapsed())
}

/// Waits until as many pods are verified, and there are no others.
fn wait_verified(node: &EnrollingNode, count: usize) -> anyhow::Result<()> {
    eventually(&format!("{count} pods are verified"), PATIENCE, || {
        let pods = node.agent.pods()?;
        let verified = pods.iter().filter(|pod| pod.state == admin::PodState::Verified).count();
        ensure!(pods.len() <= FULL, "{} pods", pods.len());
        Ok((verified == count && pods.len() == count).then_some(()))
    })
}
