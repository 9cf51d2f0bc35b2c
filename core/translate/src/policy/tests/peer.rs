//! Peer authentications: levels, inheritance, ports.

use cluster::peer_authentication::Mode;

use super::*;

const STATIC: &str = "istio-system/istio_converted_static_strict";

/// One without a namespace is in `default`.
fn peer(name: &str, spec: &str) -> String {
    peer_in("default", name, "", spec)
}

fn peer_in(namespace: &str, name: &str, created: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
         metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: '{created}'}}\n\
         spec: {spec}\n"
    )
}

fn app_a(rest: &str) -> String {
    format!("{{selector: {{matchLabels: {{app: a}}}}, {rest}}}")
}

/// The three levels: mesh, namespace `foo`, and the workload's with these ports.
fn levels(mesh: &str, namespace: &str, ports: &str) -> String {
    let mode = |mode: &str| format!("{{mtls: {{mode: {mode}}}}}");
    let namespace = match namespace {
        "" => String::new(),
        written => peer_in("foo", "default-foo", "", &mode(written)),
    };
    peer_in("istio-system", "default-mesh", "", &mode(mesh))
        + &namespace
        + &peer_in("foo", "workload", "", &app_a(&format!("portLevelMtls: {ports}")))
}

/// The list of cases is that of Istio's conversion: its first seven files hold one object of no
/// level above, the others merge levels. Beside the policy, the test says what a workload names.
#[test]
fn policies_of_peer_authentications() {
    let one = |rest: &str| peer("p", &app_a(rest));
    let own = "default/converted_peer_authentication_p";
    let merged = "foo/converted_peer_authentication_workload";
    let cases: &[(&str, String, &[&str], &str)] = &[
        ("disable", peer("p", "{mtls: {mode: DISABLE}}"), &[], ""),
        (
            "disable, port strict",
            one("mtls: {mode: DISABLE}, portLevelMtls: {9090: {mode: STRICT}}"),
            &[own],
            "!id *; port 9090",
        ),
        ("permissive", peer("p", "{mtls: {mode: PERMISSIVE}}"), &[], ""),
        (
            "permissive, ports strict and permissive",
            one("mtls: {mode: PERMISSIVE}, \
                 portLevelMtls: {9090: {mode: STRICT}, 8080: {mode: PERMISSIVE}}"),
            &[own],
            "!id *; port 9090",
        ),
        (
            "permissive, port strict",
            one("mtls: {mode: PERMISSIVE}, portLevelMtls: {9090: {mode: STRICT}}"),
            &[own],
            "!id *; port 9090",
        ),
        ("strict", peer("p", "{mtls: {mode: STRICT}}"), &[STATIC], ""),
        (
            "strict, port disabled",
            one("mtls: {mode: STRICT}, portLevelMtls: {9090: {mode: DISABLE}}"),
            &[own],
            "!id * & !port 9090",
        ),
        (
            "strict, port permissive",
            one("mtls: {mode: STRICT}, portLevelMtls: {9090: {mode: PERMISSIVE}}"),
            &[own],
            "!id * & !port 9090",
        ),
        (
            "strict, port strict",
            one("mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: STRICT}}"),
            &[STATIC],
            "",
        ),
        (
            "strict, ports strict and permissive",
            one("mtls: {mode: STRICT}, \
                 portLevelMtls: {9090: {mode: STRICT}, 8080: {mode: PERMISSIVE}}"),
            &[own],
            "!id * & !port 8080",
        ),
        ("strict, of workloads", one("mtls: {mode: STRICT}"), &[STATIC], ""),
        (
            "unset, port strict",
            one("mtls: {mode: UNSET}, portLevelMtls: {8080: {mode: STRICT}}"),
            &[own],
            "!id *; port 8080",
        ),
        (
            "mesh permissive, namespace permissive, ports strict",
            levels("PERMISSIVE", "PERMISSIVE", "{9090: {mode: STRICT}, 8080: {mode: STRICT}}"),
            &[merged],
            "!id *; port 8080 | !id *; port 9090",
        ),
        (
            "mesh permissive, port permissive",
            levels("PERMISSIVE", "", "{9090: {mode: PERMISSIVE}}"),
            &[],
            "",
        ),
        (
            "mesh permissive, namespace strict, port permissive",
            levels("PERMISSIVE", "STRICT", "{9090: {mode: PERMISSIVE}}"),
            &[merged],
            "!id * & !port 9090",
        ),
        (
            "mesh permissive, namespace unset, mixed ports",
            levels("PERMISSIVE", "UNSET", "{9090: {mode: STRICT}, 8080: {mode: PERMISSIVE}}"),
            &[merged],
            "!id *; port 9090",
        ),
        (
            "mesh strict, namespace permissive, port strict",
            levels("STRICT", "PERMISSIVE", "{9090: {mode: STRICT}}"),
            &[merged],
            "!id *; port 9090",
        ),
        (
            "mesh strict, port permissive",
            levels("STRICT", "", "{9090: {mode: PERMISSIVE}}"),
            &[merged],
            "!id * & !port 9090",
        ),
        (
            "mesh strict, ports permissive and strict",
            levels("STRICT", "", "{9090: {mode: PERMISSIVE}, 8080: {mode: STRICT}}"),
            &[merged],
            "!id * & !port 9090",
        ),
    ];
    assert_eq!(cases.len(), 19);
    for (name, text, bound, rules) in cases {
        let follower = Follower::with(&settings(), &objects(text));
        let namespace = if text.contains("namespace: foo") { "foo" } else { "default" };
        let found = follower.index.bound(namespace, &labels(&[("app", "a"), ("x", "y")]));
        assert_eq!(found.iter().map(|name| &**name).collect::<Vec<_>>(), *bound, "{name}");
        let mut sent: Vec<String> = follower.policies.values().map(shown).collect();
        let expected = if namespace == "foo" { merged } else { own };
        let expected = format!("{expected} DENY WORKLOAD_SELECTOR: {rules}");
        // The static one is there whenever any object is.
        let at = sent.iter().position(|policy| policy.starts_with(STATIC)).expect("static");
        assert_eq!(sent.remove(at), format!("{STATIC} DENY WORKLOAD_SELECTOR: !id *"), "{name}");
        let expected = if rules.is_empty() { Vec::new() } else { vec![expected] };
        assert_eq!(sent, expected, "{name}");
        for condition in follower.conditions.values().flatten() {
            assert_eq!((condition.status, condition.reason), (true, "Accepted"), "{name}");
        }
    }
}

#[test]
fn without_any_there_is_no_policy() {
    let mut follower = Follower::with(&settings(), &objects(&peer("p", "{}")));
    assert_eq!(follower.policies.len(), 1);
    follower.index.delete(&objects(&peer("p", "{}"))[0].key());
    let changes = follower.follow();
    assert_eq!(changes.policies, [(STATIC.into(), None)]);
    assert!(changes.rebind.is_empty());
}

const MODES: [&str; 5] = ["", "UNSET", "DISABLE", "PERMISSIVE", "STRICT"];

/// Every combination of levels and of a port's mode: what a connection without an identity meets is
/// what the levels say, the nearest first. Defects A (workload permissive, port strict, mesh
/// strict, no namespace level) and B (workload unset, port disabled, under strict) are among them.
#[test]
fn every_combination_of_levels_decides_as_written() {
    let mode_of = |text: &str| match text {
        "STRICT" => Some(true),
        "DISABLE" | "PERMISSIVE" => Some(false),
        _ => None,
    };
    let workload_labels = labels(&[("app", "a")]);
    let spec = |mode: &str, rest: &str| format!("{{{rest}mtls: {{mode: {mode}}}}}");
    let mut combinations = 0;
    for mesh in MODES {
        for namespace in MODES {
            for workload in MODES {
                for port in MODES {
                    let mut text = String::new();
                    if !mesh.is_empty() {
                        text += &peer_in("istio-system", "m", "", &spec(mesh, ""));
                    }
                    if !namespace.is_empty() {
                        text += &peer_in("foo", "ns", "", &spec(namespace, ""));
                    }
                    if !workload.is_empty() {
                        let ports = match port {
                            "" => String::new(),
                            port => format!("portLevelMtls: {{9090: {{mode: {port}}}}}, "),
                        };
                        let rest = format!("selector: {{matchLabels: {{app: a}}}}, {ports}");
                        text += &peer_in("foo", "w", "", &spec(workload, &rest));
                    }
                    let follower = Follower::with(&settings(), &objects(&text));
                    let parent = mode_of(namespace).or(mode_of(mesh)).unwrap_or(false);
                    let own = mode_of(workload).unwrap_or(parent);
                    let of_port = match workload {
                        "" => own,
                        _ => mode_of(port).unwrap_or(own),
                    };
                    let case = format!("{mesh}/{namespace}/{workload}/{port}");
                    let at = |port| follower.admits("foo", &workload_labels, &plain(port));
                    assert_eq!((at(80), at(9090)), (!own, !of_port), "{case}");
                    let other = follower.admits("foo", &labels(&[]), &plain(9090));
                    assert_eq!(other, !parent, "{case}: another workload");
                    let id = mutual("cluster.local/ns/x/sa/y", 9090);
                    assert!(follower.admits("foo", &workload_labels, &id), "{case}");
                    combinations += 1;
                }
            }
        }
    }
    assert_eq!(combinations, 625);
}

#[test]
fn the_oldest_of_a_level_counts() {
    let mode = |mode: &str| format!("{{mtls: {{mode: {mode}}}}}");
    let text = peer_in("foo", "young", "2026-02-01T00:00:00Z", &mode("STRICT"))
        + &peer_in("foo", "old", "2026-01-01T00:00:00Z", &mode("PERMISSIVE"))
        + &peer_in("foo", "w2", "2026-02-01T00:00:00Z", &app_a("mtls: {mode: PERMISSIVE}"))
        + &peer_in("foo", "w1", "2026-01-01T00:00:00Z", &app_a("mtls: {mode: STRICT}"));
    let mut follower = Follower::with(&settings(), &objects(&text));
    assert!(follower.admits("foo", &labels(&[]), &plain(80)));
    assert!(!follower.admits("foo", &labels(&[("app", "a")]), &plain(80)));
    let young = follower.condition(Kind::PeerAuthentication, "foo", "young");
    assert_eq!((young.status, young.reason), (false, "Overridden"));
    assert!(young.message.starts_with("old counts instead"), "{}", young.message);

    let old = objects(&peer_in("foo", "old", "", "{}")).remove(0);
    follower.index.delete(&old.key());
    let changes = follower.follow();
    assert_eq!(changes.rebind, Rebind::Namespaces(["foo".into()].into()));
    assert!(!follower.admits("foo", &labels(&[]), &plain(80)));
    assert!(follower.condition(Kind::PeerAuthentication, "foo", "young").status);
}

/// What cannot be understood demands mutual TLS of all that it may be for.
#[test]
fn what_is_not_understood_demands_mutual_tls() {
    let permissive = |namespace: &str| {
        peer_in(namespace, "p", "2020-01-01T00:00:00Z", "{mtls: {mode: PERMISSIVE}}")
            + &peer_in(namespace, "w", "2020-01-01T00:00:00Z", &app_a("mtls: {mode: PERMISSIVE}"))
    };
    // What is bad; whether workloads with the label, and others of the namespace, are reached
    // without an identity; what is said.
    let cases: &[(&str, bool, bool, &str, &str)] = &[
        (
            "{selector: {matchLabels: {app: a}}, mtls: {mode: MAYBE}}",
            false,
            true,
            "Unreadable",
            "spec.mtls.mode: unknown variant `MAYBE`",
        ),
        ("{selector: 7}", false, false, "Unreadable", "spec.selector: invalid type"),
        // The namespace's level counts for it, and the workload's own before that.
        ("{mtls: 7}", true, false, "Unreadable", "spec.mtls: invalid type"),
        (
            "{selector: {matchLabels: {app: a}}, portLevelMtls: {web: {mode: PERMISSIVE}}}",
            false,
            true,
            "UnsupportedValue",
            "portLevelMtls \"web\" is not a port number",
        ),
        (
            "{selector: {matchLabels: {app: a}}, portLevelMtls: {0: {mode: PERMISSIVE}}}",
            false,
            true,
            "UnsupportedValue",
            "portLevelMtls \"0\" is not a port number",
        ),
        (
            "{selector: {matchLabels: {app: a}}, portLevelMtls: {80: {}, 080: {mode: STRICT}, \
             '0080': {mode: PERMISSIVE}}}",
            false,
            true,
            "UnsupportedValue",
            "named twice",
        ),
        (
            "{selector: {matchLabels: {app: a}, matchExpressions: []}}",
            false,
            true,
            "UnsupportedValue",
            "selector.matchExpressions is not a known field",
        ),
        (
            "{selector: {matchExpressions: []}}",
            false,
            false,
            "UnsupportedValue",
            "mutual TLS is demanded everywhere in its scope",
        ),
        ("{portLevelMtls: {80: {mode: STRICT}}}", true, true, "Overridden", "p counts instead"),
    ];
    for (spec, labelled, others, reason, message) in cases {
        let bad = peer_in("foo", "bad", "2026-01-01T00:00:00Z", spec);
        let follower = Follower::with(&settings(), &objects(&(permissive("foo") + &bad)));
        let reached = |pairs: &[(&str, &str)]| follower.admits("foo", &labels(pairs), &plain(80));
        assert_eq!((reached(&[("app", "a")]), reached(&[])), (*labelled, *others), "{spec}");
        let condition = follower.condition(Kind::PeerAuthentication, "foo", "bad");
        assert_eq!((condition.status, condition.reason), (false, *reason), "{spec}");
        assert!(condition.message.contains(message), "{}", condition.message);
        assert!(follower.admits("bar", &labels(&[]), &plain(80)), "{spec}: elsewhere");
    }
}

#[test]
fn the_root_namespace_stands_for_the_mesh() {
    for (spec, is_reached, reason) in [
        ("{mtls: {mode: STRICT}}", false, "Accepted"),
        ("{mtls: {mode: MAYBE}}", false, "Unreadable"),
        ("{selector: 7}", false, "Unreadable"),
        ("{selector: {matchLabels: {}}, mtls: {mode: STRICT}}", false, "Accepted"),
        // There is no workload level in it.
        ("{selector: {matchLabels: {app: a}}, mtls: {mode: STRICT}}", true, "UnsupportedValue"),
        ("{selector: {matchLabels: {app: a}}, mtls: {mode: MAYBE}}", true, "Unreadable"),
    ] {
        let follower =
            Follower::with(&settings(), &objects(&peer_in("istio-system", "p", "", spec)));
        for namespace in ["foo", "istio-system"] {
            let reached = follower.admits(namespace, &labels(&[("app", "a")]), &plain(80));
            assert_eq!(reached, is_reached, "{spec} in {namespace}");
        }
        let condition = follower.condition(Kind::PeerAuthentication, "istio-system", "p");
        assert_eq!(condition.reason, reason, "{spec}");
    }
}

/// Ignoring them may not be weaker than what was written.
#[test]
fn ports_without_a_selector() {
    for (spec, is_reached, message) in [
        (
            "{mtls: {mode: PERMISSIVE}, portLevelMtls: {80: {mode: STRICT}}}",
            false,
            "portLevelMtls needs a selector: mutual TLS is demanded everywhere in its scope",
        ),
        (
            "{mtls: {mode: STRICT}, portLevelMtls: {80: {mode: PERMISSIVE}}}",
            false,
            "portLevelMtls needs a selector: this part is ignored, the rest is enforced",
        ),
        (
            "{mtls: {mode: PERMISSIVE}, portLevelMtls: {80: {mode: DISABLE}}}",
            true,
            "portLevelMtls needs a selector: this part is ignored, the rest is enforced",
        ),
    ] {
        let objects = objects(&peer_in("foo", "p", "", spec));
        let follower = Follower::with(&settings(), &objects);
        assert_eq!(follower.admits("foo", &labels(&[]), &plain(80)), is_reached, "{spec}");
        let condition = follower.condition(Kind::PeerAuthentication, "foo", "p");
        assert_eq!(&*condition.message, message);
        let reasons = review(&objects[0], &settings()).expect_err("refused");
        assert_eq!(reasons[0], "portLevelMtls needs a selector");
    }
}

/// The policy of a peer authentication depends on what is demanded above it.
#[test]
fn a_change_above_sends_again_only_what_depends_on_it() {
    let ports = "portLevelMtls: {9090: {mode: PERMISSIVE}, 8080: {mode: STRICT}}";
    let text = peer_in("foo", "inherits", "", &app_a(ports))
        + &peer_in("foo", "decides", "", &app_a(&format!("mtls: {{mode: STRICT}}, {ports}")))
        + &peer_in("bar", "inherits", "", &app_a(ports))
        + &peer_in("bar", "own", "", "{mtls: {mode: PERMISSIVE}}");
    let mut follower = Follower::with(&settings(), &objects(&text));
    let set = |follower: &mut Follower, namespace: &str, mode: Mode| {
        let spec = format!("{{mtls: {{mode: {}}}}}", format!("{mode:?}").to_uppercase());
        follower.index.set(&objects(&peer_in(namespace, "level", "", &spec))[0]);
        follower.follow()
    };
    let names = |changes: &PolicyChanges| {
        changes.policies.iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>()
    };
    let inherits = "foo/converted_peer_authentication_inherits";

    let changes = set(&mut follower, "istio-system", Mode::Strict);
    assert_eq!(names(&changes), [inherits]);
    assert_eq!(changes.rebind, Rebind::Everything);
    assert!(shown(&follower.policies[inherits]).ends_with(": !id * & !port 9090"));

    let changes = set(&mut follower, "foo", Mode::Disable);
    assert_eq!(names(&changes), [inherits]);
    assert_eq!(changes.rebind, Rebind::Namespaces(["foo".into()].into()));
    assert!(shown(&follower.policies[inherits]).ends_with(": !id *; port 8080"));

    // The same for all who ask.
    let changes = set(&mut follower, "foo", Mode::Permissive);
    assert_eq!((names(&changes).len(), changes.rebind.is_empty()), (0, true));
    let changes = set(&mut follower, "istio-system", Mode::Permissive);
    assert_eq!((names(&changes).len(), changes.rebind), (0, Rebind::Everything));
}
