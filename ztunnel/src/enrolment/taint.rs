//! Takes the taint of this node away once its agent is verified. What that means is `core/enrol`'s.
//!
//! Once for each start of an agent: a node that reboots keeps its object, and one that is registered anew
//! gets its agent anew.

use std::time::Duration;

use api_server::{ApiClient, ApiError};
use cni_node::InstallState;
use daemon::Readiness;
use enrol::{ApiProof, PluginProof, Proof, taint_removals};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::view::EnrolmentView;
use super::{FIRST_NAMESPACES, FIRST_PODS};

/// Between two looks at what is not proved yet.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Between two attempts at the API server, for as long as it takes: pods wait for it.
const RETRY: Duration = Duration::from_secs(2);

/// Whose taint, and who proves.
pub(super) struct NodeTaint {
    pub(super) api: ApiClient,
    pub(super) node: String,
    pub(super) readiness: Readiness,
    pub(super) view: EnrolmentView,
}

impl NodeTaint {
    /// Waits until the agent is verified and removes the taint. Does not end.
    pub(super) async fn run(self) {
        let mut told = None;
        loop {
            // Also after a failure: what was proved may be gone meanwhile.
            if let Some(lacks) = self.proof().lacks() {
                if told.replace(lacks) != Some(lacks) {
                    tracing::info!(waits_for = ?lacks, "the node keeps its taint, if it has one");
                }
                sleep(LOOK_INTERVAL).await;
                continue;
            }
            match self.remove().await {
                Ok(0) => tracing::info!("the agent is verified; the node has no taint of ours"),
                Ok(taints) => tracing::info!(taints, "the agent is verified; pods may come"),
                // Of a test that failed, too: the taints have changed meanwhile.
                Err(error) => {
                    tracing::warn!(error = %model::causes(&error), "the node keeps its taint");
                    sleep(RETRY).await;
                    continue;
                }
            }
            return std::future::pending().await;
        }
    }

    fn proof(&self) -> Proof {
        let pending = self.readiness.pending();
        let behind = self.view.told().behind;
        let api = if pending.contains(&FIRST_PODS) || pending.contains(&FIRST_NAMESPACES) {
            ApiProof::Unread
        } else if behind.pods.is_some() || behind.namespaces.is_some() {
            ApiProof::Behind
        } else {
            ApiProof::Followed
        };
        let plugin = match self.view.install.as_ref().map(|report| report.borrow().state.clone()) {
            None => PluginProof::NotOurs,
            Some(InstallState::Installed { .. }) => PluginProof::Installed,
            Some(
                InstallState::Starting
                | InstallState::WaitingForPrimary
                | InstallState::Failed { .. },
            ) => PluginProof::Missing,
        };
        Proof { api, plugin }
    }

    /// How many taints were removed.
    async fn remove(&self) -> Result<usize, ApiError> {
        let path = format!("/api/v1/nodes/{}", self.node);
        let Some(node) = self.api.get(&path).await? else { return Ok(0) };
        let taints = taints(node.get());
        let places =
            taint_removals(taints.iter().map(|taint| taint["key"].as_str().unwrap_or_default()));
        if places.is_empty() {
            return Ok(0);
        }
        self.api.json_patch(&path, &patch(&taints, &places)).await?;
        Ok(places.len())
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Node {
    spec: Spec,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Spec {
    taints: Option<Vec<Value>>,
}

/// As they are written. A node that cannot be read has none that could be removed.
fn taints(node: &str) -> Vec<Value> {
    let node = serde_json::from_str(node).unwrap_or_else(|error| {
        tracing::warn!(%error, "this node's object cannot be read");
        Node::default()
    });
    node.spec.taints.unwrap_or_default()
}

/// Each place is looked at before it is removed: a taint that somebody else wrote meanwhile stays.
fn patch(taints: &[Value], places: &[usize]) -> Value {
    let steps = places.iter().flat_map(|place| {
        let path = format!("/spec/taints/{place}");
        let test = json!({"op": "test", "path": path, "value": taints[*place]});
        [test, json!({"op": "remove", "path": path})]
    });
    steps.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_removes_what_was_read_and_nothing_else() {
        let taints = taints(
            r#"{"spec": {"taints": [
                {"key": "warren.dev/not-ready", "effect": "NoExecute"},
                {"key": "other", "effect": "NoSchedule", "timeAdded": "2026-01-01T00:00:00Z"},
                {"key": "warren.dev/not-ready", "effect": "NoSchedule"}]}}"#,
        );
        let places = taint_removals(taints.iter().filter_map(|taint| taint["key"].as_str()));
        let expected = json!([
            {"op": "test", "path": "/spec/taints/2", "value": taints[2]},
            {"op": "remove", "path": "/spec/taints/2"},
            {"op": "test", "path": "/spec/taints/0", "value": taints[0]},
            {"op": "remove", "path": "/spec/taints/0"},
        ]);
        assert_eq!(patch(&taints, &places), expected);
    }

    #[test]
    fn a_node_without_taints_has_none_in_any_form() {
        for node in [r#"{"spec": {"taints": null}}"#, r#"{"spec": {}}"#, "{}", "[]"] {
            assert!(taints(node).is_empty(), "{node}");
        }
    }
}
