//! The way out: by request, after a failed enrolment, or because the pod is gone.
//!
//! A pod that leaves keeps its established connections. Those that the proxy relays to the
//! application carry the mark, and their replies need the mark's routing to come back; without it
//! they would leave the node in plaintext. So rule, route and sysctl stay until the last marked
//! socket is gone.

use std::sync::Arc;
use std::time::Duration;

use ebpf_abi::{PROXY_MARK, PROXY_MARK_MASK};
use enrol::Source;
use model::{PodUid, causes};
use netns::{NetnsFd, half_open_connections, marked_sockets};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::enrol::{EnrolCode, EnrolError};
use super::hooks;
use super::live::{LivePod, Origin};
use super::node::{Capture, Node, PodEvent, ROUTING, Slot, Status};
use super::records::{Progress, Record};

/// Between two looks at a leaving pod's sockets.
const LEAVE_POLL: Duration = Duration::from_millis(500);
/// Between two looks at handshakes, and before the first: a SYN on its way into the kernel's table is
/// not seen yet.
const HANDSHAKE_POLL: Duration = Duration::from_millis(10);
/// Longest wait for handshakes to end, as long as the kernel waits before it repeats an answer that
/// was lost. A client that is not done by then is reset with its listener.
const HANDSHAKES_END: Duration = Duration::from_secs(1);

/// What becomes of the open connections of a pod that is let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// The pod lives, and they go on until they end by themselves.
    GoesOn,
    /// Nobody is there any more who could end them.
    Ends,
}

/// Waits until no listener has a handshake under way: what began before new connections were steered
/// elsewhere is in the accept queues then, and can be served instead of being reset with them.
pub(super) async fn handshakes_ended(namespaces: &[NetnsFd]) {
    let deadline = Instant::now() + HANDSHAKES_END;
    let mut waited_for: Vec<&NetnsFd> = namespaces.iter().collect();
    while !waited_for.is_empty() && Instant::now() < deadline {
        tokio::time::sleep(HANDSHAKE_POLL).await;
        // Unknown is not none.
        waited_for.retain(|ns| half_open_connections(ns).map_or(true, |count| count > 0));
    }
}

impl Capture {
    /// The first step of stopping: the kernel refuses new connections of every pod from now on, and
    /// those that it took before are in the accept queues when this returns. No pod is watched or
    /// enrolled any more.
    pub async fn refuse_new(&self) {
        self.0.shutdown.cancel();
        let pods: Vec<_> = self.0.pods.lock().values().filter_map(|s| s.live.clone()).collect();
        let mut namespaces = Vec::with_capacity(pods.len());
        for live in pods {
            // One that left has no hooks any more.
            let Some(emptied) =
                live.hooks.lock().as_ref().map(|hooks| hooks.maps().clear_listeners())
            else {
                continue;
            };
            if let Err(error) = emptied {
                // Its listeners close a little later all the same; only what comes meanwhile is reset.
                let (uid, error) = (live.pod.uid(), causes(&error));
                tracing::warn!(pod = %uid, error, "cannot take listeners out of their slots");
            }
            namespaces.push(live.pod.namespace().clone());
        }
        handshakes_ended(&namespaces).await;
    }

    /// Ends the capture of a pod. Returns when new connections are no longer captured. A degraded pod is cleaned of whatever an earlier agent left.
    pub async fn unenrol(&self, uid: &PodUid, rest: Rest) -> Result<(), EnrolError> {
        let node = Arc::clone(&self.0);
        let owned = uid.clone();
        let work = self.0.tasks.spawn(async move { unenrol(&node, &owned, rest).await });
        let result = work.await.unwrap_or_else(|error| {
            Err(EnrolError::new(EnrolCode::AttachFailed, format!("the work ended: {error}")))
        });
        match &result {
            Ok(()) => tracing::info!(pod = %uid, "pod un-enrolled"),
            Err(error) => tracing::warn!(pod = %uid, %error, "pod not un-enrolled"),
        }
        result
    }
}

pub(super) async fn unenrol(node: &Arc<Node>, uid: &PodUid, rest: Rest) -> Result<(), EnrolError> {
    let lost = node.pods.lock().get(uid.as_str()).is_some_and(|slot| slot.live.is_none());
    // An attempt to adopt it may be in progress. The row is looked at after that.
    let _turn = if lost { Some(node.rescue.lock().await) } else { None };
    let (record, live) = {
        let pods = node.pods.lock();
        let slot = pods.get(uid.as_str()).ok_or_else(|| {
            EnrolError::new(EnrolCode::UnknownPod, format!("{uid} is not enrolled"))
        })?;
        match slot.status {
            Status::Leaving => return Ok(()),
            Status::Enrolling => {
                return Err(EnrolError::new(EnrolCode::Busy, format!("{uid} is being enrolled")));
            }
            Status::Verified | Status::Degraded(_) => (slot.record.clone(), slot.live.clone()),
        }
    };
    let failed =
        |error: &dyn std::error::Error| EnrolError::new(EnrolCode::AttachFailed, causes(error));
    match (record, live) {
        (Some(record), Some(live)) => {
            let _turn = live.work.lock().await;
            match node.seats.while_owner(|| live.detach()).map_err(|error| failed(&error))? {
                Ok(true) => {
                    let namespace = live.pod.namespace().clone();
                    node.leave(record, namespace, Some(&live)).await;
                    if rest == Rest::Ends {
                        live.pod.gone().cancel();
                    }
                }
                // It has vanished while this waited for its turn.
                Ok(false) => {}
                Err(error) => {
                    node.set_status(uid, Status::Degraded(causes(&error)));
                    return Err(failed(&error));
                }
            }
        }
        (record, _) => {
            let purged = node.seats.while_owner(|| hooks::purge(&node.programs, uid));
            purged.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
            let namespace = record.as_ref().and_then(open_again);
            match (record, namespace) {
                (Some(record), Some(namespace)) => node.leave(record, namespace, None).await,
                _ => node.forget(uid),
            }
        }
    }
    Ok(())
}

/// The namespace of a record, if the path still names it.
pub(super) fn open_again(record: &Record) -> Option<NetnsFd> {
    let namespace = NetnsFd::open(&record.netns_path).ok()?;
    (namespace.cookie() == record.netns_cookie).then_some(namespace)
}

impl Node {
    /// Undoes a failed enrolment. What cannot be undone stays in the table and on disk, degraded, until
    /// its watch has mended it, an attempt to adopt it cleans up, or somebody un-enrols it.
    pub(super) async fn abandon(
        self: &Arc<Self>,
        record: &Record,
        namespace: &NetnsFd,
        live: Option<&Arc<LivePod>>,
    ) {
        let detached = self.seats.while_owner(|| match live {
            Some(live) => live.detach().map(drop),
            None => hooks::purge(&self.programs, &record.uid),
        });
        // The agent that has the pods finds an enrolment that was not finished, and undoes it.
        let Ok(detached) = detached else { return };
        if let Err(error) = detached {
            // Hooks may be on in part: nobody knows what passes, so it must be seen.
            let reason = format!("enrolment failed, and {}", causes(&error));
            self.set_status(&record.uid, Status::Degraded(reason));
            // Whoever asked by the CLI has the reason, and un-enrols the pod. Otherwise nobody waits
            // for its end but a watch.
            if let Some(live) = live.filter(|_| record.source != Source::Cli) {
                self.watch(record.clone(), Arc::clone(live), Origin::Fresh);
            }
            return;
        }
        self.leave(record.clone(), namespace.clone(), live).await;
    }

    /// Ends service for a pod whose hooks are off, and starts the wait for its last connection.
    pub(super) async fn leave(
        self: &Arc<Self>,
        mut record: Record,
        namespace: NetnsFd,
        live: Option<&Arc<LivePod>>,
    ) {
        record.progress = Progress::Leaving;
        if let Ok(Err(error)) = self.seats.while_owner(|| self.records.save(&record)) {
            // The old record makes a restarted agent clean up, only more thoroughly.
            tracing::warn!(pod = %record.uid, error = %causes(&error), "cannot update the record");
        }
        let superseded = CancellationToken::new();
        {
            let mut slot = Slot::new(Status::Leaving, Some(record.clone()));
            slot.live = live.cloned();
            slot.superseded = superseded.clone();
            self.pods.lock().insert(record.uid.to_string(), slot);
        }
        let pod = live.map(|live| Arc::clone(&live.pod));
        if let Some(pod) = &pod {
            handshakes_ended(std::slice::from_ref(&namespace)).await;
            pod.stopping().cancel();
            self.emit(PodEvent::Down { uid: record.uid.clone() }).await;
        }
        let node = Arc::clone(self);
        self.tasks.spawn(async move {
            loop {
                if has_left(&record, &namespace, pod.as_ref().map(|p| p.open_connections())) {
                    if let Some(pod) = &pod {
                        pod.gone().cancel();
                    }
                    node.finish_leaving(&record, &namespace, &superseded);
                    return;
                }
                tokio::select! {
                    () = superseded.cancelled() => return,
                    () = node.shutdown.cancelled() => return,
                    () = tokio::time::sleep(LEAVE_POLL) => {}
                }
            }
        });
    }

    fn finish_leaving(&self, record: &Record, ns: &NetnsFd, superseded: &CancellationToken) {
        // Under the table's lock: a pod that returns now either supersedes this before, or finds
        // the routing gone and the record removed.
        let mut pods = self.pods.lock();
        if superseded.is_cancelled() {
            return;
        }
        // Another agent that has the pods waits for their last connections too.
        let _ = self.seats.while_owner(|| {
            if let Err(error) = ROUTING.remove(ns, record.mark_sysctls) {
                tracing::warn!(pod = %record.uid, error = %causes(&error), "cannot remove routing");
            }
            if let Err(error) = self.records.remove(&record.uid) {
                tracing::warn!(pod = %record.uid, error = %causes(&error), "cannot remove the record");
            }
        });
        pods.remove(record.uid.as_str());
    }

    /// Removes a pod whose cgroup or namespace is gone; its connections end. `false` if its hooks
    /// cannot be removed: it stays, degraded, and the next look tries again.
    pub(super) async fn vanish(&self, record: &Record, live: &LivePod, what: &str) -> bool {
        tracing::info!(pod = %record.uid, what, "pod is gone");
        live.pod.gone().cancel();
        // Else the agent that has the pods sees the same.
        let Ok(detached) = self.seats.while_owner(|| live.detach()) else { return true };
        if let Err(error) = detached {
            let reason = format!("{what}, and {}", causes(&error));
            self.set_status(&record.uid, Status::Degraded(reason));
            return false;
        }
        // Both may outlive the other; a namespace that stays must not keep our routing.
        if let Err(error) = ROUTING.remove(live.pod.namespace(), record.mark_sysctls) {
            tracing::debug!(pod = %record.uid, error = %causes(&error), "cannot remove routing");
        }
        self.forget(&record.uid);
        self.emit(PodEvent::Down { uid: record.uid.clone() }).await;
        true
    }

    /// Drops record and table row.
    pub(super) fn forget(&self, uid: &PodUid) {
        if let Ok(Err(error)) = self.seats.while_owner(|| self.records.remove(uid)) {
            tracing::warn!(pod = %uid, error = %causes(&error), "cannot remove the record");
        }
        self.pods.lock().remove(uid.as_str());
    }
}

/// Whether nothing is open any more that the proxy relays.
fn has_left(record: &Record, namespace: &NetnsFd, relayed: Option<usize>) -> bool {
    if relayed.is_some_and(|count| count > 0) {
        return false;
    }
    match marked_sockets(namespace, PROXY_MARK, PROXY_MARK_MASK) {
        Ok(count) => count == 0,
        Err(error) => {
            // Unknown is not none.
            tracing::warn!(pod = %record.uid, error = %causes(&error), "cannot list sockets");
            false
        }
    }
}
