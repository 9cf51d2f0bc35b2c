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

/// A list of that root, which revokes certificates of those serial numbers.
fn revocation_list(root: &MadeRoot, revoked: &[&[u8]]) -> String {
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
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    list.signed_by(&issuer).expect("signed").pem().expect("PEM")
}

#[tokio::test]
async fn a_revocation_list_is_followed_and_a_broken_one_changes_nothing() {
    let (folders, made) = (Folders::new(), root());
    folders.plug(&made, &made.certificate);
    folders.put(CRL, "a list");
    folders.open().await.err().expect("no list");
    let first = revocation_list(&made, &[]);
    folders.put(CRL, &first);
    let plugged = folders.open().await.expect("opened");
    let told = plugged.crl();
    assert_eq!(&**told.borrow(), first.trim());
    folders.put(CRL, "a list");
    plugged.look().await;
    assert!(plugged.status().problem.is_some());
    assert_eq!(&**told.borrow(), first.trim());
    let second = revocation_list(&made, &[&[7]]);
    folders.put(CRL, &second);
    plugged.look().await;
    assert_eq!(plugged.status().problem, None);
    assert_eq!(&**told.borrow(), second.trim());
    std::fs::remove_file(folders.keys.path().join(CRL)).expect("removed");
    plugged.look().await;
    assert_eq!(&**told.borrow(), second.trim(), "what is revoked stays so");
}

#[tokio::test]
async fn the_status_tells_each_roots_end_what_signs_under_it_and_what_lives_there() {
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
        date_time_ymd,
    };
    let (folders, old, new) = (Folders::new(), root(), root());
    let (key, ends) = (KeyPair::generate().expect("a key"), date_time_ymd(2030, 1, 1));
    let root_key = KeyPair::from_pem(&old.key).expect("a key");
    let issuer = Issuer::from_ca_cert_pem(&old.certificate, root_key).expect("an issuer");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, "intermediate");
    (params.not_before, params.not_after) = (date_time_ymd(2026, 1, 1), ends);
    let intermediate = params.signed_by(&key, &issuer).expect("signed").pem();
    folders.put(CA_CERT, &intermediate);
    folders.put(CA_KEY, &key.serialize_pem());
    folders.put(CERT_CHAIN, &intermediate);
    folders.put(ROOT_CERT, &old.certificate);
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
    let ends = u64::try_from(ends.unix_timestamp()).expect("after 1970");
    assert_eq!(below.not_after, ends);
    assert!(signing.not_after > ends, "the root lives longer");
    assert!(next.chain.is_empty(), "it signs itself");
}
