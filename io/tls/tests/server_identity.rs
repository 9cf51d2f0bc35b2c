//! A control plane's port: clients with a certificate, without one, with one of a stranger.

mod support;

use std::sync::Arc;
use std::time::SystemTime;

use rcgen::{ExtendedKeyUsagePurpose, SanType};
use support::{CART, Ca, FOREIGN, Leaf, SOON};
use tls::{
    Compliance, RevocationLists, RootSource, ServerIdentity, ServerIdentityError, ServerTls,
    ServerTrust, TlsError, Trust, TrustView, VerifiedPeer,
};
use tokio::io::duplex;
use tokio::sync::watch;

const NAME: &str = "control-plane.test";

fn identity(ca: &Ca) -> ServerIdentity {
    let sans = vec![SanType::DnsName(NAME.try_into().expect("ASCII"))];
    let usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let (chain, key) = ca.leaf(Leaf { sans, usages, ..Leaf::of(&[]) });
    ServerIdentity::new(chain, key, &ca.view("cluster.local")).expect("usable")
}

/// Who an agent without a certificate is to the server, if it accepts that server.
async fn without_certificate(
    server: &ServerTls,
    ca: &Ca,
) -> Result<(Option<VerifiedPeer>, Result<(), TlsError>), TlsError> {
    let roots = RootSource::Pem(ca.root_pem());
    let trust = ServerTrust::new(roots, NAME, [], Compliance::Default).expect("a name");
    let verifier = trust.read().await.expect("roots");
    let (client, stream) = duplex(64 * 1024);
    let (accepted, connected) = tokio::join!(server.accept(stream, SOON), verifier.connect(client));
    accepted.map(|(_, peer)| (peer, connected.map(drop)))
}

#[tokio::test]
async fn a_client_may_come_without_a_certificate() {
    let ca = Ca::new();
    let server = ServerTls::fixed(identity(&ca));
    let (peer, connected) = without_certificate(&server, &ca).await.expect("accepted");
    assert!(peer.is_none());
    connected.expect("the server is the one named");
}

#[tokio::test]
async fn a_certificate_that_is_shown_has_to_be_trusted() {
    let (ca, stranger) = (Ca::new(), Ca::named("stranger"));
    // The one that the server shows names a workload, which is what this client looks for.
    let (chain, key) = ca.leaf(Leaf::of(&[CART]));
    let identity = ServerIdentity::new(chain, key, &ca.view("cluster.local")).expect("usable");
    let server = ServerTls::fixed(identity);
    let expected = [model::SpiffeId::parse(CART).expect("id")];
    let view = ca.view("cluster.local");
    for (svid, want) in [
        (ca.svid_in(Leaf::of(&[CART]), "cluster.local", &view), Some(CART)),
        (stranger.svid_in(Leaf::of(&[CART]), "cluster.local", &view), None),
        (stranger.svid_in(Leaf::of(&[FOREIGN]), "other.example", &view), None),
    ] {
        let (client, stream) = duplex(64 * 1024);
        let (accepted, _) =
            tokio::join!(server.accept(stream, SOON), tls::connect(client, &svid, &expected, SOON));
        let identity = accepted.ok().and_then(|(_, peer)| peer);
        let identity = identity.map(|peer| peer.identity.id().as_str().to_owned());
        assert_eq!(identity.as_deref(), want);
    }
}

#[tokio::test]
async fn a_certificate_that_was_revoked_is_not_accepted() {
    let ca = Ca::new();
    let trust = Trust::of(ca.bundle("cluster.local"));
    let list = ca.crl(1, &[7], time::Duration::HOUR);
    let bundle = ca.bundle("cluster.local");
    let read = |file: &[u8]| RevocationLists::succeed(None, file, &bundle, &[], SystemTime::now());
    let revoking = trust.clone().revoking(&read(&list).expect("a list"));
    assert!(read(b"a list").is_err());
    let expected = [model::SpiffeId::parse(CART).expect("id")];
    let view = ca.view("cluster.local");
    for (trust, serial, accepts) in [(&trust, 7, true), (&revoking, 7, false), (&revoking, 8, true)]
    {
        let (chain, key) = ca.leaf(Leaf::of(&[CART]));
        let trust = TrustView::fixed(trust.clone());
        let server = ServerTls::fixed(ServerIdentity::new(chain, key, &trust).expect("usable"));
        let leaf = Leaf { serial: Some(serial), ..Leaf::of(&[CART]) };
        let svid = ca.svid_in(leaf, "cluster.local", &view);
        let (client, stream) = duplex(64 * 1024);
        let (accepted, _) =
            tokio::join!(server.accept(stream, SOON), tls::connect(client, &svid, &expected, SOON));
        assert_eq!(accepted.is_ok(), accepts, "{serial}");
    }
}

#[tokio::test]
async fn a_connection_that_stands_ends_when_its_certificate_is_revoked() {
    let ca = Ca::new();
    let identity = |revoked: &[u64]| {
        let list = ca.crl(1, revoked, time::Duration::HOUR);
        let bundle = ca.bundle("cluster.local");
        let lists = RevocationLists::succeed(None, &list, &bundle, &[], SystemTime::now());
        let trust = TrustView::fixed(Trust::of(bundle).revoking(&lists.expect("a list")));
        let (chain, key) = ca.leaf(Leaf::of(&[CART]));
        Arc::new(ServerIdentity::new(chain, key, &trust).expect("usable"))
    };
    let (sender, receiver) = watch::channel(identity(&[]));
    let server = ServerTls::new(receiver);
    let leaf = Leaf { serial: Some(7), ..Leaf::of(&[CART]) };
    let svid = ca.svid_in(leaf, "cluster.local", &ca.view("cluster.local"));
    let expected = [model::SpiffeId::parse(CART).expect("id")];
    let (client, stream) = duplex(64 * 1024);
    let (accepted, _) =
        tokio::join!(server.accept(stream, SOON), tls::connect(client, &svid, &expected, SOON));
    let (_, peer) = accepted.expect("believed");
    let chain = peer.expect("a certificate").chain;
    let is_revoked =
        async |within| tokio::time::timeout(within, server.until_revoked(&chain)).await.is_ok();
    let soon = std::time::Duration::from_millis(20);
    sender.send_replace(identity(&[8]));
    assert!(!is_revoked(soon).await);
    sender.send_replace(identity(&[7]));
    assert!(is_revoked(SOON).await);
}

#[tokio::test]
async fn the_next_handshake_uses_the_next_certificate() {
    let (before, after) = (Ca::new(), Ca::new());
    let (sender, receiver) = watch::channel(Arc::new(identity(&before)));
    let server = ServerTls::new(receiver);
    let accepts = async |ca: &Ca| {
        let connected = without_certificate(&server, ca).await;
        connected.is_ok_and(|(_, connected)| connected.is_ok())
    };
    assert!(accepts(&before).await);
    sender.send_replace(Arc::new(identity(&after)));
    assert!(accepts(&after).await);
    assert!(!accepts(&before).await);
}

#[tokio::test]
async fn http1_is_spoken_with_the_server_that_is_named_only() {
    let ca = Ca::new();
    let server = ServerTls::fixed(identity(&ca));
    for (roots, name, want) in [
        (ca.root_pem(), NAME, true),
        (ca.root_pem(), "another.test", false),
        (Ca::named("stranger").root_pem(), NAME, false),
    ] {
        let trust = ServerTrust::new(RootSource::Pem(roots), name, [], Compliance::Default);
        let verifier = trust.expect("a name").read().await.expect("roots");
        let (client, stream) = duplex(64 * 1024);
        let (accepted, connected) =
            tokio::join!(server.accept_http1(stream, SOON), verifier.connect_http1(client));
        assert_eq!(connected.is_ok(), want, "{name}");
        assert_eq!(accepted.is_ok(), want, "{name}");
    }
}

#[tokio::test]
async fn who_wants_http1_does_not_get_h2() {
    let ca = Ca::new();
    let server = ServerTls::fixed(identity(&ca));
    let trust = ServerTrust::new(RootSource::Pem(ca.root_pem()), NAME, [], Compliance::Default);
    let verifier = trust.expect("a name").read().await.expect("roots");
    let (client, stream) = duplex(64 * 1024);
    let (accepted, connected) =
        tokio::join!(server.accept(stream, SOON), verifier.connect_http1(client));
    assert!(accepted.is_err() && connected.is_err());
}

#[test]
fn a_key_has_to_fit() {
    let ca = Ca::new();
    let view = ca.view("cluster.local");
    let ((chain, _), (_, other)) = (ca.leaf(Leaf::of(&[CART])), ca.leaf(Leaf::of(&[CART])));
    let refused = ServerIdentity::new(chain, other.clone_key(), &view);
    assert!(matches!(refused, Err(ServerIdentityError::Key(_))), "{refused:?}");
    let refused = ServerIdentity::new(vec![], other, &view);
    assert!(matches!(refused, Err(ServerIdentityError::Chain(0))), "{refused:?}");
    let refused = ServerIdentity::from_pem(b"", b"", &view);
    assert!(matches!(refused, Err(ServerIdentityError::Pem(_))), "{refused:?}");
}
