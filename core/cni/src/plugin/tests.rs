use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Answer, Environment, Question, Silence, Step, VERBS, plan, unreadable};
use crate::request::{Refusal, Reply, Request, Work};

const ARGS: &str = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=u-1";
/// With spaces and an order of its own: it must come out like that.
const PREVIOUS: &str =
    r#"{ "ips": [{"address":"10.0.0.5/24"}],  "cniVersion" : "1.1.0", "x": 1.50 }"#;

fn environment(command: &str, args: &str) -> Environment {
    Environment {
        command: Some(command.to_owned()),
        sandbox: Some("abc".to_owned()),
        netns: Some("/run/netns/x".to_owned()),
        args: Some(args.to_owned()),
    }
}

fn netconf(more: &str) -> String {
    format!(
        r#"{{"cniVersion":"1.1.0","name":"pods","type":"warren-cni","passNamespaces":["warren-system"],
            "prevResult":{PREVIOUS}{more}}}"#
    )
}

fn ask(environment: &Environment, netconf: &str) -> Box<Question> {
    match plan(environment, netconf.as_bytes()) {
        Step::Ask(question) => question,
        Step::Answer(answer) => panic!("answered at once: {answer:?}"),
    }
}

fn answer(environment: &Environment, netconf: &str) -> Answer {
    match plan(environment, netconf.as_bytes()) {
        Step::Answer(answer) => answer,
        Step::Ask(question) => panic!("asks: {question:?}"),
    }
}

/// An error object's number and code.
fn failure(answer: &Answer) -> (u64, String) {
    assert_eq!(answer.exit, 1, "{answer:?}");
    let error: Value = serde_json::from_slice(&answer.stdout).expect("an error object");
    let version = error["cniVersion"].as_str().expect("a version");
    assert!(crate::Version::parse(version).is_some(), "{version}");
    let details = error["details"].as_str().expect("details");
    assert!(!details.is_empty());
    let log = answer.log.as_deref().expect("a log line");
    assert!(log.contains(details) && !log.contains('\n'), "{log}");
    let code = error["msg"].as_str().expect("a message").to_owned();
    (error["code"].as_u64().expect("a number"), code)
}

fn fails(environment: &Environment, netconf: &str, number: u64, code: &str) {
    assert_eq!(failure(&answer(environment, netconf)), (number, code.to_owned()), "{netconf}");
}

fn succeeded(stdout: &str) -> Answer {
    Answer { stdout: stdout.as_bytes().to_vec(), exit: 0, log: None }
}

#[test]
fn add_asks_and_hands_the_result_on_byte_for_byte() {
    let question = ask(&environment("ADD", ARGS), &netconf(""));
    assert_eq!(question.socket().to_str(), Some("/run/warren/cni.sock"));
    assert_eq!(question.wait(), Duration::from_secs(30));
    let line = question.line(Duration::from_secs(30)).expect("a line");
    let request = Request::decode(&line).expect("a request");
    assert_eq!(request.wait, Duration::from_millis(29_750));
    let Work::Add(sandbox) = request.work else { panic!("{:?}", request.work) };
    let sandbox = serde_json::to_value(sandbox).expect("JSON");
    let expected = json!({
        "uid": "u-1", "namespace": "shop", "name": "web-0", "sandbox": "abc",
        "netns": "/run/netns/x", "addresses": ["10.0.0.5"],
    });
    assert_eq!(sandbox, expected);
    assert_eq!(question.answered(Ok(Reply::Done)), succeeded(PREVIOUS));
}

#[test]
fn add_fails_with_the_agents_reason_or_that_there_is_none() {
    let away = Silence::Away("Connection refused".to_owned());
    let cases = [
        (Ok(Reply::Refused(Refusal::new("IDENTITY_CONFLICT", "two"))), 100, "IDENTITY_CONFLICT"),
        (Ok(Reply::Refused(Refusal::new("AGENT_BUSY", "many"))), 11, "AGENT_BUSY"),
        (Ok(Reply::Refused(Refusal::new("AGENT_STOPPING", "bye"))), 11, "AGENT_STOPPING"),
        (Ok(Reply::Refused(Refusal::new("PROTOCOL_MISMATCH", "2"))), 11, "PROTOCOL_MISMATCH"),
        (Err(away), 11, "AGENT_AWAY"),
        (Err(Silence::Slow), 11, "AGENT_SLOW"),
        (Err(Silence::Unreadable("html".to_owned())), 101, "AGENT_UNREADABLE"),
    ];
    for (reply, number, code) in cases {
        let answer = ask(&environment("ADD", ARGS), &netconf("")).answered(reply);
        assert_eq!(failure(&answer), (number, code.to_owned()));
        assert!(answer.log.expect("a line").contains("shop/web-0"), "{code}");
    }
    let answer = ask(&environment("ADD", ARGS), &netconf(""))
        .answered(Err(Silence::Away("No such file or directory (os error 2)".to_owned())));
    let error: Value = serde_json::from_slice(&answer.stdout).expect("an error object");
    let details = error["details"].as_str().expect("details");
    for part in ["/run/warren/cni.sock", "No such file", "not started outside the mesh", "ztunnel"]
    {
        assert!(details.contains(part), "{details}");
    }
}

#[test]
fn add_passes_without_asking_only_where_nothing_could_be_in_the_mesh() {
    let passes = |args: &str| {
        assert_eq!(answer(&environment("ADD", args), &netconf("")), succeeded(PREVIOUS), "{args}");
        assert_eq!(answer(&environment("CHECK", args), &netconf("")), succeeded(""), "{args}");
    };
    passes("IgnoreUnknown=1;K8S_POD_NAMESPACE=warren-system;K8S_POD_NAME=ztunnel-x");
    // podman, nerdctl, ctr.
    passes("");
    passes("IgnoreUnknown=1;IP=10.0.0.9");
    let none = Environment { args: None, ..environment("ADD", "") };
    assert_eq!(answer(&none, &netconf("")), succeeded(PREVIOUS));

    // All that is doubtful is refused.
    for args in [
        "K8S_POD_NAME=web-0;K8S_POD_UID=u-1",
        "K8S_POD_NAMESPACE=;K8S_POD_NAME=web-0",
        "K8S_POD_NAMESPACE=shop;K8S_POD_NAMESPACE=warren-system;K8S_POD_NAME=a;K8S_POD_UID=b",
        "K8S_POD_NAMESPACE=warren-system;IP=1",
        "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0",
        "K8S_POD_NAMESPACE=shop;K8S_POD_UID=u-1",
        "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=../../x",
        "nonsense",
    ] {
        fails(&environment("ADD", args), &netconf(""), 4, "ARGS_INVALID");
    }
}

#[test]
fn add_refuses_what_it_cannot_work_with() {
    let add = environment("ADD", ARGS);
    fails(&add, r#"{"cniVersion":"1.1.0","name":"pods"}"#, 7, "NOT_CHAINED");
    fails(&add, r#"{"cniVersion":"1.1.0","prevResult":null}"#, 7, "NOT_CHAINED");
    fails(&add, r#"{"cniVersion":"1.1.0","prevResult":[]}"#, 7, "NETCONF_INVALID");
    fails(
        &add,
        r#"{"cniVersion":"1.1.0","prevResult":{"ips":[{"address":"x"}]}}"#,
        7,
        "NETCONF_INVALID",
    );
    fails(&add, &netconf(r#","timeoutSeconds":0"#), 7, "NETCONF_INVALID");
    fails(&add, r#"{"cniVersion":"0.2.0"}"#, 1, "VERSION_UNSUPPORTED");
    fails(&add, "{}", 1, "VERSION_UNSUPPORTED");
    fails(&add, "nonsense", 6, "NETCONF_UNREADABLE");
    for (sandbox, netns) in [
        (None, Some("/run/netns/x")),
        (Some("a/b"), Some("/run/netns/x")),
        (Some("abc"), None),
        (Some("abc"), Some("run/netns/x")),
        (Some("abc"), Some("/run/netns/../../proc/1/ns/net")),
    ] {
        let sandbox = sandbox.map(str::to_owned);
        let environment =
            Environment { sandbox, netns: netns.map(str::to_owned), ..environment("ADD", ARGS) };
        fails(&environment, &netconf(""), 4, "ARGS_INVALID");
    }
}

#[test]
fn check_asks_and_prints_nothing() {
    let question = ask(&environment("CHECK", ARGS), &netconf(""));
    let request = Request::decode(&question.line(question.wait()).expect("a line"));
    assert!(matches!(request.expect("a request").work, Work::Check(_)));
    assert_eq!(question.answered(Ok(Reply::Done)), succeeded(""));
    let refused = Reply::Refused(Refusal::new("NOT_CAPTURED", "hooks are gone"));
    let answer = ask(&environment("CHECK", ARGS), &netconf("")).answered(Ok(refused));
    assert_eq!(failure(&answer), (100, "NOT_CAPTURED".to_owned()));
    let old = r#"{"cniVersion":"0.3.1","prevResult":{}}"#;
    fails(&environment("CHECK", ARGS), old, 1, "VERSION_UNSUPPORTED");
}

#[test]
fn del_succeeds_whatever_happens() {
    let gone = Environment { netns: None, ..environment("DEL", ARGS) };
    let question = ask(&gone, r#"{"cniVersion":"0.4.0"}"#);
    assert_eq!(question.wait(), Duration::from_secs(2));
    assert_eq!(question.patience(), Duration::ZERO);
    let request = Request::decode(&question.line(question.wait()).expect("a line"));
    let Work::Delete(ended) = request.expect("a request").work else { panic!("delete") };
    assert_eq!(ended.sandbox.as_str(), "abc");
    assert_eq!(ended.uid.expect("a UID").as_str(), "u-1");
    for reply in [
        Ok(Reply::Refused(Refusal::new("NOT_CAPTURED", "no"))),
        Err(Silence::Slow),
        Err(Silence::Away("gone".to_owned())),
        Err(Silence::Unreadable("html".to_owned())),
    ] {
        let answer = ask(&gone, r#"{"cniVersion":"0.4.0"}"#).answered(reply);
        assert_eq!((answer.exit, answer.stdout.len()), (0, 0));
        assert!(answer.log.expect("a line").contains("DEL sandbox abc"));
    }
    // Its pod is only a hint.
    for args in ["nonsense", "K8S_POD_NAME=a", "K8S_POD_NAMESPACE=shop;K8S_POD_UID=../x"] {
        ask(&environment("DEL", args), &netconf(""));
    }
    let passing = "K8S_POD_NAMESPACE=warren-system";
    for args in ["", passing] {
        assert_eq!(answer(&environment("DEL", args), &netconf("")), succeeded(""));
    }
    for broken in ["nonsense", "{}", r#"{"cniVersion":"9"}"#] {
        let answer = answer(&environment("DEL", ARGS), broken);
        assert_eq!((answer.exit, answer.stdout.len()), (0, 0), "{broken}");
    }
    assert_eq!(unreadable(&environment("DEL", ARGS), "too long").exit, 0);
    let add = unreadable(&environment("ADD", ARGS), "too long");
    assert_eq!(failure(&add), (5, "NETCONF_UNREADABLE".to_owned()));
}

/// A node whose network is not ready starts no pod at all, and so no agent.
#[test]
fn status_never_keeps_a_node_from_starting_its_agent() {
    let status = || ask(&environment("STATUS", ""), r#"{"cniVersion":"1.1.0"}"#);
    assert_eq!((status().wait(), status().patience()), (Duration::from_secs(2), Duration::ZERO));
    assert_eq!(status().answered(Ok(Reply::Done)), succeeded(""));
    let refused = Refusal::new("TOO_LATE", "the agent is stopping");
    for (reply, code) in [
        (Err(Silence::Away("gone".to_owned())), "AGENT_AWAY"),
        (Err(Silence::Slow), "AGENT_SLOW"),
        (Err(Silence::Unreadable("what?".to_owned())), "AGENT_UNREADABLE"),
        (Ok(Reply::Refused(refused)), "TOO_LATE"),
    ] {
        let answer = status().answered(reply);
        assert_eq!((answer.exit, answer.stdout.len()), (0, 0), "{code}");
        assert!(answer.log.expect("a line").contains(code));
    }
    fails(&environment("STATUS", ""), r#"{"cniVersion":"1.0.0"}"#, 1, "VERSION_UNSUPPORTED");
}

#[test]
fn gc_tells_what_is_valid_and_never_that_nothing_is() {
    let gc = environment("GC", "");
    let attachments = r#"{"cniVersion":"1.1.0","cni.dev/valid-attachments":[
        {"containerID":"abc","ifname":"eth0"},{"containerID":"def","ifname":"eth0"}]}"#;
    let question = ask(&gc, attachments);
    let request = Request::decode(&question.line(question.wait()).expect("a line"));
    let Work::Gc(valid) = request.expect("a request").work else { panic!("gc") };
    let valid: Vec<_> = valid.iter().map(|valid| valid.sandbox.as_str()).collect();
    assert_eq!(valid, ["abc", "def"]);
    assert_eq!(question.answered(Ok(Reply::Done)), succeeded(""));
    // As `cnitool gc` without attachments.
    let absent = answer(&gc, r#"{"cniVersion":"1.1.0"}"#);
    assert_eq!((absent.exit, absent.stdout.len()), (0, 0));
    assert!(absent.log.expect("a line").contains("nothing is collected"));
    fails(&gc, attachments.replace("1.1.0", "1.0.0").as_str(), 1, "VERSION_UNSUPPORTED");
    for none in ["[]", "null"] {
        let none = format!(r#"{{"cniVersion":"1.1.0","cni.dev/valid-attachments":{none}}}"#);
        let question = ask(&gc, &none);
        let request = Request::decode(&question.line(question.wait()).expect("a line"));
        assert_eq!(request.expect("a request").work, Work::Gc(Vec::new()));
    }
}

#[test]
fn version_and_unknown_commands() {
    let versions =
        r#"{"cniVersion":"0.4.0","supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}"#;
    let version = Environment { command: Some("VERSION".to_owned()), ..Environment::default() };
    assert_eq!(answer(&version, r#"{"cniVersion":"0.4.0"}"#), succeeded(versions));
    for unknown in ["", r#"{"cniVersion":"9.0.0"}"#] {
        assert_eq!(answer(&version, unknown), succeeded(&versions.replacen("0.4.0", "1.1.0", 1)));
    }
    fails(&environment("add", ARGS), &netconf(""), 4, "ARGS_INVALID");
    fails(&Environment::default(), &netconf(""), 4, "ARGS_INVALID");
}

proptest! {
    #[test]
    fn whatever_comes_in_has_an_answer(
        verb in 0_usize..7,
        sandbox: Option<String>,
        netns: Option<String>,
        args in proptest::option::of("(K8S_POD_NAMESPACE=shop;)?\\PC{0,40}"),
        contents in prop_oneof![
            any::<Vec<u8>>(),
            "\\{\"cniVersion\":\"1.1.0\",\"prevResult\":\\PC{0,40}\\}".prop_map(String::into_bytes),
        ],
        reply: Vec<u8>,
    ) {
        let command = VERBS.get(verb).map(|verb| (*verb).to_owned());
        let environment = Environment { command, sandbox, netns, args };
        let answer = match plan(&environment, &contents) {
            Step::Answer(answer) => answer,
            Step::Ask(question) => {
                prop_assert!(question.line(question.wait()).is_ok());
                let reply = Reply::decode(&reply);
                question.answered(reply.map_err(|error| Silence::Unreadable(error.to_string())))
            }
        };
        if environment.command.as_deref() == Some("DEL") {
            prop_assert_eq!(answer.exit, 0);
        }
        if answer.exit != 0 {
            failure(&answer);
        }
    }
}
