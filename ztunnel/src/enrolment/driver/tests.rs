use std::path::{Path, PathBuf};

use api_server::RawValue;
use cni::SandboxRequest;
use cni_node::Sandboxes;
use daemon::Readiness;
use enrol::{Captured, Code, Event, Place, Standing, State, Target, Wanted};
use model::TrustDomain;
use parking_lot::Mutex;
use svid::{DevCa, SvidStore};
use tls::{TrustSettings, TrustStore};

use super::*;
use crate::enrolment::sandboxes::NodeSandboxes;

/// What was done, in order.
type Log = Arc<Mutex<Vec<String>>>;

/// A node that captures whatever it is told to, or nothing.
struct FakeKernel {
    log: Log,
    actual: Mutex<Actual>,
    failure: Mutex<Option<Failure>>,
}

impl Kernel for FakeKernel {
    fn actual(&self) -> Actual {
        self.actual.lock().clone()
    }

    async fn enrol(&self, wanted: Wanted) -> Result<(), Failure> {
        self.log.lock().push(format!("enrol {}", wanted.workload));
        if let Some(failure) = self.failure.lock().clone() {
            return Err(failure);
        }
        let captured = Captured {
            source: wanted.source,
            state: State::Verified,
            netns: wanted.sandbox.map_or(1, |sandbox| sandbox.netns_inode),
            place: Place::Same,
            switches: wanted.switches,
        };
        self.actual.lock().insert(wanted.uid, captured);
        Ok(())
    }

    async fn update(&self, wanted: Wanted) -> Result<(), Failure> {
        self.log.lock().push(format!("update {}", wanted.workload));
        Ok(())
    }

    async fn release(&self, uid: PodUid, _: Rest) -> Result<(), Failure> {
        self.log.lock().push("release".to_owned());
        self.actual.lock().remove(&uid);
        Ok(())
    }

    fn netns(&self, path: &Path) -> Result<(PathBuf, u64), Failure> {
        Ok((path.to_owned(), 7))
    }
}

/// An API server with one pod and its namespace.
#[derive(Clone)]
struct FakeObjects {
    log: Log,
    pod: Arc<Mutex<Option<Pod>>>,
    namespace: Arc<Mutex<Option<Namespace>>>,
    is_away: Arc<Mutex<bool>>,
}

impl FakeObjects {
    fn answer<T>(&self, object: Option<T>) -> Result<Option<T>, Failure> {
        if *self.is_away.lock() {
            return Err(Failure::new(Code::ApiAway, "no route"));
        }
        Ok(object)
    }
}

impl Objects for FakeObjects {
    async fn pod(&self, _: &str, _: &str) -> Result<Option<Pod>, Failure> {
        self.answer(self.pod.lock().clone())
    }

    async fn namespace(&self, _: &str) -> Result<Option<Namespace>, Failure> {
        self.answer(self.namespace.lock().clone())
    }

    async fn annotate(&self, target: &Target, annotation: Annotation) -> Result<(), Failure> {
        self.log.lock().push(format!("annotation {annotation:?} of {}", target.name));
        Ok(())
    }

    async fn tell(&self, event: &Event) {
        self.log.lock().push(format!("event {}", event.reason));
    }
}

/// A driver and everything around it.
struct Stage {
    log: Log,
    kernel: Arc<FakeKernel>,
    objects: FakeObjects,
    sandboxes: NodeSandboxes<FakeKernel, FakeObjects>,
    view: EnrolmentView,
    readiness: Readiness,
    pods: mpsc::Sender<Change>,
    namespaces: mpsc::Sender<Change>,
    running: tokio::task::JoinHandle<()>,
    _ca: tempfile::TempDir,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.running.abort();
    }
}

const POD: &str = r#"{"metadata":{"name":"web-1","namespace":"shop","uid":"u-1"},
    "spec":{"serviceAccountName":"web"},
    "status":{"phase":"Running","podIPs":[{"ip":"10.0.0.5"}]}}"#;
const AMBIENT: &str =
    r#"{"metadata":{"name":"shop","labels":{"istio.io/dataplane-mode":"ambient"}}}"#;
const PLAIN: &str = r#"{"metadata":{"name":"shop"}}"#;
const FAIL_OPEN: &str = r#"{"metadata":{"name":"shop","annotations":{"warren.dev/fail-open":"true"},
    "labels":{"istio.io/dataplane-mode":"ambient"}}}"#;

fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).expect("JSON")
}

impl Stage {
    fn new() -> Self {
        let ca = tempfile::tempdir().expect("a folder");
        let trust_domain = TrustDomain::default();
        let trust = TrustStore::open(TrustSettings {
            domain: trust_domain.clone(),
            aliases: Vec::new(),
            compliance: tls::Compliance::Default,
            crl: None,
            bundles: None,
            keep: None,
        });
        let issuer = DevCa::open(ca.path(), &trust_domain).expect("an authority");
        let svids = SvidStore::new(Arc::new(issuer), svid::TTL_DEFAULT, trust, None);
        let log = Log::default();
        let kernel = Arc::new(FakeKernel {
            log: log.clone(),
            actual: Mutex::default(),
            failure: Mutex::default(),
        });
        let objects = FakeObjects {
            log: log.clone(),
            pod: Arc::new(Mutex::new(Some(serde_json::from_str(POD).expect("a pod")))),
            namespace: Arc::default(),
            is_away: Arc::default(),
        };
        let excluded: BTreeSet<_> = ["kube-system".into()].into();
        let certificates = Certificates::new(svids);
        let settings = Settings { excluded_namespaces: excluded.clone(), dns_capture: false };
        let (driver, inputs, view) =
            Driver::new(settings, kernel.clone(), objects.clone(), certificates.clone());
        let (pods, pod_changes) = mpsc::channel(8);
        let (namespaces, namespace_changes) = mpsc::channel(8);
        let readiness = Readiness::default();
        let pod_changes = Followed::new(pod_changes, readiness.wait_for("pods"));
        let namespace_changes = Followed::new(namespace_changes, readiness.wait_for("namespaces"));
        let running = tokio::spawn(driver.run(pod_changes, namespace_changes));
        let sandboxes = NodeSandboxes {
            excluded,
            trust_domain,
            kernel: kernel.clone(),
            objects: objects.clone(),
            certificates,
            inputs,
            outside: view.outside.clone(),
        };
        Self {
            log,
            kernel,
            objects,
            sandboxes,
            view,
            readiness,
            pods,
            namespaces,
            running,
            _ca: ca,
        }
    }

    fn with_namespace(self, json: &str) -> Self {
        *self.objects.namespace.lock() = Some(serde_json::from_str(json).expect("a namespace"));
        self
    }

    async fn hear(&self, pods: &[&str], namespace: &str) {
        let list = |objects: &[&str]| Change::Replace(objects.iter().map(|o| raw(o)).collect());
        self.namespaces.send(list(&[namespace])).await.expect("it runs");
        self.pods.send(list(pods)).await.expect("it runs");
    }

    /// Waits until this is the log.
    async fn logs(&self, expected: &[&str]) {
        for _ in 0..500 {
            if *self.log.lock() == expected {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(*self.log.lock(), expected);
    }

    async fn add(&self, uid: &str, namespace: &str) -> Result<(), String> {
        let request = SandboxRequest {
            uid: cni::PodUid::new(uid).expect("a uid"),
            namespace: cni::Namespace::new(namespace).expect("a namespace"),
            name: cni::PodName::new("web-1").expect("a name"),
            sandbox: cni::SandboxId::new("s-1").expect("an id"),
            netns: cni::NetnsPath::new("/var/run/netns/x").expect("a path"),
            addresses: vec![[10, 0, 0, 5].into()],
        };
        self.sandboxes.add(request).await.map_err(|refusal| refusal.code)
    }
}

#[tokio::test(start_paused = true)]
async fn a_label_enrols_and_its_removal_lets_go_in_order() {
    let stage = Stage::new();
    stage.hear(&[POD], AMBIENT).await;
    stage.logs(&["enrol shop/web-1/web", "annotation Present of web-1"]).await;
    assert_eq!(stage.view.told().gap(), 0);
    assert_eq!(stage.view.told().count(Standing::Verified), 1);
    let uid = PodUid::parse("u-1").expect("a uid");
    assert!(stage.view.may_others(&uid).await.is_err(), "the API server outranks the CLI");
    stage.log.lock().clear();
    stage.hear(&[POD], PLAIN).await;
    // The list says that the annotation is not there; the first look has believed its own patch.
    stage.logs(&["release"]).await;
    assert!(stage.view.may_others(&uid).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_captured_is_told_and_counted() {
    let stage = Stage::new();
    let conflict = Failure::new(Code::IdentityConflict, "another pod's address");
    *stage.kernel.failure.lock() = Some(conflict);
    stage.hear(&[POD], AMBIENT).await;
    stage.logs(&["enrol shop/web-1/web", "event IDENTITY_CONFLICT", "enrol shop/web-1/web"]).await;
    let told = stage.view.told();
    assert_eq!((told.gap(), told.count(Standing::Failed)), (1, 1));
    assert_eq!(told.pods[0].failure.as_ref().map(|f| f.code), Some(Code::IdentityConflict));
    *stage.kernel.failure.lock() = None;
    for _ in 0..100 {
        sleep(Duration::from_millis(500)).await;
        if stage.log.lock().last().is_some_and(|last| last == "event Enrolled") {
            return;
        }
    }
    panic!("{:?}", stage.log.lock());
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_waits_for_capture_and_certificate() {
    let stage = Stage::new().with_namespace(AMBIENT);
    assert_eq!(stage.add("u-1", "shop").await, Ok(()));
    let uid = PodUid::parse("u-1").expect("a uid");
    let captured = stage.kernel.actual.lock().get(&uid).cloned().expect("captured");
    assert_eq!((captured.source, captured.netns), (enrol::Source::Cni, 7));
    // The runtime asks again.
    assert_eq!(stage.add("u-1", "shop").await, Ok(()));
    assert_eq!(stage.log.lock().iter().filter(|line| line.starts_with("enrol")).count(), 1);
    let ended = cni::SandboxEnd { sandbox: cni::SandboxId::new("s-1").expect("an id"), uid: None };
    stage.sandboxes.delete(ended).await.expect("it never fails");
    for _ in 0..100 {
        sleep(Duration::from_millis(20)).await;
        if stage.kernel.actual.lock().is_empty() {
            return;
        }
    }
    panic!("the pod stays: {:?}", stage.log.lock());
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_fails_with_the_reason_or_passes() {
    let stage = Stage::new().with_namespace(AMBIENT);
    assert_eq!(stage.add("u-2", "shop").await, Err("IDENTITY_CONFLICT".to_owned()));
    *stage.objects.is_away.lock() = true;
    assert_eq!(stage.add("u-1", "shop").await, Err("API_AWAY".to_owned()));
    assert_eq!(stage.add("u-1", "kube-system").await, Ok(()), "excluded, whoever is away");
    *stage.objects.is_away.lock() = false;
    *stage.kernel.failure.lock() = Some(Failure::new(Code::AttachFailed, "no bpffs"));
    assert_eq!(stage.add("u-1", "shop").await, Err("ATTACH_FAILED".to_owned()));
    let stage = stage.with_namespace(FAIL_OPEN);
    assert_eq!(stage.add("u-1", "shop").await, Ok(()), "as its namespace wants");
    let outside = stage.view.starts_outside();
    assert_eq!(outside.len(), Code::ALL.len(), "each is there from the beginning");
    let counted: Vec<_> = outside.into_iter().filter(|(_, count)| *count > 0).collect();
    assert_eq!(counted, [(Code::AttachFailed, 1)]);
    let stage = stage.with_namespace(PLAIN);
    assert_eq!(stage.add("u-1", "shop").await, Ok(()), "not in the mesh");
    *stage.objects.pod.lock() = None;
    assert_eq!(stage.add("u-1", "shop").await, Err("POD_GONE".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_was_never_read_keeps_the_agent_unready_and_serves_sandboxes() {
    let stage = Stage::new().with_namespace(AMBIENT);
    assert_eq!(stage.add("u-1", "shop").await, Ok(()));
    sleep(Duration::from_mins(1)).await;
    assert_eq!(stage.readiness.pending(), ["namespaces", "pods"]);
    assert_eq!(stage.view.told().behind.ages(), [("pods", 60), ("namespaces", 60)]);
    stage.hear(&[POD], AMBIENT).await;
    sleep(Duration::from_secs(2)).await;
    assert!(stage.readiness.pending().is_empty());
    assert_eq!(stage.view.told().behind.ages(), [("pods", 0), ("namespaces", 0)]);
    stage.pods.send(Change::Away("no route".to_owned())).await.expect("it runs");
    sleep(Duration::from_secs(5)).await;
    assert_eq!(stage.view.told().behind.ages(), [("pods", 5), ("namespaces", 0)]);
    assert!(stage.readiness.pending().is_empty(), "what is known is enough");
}
