//! A namespace of a test, and the pods that talk in it.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;

use super::kubernetes::Kubernetes;

/// What a test's objects name as their namespace.
const PLACEHOLDER: &str = "NAMESPACE";
/// Until a pod whose image is there runs and is Ready.
const START_TIMEOUT: Duration = Duration::from_mins(1);

/// A namespace. Dropping it removes it with all that is in it.
#[derive(Debug)]
pub struct Room<'c> {
    cluster: &'c Kubernetes,
    name: String,
}

impl<'c> Room<'c> {
    /// Makes it, in the mesh or not.
    pub fn new(cluster: &'c Kubernetes, name: &str, in_the_mesh: bool) -> anyhow::Result<Self> {
        let mode = if in_the_mesh { "ambient" } else { "none" };
        cluster.apply(&format!(
            "apiVersion: v1\nkind: Namespace\n\
             metadata: {{name: {name}, labels: {{istio.io/dataplane-mode: {mode}}}}}\n"
        ))?;
        Ok(Self { cluster, name: name.to_owned() })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Applies objects whose namespace is `NAMESPACE`.
    pub fn apply(&self, yaml: &str) -> anyhow::Result<()> {
        self.cluster.apply(&yaml.replace(PLACEHOLDER, &self.name))
    }

    /// Puts the namespace into the mesh, or takes it out.
    pub fn label(&self, in_the_mesh: bool) -> anyhow::Result<()> {
        let mode = if in_the_mesh { "ambient" } else { "none" };
        let label = format!("istio.io/dataplane-mode={mode}");
        self.cluster.kubectl(["label", "--overwrite", "namespace", &self.name, &label])?;
        Ok(())
    }

    /// Makes a pod on a node that serves and asks, under an account of its own name; waits until it is
    /// Ready.
    pub fn pod(&self, name: &str, node: &str) -> anyhow::Result<Value> {
        self.apply(&pod(name, node))?;
        let selector = format!("app={name}");
        let pods = self.cluster.wait_for_pods(&self.name, &selector, 1, START_TIMEOUT)?;
        pods.into_iter().next().context("a pod that is Ready")
    }

    /// What became of so many questions of a pod to `HOST:PORT`: `answered`, `failed`, `first_error`,
    /// the last `answer`.
    pub fn ask(&self, pod: &str, target: &str, count: u32) -> anyhow::Result<Value> {
        let command = ["/bin/pod", "ask", target, "--count", &count.to_string()];
        let said = self.cluster.exec(&self.name, pod, &command)?;
        serde_json::from_str(&said).with_context(|| format!("read {said:?}"))
    }

    /// Has a pod hold a connection to `HOST:PORT` for so many seconds; it is open on return.
    pub fn hold(&self, pod: &str, target: &str, seconds: u64) -> anyhow::Result<Held> {
        let command = ["/bin/pod", "hold", target, "--seconds", &seconds.to_string()];
        let mut child = self.cluster.start_exec(&self.name, pod, &command)?;
        let mut output = BufReader::new(child.stdout.take().context("the pod's output")?);
        let mut line = String::new();
        output.read_line(&mut line).context("hear from a pod")?;
        ensure!(line.trim() == "open", "the pod did not connect: {line:?}");
        Ok(Held { child, output })
    }
}

/// A connection that a pod holds.
#[derive(Debug)]
pub struct Held {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Held {
    /// Waits for its end; an error with the reason if it broke.
    pub fn end(mut self) -> anyhow::Result<()> {
        let mut said = String::new();
        self.output.read_to_string(&mut said).context("read about a held connection")?;
        let mut complaint = String::new();
        if let Some(mut errors) = self.child.stderr.take() {
            errors.read_to_string(&mut complaint).context("read about a held connection")?;
        }
        let status = self.child.wait().context("wait for a held connection")?;
        ensure!(status.success(), "a connection that was open broke: {}", complaint.trim());
        Ok(())
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        // Not waited for: the next test has a room of its own.
        let delete = ["delete", "namespace", &self.name, "--wait=false", "--ignore-not-found"];
        if let Err(error) = self.cluster.kubectl(delete) {
            eprintln!("namespace {}: {error:#}", self.name);
        }
    }
}

/// A pod with its own account, whose probe is an HTTP one.
fn pod(name: &str, node: &str) -> String {
    format!(
        r"apiVersion: v1
kind: ServiceAccount
metadata: {{name: {name}, namespace: {PLACEHOLDER}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {PLACEHOLDER}, labels: {{app: {name}}}}}
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
