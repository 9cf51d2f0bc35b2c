use authority::{CertificateRequest, KeyAlgorithm, MadeRoot, Names, OwnKey, make_root};
use model::SpiffeId;
use tempfile::TempDir;

use super::*;
use crate::ca::rotation::RootPart;
use crate::ca::sign::{Asked, Sign};
use crate::ca::store::FileStore;

const HOUR: Duration = Duration::from_hours(1);

fn root() -> MadeRoot {
    make_root(&TrustDomain::default(), KeyAlgorithm::P256, SystemTime::now()).expect("made")
}

/// A root of the name that all others of these have, as an authority that is rotated has it.
fn namesake() -> MadeRoot {
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose, date_time_ymd,
    };
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, "the root");
    (params.not_before, params.not_after) = (date_time_ymd(2026, 1, 1), date_time_ymd(2100, 1, 1));
    let certificate = params.self_signed(&key).expect("signed").pem();
    MadeRoot { certificate, key: key.serialize_pem() }
}

struct Folders {
    keys: TempDir,
    memory: TempDir,
}

impl Folders {
    fn new() -> Self {
        let folder = || TempDir::new().expect("folder");
        Self { keys: folder(), memory: folder() }
    }

    fn put(&self, name: &str, text: &str) {
        std::fs::write(self.keys.path().join(name), text).expect("written");
    }

    /// As Istio's `cacerts` has it.
    fn plug(&self, root: &MadeRoot, roots: &str) {
        self.put(CA_CERT, &root.certificate);
        self.put(CA_KEY, &root.key);
        self.put(CERT_CHAIN, &root.certificate);
        self.put(ROOT_CERT, roots);
    }

    /// A new intermediate of that root, which ends when that year begins.
    fn plug_below(&self, root: &MadeRoot, ends: i32) {
        use rcgen::{
            BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
            date_time_ymd,
        };
        let key = KeyPair::generate().expect("a key");
        let root_key = KeyPair::from_pem(&root.key).expect("a key");
        let issuer = Issuer::from_ca_cert_pem(&root.certificate, root_key).expect("an issuer");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "intermediate");
        (params.not_before, params.not_after) =
            (date_time_ymd(2026, 1, 1), date_time_ymd(ends, 1, 1));
        let intermediate = params.signed_by(&key, &issuer).expect("signed").pem();
        self.put(CA_CERT, &intermediate);
        self.put(CA_KEY, &key.serialize_pem());
        self.put(CERT_CHAIN, &intermediate);
        self.put(ROOT_CERT, &root.certificate);
    }

    async fn open(&self) -> Result<Plugged, RotationError> {
        let store = |name| Arc::new(FileStore::open(self.memory.path(), name).expect("store"));
        let memory = PluggedMemory { roots: store("roots.json"), ledger: store("issued.json") };
        let place = PluggedPlace::Folder(self.keys.path().to_owned());
        Plugged::open(place, memory, TrustDomain::default(), Arc::default()).await
    }
}

async fn issue(plugged: &Plugged, node: &str, life: Duration) {
    let identity = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").expect("literal");
    let names = Names::of(identity);
    let own = OwnKey::new(&names).expect("made");
    let request = CertificateRequest::from_pem(&own.request).expect("read");
    let asked = Asked { request: &request, pem: &own.request, names: &names, ttl: life };
    let signed = plugged.current().sign(asked).await.expect("signed");
    plugged.ledger.record(node, signed.root.expect("ours"), signed.mark, signed.not_after);
}

fn signs(plugged: &Plugged, root: &MadeRoot) -> bool {
    let signing = plugged.current().get().authority.clone();
    authority::certificate_pem(signing.certificate()) == root.certificate.replace('\r', "")
}

#[tokio::test]
async fn both_ways_to_name_the_parts_are_read() {
    let (folders, made) = (Folders::new(), root());
    folders.plug(&made, &made.certificate);
    let plugged = folders.open().await.expect("opened");
    assert!(signs(&plugged, &made));
    assert!(plugged.crl().borrow().is_empty());
    let folders = Folders::new();
    folders.put(TLS_CERT, &made.certificate);
    folders.put(TLS_KEY, &made.key);
    folders.put(CA_ROOT, &made.certificate);
    assert!(signs(&folders.open().await.expect("opened"), &made));
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let made = root();
    for missing in [CA_CERT, CA_KEY, CERT_CHAIN, ROOT_CERT] {
        let folders = Folders::new();
        folders.plug(&made, &made.certificate);
        std::fs::remove_file(folders.keys.path().join(missing)).expect("removed");
        let error = folders.open().await.map(drop).expect_err("partial").to_string();
        assert!(error.ends_with(missing), "{error}");
    }
    for (there, missing) in [(TLS_CERT, TLS_KEY), (TLS_KEY, TLS_CERT)] {
        let folders = Folders::new();
        folders.put(there, "something");
        let error = folders.open().await.map(drop).expect_err("partial").to_string();
        assert!(error.ends_with(missing), "{error}");
    }
}

#[tokio::test]
async fn a_broken_change_leaves_the_old_one_in_force() {
    let (folders, old, new) = (Folders::new(), root(), root());
    folders.plug(&old, &old.certificate);
    let plugged = folders.open().await.expect("opened");
    folders.put(CA_KEY, &new.key);
    plugged.look().await;
    let problem = plugged.status().problem.expect("told");
    assert!(problem.contains("not that of the certificate"), "{problem}");
    assert!(signs(&plugged, &old));
    issue(&plugged, "n1", HOUR).await;
    folders.plug(&old, &old.certificate);
    plugged.look().await;
    assert_eq!(plugged.status().problem, None);
}

#[tokio::test]
async fn a_new_root_takes_over_without_leaving_anybody_behind() {
    let (folders, old, new) = (Folders::new(), root(), root());
    folders.plug(&old, &old.certificate);
    let plugged = folders.open().await.expect("opened");
    let mut told = plugged.current().bundle_pem();
    issue(&plugged, "n1", Duration::from_secs(2)).await;

    // The operator replaces everything at once.
    folders.plug(&new, &new.certificate);
    plugged.look().await;
    assert!(
        told.has_changed().expect("open") && told.borrow_and_update().contains(&*new.certificate)
    );
    let status = plugged.status();
    assert_eq!((status.stage, status.roots.len()), (RotationStage::Prepared, 2));
    assert!(signs(&plugged, &old), "n1 does not believe the new root yet");
    assert!(plugged.switch(Care::Check).await.is_err());
    issue(&plugged, "n2", Duration::from_secs(5)).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    plugged.look().await;
    assert!(signs(&plugged, &new));
    let status = plugged.status();
    assert_eq!((status.stage, status.roots.len()), (RotationStage::Switched, 2));
    assert!(plugged.finish(Care::Check).await.is_err(), "n2 presents the old root");

    // A restart does not forget the root that the operator removed.
    drop(plugged);
    let plugged = folders.open().await.expect("opened");
    assert_eq!(plugged.status().stage, RotationStage::Switched);
    tokio::time::sleep(Duration::from_secs(4)).await;
    plugged.look().await;
    let status = plugged.status();
    assert_eq!((status.stage, status.roots.len()), (RotationStage::Steady, 1));
    assert!(plugged.prepare().await.is_err(), "files say it");
}

/// What a process leaves that ends in order.
async fn close(plugged: Plugged) {
    let now = SystemTime::now();
    plugged.ledger.merge(&*plugged.ledger_store, now).await.expect("written");
}

#[tokio::test]
async fn a_root_that_was_replaced_while_nobody_looked_is_told_until_it_is_not_needed() {
    let (folders, old, new) = (Folders::new(), root(), root());
    folders.plug(&old, &old.certificate);
    let plugged = folders.open().await.expect("opened");
    issue(&plugged, "n1", Duration::from_secs(3)).await;
    close(plugged).await;

    folders.plug(&new, &new.certificate);
    let plugged = folders.open().await.expect("opened");
    plugged.look().await;
    let status = plugged.status();
    assert_eq!((status.stage, status.roots.len()), (RotationStage::Switched, 2));
    assert!(signs(&plugged, &new), "the old key is gone");
    assert!(plugged.current().bundle_pem().borrow().contains(&*old.certificate));
    tokio::time::sleep(Duration::from_secs(4)).await;
    plugged.look().await;
    assert_eq!(plugged.status().roots.len(), 1, "nobody presents the old root");
    close(plugged).await;
    assert_eq!(folders.open().await.expect("opened").status().roots.len(), 1);
}

#[tokio::test]
async fn a_restart_between_two_roots_tells_both() {
    let (folders, old, new) = (Folders::new(), root(), root());
    folders.plug(&old, &old.certificate);
    let plugged = folders.open().await.expect("opened");
    issue(&plugged, "n1", HOUR).await;
    folders.plug(&new, &new.certificate);
    plugged.look().await;
    assert_eq!(plugged.status().stage, RotationStage::Prepared);
    close(plugged).await;

    let plugged = folders.open().await.expect("opened");
    plugged.look().await;
    let status = plugged.status();
    assert_eq!((status.stage, status.roots.len()), (RotationStage::Switched, 2));
    issue(&plugged, "n2", HOUR).await;
    close(plugged).await;
    // The operator takes it back while we are away.
    folders.plug(&old, &old.certificate);
    let plugged = folders.open().await.expect("opened");
    plugged.look().await;
    assert!(signs(&plugged, &old));
    assert_eq!(plugged.status().roots.len(), 2, "n2 presents the new root");
}

/// A list of that root with that number, which revokes certificates of those serial numbers.
fn revocation_list(root: &MadeRoot, number: u64, revoked: &[&[u8]]) -> String {
    use rcgen::{
        CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, RevokedCertParams,
        SerialNumber, date_time_ymd,
    };
    let key = KeyPair::from_pem(&root.key).expect("a key");
    let issuer = Issuer::from_ca_cert_pem(&root.certificate, key).expect("an issuer");
    let revoked = revoked.iter().map(|serial| RevokedCertParams {
        serial_number: SerialNumber::from_slice(serial),
        revocation_time: date_time_ymd(2026, 1, 1),
        reason_code: None,
        invalidity_date: None,
    });
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2026, 1, 1),
        next_update: date_time_ymd(2100, 1, 1),
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    list.signed_by(&issuer).expect("signed").pem().expect("PEM").replace('\r', "")
}

#[tokio::test]
async fn a_revocation_list_is_followed_and_a_broken_one_changes_nothing() {
    let (folders, made) = (Folders::new(), root());
    folders.plug(&made, &made.certificate);
    folders.put(CRL, "a list");
    folders.open().await.err().expect("no list");
    let first = revocation_list(&made, 1, &[]);
    folders.put(CRL, &first);
    let plugged = folders.open().await.expect("opened");
    let told = plugged.crl();
    assert_eq!(&**told.borrow(), first);
    folders.put(CRL, "a list");
    plugged.look().await;
    assert!(plugged.status().problem.is_some());
    assert_eq!(&**told.borrow(), first);
    let second = revocation_list(&made, 2, &[&[7]]);
    folders.put(CRL, &second);
    plugged.look().await;
    assert_eq!(plugged.status().problem, None);
    assert_eq!(&**told.borrow(), second);
    std::fs::remove_file(folders.keys.path().join(CRL)).expect("removed");
    plugged.look().await;
    assert_eq!(&**told.borrow(), second, "what is revoked stays so");
    // Neither an older list nor a restart revives anything.
    folders.put(CRL, &first);
    plugged.look().await;
    let problem = plugged.status().problem.expect("told");
    assert!(problem.contains("older than the one in force"), "{problem}");
    assert_eq!(&**told.borrow(), second);
    drop(plugged);
    let plugged = folders.open().await.expect("opened");
    assert_eq!(&**plugged.crl().borrow(), second);
    plugged.look().await;
    assert!(plugged.status().problem.is_some_and(|problem| problem.contains("older")));
}

#[tokio::test]
async fn a_list_goes_with_the_root_that_signed_it() {
    let (folders, old, new) = (Folders::new(), namesake(), namesake());
    folders.plug(&old, &old.certificate);
    let list = revocation_list(&old, 1, &[&[7]]);
    folders.put(CRL, &list);
    let plugged = folders.open().await.expect("opened");
    issue(&plugged, "n1", Duration::from_secs(3)).await;
    close(plugged).await;

    folders.plug(&new, &new.certificate);
    std::fs::remove_file(folders.keys.path().join(CRL)).expect("removed");
    let plugged = folders.open().await.expect("opened");
    plugged.look().await;
    assert_eq!(plugged.status().stage, RotationStage::Switched);
    assert_eq!(&**plugged.crl().borrow(), list, "its root is still believed");
    assert!(plugged.status().problem.is_some_and(|problem| problem.contains(CRL)));
    tokio::time::sleep(Duration::from_secs(4)).await;
    plugged.look().await;
    assert_eq!(plugged.status().stage, RotationStage::Steady);
    assert_eq!(&**plugged.crl().borrow(), "");
    assert!(plugged.revocations().is_some_and(|lists| lists.is_empty()));
    assert_eq!(plugged.status().problem, None);
    // The list that is left lying about is refused, and stops nothing.
    close(plugged).await;
    folders.put(CRL, &list);
    let plugged = folders.open().await.expect("opened");
    plugged.look().await;
    assert!(plugged.status().problem.is_some_and(|problem| problem.contains("not signed by it")));
    let list = revocation_list(&new, 1, &[]);
    folders.put(CRL, &list);
    plugged.look().await;
    assert_eq!(plugged.status().problem, None);
    assert_eq!(&**plugged.crl().borrow(), list);
}

#[tokio::test]
async fn a_list_stays_while_one_of_two_roots_of_its_name_signed_it() {
    let (folders, old, new) = (Folders::new(), namesake(), namesake());
    folders.plug(&old, &old.certificate);
    folders.put(CRL, &revocation_list(&old, 1, &[]));
    let plugged = folders.open().await.expect("opened");
    issue(&plugged, "n1", HOUR).await;
    folders.plug(&new, &new.certificate);
    let of_new = revocation_list(&new, 1, &[&[8]]);
    let both = revocation_list(&old, 2, &[&[7]]) + &of_new;
    folders.put(CRL, &both);
    plugged.look().await;
    assert_eq!(plugged.status().problem, None);
    assert_eq!(&**plugged.crl().borrow(), both);
    plugged.switch(Care::Force).await.expect("switched");
    plugged.finish(Care::Force).await.expect("finished");
    assert_eq!(&**plugged.crl().borrow(), of_new);
}

#[tokio::test]
async fn the_status_tells_each_roots_end_what_signs_under_it_and_what_lives_there() {
    let (folders, old, new) = (Folders::new(), root(), root());
    folders.plug_below(&old, 2030);
    let plugged = folders.open().await.expect("opened");
    for node in ["n1", "n1", "n2"] {
        issue(&plugged, node, HOUR).await;
    }
    folders.plug(&new, &new.certificate);
    plugged.look().await;

    let roots = plugged.status().roots;
    let [signing, next] = &*roots else { panic!("{roots:?}") };
    assert_eq!((signing.part, next.part), (RootPart::Signs, RootPart::Next));
    assert_eq!((signing.certificates, signing.holders), (3, 2));
    assert_eq!((next.certificates, next.holders), (0, 0));
    let [below] = &*signing.chain else { panic!("{signing:?}") };
    let ends = rcgen::date_time_ymd(2030, 1, 1);
    let ends = u64::try_from(ends.unix_timestamp()).expect("after 1970");
    assert_eq!(below.not_after, ends);
    assert!(signing.not_after > ends, "the root lives longer");
    assert!(next.chain.is_empty(), "it signs itself");
}

#[tokio::test]
async fn another_intermediate_of_the_same_root_is_another_way_to_it() {
    let (folders, root) = (Folders::new(), root());
    folders.plug_below(&root, 2030);
    let plugged = folders.open().await.expect("opened");
    let (told, issuing) = (plugged.current().bundle_pem(), plugged.current().issuing_pem());
    folders.plug_below(&root, 2031);
    plugged.look().await;
    assert!(issuing.has_changed().expect("open"));
    assert!(!told.has_changed().expect("open"));
}
