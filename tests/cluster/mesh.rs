//! What an agent says about the pods of its node.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::Value;
use tests::{Kubernetes, eventually};

use crate::stage::SYSTEM;

/// The mark of a captured pod, for whoever looks from outside.
pub(crate) const MARK: &str = "ambient.istio.io/redirection";

/// The answer of `warren` in the agent of a node, as JSON.
pub(crate) fn warren(
    cluster: &Kubernetes,
    node: &str,
    arguments: &[&str],
) -> anyhow::Result<Value> {
    let agent = cluster.pod_on(node, SYSTEM, "app=ztunnel")?;
    let mut command = vec!["/usr/local/bin/warren", "-o", "json"];
    command.extend(arguments);
    let said = cluster.exec(SYSTEM, &agent, &command)?;
    serde_json::from_str(&said).with_context(|| format!("read {said:?}"))
}

/// What the agent of a pod's node says about the pod; none: it does not know it.
pub(crate) fn state_of(cluster: &Kubernetes, pod: &Value) -> anyhow::Result<Option<Value>> {
    let node = pod["spec"]["nodeName"].as_str().context("a pod on a node")?;
    let pods = warren(cluster, node, &["pods"])?;
    let pods = pods.as_array().cloned().unwrap_or_default();
    Ok(pods.into_iter().find(|one| one["uid"] == pod["metadata"]["uid"]))
}

/// Waits until every pod is verified by the kernel and marked; says how long it took.
pub(crate) fn wait_until_captured(
    cluster: &Kubernetes,
    pods: &[&Value],
    limit: Duration,
) -> anyhow::Result<Duration> {
    let start = Instant::now();
    for pod in pods {
        let (namespace, name) = names(pod);
        let mut seen = Value::Null;
        let captured = eventually(&format!("{name} is captured"), limit, || {
            seen = state_of(cluster, pod)?.unwrap_or_default();
            Ok((seen["state"]["state"] == "verified").then_some(()))
        });
        captured.with_context(|| format!("the agent says {seen}{}", cluster.events(namespace)))?;
    }
    let took = start.elapsed();
    for pod in pods {
        let (namespace, name) = names(pod);
        eventually(&format!("{name} is marked"), limit, || {
            let now = cluster.get("pod", namespace, name)?.context("the pod is gone")?;
            Ok((now["metadata"]["annotations"][MARK] == "enabled").then_some(()))
        })?;
    }
    Ok(took)
}

/// Waits until none of the pods is known to its agent, or marked.
pub(crate) fn wait_until_released(
    cluster: &Kubernetes,
    pods: &[&Value],
    limit: Duration,
) -> anyhow::Result<()> {
    for pod in pods {
        let (namespace, name) = names(pod);
        eventually(&format!("{name} is released"), limit, || {
            let now = cluster.get("pod", namespace, name)?.context("the pod is gone")?;
            let is_marked = !now["metadata"]["annotations"][MARK].is_null();
            Ok((!is_marked && state_of(cluster, pod)?.is_none()).then_some(()))
        })?;
    }
    Ok(())
}

/// Namespace and name of an object.
pub(crate) fn names(object: &Value) -> (&str, &str) {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    (text("namespace"), text("name"))
}

/// Fails unless every question of a report was answered.
pub(crate) fn all_answered(report: &Value) -> anyhow::Result<()> {
    ensure!(report["failed"] == 0 && report["answered"] != 0, "{report}");
    Ok(())
}

/// Fails unless no question of a report was answered.
pub(crate) fn none_answered(report: &Value) -> anyhow::Result<()> {
    ensure!(report["answered"] == 0 && report["failed"] != 0, "{report}");
    Ok(())
}
