//! Whom a node trusts, and for how long: rotation of roots, other trust domains, aliases.

mod support;

use std::path::Path;
use std::time::{Duration, SystemTime};

use model::{Code, TrustDomain};
use support::{CART, Ca, FOREIGN, Leaf, WEB, connect, domain, handshake, id};
use tls::{Compliance, Origin, Revoked, Svid, Trust, TrustSettings, TrustStore, TrustView};

const LIFETIME: Duration = Duration::from_hours(1);

struct Node {
    folder: tempfile::TempDir,
    store: TrustStore,
}

fn settings(folder: &Path) -> TrustSettings {
    TrustSettings {
        domain: domain("cluster.local"),
        aliases: vec![domain("old.example"), domain("older.example")],
        compliance: Compliance::Default,
        crl: None,
        bundles: Some(folder.join("bundles")),
        keep: Some(folder.join("keep")),
    }
}

impl Node {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::create_dir(folder.path().join("bundles")).expect("folder");
        let store = TrustStore::open(settings(folder.path()));
        Self { folder, store }
    }

    fn restart(self) -> Self {
        let Self { folder, store } = self;
        drop(store);
        let store = TrustStore::open(settings(folder.path()));
        Self { folder, store }
    }

    fn observe(&self, roots: &[&Ca]) {
        let certificates = roots.iter().map(|ca| ca.root.clone());
        let bundle = tls::TrustBundle::new(domain("cluster.local"), certificates).expect("bundle");
        self.store.observe(&bundle, LIFETIME);
    }

    fn write(&self, name: &str, content: &str) {
        std::fs::write(self.folder.path().join("bundles").join(name), content).expect("write");
        self.store.look();
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.folder.path().join("bundles").join(name)).expect("remove");
        self.store.look();
    }

    fn svid(&self, ca: &Ca, uri: &str) -> Svid {
        let domain = id(uri).trust_domain().to_owned();
        ca.svid_in(Leaf::of(&[uri]), &domain, &self.store.view())
    }

    fn trust(&self) -> std::sync::Arc<Trust> {
        self.store.view().current()
    }
}

async fn both_ways(a: (&Node, &Ca), b: (&Node, &Ca)) -> bool {
    let (server, client) = (a.0.svid(a.1, CART), b.0.svid(b.1, WEB));
    let (one, two) = handshake(&server, &client, &[id(CART)]).await;
    let (server, client) = (b.0.svid(b.1, CART), a.0.svid(a.1, WEB));
    let (three, four) = handshake(&server, &client, &[id(CART)]).await;
    one.is_ok() && two.is_ok() && three.is_ok() && four.is_ok()
}

/// Two nodes renew at different times while the authority announces a root, signs with it, and
/// drops the old one. In no step does a connection fail, nor is one that stands cut.
#[tokio::test]
async fn a_root_is_rotated_without_a_failed_connection() {
    let (old, new) = (Ca::new(), Ca::new());
    let (early, late) = (Node::start(), Node::start());
    early.observe(&[&old]);
    late.observe(&[&old]);
    let (server, client) = (late.svid(&old, CART), early.svid(&old, WEB));
    let (at_server, at_client) = connect(&server, &client, &[id(CART)]).await;
    let standing = [at_server.expect("accepted").1, at_client.expect("accepted").1];
    // What an answer holds: the signer, and the roots it names.
    let stages = [
        (&old, vec![&old]),
        (&old, vec![&old, &new]),
        (&new, vec![&new, &old]),
        (&new, vec![&new]),
    ];
    for pair in stages.windows(2) {
        let [before, after] = pair else { panic!("two") };
        early.observe(&after.1);
        assert!(both_ways((&early, after.0), (&late, before.0)).await);
        late.observe(&after.1);
        assert!(both_ways((&early, after.0), (&late, after.0)).await);
        for node in [&early, &late] {
            let trust = node.trust();
            assert!(standing.iter().all(|chain| trust.check_chain(chain) == Ok(())));
        }
    }
    assert_eq!(early.trust().bundle("cluster.local").map(|b| b.certificates().len()), Some(2));
}

#[tokio::test]
async fn a_restart_in_the_middle_of_a_rotation_forgets_no_root() {
    let (old, new) = (Ca::new(), Ca::new());
    let (node, other) = (Node::start(), Node::start());
    other.observe(&[&old, &new]);
    node.observe(&[&old]);
    node.observe(&[&new]);
    let node = node.restart();
    assert!(both_ways((&node, &new), (&other, &old)).await);
    // The first answer after the restart does not name the old one either.
    node.observe(&[&new]);
    assert!(both_ways((&node, &new), (&other, &old)).await);
    // What a file holds by mistake is nobody's root.
    let Node { folder, store } = node;
    drop(store);
    let path = folder.path().join("keep/roots");
    let kept = std::fs::read_to_string(&path).expect("kept");
    let lines: Vec<_> = kept.lines().collect();
    assert_eq!(lines.len(), 2);
    let (domain, rest) = lines[0].split_once(' ').expect("domain");
    let (_, der) = rest.split_once(' ').expect("time");
    let broken = format!("{domain} 1 {der}\n{}\nnot a root\n", &lines[1][..lines[1].len() / 2]);
    std::fs::write(&path, broken).expect("write");
    let store = TrustStore::open(settings(folder.path()));
    assert!(store.view().current().bundle("cluster.local").is_none());
}

#[test]
fn an_unchanged_answer_is_no_new_trust() {
    let ca = Ca::new();
    let node = Node::start();
    node.observe(&[&ca]);
    let generation = node.trust().generation();
    node.observe(&[&ca]);
    node.store.look();
    assert_eq!(node.trust().generation(), generation);
    node.store.restore(&ca.bundle("cluster.local"), SystemTime::now() + LIFETIME);
    assert_eq!(node.trust().generation(), generation);
}

#[tokio::test]
async fn a_foreign_domain_is_judged_by_its_own_bundle_only() {
    let (ours, theirs, stranger) = (Ca::new(), Ca::named("theirs"), Ca::named("stranger"));
    let node = Node::start();
    node.observe(&[&ours]);
    let server = node.svid(&ours, CART);
    let client = |ca: &Ca, uri: &str| {
        let domain = id(uri).trust_domain().to_owned();
        ca.svid_in(Leaf::of(&[uri]), &domain, &ours.view("cluster.local"))
    };
    let attempt = async |client: Svid| connect(&server, &client, &[id(CART)]).await.0;
    let code = |end: support::End| end.map(|_| ()).map_err(|error| error.code());
    assert_eq!(code(attempt(client(&theirs, FOREIGN)).await), Err(Code::PeerIdentity));

    node.write("other.example", &theirs.root_pem());
    let (who, chain) = attempt(client(&theirs, FOREIGN)).await.expect("federated");
    assert_eq!((who, chain.trust_domain().as_str()), (id(FOREIGN), "other.example"));
    // Neither authority speaks for the other's domain.
    assert_eq!(code(attempt(client(&theirs, WEB)).await), Err(Code::TlsFailed));
    assert_eq!(code(attempt(client(&ours, FOREIGN)).await), Err(Code::TlsFailed));
    assert_eq!(code(attempt(client(&stranger, FOREIGN)).await), Err(Code::TlsFailed));
    let origins: Vec<_> = node.store.status().domains.into_iter().map(|d| d.origin).collect();
    assert_eq!(origins, [Origin::Issued, Origin::Federated]);

    // A file that cannot be used changes nothing and is named.
    for wrong in ["", "garbage", &theirs.root_pem()[..100]] {
        node.write("other.example", wrong);
        attempt(client(&theirs, FOREIGN)).await.expect("still trusted");
        let [problem] = &node.store.status().problems[..] else { panic!("one problem") };
        assert!(problem.contains("bundles/other.example"), "{problem}");
    }
    node.write("other.example", &(stranger.root_pem() + &theirs.root_pem()));
    attempt(client(&stranger, FOREIGN)).await.expect("a second root");
    assert_eq!(node.trust().check_chain(&chain), Ok(()));
    assert!(node.store.status().problems.is_empty());

    node.write("other.example", &stranger.root_pem());
    assert_eq!(node.trust().check_chain(&chain), Err(Revoked::Root(domain("other.example"))));
    assert_eq!(code(attempt(client(&theirs, FOREIGN)).await), Err(Code::TlsFailed));
    node.remove("other.example");
    assert_eq!(node.trust().check_chain(&chain), Err(Revoked::Root(domain("other.example"))));
    // Gone twice in a row, and not for the moment of a replacement.
    node.store.look();
    assert_eq!(node.trust().check_chain(&chain), Err(Revoked::Domain(domain("other.example"))));
    assert_eq!(code(attempt(client(&stranger, FOREIGN)).await), Err(Code::PeerIdentity));
}

#[test]
fn the_folder_of_bundles_is_bounded_and_says_what_is_wrong() {
    let ca = Ca::new();
    let node = Node::start();
    node.write("Not A Domain", &ca.root_pem());
    node.write("..data", &ca.root_pem());
    std::fs::create_dir(node.folder.path().join("bundles/folder.example")).expect("folder");
    node.write("large.example", &" ".repeat(tls::BUNDLE_FILE_MAX + 1));
    node.write("many.example", &many_roots(tls::ROOTS_MAX + 1));
    let problems = node.store.status().problems;
    for want in ["Not A Domain", "folder.example", "large.example", "many.example"] {
        assert!(problems.iter().any(|problem| problem.contains(want)), "{want}: {problems:?}");
    }
    assert_eq!(problems.len(), 4, "{problems:?}");
    for n in 0..tls::FEDERATED_MAX + 2 {
        let path = node.folder.path().join("bundles").join(format!("a{n:03}.example"));
        std::fs::write(path, ca.root_pem()).expect("write");
    }
    node.store.look();
    let status = node.store.status();
    assert_eq!(status.domains.len(), tls::FEDERATED_MAX);
    assert!(status.problems.iter().any(|problem| problem.contains("more than 256")));
    std::fs::remove_dir_all(node.folder.path().join("bundles")).expect("remove");
    node.store.look();
    node.store.look();
    assert_eq!(node.store.status().domains.len(), tls::FEDERATED_MAX, "an unreadable folder");
}

fn many_roots(count: usize) -> String {
    (0..count).map(|n| Ca::named(&n.to_string()).root_pem()).collect()
}

#[tokio::test]
async fn a_file_for_our_own_domain_adds_roots_before_the_authority_uses_them() {
    let (old, new) = (Ca::new(), Ca::new());
    let (early, late) = (Node::start(), Node::start());
    late.observe(&[&old]);
    late.write("cluster.local", &new.root_pem());
    // The authority did not announce the new root.
    early.observe(&[&old]);
    early.observe(&[&new]);
    assert!(both_ways((&early, &new), (&late, &old)).await);
}

#[tokio::test]
async fn an_alias_is_our_domain_under_another_name() {
    let ca = Ca::new();
    let node = Node::start();
    node.observe(&[&ca]);
    let renamed = |uri: &str| uri.replace("cluster.local", "old.example");
    let other = |uri: &str| {
        let domain = id(uri).trust_domain().to_owned();
        ca.svid_in(Leaf::of(&[uri]), &domain, &ca.view("cluster.local"))
    };
    let (server, client) = (node.svid(&ca, CART), other(&renamed(WEB)));
    let who = connect(&server, &client, &[id(CART)]).await.0.expect("accepted").0;
    assert_eq!(who, id(&renamed(WEB)), "policies see the name in the certificate");
    // A server that is expected under one name may show another.
    let client = node.svid(&ca, WEB);
    for (shown, expected, is_accepted) in [
        (renamed(CART), id(CART), true),
        (renamed(CART), id(&CART.replace("cluster.local", "older.example")), true),
        (renamed(WEB), id(CART), false),
        (CART.replace("cluster.local", "other.example"), id(CART), false),
    ] {
        let at_client = connect(&other(&shown), &client, std::slice::from_ref(&expected)).await.1;
        assert_eq!(at_client.is_ok(), is_accepted, "{shown} for {expected}");
    }
    // With a bundle of its own it is a domain of its own.
    node.write("old.example", &Ca::named("old").root_pem());
    let (server, client) = (node.svid(&ca, CART), other(&renamed(WEB)));
    assert!(connect(&server, &client, &[id(CART)]).await.0.is_err());
}

#[tokio::test]
async fn pqc_allows_the_hybrid_exchange_only() {
    let ca = Ca::new();
    let view = |compliance| -> TrustView {
        let store = TrustStore::open(TrustSettings {
            domain: TrustDomain::default(),
            aliases: Vec::new(),
            compliance,
            crl: None,
            bundles: None,
            keep: None,
        });
        store.observe(&ca.bundle("cluster.local"), LIFETIME);
        store.view()
    };
    let svid =
        |uri: &str, compliance| ca.svid_in(Leaf::of(&[uri]), "cluster.local", &view(compliance));
    for (a, b) in [
        (Compliance::Pqc, Compliance::Pqc),
        (Compliance::Default, Compliance::Pqc),
        (Compliance::Pqc, Compliance::Default),
    ] {
        let (one, two) = handshake(&svid(CART, a), &svid(WEB, b), &[id(CART)]).await;
        assert!(one.is_ok() && two.is_ok(), "{a:?} {b:?}");
    }
    for (compliance, is_accepted) in [(Compliance::Default, true), (Compliance::Pqc, false)] {
        let accepted = classical(&ca, &svid(CART, compliance)).await;
        assert_eq!(accepted, is_accepted, "{compliance:?}");
    }
}

/// Whether a client without the hybrid group is accepted.
async fn classical(ca: &Ca, server: &Svid) -> bool {
    let (chain, key) = ca.leaf(Leaf::of(&[WEB]));
    let provider = rustls::crypto::CryptoProvider {
        kx_groups: vec![rustls::crypto::aws_lc_rs::kx_group::X25519],
        ..rustls::crypto::aws_lc_rs::default_provider()
    };
    let mut config = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(std::sync::Arc::new(support::AnyServer))
        .with_client_auth_cert(chain, key)
        .expect("certificate");
    config.alpn_protocols = vec![tls::ALPN.to_vec()];
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let (near, far) = tokio::io::duplex(1 << 16);
    let name = "cart.shop".try_into().expect("name");
    let (accepted, _) =
        tokio::join!(tls::accept(far, server, support::SOON), connector.connect(name, near));
    accepted.is_ok()
}
