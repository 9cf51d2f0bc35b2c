//! A cluster of two nodes with an agent on the first, for tests of whole control planes. Each test
//! has its own: a control plane writes in every namespace.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use tests::{ApiServer, Cluster, ClusterPod, until};

use crate::definitions;

/// The nodes; the agent runs on the first.
pub(crate) const NODES: [&str; 2] = ["node-a", "node-b"];
/// Until something is written: a leader may have to wait for the end of a lease.
pub(crate) const WRITTEN_WITHIN: Duration = Duration::from_secs(40);

/// The cluster.
pub(crate) struct Stage {
    pub(crate) server: ApiServer,
    pub(crate) cluster: Cluster,
    /// The agent's pod.
    agent: Pod,
}

impl Stage {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let server = ApiServer::start().await?;
        let cluster = server.cluster().await?;
        definitions::define(&cluster).await?;
        for (index, name) in (1u8..).zip(NODES) {
            cluster.node(name, Ipv4Addr::new(198, 51, 100, index).into()).await?;
            let labels = json!({
                "topology.kubernetes.io/region": "north",
                "topology.kubernetes.io/zone": format!("north-{index}"),
            });
            let metadata = json!({ "name": name, "labels": labels });
            let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": metadata });
            cluster.apply("", &node.to_string()).await?;
        }
        cluster
            .apply("", "{apiVersion: v1, kind: Namespace, metadata: {name: istio-system}}")
            .await?;
        cluster.account("istio-system", "ztunnel").await?;
        let mut pod = ClusterPod::new("ztunnel-a", NODES[0])
            .at(Ipv4Addr::new(192, 0, 2, 1))
            .label("istio.io/dataplane-mode", "none");
        "ztunnel".clone_into(&mut pod.account);
        let agent = cluster.pod("istio-system", &pod).await?;
        Ok(Self { server, cluster, agent })
    }

    /// The agent's token, for an audience.
    pub(crate) async fn agent_token(&self, audience: &str) -> anyhow::Result<String> {
        self.cluster.token("istio-system", "ztunnel", audience, Some(&self.agent)).await
    }

    /// Makes a namespace in the mesh.
    pub(crate) async fn namespace(&self, prefix: &str) -> anyhow::Result<String> {
        let labels = [("istio.io/dataplane-mode", "ambient")];
        self.cluster.labelled_namespace(prefix, &labels).await
    }

    /// Waits until a namespace has roots, and returns them.
    pub(crate) async fn roots(&self, namespace: &str) -> anyhow::Result<String> {
        let maps: Api<ConfigMap> = Api::namespaced(self.cluster.client(), namespace);
        until(&format!("roots in {namespace}"), WRITTEN_WITHIN, async || {
            let map = maps.get_opt("istio-ca-root-cert").await?;
            Ok(map.and_then(|map| map.data?.remove("root-cert.pem")))
        })
        .await
    }

    /// Waits until an object's condition of that type has this status; its reason and message.
    pub(crate) async fn condition(
        &self,
        (api_version, kind): (&str, &str),
        (namespace, name): (&str, &str),
        (condition, status): (&str, &str),
    ) -> anyhow::Result<String> {
        let api = self.cluster.api(api_version, kind, namespace).await?;
        until(&format!("{kind} {name}: {condition} {status}"), WRITTEN_WITHIN, async || {
            let object = serde_json::to_value(api.get(name).await?)?;
            let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
            let is = |found: &&Value| found["type"] == condition && found["status"] == status;
            let text = |found: &Value| format!("{}: {}", found["reason"], found["message"]);
            Ok(conditions.into_iter().find(is).map(text))
        })
        .await
    }

    /// Changes a pod as a controller would.
    pub(crate) async fn patch_pod(
        &self,
        (namespace, name): (&str, &str),
        change: &Value,
    ) -> anyhow::Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.cluster.client(), namespace);
        let (params, patch) = (PatchParams::default(), Patch::Merge(change));
        let patched = if change.get("status").is_some() {
            pods.patch_status(name, &params, &patch).await
        } else {
            pods.patch(name, &params, &patch).await
        };
        patched.with_context(|| format!("change pod {name}")).map(drop)
    }

    /// Says whether a pod is ready.
    pub(crate) async fn ready(&self, pod: (&str, &str), is_ready: &str) -> anyhow::Result<()> {
        let conditions = json!([{ "type": "Ready", "status": is_ready }]);
        self.patch_pod(pod, &json!({ "status": { "conditions": conditions } })).await
    }
}
