//! Objects that tests make often, and waiting for what they lead to.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;

use super::cluster::Cluster;

/// How often one asks.
const POLL: Duration = Duration::from_millis(50);
/// The shortest that an API server issues.
const TOKEN_LIFETIME_SECONDS: i64 = 600;
const FIELD_MANAGER: &str = "tests";

/// A pod as a test wants it: bound to a node, running and ready, with nothing in it.
#[derive(Clone, Debug)]
pub struct ClusterPod {
    /// Name.
    pub name: String,
    /// The node that it is bound to.
    pub node: String,
    /// The service account that it runs as.
    pub account: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Its addresses, the first one first.
    pub addresses: Vec<IpAddr>,
    /// Whether it shares the node's network.
    pub host_network: bool,
}

impl ClusterPod {
    /// One on a node, without an address and in the mesh.
    #[must_use]
    pub fn new(name: &str, node: &str) -> Self {
        Self {
            name: name.to_owned(),
            node: node.to_owned(),
            account: "default".to_owned(),
            labels: BTreeMap::from([("istio.io/dataplane-mode".to_owned(), "ambient".to_owned())]),
            annotations: BTreeMap::new(),
            addresses: Vec::new(),
            host_network: false,
        }
    }

    /// Gives it an address.
    #[must_use]
    pub fn at(mut self, address: impl Into<IpAddr>) -> Self {
        self.addresses.push(address.into());
        self
    }

    /// Gives it a label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }
}

impl Cluster {
    /// Makes a node that is ready.
    pub async fn node(&self, name: &str, address: IpAddr) -> anyhow::Result<Node> {
        let nodes: Api<Node> = Api::all(self.client());
        let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name } });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let made = nodes.patch(name, &params, &Patch::Apply(&node)).await;
        made.with_context(|| format!("make node {name}"))?;
        let status = json!({ "status": {
            "addresses": [{ "type": "InternalIP", "address": address }],
            "conditions": [{ "type": "Ready", "status": "True", "reason": "TestsSaySo" }],
        }});
        let node = nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await;
        node.with_context(|| format!("write the status of node {name}"))
    }

    /// Makes a pod and says that it runs.
    pub async fn pod(&self, namespace: &str, wanted: &ClusterPod) -> anyhow::Result<Pod> {
        let pods: Api<Pod> = Api::namespaced(self.client(), namespace);
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": wanted.name,
                "labels": wanted.labels,
                "annotations": wanted.annotations,
            },
            "spec": {
                "nodeName": wanted.node,
                "serviceAccountName": wanted.account,
                "hostNetwork": wanted.host_network,
                "containers": [{ "name": "app", "image": "local.test/nothing" }],
            },
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let made = pods.patch(&wanted.name, &params, &Patch::Apply(&pod)).await;
        made.with_context(|| format!("make pod {}", wanted.name))?;
        self.pod_status(namespace, wanted, "Running").await
    }

    /// Says in which phase a pod is; it is ready while it runs.
    pub async fn pod_status(
        &self,
        namespace: &str,
        pod: &ClusterPod,
        phase: &str,
    ) -> anyhow::Result<Pod> {
        let pods: Api<Pod> = Api::namespaced(self.client(), namespace);
        let ready = if phase == "Running" { "True" } else { "False" };
        let addresses = pod.addresses.iter().map(|address| json!({ "ip": address }));
        let status = json!({ "status": {
            "phase": phase,
            "podIP": pod.addresses.first(),
            "podIPs": addresses.collect::<Vec<_>>(),
            "conditions": [{ "type": "Ready", "status": ready }],
        }});
        let patch = Patch::Merge(&status);
        let written = pods.patch_status(&pod.name, &PatchParams::default(), &patch).await;
        written.with_context(|| format!("write the status of pod {}", pod.name))
    }

    /// Makes a service account.
    pub async fn account(&self, namespace: &str, name: &str) -> anyhow::Result<()> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client(), namespace);
        let mut account = ServiceAccount::default();
        account.metadata.name = Some(name.to_owned());
        let made = accounts.create(&PostParams::default(), &account).await;
        made.with_context(|| format!("make service account {namespace}/{name}"))?;
        Ok(())
    }

    /// A token of an account for an audience, bound to a pod as a projected one is, or to nothing.
    pub async fn token(
        &self,
        namespace: &str,
        account: &str,
        audience: &str,
        pod: Option<&Pod>,
    ) -> anyhow::Result<String> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client(), namespace);
        let reference = |pod: &Pod| BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(pod.name_any()),
            uid: pod.uid(),
        };
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: vec![audience.to_owned()],
                bound_object_ref: pod.map(reference),
                expiration_seconds: Some(TOKEN_LIFETIME_SECONDS),
            },
            ..TokenRequest::default()
        };
        let params = PostParams::default();
        let answer = accounts.create_token_request(account, &params, &request).await;
        let answer = answer.with_context(|| format!("ask for a token of {account}"))?;
        Ok(answer.status.context("a token request without an answer")?.token)
    }
}

/// Asks for a value until there is one; an error that says `what` was awaited when time is over.
pub async fn until<T>(
    what: &str,
    timeout: Duration,
    mut ask: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + timeout;
    loop {
        let answer = ask().await;
        let late = Instant::now() >= deadline;
        match answer {
            Ok(Some(value)) => return Ok(value),
            Ok(None) if late => bail!("{what}: not within {} ms", timeout.as_millis()),
            Err(error) if late => {
                return Err(error.context(format!("{what}: not within {} ms", timeout.as_millis())));
            }
            Ok(None) | Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}
