use std::time::Duration;

use super::{
    Refusal, Reply, ReplyError, Request, RequestError, SandboxEnd, SandboxRequest, Valid, Work,
};
use crate::sandbox::{InterfaceName, Namespace, NetnsPath, PodName, PodUid, SandboxId};
use crate::{REPLY_BYTES_MAX, REQUEST_BYTES_MAX, code};

fn sandbox() -> SandboxRequest {
    SandboxRequest {
        uid: PodUid::new("u-1").expect("a UID"),
        namespace: Namespace::new("shop").expect("a namespace"),
        name: PodName::new("web-0").expect("a name"),
        sandbox: SandboxId::new("abc").expect("an id"),
        netns: NetnsPath::new("/run/netns/x").expect("a path"),
        addresses: vec!["10.0.0.1".parse().expect("an address"), "fd00::1".parse().expect("one")],
    }
}

#[test]
fn requests_are_these_lines() {
    let pod = concat!(
        r#"{"uid":"u-1","namespace":"shop","name":"web-0","sandbox":"abc","#,
        r#""netns":"/run/netns/x","addresses":["10.0.0.1","fd00::1"]}"#
    );
    let sandbox_id = || SandboxId::new("abc").expect("an id");
    let valid = Valid {
        sandbox: sandbox_id(),
        interface: InterfaceName::new("eth0").expect("an interface"),
    };
    let ended = SandboxEnd { sandbox: sandbox_id(), uid: None };
    let cases = [
        (Work::Add(sandbox()), format!(r#"{{"add":{pod}}}"#)),
        (Work::Check(sandbox()), format!(r#"{{"check":{pod}}}"#)),
        (Work::Delete(ended), r#"{"delete":{"sandbox":"abc","uid":null}}"#.to_owned()),
        (Work::Status, r#""status""#.to_owned()),
        (Work::Gc(vec![valid]), r#"{"gc":[{"sandbox":"abc","interface":"eth0"}]}"#.to_owned()),
    ];
    for (work, text) in cases {
        let request = Request { wait: Duration::from_millis(1500), work };
        let line = request.encode().expect("a line");
        let expected = format!("{{\"version\":1,\"waitMs\":1500,\"work\":{text}}}\n");
        assert_eq!(String::from_utf8_lossy(&line), expected);
        assert_eq!(Request::decode(&line).expect("a request"), request);
    }
}

#[test]
fn what_is_no_request_is_refused_with_a_code() {
    let cases = [
        ("", code::BAD_REQUEST),
        ("{}", code::BAD_REQUEST),
        (r#"{"version":2,"anything":[]}"#, code::PROTOCOL_MISMATCH),
        (r#"{"version":1,"waitMs":1,"work":"dance"}"#, code::BAD_REQUEST),
        (r#"{"version":1,"waitMs":-1,"work":"status"}"#, code::BAD_REQUEST),
        (
            r#"{"version":1,"waitMs":1,"work":{"delete":{"sandbox":"../x","uid":null}}}"#,
            code::BAD_REQUEST,
        ),
    ];
    for (line, code) in cases {
        let error = Request::decode(line.as_bytes()).expect_err(line);
        assert_eq!(error.refusal().code, code, "{line}: {error}");
    }
    let relative = serde_json::to_string(&sandbox()).expect("JSON").replace("/run", "../run");
    let line = format!(r#"{{"version":1,"waitMs":1,"work":{{"add":{relative}}}}}"#);
    let refusal = Request::decode(line.as_bytes()).expect_err("a relative path").refusal();
    assert!(refusal.message.contains("not absolute"), "{refusal}");

    let long = vec![b' '; REQUEST_BYTES_MAX + 1];
    assert!(matches!(Request::decode(&long), Err(RequestError::TooLong)));
    let valid = Valid {
        sandbox: SandboxId::new("a".repeat(256)).expect("an id"),
        interface: InterfaceName::new("eth0").expect("an interface"),
    };
    let many = Request { wait: Duration::ZERO, work: Work::Gc(vec![valid; 1000]) };
    assert!(matches!(many.encode(), Err(RequestError::TooLong)));
}

#[test]
fn replies_are_these_lines_and_nothing_else() {
    let refused = Reply::Refused(Refusal::new("IDENTITY_CONFLICT", "two pods"));
    let text = concat!(
        r#"{"version":1,"refused":{"code":"IDENTITY_CONFLICT","message":"two pods"},"#,
        r#""done":false}"#,
        "\n"
    );
    assert_eq!(String::from_utf8_lossy(&refused.encode()), text);
    assert_eq!(Reply::decode(text.as_bytes()).expect("a reply"), refused);
    assert_eq!(Reply::Done.encode(), b"{\"version\":1,\"done\":true}\n");
    assert_eq!(Reply::decode(&Reply::Done.encode()).expect("a reply"), Reply::Done);

    for bad in ["", "{}", r#"{"version":1}"#, r#"{"version":1,"done":false}"#, "OK"] {
        assert!(matches!(Reply::decode(bad.as_bytes()), Err(ReplyError::Unreadable(_))), "{bad}");
    }
    let both = r#"{"version":1,"done":true,"refused":{"code":"A","message":"b"}}"#;
    assert!(matches!(Reply::decode(both.as_bytes()), Err(ReplyError::Unreadable(_))));
    assert!(matches!(Reply::decode(br#"{"version":9}"#), Err(ReplyError::Version(9))));
    assert!(matches!(Reply::decode(&vec![b' '; REPLY_BYTES_MAX + 1]), Err(ReplyError::TooLong)));
}

#[test]
fn a_refusal_of_any_length_is_a_reply() {
    let refusal = Refusal::new("A".repeat(10_000), "ä\u{1}".repeat(10_000));
    let line = Reply::Refused(refusal).encode();
    let Reply::Refused(read) = Reply::decode(&line).expect("a reply") else { panic!("refused") };
    assert_eq!((read.code.len(), read.message.len()), (64, 2048));
}
