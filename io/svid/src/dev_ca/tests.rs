//! The authority in real folders.

use std::os::unix::fs::PermissionsExt;
use std::sync::Barrier;

use tls::{Svid, Trust, TrustView};
use x509_parser::oid_registry::OID_EC_P256;

use super::*;

const SOON: Duration = Duration::from_secs(5);

fn domain() -> TrustDomain {
    TrustDomain::parse("cluster.local").expect("literal")
}

fn cart() -> SpiffeId {
    SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").expect("literal")
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("folder")
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

fn issue(ca: &DevCa, ttl: Duration) -> Svid {
    let trust = TrustView::fixed(Trust::of(ca.bundle().clone()));
    ca.issue(&cart(), ttl).expect("issues").into_svid(&cart(), &trust).expect("usable")
}

async fn trusts(server: &Svid, client: &Svid) -> bool {
    let (near, far) = tokio::io::duplex(1 << 16);
    let expected = [server.identity().id().clone()];
    let (accepted, connected) =
        tokio::join!(tls::accept(far, server, SOON), tls::connect(near, client, &expected, SOON));
    accepted.is_ok() && connected.is_ok()
}

#[tokio::test]
async fn agents_that_start_at_once_share_one_authority() {
    const AGENTS: usize = 16;
    for _ in 0..5 {
        let dir = folder();
        let gate = Barrier::new(AGENTS);
        let svids: Vec<Svid> = std::thread::scope(|scope| {
            let start = || {
                scope.spawn(|| {
                    gate.wait();
                    let ca = DevCa::open(&dir.path().join("ca"), &domain()).expect("opens");
                    issue(&ca, SOON)
                })
            };
            let agents: Vec<_> = (0..AGENTS).map(|_| start()).collect();
            agents.into_iter().map(|agent| agent.join().expect("agent")).collect()
        });
        for pair in svids.windows(2) {
            assert!(trusts(&pair[0], &pair[1]).await);
        }
        let mut files: Vec<_> = fs::read_dir(dir.path().join("ca"))
            .expect("folder")
            .map(|entry| entry.expect("entry").file_name().into_string().expect("UTF-8"))
            .collect();
        files.sort();
        assert_eq!(files, [CERTIFICATE_FILE, KEY_FILE], "no drafts are left");
        let mode = fs::metadata(dir.path().join("ca").join(KEY_FILE)).expect("key").mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[tokio::test]
async fn a_lost_root_is_made_again_from_the_key() {
    let dir = folder();
    let before = issue(&DevCa::open(dir.path(), &domain()).expect("opens"), SOON);
    fs::remove_file(dir.path().join(CERTIFICATE_FILE)).expect("removed");
    let after = issue(&DevCa::open(dir.path(), &domain()).expect("opens"), SOON);
    assert!(trusts(&before, &after).await);
}

#[test]
fn an_exposed_key_is_refused() {
    let dir = folder();
    DevCa::open(dir.path(), &domain()).expect("opens");
    let key = dir.path().join(KEY_FILE);
    let refused = |path: &Path| match DevCa::open(dir.path(), &domain()) {
        Err(DevCaError::Exposed { path: named, .. }) => assert_eq!(named, path),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("opened"),
    };
    for mode in [0o640, 0o604, 0o610, 0o660, 0o644] {
        set_mode(&key, mode);
        refused(&key);
    }
    set_mode(&key, 0o600);
    set_mode(dir.path(), 0o777);
    refused(dir.path());
    set_mode(dir.path(), 0o755);
    DevCa::open(dir.path(), &domain()).expect("opens");
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(&key, Some(65534), None).expect("chown");
        refused(&key);
    }
}

#[test]
fn files_that_are_not_the_authoritys_are_refused() {
    let dir = folder();
    let open = || DevCa::open(dir.path(), &domain()).map(|_| ());
    open().expect("opens");
    let other = folder();
    DevCa::open(other.path(), &domain()).expect("opens");
    let foreign = TrustDomain::parse("other.example").expect("literal");
    assert!(matches!(DevCa::open(dir.path(), &foreign), Err(DevCaError::Content { .. })));

    let (key, root) = (dir.path().join(KEY_FILE), dir.path().join(CERTIFICATE_FILE));
    fs::copy(other.path().join(CERTIFICATE_FILE), &root).expect("copied");
    assert!(matches!(open(), Err(DevCaError::Content { .. })), "another authority's root");
    fs::write(&root, "junk").expect("written");
    assert!(matches!(open(), Err(DevCaError::Content { .. })));
    fs::remove_file(&root).expect("removed");
    fs::write(&key, "junk").expect("written");
    assert!(matches!(open(), Err(DevCaError::Content { .. })));
    fs::remove_file(&key).expect("removed");
    std::os::unix::fs::symlink(other.path().join(KEY_FILE), &key).expect("linked");
    assert!(matches!(open(), Err(DevCaError::File { .. })), "a link");
}

#[test]
fn only_its_own_trust_domain_is_served() {
    let dir = folder();
    let ca = DevCa::open(dir.path(), &domain()).expect("opens");
    let foreign = SpiffeId::parse("spiffe://other.example/ns/a/sa/b").expect("literal");
    assert!(matches!(ca.issue(&foreign, SOON), Err(DevCaError::TrustDomain(_))));
}

/// SPIFFE X.509-SVID, sections 2 to 4 and appendix A.
#[test]
fn leaves_have_the_shape_of_an_svid() {
    let dir = folder();
    let ca = DevCa::open(dir.path(), &domain()).expect("opens");
    let ttl = Duration::from_hours(24);
    let svid = issue(&ca, ttl);
    assert_eq!(svid.identity().id(), &cart());
    let left = svid.not_after().duration_since(SystemTime::now()).expect("valid");
    assert!(left <= ttl && left + SOON > ttl);
    assert!(svid.not_before() < SystemTime::now() - Duration::from_mins(1));

    let pem = fs::read(dir.path().join(CERTIFICATE_FILE)).expect("root");
    let root = CertificateDer::from_pem_slice(&pem).expect("PEM");
    let (_, root) = X509Certificate::from_der(&root).expect("DER");
    let constraints = root.basic_constraints().expect("unique").expect("present");
    assert!(constraints.critical && constraints.value.ca);
    assert!(root.key_usage().expect("unique").expect("present").value.key_cert_sign());
    let curve = root.public_key().algorithm.parameters.as_ref().expect("curve");
    assert_eq!(curve.as_oid().expect("OID"), OID_EC_P256);
    let years = root.validity().not_after.timestamp() - root.validity().not_before.timestamp();
    assert_eq!(years / 86_400, 3650);
    assert!(root.verify_signature_is_self());
}

trait SelfSigned {
    fn verify_signature_is_self(&self) -> bool;
}

impl SelfSigned for X509Certificate<'_> {
    fn verify_signature_is_self(&self) -> bool {
        self.issuer().as_raw() == self.subject().as_raw()
    }
}

#[test]
fn the_leafs_extensions() {
    let dir = folder();
    let ca = DevCa::open(dir.path(), &domain()).expect("opens");
    let (server, client) = (issue(&ca, SOON), issue(&ca, SOON));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("runtime").block_on(async {
        let (near, far) = tokio::io::duplex(1 << 16);
        let expected = [cart()];
        let (accepted, connected) = tokio::join!(
            tls::accept(far, &server, SOON),
            tls::connect(near, &client, &expected, SOON)
        );
        let (stream, _) = accepted.expect("accepts");
        connected.expect("connects");
        let chain = stream.get_ref().1.peer_certificates().expect("chain");
        assert_eq!(chain.len(), 1);
        let (_, leaf) = X509Certificate::from_der(&chain[0]).expect("DER");
        assert_eq!(leaf.subject().iter().count(), 0, "the subject is empty");
        let san = leaf.subject_alternative_name().expect("unique").expect("present");
        assert!(san.critical, "because the subject is empty");
        assert_eq!(san.value.general_names, [GeneralName::URI(cart().as_str())]);
        let usage = leaf.key_usage().expect("unique").expect("present");
        assert!(usage.critical && usage.value.digital_signature());
        assert!(!usage.value.key_cert_sign() && !usage.value.crl_sign());
        let extended = leaf.extended_key_usage().expect("unique").expect("present").value;
        assert!(extended.client_auth && extended.server_auth);
        assert!(!leaf.basic_constraints().expect("unique").expect("present").value.ca);
    });
}
