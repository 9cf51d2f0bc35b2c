//! Nodes on a wire, and the pods that are put on them.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use nix::unistd::Uid;
use parking_lot::Mutex;

use crate::agent::{Agent, AgentOptions};
use crate::cgroup;
use crate::mesh::Mesh;
use crate::namespace::{self, Namespace};
use crate::node::Node;
use crate::plane;
use crate::pod::{Maker, Pod, PodSpec};
use crate::prefix::Prefix;
use crate::sniffer::Sniffer;
use crate::teardown::{self, BPFFS, Teardown};

/// Nodes of a world at most; their number is part of addresses.
pub(crate) const NODES_MAX: u8 = 64;
/// How long a pod's removal may be awaited before it is an error.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(2);

/// Two nodes or more, joined by a bridge in a namespace of its own (the wire). Dropping it removes
/// everything, and kills what still runs in its cgroups.
#[derive(Debug)]
pub struct World {
    prefix: Prefix,
    folder: PathBuf,
    cgroup: PathBuf,
    wire: Namespace,
    nodes: Vec<Node>,
    next_pod: AtomicU16,
    names: Mutex<BTreeSet<String>>,
    /// Last: it runs after the fields above are dropped.
    teardown: TeardownOnDrop,
}

#[derive(Debug)]
struct TeardownOnDrop(Teardown);

impl Drop for TeardownOnDrop {
    fn drop(&mut self) {
        self.0.run();
    }
}

impl World {
    /// Makes nodes 1 to `nodes` and an empty mesh file, after clearing what dead processes left.
    pub fn new(nodes: u8) -> anyhow::Result<Self> {
        ensure!(
            Uid::effective().is_root(),
            "needs root: network namespaces, cgroups and eBPF programs are made"
        );
        ensure!((1..=NODES_MAX).contains(&nodes), "a world has 1 to {NODES_MAX} nodes");
        Self::cleanup_stale();
        ensure_bpffs()?;
        let prefix = Prefix::new();
        // From here on, whatever fails is taken down.
        let teardown = TeardownOnDrop(Teardown::new(prefix.clone()));
        let folder = teardown::folder(&prefix);
        DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("create {}", folder.display()))?;
        let cgroup = cgroup::mount()?.join(prefix.to_string());
        cgroup::create(&cgroup)?;
        let (wire, nodes) = make_nodes(&prefix, nodes, &cgroup)?;
        let world = Self {
            prefix,
            folder,
            cgroup,
            wire,
            nodes,
            next_pod: AtomicU16::new(1),
            names: Mutex::default(),
            teardown,
        };
        world.set_mesh(&Mesh::new())?;
        Ok(world)
    }

    /// Removes the worlds of processes that no longer exist.
    pub fn cleanup_stale() {
        Teardown::run_for_the_dead();
    }

    /// What takes this world down.
    #[must_use]
    pub fn teardown(&self) -> Teardown {
        self.teardown.0.clone()
    }

    /// Start of the names of its namespaces.
    #[must_use]
    pub fn prefix(&self) -> &Prefix {
        &self.prefix
    }

    /// Its files: the mesh, logs, run folders.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The cgroup that everything of it is below.
    pub(crate) fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// The namespace of the bridge between the nodes; node `n` is on its interface `n<n>`.
    #[must_use]
    pub fn wire(&self) -> &Namespace {
        &self.wire
    }

    /// A node, counted from 1. Panics if there is none.
    #[must_use]
    pub fn node(&self, number: u8) -> &Node {
        let node = self.nodes.iter().find(|node| node.number == number);
        node.expect("nodes are counted from 1 to the number given to World::new")
    }

    /// All nodes.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Makes a pod.
    pub fn pod(&self, spec: PodSpec) -> anyhow::Result<Pod> {
        ensure!(self.nodes.len() >= spec.node.into() && spec.node > 0, "no node {}", spec.node);
        ensure!(self.names.lock().insert(spec.name.clone()), "two pods are named {}", spec.name);
        let number = self.next_pod.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{}", self.prefix, spec.name);
        let netns = Namespace::create(&[name])?.remove(0);
        let (uid, cgroup) = self.instance(&spec, number)?;
        let folder = self.folder.clone();
        let pod = Pod { spec, number, uid, netns, cgroup, folder };
        cgroup::create(pod.cgroup())?;
        cgroup::create(&pod.container())?;
        let node = self.node(pod.node());
        let (link, v4, v6) = (pod.host_interface(), pod.ipv4(), pod.ipv6());
        let gateway = node.gateway();
        node.namespace.ip(&[
            format!("link add {link} type veth peer name eth0 netns {}", pod.netns.name()),
            format!("addr add {gateway}/32 dev {link}"),
            format!("addr add fe80::1/64 dev {link} nodad"),
            format!("link set {link} up"),
            format!("route add {v4}/32 dev {link}"),
            format!("route add {v6}/128 dev {link}"),
        ])?;
        pod.netns.ip(&[
            format!("addr add {v4}/32 dev eth0"),
            format!("addr add {v6}/128 dev eth0 nodad"),
            "link set eth0 up".to_owned(),
            format!("route add {gateway}/32 dev eth0 scope link"),
            format!("route add default via {gateway} dev eth0"),
            "route add ::/0 via fe80::1 dev eth0".to_owned(),
        ])?;
        Ok(pod)
    }

    /// A pod's uid, and where its cgroup will be.
    fn instance(&self, spec: &PodSpec, number: u16) -> anyhow::Result<(String, PathBuf)> {
        match spec.maker {
            Maker::World => {
                Ok((format!("uid-{}-{number}", spec.name), self.cgroup.join(&spec.name)))
            }
            Maker::Kubelet => {
                let uid = self.prefix.uuid(number);
                let pods = self.node(spec.node).cgroup.join("kubepods/burstable");
                // Kubelets keep both for as long as they run.
                fs::create_dir_all(&pods).with_context(|| format!("create {}", pods.display()))?;
                let cgroup = pods.join(format!("pod{uid}"));
                Ok((uid, cgroup))
            }
        }
    }

    /// Kills a pod's processes and removes its cgroup and namespace, as a kubelet does.
    pub fn remove_pod(&self, pod: &Pod) -> anyhow::Result<()> {
        cgroup::remove(pod.cgroup())?;
        // The link goes with the namespace, but only when the kernel gets to it; by name, at once.
        let node = self.node(pod.node());
        node.namespace.ip(&[format!("link del {}", pod.host_interface())])?;
        namespace::remove(&[pod.netns.name().to_owned()])?;
        self.names.lock().remove(pod.name());
        let gone = crate::wait_until(REMOVAL_TIMEOUT, || !pod.netns.path().exists());
        ensure!(gone, "{} is still there", pod.netns.name());
        Ok(())
    }

    /// Where the agents read the mesh (`LOCAL_XDS_PATH`).
    #[must_use]
    pub fn mesh_path(&self) -> PathBuf {
        self.folder.join("mesh.yaml")
    }

    /// Replaces the mesh file in one step. Agents notice within their look interval.
    pub fn set_mesh(&self, mesh: &Mesh) -> anyhow::Result<()> {
        self.set_mesh_text(&mesh.to_string())
    }

    /// The same with a text that may be wrong.
    pub fn set_mesh_text(&self, text: &str) -> anyhow::Result<()> {
        let draft = self.folder.join("mesh.yaml.new");
        fs::write(&draft, text).context("write the mesh file")?;
        fs::rename(&draft, self.mesh_path()).context("replace the mesh file")
    }

    /// Starts a node's agent. It is not ready yet.
    pub fn agent(&self, node: u8, options: AgentOptions) -> anyhow::Result<Agent> {
        let mut agent = self.prepare_agent(node, options)?;
        agent.restart()?;
        Ok(agent)
    }

    /// A node's agent before its first start, which is [`Agent::restart`].
    pub fn prepare_agent(&self, node: u8, options: AgentOptions) -> anyhow::Result<Agent> {
        let pins = Path::new(BPFFS).join(self.prefix.to_string());
        Agent::prepare(self.node(node), &self.folder, &self.mesh_path(), &pins, options)
    }

    /// Captures what passes between a node and the others.
    pub fn sniff_wire(&self, node: u8) -> anyhow::Result<Sniffer> {
        Sniffer::start(&self.wire, &format!("n{node}"))
    }

    /// Captures what passes between a pod and its node.
    pub fn sniff_pod(&self, pod: &Pod) -> anyhow::Result<Sniffer> {
        Sniffer::start(&self.node(pod.node()).namespace, &pod.host_interface())
    }
}

fn make_nodes(prefix: &Prefix, count: u8, cgroup: &Path) -> anyhow::Result<(Namespace, Vec<Node>)> {
    let mut names = vec![format!("{prefix}-wire")];
    names.extend((1..=count).map(|number| format!("{prefix}-node-{number}")));
    let mut namespaces = Namespace::create(&names)?.into_iter();
    let wire = namespaces.next().context("the wire's namespace is missing")?;
    let nodes: Vec<_> = (1..=count)
        .zip(namespaces)
        .map(|(number, namespace)| Node {
            number,
            namespace,
            cgroup: cgroup.join(format!("node-{number}")),
        })
        .collect();
    // Without snooping, neighbour discovery is not delayed by a bridge that learns groups.
    let mut lines = vec!["link add br0 type bridge mcast_snooping 0".to_owned()];
    lines.push("link set br0 up".to_owned());
    // A control plane is reached here.
    lines.push(format!("addr add {}/24 dev br0", plane::ADDRESS));
    for node in &nodes {
        let (n, name) = (node.number, node.namespace.name());
        lines.push(format!("link add n{n} type veth peer name eth0 netns {name}"));
        lines.push(format!("link set n{n} master br0 up"));
    }
    wire.ip(&lines)?;
    for node in &nodes {
        cgroup::create(&node.cgroup)?;
        node.namespace.set_sysctl("ipv4/ip_forward", "1")?;
        node.namespace.set_sysctl("ipv6/conf/all/forwarding", "1")?;
        let mut lines = vec![
            format!("addr add {}/24 dev eth0", node.ipv4()),
            format!("addr add {}/64 dev eth0 nodad", node.ipv6()),
            "link set eth0 up".to_owned(),
        ];
        for other in nodes.iter().filter(|other| other.number != node.number) {
            lines.push(format!("route add 10.{}.0.0/16 via {}", other.number, other.ipv4()));
            let pods = format!("fd00:{:x}::/32", other.number);
            lines.push(format!("route add {pods} via {}", other.ipv6()));
        }
        node.namespace.ip(&lines)?;
    }
    Ok((wire, nodes))
}

/// Pins need a BPF file system.
fn ensure_bpffs() -> anyhow::Result<()> {
    if statfs(BPFFS).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC) {
        return Ok(());
    }
    fs::create_dir_all(BPFFS).with_context(|| format!("create {BPFFS}"))?;
    let nothing = None::<&str>;
    match mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), nothing) {
        Ok(()) => Ok(()),
        Err(error) => bail!("cannot mount bpffs on {BPFFS}: {error}"),
    }
}
