//! What tests ask of a cluster's API, by the tools that people use: kubectl and helm.

use std::ffi::OsStr;
use std::io::Write;
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, ensure};
use serde_json::Value;

use super::kubernetes::Kubernetes;
use super::node::first_process;

impl Kubernetes {
    /// A command with the control plane's network and this machine's files.
    fn outside(&self, program: &str) -> anyhow::Result<Command> {
        let hub = first_process(&self.folder.cgroup().join("hub"), 2)?;
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &hub.to_string(), "--net", "--"])
            .arg(self.folder.path().join("tools/bin").join(program))
            .env("KUBECONFIG", self.folder.path().join("pki/admin.kubeconfig"))
            // Neither reads nor leaves anything of the user's.
            .env("HOME", self.folder.path())
            .stdin(Stdio::null());
        Ok(command)
    }

    /// kubectl as the cluster's admin.
    pub fn kubectl_command(&self) -> anyhow::Result<Command> {
        self.outside("kubectl")
    }

    /// What kubectl said; an error with its complaint if it failed.
    pub fn kubectl(
        &self,
        arguments: impl IntoIterator<Item: AsRef<OsStr>>,
    ) -> anyhow::Result<String> {
        let output = self.kubectl_command()?.args(arguments).output().context("run kubectl")?;
        said("kubectl", &output)
    }

    /// What helm said; an error with its complaint if it failed.
    pub fn helm(&self, arguments: impl IntoIterator<Item: AsRef<OsStr>>) -> anyhow::Result<String> {
        said("helm", &self.outside("helm")?.args(arguments).output().context("run helm")?)
    }

    /// Applies objects written in YAML.
    pub fn apply(&self, yaml: &str) -> anyhow::Result<()> {
        let mut command = self.kubectl_command()?;
        command.args(["apply", "--server-side", "--force-conflicts", "-f", "-"]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("run kubectl")?;
        let mut input = child.stdin.take().context("kubectl's input")?;
        input.write_all(yaml.as_bytes()).context("write to kubectl")?;
        drop(input);
        let output = child.wait_with_output().context("wait for kubectl")?;
        said("kubectl apply", &output).map(drop)
    }

    /// An object, if it exists. Where it has no namespace, the namespace means nothing.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> anyhow::Result<Option<Value>> {
        let arguments = ["get", kind, name, "-n", namespace, "-o", "json", "--ignore-not-found"];
        let text = self.kubectl(arguments)?;
        if text.trim().is_empty() {
            return Ok(None);
        }
        serde_json::from_str(&text).with_context(|| format!("read {kind} {name}"))
    }

    /// Objects of a kind that a selector finds; an empty one finds all.
    pub fn list(&self, kind: &str, namespace: &str, selector: &str) -> anyhow::Result<Vec<Value>> {
        let text = self.kubectl(["get", kind, "-n", namespace, "-l", selector, "-o", "json"])?;
        let list: Value = serde_json::from_str(&text).with_context(|| format!("read {kind}"))?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// What a program in a pod's first container said; an error with its complaint if it failed.
    pub fn exec(&self, namespace: &str, pod: &str, command: &[&str]) -> anyhow::Result<String> {
        let output = self.exec_output(namespace, pod, command)?;
        said(&format!("{} in {namespace}/{pod}", command.join(" ")), &output)
    }

    /// The same, whatever came of it.
    pub fn exec_output(
        &self,
        namespace: &str,
        pod: &str,
        command: &[&str],
    ) -> anyhow::Result<Output> {
        let mut kubectl = self.kubectl_command()?;
        kubectl.args(["exec", "-n", namespace, pod, "--"]).args(command);
        kubectl.output().context("run kubectl exec")
    }

    /// Starts a program in a pod; its input and its output are the child's.
    pub fn start_exec(
        &self,
        namespace: &str,
        pod: &str,
        command: &[&str],
    ) -> anyhow::Result<Child> {
        let mut kubectl = self.kubectl_command()?;
        kubectl.args(["exec", "--stdin", "-n", namespace, pod, "--"]).args(command);
        kubectl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        kubectl.spawn().context("start kubectl exec")
    }
}

/// The output of a command that must succeed.
fn said(what: &str, output: &Output) -> anyhow::Result<String> {
    let complaint = String::from_utf8_lossy(&output.stderr);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{what} ended with {}: {} {}",
        output.status,
        complaint.trim(),
        said.trim()
    );
    Ok(said)
}
