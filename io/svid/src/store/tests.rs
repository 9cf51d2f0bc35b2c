//! The store against an authority that can be told to fail.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use model::TrustDomain;

use super::*;
use crate::{DevCa, Issuing};

#[derive(Clone)]
struct Moody {
    ca: Arc<DevCa>,
    refuses: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
}

impl Moody {
    fn new() -> (Self, tempfile::TempDir) {
        let dir = tempfile::tempdir().expect("folder");
        let ca = DevCa::open(dir.path(), &TrustDomain::default()).expect("opens");
        let moody = Self { ca: Arc::new(ca), refuses: Arc::default(), asked: Arc::default() };
        (moody, dir)
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Issuer for Moody {
    fn issue<'a>(&'a self, identity: &'a SpiffeId, ttl: Duration) -> Issuing<'a> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.refuses.load(Ordering::Relaxed) {
            let error = IssueError { identity: identity.clone(), cause: "in a mood".into() };
            return Box::pin(async { Err(error) });
        }
        Issuer::issue(&*self.ca, identity, ttl)
    }
}

fn id(account: &str) -> SpiffeId {
    SpiffeId::new(&TrustDomain::default(), "shop", account).expect("literal")
}

const HOUR: Duration = Duration::from_hours(1);

#[tokio::test(start_paused = true)]
async fn one_svid_per_identity_renewed_at_half_life() {
    let (issuer, _dir) = Moody::new();
    let store = SvidStore::new(issuer.clone(), HOUR);
    let (one, two) = (store.hold(&id("a")).expect("room"), store.hold(&id("a")).expect("room"));
    assert!(one.current().is_none());
    let first = one.ready(HOUR).await.expect("issued");
    assert!(Arc::ptr_eq(&first, &two.current().expect("the same")));
    assert_eq!(issuer.asked(), 1);
    tokio::time::sleep(HOUR.mul_f64(0.44)).await;
    assert_eq!(issuer.asked(), 1);
    tokio::time::sleep(HOUR.mul_f64(0.12)).await;
    assert_eq!(issuer.asked(), 2);
    assert!(!Arc::ptr_eq(&first, &two.current().expect("renewed")));
}

#[tokio::test(start_paused = true)]
async fn the_last_good_one_is_kept_while_the_authority_fails() {
    let (issuer, _dir) = Moody::new();
    let store = SvidStore::new(issuer.clone(), HOUR);
    let handle = store.hold(&id("a")).expect("room");
    let first = handle.ready(HOUR).await.expect("issued");
    issuer.refuses.store(true, Ordering::Relaxed);
    tokio::time::sleep(HOUR).await;
    // Half an hour of failures: 1, 2, 4, … 60 s apart, not a flood.
    assert!((20..60).contains(&issuer.asked()), "{}", issuer.asked());
    assert!(Arc::ptr_eq(&first, &handle.current().expect("kept")));
    let [status] = &store.list()[..] else { panic!("one identity") };
    let error = status.last_error.as_deref();
    assert_eq!(error, Some("no certificate for spiffe://cluster.local/ns/shop/sa/a: in a mood"));
    issuer.refuses.store(false, Ordering::Relaxed);
    tokio::time::sleep(RETRY_MAX * 2).await;
    assert!(!Arc::ptr_eq(&first, &handle.current().expect("renewed")));
    assert_eq!(store.list()[0].last_error, None);
}

/// Certificates expire by the machine's clock, so this test waits for real.
#[tokio::test]
async fn an_expired_one_is_not_handed_out() {
    let (issuer, _dir) = Moody::new();
    let store = SvidStore::new(issuer.clone(), Duration::from_secs(2));
    let handle = store.hold(&id("a")).expect("room");
    handle.ready(HOUR).await.expect("issued");
    issuer.refuses.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(2200)).await;
    assert!(handle.current().is_none());
    let error = handle.ready(Duration::from_millis(10)).await.expect_err("expired");
    assert!(error.to_string().ends_with("in a mood"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn waiting_is_bounded_and_says_why() {
    let (issuer, _dir) = Moody::new();
    issuer.refuses.store(true, Ordering::Relaxed);
    let store = SvidStore::new(issuer, HOUR);
    let begun = tokio::time::Instant::now();
    let handle = store.hold(&id("a")).expect("room");
    let error = handle.ready(Duration::from_secs(5)).await.expect_err("refused");
    assert_eq!(begun.elapsed(), Duration::from_secs(5));
    assert!(error.last_error.expect("a cause").contains("in a mood"));
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_forgets() {
    let (issuer, _dir) = Moody::new();
    let store = SvidStore::new(issuer.clone(), HOUR);
    let (one, two) = (store.hold(&id("a")).expect("room"), store.hold(&id("a")).expect("room"));
    let b = store.hold(&id("b")).expect("room");
    one.ready(HOUR).await.expect("issued");
    b.ready(HOUR).await.expect("issued");
    drop(one);
    assert_eq!(store.list().len(), 2);
    drop(two);
    assert_eq!(store.list().len(), 1);
    drop(b);
    tokio::time::sleep(HOUR * 10).await;
    assert_eq!((store.list().len(), issuer.asked()), (0, 2), "nothing is renewed any more");
    let again = store.hold(&id("a")).expect("room");
    again.ready(HOUR).await.expect("issued");
    assert_eq!(issuer.asked(), 3);
}

#[tokio::test]
async fn the_number_of_identities_is_bounded() {
    let (issuer, _dir) = Moody::new();
    issuer.refuses.store(true, Ordering::Relaxed);
    let store = SvidStore::new(issuer, HOUR);
    let hold = |n: usize| store.hold(&id(&format!("a{n}")));
    let mut handles: Vec<_> = (0..IDENTITIES_MAX).map(|n| hold(n).expect("room")).collect();
    assert!(hold(IDENTITIES_MAX).is_err());
    assert!(hold(0).is_ok(), "one that is held already");
    handles.pop();
    assert!(hold(IDENTITIES_MAX).is_ok());
}
