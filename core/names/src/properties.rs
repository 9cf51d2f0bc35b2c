//! What holds for every message.

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};
use proptest::prelude::*;
use resolve::Snapshot;

use super::tests::{ask, pod, question, service};
use super::*;

fn mesh() -> Snapshot {
    let headless = "shop/h.shop.svc.cluster.local";
    let workloads = vec![pod("h-0", &["10.0.0.1"], &[headless])];
    let services = vec![
        service("shop/a.shop.svc.cluster.local", &["10.1.0.1"]),
        service("shop/*.b", &["10.1.0.2", "fd00::2"]),
        service(headless, &[]),
    ];
    Snapshot::build(workloads, services)
}

/// Whether the mesh above owns a name for namespace `shop`, by its own rules.
fn is_owned(labels: &[&str]) -> bool {
    let full = ["svc", "cluster", "local"];
    let kubernetes = |rest: &[&str]| {
        let names: &[&[&str]] = &[&["a", "shop"], &["h", "shop"], &["h-0", "h", "shop"]];
        names.iter().any(|name| {
            let complete = [*name, &full].concat();
            let cut = [*name, &["svc"]].concat();
            let own = &name[..name.len() - 1];
            rest == complete || rest == cut || rest == *name || rest == own
        })
    };
    let wildcard = labels.len() > 1 && labels.last() == Some(&"b");
    kubernetes(labels) || wildcard
}

fn a_label() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "a", "b", "h", "h-0", "h-1", "shop", "bank", "svc", "cluster", "local", "*", "_tcp",
    ])
}

fn a_name() -> impl Strategy<Value = Vec<&'static str>> {
    let tail = prop::sample::select(vec![
        vec![],
        vec!["shop"],
        vec!["shop", "svc"],
        vec!["shop", "svc", "cluster", "local"],
    ]);
    (prop::collection::vec(a_label(), 0..4), tail).prop_map(|(head, tail)| [head, tail].concat())
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let mesh = mesh();
        if let Answer::Reply(reply) = ask(&mesh, "shop", &bytes) {
            prop_assert!(Message::from_vec(&reply.message).is_ok());
        }
        let _ = Question::read(&bytes);
        let _ = Header::read(&bytes);
        if let Some(reply) = servfail(&bytes) {
            prop_assert_eq!(&reply[..2], &bytes[..2]);
            let reply = Message::from_vec(&reply).expect("a message");
            prop_assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
        }
    }

    #[test]
    fn a_damaged_question_is_forwarded_or_answered_whole(
        at in 0..60_usize,
        bit in 0..8_u8,
        name in a_name(),
    ) {
        prop_assume!(!name.is_empty());
        let mut bytes = question(&format!("{}.", name.join(".")), RecordType::A).to_vec().expect("encodes");
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 1 << bit;
        }
        if let Answer::Reply(reply) = ask(&mesh(), "shop", &bytes) {
            let request = Message::from_vec(&bytes).expect("it was understood");
            let reply = Message::from_vec(&reply.message).expect("a message");
            prop_assert_eq!(reply.metadata.id, request.metadata.id);
            prop_assert_eq!(reply.queries, request.queries);
        }
    }

    #[test]
    fn what_is_not_owned_is_forwarded_and_nothing_else(
        name in a_name(),
        kind in prop::sample::select(vec![
            RecordType::A, RecordType::AAAA, RecordType::SRV, RecordType::TXT, RecordType::ANY,
        ]),
        opcode in prop::sample::select(vec![OpCode::Query, OpCode::Query, OpCode::Update]),
        class in prop::sample::select(vec![DNSClass::IN, DNSClass::IN, DNSClass::CH]),
        response in prop::sample::select(vec![false, false, true]),
    ) {
        let mut message = question(&format!("{}.", name.join(".")), kind);
        message.metadata.op_code = opcode;
        message.queries[0].set_query_class(class);
        if response {
            message.metadata.message_type = MessageType::Response;
        }
        let bytes = message.to_vec().expect("encodes");
        let owned = matches!(kind, RecordType::A | RecordType::AAAA)
            && opcode == OpCode::Query
            && class == DNSClass::IN
            && !response
            && is_owned(&name);
        let answered = matches!(ask(&mesh(), "shop", &bytes), Answer::Reply(_));
        prop_assert_eq!(answered, owned, "{:?}", name);
    }
}
