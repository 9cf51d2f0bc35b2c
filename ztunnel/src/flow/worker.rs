//! What one data-plane thread has at hand. Nothing here is shared with another thread but by
//! immutable snapshots and counters.

use std::cell::RefCell;
use std::net::IpAddr;
use std::sync::Arc;

use model::{VerifiedIdentity, Workload};
use netns::TcpTuning;
use resolve::Ejections;
use tls::TrustView;
use tokio::sync::watch;

use super::pods::{LocalPods, Pod};
use super::stop::Stop;
use crate::config::Config;
use crate::discovery::{Asking, HostNames};
use crate::dns::DATAGRAM_ROOM;
use crate::mesh::{MeshState, MeshView};
use crate::policy::Ways;
use crate::telemetry::Telemetry;
use crate::tunnel::{TunnelOptions, Tunnels};

/// What every thread is given.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) config: Arc<Config>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) mesh: watch::Receiver<Arc<MeshState>>,
    pub(crate) pods: watch::Receiver<Arc<LocalPods>>,
    pub(crate) trust: TrustView,
    pub(crate) asking: Asking,
    pub(crate) stop: Stop,
}

/// One thread's own.
pub(crate) struct Worker {
    pub(crate) config: Arc<Config>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) mesh: RefCell<MeshView>,
    pub(crate) trust: TrustView,
    pub(crate) asking: Asking,
    pub(crate) ways: Ways,
    pub(crate) hostnames: HostNames,
    /// Endpoints that lately refused connections, as far as this thread has seen.
    pub(crate) ejections: RefCell<Ejections>,
    pods: RefCell<PodsView>,
    pub(crate) stop: Stop,
    pub(crate) tuning: TcpTuning,
    pub(crate) tunnel_options: TunnelOptions,
    pub(crate) tunnels: Tunnels,
    /// Room for one datagram, shared by all sockets of the thread: borrowed while one is read.
    pub(crate) datagram: RefCell<Vec<u8>>,
}

/// The pods, with the last set seen kept so that reading it takes no lock.
struct PodsView {
    receiver: watch::Receiver<Arc<LocalPods>>,
    seen: Arc<LocalPods>,
}

impl Worker {
    pub(crate) fn new(shared: Shared) -> Self {
        let Shared { config, telemetry, mesh, mut pods, trust, asking, stop } = shared;
        let seen = pods.borrow_and_update().clone();
        let tuning = config.tcp_tuning();
        let tunnel_options = TunnelOptions::new(&config.http2, tuning.clone());
        Self {
            tunnels: Tunnels::new(&config.pool, tunnel_options.clone()),
            mesh: RefCell::new(MeshView::new(mesh)),
            trust,
            asking,
            ways: Ways::new(&config),
            hostnames: HostNames::default(),
            ejections: RefCell::default(),
            pods: RefCell::new(PodsView { receiver: pods, seen }),
            datagram: RefCell::new(vec![0; DATAGRAM_ROOM]),
            config,
            telemetry,
            stop,
            tuning,
            tunnel_options,
        }
    }

    /// The pods of this agent.
    pub(crate) fn pods(&self) -> Arc<LocalPods> {
        let mut view = self.pods.borrow_mut();
        if view.receiver.has_changed().unwrap_or(false) {
            let newest = view.receiver.borrow_and_update().clone();
            view.seen = newest;
        }
        view.seen.clone()
    }

    /// The verified pod of this agent that runs `workload`.
    pub(crate) fn local_pod(&self, workload: &Workload) -> Option<Arc<Pod>> {
        self.pods().running(workload).cloned()
    }

    /// A receiver of every later set of pods.
    pub(crate) fn watch_pods(&self) -> watch::Receiver<Arc<LocalPods>> {
        self.pods.borrow().receiver.clone()
    }

    /// Closes the tunnels whose source pod is gone or was given another workload, and those whose
    /// destination workload is gone, or has lost the address or the identity. A pod that left by request
    /// keeps its tunnels until its last connection has ended.
    pub(crate) fn retire_tunnels(&self) {
        let pods = self.pods();
        let mesh = self.mesh.borrow_mut().current().clone();
        self.tunnels.retire(|key| {
            let source = pods.relaying(&key.pod).is_some_and(|pod| {
                let workload = mesh.snapshot.workload_by_key(pod.captured.workload());
                pod.captured.namespace().cookie() == key.netns_cookie
                    && workload.is_some_and(|w| w.identity().is_ok_and(|id| id == key.identity))
            });
            // By uid, not by address: a workload in its host's network has no address of its own.
            let destination =
                mesh.snapshot.workload_by_uid(&key.workload).is_some_and(|workload| {
                    // One without addresses was reached by its host name.
                    let reached = workload.addresses.is_empty()
                        || workload.addresses.contains(&key.address.ip());
                    workload.network == key.network
                        && reached
                        && workload.identity().is_ok_and(|id| key.expected.contains(&id))
                });
            !source || !destination
        });
    }

    /// The workload behind an address, for reports: it must agree with the identity, if there is
    /// one, because an address alone proves nothing.
    pub(crate) fn workload_of(
        &self,
        mesh: &MeshState,
        ip: IpAddr,
        identity: Option<&VerifiedIdentity>,
    ) -> Option<Arc<Workload>> {
        let workload = mesh.snapshot.workload_by_address(&self.config.network, ip)?;
        let agrees = identity.is_none_or(|identity| {
            let id = identity.id();
            id.namespace() == &*workload.key.namespace
                && id.service_account() == &*workload.key.service_account
        });
        agrees.then(|| workload.clone())
    }
}
