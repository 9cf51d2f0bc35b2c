//! The end of the product on this node: its DaemonSet is gone, and not only this pod of it.
//!
//! A restart or an upgrade leaves everything in place. When the agent is stopped and its DaemonSet no
//! longer is there, pods are let go, and the plugin, pins, records and keys are removed. Where the API
//! server does not tell, nothing is: a node that is left closed is better than one that is open for a
//! moment in every upgrade.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use api_server::{ApiClient, Change, Query, RawValue};
use cluster::Meta;
use cni_node::NodeInstaller;
use enrol::Target;
use futures_util::{StreamExt, stream};
use model::PodUid;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::objects::{Annotation, ApiObjects, Objects};
use crate::capture::{Capture, PodView, Rest, Status};

/// Between two attempts to learn whose pod this one is.
const OWNER_RETRY: Duration = Duration::from_secs(5);
/// The word of a DaemonSet's end may be a little behind the order to stop.
const WORD_LAG: Duration = Duration::from_millis(500);
/// How long removing annotations may take, all together. The account's rights go with the product.
const ANNOTATIONS_WAIT: Duration = Duration::from_secs(3);
/// Annotations that are removed at once.
const ANNOTATIONS_AT_ONCE: usize = 8;
/// Pods that are let go at once. Each may wait for handshakes, or for its self-test to end.
const RELEASES_AT_ONCE: usize = 64;
/// Between two looks at pods that leave.
const LEAVE_POLL: Duration = Duration::from_millis(200);

/// What there is to remove, and whether it is to be.
pub(crate) struct Uninstall {
    pub(super) gone: watch::Receiver<bool>,
    /// Who tells that.
    pub(super) following: JoinSet<()>,
    pub(super) api: ApiClient,
    pub(super) capture: Capture,
    pub(super) objects: ApiObjects,
    pub(super) installer: Option<NodeInstaller>,
    /// Folders that are the product's, at the same path for the host.
    pub(super) folders: Vec<PathBuf>,
    pub(super) host_proc: PathBuf,
}

impl Uninstall {
    /// Who captures the pods that would be let go.
    pub(crate) fn capture(&self) -> Capture {
        self.capture.clone()
    }

    /// Removes everything if the product is being uninstalled, and nothing else. Pods have `patience` to be
    /// let go and to end their open connections; then those are the drain's.
    pub(crate) async fn run_if_wanted(mut self, patience: Duration) {
        if self.is_wanted().await {
            self.run(patience).await;
        }
    }

    async fn is_wanted(&mut self) -> bool {
        // Nobody tells any more: it is not known, and so it is not.
        let gone = matches!(timeout(WORD_LAG, self.gone.wait_for(|gone| *gone)).await, Ok(Ok(_)));
        self.following.shutdown().await;
        gone
    }

    async fn run(mut self, patience: Duration) {
        tracing::info!("the DaemonSet is gone: removing everything from this node");
        // First, so that pods can start without an agent.
        if let Some(installer) = &mut self.installer
            && let Err(error) = installer.remove().await
        {
            tracing::error!(error = %model::causes(&error), "the CNI plugin stays on the node");
        }
        let targets: Vec<Target> = self.capture.pods().iter().filter_map(target).collect();
        let objects = &self.objects;
        let removals =
            stream::iter(&targets).for_each_concurrent(ANNOTATIONS_AT_ONCE, |target| async move {
                if let Err(failure) = objects.annotate(target, Annotation::Absent).await {
                    tracing::warn!(pod = %target.uid, %failure, "a pod keeps its annotation");
                }
            });
        if timeout(ANNOTATIONS_WAIT, removals).await.is_err() {
            tracing::warn!("some pods keep their annotation");
        }
        if timeout(patience, release_all(&self.capture)).await.is_err() {
            // Without its pins a hook ends with this process.
            tracing::warn!("some pods were not let go in time");
        }
        self.capture.remove_cgroups();
        for folder in &self.folders {
            if let Err(error) = remove(folder, &self.host_proc) {
                tracing::error!(folder = %folder.display(), %error, "a folder stays on the node");
            }
        }
    }
}

/// The object of a captured pod.
fn target(pod: &PodView) -> Option<Target> {
    let uid = PodUid::parse(&pod.name).ok()?;
    let workload = pod.workload.as_ref()?;
    let (namespace, name) = (workload.namespace.to_string(), workload.name.to_string());
    Some(Target { uid, namespace, name })
}

/// Lets every pod go, all at once: one that takes long keeps no other. Ends when none is left.
async fn release_all(capture: &Capture) {
    loop {
        let pods = capture.enrolled();
        if pods.is_empty() {
            return;
        }
        // Those that leave, and those that somebody is at, are waited for.
        let captured = pods.into_iter().filter(|pod| match pod.status {
            Status::Verified | Status::Degraded(_) => true,
            Status::Enrolling | Status::Leaving => false,
        });
        let releases = captured.map(|pod| async move {
            // The log has what failed. It is tried again.
            let _ = capture.unenrol(&pod.uid, Rest::GoesOn).await;
        });
        stream::iter(releases).for_each_concurrent(RELEASES_AT_ONCE, |release| release).await;
        sleep(LEAVE_POLL).await;
    }
}

/// Empties a folder and removes it. In a pod it is a mount, and only the host can remove that one.
fn remove(folder: &Path, host_proc: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut emptied = Ok(());
    for entry in entries {
        // What stays does not keep the rest.
        emptied = emptied.and(entry.and_then(|entry| {
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())
            } else {
                fs::remove_file(entry.path())
            }
        }));
    }
    emptied?;
    match fs::remove_dir(folder) {
        // The second in a pod whose root is read-only.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::ResourceBusy | io::ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            let relative = folder.strip_prefix("/").unwrap_or(folder);
            fs::remove_dir(host_proc.join("1/root").join(relative))
        }
        result => result,
    }
}

#[derive(Deserialize)]
struct Object {
    metadata: Meta,
}

/// Tells whether the DaemonSet that this pod is of is gone. Ends only with its task.
pub(super) async fn follow_owner(
    api: ApiClient,
    namespace: String,
    pod: String,
    gone: watch::Sender<bool>,
) {
    let owner = loop {
        match owner(&api, &namespace, &pod).await {
            Ok(Some(owner)) => break owner,
            // Somebody else started it, and ends it.
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(error, "it is not known whose pod this one is");
                sleep(OWNER_RETRY).await;
            }
        }
    };
    let query = Query {
        field_selector: Some(format!("metadata.name={owner}")),
        ..Query::all(format!("/apis/apps/v1/namespaces/{namespace}/daemonsets"))
    };
    let (mut changes, following) = api_server::watch(api, query);
    let hearing = async {
        while let Some(change) = changes.recv().await {
            match change {
                Change::Replace(objects) => {
                    gone.send_replace(objects.iter().all(|object| is_ending(object)));
                }
                Change::Upsert(object) => _ = gone.send_replace(is_ending(&object)),
                Change::Remove(_) => _ = gone.send_replace(true),
                Change::Away(why) => tracing::debug!(why, "the DaemonSet cannot be followed"),
            }
        }
    };
    tokio::join!(following, hearing);
}

/// The DaemonSet that a pod is of.
async fn owner(api: &ApiClient, namespace: &str, pod: &str) -> Result<Option<String>, String> {
    let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}");
    let read = api.get(&path).await.map_err(|error| model::causes(&error))?;
    let Some(object) = read else { return Ok(None) };
    let object: Object = serde_json::from_str(object.get()).map_err(|error| error.to_string())?;
    let owner = object.metadata.controller().filter(|owner| &*owner.kind == "DaemonSet");
    Ok(owner.map(|owner| owner.name.to_string()))
}

fn is_ending(object: &RawValue) -> bool {
    // One that cannot be read is there.
    serde_json::from_str::<Object>(object.get())
        .is_ok_and(|object| object.metadata.deletion_timestamp.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_goes_with_all_that_is_in_it() {
        let top = tempfile::tempdir().expect("a folder");
        let folder = top.path().join("warren");
        fs::create_dir_all(folder.join("pods/a")).expect("folders");
        fs::write(folder.join("pods/a/record"), "x").expect("a file");
        fs::write(folder.join("socket"), "x").expect("a file");
        remove(&folder, Path::new("/proc")).expect("removed");
        assert!(!folder.exists());
        remove(&folder, Path::new("/proc")).expect("twice is fine");
    }

    #[test]
    fn a_daemon_set_that_is_being_deleted_is_gone() {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).expect("JSON");
        assert!(is_ending(&raw(r#"{"metadata":{"deletionTimestamp":"2026-01-01T00:00:00Z"}}"#)));
        assert!(!is_ending(&raw(r#"{"metadata":{}}"#)));
        assert!(!is_ending(&raw("[]")), "unknown is there");
    }
}
