//! Two replicas of a whole control plane: both serve, one writes, and when that one is killed in the
//! middle the other finishes.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt;
use kube::api::{Api, DynamicObject, ListParams, PostParams};
use serde_json::json;
use tests::{ClusterPlane, ClusterPod, until};
use tokio::task::JoinSet;

use crate::agent::Agent;
use crate::stage::{NODES, Stage, WRITTEN_WITHIN};

/// Policies that a leader writes the conditions of: seconds of work at a hundred a second.
const POLICIES: usize = 300;
/// How many of them have to have conditions when the leader is killed.
const BEFORE: usize = 20;
/// Policies made at once.
const AT_ONCE: usize = 8;
/// Until requests that a killed leader had sent have taken effect.
const SETTLE: Duration = Duration::from_secs(1);

fn policy(number: usize) -> anyhow::Result<DynamicObject> {
    // Every third one cannot be checked by a node.
    let operation = if number.is_multiple_of(3) {
        json!({ "paths": ["/admin"] })
    } else {
        json!({ "ports": ["80"] })
    };
    serde_json::from_value(json!({
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": { "name": format!("p-{number:04}") },
        "spec": { "action": "DENY", "rules": [{ "to": [{ "operation": operation }] }] },
    }))
    .context("a policy")
}

async fn make(policies: Api<DynamicObject>) -> anyhow::Result<()> {
    let mut making = JoinSet::new();
    for number in 0..POLICIES {
        if making.len() == AT_ONCE {
            making.join_next().await.context("none is being made")?.context("join")??;
        }
        let (policies, policy) = (policies.clone(), policy(number)?);
        making.spawn(async move {
            let made = policies.create(&PostParams::default(), &policy).await;
            made.context("make a policy").map(drop)
        });
    }
    while let Some(made) = making.join_next().await {
        made.context("join")??;
    }
    Ok(())
}

/// Versions of those that have conditions, by name.
async fn decided(policies: &Api<DynamicObject>) -> anyhow::Result<BTreeMap<String, String>> {
    let all = policies.list(&ListParams::default()).await.context("list policies")?;
    let decided = all.into_iter().filter(|policy| policy.data["status"]["conditions"].is_array());
    let version =
        |policy: DynamicObject| (policy.name_any(), policy.resource_version().unwrap_or_default());
    Ok(decided.map(version).collect())
}

/// Whether a policy says once what became of it, and that is right.
fn check(policy: &DynamicObject) -> anyhow::Result<()> {
    let name = policy.name_any();
    let number: usize = name.trim_start_matches("p-").parse().context("a number")?;
    let expected = if number.is_multiple_of(3) { "False" } else { "True" };
    let conditions = policy.data["status"]["conditions"].as_array().context("no conditions")?;
    let [condition] = &conditions[..] else { anyhow::bail!("{name}: {conditions:?}") };
    ensure!(condition["type"] == "ZtunnelAccepted", "{name}: {condition}");
    ensure!(condition["status"] == expected, "{name}: {condition}");
    let generation = &condition["observedGeneration"];
    let generation = generation.as_i64().or_else(|| generation.as_str()?.parse().ok());
    ensure!(generation == policy.metadata.generation, "{name}: {condition}");
    let fields = policy.managed_fields().iter();
    let writers = fields.filter(|fields| fields.subresource.as_deref() == Some("status"));
    ensure!(writers.count() == 1, "{name} was written by several");
    Ok(())
}

async fn leader(stage: &Stage) -> anyhow::Result<String> {
    let leases: Api<Lease> = Api::namespaced(stage.cluster.client(), "istio-system");
    let lease = leases.get("warren-control-plane").await.context("get the lease")?;
    lease.spec.and_then(|spec| spec.holder_identity).context("nobody leads")
}

#[tokio::test]
async fn a_killed_leader_is_followed_by_one_that_finishes() -> anyhow::Result<()> {
    let stage = Stage::start().await?;
    let namespace = stage.namespace("many").await?;
    let mut first = ClusterPlane::start(&stage.server, "first", &[]).await?;
    // The first one leads once it has published roots.
    first.explain(stage.roots(&namespace).await)?;
    let second = ClusterPlane::start(&stage.server, "second", &[]).await?;
    ensure!(second.roots()? == first.roots()?, "two roots");
    let result = async {
        ensure!(leader(&stage).await? == "first");
        let api = ("security.istio.io/v1", "AuthorizationPolicy");
        let policies = stage.cluster.api(api.0, api.1, &namespace).await?;
        let making = tokio::spawn(make(policies.clone()));
        until("the leader writes", WRITTEN_WITHIN, async || {
            Ok((decided(&policies).await?.len() >= BEFORE).then_some(()))
        })
        .await?;
        first.kill9();
        tokio::time::sleep(SETTLE).await;
        let before = decided(&policies).await?;
        ensure!(before.len() < POLICIES, "the leader was too fast: nothing is left");
        making.await.context("join")??;
        // The other one serves what it may not write of yet.
        let mut agent = Agent::open(&second, &stage.agent_token("istio-ca").await?).await?;
        agent.until("every policy", |agent| agent.policies.len() >= POLICIES).await?;
        let meanwhile = decided(&policies).await?;
        // On a slow machine the lease may have ended by now, and then the other one may write.
        if leader(&stage).await? == "first" {
            ensure!(meanwhile == before, "a follower wrote");
        }

        until("every policy has conditions", WRITTEN_WITHIN, async || {
            Ok((decided(&policies).await?.len() == POLICIES).then_some(()))
        })
        .await?;
        ensure!(leader(&stage).await? == "second");
        for policy in policies.list(&ListParams::default()).await.context("list policies")? {
            check(&policy)?;
        }
        let after = decided(&policies).await?;
        let again = before.iter().find(|(name, version)| after.get(*name) != Some(version));
        ensure!(again.is_none(), "written twice: {again:?}");
        Ok(())
    }
    .await;
    second.explain(result)
}

#[tokio::test]
async fn both_replicas_serve_and_go_on_when_the_api_server_restarts() -> anyhow::Result<()> {
    let mut stage = Stage::start().await?;
    let namespace = stage.namespace("both").await?;
    let planes = [
        ClusterPlane::start(&stage.server, "first", &[]).await?,
        ClusterPlane::start(&stage.server, "second", &[]).await?,
    ];
    let token = stage.agent_token("istio-ca").await?;
    let mut agents = Vec::new();
    for plane in &planes {
        agents.push(Agent::open(plane, &token).await?);
    }
    for round in ["before", "after"] {
        let pod = ClusterPod::new(round, NODES[1]).at(std::net::Ipv4Addr::new(192, 0, 2, 40));
        stage.cluster.pod(&namespace, &pod).await?;
        let has = |agent: &Agent| {
            agent.pod(&namespace, round).is_some_and(|pod| !pod.addresses.is_empty())
        };
        for (plane, agent) in planes.iter().zip(&mut agents) {
            plane.explain(agent.until("a pod", has).await)?;
        }
        // Both send the same: an agent may move from one to the other.
        let resource = |agent: &Agent| agent.pod(&namespace, round).cloned();
        ensure!(resource(&agents[0]) == resource(&agents[1]), "two meshes");
        stage.cluster.delete("v1", "Pod", &namespace, round).await?;
        for (plane, agent) in planes.iter().zip(&mut agents) {
            let is_gone = |agent: &Agent| agent.pod(&namespace, round).is_none();
            plane.explain(agent.until("a deleted pod is gone", is_gone).await)?;
        }
        stage.server.restart().await?;
        stage.cluster = stage.server.cluster().await?;
    }
    Ok(())
}
