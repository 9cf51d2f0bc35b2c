//! What the CNI plugin asks: a pod's sandbox waits here until the pod is captured and has its
//! certificate.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::{Namespace, Pod, Text};
use cni::{Refusal, SandboxEnd, SandboxRequest, Valid};
use cni_node::Sandboxes;
use enrol::{
    Actual, Admission, Asked, Code, Expected, Failure, NamespaceSwitches, Outcome, Sandbox, State,
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
    pub(super) outside: StartsOutside,
}

/// Pods that started uncaptured since this agent did, by why. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct StartsOutside(Arc<Mutex<BTreeMap<Code, u64>>>);

impl StartsOutside {
    fn count(&self, code: Code) {
        *self.0.lock().entry(code).or_insert(0) += 1;
    }

    /// The counts, of each code from the beginning: an alert sees no increase of what appears.
    pub(crate) fn counts(&self) -> Vec<(Code, u64)> {
        let counts = self.0.lock();
        Code::ALL.iter().map(|code| (*code, counts.get(code).copied().unwrap_or(0))).collect()
    }
}

impl<K: Kernel, O: Objects> NodeSandboxes<K, O> {
    /// What becomes of a sandbox, by what the API server says of its pod.
    async fn admission(&self, request: &SandboxRequest) -> Result<Admission, Failure> {
        let (namespace, name) = (request.namespace.as_str(), request.name.as_str());
        let asked = Asked { namespace, name, uid: request.uid.as_str() };
        if asked.is_excluded(&self.excluded) {
            return Ok(Admission::Passes);
        }
        let (pod, found) =
            tokio::try_join!(self.objects.pod(namespace, name), self.objects.namespace(namespace))?;
        asked.admit(pod, found, &self.excluded)
    }

    async fn captured(&self, expected: Expected, request: &SandboxRequest) -> Result<(), Failure> {
        let Expected { uid, pod, namespace } = expected;
        let identity = super::identity(&self.trust_domain, &pod)
            .map_err(|error| Failure::new(Code::IdentityNotReady, error.to_string()))?;
        // First, since it takes longest where the authority is far.
        let certificate = self.certificates.get(&uid, &identity);
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
        let admission = self.admission(&request).await.map_err(|failure| refusal(&failure))?;
        let Admission::Captured(expected) = admission else { return Ok(()) };
        let on_failure = NamespaceSwitches::of(&expected.namespace).on_failure;
        let (uid, sandbox) = (expected.uid.clone(), &request.sandbox);
        match Outcome::of(self.captured(*expected, &request).await, on_failure) {
            Outcome::Captured => Ok(()),
            Outcome::Outside(failure) => {
                self.outside.count(failure.code);
                tracing::warn!(
                    pod = %uid, %sandbox, %failure,
                    "a pod starts outside the mesh, as its namespace wants"
                );
                Ok(())
            }
            Outcome::Refused(failure) => {
                tracing::warn!(pod = %uid, %sandbox, %failure, "a sandbox is refused");
                Err(refusal(&failure))
            }
        }
    }

    async fn check(&self, request: SandboxRequest) -> Result<(), Refusal> {
        let admission = self.admission(&request).await.map_err(|failure| refusal(&failure))?;
        let Admission::Captured(expected) = admission else { return Ok(()) };
        let uid = expected.uid;
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
