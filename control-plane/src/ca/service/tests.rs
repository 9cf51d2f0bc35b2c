use std::collections::BTreeMap;

use authority::{Authority, AuthorityPem, KeyAlgorithm, OwnKey, make_root};
use model::{SpiffeId, TrustDomain};
use parking_lot::Mutex;
use prost_types::{Struct, Value};
use serde_json::json;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;
use tls::issued_chain;
use tonic::Code::{
    InvalidArgument, PermissionDenied, ResourceExhausted, Unauthenticated, Unavailable,
};
use tonic::codegen::http::uri::PathAndQuery;

use super::*;
use crate::ca::{Current, InForce, Pods, Serving};
use crate::caller::{Arrival, Authenticating, CallerPod, Proof, Role};

const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";
const AGENT: &str = "spiffe://cluster.local/ns/istio-system/sa/ztunnel";

/// Says what it is told, to a token that is right.
struct Told(Mutex<Result<Caller, Refusal>>);

impl Authenticate for Told {
    fn authenticate<'a>(&'a self, credentials: &'a Credentials) -> Authenticating<'a> {
        let is_right = credentials.token.as_deref() == Some("right");
        let told = self.0.lock().clone();
        Box::pin(async move {
            if is_right { told } else { Err(Refusal::new(RefusalCode::TokenRejected, "wrong")) }
        })
    }
}

struct Plane {
    service: CertificateAuthority,
    callers: Arc<Told>,
    current: Current,
}

fn id(uri: &str) -> SpiffeId {
    SpiffeId::parse(uri).expect("literal")
}

fn agent() -> Caller {
    Caller {
        identity: id(AGENT),
        node: Some("n1".into()),
        pod: Some(CallerPod { name: "ztunnel-1".into(), uid: "u1".into() }),
        proof: Proof::ServiceAccountToken,
        role: Role::NodeProxy,
    }
}

fn plane() -> Plane {
    let pods = Pods::default();
    for (namespace, name, account) in
        [("istio-system", "ztunnel-1", "ztunnel"), ("shop", "cart-1", "cart")]
    {
        let pod = json!({
            "metadata": {"name": name, "namespace": namespace, "uid": "u1",
                "labels": {"istio.io/dataplane-mode": "ambient"}},
            "spec": {"nodeName": "n1", "serviceAccountName": account},
            "status": {"phase": "Running"},
        });
        pods.write(|index| index.upsert_pod(&serde_json::from_value(pod).expect("a pod")));
    }
    let domain = TrustDomain::default();
    let root = make_root(&domain, KeyAlgorithm::P256, SystemTime::now()).expect("made");
    let (certificate, key) = (root.certificate.as_str(), root.key.as_str());
    let pem = AuthorityPem { certificate, key, chain: "", roots: certificate };
    let authority = Authority::from_pem(&domain, &pem, SystemTime::now()).expect("loaded");
    let current = Current::new(InForce::new(Arc::new(authority), []).expect("roots"));
    let callers = Arc::new(Told(Mutex::new(Ok(agent()))));
    let service = CertificateAuthority::new(CaParts {
        callers: callers.clone(),
        authorizer: Authorizer::new(domain, pods),
        signer: Arc::new(current.clone()),
        ledger: Arc::default(),
        metrics: CaMetrics::default(),
        lifetimes: Lifetimes::default(),
    });
    Plane { service, callers, current }
}

fn message(csr_for: &str, impersonated: Option<&str>) -> IstioCertificateRequest {
    let own = OwnKey::new(&Names::of(id(csr_for))).expect("made");
    let metadata = impersonated.map(|identity| {
        let value = Value { kind: Some(Kind::StringValue(identity.to_owned())) };
        Struct { fields: BTreeMap::from([(IMPERSONATED_IDENTITY.to_owned(), value)]) }
    });
    IstioCertificateRequest { csr: own.request, validity_duration: 3600, metadata }
}

impl Plane {
    async fn call(
        &self,
        message: IstioCertificateRequest,
        token: &str,
    ) -> Result<IstioCertificateResponse, Status> {
        let mut request = Request::new(message);
        let value = format!("Bearer {token}").parse().expect("ASCII");
        request.metadata_mut().insert("authorization", value);
        let path = PathAndQuery::from_static(proto::citadel::CREATE_METHOD);
        let codec = ProstCodec::<IstioCertificateRequest, IstioCertificateResponse>::default();
        let mut grpc = tonic::client::Grpc::new(self.service.clone());
        grpc.unary(request, path, codec).await.map(Response::into_inner)
    }

    fn metrics(&self) -> String {
        let mut registry = prometheus_client::registry::Registry::default();
        self.service.0.metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
        text
    }
}

#[tokio::test]
async fn an_agent_gets_the_certificate_of_its_pod() {
    let plane = plane();
    let answer = plane.call(message(CART, Some(CART)), "right").await.expect("issued");
    let chain = issued_chain(&answer.cert_chain).expect("as our agent reads it");
    let bundle = plane.current.get().bundle.clone();
    let verified = bundle.verify_chain(&chain.chain, SystemTime::now()).expect("believed");
    assert_eq!(verified.as_str(), CART);
    let left =
        plane.service.0.ledger.presenting(plane.current.get().authority.root(), SystemTime::now());
    assert_eq!(left[0].holder, "n1");
    let metrics = plane.metrics();
    assert!(metrics.contains("citadel_server_success_cert_issuance_count_total 1"), "{metrics}");
}

#[tokio::test]
async fn who_asks_for_themselves_gets_themselves() {
    let plane = plane();
    let role = Role::Workload;
    let caller = Caller { identity: id(CART), role, pod: None, node: None, ..agent() };
    *plane.callers.0.lock() = Ok(caller);
    let answer = plane.call(message(CART, None), "right").await.expect("issued");
    let chain = issued_chain(&answer.cert_chain).expect("read").chain;
    let bundle = plane.current.get().bundle.clone();
    let verified = bundle.verify_chain(&chain, SystemTime::now()).expect("believed");
    assert_eq!(verified.as_str(), CART);
}

/// Each refusal: what the caller is told, and that it is told no more.
#[tokio::test]
async fn refusals_are_opaque() {
    let bank = "spiffe://cluster.local/ns/shop/sa/bank";
    let foreign = "spiffe://other/ns/shop/sa/cart";
    let odd = {
        let value = Value { kind: Some(Kind::NumberValue(1.0)) };
        let fields = BTreeMap::from([(IMPERSONATED_IDENTITY.to_owned(), value)]);
        IstioCertificateRequest { metadata: Some(Struct { fields }), ..message(CART, None) }
    };
    let of_csr =
        |csr: &str| IstioCertificateRequest { csr: csr.to_owned(), ..message(CART, Some(CART)) };
    let of_life = |seconds: i64| IstioCertificateRequest {
        validity_duration: seconds,
        ..message(CART, Some(CART))
    };
    let max = i64::try_from(TTL_MAX.as_secs()).expect("fits");
    let cases = [
        ("a wrong token", message(CART, Some(CART)), "wrong", Unauthenticated),
        ("no pod of that account", message(bank, Some(bank)), "right", PermissionDenied),
        ("another trust domain", message(foreign, Some(foreign)), "right", PermissionDenied),
        ("names of somebody else", message(bank, Some(CART)), "right", InvalidArgument),
        ("an identity that is none", odd, "right", InvalidArgument),
        ("garbage", of_csr("garbage"), "right", InvalidArgument),
        ("nothing", of_csr(""), "right", InvalidArgument),
        ("too long a life", of_life(max + 1), "right", InvalidArgument),
        ("a negative life", of_life(-1), "right", InvalidArgument),
    ];
    for (what, message, token, code) in cases {
        let plane = plane();
        let refused = plane.call(message, token).await.expect_err(what);
        assert_eq!(refused.code(), code, "{what}: {refused}");
        for told in ["shop", "cart", "bank", "n1", "wrong", "garbage"] {
            assert!(!refused.message().contains(told), "{what}: {refused}");
        }
        let metrics = plane.metrics();
        assert!(metrics.contains("citadel_server_csr_count_total 1"));
        assert!(metrics.contains("success_cert_issuance_count_total 0"), "{metrics}");
    }
    let plane = plane();
    plane.call(of_life(max), "right").await.expect("the longest life");
    plane.call(of_life(0), "right").await.expect("no life is the default");
}

#[tokio::test]
async fn a_caller_that_cannot_be_looked_up_may_try_again() {
    let plane = plane();
    *plane.callers.0.lock() =
        Err(Refusal::new(RefusalCode::ReviewUnavailable, "the API server is away"));
    let refused = plane.call(message(CART, Some(CART)), "right").await.expect_err("not now");
    assert_eq!(refused.code(), Unavailable);
    assert!(!refused.message().contains("API server"));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_read_of_a_stranger_and_nobody_is_waited_for_for_long() {
    for (token, code, refusal) in
        [("wrong", Unauthenticated, "TOKEN_REJECTED"), ("right", Unavailable, "CALL_TIMED_OUT")]
    {
        let plane = plane();
        let is_read = Arc::<AtomicBool>::default();
        let looked = is_read.clone();
        // A message that never comes, and notes if somebody looks for it.
        let silent = futures_util::stream::poll_fn(move |_| {
            looked.store(true, Ordering::Relaxed);
            Poll::<Option<IstioCertificateRequest>>::Pending
        });
        let mut request = Request::new(silent);
        let value = format!("Bearer {token}").parse().expect("ASCII");
        request.metadata_mut().insert("authorization", value);
        let path = PathAndQuery::from_static(proto::citadel::CREATE_METHOD);
        let codec = ProstCodec::<IstioCertificateRequest, IstioCertificateResponse>::default();
        let mut grpc = tonic::client::Grpc::new(plane.service.clone());
        let started = Instant::now();
        let refused = grpc.client_streaming(request, path, codec).await.expect_err("refused");
        assert_eq!(refused.code(), code, "{token}: {refused}");
        assert_eq!(is_read.load(Ordering::Relaxed), token == "right", "{token}");
        assert!(started.elapsed() <= CALL_TIMEOUT + Duration::from_millis(10));
        let counted = format!("warren_cp_certificate_refusals_total{{code=\"{refusal}\"}} 1");
        assert!(plane.metrics().contains(&counted), "{}", plane.metrics());
    }
}

#[tokio::test]
async fn a_message_that_is_too_large_is_not_decoded() {
    let plane = plane();
    let csr = "a".repeat(MESSAGE_BYTES_MAX);
    let large = IstioCertificateRequest { csr, ..message(CART, Some(CART)) };
    let refused = plane.call(large, "right").await.expect_err("too large");
    assert_eq!(refused.code(), ResourceExhausted, "{refused}");
    let metrics = plane.metrics();
    assert!(metrics.contains("refusals_total{code=\"REQUEST_TOO_LARGE\"} 1"), "{metrics}");
}

#[tokio::test]
async fn credentials_are_read_from_a_call() {
    let mut request = Request::new(());
    request.metadata_mut().insert("authorization", "Bearer a.b.c ".parse().expect("ASCII"));
    request.metadata_mut().insert("clusterid", "Kubernetes".parse().expect("ASCII"));
    let plane = plane();
    let signer = Arc::new(plane.current.clone());
    let serving = Serving::start(signer, Names::of(id(CART)), TTL_DEFAULT).await.expect("issued");
    let own = serving.watch().borrow().clone();
    let bundle = plane.current.get().bundle.clone();
    let trust = tls::TrustView::fixed(tls::Trust::of(bundle.clone()));
    let svid = tls::Svid::new(own.chain.clone(), own.key.clone_key(), bundle, &trust);
    let peer = svid.expect("a good certificate").identity().clone();
    request.extensions_mut().insert(Arrival { certificate: Some(peer), ..Arrival::default() });
    let read = Credentials::of_call(request.metadata(), request.extensions());
    assert_eq!(read.token.as_deref(), Some("a.b.c"));
    assert_eq!(read.cluster.as_deref(), Some("Kubernetes"));
    assert_eq!(read.certificate, Some(id(CART)));
    assert_eq!(read.unusable, None);
    // Shown and not read: refused, and not taken for none.
    let long = format!("Bearer {}", "a".repeat(crate::caller::TOKEN_BYTES_MAX + 1));
    for (authorization, why) in
        [("Basic x", "not Bearer"), ("Bearer ", "empty"), ("", "not Bearer"), (&*long, "too long")]
    {
        let value = authorization.parse().expect("ASCII");
        request.metadata_mut().insert("authorization", value);
        let read = Credentials::of_call(request.metadata(), request.extensions());
        assert_eq!(read.token, None);
        assert!(read.unusable.is_some_and(|told| told.contains(why)), "{why}: {read:?}");
    }
    let none = Request::new(());
    let read = Credentials::of_call(none.metadata(), none.extensions());
    assert_eq!((read.token, read.unusable), (None, None));
}

#[tokio::test]
async fn our_own_certificate_is_renewed_and_follows_the_roots() {
    let plane = plane();
    let names = Names::server(id(AGENT), &["istiod.istio-system.svc"]).expect("names");
    let signer = Arc::new(plane.current.clone());
    let serving = Serving::start(signer, names, Duration::from_secs(3)).await.expect("issued");
    let mut watch = serving.watch();
    let first = watch.borrow_and_update().clone();
    let bundle = plane.current.get().bundle.clone();
    bundle.verify_chain(&first.chain, SystemTime::now()).expect("believed");
    tokio::select! {
        () = serving.renew(Some(plane.current.issuing_pem())) => {}
        changed = watch.changed() => changed.expect("renewed"),
    }
    let second = watch.borrow_and_update().clone();
    assert!(second.not_after > first.not_after && second.chain != first.chain);
}

#[tokio::test]
async fn the_ends_of_roots_and_chain_are_shown() {
    let plane = plane();
    let follow = plane.service.0.metrics.follow(&plane.current);
    // It shows them at once, and then waits for others.
    assert!(tokio::time::timeout(Duration::from_millis(20), follow).await.is_err());
    let ends = plane.current.get().authority.not_after();
    let seconds = ends.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    let metrics = plane.metrics();
    assert!(metrics.contains(&format!("root_cert_expiry_timestamp {seconds}.0")), "{metrics}");
}
