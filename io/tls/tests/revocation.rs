//! Revocation lists in a file: who is refused, which connections may not go on, and what a file
//! that cannot be used leaves in force.

mod support;

use std::time::Duration;

use model::Code;
use support::{CART, Ca, End, Leaf, SOON, WEB, connect, domain, id, pem};
use tls::{Compliance, CrlStatus, Revoked, Svid, TlsError, TrustSettings, TrustStore};

const HOUR: time::Duration = time::Duration::HOUR;
const LIFETIME: Duration = Duration::from_hours(1);
/// The serial numbers of the two ends.
const OF_CART: u64 = 0xc0;
const OF_WEB: u64 = 0x77;

/// A node that follows a file of lists and trusts one authority.
struct Node {
    folder: tempfile::TempDir,
    store: TrustStore,
}

impl Node {
    fn start(content: Option<&[u8]>) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        if let Some(content) = content {
            std::fs::write(folder.path().join("crl"), content).expect("write");
        }
        Self::start_in(folder)
    }

    fn start_in(folder: tempfile::TempDir) -> Self {
        let store = TrustStore::open(TrustSettings {
            domain: domain("cluster.local"),
            aliases: Vec::new(),
            compliance: Compliance::Default,
            crl: Some(folder.path().join("crl")),
            bundles: None,
            keep: Some(folder.path().join("keep")),
        });
        Self { folder, store }
    }

    fn trusting(self, ca: &Ca) -> Self {
        self.store.observe(&ca.bundle("cluster.local"), LIFETIME);
        self
    }

    fn write(&self, content: &[u8]) {
        let draft = self.folder.path().join("draft");
        std::fs::write(&draft, content).expect("write");
        std::fs::rename(draft, self.folder.path().join("crl")).expect("rename");
    }

    fn apply(&self, content: &[u8]) {
        self.write(content);
        self.store.look();
        let status = self.store.status().crl;
        assert!(matches!(status, CrlStatus::InForce { problem: None, .. }), "{status:?}");
    }

    /// The file is refused, and nothing changes.
    fn refuse(&self, content: &[u8], want: &str) {
        let generation = self.store.view().current().generation();
        self.write(content);
        self.store.look();
        let status = self.store.status();
        let CrlStatus::InForce { problem: Some(problem), .. } = &status.crl else {
            panic!("{want}: {status:?}")
        };
        assert!(problem.contains(want), "{problem}");
        assert_eq!(status.generation, generation);
    }

    fn svid(&self, ca: &Ca, uri: &str, serial: u64) -> Svid {
        ca.svid_in(Leaf::numbered(uri, serial), "cluster.local", &self.store.view())
    }

    /// What this node's server says to a client of another node.
    async fn accepts(&self, ca: &Ca) -> End {
        let server = self.svid(ca, CART, OF_CART);
        let elsewhere = ca.view("cluster.local");
        let client = ca.svid_in(Leaf::numbered(WEB, OF_WEB), "cluster.local", &elsewhere);
        connect(&server, &client, &[id(CART)]).await.0
    }

    /// What this node's client says to a server of another node.
    async fn connects(&self, ca: &Ca) -> End {
        let client = self.svid(ca, WEB, OF_WEB);
        let elsewhere = ca.view("cluster.local");
        let server = ca.svid_in(Leaf::numbered(CART, OF_CART), "cluster.local", &elsewhere);
        connect(&server, &client, &[id(CART)]).await.1
    }
}

fn refused(end: End, code: Code) {
    let error = end.expect_err("refused");
    assert_eq!(error.code(), code, "{error:?}");
}

#[tokio::test]
async fn a_revoked_peer_is_refused_by_either_side_and_its_connections_end() {
    let ca = Ca::new();
    let node = Node::start(Some(&ca.crl(1, &[], HOUR))).trusting(&ca);
    let (_, client) = node.accepts(&ca).await.expect("accepted");
    let (_, server) = node.connects(&ca).await.expect("connected");
    assert_eq!((client.serial(), server.serial()), ("77".to_owned(), "00c0".to_owned()));
    let before = node.store.view().current();
    assert_eq!((before.check_chain(&client), before.check_chain(&server)), (Ok(()), Ok(())));

    node.apply(&ca.crl(2, &[1, OF_WEB, 300], HOUR));
    let after = node.store.view().current();
    assert!(after.generation() > before.generation());
    assert_eq!(after.check_chain(&client), Err(Revoked::Certificate("77".to_owned())));
    assert_eq!(after.check_chain(&client).map_err(|r| r.code()), Err(Code::CertificateRevoked));
    assert_eq!(after.check_chain(&server), Ok(()));
    refused(node.accepts(&ca).await, Code::CertificateRevoked);
    node.connects(&ca).await.expect("only the client was revoked");

    node.apply(&ca.crl(3, &[OF_CART], HOUR));
    refused(node.connects(&ca).await, Code::CertificateRevoked);
    node.accepts(&ca).await.expect("no longer revoked");
    // Our own certificate too: the store asks for another one.
    let own = node.svid(&ca, CART, OF_CART);
    assert!(own.check(&node.store.view().current()).is_err());
}

#[tokio::test]
async fn the_file_is_followed() {
    let ca = Ca::new();
    let node = Node::start(Some(&ca.crl(1, &[], HOUR))).trusting(&ca);
    let mut view = node.store.view();
    view.current_and_update();
    let watch = tokio::spawn(node.store.clone().watch());
    node.write(pem("X509 CRL", &ca.crl(2, &[OF_WEB], HOUR)).as_bytes());
    let begun = std::time::Instant::now();
    assert!(tokio::time::timeout(SOON, view.changed()).await.expect("in time"));
    assert!(begun.elapsed() < Duration::from_secs(1), "revocation takes effect within a second");
    refused(node.accepts(&ca).await, Code::CertificateRevoked);
    watch.abort();
}

#[tokio::test]
async fn every_certificate_of_a_chain_is_checked() {
    let root = Ca::new();
    let ca = root.intermediate("region", 0x1234);
    let node = Node::start(Some(&root.crl(1, &[], HOUR))).trusting(&ca);
    let (_, chain) = node.accepts(&ca).await.expect("accepted");
    // An intermediate's own list, whose key is known only from the chain.
    let both = |of_root: &[u64], of_region: &[u64], number| {
        [root.crl(number, of_root, HOUR), ca.crl(number, of_region, HOUR)].concat()
    };
    node.apply(&both(&[], &[OF_WEB], 2));
    refused(node.accepts(&ca).await, Code::CertificateRevoked);
    node.apply(&both(&[0x1234], &[], 3));
    refused(node.accepts(&ca).await, Code::CertificateRevoked);
    let revoked = Revoked::Certificate("1234".to_owned());
    assert_eq!(node.store.view().current().check_chain(&chain), Err(revoked));
    // A serial number means nothing under another issuer.
    node.apply(&both(&[OF_WEB], &[0x1234], 4));
    node.accepts(&ca).await.expect("neither was revoked by its issuer");
}

#[tokio::test]
async fn a_file_that_cannot_be_used_leaves_the_old_lists_in_force() {
    let (ca, stranger) = (Ca::new(), Ca::named("stranger"));
    let good = ca.crl(5, &[OF_WEB], HOUR);
    let node = Node::start(Some(&good)).trusting(&ca);
    // The issuer's key is known from here on.
    refused(node.accepts(&ca).await, Code::CertificateRevoked);
    let next = ca.crl(6, &[], HOUR);
    for cut in [1, 10, next.len() / 2, next.len() - 1] {
        node.refuse(&next[..cut], "cannot be read");
    }
    let text = pem("X509 CRL", &next);
    node.refuse(&text.as_bytes()[..text.len() / 2], "not whole PEM");
    node.refuse(b"", "no revocation list");
    node.refuse(b"what is this", "cannot be read");
    node.refuse(ca.root_pem().as_bytes(), "no revocation list");
    node.refuse(&[next.clone(), vec![0]].concat(), "list 1 cannot be read");
    node.refuse(&next.repeat(tls::CRLS_MAX + 1), "more than 64");
    node.refuse(&vec![b' '; tls::CRL_FILE_MAX + 1], "larger than");
    // Somebody else's signature under the issuer's name.
    node.refuse(&Ca::new().crl(6, &[], HOUR), "not signed by it");
    let mut tampered = next.clone();
    let last = tampered.len() - 1;
    tampered[last] ^= 1;
    node.refuse(&tampered, "not signed by it");
    // What the issuer said before, replayed.
    node.refuse(&ca.crl(4, &[], HOUR), "older than the one in force");
    // A list of another issuer alone: what is missing stays in force.
    node.apply(&stranger.crl(1, &[], HOUR));
    refused(node.accepts(&ca).await, Code::CertificateRevoked);
    std::fs::remove_file(node.folder.path().join("crl")).expect("remove");
    node.store.look();
    refused(node.accepts(&ca).await, Code::CertificateRevoked);
    node.apply(&next);
    node.accepts(&ca).await.expect("not revoked any more");
}

/// Every prefix of a list is refused: none of them is half of the truth.
#[test]
fn no_truncated_list_is_taken() {
    let ca = Ca::new();
    let whole = ca.crl(2, &[1, 2, 3], HOUR);
    let node = Node::start(Some(&ca.crl(1, &[9], HOUR))).trusting(&ca);
    for length in 0..whole.len() {
        node.refuse(&whole[..length], "");
    }
    node.apply(&whole);
}

#[tokio::test]
async fn without_any_list_nobody_is_accepted() {
    let ca = Ca::new();
    for content in [None, Some(&b"garbage"[..]), Some(b"")] {
        let node = Node::start(content).trusting(&ca);
        let status = node.store.status().crl;
        assert!(matches!(status, CrlStatus::Unavailable { .. }), "{status:?}");
        refused(node.accepts(&ca).await, Code::RevocationUnknown);
        let error = node.connects(&ca).await.expect_err("refused");
        assert!(matches!(error, TlsError::RevocationsUnavailable));
        node.apply(&ca.crl(1, &[], HOUR));
        node.accepts(&ca).await.expect("a list at last");
    }
}

#[tokio::test]
async fn a_list_that_turns_out_to_be_forged_counts_as_none() {
    let ca = Ca::new();
    let forged = Ca::new().crl(1, &[], HOUR);
    let node = Node::start(Some(&forged));
    assert!(matches!(node.store.status().crl, CrlStatus::InForce { .. }), "nobody can tell yet");
    let node = node.trusting(&ca);
    refused(node.accepts(&ca).await, Code::RevocationUnknown);
    node.apply(&ca.crl(1, &[], HOUR));
    node.accepts(&ca).await.expect("accepted");
}

#[tokio::test]
async fn lists_are_kept_for_the_next_agent() {
    let ca = Ca::new();
    let node = Node::start(Some(&ca.crl(7, &[OF_WEB], HOUR))).trusting(&ca);
    refused(node.accepts(&ca).await, Code::CertificateRevoked);
    let Node { folder, store } = node;
    store.look();
    drop(store);
    for content in [None, Some(&b"garbage"[..])] {
        match content {
            None => std::fs::remove_file(folder.path().join("crl")).expect("remove"),
            Some(content) => std::fs::write(folder.path().join("crl"), content).expect("write"),
        }
        let again = tempfile::tempdir().expect("folder");
        for name in ["crl", "keep/revocations.der", "keep/roots"] {
            if let Ok(content) = std::fs::read(folder.path().join(name)) {
                std::fs::create_dir_all(again.path().join("keep")).expect("folder");
                std::fs::write(again.path().join(name), content).expect("copy");
            }
        }
        let node = Node::start_in(again).trusting(&ca);
        refused(node.accepts(&ca).await, Code::CertificateRevoked);
        let status = node.store.status().crl;
        assert!(matches!(status, CrlStatus::InForce { problem: Some(_), .. }), "{status:?}");
    }
}

#[tokio::test]
async fn an_expired_list_stays_in_force() {
    let ca = Ca::new();
    let node = Node::start(Some(&ca.crl(1, &[OF_WEB], time::Duration::SECOND))).trusting(&ca);
    assert!(matches!(node.store.status().crl, CrlStatus::InForce { expired: 1, .. }));
    refused(node.accepts(&ca).await, Code::CertificateRevoked);
    node.connects(&ca).await.expect("not revoked");
}

/// A rotated root often has the name of the one before.
#[tokio::test]
async fn a_list_counts_for_a_key_and_not_for_a_name() {
    let (old, new) = (Ca::new(), Ca::new());
    let node = Node::start(Some(&old.crl(1, &[OF_WEB], HOUR))).trusting(&old);
    refused(node.accepts(&old).await, Code::CertificateRevoked);
    let node = node.trusting(&new);
    node.accepts(&new).await.expect("the new root's serial numbers are others");
    let both = [old.crl(2, &[OF_WEB], HOUR), new.crl(1, &[OF_CART], HOUR)].concat();
    node.apply(&both);
    node.accepts(&new).await.expect("revoked by the old root only");
    refused(node.connects(&new).await, Code::CertificateRevoked);
}

/// A client that would resume a session is verified again, and a revoked one refused.
#[tokio::test]
async fn a_revoked_peer_cannot_resume() {
    use rustls::client::Resumption;
    let ca = Ca::new();
    let node = Node::start(Some(&ca.crl(1, &[], HOUR))).trusting(&ca);
    let server = node.svid(&ca, CART, OF_CART);
    let (chain, key) = ca.leaf(Leaf::numbered(WEB, OF_WEB));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.root.clone()).expect("root");
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(std::sync::Arc::new(support::AnyServer))
        .with_client_auth_cert(chain, key)
        .expect("certificate");
    config.alpn_protocols = vec![tls::ALPN.to_vec()];
    config.resumption = Resumption::in_memory_sessions(16);
    config.enable_early_data = true;
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let attempt = || async {
        let (near, far) = tokio::io::duplex(1 << 16);
        let name = "cart.shop".try_into().expect("name");
        tokio::join!(tls::accept(far, &server, SOON), connector.connect(name, near))
    };
    for _ in 0..2 {
        let (accepted, connected) = attempt().await;
        accepted.expect("accepted");
        let kind = connected.expect("connected").get_ref().1.handshake_kind();
        assert_eq!(kind, Some(rustls::HandshakeKind::Full));
    }
    node.apply(&ca.crl(2, &[OF_WEB], HOUR));
    let (accepted, _) = attempt().await;
    assert_eq!(accepted.expect_err("revoked").code(), Code::CertificateRevoked);
}
