//! What the control plane writes back to a real API server: conditions beside those of others, one
//! leader at a time, and roots in every namespace but where they are another's.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use cluster::{Kind, ObjectKey, ObjectName};
use control_plane::status::trust_bundle::{self, TrustBundle};
use control_plane::status::{Leadership, StatusWriter, lease};
use control_plane::watch::Problems;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tests::{Cluster, until};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use translate::Condition;

use crate::definitions;

/// Until something is written: a new leader may have to wait for the end of a lease.
const TIMEOUT: Duration = Duration::from_secs(40);

/// A replica that stands for election.
struct Replica {
    leadership: Leadership,
    election: tokio::task::JoinHandle<()>,
    shutdown: CancellationToken,
}

impl Replica {
    fn start(cluster: &Cluster, namespace: &str, identity: &str) -> Self {
        let (election, leadership) = lease::stand(cluster.client(), namespace, "warren", identity);
        let shutdown = CancellationToken::new();
        let election = tokio::spawn(election.run(shutdown.clone()));
        Self { leadership, election, shutdown }
    }

    /// Starts it alone, and waits until it leads.
    async fn leader(cluster: &Cluster, namespace: &str) -> anyhow::Result<Self> {
        let mut replica = Self::start(cluster, namespace, "only");
        tokio::time::timeout(TIMEOUT, replica.leadership.acquired()).await.context("no leader")?;
        Ok(replica)
    }
}

fn write(cluster: &Cluster, leadership: &Leadership) -> (StatusWriter, DropGuard) {
    let (writer, shutdown) = (StatusWriter::default(), CancellationToken::new());
    let running = writer.clone().run(cluster.client(), leadership.clone(), shutdown.clone());
    tokio::spawn(running);
    (writer, shutdown.drop_guard())
}

async fn policy(cluster: &Cluster, namespace: &str) -> anyhow::Result<ObjectKey> {
    let yaml = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
                metadata: {name: p}\nspec: {action: DENY}\n";
    cluster.apply(namespace, yaml).await?;
    Ok(ObjectKey { kind: Kind::AuthorizationPolicy, name: ObjectName::new(namespace, "p") })
}

fn accepted(status: bool) -> Vec<Condition> {
    let (reason, message) = ("Accepted", "by every node".into());
    vec![Condition { kind: "ZtunnelAccepted", status, reason, message }]
}

async fn object(cluster: &Cluster, key: &ObjectKey) -> anyhow::Result<Value> {
    let ObjectName { namespace, name } = &key.name;
    let found = cluster.get("security.istio.io/v1", "AuthorizationPolicy", namespace, name).await?;
    serde_json::to_value(found.context("no policy")?).context("a policy as a value")
}

/// Waits until the policy's condition of that type has this status, or is not there.
async fn condition(
    cluster: &Cluster,
    key: &ObjectKey,
    kind: &str,
    status: Option<&str>,
) -> anyhow::Result<Value> {
    until(&format!("{kind} is {status:?}"), TIMEOUT, async || {
        let object = object(cluster, key).await?;
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.iter().find(|condition| condition["type"] == kind);
        let is = found.and_then(|condition| condition["status"].as_str());
        Ok((is == status).then_some(object))
    })
    .await
}

#[tokio::test]
async fn conditions_are_written_once_beside_those_of_others() -> anyhow::Result<()> {
    let cluster = definitions::cluster().await?;
    let namespace = cluster.namespace("conditions").await?;
    let key = policy(&cluster, &namespace).await?;
    let other = json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": { "name": "p" },
        "status": { "conditions": [{ "type": "WaypointAccepted", "status": "True" }] },
    });
    let policies = Api::<kube::api::DynamicObject>::namespaced_with(
        cluster.client(),
        &namespace,
        &kube::api::ApiResource::from_gvk_with_plural(
            &kube::core::GroupVersionKind::gvk("security.istio.io", "v1", "AuthorizationPolicy"),
            "authorizationpolicies",
        ),
    );
    let params = PatchParams::apply("another-writer");
    policies.patch_status("p", &params, &Patch::Apply(&other)).await.context("another's")?;

    let replica = Replica::leader(&cluster, &namespace).await?;
    let (writer, _stop) = write(&cluster, &replica.leadership);
    writer.conditions(key.clone(), accepted(true));
    let written = condition(&cluster, &key, "ZtunnelAccepted", Some("True")).await?;
    condition(&cluster, &key, "WaypointAccepted", Some("True")).await?;

    writer.conditions(key.clone(), accepted(true));
    until("a look that changes nothing", TIMEOUT, async || {
        Ok((writer.counts().unchanged == 1).then_some(()))
    })
    .await?;
    let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
    ensure!(version(&object(&cluster, &key).await?) == version(&written), "written twice");

    writer.conditions(key.clone(), accepted(false));
    condition(&cluster, &key, "ZtunnelAccepted", Some("False")).await?;
    writer.conditions(key.clone(), Vec::new());
    condition(&cluster, &key, "ZtunnelAccepted", None).await?;
    condition(&cluster, &key, "WaypointAccepted", Some("True")).await?;

    // An object that is gone is no failure.
    cluster.delete("security.istio.io/v1", "AuthorizationPolicy", &namespace, "p").await?;
    writer.conditions(key.clone(), accepted(true));
    until("nothing waits", TIMEOUT, async || Ok((writer.waiting() == 0).then_some(()))).await?;
    ensure!(writer.counts().retried == 0, "{:?}", writer.counts());
    Ok(())
}

#[tokio::test]
async fn a_leader_that_is_killed_is_followed_by_one_that_finishes() -> anyhow::Result<()> {
    let cluster = definitions::cluster().await?;
    let namespace = cluster.namespace("leaders").await?;
    let key = policy(&cluster, &namespace).await?;
    let mut first = Replica::leader(&cluster, &namespace).await?;
    let mut second = Replica::start(&cluster, &namespace, "second");
    let (follower, _stop) = write(&cluster, &second.leadership);
    // Both translate the same, and the leader never gets to it.
    follower.conditions(key.clone(), accepted(true));
    first.election.abort();
    let killed = tokio::time::Instant::now();
    tokio::time::timeout(TIMEOUT, first.leadership.lost()).await.context("it leads for ever")?;
    ensure!(killed.elapsed() <= lease::RENEW_DEADLINE, "it writes for {:?}", killed.elapsed());
    ensure!(second.leadership.until().is_none(), "two lead");
    ensure!(object(&cluster, &key).await?["status"]["conditions"].is_null(), "a follower wrote");

    tokio::time::timeout(TIMEOUT, second.leadership.acquired()).await.context("no successor")?;
    condition(&cluster, &key, "ZtunnelAccepted", Some("True")).await?;

    // One that ends gives its lease back: nobody waits for the end of it.
    let mut third = Replica::start(&cluster, &namespace, "third");
    second.shutdown.cancel();
    second.election.await.context("join")?;
    let ended = tokio::time::Instant::now();
    tokio::time::timeout(TIMEOUT, third.leadership.acquired()).await.context("no third")?;
    ensure!(ended.elapsed() < Duration::from_secs(5), "it took {:?}", ended.elapsed());
    Ok(())
}

#[tokio::test]
async fn roots_are_in_every_namespace_but_where_they_are_anothers() -> anyhow::Result<()> {
    // A server of its own: it writes in every namespace.
    let server = tests::ApiServer::start().await?;
    let cluster = server.cluster().await?;
    let empty = cluster.namespace("empty").await?;
    let foreign = cluster.namespace("foreign").await?;
    let maps = |namespace: &str| Api::<ConfigMap>::namespaced(cluster.client(), namespace);
    let name = Some(trust_bundle::CONFIG_MAP.to_owned());
    let istiods = ConfigMap {
        metadata: ObjectMeta { name, ..ObjectMeta::default() },
        data: Some([(trust_bundle::KEY.to_owned(), "istiod's".to_owned())].into()),
        ..ConfigMap::default()
    };
    maps(&foreign).create(&PostParams::default(), &istiods).await.context("another's")?;

    let replica = Replica::leader(&cluster, &empty).await?;
    let (roots, bundle) = watch::channel(Arc::from("one"));
    let problems = Problems::default();
    let shutdown = CancellationToken::new();
    let place = trust_bundle::Place::ROOTS;
    let publisher = TrustBundle { place, bundle, problems: problems.clone() };
    let leadership = replica.leadership.clone();
    tokio::spawn(publisher.run(cluster.client(), leadership, shutdown.clone()));
    let _stop = shutdown.drop_guard();

    let has = async |namespace: &str, expected: &str| {
        until(&format!("{namespace} has {expected}"), TIMEOUT, async || {
            let map = maps(namespace).get_opt(trust_bundle::CONFIG_MAP).await?;
            let data = map.and_then(|map| map.data).unwrap_or_default();
            let is = data.get(trust_bundle::KEY).is_some_and(|text| text == expected);
            Ok(is.then_some(()))
        })
        .await
    };
    has(&empty, "one").await?;
    let late = cluster.namespace("late").await?;
    has(&late, "one").await?;
    roots.send_replace(Arc::from("one and two"));
    has(&empty, "one and two").await?;
    has(&late, "one and two").await?;
    has(&foreign, "istiod's").await?;
    let shown = problems.list();
    ensure!(shown.len() == 1 && shown[0].text.contains(&foreign), "{shown:?}");

    maps(&foreign)
        .delete(trust_bundle::CONFIG_MAP, &DeleteParams::default())
        .await
        .context("delete")?;
    has(&foreign, "one and two").await?;
    until("nothing is wrong", TIMEOUT, async || Ok(problems.list().is_empty().then_some(())))
        .await?;

    // An istiod that comes later writes into ours: there is no war over it.
    let taken = json!({"data": {(trust_bundle::KEY): "istiod's"}});
    let parameters = PatchParams { field_manager: Some("istiod".into()), ..Default::default() };
    maps(&empty)
        .patch(trust_bundle::CONFIG_MAP, &parameters, &Patch::Merge(&taken))
        .await
        .context("take ours")?;
    let is_shown = |text: &str| text.contains(&empty) && text.contains("istiod");
    until("the contest is shown", TIMEOUT, async || {
        Ok(problems.list().iter().any(|problem| is_shown(&problem.text)).then_some(()))
    })
    .await?;
    has(&empty, "istiod's").await?;
    // It is tried again, once, for the sake of a slip.
    has(&empty, "one and two").await?;
    cluster.delete_namespace(&late).await
}
