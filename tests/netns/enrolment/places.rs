//! Folders of the node that are full, read-only or not what they should be.

use std::fs;
use std::time::Duration;

use anyhow::{Context, ensure};
use tests::{AgentOptions, EnrollingNode, PodSpec, eventually};

use crate::stage::{REPAIR, Stage, leaves_nothing, problems, told};

/// A failed installation is tried again after this at the latest.
const INSTALLED_AGAIN: Duration = Duration::from_secs(11);
/// Longer than a list of processes is used.
const LISTED: Duration = Duration::from_millis(200);
/// Until an agent that cannot work has ended.
const ENDED: Duration = Duration::from_secs(15);

#[test]
fn a_full_disk_keeps_pods_from_starting_until_there_is_room() -> anyhow::Result<()> {
    let stage = Stage::new()?;
    let Stage { node, .. } = &stage;
    let pod = node.bind(PodSpec::new(1, "job"))?;
    node.namespace("later", None)?;
    let late = node.house(PodSpec::new(1, "late").namespace("later"))?;
    node.disk.fill()?;
    let answer = node.add(&pod)?.refused("RECORD_FAILED")?;
    let why = answer.json["details"].as_str().unwrap_or_default();
    ensure!(why.contains("No space left"), "it does not say why: {answer:?}");
    leaves_nothing(node, &pod)?;
    // One that runs cannot join either, and its owner is told. An agent uses a list of processes for a tenth of
    // a second, and the next event comes only after a pause: the first look is to see the pod.
    std::thread::sleep(LISTED);
    node.label("later", Some("ambient"))?;
    eventually("its owner is told", REPAIR * 4, || {
        Ok(told(node, &late.pod).contains(&"RECORD_FAILED".to_owned()).then_some(()))
    })
    .with_context(|| format!("{:?}, {:?}", told(node, &late.pod), node.shown(&late.pod)))?;
    ensure!(!node.is_annotated(&late.pod)?, "announced without a record");
    leaves_nothing(node, &late.pod)?;
    stage.is_untouched()?;
    node.disk.empty()?;
    node.add(&pod)?.ok()?;
    node.wait_captured(&late.pod, REPAIR * 4)?;
    stage.is_untouched()
}

/// An agent that starts on a full disk adopts what there is: its promises need no room.
#[test]
fn an_agent_starts_on_a_full_disk() -> anyhow::Result<()> {
    let mut stage = Stage::new()?;
    stage.node.disk.fill()?;
    stage.node.agent.kill9()?;
    stage.node.agent.restart()?;
    stage.node.agent.wait_ready()?;
    stage.node.wait_captured(&stage.web.pod, REPAIR)?;
    stage.is_untouched()
}

#[test]
fn read_only_cni_folders_are_told_and_mended() -> anyhow::Result<()> {
    let mut node = EnrollingNode::prepare(AgentOptions::default(), None)?;
    node.host.freeze()?;
    node.start_api()?;
    node.agent.restart()?;
    node.agent.wait_ready()?;
    let told = eventually("the problem is told", REPAIR, || {
        let told = problems(&node)?;
        Ok(told.contains("CNI_").then_some(told))
    })?;
    ensure!(told.contains("CNI_PROGRAM_NOT_INSTALLED"), "{told}");
    ensure!(told.contains("Read-only file system"), "it does not say why: {told}");
    ensure!(!node.runtime.is_held(), "a chain without its plugin");
    // Pods that run join all the same.
    let web = node.house(PodSpec::new(1, "web"))?;
    node.label("shop", Some("ambient"))?;
    node.wait_captured(&web.pod, REPAIR)?;
    node.host.thaw()?;
    let held = || Ok(node.runtime.is_held().then_some(()));
    eventually("the plugin is in the chain", INSTALLED_AGAIN, held)?;
    eventually("nothing is wrong any more", REPAIR, || {
        Ok(problems(&node)?.is_empty().then_some(()))
    })?;
    // A folder that becomes read-only later, with the chain in it, keeps nobody from starting. One that
    // lost the chain cannot get it back until then.
    node.host.freeze()?;
    let job = node.bind(PodSpec::new(1, "job"))?;
    node.add(&job)?.ok()?;
    node.host.thaw()?;
    fs::remove_file(node.runtime.conf_dir.join("00-warren.conflist"))
        .context("remove the chain")?;
    eventually("the chain is back", REPAIR, held)
}

/// `warren check --pre` names it, and so does the agent itself, before anything is touched.
#[test]
fn pins_that_are_not_on_bpffs_are_named() -> anyhow::Result<()> {
    let folder = tempfile::tempdir().context("a folder")?;
    let pins = folder.path().join("pins");
    let options = AgentOptions::default().set("WARREN_BPF_PIN_DIR", pins.display());
    let mut node = EnrollingNode::prepare(options, None)?;
    node.start_api()?;
    let answer = node.agent.preflight()?;
    ensure!(answer.status == 1, "{answer:?}");
    ensure!(answer.stdout.contains("is not on bpffs: mount -t bpf bpf /sys/fs/bpf"), "{answer:?}");
    node.agent.restart()?;
    let ended = eventually("the agent ends", ENDED, || node.agent.ended())?;
    ensure!(ended.code() == Some(1), "{ended}");
    let log = fs::read_to_string(node.agent.log_path()).context("read the log")?;
    let named = format!("{} is not on a BPF file system", pins.display());
    ensure!(log.contains(&named), "{log}");
    ensure!(!node.runtime.is_held(), "the plugin was installed by an agent that cannot work");
    Ok(())
}
