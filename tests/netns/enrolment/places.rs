//! Folders of the node that are full, read-only or not what they should be.

use anyhow::ensure;
use tests::{PodSpec, eventually};

use crate::stage::{REPAIR, Stage, leaves_nothing, told};

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
    // One that runs cannot join either, and its owner is told.
    node.label("later", Some("ambient"))?;
    eventually("its owner is told", REPAIR, || {
        Ok(told(node, &late.pod).contains(&"RECORD_FAILED".to_owned()).then_some(()))
    })?;
    ensure!(!node.is_annotated(&late.pod)?, "announced without a record");
    leaves_nothing(node, &late.pod)?;
    stage.is_untouched()?;
    node.disk.empty()?;
    node.add(&pod)?.ok()?;
    node.wait_captured(&late.pod, REPAIR * 4)?;
    stage.is_untouched()
}
