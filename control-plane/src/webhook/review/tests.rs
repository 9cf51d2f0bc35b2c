use super::*;

fn settings() -> Settings {
    Settings::new(model::TrustDomain::default())
}

fn policy(spec: &Value) -> Value {
    json!({ "metadata": { "name": "p", "namespace": "shop" }, "spec": spec })
}

fn question(kind: &str, operation: &str, object: &Value, old: &Value) -> Value {
    let group = match kind {
        "ServiceEntry" | "WorkloadEntry" => "networking.istio.io",
        "Service" => "",
        _ => "security.istio.io",
    };
    json!({
        "apiVersion": API_VERSION, "kind": "AdmissionReview",
        "request": {
            "uid": "u1", "kind": { "group": group, "version": "v1", "kind": kind },
            "resource": { "resource": "any" }, "operation": operation,
            "userInfo": { "username": "somebody" }, "object": object, "oldObject": old,
        },
    })
}

fn ask(question: &Value) -> Value {
    let answer = review(question.to_string().as_bytes(), &settings()).expect("an answer");
    assert_eq!(answer["apiVersion"], API_VERSION);
    assert_eq!(answer["response"]["uid"], "u1");
    answer["response"].clone()
}

#[track_caller]
fn check(question: &Value, expected: Option<&str>) {
    let response = ask(question);
    let message = response["status"]["message"].as_str();
    match expected {
        None => assert!(response["allowed"] == true && message.is_none(), "{response}"),
        Some(part) => {
            assert_eq!(response["allowed"], false, "{response}");
            assert!(message.is_some_and(|message| message.contains(part)), "{response}");
        }
    }
}

#[track_caller]
fn create(kind: &str, object: &Value, expected: Option<&str>) {
    check(&question(kind, "CREATE", object, &Value::Null), expected);
}

#[test]
fn what_can_be_enforced_is_allowed() {
    let ports = json!({ "rules": [{ "to": [{ "operation": { "ports": ["80"] } }] }] });
    create("AuthorizationPolicy", &policy(&ports), None);
    create("AuthorizationPolicy", &policy(&json!({})), None);
    create("PeerAuthentication", &policy(&json!({ "mtls": { "mode": "STRICT" } })), None);
    create("Service", &policy(&json!({ "ports": [{ "port": 80 }], "unknown": true })), None);
}

#[test]
fn what_cannot_be_read_is_refused_with_its_field() {
    let action = policy(&json!({ "action": "REFUSE" }));
    create("AuthorizationPolicy", &action, Some("REFUSE"));
    let mode = policy(&json!({ "mtls": { "mode": "MAYBE" } }));
    create("PeerAuthentication", &mode, Some("MAYBE"));
    let entry = policy(&json!({ "resolution": "MAGIC" }));
    create("ServiceEntry", &entry, Some("spec.resolution: unknown variant `MAGIC`"));
    let port = policy(&json!({ "ports": [{ "port": 70000 }] }));
    create("Service", &port, Some("spec.ports[0].port: invalid value: integer `70000`"));
    create("WorkloadEntry", &json!({ "metadata": {} }), Some("metadata.name: is missing"));
}

#[test]
fn what_cannot_be_enforced_is_refused() {
    let rule = json!({ "to": [{ "operation": { "paths": ["/admin"] } }] });
    let paths = json!({ "action": "DENY", "rules": [rule] });
    create("AuthorizationPolicy", &policy(&paths), Some("paths"));
    let rule = json!({ "from": [{ "source": { "newThing": ["x"] } }] });
    let unknown = json!({ "action": "ALLOW", "rules": [rule] });
    create("AuthorizationPolicy", &policy(&unknown), Some("newThing"));
}

#[test]
fn what_is_not_ours_to_judge_is_allowed() {
    let bad = policy(&json!({ "action": "REFUSE" }));
    check(&question("AuthorizationPolicy", "DELETE", &Value::Null, &bad), None);
    create("EnvoyFilter", &bad, None);
    let mut other = bad.clone();
    other["metadata"]["labels"] = json!({ "istio.io/rev": "canary" });
    create("AuthorizationPolicy", &other, None);
    // From the other revision to ours is a change.
    check(&question("AuthorizationPolicy", "UPDATE", &bad, &other), Some("REFUSE"));
}

#[test]
fn a_broken_object_can_be_looked_after() {
    let bad = policy(&json!({ "action": "REFUSE" }));
    let mut labelled = bad.clone();
    labelled["metadata"]["labels"] = json!({ "a": "b" });
    check(&question("AuthorizationPolicy", "UPDATE", &labelled, &bad), None);
    let worse = policy(&json!({ "action": "WORSE" }));
    check(&question("AuthorizationPolicy", "UPDATE", &worse, &bad), Some("WORSE"));
    let mut going = worse;
    going["metadata"]["deletionTimestamp"] = json!("2026-11-25T12:00:00Z");
    check(&question("AuthorizationPolicy", "UPDATE", &going, &bad), None);
}

#[test]
fn other_questions_are_errors() {
    let error = |body: &str| review(body.as_bytes(), &settings()).expect_err("no answer");
    assert!(matches!(error("{"), ReviewError::Unreadable(_)));
    assert!(matches!(error("{}"), ReviewError::Other(_)));
    let mut old = question("Service", "CREATE", &policy(&json!({})), &Value::Null);
    old["apiVersion"] = json!("admission.k8s.io/v1beta1");
    assert!(matches!(error(&old.to_string()), ReviewError::Other(_)));
}

#[test]
fn reasons_are_bounded() {
    let reasons: Vec<_> = (0..REASONS_MAX + 2).map(|n| n.to_string()).collect();
    assert_eq!(message(&reasons), "0; 1; 2; 3; 4; 5; 6; 7; 8; 9; and 2 more");
}
