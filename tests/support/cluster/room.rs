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
        self.start(name, node)?;
        self.ready(name)
    }

    /// The same, not waited for.
    pub fn start(&self, name: &str, node: &str) -> anyhow::Result<()> {
        self.apply(&pod(name, node))
    }

    /// Waits until a pod that was started is Ready.
    pub fn ready(&self, name: &str) -> anyhow::Result<Value> {
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

    /// Has a pod begin to ask; what became of it is asked for later.
    pub fn start_asking(
        &self,
        pod: &str,
        target: &str,
        questions: Questions,
    ) -> anyhow::Result<Asking> {
        let Questions { at_once, each, every } = questions;
        let every = every.as_millis();
        let numbers = [at_once.to_string(), each.to_string(), every.to_string()];
        let [at_once, each, every] = &numbers;
        let command = ["--at-once", at_once, "--count", each, "--every", every];
        let command: Vec<_> = ["/bin/pod", "ask", target].into_iter().chain(command).collect();
        Ok(Asking(self.cluster.start_exec(&self.name, pod, &command)?))
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

/// Questions that go on for a while, each over a connection of its own.
#[derive(Clone, Copy, Debug)]
pub struct Questions {
    /// How many ask at a time.
    pub at_once: u32,
    /// How often each of them asks.
    pub each: u32,
    /// Between the beginnings of two of one.
    pub every: Duration,
}

/// Questions under way.
#[derive(Debug)]
pub struct Asking(Child);

impl Asking {
    /// Whether they go on.
    pub fn goes_on(&mut self) -> anyhow::Result<bool> {
        Ok(self.0.try_wait().context("look at questions")?.is_none())
    }

    /// Waits for their end; what they came to, as [`Room::ask`] says it.
    pub fn report(self) -> anyhow::Result<Value> {
        let output = self.0.wait_with_output().context("wait for questions")?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "asking failed: {complaint}");
        serde_json::from_slice(&output.stdout).context("read a report")
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
    pub fn end(self) -> anyhow::Result<()> {
        let report = self.report()?;
        ensure!(report["broke"].is_null(), "a connection that was open broke: {report}");
        Ok(())
    }

    /// Waits for its end, whichever: `beats` that came back, for how long (`held_ms`), and why it `broke`.
    pub fn report(mut self) -> anyhow::Result<Value> {
        let mut said = String::new();
        self.output.read_to_string(&mut said).context("read about a held connection")?;
        self.child.wait().context("wait for a held connection")?;
        serde_json::from_str(&said).with_context(|| format!("read {said:?}"))
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
