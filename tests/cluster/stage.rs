//! What most scenarios begin with: the charts installed, and a namespace with pods in it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use parking_lot::Mutex;
use serde_json::Value;
use tests::Kubernetes;

/// Where the product is installed.
pub(crate) const SYSTEM: &str = "istio-system";
/// Until a pod of an image that is there runs and is Ready.
pub(crate) const START: Duration = Duration::from_mins(1);
/// Until what the control plane tells decides: agents hear of a change within a second.
pub(crate) const SETTLE: Duration = Duration::from_secs(10);
/// Where the kubelet of a test node is; see tests/cluster/nodes/node.sh.
const TEST_VALUES: [&str; 2] =
    ["--set=agent.kubeletCgroup=kubelet", "--set=image.pullPolicy=Never"];

/// Whether the charts are installed now. One test at a time looks.
static INSTALLED: Mutex<bool> = Mutex::new(false);

/// The shared cluster with both charts, installed by helm if nobody did.
pub(crate) fn installed() -> anyhow::Result<&'static Kubernetes> {
    let cluster = Kubernetes::shared()?;
    let mut installed = INSTALLED.lock();
    if !*installed {
        install(cluster)?;
        *installed = true;
    }
    Ok(cluster)
}

/// Uninstalls the product; the definitions stay.
pub(crate) fn uninstall(cluster: &Kubernetes) -> anyhow::Result<()> {
    let mut installed = INSTALLED.lock();
    *installed = false;
    cluster.helm(["uninstall", "warren", "--namespace", SYSTEM, "--wait", "--timeout=90s"])?;
    Ok(())
}

fn install(cluster: &Kubernetes) -> anyhow::Result<()> {
    let definitions = chart("warren-crds");
    let into = ["--namespace", SYSTEM, "--create-namespace"];
    let mut helm = vec!["upgrade", "--install", "warren-crds", definitions.as_str()];
    helm.extend(into);
    cluster.helm(&helm).context("install the definitions")?;
    upgrade(cluster, &[])
}

/// Installs or upgrades the product with more values, and waits until it is rolled out.
pub(crate) fn upgrade(cluster: &Kubernetes, values: &[&str]) -> anyhow::Result<()> {
    let product = chart("warren");
    let mut helm = vec!["upgrade", "--install", "warren", product.as_str()];
    helm.extend(["--namespace", SYSTEM, "--create-namespace"]);
    helm.extend(TEST_VALUES);
    helm.extend(values);
    cluster.helm(&helm).context("install the product")?;
    for workload in ["deployment/control-plane", "daemonset/ztunnel"] {
        let rolled_out = cluster.wait_for_rollout(SYSTEM, workload, START);
        rolled_out.map_err(|error| {
            let selector = format!("app={}", workload.rsplit('/').next().unwrap_or_default());
            let log = ["-n", SYSTEM, "logs", "-l", &selector, "--tail=5", "--prefix"];
            let log = cluster.kubectl(log).unwrap_or_default();
            error.context(format!("{workload} is not rolled out; its log:\n{log}"))
        })?;
    }
    Ok(())
}

pub(crate) fn chart(name: &str) -> String {
    let charts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/charts");
    charts.join(name).to_string_lossy().into_owned()
}

/// A file of the repository.
pub(crate) fn example(name: &str) -> anyhow::Result<String> {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples").join(name);
    std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

/// A namespace of a test, removed at its end whatever becomes of the test.
pub(crate) struct Room {
    pub(crate) cluster: &'static Kubernetes,
    pub(crate) name: String,
}

impl Room {
    /// Makes it, in the mesh or not.
    pub(crate) fn new(
        cluster: &'static Kubernetes,
        name: &str,
        in_the_mesh: bool,
    ) -> anyhow::Result<Self> {
        let mode = if in_the_mesh { "ambient" } else { "none" };
        cluster.apply(&format!(
            "apiVersion: v1\nkind: Namespace\n\
             metadata: {{name: {name}, labels: {{istio.io/dataplane-mode: {mode}}}}}\n"
        ))?;
        Ok(Self { cluster, name: name.to_owned() })
    }

    /// Applies objects that name no namespace.
    pub(crate) fn apply(&self, yaml: &str) -> anyhow::Result<()> {
        let named = yaml.replace("NAMESPACE", &self.name);
        self.cluster.apply(&named)
    }

    /// Puts the namespace into the mesh, or takes it out.
    pub(crate) fn label(&self, in_the_mesh: bool) -> anyhow::Result<()> {
        let mode = if in_the_mesh { "ambient" } else { "none" };
        let label = format!("istio.io/dataplane-mode={mode}");
        self.cluster.kubectl(["label", "--overwrite", "namespace", &self.name, &label])?;
        Ok(())
    }

    /// A pod on a node that serves and asks; waits until it is Ready.
    pub(crate) fn pod(&self, name: &str, node: &str) -> anyhow::Result<Value> {
        self.apply(&pod(name, node))?;
        let selector = format!("app={name}");
        let pods = self.cluster.wait_for_pods(&self.name, &selector, 1, START)?;
        pods.into_iter().next().context("a pod that is Ready")
    }

    /// What a pod's program says about questions to a target, as JSON.
    pub(crate) fn ask(&self, pod: &str, target: &str, count: u32) -> anyhow::Result<Value> {
        let (count, target) = (count.to_string(), target.to_owned());
        let said =
            self.cluster.exec(&self.name, pod, &["/bin/pod", "ask", &target, "--count", &count])?;
        serde_json::from_str(&said).with_context(|| format!("read {said:?}"))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // Not waited for: the next test has a room of its own.
        let delete = ["delete", "namespace", &self.name, "--wait=false", "--ignore-not-found"];
        if let Err(error) = self.cluster.kubectl(delete) {
            eprintln!("namespace {}: {error:#}", self.name);
        }
    }
}

/// A pod with its own account, whose probe is an HTTP one.
pub(crate) fn pod(name: &str, node: &str) -> String {
    format!(
        r"apiVersion: v1
kind: ServiceAccount
metadata: {{name: {name}, namespace: NAMESPACE}}
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: NAMESPACE, labels: {{app: {name}}}}}
spec:
  nodeName: {node}
  serviceAccountName: {name}
  terminationGracePeriodSeconds: 0
  containers:
  - name: pod
    image: warren.test/pod:test
    imagePullPolicy: Never
    args: [serve]
    ports: [{{name: http, containerPort: 8080}}]
    readinessProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1}}
"
    )
}

/// The address of a pod that is Ready.
pub(crate) fn address(pod: &Value) -> &str {
    pod["status"]["podIP"].as_str().unwrap_or_default()
}
