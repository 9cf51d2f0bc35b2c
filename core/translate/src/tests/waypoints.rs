//! Who is behind which waypoint, and why not.

use super::*;
use crate::VisibilityRule;

fn gateway_object(name: &str, meta: &str, spec: &str, addresses: &str) -> String {
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: ns{meta}}}
spec: {{gatewayClassName: istio-waypoint, listeners: [{{name: mesh, port: 15008, protocol: HBONE{spec}}}]}}
status: {{addresses: {addresses}}}
"
    )
}

const READY: &str =
    "[{type: IPAddress, value: 10.5.0.1}, {type: Hostname, value: wp.ns.svc.cluster.local}]";
const BOUND: &str = "ns/wp.ns.svc.cluster.local:15008";

fn waypoint(traffic: &str) -> String {
    gateway_object("wp", &format!(", labels: {{istio.io/waypoint-for: {traffic}}}"), "", READY)
}

fn labels(labels: &str) -> String {
    format!(", labels: {{{labels}}}")
}

fn service(namespace: &str, meta: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Service, metadata: {{name: svc, namespace: {namespace}{meta}}}}}\n"
    )
}

fn pod(name: &str, meta: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: ns{meta}}}
spec: {{serviceAccountName: {name}-sa}}
status: {{phase: Running, podIP: 1.2.3.4}}
"
    )
}

fn namespace(name: &str, labels: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {{{labels}}}}}}}\n"
    )
}

/// Where connections to the service and to the pod go, and the service's condition.
fn bound(mesh: &Mesh) -> (String, String, Vec<String>) {
    let service = mesh.service("ns/svc.ns.svc.cluster.local");
    let pod = mesh.pod("ns/a");
    let conditions = mesh.conditions(Kind::Service, "ns", "svc");
    (gateway(service.waypoint.as_ref()), gateway(pod.waypoint.as_ref()), conditions)
}

const ACCEPTED: &str = "istio.io/WaypointBound true WaypointAccepted";
const UNSUPPORTED: &str = "istio.io/WaypointBound false UnsupportedTrafficType";
const NOT_READY: &str = "istio.io/WaypointBound false WaypointIsNotReady";

#[test]
fn precedence_and_traffic() {
    const USE: &str = "istio.io/use-waypoint: wp";
    const NONE: &str = "istio.io/use-waypoint: none";
    const OTHER: &str = "istio.io/use-waypoint: missing";
    for (traffic, of_namespace, own, service_to, pod_to, condition) in [
        ("service", "", "", "-", "-", None),
        ("service", USE, "", BOUND, "-", Some(ACCEPTED)),
        ("all", USE, "", BOUND, BOUND, Some(ACCEPTED)),
        ("workload", USE, "", "-", BOUND, Some(UNSUPPORTED)),
        ("none", USE, "", "-", "-", Some(UNSUPPORTED)),
        ("odd", USE, "", "-", "-", Some(UNSUPPORTED)),
        ("all", USE, NONE, "-", "-", None),
        ("all", NONE, USE, BOUND, BOUND, Some(ACCEPTED)),
        // What the object names is not replaced by what the namespace has.
        ("all", USE, OTHER, "-", "-", Some(NOT_READY)),
        ("all", "", USE, BOUND, BOUND, Some(ACCEPTED)),
        ("workload", "", USE, "-", BOUND, Some(UNSUPPORTED)),
    ] {
        let own = labels(own);
        let mesh = Mesh::of(&format!(
            "{}{}{}{}",
            waypoint(traffic),
            namespace("ns", of_namespace),
            service("ns", &own),
            pod("a", &own)
        ));
        let (service, pod, conditions) = bound(&mesh);
        let case = format!("{traffic} {of_namespace} {own}");
        assert_eq!((&*service, &*pod), (service_to, pod_to), "{case}");
        assert_eq!(conditions.first().map(String::as_str), condition, "{case}");
    }
}

#[test]
fn only_a_waypoint_with_an_address_is_used_and_by_name_first() {
    let own = labels("istio.io/use-waypoint: wp");
    let mut mesh = Mesh::of(&format!("{}{}", service("ns", &own), pod("a", &own)));
    assert_eq!(bound(&mesh).2, [NOT_READY]);
    mesh.set(&gateway_object("wp", "", "", "[]"));
    assert_eq!(bound(&mesh).2, [NOT_READY]);
    let key = "ns/svc.ns.svc.cluster.local";
    for (addresses, expected) in [
        ("[{value: 10.5.0.1}]", "10.5.0.1:15008"),
        (READY, BOUND),
        ("[{type: Hostname, value: 'a/b'}, {type: IPAddress, value: 'fd00::5'}]", "fd00::5:15008"),
        ("[{type: NamedAddress, value: x}]", "-"),
    ] {
        let changes = mesh.set(&gateway_object("wp", "", "", addresses));
        assert_eq!(bound(&mesh).0, expected, "{addresses}");
        assert_eq!(changed(&changes), [key], "{addresses}");
    }
    let changes = mesh.set(&waypoint("all"));
    assert_eq!(changed(&changes), ["Kubernetes//Pod/ns/a", key]);
    assert_eq!(changes.conditions.len(), 1);
    let changes = mesh.delete(Kind::Gateway, "ns", "wp");
    assert_eq!(changed(&changes), ["Kubernetes//Pod/ns/a", key]);
    assert_eq!(bound(&mesh).2, [NOT_READY]);
    // One of another control plane is none.
    mesh.set(&waypoint("all").replace("labels: {", "labels: {istio.io/rev: other, "));
    assert_eq!(bound(&mesh).2, [NOT_READY]);
}

#[test]
fn the_class_says_what_the_gateway_does_not() {
    let class = |traffic: &str| {
        format!(
            "---\n{{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: \
             {{name: istio-waypoint, labels: {{istio.io/waypoint-for: {traffic}}}}}}}\n"
        )
    };
    let own = labels("istio.io/use-waypoint: wp");
    let mut mesh = Mesh::of(&format!(
        "{}{}{}",
        gateway_object("wp", "", "", READY),
        service("ns", &own),
        pod("a", &own)
    ));
    assert_eq!((&*bound(&mesh).0, &*bound(&mesh).1), (BOUND, "-"));
    mesh.set(&class("all"));
    assert_eq!((&*bound(&mesh).0, &*bound(&mesh).1), (BOUND, BOUND));
    mesh.set(&waypoint("workload"));
    assert_eq!((&*bound(&mesh).0, &*bound(&mesh).1), ("-", BOUND));
}

#[test]
fn other_namespaces_are_admitted_or_not() {
    let own = labels("istio.io/use-waypoint: wp, istio.io/use-waypoint-namespace: ns");
    let from = |from: &str| format!(", allowedRoutes: {{namespaces: {{{from}}}}}");
    let denied = "istio.io/WaypointBound false AttachmentDenied";
    for (routes, expected) in [
        ("", denied),
        ("from: Same", denied),
        ("from: None", denied),
        ("from: All", ACCEPTED),
        ("from: Selector", denied),
        ("from: Selector, selector: {matchLabels: {team: a}}", ACCEPTED),
        ("from: Selector, selector: {matchLabels: {team: b}}", denied),
        ("from: Selector, selector: {matchLabels: {kubernetes.io/metadata.name: far}}", ACCEPTED),
    ] {
        let mesh = Mesh::of(&format!(
            "{}{}{}",
            gateway_object("wp", "", &from(routes), READY),
            namespace("far", "team: a"),
            service("far", &own)
        ));
        assert_eq!(mesh.conditions(Kind::Service, "far", "svc"), [expected], "{routes}");
        let service = mesh.service("far/svc.far.svc.cluster.local");
        assert_eq!(service.waypoint.is_some(), expected == ACCEPTED);
    }
}

#[test]
fn what_is_made_for_a_waypoint_is_not_behind_one() {
    let in_waypoint_namespace = namespace("ns", "istio.io/use-waypoint: wp");
    for (own, expected) in [
        ("gateway.istio.io/managed: istio.io-mesh-controller", "-"),
        ("gateway.istio.io/managed: istio.io-eastwest-controller", "-"),
        ("gateway.networking.k8s.io/gateway-name: wp", "-"),
        ("gateway.istio.io/managed: istio.io-gateway-controller", BOUND),
        ("gateway.networking.k8s.io/gateway-name: another", BOUND),
    ] {
        let own = labels(own);
        let (waypoint, service, pod) = (waypoint("all"), service("ns", &own), pod("a", &own));
        for text in [
            format!("{in_waypoint_namespace}{waypoint}{service}{pod}"),
            format!("{pod}{service}{waypoint}{in_waypoint_namespace}"),
        ] {
            let mesh = Mesh::of(&text);
            assert_eq!((&*bound(&mesh).0, &*bound(&mesh).1), (expected, expected), "{own}");
        }
    }
}

#[test]
fn inbound_bindings_are_tunnels_to_the_waypoints_pods() {
    let pod = pod("a", &labels("gateway.networking.k8s.io/gateway-name: wp"));
    for (binding, expected, is_problem) in [
        ("PROXY/15088", Some(15088), false),
        ("PROXY", Some(0), false),
        ("NONE", None, false),
        ("PROXY/0", None, true),
        ("PROXY/x", None, true),
        ("QUIC", None, true),
    ] {
        let meta =
            format!(", annotations: {{ambient.istio.io/waypoint-inbound-binding: {binding}}}");
        let text = gateway_object("wp", &meta, "", READY);
        let mut mesh = Mesh::of(&pod);
        mesh.set(&text);
        let tunnel = mesh.pod("ns/a").application_tunnel;
        assert_eq!(tunnel.map(|tunnel| tunnel.port), expected, "{binding}");
        assert!(tunnel.is_none_or(|tunnel| tunnel.protocol == 1));
        assert_eq!(!mesh.problems().is_empty(), is_problem, "{binding}");
        let class = text
            .replace("kind: Gateway", "kind: GatewayClass")
            .replace("name: wp", "name: istio-waypoint");
        let mesh = Mesh::of(&format!("{pod}{}{class}", gateway_object("wp", "", "", READY)));
        let tunnel = mesh.pod("ns/a").application_tunnel;
        assert_eq!(tunnel.map(|tunnel| tunnel.port), expected, "{binding}");
    }
}

#[test]
fn canaries() {
    let canary = gateway_object("canary", "", "", "[{type: Hostname, value: canary.example}]");
    let shares = |mesh: &Mesh| -> Vec<String> {
        let service = mesh.service("ns/svc.ns.svc.cluster.local");
        assert_eq!(gateway(service.waypoint.as_ref()), BOUND);
        let share = |each: &wire::WeightedWaypoint| {
            format!("{} {}", gateway(each.destination.as_ref()), each.weight)
        };
        service.weighted_waypoints.iter().map(share).collect()
    };
    let all = |primary: u32| {
        vec![format!("{BOUND} {primary}"), format!("ns/canary.example:15008 {}", 100 - primary)]
    };
    let none = Vec::new();
    for (name, weight, shares_of, condition) in [
        ("canary", "'20'", all(80), ACCEPTED),
        ("canary", "'100'", all(0), ACCEPTED),
        ("canary", "", all(100), ACCEPTED),
        ("canary", "'101'", none.clone(), "istio.io/WaypointBound false CanaryInvalidWeight"),
        ("canary", "some", none.clone(), "istio.io/WaypointBound false CanaryInvalidWeight"),
        ("wp", "'20'", none.clone(), "istio.io/WaypointBound false CanarySameAsPrimary"),
        ("missing", "'20'", none.clone(), NOT_READY),
        ("none", "'20'", none, ACCEPTED),
    ] {
        let weight = match weight {
            "" => String::new(),
            weight => format!(", annotations: {{istio.io/use-waypoint-canary-weight: {weight}}}"),
        };
        let own =
            labels(&format!("istio.io/use-waypoint: wp, istio.io/use-waypoint-canary: {name}"));
        let mesh = Mesh::of(&format!(
            "{}{canary}{}",
            waypoint("all"),
            service("ns", &format!("{own}{weight}"))
        ));
        assert_eq!(shares(&mesh), shares_of, "{name} {weight}");
        assert_eq!(mesh.conditions(Kind::Service, "ns", "svc"), [condition], "{name} {weight}");
    }
    // It comes and goes on its own.
    let own = labels("istio.io/use-waypoint: wp, istio.io/use-waypoint-canary: canary");
    let mut mesh = Mesh::of(&format!("{}{}", waypoint("all"), service("ns", &own)));
    assert_eq!(shares(&mesh), [""; 0]);
    mesh.set(&canary);
    assert_eq!(shares(&mesh).len(), 2);
}

#[test]
fn workload_entries_say_what_they_are_bound_to() {
    const USE: &str = "istio.io/use-waypoint: wp";
    let entry = |own: &str| {
        format!(
            "---\n{{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {{name: we, \
             namespace: ns{}}}, spec: {{address: 1.2.3.4}}}}\n",
            labels(own)
        )
    };
    for (waypoint, of_namespace, own, expected) in [
        (waypoint("all"), "", USE, Some(ACCEPTED)),
        (String::new(), "", USE, Some(NOT_READY)),
        (waypoint("all"), USE, "istio.io/use-waypoint: none", None),
        (waypoint("service"), USE, "", None),
        (waypoint("service"), "", USE, Some(UNSUPPORTED)),
        (waypoint("all"), USE, "", Some(ACCEPTED)),
    ] {
        let mesh = Mesh::of(&format!("{waypoint}{}{}", namespace("ns", of_namespace), entry(own)));
        let found = mesh.conditions(Kind::WorkloadEntry, "ns", "we");
        assert_eq!(found.first().map(String::as_str), expected, "{of_namespace} {own}");
        let workload = mesh.workload("Kubernetes/networking.istio.io/WorkloadEntry/ns/we");
        assert_eq!(workload.waypoint.is_some(), expected == Some(ACCEPTED));
    }
}

#[test]
fn entries_and_what_they_need_a_waypoint_for() {
    let entry = |meta: &str, spec: &str| {
        format!(
            "---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: se, namespace: far{meta}}}
spec: {{hosts: [{spec}}}
"
        )
    };
    let own = labels("istio.io/use-waypoint: wp, istio.io/use-waypoint-namespace: ns");
    let open = gateway_object("wp", "", ", allowedRoutes: {namespaces: {from: All}}", READY);
    let wildcard = "'*.example'], resolution: DYNAMIC_DNS";
    let race = ", annotations: {istio.io/connect-strategy: RACE_FIRST_TCP_CONNECT}";
    let missing = |why: &str| format!("istio.io/WaypointMissing true {why}");
    for (meta, spec, expected) in [
        ("", "a.example]", vec![]),
        ("", wildcard, vec![missing("NoWaypointForWildcardService")]),
        (race, "a.example]", vec![missing("NoWaypointForRacingConnectStrategy")]),
        (&*own, wildcard, vec![ACCEPTED.to_owned()]),
    ] {
        let mesh = Mesh::of(&format!("{open}{}", entry(meta, spec)));
        assert_eq!(mesh.conditions(Kind::ServiceEntry, "far", "se"), expected, "{meta} {spec}");
    }
    // Only its own namespace may see it, so another's waypoint may not either.
    let rule =
        VisibilityRule { visibility: crate::EntryVisibility::Namespace, ..Default::default() };
    let settings = Settings { entry_visibility: vec![rule], ..settings() };
    let mesh = Mesh::with(settings, &format!("{open}{}", entry(&own, "a.example]")));
    assert_eq!(
        mesh.conditions(Kind::ServiceEntry, "far", "se"),
        [
            "istio.io/VisibilityApplied true Namespace",
            "istio.io/WaypointBound false CrossNamespaceWaypointForbidden"
        ]
    );
    assert_eq!(mesh.service("far/a.example").waypoint, None);
}

#[test]
fn only_the_waypoint_may_reach_what_is_behind_it() {
    let settings = Settings {
        allow_waypoints: true,
        trust_domain_aliases: vec![TrustDomain::parse("old.example").expect("valid")],
        ..settings()
    };
    let own = labels("istio.io/use-waypoint: wp");
    let behind = format!(
        "{}---\n{{apiVersion: v1, kind: Service, metadata: {{name: svc, namespace: ns{own}}}, spec: \
         {{selector: {{app: a}}}}}}\n",
        pod("a", &labels("app: a"))
    );
    let policy = "ns/istio_allow_waypoint_ns_wp";
    let principals = |mesh: &Mesh| -> Vec<String> {
        use proto::security::string_match::MatchType;
        let message = proto::security::Authorization::decode(&*mesh.policies[policy].bytes);
        let message = message.expect("decodes");
        let mut interner = xds::Interner::default();
        let read = xds::parse_policy(policy, &mesh.policies[policy].bytes, &mut interner);
        assert!(format!("{read:?}").contains("istio_allow_waypoint"), "{read:?}");
        let matches = message.rules.iter().flat_map(|r| &r.clauses).flat_map(|c| &c.matches);
        let principals = matches.flat_map(|m| &m.principals).map(|p| match &p.match_type {
            Some(MatchType::Exact(principal)) => principal.clone(),
            other => panic!("{other:?}"),
        });
        principals.collect()
    };
    let mut mesh = Mesh::with(settings, &behind);
    assert_eq!(mesh.pod("ns/a").authorization_policies, [""; 0]);
    mesh.set(&waypoint("service"));
    // Without pods there is nobody who may.
    assert_eq!(mesh.pod("ns/a").authorization_policies, [policy]);
    assert_eq!(principals(&mesh), [""; 0]);
    let own_pod = pod("wp-1", &labels("gateway.networking.k8s.io/gateway-name: wp"))
        .replace("1.2.3.4", "1.2.3.5");
    mesh.set(&own_pod);
    let both = ["cluster.local/ns/ns/sa/wp-1-sa", "old.example/ns/ns/sa/wp-1-sa"];
    assert_eq!(principals(&mesh), both);
    assert_eq!(mesh.pod("ns/wp-1").authorization_policies, [""; 0]);
    // Without an address it is still the only one that may.
    mesh.set(&gateway_object("wp", "", "", "[]"));
    assert_eq!(mesh.pod("ns/a").authorization_policies, [policy]);
    assert_eq!(principals(&mesh), both);
    assert_eq!(mesh.conditions(Kind::Service, "ns", "svc"), [NOT_READY]);
    let elsewhere = ", labels: {istio.io/waypoint-for: workload}";
    mesh.set(&gateway_object("wp", elsewhere, "", "[]"));
    assert_eq!(mesh.pod("ns/a").authorization_policies, [""; 0], "it would not take services");
    mesh.set(&gateway_object("wp", "", "", "[]"));
    assert_eq!(mesh.pod("ns/a").authorization_policies, [policy]);
    mesh.delete(Kind::Gateway, "ns", "wp");
    assert_eq!(mesh.pod("ns/a").authorization_policies, [""; 0]);
    assert!(mesh.policies.is_empty());
}
