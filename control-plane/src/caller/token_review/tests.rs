use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use super::*;
use crate::ca::pods::Pods;
use crate::caller::{CallerChain, CertificateCallers, RefusalKind, Role};

const TOKEN: &str = "head.claims.signature";

/// Answers what it is told, and counts.
struct Told {
    answer: Mutex<Result<Review, String>>,
    asked: AtomicUsize,
    delay: Duration,
}

impl ReviewTokens for Told {
    fn review<'a>(&'a self, _: &'a str, _: &'a [String]) -> Reviewing<'a> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let answer = self.answer.lock().clone().map_err(ReviewError);
        Box::pin(async move {
            tokio::time::sleep(self.delay).await;
            answer
        })
    }
}

fn good() -> Review {
    let extra = [(POD_NAME, "ztunnel-1"), (POD_UID, "u1"), (NODE_NAME, "n1")];
    Review {
        authenticated: true,
        error: String::new(),
        audiences: vec![AUDIENCE.to_owned()],
        username: "system:serviceaccount:istio-system:ztunnel".to_owned(),
        groups: vec![ACCOUNTS_GROUP.to_owned(), "system:authenticated".to_owned()],
        extra: extra.map(|(key, value)| (key.to_owned(), vec![value.to_owned()])).into(),
    }
}

fn pods() -> Pods {
    let pods = Pods::default();
    put(&pods, "u1", "ztunnel", "n1");
    pods
}

fn put(pods: &Pods, uid: &str, account: &str, node: &str) {
    let pod = json!({
        "metadata": {"name": "ztunnel-1", "namespace": "istio-system", "uid": uid},
        "spec": {"nodeName": node, "serviceAccountName": account},
        "status": {"phase": "Running"},
    });
    pods.write(|index| index.upsert_pod(&serde_json::from_value(pod).expect("a pod")));
}

fn roles(pods: &Pods) -> Roles {
    Roles {
        node_proxies: BTreeSet::from(["istio-system/ztunnel".parse().expect("an account")]),
        gateways: BTreeSet::from(["istio-system/gateway".parse().expect("an account")]),
        trust_domain: TrustDomain::default(),
        pods: pods.clone(),
    }
}

fn told(answer: Result<Review, String>, delay: Duration) -> Arc<Told> {
    Arc::new(Told { answer: Mutex::new(answer), asked: AtomicUsize::new(0), delay })
}

fn callers(reviewer: &Arc<Told>, pods: &Pods) -> TokenCallers {
    let clusters = ClusterNames { names: BTreeSet::from([Arc::from("Kubernetes")]) };
    TokenCallers::new(reviewer.clone(), clusters, roles(pods))
}

fn with(token: &str) -> Credentials {
    Credentials {
        token: Some(token.into()),
        cluster: Some("Kubernetes".into()),
        ..Credentials::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_good_token_says_who_and_where() {
    let callers = callers(&told(Ok(good()), Duration::ZERO), &pods());
    let caller = callers.authenticate(&with(TOKEN)).await.expect("accepted");
    assert_eq!(caller.identity.as_str(), "spiffe://cluster.local/ns/istio-system/sa/ztunnel");
    assert_eq!(caller.node.as_deref(), Some("n1"));
    assert_eq!(caller.role, Role::NodeProxy);
    assert_eq!(caller.proof, Proof::ServiceAccountToken);
}

#[tokio::test(start_paused = true)]
async fn what_the_api_server_does_not_vouch_for_is_refused() {
    type Case = (&'static str, fn(&mut Review));
    let cases: [Case; 8] = [
        ("does not believe", |r| {
            r.authenticated = false;
            r.error = "token has expired".to_owned();
        }),
        ("not for us", |r| r.audiences = vec!["api".to_owned()]),
        ("not for us", |r| r.audiences.clear()),
        ("no service account", |r| r.groups.clear()),
        ("no service account", |r| r.username = "kubernetes-admin".to_owned()),
        ("no service account", |r| r.username = "system:serviceaccount:x".to_owned()),
        ("not a valid", |r| r.username = "system:serviceaccount:a:b/c".to_owned()),
        ("another node's", |r| {
            r.extra.insert(NODE_NAME.to_owned(), vec!["n2".to_owned()]);
        }),
    ];
    for (want, change) in cases {
        let mut review = good();
        change(&mut review);
        let callers = callers(&told(Ok(review), Duration::ZERO), &pods());
        let refused = callers.authenticate(&with(TOKEN)).await.expect_err(want);
        assert!(refused.kind() == RefusalKind::Unauthenticated, "{refused:?}");
        assert!(refused.to_string().contains(want), "{refused} / {want}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_asked_about_is_refused() {
    let reviewer = told(Ok(good()), Duration::ZERO);
    let callers = callers(&reviewer, &pods());
    let elsewhere = Credentials { cluster: Some("other".into()), ..with(TOKEN) };
    for credentials in [Credentials::default(), with("no JWT"), elsewhere] {
        callers.authenticate(&credentials).await.expect_err("refused");
    }
    assert_eq!(reviewer.asked.load(Ordering::Relaxed), 0, "nobody was asked");
}

#[tokio::test(start_paused = true)]
async fn the_callers_pod_must_be_the_one_that_there_is() {
    let pods = pods();
    let callers = callers(&told(Ok(good()), Duration::ZERO), &pods);
    put(&pods, "u2", "ztunnel", "n1");
    callers.authenticate(&with(TOKEN)).await.expect_err("another instance");
    put(&pods, "u1", "bank", "n1");
    callers.authenticate(&with(TOKEN)).await.expect_err("another account");
    pods.write(|index| index.remove_pod(&ObjectName::new("istio-system", "ztunnel-1")));
    let caller = callers.authenticate(&with(TOKEN)).await.expect("who it is, is known");
    assert_eq!(caller.node, None, "where it is, is not");
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_used_again_for_a_short_time() {
    let reviewer = told(Ok(good()), Duration::ZERO);
    let callers = callers(&reviewer, &pods());
    let asked = || reviewer.asked.load(Ordering::Relaxed);
    for _ in 0..3 {
        callers.authenticate(&with(TOKEN)).await.expect("accepted");
    }
    assert_eq!(asked(), 1);
    callers.authenticate(&with("another.good.token")).await.expect("accepted");
    assert_eq!(asked(), 2, "each token has its own answer");
    reviewer.answer.lock().as_mut().expect("an answer").authenticated = false;
    tokio::time::advance(CACHE_TIME / 2).await;
    callers.authenticate(&with(TOKEN)).await.expect("still believed");
    tokio::time::advance(CACHE_TIME / 2).await;
    for _ in 0..2 {
        callers.authenticate(&with(TOKEN)).await.expect_err("taken back");
    }
    assert_eq!(asked(), 4, "bad answers are not kept");
}

#[tokio::test(start_paused = true)]
async fn the_cache_is_bounded() {
    let reviewer = told(Ok(good()), Duration::ZERO);
    let callers = callers(&reviewer, &pods());
    for number in 0..CACHE_MAX + 10 {
        callers.authenticate(&with(&format!("a.{number}.c"))).await.expect("accepted");
    }
    assert_eq!(callers.known.lock().len(), CACHE_MAX);
    tokio::time::advance(CACHE_TIME * 2).await;
    callers.authenticate(&with("a.new.c")).await.expect("accepted");
    assert_eq!(callers.known.lock().len(), 1, "what is over makes room");
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_does_not_answer_is_no_reason_to_refuse_for_good() {
    let slow = callers(&told(Ok(good()), REVIEW_TIMEOUT * 2), &pods());
    let broken = callers(&told(Err("connection refused".to_owned()), Duration::ZERO), &pods());
    for callers in [slow, broken] {
        let refused = callers.authenticate(&with(TOKEN)).await.expect_err("no answer");
        assert!(refused.kind() == RefusalKind::Unavailable, "{refused:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_kind_of_credential_says_who_is_asked() {
    let pods = pods();
    let chain = CallerChain {
        certificates: Some(Arc::new(CertificateCallers::new(roles(&pods)))),
        join_tokens: None,
        account_tokens: Some(Arc::new(callers(&told(Ok(good()), Duration::ZERO), &pods))),
    };
    let certificate = |uri: &str| Some(SpiffeId::parse(uri).expect("literal"));
    let of = |uri: &str| Credentials { certificate: certificate(uri), ..Credentials::default() };
    let gateway = of("spiffe://cluster.local/ns/istio-system/sa/gateway");
    let caller = chain.authenticate(&gateway).await.expect("accepted");
    assert_eq!((caller.role, caller.node), (Role::Gateway, None));
    let agent = chain.authenticate(&with(TOKEN)).await.expect("accepted");
    assert_eq!(agent.role, Role::NodeProxy);
    let guest = of("spiffe://other/ns/istio-system/sa/ztunnel");
    let unusable = Credentials { unusable: Some("the token is too long"), ..gateway };
    for refused in [Credentials::default(), with("wjt_x"), guest, unusable] {
        chain.authenticate(&refused).await.expect_err("refused");
    }
}
