//! A node whose agent captures what Kubernetes says: the agent runs as in its DaemonSet, and what is
//! around it is the tests'. An API server that can have bad days, a runtime that calls the CNI plugin,
//! a control plane, and a kubelet's part: sandboxes, cgroups, statuses.

mod objects;
mod runtime;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;

pub use objects::{pod_object, pod_path};
pub use runtime::{CniAnswer, Runtime, Sandbox};

use crate::agent::{Agent, AgentOptions};
use crate::cgroup;
use crate::control_plane::{ControlPlane, TestCa, TestXds, workload};
use crate::house::House;
use crate::namespace::Namespace;
use crate::pod::{Pod, PodSpec};
use crate::test_api::{ApiAccess, TestApi, TestApiServer};
use crate::volume::Volume;
use crate::wait::{binary, eventually};
use crate::world::World;
use objects::{Phase, namespace_path};

/// The namespace of the agent's pod.
const SYSTEM: &str = "istio-system";
const DAEMON_SET: &str = "ztunnel";
/// Where a pod finds the files of its service account.
const ACCOUNT: &str = "/run/secrets/kubernetes.io/serviceaccount";
/// Records of a hundred pods, and keys.
const DISK_BYTES: u64 = 8 << 20;
/// The plugin twice: the new one is written beside the old one.
const HOST_BYTES: u64 = 64 << 20;
/// Until the agent has put the plugin onto the node.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Until a shell has become another program.
const START_TIMEOUT: Duration = Duration::from_secs(5);

/// Node 1 of a world of its own. Pods of the mesh are in `shop`, which is there and not labelled.
#[derive(Debug)]
pub struct EnrollingNode {
    /// It captures.
    pub agent: Agent,
    /// What the agent is told of pods and namespaces.
    pub api: TestApi,
    /// `None` while it is away.
    server: Option<TestApiServer>,
    /// What makes sandboxes.
    pub runtime: Runtime,
    /// Who signs certificates.
    pub ca: TestCa,
    /// What the agent is told of the mesh.
    pub xds: TestXds,
    _plane: ControlPlane,
    /// Where the agent keeps records, keys and state.
    pub disk: Volume,
    /// Where the node's folders of network configurations and of plugins are.
    pub host: Volume,
    /// Last: everything above lives in it.
    pub world: World,
}

impl EnrollingNode {
    /// With an agent that is ready, and has put the plugin onto the node.
    pub fn new(options: AgentOptions) -> anyhow::Result<Self> {
        let mut node = Self::prepare(options, None)?;
        node.start_api()?;
        node.agent.restart()?;
        node.agent.wait_ready()?;
        node.wait_installed()?;
        Ok(node)
    }

    /// With neither an agent nor an API server that runs. The agent is to use this API server, or else
    /// the one of [`Self::start_api`].
    pub fn prepare(options: AgentOptions, api: Option<ApiAccess>) -> anyhow::Result<Self> {
        let world = World::new(1)?;
        let folder = world.folder().join("kubernetes");
        let [account, keys] = ["account", "keys"].map(|name| folder.join(name));
        let disk = Volume::create(&folder.join("disk"), DISK_BYTES)?;
        let host = Volume::create(&folder.join("host"), HOST_BYTES)?;
        for folder in [&account, &keys] {
            fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        }
        let own = TestApi::new(&keys)?;
        let access = api.unwrap_or_else(|| own.access());
        fs::write(account.join("ca.crt"), &access.authority).context("write roots")?;
        fs::write(account.join("token"), &access.token).context("write a token")?;
        let runtime = Runtime::create(host.path())?;
        let (ca, xds) = (TestCa::new()?, TestXds::new());
        let node = world.node(1);
        let plane = ControlPlane::start(ControlPlane::listen_in([node.namespace()])?, &ca, &xds)?;
        for (path, object) in objects::agent("ztunnel-1", SYSTEM, DAEMON_SET, &node.name()) {
            own.put(&path, object)?;
        }
        let options =
            settings(options, &world, &disk, &runtime, &access)?.bind(&account, Path::new(ACCOUNT));
        let options = see_host(options, &world, &folder.join("proc"))?;
        start_kubelet(&world, &folder)?;
        let agent = world.prepare_agent(1, options)?;
        let server = None;
        let api = own;
        let node = Self { agent, api, server, runtime, ca, xds, _plane: plane, disk, host, world };
        for name in [SYSTEM, "kube-system", "shop"] {
            node.namespace(name, None)?;
        }
        Ok(node)
    }

    /// The API server comes, or comes back with what it knew.
    pub fn start_api(&mut self) -> anyhow::Result<()> {
        ensure!(self.server.is_none(), "the API server is there already");
        let namespace = self.world.node(1).namespace();
        self.server = Some(TestApiServer::start(namespace, &self.api)?);
        Ok(())
    }

    /// The API server goes away with all its connections; new ones are refused.
    pub fn stop_api(&mut self) -> anyhow::Result<()> {
        self.server.take().context("the API server is away already")?.stop()
    }

    /// Waits until pods cannot start past the agent any more.
    pub fn wait_installed(&self) -> anyhow::Result<()> {
        eventually("the CNI plugin is in the chain", INSTALL_TIMEOUT, || {
            Ok(self.runtime.is_held().then_some(()))
        })
    }

    /// Makes a namespace of Kubernetes, enrolled (`ambient`) or not.
    pub fn namespace(&self, name: &str, mode: Option<&str>) -> anyhow::Result<()> {
        self.api.put(&namespace_path(name), objects::namespace(name, mode))
    }

    /// Labels a namespace, or takes the label away.
    pub fn label(&self, name: &str, mode: Option<&str>) -> anyhow::Result<()> {
        let patch = json!({"metadata": {"labels": {"istio.io/dataplane-mode": mode}}});
        self.api.change(&namespace_path(name), &patch)
    }

    /// Annotates a namespace, or takes the annotation away.
    pub fn annotate_namespace(
        &self,
        name: &str,
        key: &str,
        value: Option<&str>,
    ) -> anyhow::Result<()> {
        self.api.change(&namespace_path(name), &json!({"metadata": {"annotations": {key: value}}}))
    }

    /// The same for a pod.
    pub fn annotate(&self, pod: &Pod, key: &str, value: Option<&str>) -> anyhow::Result<()> {
        self.api.change(&pod_path(pod), &json!({"metadata": {"annotations": {key: value}}}))
    }

    /// A pod that was bound to the node: its object, its network and its cgroup. Nothing runs in it. The
    /// control plane knows it, too.
    pub fn bind(&self, spec: PodSpec) -> anyhow::Result<Pod> {
        let pod = self.world.pod(spec.of_kubelet())?;
        self.api.put(&pod_path(&pod), pod_object(&pod))?;
        self.xds.update(|update| {
            update.workload(workload(&pod));
        });
        Ok(pod)
    }

    /// Asks whether a pod may start.
    pub fn add(&self, pod: &Pod) -> anyhow::Result<CniAnswer> {
        self.runtime.add(&Sandbox::of(pod))
    }

    /// The kubelet tells that a pod's container runs.
    pub fn tell_running(&self, pod: &Pod) -> anyhow::Result<()> {
        let status = objects::status(pod, Phase::Running);
        self.api.change(&pod_path(pod), &json!({"status": status}))
    }

    /// A whole start: bound, allowed, running, with a process that echoes.
    pub fn house(&self, spec: PodSpec) -> anyhow::Result<House> {
        let pod = self.bind(spec)?;
        self.add(&pod)?.ok()?;
        let house = House::in_pod(pod)?;
        self.tell_running(&house.pod)?;
        Ok(house)
    }

    /// A pod that runs a process which does nothing: for many of them. It was not asked whether it may.
    pub fn idle(&self, spec: PodSpec) -> anyhow::Result<Pod> {
        let pod = self.bind(spec)?;
        self.start(&pod)?;
        Ok(pod)
    }

    /// Starts such a process in a pod that is bound.
    pub fn start(&self, pod: &Pod) -> anyhow::Result<()> {
        start_waiting(pod.netns(), &pod.container(), Path::new("sleep"))?;
        self.tell_running(pod)
    }

    /// The end of a pod: its processes, its sandbox, its cgroup, its network, its object.
    pub fn delete(&self, pod: &Pod) -> anyhow::Result<()> {
        cgroup::kill(pod.cgroup())?;
        self.runtime.call("DEL", &Sandbox::of(pod))?.ok()?;
        self.world.remove_pod(pod)?;
        self.api.remove(&pod_path(pod))
    }

    /// What `warren pods` says of a pod; `None`: nothing.
    pub fn shown(&self, pod: &Pod) -> anyhow::Result<Option<admin::Pod>> {
        Ok(self.agent.pods()?.into_iter().find(|found| found.uid == pod.uid()))
    }

    /// Whether hooks of a pod are attached, whoever wanted them. One that leaves has none: it waits for
    /// the end of its connections.
    pub fn is_captured(&self, pod: &Pod) -> anyhow::Result<bool> {
        let shown = self.shown(pod)?;
        Ok(shown.is_some_and(|pod| pod.source.is_some() && pod.state != admin::PodState::Draining))
    }

    /// Whether a pod's object has the annotation that promises capture.
    pub fn is_annotated(&self, pod: &Pod) -> anyhow::Result<bool> {
        let object = self.api.get(&pod_path(pod))?;
        Ok(object["metadata"]["annotations"]["ambient.istio.io/redirection"] == "enabled")
    }

    /// Waits until a pod is captured, verified and announced.
    pub fn wait_captured(&self, pod: &Pod, timeout: Duration) -> anyhow::Result<()> {
        let name = pod.name();
        eventually(&format!("{name} is captured"), timeout, || {
            let is_verified =
                self.shown(pod)?.is_some_and(|pod| pod.state == admin::PodState::Verified);
            Ok((is_verified && self.is_annotated(pod)?).then_some(()))
        })
        .with_context(|| format!("{name}: {:?}", self.shown(pod)))
    }

    /// Waits until nothing of a pod is captured, and nobody is promised that it is.
    pub fn wait_released(&self, pod: &Pod, timeout: Duration) -> anyhow::Result<()> {
        let name = pod.name();
        eventually(&format!("{name} is let go"), timeout, || {
            Ok((!self.is_captured(pod)? && !self.is_annotated(pod)?).then_some(()))
        })
        .with_context(|| format!("{name}: {:?}", self.shown(pod)))
    }
}

/// The `/proc` of the agent's host: this machine's, but the first process is one of the node. So its
/// network is the host's.
fn see_host(options: AgentOptions, world: &World, proc: &Path) -> anyhow::Result<AgentOptions> {
    let node = world.node(1);
    let cgroup = node.cgroup().join("init");
    cgroup::create(&cgroup)?;
    let init = start_waiting(node.namespace(), &cgroup, Path::new("sleep"))?;
    let options = options
        .bind(Path::new("/proc"), proc)
        .bind(&Path::new("/proc").join(init.to_string()), &proc.join("1"));
    Ok(options.set("WARREN_HOST_PROC", proc.display()))
}

/// A process that is called like a kubelet, in the node's network and a cgroup of its own.
fn start_kubelet(world: &World, folder: &Path) -> anyhow::Result<()> {
    let program = folder.join("kubelet");
    let sleep =
        Command::new("sh").args(["-c", "command -v sleep"]).output().context("find sleep")?;
    let sleep = String::from_utf8_lossy(&sleep.stdout).trim().to_owned();
    std::os::unix::fs::symlink(sleep, &program).context("name a program kubelet")?;
    let cgroup = world.node(1).cgroup().join("kubelet");
    cgroup::create(&cgroup)?;
    start_waiting(world.node(1).namespace(), &cgroup, &program).map(drop)
}

/// Starts a program that waits for its end, which comes with its cgroup, and returns its number.
fn start_waiting(namespace: &Namespace, cgroup: &Path, sleep: &Path) -> anyhow::Result<u32> {
    let procs = cgroup.join("cgroup.procs");
    let mut command = Command::new("sh");
    command
        .args(["-c", r#"echo $$ > "$0" && exec "$1" infinity"#])
        .arg(&procs)
        .arg(sleep)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    // It is reaped with this process.
    let pid = namespace.spawn(&mut command)?.id();
    eventually("a process is in its cgroup", START_TIMEOUT, || {
        let processes = fs::read_to_string(&procs).context("read a cgroup")?;
        Ok((!processes.is_empty()).then_some(pid))
    })
}

/// The settings of the chart, with this node's places.
fn settings(
    options: AgentOptions,
    world: &World,
    disk: &Volume,
    runtime: &Runtime,
    api: &ApiAccess,
) -> anyhow::Result<AgentOptions> {
    let node = world.node(1);
    let run_dir: PathBuf = world.folder().join(node.name());
    let path = |path: &Path| path.display().to_string();
    let fixed = AgentOptions::default()
        .under_control_plane()
        .set("POD_NAME", "ztunnel-1")
        .set("POD_NAMESPACE", SYSTEM)
        .set("INSTANCE_IP", node.ipv4())
        .set("KUBERNETES_SERVICE_HOST", &api.host)
        .set("KUBERNETES_SERVICE_PORT", api.port)
        .set("WARREN_ENROLMENT", "kubernetes")
        // Left to itself, an agent without any pod of a kubelet around it would hook this machine's root.
        .set("WARREN_REDIRECTION", "ebpf")
        .set("WARREN_HOST_CGROUP", path(&cgroup::mount()?))
        .set("WARREN_HOST_NETNS_DIR", "/run/netns")
        .set("WARREN_RUN_DIR", path(&disk.path().join("run")))
        .set("WARREN_STATE_DIR", path(&disk.path().join("state")))
        .set("WARREN_CNI_SOCKET", path(&run_dir.join("cni.sock")))
        .set("WARREN_CNI_CONF_DIR", path(&runtime.conf_dir))
        .set("WARREN_CNI_BIN_DIR", path(&runtime.bin_dir))
        .set("WARREN_CNI_PROGRAM", path(&binary("warren-cni")?));
    Ok(fixed.and(options))
}
