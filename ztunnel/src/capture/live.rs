//! The objects of one enrolled pod, and the steps that make it so.
//!
//! The order matters: record, listeners, routing, hooks with the listeners in their slots, data
//! plane, self-test. A crash after any step leaves what the next start recognises: the record is
//! first in and last out.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;

use ebpf_abi::connect::Hooked;
use enrol::{Inbound, Switches};
use ipnet::IpNet;
use netns::{Family, LocalAddress, NetlinkError, NetnsFd, RoutingError, SocketError, addresses};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::agent_cgroup::Cgroup;
use super::home::Home;
use super::hooks::{
    self, AdoptError, AttachSpec, Expected, HookError, PodHooks, PodMaps, PodPrefixes, PodSettings,
};
use super::leave::handshakes_ended;
use super::listeners::{self, ThreadListeners};
use super::node::{Node, PodEvent, ROUTING};
use super::pod::{CapturedPod, PodParts, Redirection, ThreadAcceptors};
use super::questions::{DnsCapture, DnsPorts, SlotSockets};
use super::records::{Record, RecordError};
use super::self_test::{self, Incoming, SelfTestError, Subject};
use super::succession::NotOwner;

/// Why a pod is not captured.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Its addresses cannot be listed.
    #[error("cannot list the pod's addresses")]
    Addresses(#[from] NetlinkError),
    /// It has none that peers could know.
    #[error("the pod has no address yet")]
    NoAddress,
    /// The record.
    #[error("cannot keep the enrolment record")]
    Record(#[from] RecordError),
    /// The listeners.
    #[error("cannot open listeners in the pod")]
    Listener(#[from] SocketError),
    /// Rule, route or sysctl.
    #[error("cannot set up routing in the pod")]
    Routing(#[from] RoutingError),
    /// The cgroup's folder.
    #[error("cannot open the pod's cgroup")]
    Cgroup(#[source] io::Error),
    /// The hooks.
    #[error("cannot attach the hooks")]
    Hooks(#[from] HookError),
    /// The pinned hooks.
    #[error("cannot adopt the hooks")]
    Adopt(#[from] AdoptError),
    /// The slot of a listener.
    #[error("cannot put a listener into its slot")]
    Slot(#[source] io::Error),
    /// What the sockets for questions need to know.
    #[error("cannot prepare the sockets for questions")]
    Questions(#[source] io::Error),
    /// Nobody received the event.
    #[error("the data plane does not take the pod")]
    DataPlane,
    /// The pods were given away meanwhile.
    #[error(transparent)]
    NotOwner(#[from] NotOwner),
}

/// A pod with hooks.
pub(super) struct LivePod {
    pub(super) pod: Arc<CapturedPod>,
    pub(super) home: Home,
    /// Serialises work on this pod: watching, testing, leaving.
    pub(super) work: tokio::sync::Mutex<()>,
    /// What the kernel is to be told of it.
    pub(super) switches: Mutex<Switches>,
    /// Taken when it leaves.
    pub(super) hooks: Mutex<Option<PodHooks>>,
    pub(super) addresses: watch::Sender<Vec<IpAddr>>,
    /// What the hooks were told last.
    pub(super) applied: Mutex<Applied>,
    /// Addresses that the last passed self-test went through.
    pub(super) proved: Mutex<Vec<IpAddr>>,
}

impl LivePod {
    /// Attaches anew what somebody took off the pod.
    pub(super) fn rehook(&self) -> Result<(), AttachError> {
        let mut hooks = self.hooks.lock();
        let Some(hooks) = hooks.as_mut() else { return Ok(()) };
        let folder = self.home.cgroup().map(Cgroup::folder).transpose();
        let folder = folder.map_err(AttachError::Cgroup)?;
        Ok(hooks.rehook(folder.as_ref().map(AsFd::as_fd), self.pod.namespace().as_fd())?)
    }

    /// Puts back what of the pod's maps and pins was changed or removed from outside; what that was.
    pub(super) fn put_back(&self) -> Result<Vec<&'static str>, HookError> {
        let hooks = self.hooks.lock();
        let Some(hooks) = hooks.as_ref() else { return Ok(Vec::new()) };
        let applied = self.applied.lock();
        hooks.put_back(self.pod.namespace().cookie(), &applied.settings, &applied.prefixes)
    }

    /// Takes the hooks off, if they were not before; `false` then. On error they are kept: the pod
    /// stays captured, and the next call tries again.
    pub(super) fn detach(&self) -> Result<bool, HookError> {
        let mut hooks = self.hooks.lock();
        let Some(attached) = hooks.as_ref() else { return Ok(false) };
        attached.detach()?;
        *hooks = None;
        Ok(true)
    }
}

/// The part of a pod's state that follows its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Applied {
    pub(super) settings: PodSettings,
    pub(super) prefixes: PodPrefixes,
    /// Global unicast addresses, lowest interface first.
    pub(super) global: Vec<IpAddr>,
}

impl Applied {
    /// The addresses that captured connections are rewritten to: one of each family at most.
    pub(super) fn primary(&self) -> Vec<IpAddr> {
        let v4 = self.settings.v4.map(IpAddr::from);
        v4.into_iter().chain(self.settings.v6.map(IpAddr::from)).collect()
    }
}

/// Derives settings from the namespace's addresses. `dns` are the ports of the sockets for questions.
pub(super) fn plan(
    node: &Node,
    switches: &Switches,
    found: &[LocalAddress],
    dns: Option<DnsPorts>,
) -> Applied {
    let sorted = |nets: &[IpNet]| -> Vec<IpNet> {
        nets.iter().copied().collect::<BTreeSet<_>>().into_iter().collect()
    };
    let mut global: Vec<&LocalAddress> =
        found.iter().filter(|address| address.is_global_unicast() && address.usable).collect();
    global.sort_by_key(|address| (address.interface, address.ip));
    let global: Vec<IpAddr> = global.into_iter().map(|address| address.ip).collect();
    let own: BTreeSet<IpAddr> = found.iter().map(|address| address.ip).collect();
    Applied {
        settings: PodSettings {
            v4: global.iter().find_map(|ip| match ip {
                IpAddr::V4(ip) => Some(*ip),
                IpAddr::V6(_) => None,
            }),
            v6: global.iter().find_map(|ip| match ip {
                IpAddr::V6(ip) => Some(*ip),
                IpAddr::V4(_) => None,
            }),
            threads: node.config.threads,
            probe_ports: switches.probe_ports.clone(),
            inbound: switches.inbound,
            excluded_inbound: switches.excluded_inbound.clone(),
            excluded_outbound: switches.excluded_outbound.clone(),
            dns,
        },
        prefixes: PodPrefixes {
            own: own.into_iter().collect(),
            bypass: sorted(&node.config.bypass),
            excluded: sorted(&switches.excluded),
        },
        global,
    }
}

/// Whether a pod's hooks are made or taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// By this enrolment.
    Fresh,
    /// Pinned by an earlier agent.
    Pinned,
}

/// Attaches or adopts a pod's hooks and hands it to the data plane. On error nothing stays attached
/// that was not before; routing may stay, the caller's `leave` removes it.
pub(super) async fn bring_up(
    node: &Node,
    record: &Record,
    namespace: &NetnsFd,
    home: &Home,
    origin: Origin,
) -> Result<Arc<LivePod>, AttachError> {
    let found = addresses(namespace)?;
    let mut applied = plan(node, &record.switches, &found, None);
    if applied.global.is_empty() && origin == Origin::Fresh {
        return Err(AttachError::NoAddress);
    }
    node.seats.while_owner(|| node.records.save(record))??;
    let listeners = listeners::open(namespace, node.config.threads)?;
    let before = hooks::pinned_dns_ports(&node.programs, &record.uid);
    let questions = open_questions(record.dns, namespace, before)?;
    applied.settings.dns = questions.as_ref().map(|(_, ports)| *ports);
    let hooks = node.seats.while_owner(|| {
        ROUTING.install(namespace)?;
        match origin {
            Origin::Fresh => attach(node, record, namespace, home, &applied, &listeners),
            Origin::Pinned => adopt(node, record, &applied, &listeners),
        }
    })??;
    let (sender, receiver) = watch::channel(applied.global.clone());
    let pod = Arc::new(CapturedPod::new(PodParts {
        uid: record.uid.clone(),
        workload: record.workload.clone(),
        dns: record.dns,
        namespace: namespace.clone(),
        addresses: receiver,
        redirection: Redirection::Hooks(node.programs.clone()),
    }));
    let acceptors = acceptors(node, &pod, listeners, questions);
    let live = Arc::new(LivePod {
        pod: Arc::clone(&pod),
        home: home.clone(),
        switches: Mutex::new(record.switches.clone()),
        work: tokio::sync::Mutex::new(()),
        hooks: Mutex::new(Some(hooks)),
        addresses: sender,
        applied: Mutex::new(applied),
        proved: Mutex::new(Vec::new()),
    });
    if !node.emit(PodEvent::Up { pod, acceptors }).await {
        if origin == Origin::Fresh {
            node.seats.while_owner(|| live.detach())??;
        }
        return Err(AttachError::DataPlane);
    }
    Ok(live)
}

/// The sockets for a pod's questions, and where they are bound, if it has any.
type Questions = Option<(SlotSockets, DnsPorts)>;

fn open_questions(
    dns: DnsCapture,
    namespace: &NetnsFd,
    before: Option<DnsPorts>,
) -> Result<Questions, AttachError> {
    match dns {
        DnsCapture::Off => Ok(None),
        DnsCapture::On => {
            let sockets = SlotSockets::open(namespace, before)?;
            let ports = sockets.ports().map_err(AttachError::Questions)?;
            Ok(Some((sockets, ports)))
        }
    }
}

fn acceptors(
    node: &Node,
    pod: &Arc<CapturedPod>,
    listeners: Vec<ThreadListeners>,
    questions: Questions,
) -> Vec<ThreadAcceptors> {
    let mut dns: Vec<_> = match questions {
        None => Vec::new(),
        Some((sockets, _)) => sockets.spread(listeners.len(), pod),
    };
    dns.resize_with(listeners.len(), Vec::new);
    let thread = |(listeners, dns)| ThreadAcceptors::new(listeners, dns, pod, &node.pending);
    listeners.into_iter().zip(dns).map(thread).collect()
}

/// Opens all listeners of a pod again, puts them into the slots and hands them to the data plane.
/// Connections are refused where a slot is empty meanwhile. On error the next look tries again.
pub(super) async fn reopen(node: &Node, live: &LivePod) -> Result<(), AttachError> {
    let reopened = replace_listeners(node, live).await;
    if reopened.is_err() {
        live.pod.set_broken();
    }
    reopened
}

async fn replace_listeners(node: &Node, live: &LivePod) -> Result<(), AttachError> {
    let listeners = listeners::open(live.pod.namespace(), node.config.threads)?;
    // On other ports: the old sockets that still work hold theirs.
    let questions = open_questions(live.pod.dns(), live.pod.namespace(), None)?;
    let filled = node.seats.while_owner(|| {
        let hooks = live.hooks.lock();
        let Some(hooks) = hooks.as_ref() else { return Ok(false) };
        let mut applied = live.applied.lock();
        applied.settings.dns = questions.as_ref().map(|(_, ports)| *ports);
        hooks.maps().update_settings(&applied.settings)?;
        fill_slots(hooks.maps(), &listeners)?;
        Ok::<_, AttachError>(true)
    })??;
    if !filled {
        return Ok(());
    }
    let old = live.pod.renew_listeners();
    let acceptors = acceptors(node, &live.pod, listeners, questions);
    let taken = node.emit(PodEvent::Up { pod: Arc::clone(&live.pod), acceptors }).await;
    // For the old ones that still work.
    handshakes_ended(std::slice::from_ref(live.pod.namespace())).await;
    old.cancel();
    if taken { Ok(()) } else { Err(AttachError::DataPlane) }
}

fn attach(
    node: &Node,
    record: &Record,
    namespace: &NetnsFd,
    home: &Home,
    applied: &Applied,
    listeners: &[ThreadListeners],
) -> Result<PodHooks, AttachError> {
    let folder = home.cgroup().map(Cgroup::folder).transpose().map_err(AttachError::Cgroup)?;
    let spec = AttachSpec {
        netns_cookie: namespace.cookie(),
        settings: applied.settings.clone(),
        prefixes: applied.prefixes.clone(),
    };
    let prepared = PodHooks::prepare(&node.programs, &record.uid, &spec)?;
    fill_slots(prepared.maps(), listeners)?;
    Ok(prepared.activate(folder.as_ref().map(AsFd::as_fd), namespace.as_fd())?)
}

fn adopt(
    node: &Node,
    record: &Record,
    applied: &Applied,
    listeners: &[ThreadListeners],
) -> Result<PodHooks, AttachError> {
    let expected = Expected {
        cgroup_id: record.cgroup.as_ref().map(|cgroup| cgroup.id),
        netns_inode: record.netns_inode,
        dns: record.dns,
    };
    let hooks = PodHooks::adopt(&node.programs, &record.uid, expected)?;
    // Addresses and thread count may have changed while nobody watched. Listeners come before
    // settings: a thread count that reaches an empty slot would lose connections.
    hooks.maps().replace_prefixes(&applied.prefixes)?;
    fill_slots(hooks.maps(), listeners)?;
    hooks.maps().update_settings(&applied.settings)?;
    Ok(hooks)
}

fn fill_slots(maps: &PodMaps, listeners: &[ThreadListeners]) -> Result<(), AttachError> {
    for (thread, listeners) in (0_u16..).zip(listeners) {
        for (kind, family, listener) in listeners.each() {
            let family = match family {
                Family::V4 => ebpf_abi::Family::V4,
                Family::V6 => ebpf_abi::Family::V6,
            };
            maps.set_listener(kind, family, thread, listener).map_err(AttachError::Slot)?;
        }
    }
    Ok(())
}

/// Runs the self-test over the pod's primary addresses and remembers what it proved.
pub(super) async fn prove(node: &Node, live: &LivePod) -> Result<(), SelfTestError> {
    let (primary, global, incoming) = {
        let applied = live.applied.lock();
        let incoming = match applied.settings.inbound {
            Inbound::Captured => {
                Incoming::Proved { except: applied.settings.excluded_inbound.clone() }
            }
            Inbound::Bypassed => Incoming::LeftAlone,
        };
        (applied.primary(), applied.global.clone(), incoming)
    };
    let subject = Subject {
        namespace: live.pod.namespace(),
        // Hooks on the root see a process wherever it is. With hooks of its own only the pod's will do.
        cgroup: match node.programs.hooked() {
            Hooked::Pod => live.home.cgroup().unwrap_or(node.cgroup.neutral()),
            Hooked::Root => node.cgroup.neutral(),
        },
        neutral: node.cgroup.neutral(),
        addresses: &primary,
        incoming,
        program: &node.config.program,
    };
    self_test::test(&subject, &node.pending).await?;
    *live.proved.lock() = global;
    Ok(())
}
