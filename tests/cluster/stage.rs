//! What most scenarios begin with, and words that they share.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use parking_lot::Mutex;
use serde_json::Value;
use tests::{Kubernetes, Room, eventually};

/// Until a pod of an image that is there runs and is Ready.
pub(crate) const START: Duration = Duration::from_mins(1);
/// Until what the control plane tells decides: agents hear of a change within a second.
pub(crate) const SETTLE: Duration = Duration::from_secs(10);
/// From a label to captured pods.
pub(crate) const PROMISED: Duration = Duration::from_secs(2);
/// The same where it is not what is tested: asking takes a part of a second.
pub(crate) const CAPTURED: Duration = Duration::from_secs(3);
/// Refuses plaintext in a namespace.
pub(crate) const STRICT: &str = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
                                 metadata: {name: strict, namespace: NAMESPACE}\n\
                                 spec: {mtls: {mode: STRICT}}\n";

/// Whether the charts are installed now. One test at a time looks.
static INSTALLED: Mutex<bool> = Mutex::new(false);

/// The shared cluster with both charts, installed by helm if nobody did.
pub(crate) fn installed() -> anyhow::Result<&'static Kubernetes> {
    let cluster = Kubernetes::shared()?;
    let mut installed = INSTALLED.lock();
    if !*installed {
        cluster.install_product()?;
        *installed = true;
    }
    Ok(cluster)
}

/// Two pods on two nodes, captured.
pub(crate) fn pair(
    cluster: &'static Kubernetes,
    name: &str,
) -> anyhow::Result<(Room<'static>, Value, Value)> {
    let room = Room::new(cluster, name, true)?;
    let server = room.pod("server", "node1")?;
    let client = room.pod("client", "node2")?;
    cluster.wait_until_captured(&[&server, &client], CAPTURED)?;
    Ok((room, server, client))
}

/// Uninstalls the product; whoever needs it next installs it again.
pub(crate) fn uninstall(cluster: &Kubernetes) -> anyhow::Result<()> {
    *INSTALLED.lock() = false;
    cluster.uninstall_product()
}

/// Pods of the Deployment `web`, and the selector that finds them.
pub(crate) const WEB_PODS: usize = 4;
pub(crate) const WEB: &str = "app=web";

/// A Deployment `web` behind a Service of its name, half of its pods on each node. Their first process is
/// this line of shell. One that is to end serves on until it is killed: somebody may not have heard yet.
pub(crate) fn web(line: &str) -> String {
    format!(
        r"apiVersion: apps/v1
kind: Deployment
metadata: {{name: web, namespace: NAMESPACE}}
spec:
  replicas: {WEB_PODS}
  strategy: {{rollingUpdate: {{maxSurge: 2, maxUnavailable: 0}}}}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 5
      topologySpreadConstraints:
      - maxSkew: 1
        topologyKey: kubernetes.io/hostname
        whenUnsatisfiable: DoNotSchedule
        labelSelector: {{matchLabels: {{app: web}}}}
        matchLabelKeys: [pod-template-hash]
      containers:
      - name: pod
        image: warren.test/pod:test
        imagePullPolicy: Never
        command: [/bin/sh, -c, {line:?}]
        ports: [{{name: http, containerPort: 8080}}]
        readinessProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: NAMESPACE}}
spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: http}}]}}
"
    )
}

/// Waits until all pods of `web` are Ready, on both nodes, and those that were replaced are gone.
pub(crate) fn web_pods(cluster: &Kubernetes, room: &Room<'_>) -> anyhow::Result<Vec<Value>> {
    cluster.wait_for_rollout(room.name(), "deployment/web", START)?;
    let pods = eventually("only the pods that are to stay are there", START, || {
        let pods = cluster.list("pods", room.name(), WEB)?;
        Ok((pods.len() == WEB_PODS).then_some(pods))
    })?;
    for node in cluster.nodes() {
        let here = pods.iter().any(|pod| pod["spec"]["nodeName"] == node.name());
        ensure!(here, "none is on {}", node.name());
    }
    Ok(pods)
}

/// One of the example policies.
pub(crate) fn example(name: &str) -> anyhow::Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples").join(name);
    std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

/// The address of a pod that is Ready, with a port.
pub(crate) fn at(pod: &Value, port: u16) -> String {
    format!("{}:{port}", pod["status"]["podIP"].as_str().unwrap_or_default())
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
