//! What passes between the nodes of a cluster, and inside of one, as bytes.

use std::path::PathBuf;

use netns::NetnsFd;

use super::kubernetes::Kubernetes;
use super::node::{KubeNode, first_process};
use crate::sniffer::Sniffer;

impl Kubernetes {
    /// Captures every frame on the wire between the nodes from now on, also of a node that comes back. The
    /// control plane's own traffic is there, too.
    pub fn sniff(&self) -> anyhow::Result<Sniffer> {
        everywhere(first_process(&self.folder.cgroup().join("hub"), 2)?, "the wire")
    }
}

impl KubeNode {
    /// Captures every frame on every interface of the node itself, from now until it ends. What passes
    /// inside of its pods is not there.
    pub fn sniff(&self) -> anyhow::Result<Sniffer> {
        everywhere(self.first_process()?, self.name())
    }
}

fn everywhere(process: u32, name: &str) -> anyhow::Result<Sniffer> {
    let namespace = NetnsFd::open(&PathBuf::from(format!("/proc/{process}/ns/net")))?;
    Sniffer::everywhere(&namespace, name)
}
