//! The store against an authority that can be told to fail.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use model::TrustDomain;
use tls::{Compliance, TrustSettings};

use super::*;
use crate::schedule::RETRY_MAX;
use crate::{DevCa, Issuing};

/// An authority whose answers, and whose silence, a test decides.
#[derive(Clone)]
struct Moody {
    ca: Arc<DevCa>,
    refuses: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    /// Permits for answers; none are needed while it is closed.
    answers: Arc<tokio::sync::Semaphore>,
    order: Arc<Mutex<Vec<String>>>,
}

impl Moody {
    fn new() -> (Self, tempfile::TempDir) {
        let dir = tempfile::tempdir().expect("folder");
        let ca = DevCa::open(dir.path(), &TrustDomain::default()).expect("opens");
        let answers = tokio::sync::Semaphore::new(0);
        answers.close();
        let moody = Self {
            ca: Arc::new(ca),
            refuses: Arc::default(),
            asked: Arc::default(),
            answers: Arc::new(answers),
            order: Arc::default(),
        };
        (moody, dir)
    }

    fn silent() -> (Self, tempfile::TempDir) {
        let (moody, dir) = Self::new();
        (Self { answers: Arc::new(tokio::sync::Semaphore::new(0)), ..moody }, dir)
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    fn store(&self, ttl: Duration) -> SvidStore {
        self.store_in(ttl, None)
    }

    fn store_in(&self, ttl: Duration, folder: Option<SvidFolder>) -> SvidStore {
        SvidStore::new(Arc::new(self.clone()), ttl, trust(None), folder)
    }
}

fn trust(crl: Option<&std::path::Path>) -> TrustStore {
    TrustStore::open(TrustSettings {
        domain: TrustDomain::default(),
        aliases: Vec::new(),
        compliance: Compliance::Default,
        crl: crl.map(std::borrow::ToOwned::to_owned),
        bundles: None,
        keep: None,
    })
}

impl Issuer for Moody {
    fn issue<'a>(&'a self, identity: &'a SpiffeId, ttl: Duration) -> Issuing<'a> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.order.lock().push(identity.service_account().to_owned());
        Box::pin(async move {
            if let Ok(permit) = self.answers.acquire().await {
                permit.forget();
            }
            if self.refuses.load(Ordering::Relaxed) {
                return Err(IssueError::new(identity, "in a mood"));
            }
            Issuer::issue(&*self.ca, identity, ttl).await
        })
    }
}

fn id(account: &str) -> SpiffeId {
    SpiffeId::new(&TrustDomain::default(), "shop", account).expect("literal")
}

const HOUR: Duration = Duration::from_hours(1);

#[tokio::test(start_paused = true)]
async fn one_svid_per_identity_renewed_at_half_life() {
    let (issuer, _dir) = Moody::new();
    let store = issuer.store(HOUR);
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
    let store = issuer.store(HOUR);
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
    let store = issuer.store(Duration::from_secs(2));
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
    let store = issuer.store(HOUR);
    let begun = tokio::time::Instant::now();
    let handle = store.hold(&id("a")).expect("room");
    let error = handle.ready(Duration::from_secs(5)).await.expect_err("refused");
    assert_eq!(begun.elapsed(), Duration::from_secs(5));
    assert!(error.last_error.expect("a cause").contains("in a mood"));
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_forgets() {
    let (issuer, _dir) = Moody::new();
    let store = issuer.store(HOUR);
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
    let store = issuer.store(HOUR);
    let hold = |n: usize| store.hold(&id(&format!("a{n}")));
    let mut handles: Vec<_> = (0..IDENTITIES_MAX).map(|n| hold(n).expect("room")).collect();
    assert!(hold(IDENTITIES_MAX).is_err());
    assert!(hold(0).is_ok(), "one that is held already");
    handles.pop();
    assert!(hold(IDENTITIES_MAX).is_ok());
}

/// Keys are kept on tmpfs only; a test machine without one cannot show it.
fn tmpfs() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").expect("a folder on the tmpfs at /dev/shm")
}

fn folder(dir: &tempfile::TempDir) -> SvidFolder {
    SvidFolder::open(&dir.path().join("svids")).expect("a folder on tmpfs")
}

fn files(dir: &tempfile::TempDir) -> usize {
    std::fs::read_dir(dir.path().join("svids")).expect("folder").count()
}

#[tokio::test]
async fn a_restarted_agent_goes_on_with_the_certificates_it_had() {
    let (issuer, _dir) = Moody::new();
    let run = tmpfs();
    let store = issuer.store_in(HOUR, Some(folder(&run)));
    let handle = store.hold(&id("a")).expect("room");
    let first = handle.ready(HOUR).await.expect("issued");
    assert_eq!(files(&run), 1);
    store.stop();
    drop((handle, store));
    assert_eq!(files(&run), 1, "a process that stops takes nothing with it");

    issuer.refuses.store(true, Ordering::Relaxed);
    let store = issuer.store_in(HOUR, Some(folder(&run)));
    let handle = store.hold(&id("a")).expect("room");
    let kept = handle.current().expect("at once, and without the authority");
    assert_eq!(kept.serial(), first.serial());
    // Peers' certificates are from the same roots.
    assert!(store.running.inner.trust.view().current().bundle("cluster.local").is_some());
    assert_eq!(issuer.asked(), 1, "it is renewed when it would have been");
}

#[tokio::test]
async fn who_leaves_the_mesh_leaves_no_key() {
    let (issuer, _dir) = Moody::new();
    let run = tmpfs();
    let store = issuer.store_in(HOUR, Some(folder(&run)));
    let (one, two) = (store.hold(&id("a")).expect("room"), store.hold(&id("a")).expect("room"));
    let other = store.hold(&id("b")).expect("room");
    one.ready(HOUR).await.expect("issued");
    other.ready(HOUR).await.expect("issued");
    assert_eq!(files(&run), 2);
    drop(one);
    assert_eq!(files(&run), 2, "another pod has the same identity");
    drop(two);
    assert_eq!(files(&run), 1);
}

#[tokio::test(start_paused = true)]
async fn keys_that_nobody_claims_are_removed() {
    let (issuer, _dir) = Moody::new();
    let run = tmpfs();
    let store = issuer.store_in(HOUR, Some(folder(&run)));
    let handles = [id("a"), id("b")].map(|id| store.hold(&id).expect("room"));
    for handle in &handles {
        handle.ready(HOUR).await.expect("issued");
    }
    store.stop();
    drop((handles, store));
    let store = issuer.store_in(HOUR, Some(folder(&run)));
    let _held = store.hold(&id("a")).expect("room");
    tokio::time::sleep(UNCLAIMED_MAX / 2).await;
    assert_eq!(files(&run), 2);
    tokio::time::sleep(UNCLAIMED_MAX).await;
    assert_eq!(files(&run), 1);
}

#[tokio::test]
async fn a_kept_file_that_is_not_as_it_was_written_is_ignored_and_removed() {
    use std::os::unix::fs::PermissionsExt;
    let (issuer, _dir) = Moody::new();
    let run = tmpfs();
    let path = {
        let store = issuer.store_in(HOUR, Some(folder(&run)));
        let handle = store.hold(&id("a")).expect("room");
        handle.ready(HOUR).await.expect("issued");
        store.stop();
        let mut all = std::fs::read_dir(run.path().join("svids")).expect("folder");
        all.next().expect("a file").expect("readable").path()
    };
    let good = std::fs::read_to_string(&path).expect("text");
    let mode = std::fs::metadata(&path).expect("file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let line = |starts: &str, with: &str| -> String {
        let replace =
            |line: &str| if line.starts_with(starts) { with.to_owned() } else { line.to_owned() };
        good.lines().map(|text| replace(text) + "\n").collect()
    };
    let (other, _other_dir) = Moody::new();
    let stranger = other.ca.issue(&id("a"), HOUR).expect("issues");
    let key = crate::folder::hex(stranger.key.secret_der());
    for (what, content) in [
        ("empty", String::new()),
        ("garbage", "garbage".to_owned()),
        ("cut off", good[..good.len() / 2].to_owned()),
        ("without its end", good.trim_end_matches("end\n").to_owned()),
        ("of another version", line("warren-svid", "warren-svid 2")),
        ("of another identity", line("identity", &format!("identity {}", id("b")))),
        ("with another key", line("key", &format!("key {key}"))),
        ("without a certificate", line("certificate", "end")),
        ("without roots", line("root", "end")),
        ("with a line more", line("issued", "issued 1\nsurprise 1")),
    ] {
        std::fs::write(&path, content).expect("write");
        let store = issuer.store_in(HOUR, Some(folder(&run)));
        assert!(!path.exists(), "{what}: removed at the start");
        drop(store);
        // And when it comes to be later.
        let store = issuer.store_in(HOUR, Some(folder(&run)));
        std::fs::write(&path, &good).expect("write");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("chmod");
        let handle = store.hold(&id("a")).expect("room");
        assert!(handle.current().is_none(), "{what}: a file that others may read");
        store.stop();
        drop((handle, store));
    }
}

#[tokio::test]
async fn an_expired_kept_certificate_is_removed() {
    let (issuer, _dir) = Moody::new();
    let run = tmpfs();
    let store = issuer.store_in(Duration::from_secs(1), Some(folder(&run)));
    let handle = store.hold(&id("a")).expect("room");
    handle.ready(HOUR).await.expect("issued");
    store.stop();
    drop((handle, store));
    // Certificates expire by the machine's clock, so this test waits for real.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let _store = issuer.store_in(HOUR, Some(folder(&run)));
    assert_eq!(files(&run), 0);
}

#[test]
fn keys_are_not_kept_on_a_disk_nor_in_a_folder_of_others() {
    use std::os::unix::fs::PermissionsExt;
    let disk = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("folder");
    let error = SvidFolder::open(&disk.path().join("svids")).expect_err("a disk");
    assert!(matches!(error, crate::FolderError::NotTmpfs(_)), "{error}");
    let run = tmpfs();
    let path = run.path().join("svids");
    SvidFolder::open(&path).expect("made");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o750)).expect("chmod");
    let error = SvidFolder::open(&path).expect_err("open to others");
    assert!(matches!(error, crate::FolderError::Exposed { .. }), "{error}");
    let link = run.path().join("link");
    std::os::unix::fs::symlink(disk.path(), &link).expect("link");
    assert!(matches!(SvidFolder::open(&link), Err(crate::FolderError::Exposed { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_waiting_connection_goes_before_a_warm_up() {
    let (issuer, _dir) = Moody::silent();
    let store = issuer.store(HOUR);
    let handles: Vec<_> =
        (0..20).map(|n| store.hold(&id(&format!("a{n:02}"))).expect("room")).collect();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(issuer.asked(), ISSUES_AT_ONCE, "no more at once");
    // The last in line is waited for.
    let last = handles[19].clone();
    let waiting = tokio::spawn(async move { last.ready(HOUR).await });
    tokio::time::sleep(Duration::from_millis(1)).await;
    issuer.answers.add_permits(1);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(issuer.order.lock()[ISSUES_AT_ONCE], "a19");
    issuer.answers.add_permits(100);
    waiting.await.expect("no panic").expect("issued");
    for handle in &handles {
        handle.ready(HOUR).await.expect("all in the end");
    }
}

#[tokio::test(start_paused = true)]
async fn an_authority_that_hangs_stops_nobody_it_has_served() {
    let (issuer, _dir) = Moody::silent();
    let store = issuer.store(HOUR);
    issuer.answers.add_permits(1);
    let served = store.hold(&id("a")).expect("room");
    let first = served.ready(HOUR).await.expect("issued");
    let _others: Vec<_> =
        (0..20).map(|n| store.hold(&id(&format!("b{n}"))).expect("room")).collect();
    tokio::time::sleep(HOUR.mul_f64(0.9)).await;
    assert!(Arc::ptr_eq(&first, &served.current().expect("still good")));
}

#[tokio::test]
async fn a_certificate_of_ours_that_was_revoked_is_replaced() {
    let (issuer, dir) = Moody::new();
    let pem = |name| std::fs::read_to_string(dir.path().join(name)).expect("readable");
    let key = rcgen::KeyPair::from_pem(&pem(crate::KEY_FILE)).expect("key");
    let ca = rcgen::Issuer::from_ca_cert_pem(&pem(crate::CERTIFICATE_FILE), key).expect("CA");
    let list = |number: u64, serials: &[&str]| {
        let now = time::OffsetDateTime::now_utc();
        let hex = |pair: &str| u8::from_str_radix(pair, 16).expect("hexadecimal");
        let revoked = |serial: &&str| rcgen::RevokedCertParams {
            serial_number: serial.split(':').map(hex).collect::<Vec<_>>().into(),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        };
        let params = rcgen::CertificateRevocationListParams {
            this_update: now,
            next_update: now + time::Duration::HOUR,
            crl_number: number.into(),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        params.signed_by(&ca).expect("list").der().to_vec()
    };
    let crl = dir.path().join("crl");
    std::fs::write(&crl, list(1, &[])).expect("write");
    let run = tmpfs();
    let start = || {
        let trust = trust(Some(&crl));
        let issuer = Arc::new(issuer.clone());
        (SvidStore::new(issuer, HOUR, trust.clone(), Some(folder(&run))), trust)
    };
    let (store, trust) = start();
    let handle = store.hold(&id("a")).expect("room");
    let first = handle.ready(HOUR).await.expect("issued");
    std::fs::write(&crl, list(2, &[first.serial()])).expect("write");
    trust.look();
    let mut state = handle.entry.state.subscribe();
    let replaced = state
        .wait_for(|state| state.svid.as_ref().is_some_and(|svid| svid.serial() != first.serial()));
    let replaced = tokio::time::timeout(Duration::from_secs(5), replaced).await;
    let second = replaced.expect("in time").expect("open").svid.clone().expect("just looked at");

    // Nor does an agent that starts take it over from the one before.
    drop(state);
    store.stop();
    drop((handle, store));
    assert_eq!(files(&run), 1);
    std::fs::write(&crl, list(3, &[first.serial(), second.serial()])).expect("write");
    let (store, _trust) = start();
    let handle = store.hold(&id("a")).expect("room");
    assert!(handle.current().is_none(), "it was kept");
    let third = handle.ready(HOUR).await.expect("issued");
    assert_ne!(third.serial(), second.serial());
}
