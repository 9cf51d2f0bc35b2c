//! A namespace of a test, and the pods that talk in it.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdout};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;

use super::kubernetes::Kubernetes;

/// What a test's objects name as their namespace.
const PLACEHOLDER: &str = "NAMESPACE";
/// Questions of one that asks, and seconds that a connection is held, if nobody ends them: far more than
/// what is done meanwhile takes.
const QUESTIONS_MAX: u32 = 100_000;
const HELD_SECONDS_MAX: u64 = 300;
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

    /// Removes an object of it.
    pub fn remove(&self, kind: &str, name: &str) -> anyhow::Result<()> {
        self.cluster.kubectl(["-n", &self.name, "delete", kind, name]).map(drop)
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

    /// Has a pod ask until it is told to end.
    pub fn start_asking(
        &self,
        pod: &str,
        target: &str,
        questions: Questions,
    ) -> anyhow::Result<Asking> {
        let Questions { at_once, every } = questions;
        let (at_once, every) = (at_once.to_string(), every.as_millis().to_string());
        let count = QUESTIONS_MAX.to_string();
        let command = ["/bin/pod", "ask", target, "--until-told", "--count", &count];
        let pace = ["--at-once", &at_once, "--every", &every];
        let command: Vec<_> = command.into_iter().chain(pace).collect();
        Ok(Asking(self.cluster.start_exec(&self.name, pod, &command)?))
    }

    /// Has a pod hold a connection to `HOST:PORT` until it is told to end; it is open on return.
    pub fn hold(&self, pod: &str, target: &str) -> anyhow::Result<Held> {
        let seconds = HELD_SECONDS_MAX.to_string();
        let command = ["/bin/pod", "hold", target, "--seconds", &seconds];
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
    /// Between the beginnings of two of one.
    pub every: Duration,
}

/// Questions under way.
#[derive(Debug)]
pub struct Asking(Child);

impl Asking {
    /// Ends them; what they came to, as [`Room::ask`] says it. An error if they had ended already: what was
    /// done meanwhile was not done under questions.
    pub fn end(mut self) -> anyhow::Result<Value> {
        tell(&mut self.0);
        let output = self.0.wait_with_output().context("wait for questions")?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "asking failed: {complaint}");
        let report: Value = serde_json::from_slice(&output.stdout).context("read a report")?;
        ensure!(report["told"] == true, "questions had ended before: {report}");
        Ok(report)
    }
}

/// Tells what a pod does to end. Where it has ended nobody hears: its report says so.
fn tell(child: &mut Child) {
    if let Some(mut input) = child.stdin.take() {
        let _ = input.write_all(b"enough\n");
    }
}

/// A connection that a pod holds.
#[derive(Debug)]
pub struct Held {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Held {
    /// Ends it; an error with the reason if it did not last until now.
    pub fn end(self) -> anyhow::Result<()> {
        self.end_after(Duration::MAX)
    }

    /// The same, where it may have broken once it was this old.
    pub fn end_after(mut self, least: Duration) -> anyhow::Result<()> {
        tell(&mut self.child);
        let report = self.report()?;
        let lasted = report["told"] == true && report["broke"].is_null();
        let lived = Duration::from_millis(report["held_ms"].as_u64().unwrap_or_default());
        ensure!(lasted || lived >= least, "a connection that was open ended: {report}");
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
