//! What the control plane's watchers say of a real API server, also of one that goes away and
//! forgets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, ensure};
use cluster::{Kind, Object};
use control_plane::watch::{self, Event, Problems, Source};
use tests::{ApiServer, ApiServerOptions, ClusterPod};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::definitions;

/// Until the watchers say something: they wait up to ten seconds before they look again for a kind
/// that was not there.
const TIMEOUT: Duration = Duration::from_secs(40);

/// The watchers at work, and what they said.
struct Watchers {
    events: mpsc::Receiver<Event>,
    synced: BTreeSet<Source>,
    /// What is there, by kind, namespace and name as text.
    objects: BTreeMap<String, Object>,
    /// What was said to be gone, in this order.
    deleted: Vec<String>,
    problems: Problems,
    _stop: DropGuard,
}

impl Watchers {
    /// Starts them and waits until they have said all that is there.
    async fn start(server: &ApiServer) -> anyhow::Result<Self> {
        let (sender, events) = watch::channel();
        let problems = Problems::default();
        let shutdown = CancellationToken::new();
        let client = server.client().await?;
        tokio::spawn(watch::kubernetes::run(client, sender, problems.clone(), shutdown.clone()));
        let mut watchers = Self {
            events,
            synced: BTreeSet::new(),
            objects: BTreeMap::new(),
            deleted: Vec::new(),
            problems,
            _stop: shutdown.drop_guard(),
        };
        let all: BTreeSet<Source> = Kind::ALL.into_iter().map(Source::Kubernetes).collect();
        watchers.until("every kind is synced", |watchers| watchers.synced == all).await?;
        Ok(watchers)
    }

    /// Takes what they say until it is enough.
    async fn until(&mut self, what: &str, enough: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + TIMEOUT;
        while !enough(self) {
            let event = timeout_at(deadline, self.events.recv()).await.with_context(|| {
                format!("{what}: not within {TIMEOUT:?}; problems: {:?}", self.problems.list())
            })?;
            match event.context("the watchers ended")? {
                Event::Set(object) => {
                    self.objects.insert(object.key().to_string(), object);
                }
                Event::Delete(key) => {
                    self.objects.remove(&key.to_string());
                    self.deleted.push(key.to_string());
                }
                Event::Synced(source) => {
                    self.synced.insert(source);
                }
            }
        }
        Ok(())
    }

    fn knows(&self, key: &str) -> bool {
        self.objects.contains_key(key)
    }
}

fn policy(name: &str, action: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1beta1\nkind: AuthorizationPolicy\nmetadata:\n  \
         name: {name}\nspec:\n  action: {action}\n  rules:\n  - from:\n    - source:\n        \
         namespaces: [a]\n        futureField: [b]\n"
    )
}

#[tokio::test]
async fn objects_are_said_as_they_come_change_and_go() -> anyhow::Result<()> {
    let cluster = definitions::cluster().await?;
    let namespace = cluster.namespace("said").await?;
    let web = ClusterPod::new("web", "node-a").at(Ipv4Addr::new(192, 0, 2, 20));
    cluster.pod(&namespace, &web).await?;
    let mut watchers = Watchers::start(ApiServer::shared().await?).await?;
    let key = format!("Pod {namespace}/web");
    ensure!(watchers.knows(&key), "a pod from before: {:?}", watchers.objects.keys());

    let db = ClusterPod::new("db", "node-a").at(Ipv4Addr::new(192, 0, 2, 21));
    cluster.pod(&namespace, &db).await?;
    let db = format!("Pod {namespace}/db");
    let has_address =
        |object: &Object| matches!(object, Object::Pod(pod) if !pod.status.pod_ips.is_empty());
    watchers
        .until("a new pod with its address", |w| w.objects.get(&db).is_some_and(has_address))
        .await?;

    cluster.delete("v1", "Pod", &namespace, "web").await?;
    watchers.until("a deleted pod", |watchers| !watchers.knows(&key)).await
}

#[tokio::test]
async fn a_policy_is_said_with_the_fields_that_nobody_knows() -> anyhow::Result<()> {
    let cluster = definitions::cluster().await?;
    let namespace = cluster.namespace("policies").await?;
    let mut watchers = Watchers::start(ApiServer::shared().await?).await?;
    cluster.apply(&namespace, &policy("p", "ALLOW")).await?;
    let key = format!("AuthorizationPolicy {namespace}/p");
    watchers.until("a policy", |watchers| watchers.knows(&key)).await?;
    let Some(Object::AuthorizationPolicy(policy)) = watchers.objects.get(&key) else {
        anyhow::bail!("not a policy: {:?}", watchers.objects.get(&key));
    };
    let spec = policy.spec.read().context("an unreadable policy")?;
    let unknown = &spec.rules[0].from[0].source.unknown;
    ensure!(unknown.iter().map(|field| &**field).eq(["futureField"]), "{unknown:?}");
    Ok(())
}

#[tokio::test]
async fn a_deleted_namespace_is_said_with_all_that_was_in_it() -> anyhow::Result<()> {
    let cluster = definitions::cluster().await?;
    let namespace = cluster.namespace("doomed").await?;
    cluster.pod(&namespace, &ClusterPod::new("web", "node-a")).await?;
    cluster.apply(&namespace, &policy("p", "DENY")).await?;
    let mut watchers = Watchers::start(ApiServer::shared().await?).await?;
    let keys = [
        format!("Pod {namespace}/web"),
        format!("AuthorizationPolicy {namespace}/p"),
        format!("Namespace {namespace}"),
    ];
    ensure!(keys.iter().all(|key| watchers.knows(key)), "{:?}", watchers.objects.keys());
    cluster.delete_namespace(&namespace).await?;
    let all_gone = |watchers: &Watchers| !keys.iter().any(|key| watchers.knows(key));
    watchers.until("everything of the namespace is gone", all_gone).await
}

#[tokio::test]
async fn a_restart_of_the_server_loses_nothing_and_kinds_may_come_later() -> anyhow::Result<()> {
    let mut server = ApiServer::start().await?;
    let cluster = server.cluster().await?;
    let namespace = cluster.namespace("restart").await?;
    cluster.pod(&namespace, &ClusterPod::new("old", "node-a")).await?;
    // Of our kinds none is defined yet: they are synced, and empty.
    let mut watchers = Watchers::start(&server).await?;

    server.restart().await?;
    let cluster = server.cluster().await?;
    cluster.pod(&namespace, &ClusterPod::new("new", "node-a")).await?;
    let new = format!("Pod {namespace}/new");
    watchers.until("a pod from after the restart", |watchers| watchers.knows(&new)).await?;
    ensure!(watchers.knows(&format!("Pod {namespace}/old")));

    definitions::define(&cluster).await?;
    cluster.apply(&namespace, &policy("p", "DENY")).await?;
    let policy = format!("AuthorizationPolicy {namespace}/p");
    watchers.until("a policy of a kind that came late", |w| w.knows(&policy)).await?;
    ensure!(watchers.deleted.is_empty(), "{:?}", watchers.deleted);
    Ok(())
}

#[tokio::test]
async fn what_vanished_while_the_past_was_forgotten_is_said_to_be_gone() -> anyhow::Result<()> {
    let mut server = ApiServer::start_with(ApiServerOptions::WithoutWatchCache).await?;
    let cluster = server.cluster().await?;
    let namespace = cluster.namespace("past").await?;
    for name in ["stays", "vanishes"] {
        cluster.pod(&namespace, &ClusterPod::new(name, "node-a")).await?;
    }
    let mut watchers = Watchers::start(&server).await?;
    server.stop();
    server.remove_from_store(&format!("/registry/pods/{namespace}/vanishes"))?;
    // The version that the watchers want to go on from is now one that the server answers with 410.
    server.compact()?;
    server.start_again().await?;
    let vanished = format!("Pod {namespace}/vanishes");
    watchers.until("a pod that vanished unseen", |watchers| !watchers.knows(&vanished)).await?;
    ensure!(watchers.knows(&format!("Pod {namespace}/stays")));
    ensure!(watchers.deleted == [vanished.as_str()], "{:?}", watchers.deleted);
    Ok(())
}
