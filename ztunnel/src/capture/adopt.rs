//! Taking over the pods of an earlier agent.
//!
//! Records say what was promised, pins say what the kernel does; both are compared before anything
//! is changed. What fits is adopted in place, without a gap in capture. What does not fit keeps its
//! hooks, which drop what finds no listener, and is shown as degraded. What belongs to a pod that is
//! gone is removed.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ebpf_abi::connect::Hooked;
use model::{PodUid, causes};
use netns::NetnsFd;
use tokio::task::JoinSet;

use super::bpf;
use super::enrol::{EnrolCode, EnrolError};
use super::home::Home;
use super::hooks::{self, AdoptError, Expected};
use super::leave::open_again;
use super::live::{self, AttachError, Origin};
use super::moving;
use super::node::{Capture, Node, ROUTING, Slot, Status};
use super::pins::PodLink;
use super::questions::DnsCapture;
use super::records::{Entry, Progress, Record, RecordError};

/// Pods adopted at once: each waits for a self-test of up to seconds, and a node has 100 pods.
const ADOPTIONS_MAX: usize = 16;
/// Between two attempts for pods that could not be adopted.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// The links of a removed cgroup die a little after it, when its grace period is over. Looks at
/// them before a cgroup that cannot be found counts as alive.
const LINK_LOOKS: u32 = 20;
const LINK_PAUSE: Duration = Duration::from_millis(50);

impl Capture {
    /// Adopts what an earlier agent left. Returns when every pod is verified, degraded or removed.
    /// An error means that the folders cannot be listed; nothing was changed then.
    pub async fn adopt_all(&self) -> Result<(), AdoptAllError> {
        let entries = self.0.records.load()?;
        let pinned = self.0.programs.pins().pods()?;
        let orphans: Vec<PodUid> = pinned
            .into_iter()
            .filter(|uid| entries.iter().all(|entry| entry.name != uid.as_str()))
            .collect();
        for uid in orphans {
            self.0.adopt_orphan(&uid);
        }
        let mut adoptions = JoinSet::new();
        for entry in entries {
            if adoptions.len() >= ADOPTIONS_MAX {
                // Only waits: a task that panicked has left its row as degraded or enrolling.
                let _ = adoptions.join_next().await;
            }
            let node = Arc::clone(&self.0);
            adoptions.spawn(async move { node.adopt_entry(entry).await });
        }
        while adoptions.join_next().await.is_some() {}
        self.0.settle_root();
        let node = Arc::clone(&self.0);
        self.0.tasks.spawn(async move { node.retry_adoptions().await });
        let node = Arc::clone(&self.0);
        self.0.tasks.spawn(async move { node.adopted().await });
        Ok(())
    }
}

/// Why nothing could be adopted.
#[derive(Debug, thiserror::Error)]
pub enum AdoptAllError {
    /// The records.
    #[error("cannot list the enrolment records")]
    Records(#[from] RecordError),
    /// The pins.
    #[error("cannot list the pinned pods")]
    Pins(#[from] super::pins::PinError),
}

/// What to do with a record.
enum Plan {
    Adopt { namespace: NetnsFd, home: Home },
    FinishLeaving { namespace: NetnsFd },
    Remove { because: &'static str },
    Keep { reason: String },
}

impl Node {
    async fn adopt_entry(self: &Arc<Self>, entry: Entry) {
        let record = match entry.record {
            Ok(record) => record,
            Err(error) => {
                let reason = causes(&error);
                tracing::warn!(pod = %entry.name, %reason, "pod is degraded");
                let slot = Slot::new(Status::Degraded(reason), None);
                self.pods.lock().insert(entry.name, slot);
                return;
            }
        };
        let slot = Slot::new(Status::Enrolling, Some(record.clone()));
        self.pods.lock().insert(record.uid.to_string(), slot);
        self.adopt_record(record).await;
    }

    /// Tries again what could not be adopted: the reason may have passed.
    async fn retry_adoptions(self: &Arc<Self>) {
        loop {
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = tokio::time::sleep(RETRY_INTERVAL) => {}
            }
            let names: Vec<String> = self.pods.lock().keys().cloned().collect();
            for name in names {
                // Un-enrolment waits for this: both would take hooks off, or put them on.
                let _turn = self.rescue.lock().await;
                let record = self.pods.lock().get(&name).and_then(Slot::to_be_rescued);
                if let Some(record) = record {
                    self.adopt_record(record).await;
                    // It may be the last one that had to move.
                    self.settle_root();
                }
            }
        }
    }

    async fn adopt_record(self: &Arc<Self>, record: Record) {
        let uid = record.uid.clone();
        match self.plan_adoption(&record).await {
            Plan::Remove { because } => self.remove_stale(&record, because),
            Plan::Keep { reason } => self.set_status(&uid, Status::Degraded(reason)),
            Plan::FinishLeaving { namespace } => {
                let purged = self.seats.while_owner(|| hooks::purge(&self.programs, &uid));
                let Ok(purged) = purged else { return };
                if let Err(error) = purged {
                    self.set_status(&uid, Status::Degraded(causes(&error)));
                    return;
                }
                self.leave(record, namespace, None).await;
            }
            Plan::Adopt { namespace, home } => match self.move_over(record, &home) {
                Ok(record) => {
                    // Whatever is written of the pod later is written from this.
                    if let Some(slot) = self.pods.lock().get_mut(uid.as_str()) {
                        slot.record = Some(record.clone());
                    }
                    self.adopt(record, namespace, home).await;
                }
                Err(reason) => self.set_status(&uid, Status::Degraded(reason)),
            },
        }
    }

    async fn plan_adoption(&self, record: &Record) -> Plan {
        if record.boot_id != self.boot_id {
            let because = "it was enrolled before a reboot";
            return self.remove_unless_hooked(record, because, "is of another boot").await;
        }
        let home = self.home(record);
        let namespace = open_again(record);
        match (record.progress, home, namespace) {
            (Progress::Verified, Some(home), Some(namespace)) => Plan::Adopt { namespace, home },
            // Whoever asked for the enrolment got no answer and asks again.
            (Progress::Enrolling | Progress::Leaving, _, Some(namespace)) => {
                Plan::FinishLeaving { namespace }
            }
            (_, None, _) if moving::is_deserted(record, self.host.as_ref()) => {
                Plan::Remove { because: "its cgroup and processes are gone" }
            }
            // Somebody is in its namespace still. Gone when they are, or when it is un-enrolled.
            (_, None, Some(_)) if moving::has_lost_cgroup(record) => Plan::Keep {
                reason: "CGROUP_GONE: its cgroup was removed, and processes are in its network namespace; \
                         un-enrol it, or end them"
                    .to_owned(),
            },
            (_, None, _) => {
                let otherwise = "names a cgroup that is not the one that was enrolled";
                self.remove_unless_hooked(record, "its cgroup is gone", otherwise).await
            }
            (_, Some(home), None) if home.is_populated() == Some(false) => {
                Plan::Remove { because: "its network namespace and processes are gone" }
            }
            (_, Some(_), None) => Plan::Keep {
                reason: format!(
                    "{} is not the network namespace that was enrolled",
                    record.netns_path.display()
                ),
            },
        }
    }

    /// A record is a claim: a pod counts as gone only if the kernel agrees, or its hooks would be
    /// taken off a pod that lives.
    async fn remove_unless_hooked(
        &self,
        record: &Record,
        because: &'static str,
        otherwise: &str,
    ) -> Plan {
        let pins = self.programs.pins().pod(&record.uid);
        // The cgroup's, which go with it; where there are none, that of the namespace.
        let own = PodLink::on_cgroup(DnsCapture::On).any(|link| pins.link(link).exists());
        let cgroup_links = || {
            let links = PodLink::ALL.into_iter().filter(|link| (*link != PodLink::SkLookup) == own);
            links.map(|link| pins.link(link)).any(|path| is_attached(&path))
        };
        for _ in 0..LINK_LOOKS {
            if !cgroup_links() {
                return Plan::Remove { because };
            }
            tokio::time::sleep(LINK_PAUSE).await;
        }
        Plan::Keep { reason: format!("the record {otherwise}, and the pod's hooks are attached") }
    }

    async fn adopt(self: &Arc<Self>, record: Record, namespace: NetnsFd, home: Home) {
        let uid = record.uid.clone();
        let expected = Expected {
            cgroup_id: record.cgroup.as_ref().map(|cgroup| cgroup.id),
            netns_inode: record.netns_inode,
            dns: record.dns,
        };
        // Before anything is done in the namespace that the record names: it may be another's.
        if let Err(error @ AdoptError::Mismatch { .. }) =
            hooks::inspect(&self.programs, &uid, expected)
        {
            return self.set_status(&uid, Status::Degraded(causes(&error)));
        }
        let mut result = live::bring_up(self, &record, &namespace, &home, Origin::Pinned).await;
        // The promise stands, and the kernel lost its half: made anew. Links without a target were
        // taken off if cgroup and namespace are there.
        let lost = match &result {
            Err(AttachError::Adopt(
                AdoptError::NotFound { .. } | AdoptError::Incomplete { .. },
            )) => true,
            Err(AttachError::Adopt(
                AdoptError::CgroupGone { .. } | AdoptError::NetnsGone { .. },
            )) => home.exists() && open_again(&record).is_some(),
            Ok(_) | Err(_) => false,
        };
        if lost {
            tracing::warn!(pod = %uid, "pinned hooks are missing; attaching them again");
            // Without its pins, only the namespace tells what was the pod's.
            let others = self.pods.lock().values().any(|slot| {
                slot.record.as_ref().is_some_and(|other| {
                    other.uid != uid && other.netns_cookie == record.netns_cookie
                })
            });
            let forgotten = self.seats.while_owner(|| {
                hooks::purge(&self.programs, &uid)?;
                if others {
                    return Ok(());
                }
                hooks::forget_namespace(&self.programs, record.netns_cookie)
            });
            let Ok(forgotten) = forgotten else { return };
            if let Err(error) = forgotten {
                self.set_status(&uid, Status::Degraded(causes(&error)));
                return;
            }
            result = live::bring_up(self, &record, &namespace, &home, Origin::Fresh).await;
        }
        let live = match result {
            Ok(live) => live,
            Err(AttachError::Adopt(
                AdoptError::CgroupGone { .. } | AdoptError::NetnsGone { .. },
            )) => return self.remove_stale(&record, "its cgroup or network namespace is gone"),
            Err(error) => {
                self.set_status(&uid, Status::Degraded(causes(&error)));
                return;
            }
        };
        if let Some(slot) = self.pods.lock().get_mut(uid.as_str()) {
            slot.live = Some(Arc::clone(&live));
        }
        match live::prove(self, &live).await {
            Ok(()) => {
                tracing::info!(pod = %uid, "pod adopted");
                self.set_status(&uid, Status::Verified);
            }
            // The watch tests again.
            Err(error) => self.set_status(&uid, Status::Degraded(causes(&error))),
        }
        self.watch(record, live, Origin::Pinned);
    }

    /// Takes over hooks that no usable record tells of, for a pod that was found: nothing of it is in the open
    /// meanwhile. `None`: they are not whole, or not where that pod is.
    pub(super) async fn recover(
        self: &Arc<Self>,
        record: &Record,
    ) -> Option<Result<(), EnrolError>> {
        let uid = record.uid.clone();
        let _turn = self.rescue.lock().await;
        let is_another = |slot: &Slot| {
            slot.record.as_ref().is_some_and(|other| other.netns_cookie == record.netns_cookie)
        };
        // What is on stays on, whoever it belongs to.
        if !self.is_lost(&uid) {
            let message = format!("{uid} was enrolled meanwhile");
            return Some(Err(EnrolError::new(EnrolCode::UidTaken, message)));
        }
        if self.pods.lock().values().any(is_another) {
            let message = "another pod is enrolled with its network namespace";
            return Some(Err(EnrolError::new(EnrolCode::NetnsTaken, message)));
        }
        let dns = match record.hooked {
            Hooked::Pod => self.programs.pins().pod(&uid).dns_capture(),
            Hooked::Root => record.dns,
        };
        let expected = Expected {
            cgroup_id: record.cgroup.as_ref().map(|cgroup| cgroup.id),
            netns_inode: record.netns_inode,
            dns,
        };
        hooks::inspect(&self.programs, &uid, expected).ok()?;
        tracing::info!(pod = %uid, "writing a lost record anew");
        let record = Record { dns, progress: Progress::Verified, ..record.clone() };
        match self.seats.while_owner(|| self.records.save(&record)) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                return Some(Err(EnrolError::new(EnrolCode::RecordFailed, causes(&error))));
            }
            Err(error) => return Some(Err(AttachError::from(error).into())),
        }
        let slot = Slot::new(Status::Enrolling, Some(record.clone()));
        self.pods.lock().insert(uid.to_string(), slot);
        self.adopt_record(record).await;
        let status = self.pods.lock().get(uid.as_str()).map(|slot| slot.status.clone());
        Some(match status {
            Some(Status::Verified) => Ok(()),
            Some(Status::Degraded(reason)) => {
                Err(EnrolError::new(EnrolCode::SelfTestFailed, reason))
            }
            Some(Status::Enrolling | Status::Leaving) | None => {
                Err(EnrolError::new(EnrolCode::AttachFailed, "it has gone meanwhile"))
            }
        })
    }

    fn remove_stale(&self, record: &Record, because: &str) {
        tracing::info!(pod = %record.uid, because, "removing what is left of a pod");
        let purged = self.seats.while_owner(|| hooks::purge(&self.programs, &record.uid));
        let Ok(purged) = purged else { return };
        if let Err(error) = purged {
            self.set_status(&record.uid, Status::Degraded(causes(&error)));
            return;
        }
        // The namespace may outlive the cgroup, and must not keep our routing.
        if let Some(namespace) = open_again(record)
            && let Err(error) = ROUTING.remove(&namespace, record.mark_sysctls)
        {
            tracing::warn!(pod = %record.uid, error = %causes(&error), "cannot remove routing");
        }
        self.forget(&record.uid);
    }

    /// Whether one of a pod's pinned links still has something to hook.
    pub(super) fn is_hooked(&self, uid: &PodUid) -> bool {
        let pins = self.programs.pins().pod(uid);
        PodLink::ALL.iter().any(|link| is_attached(&pins.link(*link)))
    }

    /// Pins without a record: removed if their cgroup is gone, else kept closed and shown.
    fn adopt_orphan(&self, uid: &PodUid) {
        if !self.is_hooked(uid) {
            match hooks::purge(&self.programs, uid) {
                Ok(()) => return tracing::info!(pod = %uid, "removed pins of a pod that is gone"),
                Err(error) => {
                    tracing::warn!(pod = %uid, error = %causes(&error), "cannot remove pins");
                }
            }
        }
        let reason = "hooks are pinned and no record says for which pod".to_owned();
        tracing::warn!(pod = %uid, %reason, "pod is degraded");
        let slot = Slot::new(Status::Degraded(reason), None);
        self.pods.lock().insert(uid.to_string(), slot);
    }
}

/// Whether a pinned link still has something to hook. One that cannot be read counts as attached.
fn is_attached(path: &Path) -> bool {
    if !path.exists() {
        return false;
    }
    let Ok(link) = bpf::get(path) else { return true };
    bpf::link_info(&link).map_or(true, |info| !info.target.is_gone())
}
