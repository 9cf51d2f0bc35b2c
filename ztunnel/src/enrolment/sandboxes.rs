//! What the CNI plugin asks: a pod's sandbox waits here until the pod is captured and has its
//! certificate.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::{Namespace, Pod, Text};
use cni::{Refusal, SandboxEnd, SandboxRequest, Valid};
use cni_node::Sandboxes;
use enrol::{
    Actual, Code, Failure, NamespaceSwitches, OnFailure, Sandbox, Selection, State, select,
};
use model::{PodUid, TrustDomain};
use parking_lot::Mutex;
use svid::{SvidHandle, SvidStore};
use tokio::sync::{mpsc, oneshot};

use super::driver::Input;
use super::kernel::Kernel;
use super::objects::Objects;

/// Longest wait for capture and certificate together; shorter than the plugin's, so that it gets a
/// reason.
const ADD_WAIT: Duration = Duration::from_secs(25);
/// How long a certificate is held for a pod that is not captured yet. After that its key is forgotten.
const HOLD_MAX: Duration = Duration::from_mins(1);

/// Certificates of pods that no control plane has told of yet: without somebody who holds them they would
/// be forgotten before their pods' first connection.
#[derive(Clone)]
pub(super) struct Certificates {
    store: SvidStore,
    held: Arc<Mutex<BTreeMap<PodUid, (SvidHandle, Instant)>>>,
}

impl Certificates {
    pub(super) fn new(store: SvidStore) -> Self {
        Self { store, held: Arc::default() }
    }

    /// Asks for the certificate of a pod, and waits a bounded time for it.
    async fn get(&self, uid: &PodUid, identity: &model::SpiffeId) -> Result<(), Failure> {
        let failed = |text: String| Failure::new(Code::IdentityNotReady, text);
        let handle = self.store.hold(identity).map_err(|error| failed(error.to_string()))?;
        self.held.lock().insert(uid.clone(), (handle.clone(), Instant::now()));
        handle.ready(ADD_WAIT).await.map(drop).map_err(|error| failed(error.to_string()))
    }

    /// Lets go of those whose pods are not there.
    pub(super) fn keep(&self, actual: &Actual) {
        self.held
            .lock()
            .retain(|uid, (_, since)| actual.contains_key(uid) || since.elapsed() < HOLD_MAX);
    }
}

/// Serves the plugin.
pub(super) struct NodeSandboxes<K, O> {
    pub(super) excluded: BTreeSet<Text>,
    pub(super) trust_domain: TrustDomain,
    pub(super) kernel: Arc<K>,
    pub(super) objects: O,
    pub(super) certificates: Certificates,
    pub(super) inputs: mpsc::Sender<Input>,
}

/// What becomes of a sandbox.
enum Fate {
    /// It is not in the mesh.
    Passes,
    /// Its pod belongs into it.
    Captured { uid: PodUid, pod: Box<Pod>, namespace: Box<Namespace> },
}

impl<K: Kernel, O: Objects> NodeSandboxes<K, O> {
    async fn fate(&self, request: &SandboxRequest) -> Result<Fate, Failure> {
        if self.excluded.contains(request.namespace.as_str()) {
            return Ok(Fate::Passes);
        }
        let (namespace, name) = (request.namespace.as_str(), request.name.as_str());
        let (pod, found) =
            tokio::try_join!(self.objects.pod(namespace, name), self.objects.namespace(namespace))?;
        let gone = || Failure::new(Code::PodGone, format!("there is no pod {namespace}/{name}"));
        let (pod, found) = (pod.ok_or_else(gone)?, found.ok_or_else(gone)?);
        if pod.is_static() {
            return Ok(Fate::Passes);
        }
        if *pod.metadata.uid != *request.uid.as_str() {
            let message = format!("{namespace}/{name} has uid {} now", pod.metadata.uid);
            return Err(Failure::new(Code::IdentityConflict, message));
        }
        match select(&pod, Some(&found), &self.excluded) {
            Selection::Refused(_) => return Ok(Fate::Passes),
            Selection::Selected | Selection::Undecided => {}
        }
        let uid = PodUid::parse(&pod.metadata.uid)
            .map_err(|error| Failure::new(Code::IdentityConflict, error.to_string()))?;
        Ok(Fate::Captured { uid, pod: Box::new(pod), namespace: Box::new(found) })
    }

    async fn captured(
        &self,
        uid: &PodUid,
        pod: Pod,
        namespace: Namespace,
        request: &SandboxRequest,
    ) -> Result<(), Failure> {
        let identity = super::identity(&self.trust_domain, &pod)
            .map_err(|error| Failure::new(Code::IdentityNotReady, error.to_string()))?;
        // First, since it takes longest where the authority is far.
        let certificate = self.certificates.get(uid, &identity);
        let capture = self.claim(pod, namespace, request);
        let both = async { tokio::try_join!(certificate, capture).map(drop) };
        tokio::time::timeout(ADD_WAIT, both).await.unwrap_or_else(|_| {
            let message = format!("the pod was not captured within {ADD_WAIT:?}");
            Err(Failure::new(Code::TooLate, message))
        })
    }

    async fn claim(
        &self,
        pod: Pod,
        namespace: Namespace,
        request: &SandboxRequest,
    ) -> Result<(), Failure> {
        let (kernel, path) = (Arc::clone(&self.kernel), request.netns.as_path().to_owned());
        let named = tokio::task::spawn_blocking(move || kernel.netns(&path)).await;
        let (_, netns_inode) =
            named.map_err(|error| Failure::new(Code::NetnsInvalid, error.to_string())).flatten()?;
        let sandbox = Sandbox {
            id: request.sandbox.as_str().to_owned(),
            netns: request.netns.as_path().to_owned(),
            netns_inode,
            addresses: request.addresses.clone(),
        };
        let (answer, answered) = oneshot::channel();
        let claim =
            Input::Claim { pod: Box::new(pod), namespace: Box::new(namespace), sandbox, answer };
        self.send(claim).await?;
        answered.await.map_err(|_| stopping())?
    }

    async fn send(&self, input: Input) -> Result<(), Failure> {
        self.inputs.send(input).await.map_err(|_| stopping())
    }
}

fn stopping() -> Failure {
    Failure::new(Code::TooLate, "the agent is stopping")
}

fn refusal(failure: &Failure) -> Refusal {
    Refusal::new(failure.code.as_str(), failure.message.clone())
}

impl<K: Kernel, O: Objects> Sandboxes for NodeSandboxes<K, O> {
    async fn add(&self, request: SandboxRequest) -> Result<(), Refusal> {
        let fate = self.fate(&request).await.map_err(|failure| refusal(&failure))?;
        let Fate::Captured { uid, pod, namespace } = fate else { return Ok(()) };
        let on_failure = NamespaceSwitches::of(&namespace).on_failure;
        let result = self.captured(&uid, *pod, *namespace, &request).await;
        match (result, on_failure) {
            (Err(failure), OnFailure::Closed) => {
                tracing::warn!(pod = %uid, sandbox = %request.sandbox, %failure, "a sandbox is refused");
                Err(refusal(&failure))
            }
            (Err(failure), OnFailure::Open) => {
                tracing::warn!(
                    pod = %uid, sandbox = %request.sandbox, %failure,
                    "a pod starts outside the mesh, as its namespace wants"
                );
                Ok(())
            }
            (Ok(()), _) => Ok(()),
        }
    }

    async fn check(&self, request: SandboxRequest) -> Result<(), Refusal> {
        let fate = self.fate(&request).await.map_err(|failure| refusal(&failure))?;
        let Fate::Captured { uid, .. } = fate else { return Ok(()) };
        let kernel = Arc::clone(&self.kernel);
        let path = request.netns.as_path().to_owned();
        let looked = tokio::task::spawn_blocking(move || {
            let (_, inode) = kernel.netns(&path)?;
            let captured = kernel.actual().remove(&uid);
            match captured {
                Some(found) if found.netns == inode && found.state == State::Verified => Ok(()),
                Some(found) => {
                    Err(Failure::new(Code::NotCaptured, format!("the pod is {:?}", found.state)))
                }
                None => Err(Failure::new(Code::NotCaptured, "the pod is not captured")),
            }
        });
        let looked = looked.await.map_err(|e| Failure::new(Code::NotCaptured, e.to_string()));
        looked.flatten().map_err(|failure| refusal(&failure))
    }

    async fn delete(&self, ended: SandboxEnd) -> Result<(), Refusal> {
        let gone = Input::SandboxGone(ended.sandbox.as_str().to_owned());
        self.send(gone).await.map_err(|failure| refusal(&failure))
    }

    async fn gc(&self, valid: Vec<Valid>) -> Result<(), Refusal> {
        let valid = valid.iter().map(|valid| valid.sandbox.as_str().to_owned()).collect();
        self.send(Input::KeepSandboxes(valid)).await.map_err(|failure| refusal(&failure))
    }

    async fn status(&self) -> Result<(), Refusal> {
        if self.inputs.is_closed() { Err(refusal(&stopping())) } else { Ok(()) }
    }
}
