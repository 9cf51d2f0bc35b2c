//! A pod: a namespace with `eth0` to its node, and a cgroup with a container's leaf below it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::actor::{Actor, ActorOptions};
use crate::namespace::Namespace;

/// What to make.
#[derive(Clone, Debug)]
pub struct PodSpec {
    pub(crate) node: u8,
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) account: String,
    pub(crate) hbone: bool,
    pub(crate) maker: Maker,
}

/// Whose way of making cgroups a pod has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Maker {
    /// The tests' own.
    World,
    /// A kubelet's, with the driver `cgroupfs`.
    Kubelet,
}

impl PodSpec {
    /// A pod of the mesh on a node (counted from 1), in namespace `shop`, with a service account
    /// of its own name. Names are unique in a world.
    #[must_use]
    pub fn new(node: u8, name: &str) -> Self {
        Self {
            node,
            name: name.to_owned(),
            namespace: "shop".to_owned(),
            account: name.to_owned(),
            hbone: true,
            maker: Maker::World,
        }
    }

    /// In another namespace.
    #[must_use]
    pub fn namespace(self, namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), ..self }
    }

    /// With another service account.
    #[must_use]
    pub fn account(self, account: &str) -> Self {
        Self { account: account.to_owned(), ..self }
    }

    /// With a uid and a cgroup as a kubelet makes them, so that an agent finds it by itself.
    #[must_use]
    pub fn of_kubelet(self) -> Self {
        Self { maker: Maker::Kubelet, ..self }
    }

    /// Not to be enrolled: protocol TCP in the mesh file.
    #[must_use]
    pub fn outside(self) -> Self {
        Self { hbone: false, ..self }
    }
}

/// A pod of a world. Cheap to clone; removed with its world or by `World::remove_pod`.
#[derive(Clone, Debug)]
pub struct Pod {
    pub(crate) spec: PodSpec,
    pub(crate) number: u16,
    pub(crate) uid: String,
    pub(crate) netns: Namespace,
    pub(crate) cgroup: PathBuf,
    /// The world's folder, which no pod may see.
    pub(crate) folder: PathBuf,
}

impl Pod {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Its Kubernetes namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.spec.namespace
    }

    /// Its service account.
    #[must_use]
    pub fn account(&self) -> &str {
        &self.spec.account
    }

    /// Its node, counted from 1.
    #[must_use]
    pub fn node(&self) -> u8 {
        self.spec.node
    }

    /// Whether the mesh file says HBONE.
    #[must_use]
    pub fn is_hbone(&self) -> bool {
        self.spec.hbone
    }

    /// The instance, for `warren pods enrol --uid`.
    #[must_use]
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// `NAMESPACE/NAME/SERVICE_ACCOUNT`.
    #[must_use]
    pub fn workload(&self) -> String {
        format!("{}/{}/{}", self.spec.namespace, self.spec.name, self.spec.account)
    }

    /// Its SPIFFE identity in the default trust domain.
    #[must_use]
    pub fn identity(&self) -> String {
        format!("spiffe://cluster.local/ns/{}/sa/{}", self.spec.namespace, self.spec.account)
    }

    /// Its address.
    #[must_use]
    pub fn ipv4(&self) -> IpAddr {
        let [high, low] = self.number.to_be_bytes();
        Ipv4Addr::new(10, self.spec.node, high, low).into()
    }

    /// Its address.
    #[must_use]
    pub fn ipv6(&self) -> IpAddr {
        Ipv6Addr::new(0xfd00, self.spec.node.into(), 0, 0, 0, 0, 0, self.number).into()
    }

    /// An IPv4 socket address of it.
    #[must_use]
    pub fn at(&self, port: u16) -> SocketAddr {
        (self.ipv4(), port).into()
    }

    /// An IPv6 socket address of it.
    #[must_use]
    pub fn at_v6(&self, port: u16) -> SocketAddr {
        (self.ipv6(), port).into()
    }

    /// Its network namespace.
    #[must_use]
    pub fn netns(&self) -> &Namespace {
        &self.netns
    }

    /// The pod's cgroup: what is enrolled.
    #[must_use]
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// The container's cgroup, a leaf below: where its processes are.
    #[must_use]
    pub fn container(&self) -> PathBuf {
        self.cgroup.join("c")
    }

    /// The name of its interface in its node's namespace.
    #[must_use]
    pub fn host_interface(&self) -> String {
        format!("p{}", self.number)
    }

    /// Where an ordinary actor of this pod runs.
    #[must_use]
    pub fn actor_options(&self) -> ActorOptions {
        ActorOptions {
            namespace: self.netns.clone(),
            cgroup: self.container(),
            capabilities: None,
            hidden: vec![self.folder.clone()],
        }
    }

    /// A process of the pod's container, as root with every capability.
    pub fn actor(&self) -> anyhow::Result<Actor> {
        Actor::start(self.name(), &self.actor_options())
    }

    /// A process of the pod's container with these capabilities only, such as `net_admin`, and
    /// without the node's cgroup and BPF file systems in sight, as in a real container.
    pub fn confined_actor(&self, capabilities: &[&str]) -> anyhow::Result<Actor> {
        let capabilities = capabilities.iter().map(|name| (*name).to_owned()).collect();
        let options = ActorOptions { capabilities: Some(capabilities), ..self.actor_options() };
        Actor::start(self.name(), &options)
    }
}
