//! What `warren pods` shows: desired state beside what the kernel says now.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use enrol::{Source, Switches};
use model::WorkloadKey;

use super::hooks::{HookState, PodHooks};
use super::live::LivePod;
use super::node::{Capture, ROUTING, Slot, Status};
use super::questions::DnsCapture;
use super::records::Record;

/// One pod, read from the kernel at this moment.
#[derive(Clone, Debug)]
pub struct PodView {
    /// The Pod UID, or the name of a record that says none.
    pub name: String,
    /// Which workload it is.
    pub workload: Option<WorkloadKey>,
    /// How it stands.
    pub status: Status,
    /// Who enrolled it.
    pub source: Option<Source>,
    /// What the kernel was told.
    pub switches: Switches,
    /// Its cgroup.
    pub cgroup: Option<(PathBuf, u64)>,
    /// Its network namespace: path and inode.
    pub netns: Option<(PathBuf, u64)>,
    /// Its global unicast addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether its questions to resolvers are captured.
    pub dns: DnsCapture,
    /// What the kernel says about the hooks.
    pub hooks: HooksView,
    /// Whether rule, route and sysctl are there.
    pub routing: bool,
    /// Connections relayed now.
    pub open_connections: usize,
    /// Connections refused for want of an original destination.
    pub without_destination: u64,
    /// Counters of the pod's programs.
    pub counters: Vec<(&'static str, u64)>,
}

/// The hooks of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HooksView {
    /// All links are attached.
    Attached,
    /// This agent holds none.
    None,
    /// Somebody else redirects.
    Elsewhere,
    /// Their cgroup is gone.
    CgroupGone,
    /// Their namespace is gone.
    NetnsGone,
    /// One of those on the root was taken off.
    RootUnhooked,
    /// The kernel does not say.
    Unknown(String),
}

impl HooksView {
    /// The word in tables.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Attached => "attached",
            Self::None => "none",
            Self::Elsewhere => "external",
            Self::CgroupGone => "cgroup-gone",
            Self::NetnsGone => "netns-gone",
            Self::RootUnhooked => "root-unhooked",
            Self::Unknown(_) => "unknown",
        }
    }
}

impl Status {
    /// The word in tables.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Enrolling => "enrolling",
            Self::Verified => "verified",
            Self::Degraded(_) => "degraded",
            Self::Leaving => "leaving",
        }
    }

    /// Why it is degraded.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Degraded(reason) => Some(reason),
            Self::Enrolling | Self::Verified | Self::Leaving => None,
        }
    }
}

impl Capture {
    /// Every pod of the table, by name.
    pub fn pods(&self) -> Vec<PodView> {
        let row = |(name, slot): (&String, &Slot)| Row {
            name: name.clone(),
            status: slot.status.clone(),
            record: slot.record.clone(),
            live: slot.live.clone(),
        };
        // The kernel is asked after the table is free again.
        let rows: Vec<Row> = self.0.pods.lock().iter().map(row).collect();
        rows.into_iter().map(view).collect()
    }
}

/// A copy of a row of the table.
struct Row {
    name: String,
    status: Status,
    record: Option<Record>,
    live: Option<Arc<LivePod>>,
}

fn view(row: Row) -> PodView {
    let record = row.record.as_ref();
    let live = row.live.as_deref();
    let hooks = live.map(|live| live.hooks.lock());
    let hooks = hooks.as_ref().and_then(|hooks| hooks.as_ref());
    PodView {
        name: row.name,
        workload: record.map(|record| record.workload.clone()),
        status: row.status,
        source: record.map(|record| record.source),
        switches: record.map(|record| record.switches.clone()).unwrap_or_default(),
        cgroup: record.and_then(|record| {
            record.cgroup.as_ref().map(|cgroup| (cgroup.path.clone(), cgroup.id))
        }),
        netns: record.map(|record| (record.netns_path.clone(), record.netns_inode)),
        addresses: live.map(|live| live.applied.lock().global.clone()).unwrap_or_default(),
        dns: record.map(|record| record.dns).unwrap_or_default(),
        hooks: hooks.map_or(HooksView::None, hooks_view),
        routing: live.is_some_and(|live| {
            ROUTING.inspect(live.pod.namespace()).is_ok_and(|state| state.ipv4)
        }),
        open_connections: live.map_or(0, |live| live.pod.open_connections()),
        without_destination: live.map_or(0, |live| live.pod.without_destination()),
        // A table without counters is better than none.
        counters: hooks.and_then(|hooks| hooks.maps().counters().ok()).unwrap_or_default(),
    }
}

fn hooks_view(hooks: &PodHooks) -> HooksView {
    match hooks.state() {
        Ok(HookState::Attached) => HooksView::Attached,
        Ok(HookState::CgroupGone) => HooksView::CgroupGone,
        Ok(HookState::NetnsGone) => HooksView::NetnsGone,
        Ok(HookState::RootUnhooked) => HooksView::RootUnhooked,
        Err(error) => HooksView::Unknown(error.to_string()),
    }
}
