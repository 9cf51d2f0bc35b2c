//! Texts, and what is read of them.

use super::*;
use crate::Readable;
use crate::authorization_policy::{Action, Binding};
use crate::peer_authentication::Mode;
use crate::service::PortRef;

fn objects(text: &str) -> Vec<Object> {
    let manifest = read(text);
    assert_eq!(manifest.errors, []);
    manifest.objects
}

fn error(text: &str) -> String {
    let mut errors = read(text).errors;
    assert_eq!(errors.len(), 1, "{errors:?}");
    errors.remove(0).to_string()
}

#[test]
fn several_documents_are_read_in_order_and_other_kinds_left_out() {
    let manifest = read(
        "\
# a comment
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}
--- # another
apiVersion: apps/v1
kind: Deployment
metadata: {name: cart}
---
apiVersion: v1
kind: Pod
metadata: {name: cart-1, namespace: shop}
spec:
  nodeName: node-a
  containers: [{name: a, image: x, ports: [{name: web, containerPort: 8080}]}]
  initContainers:
  - {name: side, restartPolicy: Always, ports: [{name: admin, containerPort: 9000}]}
  - {name: init, ports: [{name: never, containerPort: 9001}]}
status:
  phase: Running
  podIPs: [{ip: 10.0.0.7}, {ip: 'fd00::7'}]
  conditions: [{type: Ready, status: 'True'}]
---
",
    );
    assert_eq!(manifest.errors, []);
    assert_eq!(manifest.ignored, 1);
    let keys: Vec<String> = manifest.objects.iter().map(|o| o.key().to_string()).collect();
    assert_eq!(keys, ["Namespace shop", "Pod shop/cart-1"]);
    let own_name = manifest.objects[0].meta().label("kubernetes.io/metadata.name");
    assert_eq!(own_name, Some("shop"));
    let Object::Pod(pod) = &manifest.objects[1] else { panic!("a pod") };
    assert!(pod.is_ready() && !pod.has_ended());
    assert_eq!(pod.ips().collect::<Vec<_>>(), ["10.0.0.7", "fd00::7"]);
    assert_eq!(pod.service_account(), "default");
    for (name, number) in [("web", Some(8080)), ("admin", Some(9000)), ("never", None)] {
        assert_eq!(pod.named_port(name), number, "{name}");
    }
}

#[test]
fn what_kubectl_prints_is_read() {
    let list = objects(
        r#"{"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a",
             "creationTimestamp": null}, "spec": {"clusterIP": "10.1.0.1", "ports": [
               {"port": 80, "targetPort": "web"}, {"port": 81, "targetPort": 8081}, {"port": 82}]}}
        ]}"#,
    );
    let [Object::Service(service)] = &list[..] else { panic!("{list:?}") };
    assert_eq!(service.metadata.object_name().to_string(), "default/a");
    let targets: Vec<_> = service.spec.ports.iter().map(|p| p.target_port.clone()).collect();
    assert_eq!(targets, [Some(PortRef::Name("web".into())), Some(PortRef::Number(8081)), None]);
}

#[test]
fn words_are_no_booleans() {
    let list = objects("apiVersion: v1\nkind: Node\nmetadata: {name: n, labels: {a: y, b: off}}\n");
    assert_eq!(&*list[0].meta().name, "n");
    assert_eq!((list[0].meta().label("a"), list[0].meta().label("b")), (Some("y"), Some("off")));
}

#[test]
fn a_mistake_names_document_and_field_and_leaves_the_rest() {
    let manifest = read(
        "\
apiVersion: v1
kind: Pod
metadata: {name: a}
status: {phase: Sleeping}
---
apiVersion: v1
kind: Node
metadata: {name: b}
",
    );
    let found: Vec<String> = manifest.errors.iter().map(ToString::to_string).collect();
    assert_eq!(found.len(), 1);
    let text = &found[0];
    assert!(
        text.starts_with("document 1 (line 1): Pod a: status.phase: unknown variant"),
        "{text}"
    );
    assert_eq!(manifest.objects.len(), 1);

    let text = error("apiVersion: v1\nkind: Pod\nmetadata: {}\n");
    assert_eq!(text, "document 1 (line 1): Pod : metadata.name: is missing");
    let text = error("---\na: b\n---\n");
    assert_eq!(text, "document 1 (line 1): neither apiVersion nor kind may be missing");
    let text = error("apiVersion: v1\nkind: Node\nmetadata: {name: x}\n---\napiVersion: [\n");
    assert!(text.starts_with("document 2 (line "), "{text}");
}

#[test]
fn a_policy_that_is_not_understood_keeps_its_name() {
    let policy = |spec: &str| {
        let text = format!(
            "apiVersion: security.istio.io/v1beta1\nkind: AuthorizationPolicy\n\
             metadata: {{name: p, namespace: shop}}\nspec: {spec}\n"
        );
        let mut list = objects(&text);
        let Some(Object::AuthorizationPolicy(policy)) = list.pop() else { panic!("a policy") };
        policy
    };
    let read = policy("{action: DENY, rules: [{from: [{source: {principals: ['*']}}]}]}");
    let spec = read.spec.read().expect("read");
    assert_eq!(spec.action, Action::Deny);
    assert_eq!(&*spec.rules[0].from[0].source.principals[0], "*");
    assert!(policy("null").spec.read().is_some_and(|spec| spec.rules.is_empty()));

    let unreadable = policy("{action: MAYBE}");
    let Readable::Unreadable(unread) = &unreadable.spec else { panic!("{unreadable:?}") };
    assert!(unread.cause.starts_with("action: unknown variant `MAYBE`"), "{}", unread.cause);
    assert_eq!(unread.salvage::<Binding>(), Some(Binding::default()));
    let unreadable = policy("{rules: [{from: [{source: {principals: 7}}]}]}");
    let Readable::Unreadable(unread) = &unreadable.spec else { panic!("{unreadable:?}") };
    assert!(unread.cause.contains("principals"), "{}", unread.cause);
    let unreadable = policy("{selector: {matchLabels: {app: a}}, rules: 7}");
    let Readable::Unreadable(unread) = &unreadable.spec else { panic!("{unreadable:?}") };
    let selector = unread.salvage::<Binding>().and_then(|binding| binding.selector);
    assert!(selector.is_some_and(|selector| selector.match_labels.0.get("app") == Some("a")));
    let unreadable = policy("{selector: 7}");
    let Readable::Unreadable(unread) = &unreadable.spec else { panic!("{unreadable:?}") };
    assert_eq!(unread.salvage::<Binding>(), None);

    // What we do not know of a rule is remembered: leaving it out would widen the rule.
    let newer = policy("{rules: [{from: [{source: {moods: [good]}}], unless: []}]}");
    let rule = &newer.spec.read().expect("read").rules[0];
    assert_eq!((&*rule.unknown[0], &*rule.from[0].source.unknown[0]), ("unless", "moods"));
}

fn unread<T>(spec: &Readable<T>) -> &crate::Unreadable {
    let Readable::Unreadable(why) = spec else { panic!("it was read") };
    why
}

#[test]
fn a_policy_that_cannot_be_read_at_all_denies() {
    let header = |version: &str, kind: &str, meta: &str| {
        format!("apiVersion: security.istio.io/{version}\nkind: {kind}\nmetadata: {{{meta}}}\n")
    };
    for (version, meta, key, cause) in [
        ("v1", "name: p, namespace: shop, labels: {tier: 1}", "shop/p", "metadata.labels.tier: "),
        ("v1", "name: p, generation: x", "default/p", "metadata.generation: invalid type"),
        (
            "v2",
            "name: p, namespace: shop",
            "shop/p",
            "apiVersion: the version \"security.istio.io/v2",
        ),
    ] {
        for kind in ["AuthorizationPolicy", "PeerAuthentication"] {
            let manifest = read(&(header(version, kind, meta) + "spec: {}\n"));
            assert_eq!((manifest.errors.len(), manifest.ignored), (1, 0), "{meta}");
            let error = manifest.errors[0].to_string();
            assert!(error.contains(cause) && error.contains(kind), "{error}");
            assert_eq!(manifest.objects.len(), 1, "{meta}");
            assert_eq!(manifest.objects[0].key().to_string(), format!("{kind} {key}"));
            let object = &manifest.objects[0];
            let why = if let Object::AuthorizationPolicy(policy) = object {
                unread(&policy.spec)
            } else {
                let Object::PeerAuthentication(policy) = object else { panic!("{object:?}") };
                unread(&policy.spec)
            };
            let (why, binding) = (&why.cause, why.salvage::<Binding>());
            assert!(why.starts_with(cause), "{why}");
            assert_eq!(binding, None);
        }
    }
    // Nobody knows which policy it is, or it denies nothing.
    for text in [
        header("v1", "AuthorizationPolicy", "labels: {tier: 1}"),
        header("v2", "RequestAuthentication", "name: p"),
        header("v9", "PeerAuthentication", ""),
        "apiVersion: v2\nkind: Pod\nmetadata: {name: a}\n".to_owned(),
        "apiVersion: gateway.networking.k8s.io/v1alpha2\nkind: Gateway\n".to_owned(),
    ] {
        let manifest = read(&text);
        assert_eq!((manifest.errors.len(), manifest.objects.len(), manifest.ignored), (1, 0, 0));
    }
    let other = "apiVersion: security.example/v2\nkind: AuthorizationPolicy\n";
    assert_eq!(read(other).ignored, 1);
}

#[test]
fn values_of_the_other_kinds_are_strict() {
    let text = |kind: &str, group: &str, spec: &str| {
        format!("apiVersion: {group}/v1\nkind: {kind}\nmetadata: {{name: a}}\nspec: {spec}\n")
    };
    let list = objects(&text(
        "PeerAuthentication",
        "security.istio.io",
        "{mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: PERMISSIVE}}}",
    ));
    let [Object::PeerAuthentication(peer)] = &list[..] else { panic!("{list:?}") };
    let spec = peer.spec.read().expect("read");
    assert_eq!(spec.mtls.mode, Mode::Strict);
    assert_eq!(spec.port_level_mtls["8080"].mode, Mode::Permissive);
    let refused = error(&text("ServiceEntry", "networking.istio.io", "{resolution: MAGIC}"));
    assert!(refused.contains("spec.resolution: unknown variant `MAGIC`"), "{refused}");
    let refused = error(&text("WorkloadEntry", "networking.istio.io", "{ports: {web: 70000}}"));
    assert!(refused.contains("spec.ports.web: invalid value"), "{refused}");
    let refused = error(&text("Gateway", "gateway.networking.k8s.io", "{listeners: [{port: -1}]}"));
    assert!(refused.contains("spec.listeners[0].port: invalid value"), "{refused}");
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in ".{0,200}") {
        let _ = read(&text);
        let _ = read(&format!("apiVersion: v1\nkind: Pod\n---{text}"));
    }
}
