use tempfile::TempDir;

use super::*;
use crate::ca::store::{FileStore, Stored, Storing};
use authority::CertificateDer;

fn root(number: u8) -> Fingerprint {
    Fingerprint::of(&CertificateDer::from(vec![number]))
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn holders(left: &[Left]) -> Vec<&str> {
    left.iter().map(|left| left.holder.as_str()).collect()
}

#[test]
fn a_record_ends_with_its_last_certificate() {
    let ledger = Ledger::default();
    ledger.record("n1", root(1), 10, at(100));
    ledger.record("n1", root(1), 10, at(50));
    ledger.record("n2", root(2), 11, at(200));
    assert_eq!(holders(&ledger.presenting(root(1), at(99))), ["n1"]);
    assert_eq!(ledger.presenting(root(1), at(99))[0].until, at(100));
    assert!(ledger.presenting(root(1), at(100)).is_empty());
    assert_eq!(holders(&ledger.without(11, at(0))), ["n1"]);
    assert_eq!(holders(&ledger.without(12, at(0))), ["n1", "n2"]);
}

#[test]
fn a_renewed_certificate_does_not_hide_one_that_lives() {
    let ledger = Ledger::default();
    ledger.record("n1", root(1), 10, at(100));
    // Of another pod on that node.
    ledger.record("n1", root(2), 11, at(200));
    assert_eq!(holders(&ledger.presenting(root(1), at(50))), ["n1"]);
}

#[tokio::test]
async fn what_replicas_recorded_is_merged() {
    let folder = TempDir::new().expect("folder");
    let store = FileStore::open(folder.path(), "issued.json").expect("store");
    let (one, two) = (Ledger::default(), Ledger::default());
    one.record("n1", root(1), 10, at(100));
    two.record("n2", root(1), 10, at(200));
    two.record("n1", root(1), 10, at(150));
    two.record("n3", root(1), 10, at(5));
    one.merge(&store, at(10)).await.expect("written");
    two.merge(&store, at(10)).await.expect("written");
    one.merge(&store, at(10)).await.expect("read");
    let restarted = Ledger::default();
    restarted.merge(&store, at(10)).await.expect("read");
    for ledger in [one, two, restarted] {
        let left = ledger.presenting(root(1), at(10));
        let found: Vec<_> = left.iter().map(|left| (left.holder.as_str(), left.until)).collect();
        assert_eq!(found, [("n1", at(150)), ("n2", at(200))], "what has ended is forgotten");
    }
}

#[test]
fn holders_beyond_the_bound_share_a_record() {
    let ledger = Ledger::default();
    for number in 0..HOLDERS_MAX + 3 {
        ledger.record(&format!("n{number:05}"), root(1), 10, at(100));
    }
    ledger.record("n99999", root(1), 10, at(300));
    assert_eq!(ledger.0.lock().holders.len(), HOLDERS_MAX + 1);
    assert_eq!(holders(&ledger.presenting(root(1), at(200))), [OTHERS]);
}

/// Whatever is folded, nobody who would be left behind is forgotten.
#[test]
fn records_beyond_the_bound_are_kept_together() {
    let ledger = Ledger::default();
    // Many sets of roots, one root, and then another.
    for number in 0..20 {
        ledger.record("n1", root(1), number + 10, at(100 + number));
    }
    ledger.record("n1", root(2), 50, at(90));
    assert!(ledger.0.lock().holders["n1"].len() <= RECORDS_MAX);
    for now in [0, 89] {
        assert_eq!(holders(&ledger.presenting(root(2), at(now))), ["n1"]);
    }
    assert!(ledger.presenting(root(2), at(90)).is_empty(), "of the other root only");
    assert_eq!(ledger.presenting(root(1), at(0))[0].until, at(119));
    assert_eq!(holders(&ledger.without(29, at(117))), ["n1"], "one came with 28 until 118");

    // Many roots.
    let ledger = Ledger::default();
    for number in 0..20 {
        ledger.record("n1", root(number), 10, at(100 + u64::from(number)));
    }
    assert!(ledger.0.lock().holders["n1"].len() <= RECORDS_MAX);
    for number in 0..20 {
        let now = at(99 + u64::from(number));
        assert_eq!(holders(&ledger.presenting(root(number), now)), ["n1"], "{number}");
    }
}

/// Refuses to write, or never answers.
struct Broken {
    hangs: bool,
}

impl SecretStore for Broken {
    fn get(&self) -> Storing<'_, Option<Stored>> {
        Box::pin(async { Ok(None) })
    }

    fn create(&self, _: Texts) -> Storing<'_, Stored> {
        Box::pin(async {
            if self.hangs {
                std::future::pending::<()>().await;
            }
            Err(StoreError::Content { place: self.place(), problem: "broken".to_owned() })
        })
    }

    fn replace(&self, _: Texts, _: String) -> Storing<'_, Option<Stored>> {
        Box::pin(async { Ok(None) })
    }

    fn place(&self) -> String {
        "nowhere".to_owned()
    }
}

#[tokio::test]
async fn what_was_not_written_stays_to_be_written() {
    let ledger = Ledger::default();
    ledger.record("n1", root(1), 10, at(100));
    ledger.merge(&Broken { hangs: false }, at(0)).await.expect_err("broken");
    assert!(ledger.is_new());
    let hangs = Broken { hangs: true };
    let dropped = tokio::time::timeout(Duration::from_millis(10), ledger.merge(&hangs, at(0)));
    dropped.await.expect_err("it hangs");
    assert!(ledger.is_new());
    let folder = TempDir::new().expect("folder");
    let store = FileStore::open(folder.path(), "issued.json").expect("store");
    ledger.merge(&store, at(0)).await.expect("written");
    assert!(!ledger.is_new());
}

#[tokio::test]
async fn certificates_are_counted_by_root_over_replicas_and_restarts() {
    let folder = TempDir::new().expect("folder");
    let store = FileStore::open(folder.path(), "issued.json").expect("store");
    let (one, two) = (Ledger::default(), Ledger::default());
    let (hour, day) = (3600, 86_400);
    for node in ["n1", "n1", "n2"] {
        one.record(node, root(1), 10, at(day));
    }
    two.record("n1", root(1), 10, at(hour));
    two.record("n1", root(2), 10, at(day));
    assert_eq!((one.living(root(1), at(0)), two.living(root(1), at(0))), (3, 1));
    for ledger in [&one, &two, &one, &two, &one] {
        ledger.merge(&store, at(0)).await.expect("merged");
    }
    let restarted = Ledger::default();
    restarted.merge(&store, at(0)).await.expect("read");
    for ledger in [&one, &two, &restarted] {
        let living = |root, now| ledger.living(root, at(now));
        assert_eq!((living(root(1), 0), living(root(2), 0)), (4, 1), "none is counted twice");
        assert_eq!(living(root(1), 2 * hour), 3);
        assert_eq!(living(root(1), 2 * day), 0);
    }
    restarted.merge(&store, at(2 * day)).await.expect("merged");
    assert!(restarted.0.lock().stored.is_empty(), "what has ended is forgotten");
}
