//! A node: a namespace on the wire that forwards for its pods.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use crate::actor::{Actor, ActorOptions};
use crate::cgroup;
use crate::namespace::Namespace;

/// One node of a world. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Node {
    pub(crate) number: u8,
    pub(crate) namespace: Namespace,
    pub(crate) cgroup: PathBuf,
}

impl Node {
    /// Counted from 1.
    #[must_use]
    pub fn number(&self) -> u8 {
        self.number
    }

    /// `node-<number>`: `NODE_NAME` of its agent.
    #[must_use]
    pub fn name(&self) -> String {
        format!("node-{}", self.number)
    }

    /// Its namespace: the host's, for its pods.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The cgroup under which its agent and its host processes live.
    #[must_use]
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// The top of the world's cgroups, the nodes' and the pods': what is the root for its agent.
    pub(crate) fn hierarchy(&self) -> &Path {
        self.cgroup.parent().unwrap_or(&self.cgroup)
    }

    /// Its address on the wire.
    #[must_use]
    pub fn ipv4(&self) -> IpAddr {
        Ipv4Addr::new(172, 30, 0, self.number).into()
    }

    /// Its address on the wire.
    #[must_use]
    pub fn ipv6(&self) -> IpAddr {
        Ipv6Addr::new(0xfd00, 0xffff, 0, 0, 0, 0, 0, self.number.into()).into()
    }

    /// The gateway of its pods, on each of its pod interfaces.
    pub(crate) fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.number, 255, 254)
    }

    /// A host process, such as a kubelet, in the cgroup `<name>` below the node's, made if missing.
    pub fn actor(&self, name: &str) -> anyhow::Result<Actor> {
        let path = self.cgroup.join(name);
        if !path.exists() {
            cgroup::create(&path)?;
        }
        Actor::start(
            &format!("{}/{name}", self.name()),
            &ActorOptions {
                namespace: self.namespace.clone(),
                cgroup: path,
                capabilities: None,
                hidden: Vec::new(),
            },
        )
    }
}
