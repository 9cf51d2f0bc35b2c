//! Bringing a cluster up, and what there is of it.

use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use serde_json::Value;

use super::folder::Folder;
use super::node::KubeNode;
use crate::wait::eventually;

/// Nodes of the cluster that a suite shares.
const NODES: u32 = 2;
/// Until the API server answers: some seconds, more on a machine that compiles.
const API_TIMEOUT: Duration = Duration::from_mins(2);
/// Until every node is Ready.
const NODES_TIMEOUT: Duration = Duration::from_mins(2);
/// The cluster's DNS server.
const COREDNS: &str = include_str!("../../cluster/coredns.yaml");

/// The cluster that the tests of one process share, or why it did not start: said by each of them
/// rather than tried by each.
static SHARED: OnceLock<Result<Kubernetes, String>> = OnceLock::new();

/// A running cluster. Dropping it ends everything, and so does the end of this process.
#[derive(Debug)]
pub struct Kubernetes {
    pub(super) folder: Folder,
    nodes: Vec<KubeNode>,
    ready_after: Duration,
}

impl Kubernetes {
    /// The one that the tests of this process share.
    pub fn shared() -> anyhow::Result<&'static Self> {
        let start = || Self::start(NODES).map_err(|error| format!("{error:#}"));
        let shared = SHARED.get_or_init(start);
        shared.as_ref().map_err(|error| anyhow!("the shared cluster did not start: {error}"))
    }

    /// Starts one with so many nodes, waits until they are Ready, and starts DNS in it.
    pub fn start(nodes: u32) -> anyhow::Result<Self> {
        let start = Instant::now();
        let mut folder = Folder::make(nodes)?;
        folder.start()?;
        let node = |number| KubeNode::new(format!("node{number}"), folder.path(), folder.cgroup());
        let all = (1..=nodes).map(node).collect();
        let mut cluster = Self { folder, nodes: all, ready_after: Duration::ZERO };
        let up = cluster.wait_until_up();
        up.map_err(|error| error.context(cluster.folder.tails("")))?;
        cluster.ready_after = start.elapsed();
        cluster.apply(COREDNS).context("start the cluster's DNS server")?;
        Ok(cluster)
    }

    fn wait_until_up(&self) -> anyhow::Result<()> {
        // Asked through the admin's own way, so that it is known to work.
        eventually("the API server answers", API_TIMEOUT, || {
            Ok(self.kubectl(["get", "--raw", "/readyz"]).ok())
        })?;
        for node in &self.nodes {
            self.wait_until_ready(node)?;
        }
        // A pod is refused before the controller manager has made the account that it would have.
        eventually("service accounts are made", NODES_TIMEOUT, || {
            self.get("serviceaccount", "default", "default")
        })?;
        Ok(())
    }

    /// Waits until a node is Ready.
    pub fn wait_until_ready(&self, node: &KubeNode) -> anyhow::Result<()> {
        eventually(&format!("{} is Ready", node.name()), NODES_TIMEOUT, || {
            let object = self.get("node", "", node.name())?;
            Ok(object.filter(|object| condition(object, "Ready")).map(drop))
        })
    }

    /// The nodes.
    #[must_use]
    pub fn nodes(&self) -> &[KubeNode] {
        &self.nodes
    }

    /// A node by name.
    pub fn node(&self, name: &str) -> anyhow::Result<&KubeNode> {
        let found = self.nodes.iter().find(|node| node.name() == name);
        found.with_context(|| format!("there is no node {name:?}"))
    }

    /// How long it took from nothing to Ready nodes.
    #[must_use]
    pub fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// Waits until every pod that a selector finds is Ready; at least `count` of them.
    pub fn wait_for_pods(
        &self,
        namespace: &str,
        selector: &str,
        count: usize,
        timeout: Duration,
    ) -> anyhow::Result<Vec<Value>> {
        let mut seen = String::new();
        let what = format!("{count} pods {selector} of {namespace} are Ready");
        let found = eventually(&what, timeout, || {
            let pods = self.list("pods", namespace, selector)?;
            // Those that are on their way out count neither way.
            let living = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
            let living: Vec<_> = pods.iter().filter(living).cloned().collect();
            seen = living.iter().map(describe).collect::<Vec<_>>().join("; ");
            let all_ready = living.iter().all(|pod| condition(pod, "Ready"));
            Ok((living.len() >= count && all_ready).then_some(living))
        });
        found.with_context(|| format!("there are: {seen}{}", self.events(namespace)))
    }

    /// Waits until a workload such as `deployment/x` is rolled out.
    pub fn wait_for_rollout(
        &self,
        namespace: &str,
        workload: &str,
        timeout: Duration,
    ) -> anyhow::Result<()> {
        let limit = format!("--timeout={}s", timeout.as_secs());
        let status = self.kubectl(["-n", namespace, "rollout", "status", workload, &limit]);
        status.map(drop).map_err(|error| {
            let pods = self.list("pods", namespace, "").unwrap_or_default();
            let pods = pods.iter().map(describe).collect::<Vec<_>>().join("\n  ");
            error.context(format!("pods:\n  {pods}{}", self.events(namespace)))
        })
    }

    /// The last warnings of a namespace, for an error.
    #[must_use]
    pub fn events(&self, namespace: &str) -> String {
        let arguments = [
            "-n",
            namespace,
            "get",
            "events",
            "--field-selector=type=Warning",
            "--sort-by=.lastTimestamp",
            "-o",
            r#"jsonpath={range .items[*]}{.involvedObject.name}: {.reason}: {.message}{"\n"}{end}"#,
        ];
        let text = self.kubectl(arguments).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(8)..].join("\n  ");
        format!("\nwarnings of {namespace}:\n  {last}")
    }

    /// The ends of the logs whose name begins so, for an error.
    #[must_use]
    pub fn tails(&self, beginning: &str) -> String {
        self.folder.tails(beginning)
    }

    /// Where its files are, as all nodes see them.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The name of the only pod that a selector finds on a node, of those that stay.
    pub fn pod_on(&self, node: &str, namespace: &str, selector: &str) -> anyhow::Result<String> {
        let pods = self.list("pods", namespace, selector)?;
        let mut names = pods.iter().filter(|pod| {
            pod["spec"]["nodeName"] == node && pod["metadata"]["deletionTimestamp"].is_null()
        });
        let first = names.next().with_context(|| format!("no pod {selector} on {node}"))?;
        ensure!(names.next().is_none(), "several pods {selector} on {node}");
        Ok(first["metadata"]["name"].as_str().unwrap_or_default().to_owned())
    }
}

/// Whether a condition of an object is true.
fn condition(object: &Value, kind: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|one| one["type"] == kind && one["status"] == "True")
}

/// A pod in one line.
fn describe(pod: &Value) -> String {
    let states = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    let states: Vec<_> = states.map(|status| status["state"].to_string()).collect();
    format!(
        "{} on {}: {} {}",
        pod["metadata"]["name"].as_str().unwrap_or_default(),
        pod["spec"]["nodeName"].as_str().unwrap_or("no node"),
        pod["status"]["phase"].as_str().unwrap_or_default(),
        states.join(" "),
    )
}
