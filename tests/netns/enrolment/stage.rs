//! What the tests of this suite share.

use std::time::Duration;

use anyhow::{Context, ensure};
use proto::security::Action;
use tests::{AgentOptions, EnrollingNode, House, Pod, PodSpec, eventually, policy, workload};

/// A difference between what is wanted and what there is, is repaired within two seconds; threefold, because
/// suites run beside one another on the same cores.
pub(crate) const REPAIR: Duration = Duration::from_secs(6);
/// The same after an outage of some seconds, whose last pause between two attempts comes first.
pub(crate) const AFTER_OUTAGE: Duration = Duration::from_secs(12);

/// A node with `web` in the namespace `shop`, which is labelled, and `old` in one that is not. Nobody
/// but a pod of the mesh that does not exist may call `web`: who reaches it has come past its hooks.
pub(crate) struct Stage {
    pub(crate) web: House,
    pub(crate) old: House,
    /// Last: the pods are on it.
    pub(crate) node: EnrollingNode,
}

impl Stage {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Self::on(EnrollingNode::new(AgentOptions::default())?)
    }

    /// On a node that is ready.
    pub(crate) fn on(node: EnrollingNode) -> anyhow::Result<Self> {
        node.namespace("legacy", None)?;
        let old = node.house(PodSpec::new(1, "old").namespace("legacy").outside())?;
        node.label("shop", Some("ambient"))?;
        let web = node.house(PodSpec::new(1, "web"))?;
        node.wait_captured(&web.pod, REPAIR)?;
        close(&node, &web.pod);
        let stage = Self { web, old, node };
        eventually("web is closed", REPAIR, || Ok(stage.is_closed().then_some(())))?;
        Ok(stage)
    }

    /// Whether the policy for `web` is in force, which only hooks of its own can bring about.
    pub(crate) fn is_closed(&self) -> bool {
        self.old.greet(&self.web, "knock").is_err()
    }

    /// An error unless `web` is captured as it was.
    pub(crate) fn is_untouched(&self) -> anyhow::Result<()> {
        let shown = self.node.shown(&self.web.pod)?.context("web is not shown")?;
        ensure!(shown.state == admin::PodState::Verified, "{shown:?}");
        ensure!(shown.code.is_none(), "{shown:?}");
        ensure!(self.is_closed(), "web is open");
        ensure!(self.node.is_annotated(&self.web.pod)?, "web is not announced");
        self.web.greet(&self.old, "outbound")
    }
}

/// Lets nobody in.
pub(crate) fn close(node: &EnrollingNode, pod: &Pod) {
    let nobody = policy("nobody", Action::Allow, &["cluster.local/ns/shop/sa/nobody"]);
    let mut closed = workload(pod);
    closed.authorization_policies = vec!["shop/nobody".to_owned()];
    node.xds.update(|update| {
        update.policy(&nobody).workload(closed);
    });
}

/// The code that `warren pods` shows for a pod.
pub(crate) fn code(node: &EnrollingNode, pod: &Pod) -> anyhow::Result<Option<String>> {
    Ok(node.shown(pod)?.and_then(|shown| shown.code))
}

/// Waits until `warren pods` shows a code for a pod.
pub(crate) fn wait_code(node: &EnrollingNode, pod: &Pod, wanted: &str) -> anyhow::Result<()> {
    eventually(&format!("{} has the code {wanted}", pod.name()), REPAIR, || {
        Ok((code(node, pod)?.as_deref() == Some(wanted)).then_some(()))
    })
    .with_context(|| format!("{:?}", node.shown(pod)))
}

/// The reasons of the events that a pod's owner was told.
pub(crate) fn told(node: &EnrollingNode, pod: &Pod) -> Vec<String> {
    let events = node.api.events();
    let of_pod = events.iter().filter(|event| event["regarding"]["uid"] == pod.uid());
    of_pod.filter_map(|event| Some(event["reason"].as_str()?.to_owned())).collect()
}

/// How often the agent's log has a message.
pub(crate) fn logged(node: &EnrollingNode, message: &str) -> usize {
    node.agent.log().iter().filter(|line| line["message"] == message).count()
}

/// What the agent says is wrong with itself.
pub(crate) fn problems(node: &EnrollingNode) -> anyhow::Result<String> {
    Ok(node.agent.status()?.problems.join("\n"))
}

/// An error unless nothing of a pod is attached or recorded.
pub(crate) fn leaves_nothing(node: &EnrollingNode, pod: &Pod) -> anyhow::Result<()> {
    ensure!(!node.is_captured(pod)?, "{:?}", node.shown(pod));
    let pins = node.agent.setting("WARREN_BPF_PIN_DIR").context("no folder of pins")?;
    let found = holding(pins.as_ref(), pod.uid())?;
    ensure!(found.is_empty(), "pins are left: {found:?}");
    let run = node.agent.setting("WARREN_RUN_DIR").context("no run folder")?;
    let record = std::path::Path::new(run).join(format!("pods/{}.json", pod.uid()));
    ensure!(!record.exists(), "a record is left");
    Ok(())
}

/// What is below a folder and has a text in its name.
fn holding(folder: &std::path::Path, text: &str) -> anyhow::Result<Vec<std::path::PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let entry = entry.context("list a folder")?;
        if entry.file_name().to_string_lossy().contains(text) {
            found.push(entry.path());
        } else if entry.file_type().context("look at a file")?.is_dir() {
            found.extend(holding(&entry.path(), text)?);
        }
    }
    Ok(found)
}
