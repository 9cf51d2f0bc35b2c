//! The pods of this agent, as the data plane sees them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use model::{PodUid, Workload, WorkloadKey};
use tokio::sync::Semaphore;

use crate::capture::CapturedPod;
use crate::identity::PodIdentity;

/// TLS handshakes under way at once for one pod. A flood beyond it is refused with
/// `LIMIT_REACHED`; each slot is free again after the handshake timeout at the latest.
const HANDSHAKES_MAX: usize = 256;

/// One enrolled pod.
pub(crate) struct Pod {
    /// Its kernel objects.
    pub(crate) captured: Arc<CapturedPod>,
    /// Its certificate.
    pub(crate) identity: PodIdentity,
    /// Slots for handshakes under way.
    pub(crate) handshakes: Arc<Semaphore>,
}

impl Pod {
    pub(crate) fn new(captured: Arc<CapturedPod>, identity: PodIdentity) -> Self {
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        Self { captured, identity, handshakes }
    }

    /// Whether the pod has this address now.
    pub(crate) fn has_address(&self, ip: IpAddr) -> bool {
        self.captured.addresses().borrow().contains(&ip)
    }
}

/// All of them; an immutable value that threads read without a lock.
#[derive(Clone, Default)]
pub(crate) struct LocalPods {
    by_uid: HashMap<PodUid, Arc<Pod>>,
    by_key: HashMap<WorkloadKey, Vec<Arc<Pod>>>,
}

impl LocalPods {
    /// The set with one more pod; one of the same uid is replaced.
    pub(crate) fn with(&self, pod: Arc<Pod>) -> Self {
        let mut all = self.by_uid.clone();
        all.insert(pod.captured.uid().clone(), pod);
        Self::of(all)
    }

    /// The set without a pod.
    pub(crate) fn without(&self, uid: &PodUid) -> Self {
        let mut all = self.by_uid.clone();
        all.remove(uid);
        Self::of(all)
    }

    /// A pod by uid.
    pub(crate) fn get(&self, uid: &PodUid) -> Option<&Arc<Pod>> {
        self.by_uid.get(uid)
    }

    /// The verified pod that runs `workload`: same key, and an address of the workload is its own.
    pub(crate) fn running(&self, workload: &Workload) -> Option<&Arc<Pod>> {
        self.by_key.get(&workload.key)?.iter().find(|pod| {
            pod.captured.is_verified()
                && !pod.captured.stopping().is_cancelled()
                && workload.addresses.iter().any(|ip| pod.has_address(*ip))
        })
    }

    fn of(by_uid: HashMap<PodUid, Arc<Pod>>) -> Self {
        let mut by_key: HashMap<_, Vec<_>> = HashMap::new();
        for pod in by_uid.values() {
            by_key.entry(pod.captured.workload().clone()).or_default().push(pod.clone());
        }
        Self { by_uid, by_key }
    }
}
