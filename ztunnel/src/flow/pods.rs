//! The pods of this agent, as the data plane sees them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Weak};

use model::{PodUid, Workload, WorkloadKey};

use super::handshakes::Handshakes;
use crate::capture::CapturedPod;
use crate::dns::Forwards;
use crate::identity::PodIdentity;

/// One enrolled pod.
pub(crate) struct Pod {
    /// Its kernel objects.
    pub(crate) captured: Arc<CapturedPod>,
    /// Its certificate.
    pub(crate) identity: PodIdentity,
    /// Handshakes under way with it.
    pub(crate) handshakes: Arc<Handshakes>,
    /// Questions that wait for a resolver.
    pub(crate) forwards: Arc<Forwards>,
}

impl Pod {
    pub(crate) fn new(captured: Arc<CapturedPod>, identity: PodIdentity) -> Self {
        let (handshakes, forwards) = (Arc::default(), Arc::default());
        Self { captured, identity, handshakes, forwards }
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
    /// Pods that left, for as long as a connection of theirs is open.
    leaving: HashMap<PodUid, Weak<Pod>>,
}

impl LocalPods {
    /// The set with one more pod; one of the same uid is replaced.
    pub(crate) fn with(&self, pod: Arc<Pod>) -> Self {
        let mut all = self.by_uid.clone();
        all.insert(pod.captured.uid().clone(), pod);
        Self::of(all, self.leaving.clone())
    }

    /// The set without a pod. Its open connections may go on.
    pub(crate) fn without(&self, uid: &PodUid) -> Self {
        let (mut all, mut leaving) = (self.by_uid.clone(), self.leaving.clone());
        leaving.retain(|_, pod| pod.strong_count() > 0);
        if let Some(pod) = all.remove(uid) {
            leaving.insert(uid.clone(), Arc::downgrade(&pod));
        }
        Self::of(all, leaving)
    }

    /// A pod by uid.
    pub(crate) fn get(&self, uid: &PodUid) -> Option<&Arc<Pod>> {
        self.by_uid.get(uid)
    }

    /// Every enrolled pod, in no particular order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.by_uid.values()
    }

    /// A pod whose connections may go on: enrolled, or leaving and not gone.
    pub(crate) fn relaying(&self, uid: &PodUid) -> Option<Arc<Pod>> {
        let left = || self.leaving.get(uid).and_then(Weak::upgrade);
        let pod = self.by_uid.get(uid).cloned().or_else(left)?;
        (!pod.captured.gone().is_cancelled()).then_some(pod)
    }

    /// The verified pod that runs `workload`: same key, and an address of the workload is its own.
    pub(crate) fn running(&self, workload: &Workload) -> Option<&Arc<Pod>> {
        self.by_key.get(&workload.key)?.iter().find(|pod| {
            pod.captured.is_verified()
                && !pod.captured.stopping().is_cancelled()
                && workload.addresses.iter().any(|ip| pod.has_address(*ip))
        })
    }

    fn of(by_uid: HashMap<PodUid, Arc<Pod>>, leaving: HashMap<PodUid, Weak<Pod>>) -> Self {
        let mut by_key: HashMap<_, Vec<_>> = HashMap::new();
        for pod in by_uid.values() {
            by_key.entry(pod.captured.workload().clone()).or_default().push(pod.clone());
        }
        Self { by_uid, by_key, leaving }
    }
}
