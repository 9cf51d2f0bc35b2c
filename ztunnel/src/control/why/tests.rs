//! Questions about a small mesh, asked on a node that has no pods of its own.

use std::time::{Duration, SystemTime};

use authz::{PolicyStore, Settings};
use local_config::Defaults;
use resolve::Snapshot;

use super::*;

const MESH: &str = r#"
workloads:
  - {name: web, namespace: shop, serviceAccount: web, protocol: HBONE, node: n2,
     workloadIps: [10.0.0.1, "fd00::1"]}
  - {name: cart, namespace: shop, serviceAccount: cart, protocol: HBONE, node: n3,
     workloadIps: [10.0.0.2, "fd00::2"], services: {shop/cart.svc: {80: 8080}}}
  - {name: vault, namespace: bank, protocol: TCP, node: n3, workloadIps: [10.0.0.3]}
  - {name: thief, namespace: bank, serviceAccount: thief, protocol: HBONE, node: n2,
     workloadIps: [10.0.0.4]}
services:
  - {name: cart, namespace: shop, hostname: cart.svc, vips: [/10.1.0.1, "/fd00:1::1"],
     ports: {80: 8080, 90: 9090}}
policies:
  - name: web-only
    namespace: shop
    scope: Namespace
    action: Allow
    rules:
      - - - principals: [!Exact cluster.local/ns/shop/sa/web]
"#;

fn ask(source: &str, destination: &str) -> Result<Why, Failure> {
    ask_of(MESH, (Sync::Complete, &[]), source, destination)
}

fn ask_in(sync: Sync, source: &str, destination: &str) -> Result<Why, Failure> {
    ask_of(MESH, (sync, &[]), source, destination)
}

fn ask_of(
    mesh: &str,
    (sync, settings): (Sync, &[(&str, &str)]),
    source: &str,
    destination: &str,
) -> Result<Why, Failure> {
    let environment =
        [("NODE_NAME", "n1"), ("LOCAL_XDS_PATH", "/nowhere"), ("WARREN_DEV_CA_DIR", "/nowhere")];
    let environment = environment.iter().chain(settings).copied();
    let config = Config::read(&environment.collect()).expect("settings");
    let mesh = local_config::parse("mesh.yaml", mesh, &Defaults::default()).expect("a mesh");
    let state = MeshState {
        sync,
        snapshot: Arc::new(Snapshot::build(mesh.workloads, mesh.services)),
        policies: Arc::new(PolicyStore::compile(
            mesh.policies,
            &Settings::rooted(&config.root_namespace),
        )),
        revision: 1,
        applied_at: SystemTime::UNIX_EPOCH,
    };
    // What threads leave alone is an endpoint of one service's port.
    let ejections = |service: &ServiceName| {
        let is_cart = service.to_string() == "shop/cart.svc";
        let ejection = Ejection {
            workload: model::WorkloadKey::parse("shop/cart/cart").expect("literal"),
            port: 80,
            code: Code::ConnectRefused,
            left: Duration::from_millis(1_500),
        };
        is_cart.then_some(ejection).into_iter().collect()
    };
    why(&config, &state, &LocalPods::default(), &ejections, (source, destination))
}

/// `kind address` of the route, and the code of the verdict if there is one.
fn outline(why: &Why) -> (String, Option<&str>) {
    let address = why.route.address.map_or_else(String::new, |address| format!(" {address}"));
    let code = why.route.code.as_deref().map_or_else(String::new, |code| format!(" {code}"));
    let verdict = why.verdict.as_ref().map(|verdict| &*verdict.code);
    (format!("{}{address}{code}", why.route.kind), verdict)
}

#[test]
fn endpoints_that_are_left_alone_are_named() {
    let told = "shop/cart/cart is left alone as an endpoint of shop/cart.svc:80 for 1.5 s more: \
                connections to it failed, CONNECT_REFUSED";
    for (destination, expected) in
        [("10.1.0.1:80", true), ("10.1.0.1:90", false), ("10.0.0.2:80", false)]
    {
        let why = ask("shop/web", destination).expect("an answer");
        assert_eq!(why.explanation.iter().any(|line| line == told), expected, "{why:?}");
    }
}

#[test]
fn routes_and_verdicts() {
    for (source, destination, route, verdict) in [
        // A workload by name, by address and by the service's name and address.
        ("shop/web", "shop/cart:8080", "hbone 10.0.0.2:8080", Some("OK")),
        ("10.0.0.1", "10.0.0.2:8080", "hbone 10.0.0.2:8080", Some("OK")),
        ("shop/web", "shop/cart.svc:80", "hbone 10.0.0.2:8080", Some("OK")),
        ("shop/web", "cart.svc:80", "hbone 10.0.0.2:8080", Some("OK")),
        ("shop/web", "10.1.0.1:80", "hbone 10.0.0.2:8080", Some("OK")),
        // The family of the client's address decides.
        ("fd00::1", "cart.svc:80", "hbone [fd00::2]:8080", Some("OK")),
        ("bank/thief", "shop/cart:8080", "hbone 10.0.0.2:8080", Some("POLICY_NO_MATCH")),
        // Nobody judges for a workload outside the mesh, or outside of it altogether.
        ("shop/web", "bank/vault:80", "passthrough 10.0.0.3:80", None),
        ("shop/web", "192.0.2.1:443", "passthrough 192.0.2.1:443", None),
        ("shop/web", "cart.svc:81", "refused NO_SERVICE_PORT", None),
        ("shop/web", "shop/cart:15008", "refused SELF_CALL", None),
        // A client without identity.
        ("bank/vault", "shop/cart:8080", "plaintext 10.0.0.2:8080", Some("POLICY_NO_MATCH")),
        ("192.0.2.1", "shop/cart:8080", "plaintext 10.0.0.2:8080", Some("POLICY_NO_MATCH")),
        ("192.0.2.1", "bank/thief:8080", "plaintext 10.0.0.4:8080", Some("OK")),
        ("192.0.2.1", "192.0.2.2:80", "plaintext 192.0.2.2:80", None),
    ] {
        let why = ask(source, destination).expect("an answer");
        let got = outline(&why);
        assert_eq!((&*got.0, got.1), (route, verdict), "{source} -> {destination}: {why:?}");
        assert!(!why.decided_here, "no pod is on this node");
        assert!(why.explanation.len() >= 2, "{:?}", why.explanation);
    }
}

/// `cart` behind a waypoint that takes PROXY headers on port 15088; policy admits `web` there.
const WAYPOINTED: &str = r"
workloads:
  - {name: web, namespace: shop, serviceAccount: web, protocol: HBONE, workloadIps: [10.0.0.1]}
  - {name: cart, namespace: shop, serviceAccount: cart, protocol: HBONE,
     workloadIps: [10.0.0.2], services: {shop/cart.svc: {80: 8080}}}
  - {name: wp, namespace: shop, serviceAccount: wp, protocol: HBONE, workloadIps: [10.0.0.3],
     services: {shop/wp.svc: {15008: 15008}}, applicationTunnel: {protocol: PROXY, port: 15088},
     authorizationPolicies: [shop/web-only]}
services:
  - {name: cart, namespace: shop, hostname: cart.svc, vips: [/10.1.0.1], ports: {80: 8080},
     waypoint: {destination: shop/wp.svc, hboneMtlsPort: 15008}}
  - {name: wp, namespace: shop, hostname: wp.svc, vips: [/10.1.0.2], ports: {15008: 15008}}
policies:
  - name: web-only
    namespace: shop
    scope: WorkloadSelector
    action: Allow
    rules:
      - - - principals: [!Exact cluster.local/ns/shop/sa/web]
            destinationPorts: [15088]
";

#[test]
fn the_way_is_judged_as_well() {
    let enforce = ("WARREN_REQUIRE_WAYPOINT", "enforce");
    for (settings, source, destination, route, verdict) in [
        // The waypoint is asked for the service, and judged on the port that takes everything.
        (&[][..], "shop/web", "10.1.0.1:80", "hbone 10.1.0.1:80", Some("OK")),
        (&[], "shop/cart", "10.1.0.1:80", "hbone 10.1.0.1:80", Some("POLICY_NO_MATCH")),
        (&[], "shop/web", "10.0.0.2:8080", "hbone 10.0.0.2:8080", Some("OK")),
        (&[enforce], "shop/web", "10.1.0.1:80", "hbone 10.1.0.1:80", Some("OK")),
        (&[enforce], "shop/web", "10.0.0.2:8080", "hbone 10.0.0.2:8080", Some("WAYPOINT_REQUIRED")),
        (&[enforce], "shop/wp", "10.0.0.2:8080", "hbone 10.0.0.2:8080", Some("OK")),
        (
            &[enforce],
            "192.0.2.1",
            "10.0.0.2:8080",
            "plaintext 10.0.0.2:8080",
            Some("WAYPOINT_REQUIRED"),
        ),
        // Whoever could write a PROXY header would be believed.
        (&[], "192.0.2.1", "10.0.0.3:15088", "plaintext 10.0.0.3:15088", Some("SELF_CALL")),
    ] {
        let why =
            ask_of(WAYPOINTED, (Sync::Complete, settings), source, destination).expect("an answer");
        let got = outline(&why);
        assert_eq!((&*got.0, got.1), (route, verdict), "{source} -> {destination}: {why:?}");
    }
}

#[test]
fn a_denial_names_its_nearest_miss() {
    let why = ask("bank/thief", "shop/cart:8080").expect("an answer");
    let verdict = why.verdict.expect("a verdict");
    assert!(!verdict.allowed);
    let miss = verdict.nearest_miss.expect("a nearest miss");
    assert!(miss.contains("shop/web-only") && miss.contains("sa/thief"), "{miss}");
    let last = why.explanation.last().expect("steps");
    assert!(last.starts_with("policy: "), "{last}");
}

#[test]
fn the_route_is_told_in_full() {
    let route = ask("shop/web", "cart.svc:80").expect("an answer").route;
    assert_eq!(route.tunnel, Some(([10, 0, 0, 2], 15008).into()));
    assert_eq!(route.service.as_deref(), Some("shop/cart.svc"));
    assert!(route.workload.is_some_and(|workload| workload.contains("shop/cart")));
}

#[test]
fn what_nobody_knows_is_said_so() {
    for (source, destination, code) in [
        ("shop/nobody", "shop/cart:80", UNKNOWN_SUBJECT),
        ("uid-of-no-pod", "shop/cart:80", UNKNOWN_SUBJECT),
        ("shop/web", "shop/nothing:80", UNKNOWN_SUBJECT),
        ("shop/web", "nothing.svc:80", UNKNOWN_SUBJECT),
        ("shop/web", "shop/cart", Failure::BAD_REQUEST),
        ("not a name", "shop/cart:80", Failure::BAD_REQUEST),
    ] {
        let failure = ask(source, destination).expect_err("no answer");
        assert_eq!(failure.code, code, "{source} -> {destination}");
    }
}

#[test]
fn nothing_is_decided_before_the_state_is_there() {
    let why = ask_in(Sync::Waiting, "shop/web", "shop/cart:8080").expect("an answer");
    assert_eq!(outline(&why), ("refused NOT_SYNCED".to_owned(), None));
}
