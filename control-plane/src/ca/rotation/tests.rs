//! A rotation, walked through: with an own root.

use std::sync::Arc;

use authority::{CertificateRequest, KeyAlgorithm, Names, OwnKey};
use model::{SpiffeId, TrustDomain};
use tempfile::TempDir;
use tls::issued_chain;

use std::time::Duration;

use super::*;
use crate::ca::sign::{Asked, Sign};
use crate::ca::{FileStore, Ledger, OwnRoot, Places};

const HOUR: Duration = Duration::from_hours(1);

struct Replica {
    authority: OwnRoot,
    ledger: Arc<Ledger>,
    places: Places,
}

fn places(folder: &TempDir) -> Places {
    let store = |name| Arc::new(FileStore::open(folder.path(), name).expect("store"));
    Places { keys: store("authority.json"), ledger: store("issued.json") }
}

async fn replica(folder: &TempDir) -> Replica {
    let (places, ledger) = (places(folder), Arc::new(Ledger::default()));
    let domain = TrustDomain::default();
    let authority = OwnRoot::open(places.clone(), domain, KeyAlgorithm::P256, ledger.clone()).await;
    Replica { authority: authority.expect("opened"), ledger, places }
}

impl Replica {
    /// Signs for a node, whose certificate ends after a while; what the node sees.
    async fn issue(&self, node: &str, life: Duration) -> tls::IssuedChain {
        let identity = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").expect("literal");
        let names = Names::of(identity);
        let own = OwnKey::new(&names).expect("made");
        let request = CertificateRequest::from_pem(&own.request).expect("read");
        let asked = Asked { request: &request, pem: &own.request, names: &names, ttl: life };
        let signed = self.authority.current().sign(asked).await.expect("signed");
        self.ledger.record(node, signed.root.expect("ours"), signed.mark, signed.not_after);
        let mut chain = signed.chain;
        chain.push(signed.roots);
        self.ledger.merge(&*self.places.ledger, SystemTime::now()).await.expect("written");
        issued_chain(&chain).expect("as an agent reads it")
    }
}

/// Whether who believes these roots believes that chain.
fn believes(roots: &tls::IssuedChain, chain: &tls::IssuedChain) -> bool {
    let bundle = tls::TrustBundle::new(TrustDomain::default(), roots.roots.iter().cloned());
    bundle.expect("roots").verify_chain(&chain.chain, SystemTime::now()).is_ok()
}

fn left(error: &RotationError) -> Vec<&str> {
    match error {
        RotationError::LeftBehind { left, .. } => {
            left.iter().map(|left| left.holder.as_str()).collect()
        }
        RotationError::Turn { .. }
        | RotationError::Conflict
        | RotationError::Store(_)
        | RotationError::Root(_)
        | RotationError::Authority(_)
        | RotationError::Bundle(_)
        | RotationError::Revocations(_)
        | RotationError::Missing { .. } => panic!("{error}"),
    }
}

#[tokio::test]
async fn nobody_is_left_behind_by_a_rotation() {
    let folder = TempDir::new().expect("folder");
    let plane = replica(&folder).await;
    let before = plane.issue("n1", Duration::from_secs(2)).await;
    let status = plane.authority.prepare().await.expect("prepared");
    assert_eq!((status.stage, status.roots.len()), (RotationStage::Prepared, 2));
    let told = plane.issue("n2", HOUR).await;
    assert!(believes(&before, &told), "the old root signs");

    // The node that was told of the old root only has a certificate that lives.
    let refused = plane.authority.switch(Care::Check).await.expect_err("n1 would be left behind");
    assert_eq!(left(&refused), ["n1"]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let status = plane.authority.switch(Care::Check).await.expect("n1 has ended");
    assert_eq!(status.stage, RotationStage::Switched);
    assert_eq!(status.left, ["n2"]);
    let new = plane.issue("n1", HOUR).await;
    assert!(believes(&told, &new), "who was told believes the new root");
    assert!(!believes(&before, &new), "who was not does not");
    assert!(believes(&new, &told), "the old root is told yet");

    let refused = plane.authority.finish(Care::Check).await.expect_err("n2 presents the old root");
    assert_eq!(left(&refused), ["n2"]);
    let status = plane.authority.finish(Care::Force).await.expect("by force");
    assert_eq!((status.stage, status.roots.len()), (RotationStage::Steady, 1));
    let last = plane.issue("n3", HOUR).await;
    assert!(believes(&last, &new) && !believes(&last, &told));
}

#[tokio::test]
async fn a_rotation_goes_on_where_it_stood() {
    let folder = TempDir::new().expect("folder");
    let first = replica(&folder).await;
    first.issue("n1", HOUR).await;
    first.authority.prepare().await.expect("prepared");
    drop(first);
    let second = replica(&folder).await;
    assert_eq!(second.authority.status().stage, RotationStage::Prepared);
    let refused = second.authority.switch(Care::Check).await.expect_err("it knows of n1");
    assert_eq!(left(&refused), ["n1"]);
    // A replica beside it follows.
    let third = replica(&folder).await;
    second.authority.switch(Care::Force).await.expect("by force");
    third.authority.look().await;
    let root = |replica: &Replica| replica.authority.current().get().authority.root();
    assert_eq!(root(&second), root(&third));
    assert_eq!(third.authority.status().stage, RotationStage::Switched);
}

#[tokio::test]
async fn steps_have_an_order() {
    let folder = TempDir::new().expect("folder");
    let plane = replica(&folder).await;
    let is_turn =
        |result: Result<CaStatus, RotationError>| matches!(result, Err(RotationError::Turn { .. }));
    assert!(is_turn(plane.authority.switch(Care::Force).await));
    assert!(is_turn(plane.authority.finish(Care::Force).await));
    plane.authority.prepare().await.expect("prepared");
    assert!(is_turn(plane.authority.prepare().await));
    assert!(is_turn(plane.authority.finish(Care::Force).await));
    plane.authority.switch(Care::Check).await.expect("nobody holds anything");
    assert!(is_turn(plane.authority.prepare().await));
    plane.authority.finish(Care::Check).await.expect("nobody holds anything");
}

#[tokio::test]
async fn control_planes_that_start_together_share_one_root() {
    let folder = TempDir::new().expect("folder");
    let (one, two) = tokio::join!(replica(&folder), replica(&folder));
    let root = |replica: &Replica| replica.authority.current().get().authority.root();
    assert_eq!(root(&one), root(&two));
}

#[tokio::test]
async fn a_store_that_is_broken_leaves_the_authority_in_force() {
    use std::os::unix::fs::PermissionsExt;
    let folder = TempDir::new().expect("folder");
    let plane = replica(&folder).await;
    let path = folder.path().join("authority.json");
    let mode = std::fs::metadata(&path).expect("file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    std::fs::write(&path, "{}").expect("written");
    plane.authority.look().await;
    let problem = plane.authority.status().problem.expect("told");
    assert!(problem.contains("ca-cert.pem"), "{problem}");
    plane.issue("n1", HOUR).await;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("changed");
    plane.authority.look().await;
    let problem = plane.authority.status().problem.expect("told");
    assert!(problem.contains("open to others"), "{problem}");
}
