//! Our product on a cluster: installed by helm from its charts, and asked by its own tool.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::Value;

use super::kubernetes::Kubernetes;
use crate::wait::eventually;

/// Where the product is installed.
pub const SYSTEM: &str = "istio-system";
/// The mark of a captured pod, for whoever looks from outside.
const MARK: &str = "ambient.istio.io/redirection";
/// What differs on a test node: images are there already, and nowhere else.
const VALUES: [&str; 1] = ["--set=image.pullPolicy=Never"];
/// Until the pods of a release are Ready.
const ROLLOUT_TIMEOUT: Duration = Duration::from_mins(1);

impl Kubernetes {
    /// The folder of one of our charts.
    #[must_use]
    pub fn chart(name: &str) -> String {
        let charts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/charts");
        charts.join(name).to_string_lossy().into_owned()
    }

    /// Installs both charts, and waits until the product runs.
    pub fn install_product(&self) -> anyhow::Result<()> {
        let chart = Self::chart("warren-crds");
        let definitions = ["upgrade", "--install", "warren-crds", &chart, "--namespace", SYSTEM];
        self.helm(definitions.into_iter().chain(["--create-namespace"]))
            .context("install the definitions")?;
        self.upgrade_product(&[])
    }

    /// Installs or upgrades the product with more values, and waits until it is rolled out.
    pub fn upgrade_product(&self, values: &[&str]) -> anyhow::Result<()> {
        let chart = Self::chart("warren");
        let mut helm = vec!["upgrade", "--install", "warren", &chart, "--namespace", SYSTEM];
        helm.extend(VALUES);
        helm.extend(values);
        self.helm(&helm).context("install the product")?;
        for workload in ["deployment/control-plane", "daemonset/ztunnel"] {
            let rolled_out = self.wait_for_rollout(SYSTEM, workload, ROLLOUT_TIMEOUT);
            rolled_out.map_err(|error| {
                let selector = format!("app={}", workload.rsplit('/').next().unwrap_or_default());
                let log = ["-n", SYSTEM, "logs", "-l", &selector, "--tail=5", "--prefix"];
                let log = self.kubectl(log).unwrap_or_default();
                error.context(format!("{workload} is not rolled out; its log:\n{log}"))
            })?;
        }
        Ok(())
    }

    /// Uninstalls the product; the definitions stay.
    pub fn uninstall_product(&self) -> anyhow::Result<()> {
        let helm = ["uninstall", "warren", "--namespace", SYSTEM, "--wait", "--timeout=90s"];
        self.helm(helm).map(drop)
    }

    /// What `warren` says in the agent of a node.
    pub fn warren(&self, node: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let agent = self.pod_on(node, SYSTEM, "app=ztunnel")?;
        let mut command = vec!["/usr/local/bin/warren"];
        command.extend(arguments);
        self.exec(SYSTEM, &agent, &command)
    }

    /// The same as JSON.
    pub fn warren_json(&self, node: &str, arguments: &[&str]) -> anyhow::Result<Value> {
        let mut all = vec!["-o", "json"];
        all.extend(arguments);
        let said = self.warren(node, &all)?;
        serde_json::from_str(&said).with_context(|| format!("read {said:?}"))
    }

    /// What the agent of a pod's node says about the pod; none: it does not know it.
    pub fn state_of(&self, pod: &Value) -> anyhow::Result<Option<Value>> {
        let pods = self.warren_json(node_of(pod)?, &["pods"])?;
        let pods = pods.as_array().cloned().unwrap_or_default();
        Ok(pods.into_iter().find(|one| one["uid"] == pod["metadata"]["uid"]))
    }

    /// Waits until every pod is verified by the kernel; says how long it took. All of them are asked about
    /// at once, which counts.
    pub fn wait_until_verified(
        &self,
        pods: &[&Value],
        limit: Duration,
    ) -> anyhow::Result<Duration> {
        let start = Instant::now();
        let nodes: BTreeSet<_> = pods.iter().map(|pod| node_of(pod)).collect::<Result<_, _>>()?;
        let mut seen = Vec::new();
        let verified = eventually(&format!("{} pods are verified", pods.len()), limit, || {
            seen.clear();
            for node in &nodes {
                let said = self.warren_json(node, &["pods"])?;
                seen.extend(said.as_array().cloned().unwrap_or_default());
            }
            seen.retain(|one| pods.iter().any(|pod| pod["metadata"]["uid"] == one["uid"]));
            let all = seen.len() == pods.len() && seen.iter().all(is_verified);
            Ok(all.then(|| start.elapsed()))
        });
        let (namespace, _) = pods.first().map(|pod| names(pod)).context("no pods")?;
        verified.with_context(|| format!("agents say {seen:?}{}", self.events(namespace)))
    }

    /// Waits until every pod is verified by the kernel, then until it is marked; says how long the
    /// first took.
    pub fn wait_until_captured(
        &self,
        pods: &[&Value],
        limit: Duration,
    ) -> anyhow::Result<Duration> {
        let took = self.wait_until_verified(pods, limit)?;
        for pod in pods {
            let (namespace, name) = names(pod);
            eventually(&format!("{name} is marked"), limit, || {
                let now = self.get("pod", namespace, name)?.context("the pod is gone")?;
                Ok((now["metadata"]["annotations"][MARK] == "enabled").then_some(()))
            })?;
        }
        Ok(took)
    }

    /// Waits until none of the pods is known to its agent, or marked.
    pub fn wait_until_released(&self, pods: &[&Value], limit: Duration) -> anyhow::Result<()> {
        for pod in pods {
            let (namespace, name) = names(pod);
            eventually(&format!("{name} is released"), limit, || {
                let now = self.get("pod", namespace, name)?.context("the pod is gone")?;
                let is_marked = !now["metadata"]["annotations"][MARK].is_null();
                Ok((!is_marked && self.state_of(pod)?.is_none()).then_some(()))
            })?;
        }
        Ok(())
    }
}

/// Whether an agent says of a pod that a connection through its own hooks has proved it captured.
fn is_verified(pod: &Value) -> bool {
    pod["kernel_verified"] == true && pod["state"]["state"] == "verified"
}

fn node_of(pod: &Value) -> anyhow::Result<&str> {
    pod["spec"]["nodeName"].as_str().context("a pod on a node")
}

/// Namespace and name of an object.
fn names(object: &Value) -> (&str, &str) {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    (text("namespace"), text("name"))
}
