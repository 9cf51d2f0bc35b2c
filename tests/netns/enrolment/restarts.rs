//! An agent that ends and starts again while the API server is away.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, ensure};
use tests::{PodSpec, eventually, talk};

use crate::stage::{AFTER_OUTAGE, REPAIR, Stage, logged};

#[test]
fn pods_are_adopted_without_the_api_server() -> anyhow::Result<()> {
    let mut stage = Stage::new()?;
    let late = stage.node.bind(PodSpec::new(1, "late"))?;
    let enrolled = logged(&stage.node, "pod enrolled");
    stage.node.stop_api()?;
    stage.node.agent.kill9()?;
    // Without an agent nothing passes, and no pod of the mesh starts.
    ensure!(stage.is_closed(), "open without an agent");
    stage.node.add(&late)?.refused("AGENT_AWAY")?;
    stage.node.agent.restart()?;
    let adopted = || {
        let shown = stage.node.shown(&stage.web.pod)?;
        Ok(shown.filter(|shown| shown.state == admin::PodState::Verified))
    };
    let shown = eventually("web is adopted", AFTER_OUTAGE, adopted)?;
    ensure!(shown.source.as_deref() == Some("cni"), "{shown:?}");
    stage.is_untouched()?;
    stage.node.add(&late)?.refused("API_AWAY")?;
    // What was said meanwhile counts once it is heard.
    let open = stage.web.connect(&stage.old)?;
    stage.node.label("shop", None)?;
    stage.node.start_api()?;
    stage.node.agent.wait_ready()?;
    stage.node.wait_released(&stage.web.pod, REPAIR)?;
    talk(&open, "let go")?;
    ensure!(logged(&stage.node, "pod enrolled") == enrolled, "enrolled anew instead of adopted");
    open.close()?;
    Ok(())
}

/// Hooks of which nothing is written are taken over where they are: taken off first, they would let
/// plaintext pass for a moment.
#[test]
fn a_pod_whose_record_is_lost_is_never_in_the_open() -> anyhow::Result<()> {
    let mut stage = Stage::new()?;
    let enrolled = logged(&stage.node, "pod adopted");
    stage.node.agent.kill9()?;
    let run = stage.node.agent.setting("WARREN_RUN_DIR").context("no run folder")?;
    let record = Path::new(run).join(format!("pods/{}.json", stage.web.pod.uid()));
    fs::remove_file(&record).context("lose a record")?;
    stage.node.agent.restart()?;
    let Stage { web, old, node } = &stage;
    let (ended, knocked) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let knocking = scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                ensure!(old.greet(web, "knock").is_err(), "it was open");
                knocked.store(true, Ordering::Relaxed);
            }
            Ok(())
        });
        let captured = node.wait_captured(&web.pod, AFTER_OUTAGE);
        ended.store(true, Ordering::Relaxed);
        knocking.join().map_err(|_| anyhow::anyhow!("a panic"))??;
        captured
    })?;
    ensure!(knocked.load(Ordering::Relaxed), "nobody has knocked");
    ensure!(record.exists(), "no record is written");
    ensure!(logged(node, "pod adopted") == enrolled + 1, "it was enrolled anew");
    stage.is_untouched()
}
