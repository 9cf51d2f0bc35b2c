//! Watching an enrolled pod: the kernel's state is compared with what it should be, every two
//! seconds and whenever its network changes. What the kernel tells changes of is then looked at only every
//! tenth time, since a node may have hundreds of pods. Nothing is remembered as done; what is wrong is
//! repaired, what cannot be repaired is shown.

use std::sync::Arc;
use std::time::Duration;

use ebpf_abi::{TUPLE_LIFETIME_NS, connect::Hooked};
use model::causes;
use netns::{MarkSysctls, NetworkWatch, OpenSysctls, RoutingError, addresses};
use tokio::time::{Instant, MissedTickBehavior};

use super::hooks::HookState;
use super::live::{self, LivePod, Origin};
use super::node::{Node, ROUTING, Slot, Status};
use super::records::{Progress, Record};

/// Between two looks at a pod.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);
/// Of so many looks one is at everything. A notice that was lost is made good by it.
const WHOLE_LOOK_EVERY: u32 = 10;
/// After an address change: several usually come at once.
const SETTLE: Duration = Duration::from_millis(50);
/// Between two looks for the sake of a notice: a pod that changes its routes all the time is looked at no
/// more often.
const NOTICE_INTERVAL: Duration = Duration::from_millis(500);
/// After an adoption: by then, nothing that the earlier agent registered counts any more.
const SWEEP_AFTER: Duration = Duration::from_nanos(TUPLE_LIFETIME_NS);

/// How much of a pod is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    Whole,
    /// What the kernel tells no changes of.
    Untold,
}

/// Whether the pod is still there.
enum Presence {
    Here,
    Gone(&'static str),
    /// The kernel does not say, or says what cannot be.
    Unknown(String),
    /// It is there, and somebody took a hook off it.
    Unhooked,
    /// It is there, and somebody took a hook off the root.
    RootUnhooked,
}

impl Node {
    /// Watches until the pod leaves, vanishes or the agent stops.
    pub(super) fn watch(self: &Arc<Self>, record: Record, live: Arc<LivePod>, origin: Origin) {
        let node = Arc::clone(self);
        let mut sweep_at = (origin == Origin::Pinned).then(|| Instant::now() + SWEEP_AFTER);
        self.tasks.spawn(async move {
            let mut notices = NetworkWatch::new(live.pod.namespace())
                .inspect_err(|error| {
                    let error = causes(error);
                    tracing::warn!(pod = %record.uid, error, "no notice of address changes");
                })
                .ok();
            // Without them every look opens them anew.
            let sysctls = OpenSysctls::open(live.pod.namespace()).ok();
            let mut ticks = tokio::time::interval(WATCH_INTERVAL);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let (mut looks, mut notice_at): (u32, _) = (0, Instant::now());
            loop {
                let mut look = Look::Whole;
                tokio::select! {
                    () = live.pod.stopping().cancelled() => return,
                    () = node.shutdown.cancelled() => return,
                    _ = ticks.tick() => {
                        // The first tick comes at once.
                        if notices.is_some() && !looks.is_multiple_of(WHOLE_LOOK_EVERY) {
                            look = Look::Untold;
                        }
                        looks = looks.wrapping_add(1);
                    }
                    () = change(notices.as_mut()) => {
                        let settled = Instant::now() + SETTLE;
                        tokio::time::sleep_until(settled.max(notice_at + NOTICE_INTERVAL)).await;
                        notice_at = Instant::now();
                    }
                }
                let _turn = live.work.lock().await;
                if live.hooks.lock().is_none() {
                    return;
                }
                match Self::presence(&record, &live) {
                    Presence::Gone(what) => {
                        if node.vanish(&record, &live, what).await {
                            return;
                        }
                    }
                    Presence::Unknown(reason) => {
                        node.set_status(&record.uid, Status::Degraded(reason));
                    }
                    Presence::Unhooked => node.mend(&record, &live),
                    Presence::RootUnhooked => node.mend_root(&record, &live),
                    Presence::Here => {
                        node.repair(&record, &live, look, sysctls.as_ref()).await;
                    }
                }
                if sweep_at.is_some_and(|at| Instant::now() >= at) {
                    sweep_at = None;
                    sweep(&record, &live);
                }
            }
        });
    }

    fn presence(record: &Record, live: &LivePod) -> Presence {
        let mut unhooked = false;
        let state = live.hooks.lock().as_ref().map(super::hooks::PodHooks::state);
        match state {
            Some(Ok(HookState::CgroupGone)) if !live.home.exists() => {
                return Presence::Gone("cgroup removed");
            }
            // A link that was taken off looks like one whose target is gone. This process keeps the
            // namespace alive, so that cannot be gone.
            Some(Ok(HookState::CgroupGone | HookState::NetnsGone)) => unhooked = true,
            // No link tells of the cgroup then.
            Some(Ok(HookState::Attached | HookState::RootUnhooked))
                if record.hooked == Hooked::Root && !live.home.exists() =>
            {
                return Presence::Gone("cgroup removed");
            }
            Some(Ok(HookState::RootUnhooked)) => return Presence::RootUnhooked,
            Some(Ok(HookState::Attached)) | None => {}
            Some(Err(error)) => return Presence::Unknown(causes(&error)),
        }
        // Its end shows only in its path and in the absence of the pod's processes.
        if !live.pod.namespace().is_named(&record.netns_path) {
            match live.home.is_populated() {
                Some(false) => return Presence::Gone("network namespace and processes gone"),
                Some(true) => {}
                None => return Presence::Unknown("its processes cannot be told".to_owned()),
            }
        }
        if unhooked {
            return Presence::Unhooked;
        }
        Presence::Here
    }

    /// The pod was not captured for a moment. It is shown so until its next look has tested it.
    fn mend(&self, record: &Record, live: &LivePod) {
        let reason = match self.seats.while_owner(|| live.rehook()) {
            Ok(Ok(())) => "a hook was taken off the pod; it is back".to_owned(),
            Ok(Err(error)) => format!("a hook was taken off the pod: {}", causes(&error)),
            Err(_) => return,
        };
        self.set_status(&record.uid, Status::Degraded(reason));
    }

    /// No pod was captured for a moment. All are shown so until their next looks have tested them: the others
    /// find the hook where it should be.
    fn mend_root(&self, record: &Record, live: &LivePod) {
        let mended = self.seats.while_owner(|| {
            live.hooks.lock().as_ref().map_or(Ok(()), super::hooks::PodHooks::mend_root)
        });
        let reason = match mended {
            Ok(Ok(())) => "a hook was taken off the root; it is back".to_owned(),
            Ok(Err(error)) => format!("a hook was taken off the root: {}", causes(&error)),
            Err(_) => return,
        };
        let verified = |slot: &Slot| {
            let record = slot.record.as_ref().filter(|_| slot.status == Status::Verified)?;
            Some(record.uid.clone())
        };
        let others: Vec<_> = self.pods.lock().values().filter_map(verified).collect();
        for uid in others.iter().chain([&record.uid]) {
            self.set_status(uid, Status::Degraded(reason.clone()));
        }
    }

    async fn repair(
        &self,
        record: &Record,
        live: &LivePod,
        look: Look,
        sysctls: Option<&OpenSysctls>,
    ) {
        let degrade = |reason| self.set_status(&record.uid, Status::Degraded(reason));
        if live.pod.take_broken() {
            // At most once a look, so a pod that goes on destroying them only harms itself.
            degrade("a listener was destroyed from within the pod".to_owned());
            if let Err(error) = live::reopen(self, live).await {
                return degrade(causes(&error));
            }
        }
        let uid = record.uid.as_str();
        let verified = self.pods.lock().get(uid).is_some_and(|s| s.status == Status::Verified);
        // What is wrong is looked at until it is right.
        if look == Look::Untold && verified {
            return match read_sysctls(live, sysctls) {
                Ok(sysctls) if has_sysctls(live, sysctls) => {}
                Ok(_) | Err(_) => {
                    if let Err(reason) = restore_routing(live) {
                        degrade(reason);
                    }
                }
            };
        }
        // What the agent that has the pods meanwhile has told the hooks must stay.
        let told = self.seats.while_owner(|| {
            self.follow_addresses(record, live)?;
            live.put_back().map_err(|error| causes(&error))
        });
        match told {
            Ok(Ok(back)) if back.is_empty() => {}
            // The next look tests it.
            Ok(Ok(back)) => {
                let what = back.join(", ");
                return degrade(format!("changed or removed from outside, and back: {what}"));
            }
            Ok(Err(reason)) => return degrade(reason),
            Err(_) => return,
        }
        if let Err(reason) = restore_routing(live) {
            return degrade(reason);
        }
        let (global, proved) = (live.applied.lock().global.clone(), live.proved.lock().clone());
        if global.is_empty() {
            return degrade("the pod has no address".to_owned());
        }
        // What was wrong once is right again only when a test says so.
        if (global != proved || !verified)
            && let Err(error) = live::prove(self, live).await
        {
            return degrade(causes(&error));
        }
        if !verified {
            tracing::info!(pod = %record.uid, "pod is verified");
            self.set_status(&record.uid, Status::Verified);
            // Of the table, where its source and switches may have changed.
            let record = self.pods.lock().get(uid).and_then(|slot| slot.record.clone());
            let Some(record) = record else { return };
            let record = Record { progress: Progress::Verified, ..record };
            if let Ok(Err(error)) = self.seats.while_owner(|| self.records.save(&record)) {
                tracing::warn!(pod = %uid, error = %causes(&error), "cannot update the record");
            }
        }
    }

    pub(super) fn follow_addresses(&self, record: &Record, live: &LivePod) -> Result<(), String> {
        let found = addresses(live.pod.namespace()).map_err(|error| causes(&error))?;
        let before = live.applied.lock().clone();
        let switches = live.switches.lock().clone();
        let wanted = live::plan(self, &switches, &found, before.settings.dns);
        if wanted == before {
            return Ok(());
        }
        if let Some(hooks) = live.hooks.lock().as_ref() {
            // Prefixes first: an own address that is not known as such would be taken for a peer.
            hooks.maps().replace_prefixes(&wanted.prefixes).map_err(|error| causes(&error))?;
            hooks.maps().update_settings(&wanted.settings).map_err(|error| causes(&error))?;
        }
        if wanted.global != before.global {
            tracing::info!(pod = %record.uid, addresses = ?wanted.global, "addresses changed");
            live.addresses.send_replace(wanted.global.clone());
        }
        *live.applied.lock() = wanted;
        Ok(())
    }
}

/// Removes what a killed agent registered for its own connections: nobody else will.
fn sweep(record: &Record, live: &LivePod) {
    if let Some(Err(error)) = live.hooks.lock().as_ref().map(|hooks| hooks.maps().sweep()) {
        // Stale entries only take room; the next adoption tries again.
        tracing::warn!(pod = %record.uid, error = %causes(&error), "cannot sweep the registry");
    }
}

/// Puts back what a privileged process of the pod took away.
fn restore_routing(live: &LivePod) -> Result<(), String> {
    let namespace = live.pod.namespace();
    let state = ROUTING.inspect(namespace).map_err(|error| causes(&error))?;
    let ipv6 = live.applied.lock().settings.v6.is_some();
    let families = state.ipv4 && (state.ipv6 || !ipv6);
    if !families || !has_sysctls(live, state.sysctls) {
        tracing::warn!(pod = %live.pod.uid(), ?state, "routing was changed; putting it back");
        ROUTING.install(namespace).map_err(|error| causes(&error))?;
    }
    Ok(())
}

fn read_sysctls(live: &LivePod, open: Option<&OpenSysctls>) -> Result<MarkSysctls, RoutingError> {
    match open {
        Some(open) => open.read(),
        None => OpenSysctls::open(live.pod.namespace())?.read(),
    }
}

fn has_sysctls(live: &LivePod, sysctls: MarkSysctls) -> bool {
    let ipv6 = live.applied.lock().settings.v6.is_some();
    sysctls.accept && sysctls.reflect_ipv4 && (sysctls.reflect_ipv6 || !ipv6)
}

pub(super) async fn change(notices: Option<&mut NetworkWatch>) {
    match notices {
        // A broken watch must not spin: the ticks go on.
        Some(notices) => {
            if notices.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        None => std::future::pending().await,
    }
}
