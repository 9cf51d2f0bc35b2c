use model::WorkloadKey;
use proptest::prelude::*;

use super::*;

fn uid(text: &str) -> PodUid {
    PodUid::parse(text).expect("a uid")
}

fn pod(name: &str) -> Pod {
    let workload = WorkloadKey::parse(&format!("shop/{name}/sa")).expect("a key");
    Pod { uid: uid(name), workload }
}

#[test]
fn a_snapshot_ends_what_it_does_not_name() {
    let mut session = Session::default();
    assert_eq!(session.take(Message::Add(pod("a"))), Ok(Act::Serve(pod("a"))));
    assert_eq!(session.take(Message::Keep(uid("b"))), Ok(Act::Retain(uid("b"))));
    assert_eq!(session.take(Message::Add(pod("c"))), Ok(Act::Serve(pod("c"))));
    assert_eq!(session.take(Message::Delete(uid("c"))), Ok(Act::Stop(uid("c"))));
    assert!(!session.is_live());
    let told = BTreeSet::from([uid("a"), uid("b")]);
    assert_eq!(session.take(Message::SnapshotSent), Ok(Act::KeepOnly(told)));
    assert!(session.is_live());
    assert_eq!(session.take(Message::Add(pod("d"))), Ok(Act::Serve(pod("d"))));
    assert_eq!(session.take(Message::Delete(uid("a"))), Ok(Act::Stop(uid("a"))));
}

#[test]
fn what_comes_out_of_turn_ends_the_session() {
    let mut session = Session::default();
    session.take(Message::SnapshotSent).expect("the end of the snapshot");
    assert_eq!(session.take(Message::SnapshotSent), Err(SessionError::SecondSnapshot));
    assert_eq!(session.take(Message::Keep(uid("a"))), Err(SessionError::LateKeep));
}

#[test]
fn a_snapshot_is_bounded() {
    let mut session = Session::default();
    for index in 0..PODS_MAX {
        session.take(Message::Keep(uid(&index.to_string()))).expect("room");
    }
    assert_eq!(session.take(Message::Keep(uid("more"))), Err(SessionError::TooManyPods));
    // One that was told before takes no room.
    assert!(session.take(Message::Keep(uid("0"))).is_ok());
}

fn message() -> impl Strategy<Value = Message> {
    let name = prop::sample::select(vec!["a", "b", "c"]);
    prop_oneof![
        name.clone().prop_map(|name| Message::Add(pod(name))),
        name.clone().prop_map(|name| Message::Keep(uid(name))),
        name.prop_map(|name| Message::Delete(uid(name))),
    ]
}

proptest! {
    /// Whatever was said, the end of the snapshot keeps exactly what was told last of each pod.
    #[test]
    fn the_last_word_on_a_pod_counts(messages in prop::collection::vec(message(), 0..20)) {
        let mut session = Session::default();
        let mut there = BTreeSet::new();
        for message in messages {
            match &message {
                Message::Add(Pod { uid, .. }) | Message::Keep(uid) => {
                    there.insert(uid.clone());
                }
                Message::Delete(uid) => {
                    there.remove(uid);
                }
                Message::SnapshotSent => {}
            }
            session.take(message).expect("in turn");
        }
        prop_assert_eq!(session.take(Message::SnapshotSent), Ok(Act::KeepOnly(there)));
    }
}
