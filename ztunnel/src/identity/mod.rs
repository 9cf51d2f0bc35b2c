//! Who a pod is, and who is on the other side.
//!
//! A pod's identity is that of its workload in the current state of the mesh; when that changes,
//! or the pod goes, the old certificate is let go.

use std::sync::Arc;
use std::time::Duration;

use model::{Code, SpiffeId, WorkloadKey};
use svid::{SvidHandle, SvidStore};
use tls::Svid;
use tokio::sync::watch;

use crate::mesh::MeshView;

/// How long a connection waits for a certificate that is being fetched; then it is refused.
const IDENTITY_WAIT: Duration = Duration::from_secs(5);

/// The certificate of one pod, now and later. Clones share it.
#[derive(Clone)]
pub(crate) struct PodIdentity(watch::Receiver<State>);

/// What a pod's identity is at the moment.
#[derive(Clone, Default)]
struct State {
    id: Option<SpiffeId>,
    handle: Option<Arc<SvidHandle>>,
    problem: Option<String>,
}

/// No certificate for the pod.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no certificate for the workload: {cause}")]
pub(crate) struct NotReady {
    cause: String,
}

impl NotReady {
    /// The stable reason.
    pub(crate) const CODE: Code = Code::IdentityNotReady;
}

impl PodIdentity {
    /// Starts following the identity of `key`. The returned task ends when every clone is gone.
    pub(crate) fn follow(
        store: SvidStore,
        mut mesh: MeshView,
        key: WorkloadKey,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (sender, receiver) = watch::channel(State::default());
        let task = async move {
            loop {
                let id = mesh
                    .current()
                    .snapshot
                    .workload_by_key(&key)
                    .ok_or_else(|| format!("no workload {key} in the current state of the mesh"))
                    .and_then(|workload| workload.identity().map_err(|e| e.to_string()));
                if sender.borrow().id.as_ref() != id.as_ref().ok() || sender.borrow().id.is_none() {
                    sender.send_replace(match id {
                        Ok(id) => match store.hold(&id) {
                            Ok(handle) => State {
                                id: Some(id),
                                handle: Some(Arc::new(handle)),
                                problem: None,
                            },
                            Err(error) => {
                                State { problem: Some(error.to_string()), ..State::default() }
                            }
                        },
                        Err(problem) => State { problem: Some(problem), ..State::default() },
                    });
                }
                tokio::select! {
                    changed = mesh.changed() => if !changed { return },
                    () = sender.closed() => return,
                }
            }
        };
        (Self(receiver), task)
    }

    /// The certificate in force, waiting a bounded time for the first.
    pub(crate) async fn ready(&self) -> Result<Arc<Svid>, NotReady> {
        let handle = self.0.borrow().handle.clone();
        if let Some(svid) = handle.as_ref().and_then(|handle| handle.current()) {
            return Ok(svid);
        }
        let mut receiver = self.0.clone();
        let wait = async {
            loop {
                let handle = receiver.borrow_and_update().handle.clone();
                if let Some(handle) = handle {
                    let ready = handle.ready(IDENTITY_WAIT).await;
                    return ready.map_err(|error| Some(error.to_string()));
                }
                receiver.changed().await.map_err(|_| None)?;
            }
        };
        match tokio::time::timeout(IDENTITY_WAIT, wait).await {
            Ok(Ok(svid)) => Ok(svid),
            Ok(Err(Some(cause))) => Err(NotReady { cause }),
            Ok(Err(None)) | Err(_) => Err(self.not_ready()),
        }
    }

    /// The certificate in force, if there is one.
    pub(crate) fn current(&self) -> Option<Arc<Svid>> {
        self.0.borrow().handle.as_ref().and_then(|handle| handle.current())
    }

    fn not_ready(&self) -> NotReady {
        let cause = self.0.borrow().problem.clone();
        NotReady { cause: cause.unwrap_or_else(|| "it is still being issued".to_owned()) }
    }
}
