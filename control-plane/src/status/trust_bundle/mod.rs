//! Publishes the roots of the mesh, and its revocation list, in every namespace, when this replica
//! leads.
//!
//! Beside an istiod the ConfigMap of that name is istiod's: it is never overwritten. Only where it
//! is absent or has our label is it written, and not for long against another who writes it too.

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
use plan::{FORMER_MANAGER, Found, Plan, Task};

pub use plan::{LABEL, MANAGER};

/// The ConfigMap of the roots, in each namespace.
pub const CONFIG_MAP: &str = "istio-ca-root-cert";
/// Its key.
pub const KEY: &str = "root-cert.pem";
/// The ConfigMap of the revocation list, in each namespace.
pub const CRL_CONFIG_MAP: &str = "istio-ca-crl";
/// Its key.
pub const CRL_KEY: &str = "ca-crl.pem";

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

/// A ConfigMap of each namespace.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    config_map: &'static str,
    key: &'static str,
    /// Its name among the problems.
    problem: &'static str,
}

impl Place {
    /// That of the roots.
    pub const ROOTS: Self = Self { config_map: CONFIG_MAP, key: KEY, problem: "trust bundle" };
    /// That of the revocation list.
    pub const REVOCATIONS: Self =
        Self { config_map: CRL_CONFIG_MAP, key: CRL_KEY, problem: "revocation list" };
}

/// What is published, and where it says what stands in the way.
pub struct TrustBundle {
    /// Where.
    pub place: Place,
    /// The text, PEM. Every namespace follows a change. Empty: what was published goes, which for a
    /// list of a root that nobody believes any more revives nothing.
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
                    () = lost.lost() => self.problems.clear(self.place.problem),
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
        let only =
            watcher::Config::default().fields(&format!("metadata.name={}", self.place.config_map));
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
                    has_maps |= take_map(&mut plan, event, self.place.key);
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
        let place = self.place;
        let mut refused = Vec::new();
        let mut contested = Vec::new();
        let mut wrote = Vec::new();
        let mut failed = BTreeMap::new();
        let mut vanished = Vec::new();
        let mut writes = 0;
        let mut has_more = false;
        for (namespace, task, version) in plan.tasks(&bundle, Instant::now()) {
            match task {
                Task::Nothing => {}
                Task::Refuse => refused.push(namespace),
                Task::Contested => {
                    let writer = plan.contester(namespace).unwrap_or_default();
                    contested.push(format!("{namespace} (by {writer})"));
                }
                Task::Create | Task::Replace if writes >= WRITES_MAX => has_more = true,
                Task::Create | Task::Replace => {
                    writes += 1;
                    let api = Api::namespaced(client.clone(), namespace);
                    match write(&api, place, (task, version), &bundle, leadership).await {
                        Ok(Written::Done) => wrote.push(namespace.to_owned()),
                        Ok(Written::NotOurs) => {}
                        Ok(Written::Vanished) => vanished.push((namespace.to_owned(), task)),
                        Err(error) => drop(failed.insert(namespace.to_owned(), error)),
                    }
                }
            }
        }
        self.problems.state(place.problem, texts(place, &refused, &contested, &failed));
        for namespace in wrote {
            plan.wrote(&namespace);
        }
        for (namespace, task) in vanished {
            has_more = true;
            if task == Task::Create {
                plan.no_namespace(&namespace);
            } else {
                plan.found(&namespace, None, Instant::now());
            }
        }
        has_more
    }
}

fn texts(
    place: Place,
    refused: &[&str],
    contested: &[String],
    failed: &BTreeMap<String, String>,
) -> Vec<String> {
    let config_map = place.config_map;
    let mut texts = Vec::new();
    if !refused.is_empty() {
        let names: Vec<_> = refused.iter().take(NAMES_MAX).copied().collect();
        texts.push(format!(
            "{} namespaces have a ConfigMap {config_map} of another writer with another content, \
             which is left alone: share one root (a `cacerts` of both), or delete it; among them {}",
            refused.len(),
            names.join(", "),
        ));
    }
    if !contested.is_empty() {
        let names: Vec<_> = contested.iter().take(NAMES_MAX).map(String::as_str).collect();
        texts.push(format!(
            "our ConfigMap {config_map} was changed by another writer in {} namespaces and is left \
             alone there: let one of both publish it; among them {}",
            contested.len(),
            names.join(", "),
        ));
    }
    let each = failed.iter().take(NAMES_MAX);
    texts.extend(each.map(|(namespace, error)| format!("namespace {namespace}: {error}")));
    texts
}

/// What became of one.
enum Written {
    /// It is there.
    Done,
    /// Nothing was written: somebody else did something that is seen and judged anew, or leads.
    NotOurs,
    /// The namespace, or what was to be replaced, is gone: it vanished between two lists.
    Vanished,
}

/// Writes one. A conflict is no failure.
async fn write(
    maps: &Api<ConfigMap>,
    place: Place,
    (task, version): (Task, &str),
    bundle: &str,
    leadership: &Leadership,
) -> Result<Written, String> {
    let Some(until) = leadership.until() else { return Ok(Written::NotOurs) };
    let limit = until.min(Instant::now() + REQUEST_TIMEOUT);
    let map = ConfigMap {
        metadata: ObjectMeta {
            name: Some(place.config_map.to_owned()),
            labels: Some(BTreeMap::from([(LABEL.0.to_owned(), LABEL.1.to_owned())])),
            resource_version: (task == Task::Replace).then(|| version.to_owned()),
            ..ObjectMeta::default()
        },
        data: (!bundle.is_empty())
            .then(|| BTreeMap::from([(place.key.to_owned(), bundle.to_owned())])),
        ..ConfigMap::default()
    };
    let parameters =
        PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    let request = async {
        if task == Task::Replace {
            maps.replace(place.config_map, &parameters, &map).await
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
            Ok(Written::NotOurs)
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
fn take_map(plan: &mut Plan, event: watcher::Result<watcher::Event<ConfigMap>>, key: &str) -> bool {
    match event {
        Ok(watcher::Event::Apply(map) | watcher::Event::InitApply(map)) => {
            let namespace = map.namespace().unwrap_or_default();
            let is_ours = map.labels().get(LABEL.0).is_some_and(|value| value == LABEL.1);
            let version = map.resource_version().unwrap_or_default();
            let other_writer = other_writer(&map, key);
            let bundle = map.data.and_then(|mut data| data.remove(key));
            let found = Found { is_ours, bundle, other_writer, version };
            plan.found(&namespace, Some(found), Instant::now());
            false
        }
        Ok(watcher::Event::Delete(map)) => {
            plan.found(&map.namespace().unwrap_or_default(), None, Instant::now());
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

/// Who wrote a key of a ConfigMap last, if that was not we.
fn other_writer(map: &ConfigMap, key: &str) -> Option<String> {
    let field = format!("f:{key}");
    let wrote = |fields: &serde_json::Value| fields["f:data"].get(&field).is_some();
    let entries = map.metadata.managed_fields.iter().flatten();
    let mut writers = entries
        .filter(|entry| entry.fields_v1.as_ref().is_some_and(|fields| wrote(&fields.0)))
        .map(|entry| entry.manager.clone().unwrap_or_default());
    writers.find(|manager| manager != MANAGER && manager != FORMER_MANAGER)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_last_writer_of_the_key_is_known() {
        let written = |manager: &str, key: &str| {
            json!({"manager": manager, "operation": "Update",
            "fieldsV1": {"f:data": {".": {}, (format!("f:{key}")): {}}}})
        };
        let cases = [
            (json!([]), None),
            (json!([written(MANAGER, KEY)]), None),
            (json!([written(FORMER_MANAGER, KEY)]), None),
            (json!([written(MANAGER, "other"), written("pilot", KEY)]), Some("pilot")),
            (json!([written("pilot", "other")]), None),
        ];
        for (fields, want) in cases {
            let map = json!({"metadata": {"name": CONFIG_MAP, "managedFields": fields}});
            let map: ConfigMap = serde_json::from_value(map).expect("a map");
            assert_eq!(other_writer(&map, KEY).as_deref(), want);
        }
    }
}
