//! Publishes the roots of the mesh in every namespace, when this replica leads.
//!
//! Beside an istiod the ConfigMap of that name is istiod's: it is never overwritten. Only where it
//! is absent or has our label is it written.

mod plan;

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{ObjectMeta, PostParams};
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::lease::Leadership;
use crate::watch::Problems;
use plan::{Found, Plan, Task};

pub use plan::{CONFIG_MAP, KEY, LABEL};

/// The name of this among the problems.
const PLACE: &str = "trust bundle";
/// Longest one request may take. It is tried again.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Time between two rounds. Changes within it are one round's, and what failed is tried again.
const ROUND: Duration = Duration::from_millis(500);
/// Time until what failed is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// Writes of one round. The rest is the next round's.
const WRITES_MAX: usize = 50;
/// Namespaces that a problem names. It counts the others.
const NAMES_MAX: usize = 10;

/// What is published, and where it says what stands in the way.
pub struct TrustBundle {
    /// The roots, PEM. Every namespace follows a change.
    pub bundle: watch::Receiver<Arc<str>>,
    /// Where a refusal is shown.
    pub problems: Problems,
}

impl TrustBundle {
    /// Publishes whenever this replica leads, until it is cancelled.
    pub async fn run(
        mut self,
        client: Client,
        mut leadership: Leadership,
        shutdown: CancellationToken,
    ) {
        // Cancelling is safe: the next leader looks at every namespace.
        let publishing = async {
            loop {
                leadership.acquired().await;
                let mut lost = leadership.clone();
                tokio::select! {
                    () = lost.lost() => self.problems.clear(PLACE),
                    () = self.publish(&client, &leadership) => {}
                }
            }
        };
        let _: Option<()> = shutdown.run_until_cancelled(Box::pin(publishing)).await;
    }

    async fn publish(&mut self, client: &Client, leadership: &Leadership) {
        let mut plan = Plan::default();
        let names: Api<PartialObjectMeta<Namespace>> = Api::all(client.clone());
        let mut names = pin!(watcher(names, watcher::Config::default()).default_backoff());
        let maps: Api<ConfigMap> = Api::all(client.clone());
        let only = watcher::Config::default().fields(&format!("metadata.name={CONFIG_MAP}"));
        let mut maps = pin!(watcher(maps, only).default_backoff());
        // Nothing is written before everything has been seen: what looks absent may not be.
        let (mut has_names, mut has_maps) = (false, false);
        let mut tick = tokio::time::interval(ROUND);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut is_due = true;
        let mut again_at = Instant::now();
        loop {
            // All of them are cancel safe.
            tokio::select! {
                Some(event) = names.next() => {
                    has_names |= take_namespace(&mut plan, event);
                    is_due = true;
                }
                Some(event) = maps.next() => {
                    has_maps |= take_map(&mut plan, event);
                    is_due = true;
                }
                changed = self.bundle.changed() => match changed {
                    Ok(()) => is_due = true,
                    // Whoever makes the bundle has ended, and so does the process.
                    Err(_) => std::future::pending().await,
                },
                _ = tick.tick() => {
                    if has_names && has_maps && (is_due || Instant::now() >= again_at) {
                        is_due = self.round(client, leadership, &mut plan).await;
                        again_at = Instant::now() + RETRY;
                    }
                }
            }
        }
    }

    /// Does what is to be done. Tells whether there is more.
    async fn round(&mut self, client: &Client, leadership: &Leadership, plan: &mut Plan) -> bool {
        let bundle = self.bundle.borrow_and_update().clone();
        let mut refused = Vec::new();
        let mut failed = BTreeMap::new();
        let mut vanished = Vec::new();
        let mut writes = 0;
        let mut has_more = false;
        for (namespace, task, version) in plan.tasks(&bundle) {
            match task {
                Task::Nothing => {}
                Task::Refuse => refused.push(namespace),
                Task::Create | Task::Replace if writes >= WRITES_MAX => has_more = true,
                Task::Create | Task::Replace => {
                    writes += 1;
                    let api = Api::namespaced(client.clone(), namespace);
                    match write(&api, task, version, &bundle, leadership).await {
                        Ok(Written::Done) => {}
                        Ok(Written::Vanished) => vanished.push((namespace.to_owned(), task)),
                        Err(error) => drop(failed.insert(namespace.to_owned(), error)),
                    }
                }
            }
        }
        self.problems.state(PLACE, texts(&refused, &failed));
        for (namespace, task) in vanished {
            has_more = true;
            if task == Task::Create {
                plan.no_namespace(&namespace);
            } else {
                plan.found(&namespace, None);
            }
        }
        has_more
    }
}

fn texts(refused: &[&str], failed: &BTreeMap<String, String>) -> Vec<String> {
    let mut texts = Vec::new();
    if !refused.is_empty() {
        let names: Vec<_> = refused.iter().take(NAMES_MAX).copied().collect();
        texts.push(format!(
            "{} namespaces have a ConfigMap {CONFIG_MAP} of another writer with other roots, which \
             is left alone: share one root (a `cacerts` of both), or delete it; among them {}",
            refused.len(),
            names.join(", "),
        ));
    }
    let each = failed.iter().take(NAMES_MAX);
    texts.extend(each.map(|(namespace, error)| format!("namespace {namespace}: {error}")));
    texts
}

/// What became of one.
enum Written {
    /// It is there, or somebody else did something that is seen and judged anew.
    Done,
    /// The namespace, or what was to be replaced, is gone: it vanished between two lists.
    Vanished,
}

/// Writes one. A conflict is no failure.
async fn write(
    maps: &Api<ConfigMap>,
    task: Task,
    version: &str,
    bundle: &str,
    leadership: &Leadership,
) -> Result<Written, String> {
    let Some(until) = leadership.until() else { return Ok(Written::Done) };
    let limit = until.min(Instant::now() + REQUEST_TIMEOUT);
    let map = ConfigMap {
        metadata: ObjectMeta {
            name: Some(CONFIG_MAP.to_owned()),
            labels: Some(BTreeMap::from([(LABEL.0.to_owned(), LABEL.1.to_owned())])),
            resource_version: (task == Task::Replace).then(|| version.to_owned()),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(KEY.to_owned(), bundle.to_owned())])),
        ..ConfigMap::default()
    };
    let parameters = PostParams::default();
    let request = async {
        if task == Task::Replace {
            maps.replace(CONFIG_MAP, &parameters, &map).await
        } else {
            maps.create(&parameters, &map).await
        }
    };
    match tokio::time::timeout_at(limit.into(), request).await {
        Ok(Ok(_)) => Ok(Written::Done),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(Written::Vanished),
        // 403 with this cause: the namespace is being deleted, which is seen next.
        Ok(Err(kube::Error::Api(status)))
            if status.code == 409 || status.message.contains("being terminated") =>
        {
            Ok(Written::Done)
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

/// Tells whether every namespace has been seen now.
fn take_namespace(
    plan: &mut Plan,
    event: watcher::Result<watcher::Event<PartialObjectMeta<Namespace>>>,
) -> bool {
    match event {
        Ok(watcher::Event::Apply(namespace) | watcher::Event::InitApply(namespace)) => {
            if namespace.metadata.deletion_timestamp.is_some() {
                plan.no_namespace(&namespace.name_any());
            } else {
                plan.namespace(&namespace.name_any());
            }
            false
        }
        Ok(watcher::Event::Delete(namespace)) => {
            plan.no_namespace(&namespace.name_any());
            false
        }
        // One that vanishes between two lists is found out when nothing can be made in it.
        Ok(watcher::Event::Init) => false,
        Ok(watcher::Event::InitDone) => true,
        Err(error) => {
            tracing::debug!(%error, "watching namespaces failed and is tried again");
            false
        }
    }
}

/// Tells whether every ConfigMap of the name has been seen now.
fn take_map(plan: &mut Plan, event: watcher::Result<watcher::Event<ConfigMap>>) -> bool {
    match event {
        Ok(watcher::Event::Apply(map) | watcher::Event::InitApply(map)) => {
            let namespace = map.namespace().unwrap_or_default();
            let is_ours = map.labels().get(LABEL.0).is_some_and(|value| value == LABEL.1);
            let version = map.resource_version().unwrap_or_default();
            let bundle = map.data.and_then(|mut data| data.remove(KEY));
            plan.found(&namespace, Some(Found { is_ours, bundle, version }));
            false
        }
        Ok(watcher::Event::Delete(map)) => {
            plan.found(&map.namespace().unwrap_or_default(), None);
            false
        }
        // One that vanishes between two lists is found out when it cannot be replaced. Until then the
        // one that it had counts.
        Ok(watcher::Event::Init) => false,
        Ok(watcher::Event::InitDone) => true,
        Err(error) => {
            tracing::debug!(%error, "watching ConfigMaps failed and is tried again");
            false
        }
    }
}
