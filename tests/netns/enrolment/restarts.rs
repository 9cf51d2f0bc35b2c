//! An agent that ends and starts again while the API server is away.

use anyhow::ensure;
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
