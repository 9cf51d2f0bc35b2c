//! Handshakes between real endpoints: who is accepted, who is refused, and with which code.

mod support;

use model::{Code, TrustDomain};
use rcgen::{ExtendedKeyUsagePurpose, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use support::{CART, Ca, FOREIGN, Leaf, SOON, WEB, handshake, id};
use tls::{IdentityProblem, Svid, SvidError, TlsError, TrustBundle};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

#[tokio::test]
async fn both_sides_learn_who_the_other_is() {
    let ca = Ca::new();
    let (server, client) = (ca.svid(CART), ca.svid(WEB));
    let (at_server, at_client) = handshake(&server, &client, &[id(WEB), id(CART)]).await;
    assert_eq!(at_server.expect("accepts"), id(WEB));
    assert_eq!(at_client.expect("accepts"), id(CART));
}

#[tokio::test]
async fn it_is_tls13_hybrid_h2_and_not_resumable() {
    let ca = Ca::new();
    let (server, client) = (ca.svid(CART), ca.svid(WEB));
    let (near, far) = duplex(1 << 16);
    let expected = [id(CART)];
    let (a, b) =
        tokio::join!(tls::accept(far, &server, SOON), tls::connect(near, &client, &expected, SOON));
    let ((mut a, _), (mut b, _)) = (a.expect("accept"), b.expect("connect"));
    for session in [a.get_ref().1, b.get_ref().1] {
        assert_eq!(session.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        assert_eq!(session.alpn_protocol(), Some(&b"h2"[..]));
        let group = session.negotiated_key_exchange_group().expect("group").name();
        assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
        let suite = session.negotiated_cipher_suite().expect("suite").suite();
        assert_eq!(suite, rustls::CipherSuite::TLS13_AES_256_GCM_SHA384);
        assert_eq!(session.handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
    // A ticket would arrive before this byte.
    a.write_u8(1).await.expect("write");
    assert_eq!(b.read_u8().await.expect("read"), 1);
    let tokio_rustls::TlsStream::Client(client_side) = &b else { panic!("client") };
    assert_eq!(client_side.get_ref().1.tls13_tickets_received(), 0);
    // And the next session is a full handshake again.
    let (again, _) = handshake(&server, &client, &expected).await;
    assert_eq!(again.expect("accepts"), id(WEB));
}

#[tokio::test]
async fn an_unexpected_server_never_sees_the_clients_certificate() {
    let ca = Ca::new();
    for expected in [vec![], vec![id(WEB)]] {
        let (at_server, at_client) = handshake(&ca.svid(CART), &ca.svid(WEB), &expected).await;
        let error = at_client.expect_err("refuses");
        assert_eq!(error.code(), Code::PeerIdentity);
        let TlsError::PeerIdentity(IdentityProblem::Unexpected { got }) = error else {
            panic!("{error:?}")
        };
        assert_eq!(got, id(CART));
        assert_eq!(at_server.expect_err("alert").code(), Code::TlsFailed);
    }
}

#[tokio::test]
async fn a_foreign_trust_domain_is_refused_even_with_our_roots() {
    let ca = Ca::new();
    // It would take our server; our server does not take it.
    let foreign = ca.svid_in(Leaf::of(&[FOREIGN]), "other.example", &ca.view("cluster.local"));
    let (at_server, at_client) = handshake(&ca.svid(CART), &foreign, &[id(CART)]).await;
    let error = at_server.expect_err("refuses");
    assert_eq!(error.code(), Code::PeerIdentity);
    let problem =
        "spiffe://other.example/ns/shop/sa/web is in no trusted domain; ours is cluster.local";
    assert_eq!(std::error::Error::source(&error).expect("source").to_string(), problem);
    assert!(at_client.is_err());
}

#[tokio::test]
async fn another_ca_is_refused_by_both() {
    let (ours, theirs) = (Ca::new(), Ca::new());
    let (at_server, at_client) = handshake(&ours.svid(CART), &theirs.svid(WEB), &[id(CART)]).await;
    assert_eq!(at_server.expect_err("alert").code(), Code::TlsFailed);
    assert_eq!(at_client.expect_err("refuses").code(), Code::TlsFailed);
}

#[test]
fn an_svid_is_checked_when_it_is_made() {
    let ca = Ca::new();
    let view = ca.view("cluster.local");
    let make = |leaf: Leaf| {
        let (chain, key) = ca.leaf(leaf);
        Svid::new(chain, key, ca.bundle("cluster.local"), &view).expect_err("refused")
    };
    let identity = |error: SvidError| {
        let SvidError::Identity(problem) = error else { panic!("{error:?}") };
        problem
    };
    assert_eq!(identity(make(Leaf::of(&[]))), IdentityProblem::NoUri);
    assert_eq!(identity(make(Leaf::of(&[CART, WEB]))), IdentityProblem::SeveralUris);
    let spire = identity(make(Leaf::of(&["spiffe://cluster.local/spire/agent"])));
    assert!(matches!(spire, IdentityProblem::NotSpiffe(_)));
    let expired = Leaf { age: time::Duration::HOUR * 2, ..Leaf::of(&[CART]) };
    let client_only =
        Leaf { usages: vec![ExtendedKeyUsagePurpose::ClientAuth], ..Leaf::of(&[CART]) };
    for leaf in [expired, client_only] {
        assert!(matches!(make(leaf), SvidError::Untrusted(_)));
    }
    assert!(matches!(make(Leaf::of(&[FOREIGN])), SvidError::TrustDomain));
    let (chain, _) = ca.leaf(Leaf::of(&[CART]));
    let (_, key) = ca.leaf(Leaf::of(&[CART]));
    let error = Svid::new(chain.clone(), key.clone_key(), ca.bundle("cluster.local"), &view);
    assert!(matches!(error, Err(SvidError::Key(_))));
    let other = Svid::new(chain, key.clone_key(), Ca::new().bundle("cluster.local"), &view);
    assert!(matches!(other, Err(SvidError::Untrusted(_))));
    let nothing = Svid::new(vec![], key, ca.bundle("cluster.local"), &view);
    assert!(matches!(nothing, Err(SvidError::Chain(0))));
    assert!(TrustBundle::new(TrustDomain::default(), []).is_err());
    assert!(TrustBundle::new(TrustDomain::default(), [CertificateDer::from(vec![1])]).is_err());
    let svid = ca.svid(CART);
    let shown = format!("{svid:?}");
    assert!(shown.contains(CART) && svid.not_before() < svid.not_after(), "{shown}");
}

/// An endpoint that breaks the rules: it verifies nobody and takes any configuration.
struct Rogue {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Rogue {
    fn client(&self, alpn: &[&str]) -> rustls::ClientConfig {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let mut config = rustls::ClientConfig::builder_with_provider(provider.into())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("versions")
            .dangerous()
            .with_custom_certificate_verifier(std::sync::Arc::new(support::AnyServer))
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            .expect("certificate");
        config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        config
    }

    fn of(ca: &Ca, leaf: Leaf) -> Self {
        let (chain, key) = ca.leaf(leaf);
        Self { chain, key }
    }

    /// What our server says to it.
    async fn against_server(&self, ca: &Ca, alpn: &[&str]) -> TlsError {
        let server = ca.svid(CART);
        let (near, far) = duplex(1 << 16);
        let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(self.client(alpn)));
        let name = "x".try_into().expect("name");
        let (accepted, _) =
            tokio::join!(tls::accept(far, &server, SOON), connector.connect(name, near));
        accepted.expect_err("refuses")
    }

    /// What our client says to it, as a server without ALPN if `alpn` is empty.
    async fn against_client(&self, ca: &Ca, alpn: &[&str]) -> TlsError {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let mut config = rustls::ServerConfig::builder_with_provider(provider.into())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .expect("certificate");
        config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
        let client = ca.svid(WEB);
        let (near, far) = duplex(1 << 16);
        let expected = [id(CART)];
        let (connected, _) =
            tokio::join!(tls::connect(near, &client, &expected, SOON), acceptor.accept(far));
        connected.expect_err("refuses")
    }
}

#[tokio::test]
async fn bad_leaves_are_refused_on_the_wire() {
    let ca = Ca::new();
    for (uris, problem) in [
        (&[][..], IdentityProblem::NoUri),
        (&[CART, WEB][..], IdentityProblem::SeveralUris),
        (&[CART, CART][..], IdentityProblem::SeveralUris),
    ] {
        let rogue = || Rogue::of(&ca, Leaf::of(uris));
        for error in
            [rogue().against_server(&ca, &["h2"]).await, rogue().against_client(&ca, &["h2"]).await]
        {
            assert_eq!(error.code(), Code::PeerIdentity);
            assert!(matches!(&error, TlsError::PeerIdentity(p) if *p == problem), "{error:?}");
        }
    }
    let dns = SanType::DnsName("cart.shop".try_into().expect("ASCII"));
    let only_dns = Leaf { sans: vec![dns], ..Leaf::of(&[]) };
    let error = Rogue::of(&ca, only_dns).against_server(&ca, &["h2"]).await;
    assert!(matches!(error, TlsError::PeerIdentity(IdentityProblem::NoUri)), "{error:?}");
}

#[tokio::test]
async fn expired_or_misused_certificates_are_refused_on_the_wire() {
    let ca = Ca::new();
    let expired = || Leaf { age: time::Duration::HOUR * 2, ..Leaf::of(&[CART]) };
    let future = || Leaf { age: -time::Duration::HOUR, ..Leaf::of(&[CART]) };
    let usage = |usage: ExtendedKeyUsagePurpose| Leaf { usages: vec![usage], ..Leaf::of(&[CART]) };
    let server_only = || usage(ExtendedKeyUsagePurpose::ServerAuth);
    let client_only = || usage(ExtendedKeyUsagePurpose::ClientAuth);
    for (error, shown) in [
        (Rogue::of(&ca, expired()).against_server(&ca, &["h2"]).await, "Expired"),
        (Rogue::of(&ca, expired()).against_client(&ca, &["h2"]).await, "Expired"),
        (Rogue::of(&ca, future()).against_server(&ca, &["h2"]).await, "NotValidYet"),
        (Rogue::of(&ca, server_only()).against_server(&ca, &["h2"]).await, "InvalidPurpose"),
        (Rogue::of(&ca, client_only()).against_client(&ca, &["h2"]).await, "InvalidPurpose"),
    ] {
        assert_eq!(error.code(), Code::TlsFailed);
        assert!(format!("{error:?}").contains(shown), "{error:?}");
    }
}

#[tokio::test]
async fn a_peer_that_does_not_speak_h2_is_refused() {
    let ca = Ca::new();
    let rogue = Rogue::of(&ca, Leaf::of(&[CART]));
    assert!(matches!(rogue.against_server(&ca, &[]).await, TlsError::Alpn));
    assert!(matches!(rogue.against_client(&ca, &[]).await, TlsError::Alpn));
    // An offer without h2 is refused by TLS itself.
    let error = rogue.against_server(&ca, &["http/1.1"]).await;
    assert_eq!(error.code(), Code::TlsFailed);
    assert!(rogue.against_client(&ca, &["http/1.1"]).await.code() == Code::TlsFailed);
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let ca = Ca::new();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let mut config = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(std::sync::Arc::new(support::AnyServer))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let server = ca.svid(CART);
    let (near, far) = duplex(1 << 16);
    let name = "x".try_into().expect("name");
    let (accepted, _) =
        tokio::join!(tls::accept(far, &server, SOON), connector.connect(name, near));
    assert_eq!(accepted.expect_err("refuses").code(), Code::TlsFailed);
}

/// A ClientHello of TLS 1.2: no `supported_versions`.
#[tokio::test]
async fn tls12_is_refused() {
    let ca = Ca::new();
    let server = ca.svid(CART);
    let (mut near, far) = duplex(1 << 16);
    let extensions: &[u8] = &[
        0, 10, 0, 4, 0, 2, 0, 23, // supported_groups: secp256r1
        0, 11, 0, 2, 1, 0, // ec_point_formats: uncompressed
        0, 13, 0, 4, 0, 2, 4, 3, // signature_algorithms: ecdsa_secp256r1_sha256
    ];
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]); // no session, one suite, no compression
    hello.extend(u16::try_from(extensions.len()).expect("short").to_be_bytes());
    hello.extend(extensions);
    let length = u16::try_from(hello.len()).expect("short").to_be_bytes();
    let mut record = vec![22, 3, 1];
    record.extend(u16::try_from(hello.len() + 4).expect("short").to_be_bytes());
    record.extend([1, 0]);
    record.extend(length);
    record.extend(hello);
    near.write_all(&record).await.expect("write");
    let error = tls::accept(far, &server, SOON).await.expect_err("refuses");
    assert_eq!(error.code(), Code::TlsFailed);
    assert!(format!("{error:?}").contains("PeerIncompatible"), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stalled_handshake_times_out_on_both_sides() {
    let ca = Ca::new();
    let (server, client) = (ca.svid(CART), ca.svid(WEB));
    let begun = tokio::time::Instant::now();
    let (_silent, far): (DuplexStream, _) = duplex(64);
    let error = tls::accept(far, &server, SOON).await.expect_err("times out");
    assert_eq!(error.code(), Code::TlsTimeout);
    let (_silent, near) = duplex(1 << 16);
    let error = tls::connect(near, &client, &[id(CART)], SOON).await.expect_err("times out");
    assert_eq!(error.code(), Code::TlsTimeout);
    assert_eq!(begun.elapsed(), SOON * 2);
}

#[tokio::test]
async fn junk_is_refused() {
    let ca = Ca::new();
    let (mut near, far) = duplex(1 << 16);
    near.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("write");
    let error = tls::accept(far, &ca.svid(CART), SOON).await.expect_err("refuses");
    assert_eq!(error.code(), Code::TlsFailed);
    let (near, far) = duplex(64);
    drop(near);
    let error = tls::accept(far, &ca.svid(CART), SOON).await.expect_err("refuses");
    assert!(matches!(error, TlsError::Io(_)));
}
