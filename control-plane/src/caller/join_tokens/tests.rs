use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;

use model::TrustDomain;
use tempfile::TempDir;

use super::*;
use crate::ca::pods::Pods;
use crate::caller::{RefusalKind, Role};

const HOUR: Duration = Duration::from_hours(1);

fn ztunnel() -> Account {
    "istio-system/ztunnel".parse().expect("an account")
}

fn callers(folder: &TempDir) -> JoinTokenCallers {
    let roles = Roles {
        node_proxies: BTreeSet::from([ztunnel()]),
        gateways: BTreeSet::new(),
        trust_domain: TrustDomain::default(),
        pods: Pods::default(),
    };
    let clusters = ClusterNames { names: BTreeSet::from([Arc::from("Kubernetes")]) };
    JoinTokenCallers::new(JoinTokenFile::in_folder(folder.path()), clusters, roles)
}

fn with(token: &str) -> Credentials {
    Credentials { token: Some(token.into()), ..Credentials::default() }
}

async fn ask(callers: &JoinTokenCallers, credentials: &Credentials) -> Result<Caller, Refusal> {
    tokio::time::advance(LOOK_INTERVAL).await;
    callers.authenticate(credentials).await
}

#[tokio::test(start_paused = true)]
async fn a_token_makes_its_holder_one_nodes_agent() {
    let folder = TempDir::new().expect("folder");
    let callers = callers(&folder);
    let file = JoinTokenFile::in_folder(folder.path());
    let token = file.create("n1", &ztunnel(), HOUR, SystemTime::now()).expect("made");
    assert!(token.starts_with("wjt_") && token.len() == 4 + 43);
    let text = fs::read_to_string(folder.path().join(JOIN_TOKENS_FILE)).expect("file");
    assert!(!text.contains(&token) && !text.contains(&token[4..]), "only its hash is kept");
    let mode = fs::metadata(folder.path().join(JOIN_TOKENS_FILE)).expect("file").mode();
    assert_eq!(mode & 0o777, 0o600);
    for _ in 0..2 {
        let caller = ask(&callers, &with(&token)).await.expect("accepted, again and again");
        assert_eq!(caller.node.as_deref(), Some("n1"));
        assert_eq!(caller.role, Role::NodeProxy);
        assert_eq!(caller.identity.as_str(), "spiffe://cluster.local/ns/istio-system/sa/ztunnel");
    }
}

#[tokio::test(start_paused = true)]
async fn other_tokens_are_refused() {
    let folder = TempDir::new().expect("folder");
    let callers = callers(&folder);
    let file = JoinTokenFile::in_folder(folder.path());
    let now = SystemTime::now();
    let good = file.create("n1", &ztunnel(), HOUR, now).expect("made");
    let ended = file.create("n2", &ztunnel(), HOUR, now - HOUR - HOUR).expect("made");
    let other = with("wjt_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    let elsewhere = Credentials { cluster: Some("other".into()), ..with(&good) };
    let cases = [
        (Credentials::default(), "no join token"),
        (with("a.b.c"), "no join token"),
        (with("wjt_"), "unknown"),
        (with(&good[..good.len() - 1]), "unknown"),
        (other, "unknown"),
        (with(&ended), "n2 has expired"),
        (elsewhere, "another cluster"),
    ];
    for (credentials, want) in cases {
        let refused = ask(&callers, &credentials).await.expect_err(want);
        assert!(refused.kind() == RefusalKind::Unauthenticated);
        assert!(refused.to_string().contains(want), "{refused} / {want}");
    }
    ask(&callers, &with(&good)).await.expect("the good one");
}

#[tokio::test(start_paused = true)]
async fn what_is_revoked_ends_within_a_look() {
    let folder = TempDir::new().expect("folder");
    let callers = callers(&folder);
    let file = JoinTokenFile::in_folder(folder.path());
    let one = file.create("n1", &ztunnel(), HOUR, SystemTime::now()).expect("made");
    let two = file.create("n2", &ztunnel(), HOUR, SystemTime::now()).expect("made");
    ask(&callers, &with(&one)).await.expect("accepted");
    let id = file.list().expect("read")[0].id.clone();
    assert!(file.revoke(&id).expect("written"));
    assert!(!file.revoke(&id).expect("written"), "there is none any more");
    ask(&callers, &with(&one)).await.expect_err("revoked");
    ask(&callers, &with(&two)).await.expect("the other stays");
    assert!(file.revoke(&two).expect("by itself"));
    ask(&callers, &with(&two)).await.expect_err("revoked");
}

#[tokio::test(start_paused = true)]
async fn a_broken_file_changes_nothing_and_is_told() {
    let folder = TempDir::new().expect("folder");
    let path = folder.path().join(JOIN_TOKENS_FILE);
    let callers = callers(&folder);
    let file = JoinTokenFile::in_folder(folder.path());
    let token = file.create("n1", &ztunnel(), HOUR, SystemTime::now()).expect("made");
    ask(&callers, &with(&token)).await.expect("accepted");
    let good = fs::read(&path).expect("file");
    fs::write(&path, b"{").expect("written");
    ask(&callers, &with(&token)).await.expect("the last good file counts");
    assert!(callers.problem().expect("told").contains("not usable"));
    fs::write(&path, &good).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("changed");
    ask(&callers, &with(&token)).await.expect("the last good file counts");
    assert!(callers.problem().expect("told").contains("changed by others"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("changed");
    ask(&callers, &with(&token)).await.expect("accepted");
    assert_eq!(callers.problem(), None);
    fs::remove_file(&path).expect("removed");
    ask(&callers, &with(&token)).await.expect_err("no file, no tokens");
}

#[test]
fn tokens_that_make_no_sense_are_not_made() {
    let folder = TempDir::new().expect("folder");
    let file = JoinTokenFile::in_folder(folder.path());
    let now = SystemTime::now();
    for node in ["", "a b", "../x", &"n".repeat(254)] {
        file.create(node, &ztunnel(), HOUR, now).expect_err(node);
    }
    file.create("n1", &ztunnel(), JOIN_TOKEN_LIFE_MAX * 2, now).expect_err("too long");
    for account in ["", "a", "a/", "/b", "a/b/c"] {
        assert!(account.parse::<Account>().is_err(), "{account}");
    }
}
