//! Pods that were captured or have left: tells the data plane and keeps their certificates.

use std::sync::Arc;

use model::{Network, NetworkAddress, PodUid};
use svid::SvidStore;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::Threads;
use crate::capture::{CapturedPod, PodEvent};
use crate::discovery::Asking;
use crate::flow::{LocalPods, Pod};
use crate::identity::PodIdentity;
use crate::mesh::MeshView;

/// The published set of pods.
#[derive(Clone)]
pub(crate) struct PodSet(watch::Sender<Arc<LocalPods>>);

impl PodSet {
    pub(crate) fn new() -> Self {
        Self(watch::channel(Arc::default()).0)
    }

    /// A receiver of this set and every later one.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<LocalPods>> {
        self.0.subscribe()
    }

    /// The set now.
    pub(crate) fn current(&self) -> Arc<LocalPods> {
        self.0.borrow().clone()
    }

    fn add(&self, pod: Arc<Pod>) {
        self.0.send_modify(|pods| *pods = Arc::new(pods.with(pod)));
    }

    fn remove(&self, uid: &PodUid) {
        self.0.send_modify(|pods| *pods = Arc::new(pods.without(uid)));
    }
}

/// Passes capture's events on.
pub(crate) struct Dispatch {
    pub(crate) events: mpsc::Receiver<PodEvent>,
    pub(crate) pods: PodSet,
    pub(crate) svids: SvidStore,
    pub(crate) mesh: MeshView,
    pub(crate) threads: Arc<Threads>,
    pub(crate) asking: Asking,
    pub(crate) network: Network,
}

impl Dispatch {
    /// On demand, asks for the workload of a pod by the pod's addresses, for as long as it is there.
    fn ask_for(&self, captured: &Arc<CapturedPod>) -> impl Future<Output = ()> + Send + use<> {
        let (asking, network) = (self.asking.clone(), self.network.clone());
        let captured = captured.clone();
        async move {
            let own = captured.addresses().borrow().clone();
            let address = |ip| NetworkAddress { network: network.clone(), ip };
            let own: Vec<_> = own.into_iter().map(address).collect();
            let asked = asking.ask_for_own(&own);
            tokio::select! {
                () = asked => {}
                () = captured.gone().cancelled() => {}
            }
        }
    }

    /// Runs until capture ends.
    pub(crate) async fn run(mut self) {
        let mut identities = JoinSet::new();
        loop {
            tokio::select! {
                event = self.events.recv() => match event {
                    Some(PodEvent::Up { pod: captured, acceptors }) => {
                        identities.spawn(self.ask_for(&captured));
                        let key = captured.workload().clone();
                        // The certificate is asked for before the first connection needs it.
                        let (identity, following) =
                            PodIdentity::follow(self.svids.clone(), self.mesh.clone(), key);
                        identities.spawn(following);
                        let pod = Arc::new(Pod::new(captured, identity));
                        self.pods.add(pod.clone());
                        self.threads.serve(&pod, acceptors).await;
                    }
                    Some(PodEvent::Down { uid }) => self.pods.remove(&uid),
                    None => return,
                },
                Some(_) = identities.join_next(), if !identities.is_empty() => {}
            }
        }
    }
}
