//! Objects as a cluster has them, as far as an agent reads them.

use serde_json::{Value, json};

use crate::pod::Pod;

/// How far a pod has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It is bound to its node, and nothing of it is there.
    Bound,
    /// Its container runs.
    Running,
}

/// Where a pod's object is.
#[must_use]
pub fn pod_path(pod: &Pod) -> String {
    format!("/api/v1/namespaces/{}/pods/{}", pod.namespace(), pod.name())
}

pub(super) fn namespace_path(name: &str) -> String {
    format!("/api/v1/namespaces/{name}")
}

/// A pod that is bound to its node. Addresses come later, with its status.
#[must_use]
pub fn pod_object(pod: &Pod) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod.name(),
            "namespace": pod.namespace(),
            "uid": pod.uid(),
            "labels": {"app": pod.name()},
        },
        "spec": {
            "nodeName": format!("node-{}", pod.node()),
            "serviceAccountName": pod.account(),
            "containers": [{"name": "c", "image": "test"}],
        },
        "status": status(pod, Phase::Bound),
    })
}

pub(super) fn status(pod: &Pod, phase: Phase) -> Value {
    match phase {
        Phase::Bound => json!({"phase": "Pending"}),
        Phase::Running => {
            let ips = [pod.ipv4(), pod.ipv6()];
            json!({
                "phase": "Running",
                "podIP": ips[0],
                "podIPs": ips.map(|ip| json!({"ip": ip})),
                "conditions": [{"type": "Ready", "status": "True"}],
            })
        }
    }
}

/// A namespace, enrolled or not.
pub(super) fn namespace(name: &str, mode: Option<&str>) -> Value {
    let labels = mode.map_or_else(|| json!({}), |mode| json!({"istio.io/dataplane-mode": mode}));
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "uid": format!("ns-{name}"), "labels": labels},
    })
}

/// The agent's own pod, and the DaemonSet that it is of.
pub(super) fn agent(
    pod: &str,
    namespace: &str,
    daemon_set: &str,
    node: &str,
) -> [(String, Value); 2] {
    let owner = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "name": daemon_set, "uid": "ds", "controller": true,
    });
    let pod_object = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod, "namespace": namespace, "uid": format!("{pod}-uid"),
            "labels": {"istio.io/dataplane-mode": "none"},
            "ownerReferences": [owner],
        },
        // Its node has no cgroup of it: an excluded namespace's pods are nobody's business.
        "spec": {"nodeName": node, "serviceAccountName": "ztunnel", "containers": []},
        "status": {"phase": "Running"},
    });
    let set = json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": daemon_set, "namespace": namespace, "uid": "ds"},
    });
    [
        (format!("/api/v1/namespaces/{namespace}/pods/{pod}"), pod_object),
        (format!("/apis/apps/v1/namespaces/{namespace}/daemonsets/{daemon_set}"), set),
    ]
}
