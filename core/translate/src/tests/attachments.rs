//! Policies of waypoints: where each is enforced, and why not.

use super::*;

const CLASS: &str = "---
{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: istio-waypoint}}
";

fn gateway_with(addresses: &str) -> String {
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: wp, namespace: ns}}
spec: {{gatewayClassName: istio-waypoint, listeners: [{{name: mesh, port: 15008, protocol: HBONE}}]}}
status: {{addresses: {addresses}}}
"
    )
}

fn ready() -> String {
    gateway_with("[{type: IPAddress, value: 10.5.0.1}]")
}

fn service(label: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: svc, namespace: ns, labels: {{{label}}}}}
spec: {{clusterIP: 10.6.0.1, ports: [{{port: 80}}]}}
"
    )
}

fn entry(label: &str) -> String {
    format!(
        "---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: se, namespace: ns, labels: {{{label}}}}}
spec: {{hosts: [a.example], ports: [{{number: 80, name: http}}]}}
"
    )
}

fn policy(namespace: &str, targets: &str) -> String {
    format!(
        "---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: p, namespace: {namespace}}}
spec: {{targetRefs: {targets}, rules: [{{to: [{{operation: {{methods: [GET]}}}}]}}]}}
"
    )
}

const USE: &str = "istio.io/use-waypoint: wp";
const TO_SERVICE: &str = "[{kind: Service, name: svc}]";
const TO_ENTRY: &str = "[{group: networking.istio.io, kind: ServiceEntry, name: se}]";
const TO_GATEWAY: &str = "[{group: gateway.networking.k8s.io, kind: Gateway, name: wp}]";
const TO_CLASS: &str =
    "[{group: gateway.networking.k8s.io, kind: GatewayClass, name: istio-waypoint}]";

fn of(mesh: &Mesh, namespace: &str) -> String {
    mesh.conditions(Kind::AuthorizationPolicy, namespace, "p").join("; ")
}

fn enforcers(mesh: &Mesh, namespace: &str) -> String {
    let names = mesh.translator.enforcers(&key(Kind::AuthorizationPolicy, namespace, "p"));
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_target_is_looked_up_and_its_waypoint() {
    let both =
        format!("[{}, {}]", &TO_SERVICE[1..TO_SERVICE.len() - 1], "{kind: Service, name: x}");
    let (plain, used) = (service(""), service(USE));
    let (root, away) = ("istio-system", gateway_with("[]"));
    let cases: [(&str, &str, String, &str, &str); 17] = [
        ("ns", TO_SERVICE, String::new(), "false TargetNotFound", ""),
        ("ns", TO_SERVICE, plain.clone(), "false AncestorNotBound", ""),
        ("ns", TO_SERVICE, used.clone(), "false AncestorNotBound", ""),
        ("ns", TO_SERVICE, away.clone() + &used, "false AncestorNotBound", ""),
        ("ns", TO_SERVICE, ready() + &used, "true Accepted", "ns/wp"),
        ("other", TO_SERVICE, ready() + &used, "false TargetNotFound", ""),
        ("ns", TO_ENTRY, ready() + &entry(""), "false AncestorNotBound", ""),
        ("ns", TO_ENTRY, ready() + &entry(USE), "true Accepted", "ns/wp"),
        ("ns", TO_GATEWAY, String::new(), "false TargetNotFound", ""),
        ("ns", TO_GATEWAY, away.clone(), "false AncestorNotBound", ""),
        ("ns", TO_GATEWAY, ready(), "true Accepted", "ns/wp"),
        ("ns", TO_CLASS, CLASS.to_owned() + &ready(), "false Invalid", ""),
        (root, TO_CLASS, ready(), "false TargetNotFound", ""),
        (root, TO_CLASS, CLASS.to_owned() + &away, "false AncestorNotBound", ""),
        (root, TO_CLASS, CLASS.to_owned() + &ready(), "true Accepted", "ns/wp"),
        ("ns", "[{group: apps, kind: Deployment, name: d}]", String::new(), "false Invalid", ""),
        ("ns", &both, ready() + &used, "false PartiallyInvalid", "ns/wp"),
    ];
    for (namespace, targets, objects, condition, by) in cases {
        let policy = policy(namespace, targets);
        let want = format!("WaypointAccepted {condition}");
        // Whatever comes first.
        let mut late = Mesh::of(&policy);
        late.set(&objects);
        for mesh in [Mesh::of(&(objects.clone() + &policy)), late] {
            assert_eq!(of(&mesh, namespace), want, "{targets} {objects}");
            assert_eq!(enforcers(&mesh, namespace), by, "{targets} {objects}");
            assert!(mesh.policies.is_empty(), "nodes are told nothing");
        }
    }
    let foreign = policy("ns", "[{kind: Service, name: svc, namespace: other}]");
    assert_eq!(of(&Mesh::of(&foreign), "ns"), "WaypointAccepted false Invalid");
}

#[test]
fn a_change_of_what_is_targeted_changes_the_status() {
    const NOT_BOUND: &str = "WaypointAccepted false AncestorNotBound";
    const ACCEPTED: &str = "WaypointAccepted true Accepted";
    let mut mesh = Mesh::of(&policy("ns", TO_SERVICE));
    let follow = |mesh: &mut Mesh, text: &str| {
        let changes = mesh.set(text);
        let is_it = |key: &ObjectKey| key.kind == Kind::AuthorizationPolicy;
        let told: Vec<_> = changes.conditions.iter().filter(|(key, _)| is_it(key)).collect();
        let [(_, conditions)] = &*told else { panic!("{told:?}") };
        let [condition] = &**conditions else { panic!("{conditions:?}") };
        format!("{} {} {}", condition.kind, condition.status, condition.reason)
    };
    assert_eq!(follow(&mut mesh, &service(USE)), NOT_BOUND);
    assert_eq!(follow(&mut mesh, &ready()), ACCEPTED);
    // Nothing else of it changes, and nothing is said again.
    assert_eq!(mesh.set(&ready()).conditions, []);
    mesh.delete(Kind::Gateway, "ns", "wp");
    assert_eq!(of(&mesh, "ns"), NOT_BOUND);
    mesh.set(&ready());
    // From the waypoint to the nodes, and back.
    let nodes = policy("ns", "[]");
    assert_eq!(follow(&mut mesh, &nodes), "ZtunnelAccepted false UnsupportedValue");
    assert_eq!(of(&mesh, "ns"), "ZtunnelAccepted false UnsupportedValue");
    assert_eq!(follow(&mut mesh, &policy("ns", TO_SERVICE)), ACCEPTED);
    assert_eq!(of(&mesh, "ns"), ACCEPTED);
    mesh.delete(Kind::AuthorizationPolicy, "ns", "p");
    assert_eq!(of(&mesh, "ns"), "");
}

#[test]
fn a_gateway_that_is_no_waypoint_enforces_nothing() {
    let http = ready().replace("HBONE", "HTTP");
    let targets = [("ns", TO_SERVICE), ("ns", TO_GATEWAY), ("istio-system", TO_CLASS)];
    for (namespace, targets) in targets {
        let objects = CLASS.to_owned() + &http + &service(USE) + &policy(namespace, targets);
        let mesh = Mesh::of(&objects);
        assert_eq!(of(&mesh, namespace), "WaypointAccepted false AncestorNotBound", "{targets}");
        assert_eq!(enforcers(&mesh, namespace), "");
    }
}

#[test]
fn what_a_waypoint_may_not_enforce_is_not_accepted() {
    let policy = policy("ns", TO_SERVICE);
    let sound = ready() + &service(USE);
    for (from, to) in [
        ("spec: {", "spec: {action: AUDIT, "),
        ("spec: {", "spec: {action: CUSTOM, provider: {name: p}, "),
        ("spec: {", "spec: {unheardOf: 1, "),
        ("methods: [GET]", "methods: [GET], unheardOf: [x]"),
        ("namespace: ns}", "namespace: ns, annotations: {istio.io/dry-run: 'true'}}"),
    ] {
        assert!(policy.contains(from), "{from}");
        let mesh = Mesh::of(&(sound.clone() + &policy.replace(from, to)));
        assert_eq!(of(&mesh, "ns"), "WaypointAccepted false Invalid", "{to}");
        assert_eq!(enforcers(&mesh, "ns"), "", "{to}");
    }
}

#[test]
fn a_policy_of_a_class_follows_the_last_gateway_of_it() {
    let of_class = policy("istio-system", TO_CLASS);
    let mut mesh = Mesh::of(&(CLASS.to_owned() + &ready() + &of_class));
    assert_eq!(of(&mesh, "istio-system"), "WaypointAccepted true Accepted");
    // Another revision's now: it does not count, and its class is known all the same.
    mesh.set(&ready().replace("namespace: ns}", "namespace: ns, labels: {istio.io/rev: other}}"));
    assert_eq!(of(&mesh, "istio-system"), "WaypointAccepted false AncestorNotBound");
    mesh.set(&ready());
    assert_eq!(of(&mesh, "istio-system"), "WaypointAccepted true Accepted");
    mesh.delete(Kind::Gateway, "ns", "wp");
    assert_eq!(of(&mesh, "istio-system"), "WaypointAccepted false AncestorNotBound");
}

#[test]
fn what_cannot_be_read_is_not_enforced_by_a_waypoint_either() {
    let text = "---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: ns}
spec: {targetRefs: [{kind: Service, name: svc}], rules: 7}
";
    let mesh = Mesh::of(&(ready() + &service(USE) + text));
    assert_eq!(of(&mesh, "ns"), "WaypointAccepted false Invalid");
    assert_eq!(enforcers(&mesh, "ns"), "");
}
