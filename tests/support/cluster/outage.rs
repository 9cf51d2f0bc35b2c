//! An API server that is away for a while, and a node's containers without it.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;

use super::kubernetes::Kubernetes;
use super::node::KubeNode;
use crate::wait::{eventually, wait_until};

/// How long its process may take to end.
const OFF_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take to answer again.
const ON_TIMEOUT: Duration = Duration::from_mins(1);

/// An API server that was stopped. Dropping it lets the server start again.
#[derive(Debug)]
pub struct Outage<'c> {
    cluster: &'c Kubernetes,
    switch: PathBuf,
}

impl Kubernetes {
    /// Kills the API server and keeps it off.
    pub fn stop_api_server(&self) -> anyhow::Result<Outage<'_>> {
        let control = self.path().join("control");
        let outage = Outage { cluster: self, switch: control.join("api.off") };
        fs::write(&outage.switch, "").context("keep the API server off")?;
        let is_off = || !control.join("api.up").exists();
        ensure!(wait_until(OFF_TIMEOUT, is_off), "the API server does not end");
        Ok(outage)
    }

    /// What a node's kubelet has logged so far.
    pub fn kubelet_log(&self, node: &KubeNode) -> anyhow::Result<String> {
        let path = self.path().join("logs").join(format!("{}-kubelet.log", node.name()));
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }
}

impl Outage<'_> {
    /// Lets it start, and waits until it answers.
    pub fn end(self) -> anyhow::Result<()> {
        let cluster = self.cluster;
        drop(self);
        eventually("the API server answers again", ON_TIMEOUT, || {
            Ok(cluster.kubectl(["get", "--raw", "/readyz"]).ok().map(drop))
        })
    }
}

impl Drop for Outage<'_> {
    fn drop(&mut self) {
        // Without it the server is on already.
        let _ = fs::remove_file(&self.switch);
    }
}

impl KubeNode {
    /// What a program in a pod's first container said, by way of the container runtime alone.
    pub fn exec(&self, pod: &Value, command: &[&str]) -> anyhow::Result<String> {
        let id = pod["status"]["containerStatuses"][0]["containerID"].as_str();
        let id = id.and_then(|id| id.strip_prefix("containerd://")).context("a container's id")?;
        let ctr = ["--namespace", "k8s.io", "tasks", "exec", "--exec-id", "test", id];
        self.run("ctr", ctr.iter().chain(command))
    }

    /// Kills a pod's sandbox: the kubelet must make it another one.
    pub fn kill_sandbox(&self, pod: &Value) -> anyhow::Result<()> {
        let uid = pod["metadata"]["uid"].as_str().context("a pod's uid")?;
        let killed = self.shell(&format!(
            "for id in $(ctr --namespace k8s.io containers list --quiet \
               'labels.\"io.kubernetes.pod.uid\"=={uid},labels.\"io.cri-containerd.kind\"==sandbox'); do \
               ctr --namespace k8s.io tasks kill --signal SIGKILL $id && echo $id; done"
        ))?;
        ensure!(killed.lines().count() == 1, "sandboxes that were killed: {killed:?}");
        Ok(())
    }
}
