use proptest::prelude::*;

use super::*;

fn uid(text: &str) -> PodUid {
    PodUid::parse(text).expect("a uid")
}

#[test]
fn messages_are_read() {
    let add = b"\x0a\x15\x0a\x01u\x12\x10\x0a\x04cart\x12\x04shop\x1a\x02sa";
    let workload = WorkloadKey::parse("shop/cart/sa").expect("a key");
    assert_eq!(read(add, 1), Ok(Message::Add(Pod { uid: uid("u"), workload })));
    assert_eq!(read(b"\x12\x03\x12\x01u", 0), Ok(Message::Delete(uid("u"))));
    assert_eq!(read(b"\x1a\x00", 0), Ok(Message::SnapshotSent));
    assert_eq!(read(b"\x2a\x03\x0a\x01u", 0), Ok(Message::Keep(uid("u"))));
}

#[test]
fn what_cannot_be_read_is_named() {
    let add = b"\x0a\x15\x0a\x01u\x12\x10\x0a\x04cart\x12\x04shop\x1a\x02sa";
    let descriptors = |with, found, expected| Err(ReadError::Descriptors { with, found, expected });
    assert_eq!(read(add, 0), descriptors("AddWorkload", 0, 1));
    assert_eq!(read(add, 2), descriptors("AddWorkload", 2, 1));
    assert_eq!(read(b"\x1a\x00", 1), descriptors("SnapshotSent", 1, 0));
    assert_eq!(read(b"", 0), Err(ReadError::Unknown));
    assert_eq!(read(b"\x22\x00", 0), Err(ReadError::Unknown), "the reserved number");
    assert!(matches!(read(b"\xff", 0), Err(ReadError::Malformed(_))));
    assert_eq!(read(b"\x0a\x03\x0a\x01u", 1), Err(ReadError::NoWorkload(uid("u"))));
    assert!(matches!(read(b"\x0a\x03\x0a\x01/", 1), Err(ReadError::Uid(_))));
    // A workload without a service account is nobody.
    let nameless = b"\x0a\x11\x0a\x01u\x12\x0c\x0a\x04cart\x12\x04shop";
    assert!(matches!(read(nameless, 1), Err(ReadError::Workload { .. })));
    // No name smuggles a part of another.
    let slash = b"\x0a\x15\x0a\x01u\x12\x10\x0a\x04ca/t\x12\x04shop\x1a\x02sa";
    assert!(matches!(read(slash, 1), Err(ReadError::Workload { .. })));
}

#[test]
fn an_answer_fits_into_a_packet() {
    assert_eq!(answer(Ok(())), b"\x0a\x00");
    assert_eq!(answer(Err("no")), b"\x0a\x04\x0a\x02no");
    let long = answer(Err(&"ü".repeat(PACKET_MAX)));
    assert!(long.len() <= PACKET_MAX);
    let answer = WorkloadResponse::decode(&*long).expect("an answer");
    let Some(workload_response::Payload::Ack(ack)) = answer.payload else { panic!("no ack") };
    assert!(ack.error.len() > ERROR_MAX - 4);
}

#[test]
fn the_first_packet_is_the_version() {
    assert_eq!(hello(), b"\x08\x01");
}

proptest! {
    #[test]
    fn no_packet_panics(packet in proptest::collection::vec(any::<u8>(), 0..200), fds in 0_usize..3) {
        let _ = read(&packet, fds);
    }
}
