use super::*;

#[test]
fn json_is_read_as_a_manifest_is() {
    let text = r#"{"metadata":{"name":"web","unknown":{"a":[1]}},"spec":{"nodeName":"n1"}}"#;
    let pod = Object::from_json(Kind::Pod, text).expect("a pod");
    assert_eq!(pod.key().to_string(), "Pod default/web");
    let namespace = Object::from_json(Kind::Namespace, r#"{"metadata":{"name":"shop"}}"#);
    let namespace = namespace.expect("a namespace");
    assert_eq!(namespace.meta().label("kubernetes.io/metadata.name"), Some("shop"));
}

#[test]
fn what_cannot_be_read_is_named() {
    let error = |kind, text| Object::from_json(kind, text).expect_err("unreadable").to_string();
    let text = r#"{"metadata":{"name":"web"},"spec":{"ports":[{"port":80},{"port":70000}]}}"#;
    let port = error(Kind::Service, text);
    assert!(port.starts_with("spec.ports[1].port: invalid value: integer `70000`"), "{port}");
    assert_eq!(error(Kind::Pod, "{}"), "metadata.name: is missing");
    let whole = error(Kind::Pod, "7");
    assert!(whole.starts_with("invalid type: integer `7`"), "{whole}");
    let syntax = error(Kind::Pod, r#"{"metadata""#);
    assert!(syntax.starts_with("EOF while parsing"), "{syntax}");
}
