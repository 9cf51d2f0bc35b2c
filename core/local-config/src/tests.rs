//! Files and what becomes of them.

use authz::{PolicyStore, Settings, Verdict, authorize};
use model::{Connection, Peer, SpiffeId, TunnelProtocol, VerifiedIdentity};
use proptest::prelude::*;

use super::*;

/// The errors of a file, one a line.
fn errors(text: &str) -> String {
    match parse("mesh.yaml", text) {
        Ok(config) => format!("{config:?}"),
        Err(errors) => errors.to_string(),
    }
}

fn parse(file_name: &str, text: &str) -> Result<LocalConfig, ConfigErrors> {
    super::parse(file_name, text, &Defaults::default())
}

#[test]
fn what_a_workload_leaves_out_comes_from_the_agent() {
    let defaults = Defaults {
        trust_domain: model::TrustDomain::parse("example.org").expect("literal"),
        cluster: "east".to_owned(),
    };
    let read = |extra: &str| {
        let config = super::parse("mesh.yaml", &workload(extra), &defaults).expect("valid");
        let workload = &config.workloads[0];
        (workload.trust_domain.to_string(), workload.cluster.to_string())
    };
    assert_eq!(read(""), ("example.org".to_owned(), "east".to_owned()));
    assert_eq!(read("    trustDomain: \"\""), ("example.org".to_owned(), "east".to_owned()));
    assert_eq!(
        read("    trustDomain: other.org\n    clusterId: west"),
        ("other.org".to_owned(), "west".to_owned())
    );
}

#[track_caller]
fn check(text: &str, expected: &str) {
    assert_eq!(errors(text), expected, "{text}");
}

/// One workload with further lines, each indented by four.
fn workload(lines: &str) -> String {
    format!("workloads:\n  - name: web\n    namespace: shop\n    workloadIps: [10.0.0.1]\n{lines}")
}

fn service(lines: &str) -> String {
    format!(
        "services:\n  - name: cart\n    namespace: shop\n    hostname: cart.svc\n    vips: []\n    \
         ports: {{}}\n{lines}"
    )
}

/// One policy with one match, in flow style.
fn policy(a_match: &str) -> String {
    format!(
        "policies:\n- {{name: a, namespace: shop, scope: Namespace, action: Allow,\n   rules: \
         [[[{a_match}]]]}}"
    )
}

#[test]
fn the_example_is_a_working_mesh() {
    let text = include_str!("../../../deploy/examples/two-nodes.yaml");
    let config = parse("two-nodes.yaml", text).expect("the example");
    assert_eq!((config.workloads.len(), config.services.len(), config.policies.len()), (4, 1, 3));
    let cart = config.workloads.iter().find(|w| &*w.key.name == "cart-2").expect("cart-2");
    assert_eq!(&*cart.uid.0, "Kubernetes//Pod/shop/cart-2");
    assert_eq!(cart.protocol, TunnelProtocol::Hbone);
    let service = config.services.first().expect("cart");
    assert_eq!(cart.target_port(&service.name, 80).map(u16::from), Some(8080));
    let store = PolicyStore::compile(config.policies.clone(), &Settings::rooted("istio-system"));
    let says = |peer: Option<&str>, port: u16| {
        let peer = peer.map_or(Peer::Plaintext, |id| {
            let id = SpiffeId::parse(id).expect("literal");
            Peer::Verified(VerifiedIdentity::assertion(id))
        });
        let conn = Connection {
            source: "10.10.1.1:40000".parse().expect("literal"),
            peer,
            destination: ([10, 10, 2, 2], port).into(),
        };
        match authorize(&store, cart, &conn).verdict {
            Verdict::Allow(permit) => permit.reason().to_string(),
            Verdict::Deny(denial) => denial.to_string(),
        }
    };
    let web = Some("spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!(says(web, 8080), "allowed by rule 0 of shop/allow-web");
    assert_eq!(says(None, 8080), "denied by rule 0 of shop/no-plaintext");
    assert_eq!(
        says(web, 22),
        "ALLOW policies apply, and none matched; rule 0 of shop/allow-web matched principals, \
         but destinationPorts: got 22, want 8080"
    );
}

/// Every key of the shape.
const EVERY_KEY: &str = r#"
workloads:
- uid: cluster1//Pod/shop/web
  name: web
  namespace: shop
  trustDomain: example.org
  serviceAccount: websa
  workloadIps: ["10.0.0.1", "::ffff:10.0.0.2", "fd00::1"]
  network: net1
  protocol: HBONE
  networkMode: Standard
  waypoint: {destination: shop/wp.svc, hboneMtlsPort: 15008}
  networkGateway: {destination: "net1/10.0.0.1", hboneMtlsPort: 15443}
  applicationTunnel: {protocol: PROXY, port: 15088}
  nativeTunnel: true
  hostname: web.example.com
  node: node-a
  workloadName: web
  workloadType: cronjob
  canonicalName: web
  canonicalRevision: 1.10
  authorizationPolicies: [istio-system/strict]
  status: Unhealthy
  clusterId: cluster1
  locality: {region: eu, zone: eu-1, subzone: x}
  services:
    shop/cart.svc: {80: 8080, "81": 0}
  capacity: 7
- {name: wp, namespace: shop, workloadIps: [], waypoint: null, networkGateway: ~, hostname: "",
   applicationTunnel: {protocol: NONE}}
policies:
- name: a
  namespace: shop
  scope: WorkloadSelector
  action: Deny
  dryRun: true
  rules:
  - - - namespaces: [!Exact shop, Exact: bank, {Prefix: "10"}, !Suffix x, Presence]
        notNamespaces: [!Presence [], Presence: []]
        serviceAccounts: [{namespace: shop, serviceAccount: web}]
        notServiceAccounts: []
        principals: [!Exact spiffe://td/ns/a/sa/b, !Exact td/ns/a/sa/b, !Prefix "spiffe://td/"]
        notPrincipals: []
        sourceIps: [10.0.0.0/8, fd00::/8, 10.1.1.1]
        notSourceIps: []
        destinationIps: []
        notDestinationIps: [0.0.0.0/0]
        destinationPorts: [80, 443]
        notDestinationPorts: []
      - {}
    - []
  - []
services:
- name: cart
  namespace: shop
  hostname: cart.svc
  vips: [net1/10.1.0.1, "/fd01::1"]
  cidrVips: [{network: net1, cidr: 10.2.0.0/16}]
  ports: {80: 8080, 81: 0}
  endpoints: {}
  subjectAltNames: [spiffe://td/ns/a/sa/b]
  waypoint: {destination: "/::ffff:10.9.9.9", hboneMtlsPort: 15008}
  weightedWaypoints:
  - {destination: {destination: shop/wp.svc, hboneMtlsPort: 15008}, weight: 90}
  - {destination: {destination: "net1/10.2.3.4", hboneMtlsPort: 15009}, weight: 0}
  loadBalancer:
    routingPreferences: [Region, Zone, Subzone, Node, Cluster, Network]
    mode: Failover
    healthPolicy: AllowAll
  ipFamilies: IPv4
  canonical: true
  visibility: Namespace
- name: wp
  namespace: shop
  hostname: wp.svc
  vips: [/10.9.9.9]
  ports: {15008: 15008}
  endpoints:
    Kubernetes//Pod/shop/wp:
      {workloadUid: Kubernetes//Pod/shop/wp, port: {15008: 0}, status: Healthy}
  weightedWaypoints: []
"#;

#[test]
fn every_key_of_the_shape() {
    let config = parse("mesh.yaml", EVERY_KEY).expect("every key");
    // Compared as text: a change of any value shows.
    let shown = format!("{config:#?}");
    for needle in [
        "10.0.0.2",
        "example.org",
        "CronJob",
        "1.10",
        "Unhealthy",
        "eu-1",
        "capacity: 7",
        "\"strict\"",
        "DryRun",
        "WorkloadSelector",
        "Suffix(",
        "AllowAll",
        "Failover",
        "visibility: Namespace",
        "ip_families: V4",
        "10.2.0.0/16",
        "canonical: true",
    ] {
        assert!(shown.contains(needle), "{needle} in {shown}");
    }
    assert!(!shown.contains("ffff"), "a v4-mapped address is folded: {shown}");
    let Some(Stored::Policy(policy)) = config.policies.first() else { panic!("{shown}") };
    let a_match = &policy.rules[0].clauses[0].matches[0];
    assert_eq!(a_match.namespaces.any_of.len(), 5);
    assert_eq!(a_match.namespaces.none_of, [const { authz::StringMatch::Presence }; 2]);
    // Both forms of a principal are one.
    assert_eq!(a_match.principals.any_of[0], a_match.principals.any_of[1]);
    assert_eq!(policy.rules[0].clauses[0].matches[1], authz::Match::default());
    assert_eq!((policy.rules.len(), policy.rules[1].clauses.len()), (2, 0));
}

#[test]
fn proxies_on_the_way() {
    let config = parse("mesh.yaml", EVERY_KEY).expect("every key");
    let [web, wp] = config.workloads.as_slice() else { panic!("two workloads") };
    let shown = |gateway: &Option<model::Gateway>| gateway.as_ref().map(ToString::to_string);
    assert_eq!(shown(&web.waypoint).as_deref(), Some("shop/wp.svc:15008"));
    assert_eq!(shown(&web.network_gateway).as_deref(), Some("net1/10.0.0.1:15443"));
    let tunnel = web.application_tunnel.expect("given");
    assert_eq!(tunnel.protocol, model::ApplicationProtocol::Proxy);
    assert_eq!(tunnel.port.map(u16::from), Some(15088));
    assert_eq!((web.native_tunnel, web.hostname.as_deref()), (true, Some("web.example.com")));
    assert_eq!((&wp.waypoint, &wp.network_gateway, &wp.hostname), (&None, &None, &None));
    assert_eq!(wp.application_tunnel, Some(model::ApplicationTunnel::default()));
    let [cart, waypoints] = config.services.as_slice() else { panic!("two services") };
    assert_eq!(shown(&cart.waypoint).as_deref(), Some("/10.9.9.9:15008"));
    let weighted = cart.weighted_waypoints.iter().map(|w| (w.gateway.to_string(), w.weight));
    assert_eq!(
        weighted.collect::<Vec<_>>(),
        [("shop/wp.svc:15008".to_owned(), 90), ("net1/10.2.3.4:15009".to_owned(), 0)]
    );
    // An endpoint that a service names is a service of its workload.
    let ports = wp.services.get(&waypoints.name).expect("from endpoints");
    assert_eq!(ports.len(), 1);
    assert_eq!((ports[0].service_port.get(), ports[0].target_port), (15008, None));
}

#[test]
fn endpoints_agree_with_their_workloads() {
    let file = |entry: &str, workload: &str| {
        format!(
            "workloads:\n\
             - {{name: a, namespace: n, uid: a, workloadIps: [], {workload}}}\n\
             services:\n\
             - {{name: s, namespace: n, hostname: h, vips: [], ports: {{80: 80}}, endpoints: {{{entry}}}}}\n"
        )
    };
    let good = "a: {workloadUid: a, port: {80: 8080}, status: Healthy}";
    for workload in ["services: {}", "services: {n/h: {80: 8080}}"] {
        let config = parse("mesh.yaml", &file(good, workload)).expect(workload);
        let port = config.workloads[0].target_port(&config.services[0].name, 80);
        assert_eq!(port.map(u16::from), Some(8080));
    }
    let at = |column: usize, field: &str, cause: &str| {
        format!("mesh.yaml:4:{column}: services[0].endpoints.{field}: {cause}")
    };
    for (entry, workload, expected) in [
        (
            good,
            "services: {n/h: {80: 80}}",
            at(82, "a", "workloads[0].services says other ports of it"),
        ),
        (good, "status: Unhealthy", at(82, "a", "the status of workloads[0] is another")),
        (
            "b: {workloadUid: b, port: {80: 80}, status: Healthy}",
            "services: {}",
            at(82, "b", "no such workload in this file (got \"b\")"),
        ),
        (
            "b: {workloadUid: a, port: {80: 80}, status: Healthy}",
            "services: {}",
            at(96, "b.workloadUid", "expected the key of the entry (got \"a\")"),
        ),
        ("a: {workloadUid: a, port: {80: 80}}", "services: {}", at(82, "a.status", "missing")),
    ] {
        check(&file(entry, workload), &expected);
    }
}

#[test]
fn defaults() {
    let config = parse("mesh.yaml", &workload("")).expect("the least");
    let workload = config.workloads.first().expect("one");
    assert_eq!(workload.key.to_string(), "shop/web/default");
    assert_eq!(&*workload.uid.0, "Kubernetes//Pod/shop/web");
    assert_eq!(workload.trust_domain.as_str(), "cluster.local");
    assert_eq!((&*workload.cluster, workload.capacity), ("Kubernetes", 1));
    assert_eq!(workload.protocol, TunnelProtocol::None);
    assert_eq!(parse("mesh.yaml", "{}"), Ok(LocalConfig::default()));
}

#[test]
fn the_whole_file() {
    for (text, expected) in [
        ("", "mesh.yaml:1:1: the file is empty; write {} for an empty configuration"),
        ("# nothing\n", "mesh.yaml:2:1: the file is empty; write {} for an empty configuration"),
        ("[]", "mesh.yaml:1:1: expected a mapping, found a list"),
        ("workload: []", "mesh.yaml:1:1: workload: unknown key"),
        ("policies:\n", "mesh.yaml:1:9: policies: expected a list, found nothing"),
        ("workloads: {}", "mesh.yaml:1:12: workloads: expected a list, found a mapping"),
    ] {
        check(text, expected);
    }
    for text in ["a: [", "a: 1\na: 2", "a: *b", "\u{0}", "--- 1\n--- 2", "a: {{}}"] {
        assert!(parse("mesh.yaml", text).is_err(), "{text}");
    }
}

#[test]
fn mistakes_in_workloads() {
    for (lines, expected) in [
        ("    portocol: HBONE", "mesh.yaml:5:5: workloads[0].portocol: unknown key"),
        (
            "    protocol: hbone",
            "mesh.yaml:5:15: workloads[0].protocol: \
             expected one of TCP, HBONE, LEGACY_ISTIO_MTLS (got \"hbone\")",
        ),
        (
            "    protocol: LEGACY_ISTIO_MTLS",
            "mesh.yaml:5:15: workloads[0].protocol: not supported yet",
        ),
        (
            "    serviceAccount: a/b",
            "mesh.yaml:5:21: workloads[0].serviceAccount: \
             expected a Kubernetes name: a-z, 0-9, - and ., at most 253 characters (got \"a/b\")",
        ),
        (
            "    trustDomain: A",
            "mesh.yaml:5:18: workloads[0].trustDomain: \"A\" is not a valid trust domain",
        ),
        (
            "    authorizationPolicies: [shop/a, b]",
            "mesh.yaml:5:37: workloads[0].authorizationPolicies[1]: \
             expected namespace/name (got \"b\")",
        ),
        (
            "    capacity: -1",
            "mesh.yaml:5:15: workloads[0].capacity: \
             expected a number from 0 to 4294967295 (got \"-1\")",
        ),
        (
            "    nativeTunnel: 1",
            "mesh.yaml:5:19: workloads[0].nativeTunnel: expected true or false (got \"1\")",
        ),
        (
            "    services: {cart.svc: {80: 70000}}",
            "mesh.yaml:5:26: workloads[0].services[\"cart.svc\"]: \
             expected namespace/hostname (got \"cart.svc\")\n\
             mesh.yaml:5:31: workloads[0].services[\"cart.svc\"].80: \
             expected a port from 1 to 65535, or 0 for a named one (got \"70000\")",
        ),
        (
            "    services: {shop/cart.svc: {80: 80}}",
            "mesh.yaml:2:5: workloads[0].services[\"shop/cart.svc\"]: \
             no such service in this file",
        ),
        (
            "    waypoint: {destination: /10.0.0.1, hbonePort: 15008}",
            "mesh.yaml:5:15: workloads[0].waypoint.hboneMtlsPort: missing\n\
             mesh.yaml:5:40: workloads[0].waypoint.hbonePort: unknown key",
        ),
        (
            "    networkGateway: {destination: 10.0.0.1, hboneMtlsPort: 0}",
            "mesh.yaml:5:35: workloads[0].networkGateway.destination: expected network/address, \
             such as /10.0.0.1, or namespace/hostname (got \"10.0.0.1\")\n\
             mesh.yaml:5:60: workloads[0].networkGateway.hboneMtlsPort: \
             expected a port from 1 to 65535 (got \"0\")",
        ),
        (
            "    waypoint: {destination: shop/wp.svc, hboneMtlsPort: 15008}",
            "mesh.yaml:2:5: workloads[0].waypoint: \
             no such service or address in this file (got \"shop/wp.svc:15008\")",
        ),
        (
            "    networkGateway: {destination: other/10.0.0.1, hboneMtlsPort: 15008}",
            "mesh.yaml:2:5: workloads[0].networkGateway: \
             no such service or address in this file (got \"other/10.0.0.1:15008\")",
        ),
        (
            "    applicationTunnel: {protocol: proxy, port: x}",
            "mesh.yaml:5:35: workloads[0].applicationTunnel.protocol: \
             expected one of NONE, PROXY (got \"proxy\")\n\
             mesh.yaml:5:48: workloads[0].applicationTunnel.port: \
             expected a port from 1 to 65535 (got \"x\")",
        ),
        (
            "    hostname: 10.0.0.1",
            "mesh.yaml:5:15: workloads[0].hostname: \
             expected a host name, or nothing (got \"10.0.0.1\")",
        ),
        (
            "    hostname: a..b",
            "mesh.yaml:5:15: workloads[0].hostname: \
             expected a host name, or nothing (got \"a..b\")",
        ),
        (
            "    node: !Exact x",
            "mesh.yaml:5:18: workloads[0].node: the tag !Exact has no meaning here",
        ),
    ] {
        check(&workload(lines), expected);
    }
    check(
        "workloads: [{workloadIps: [10.0.0.256, 1], namespace: ''}]",
        "mesh.yaml:1:13: workloads[0].name: missing\n\
         mesh.yaml:1:28: workloads[0].workloadIps[0]: expected an IP address (got \"10.0.0.256\")\n\
         mesh.yaml:1:40: workloads[0].workloadIps[1]: expected an IP address (got \"1\")\n\
         mesh.yaml:1:55: workloads[0].namespace: \
         expected a Kubernetes name: a-z, 0-9, - and ., at most 253 characters (got \"\")",
    );
}

#[test]
fn mistakes_in_services() {
    for (lines, expected) in [
        (
            "    waypoint: {destination: shop/wp.svc, hboneMtlsPort: 1}\n    \
             weightedWaypoints: [{weight: 1, destination: {destination: shop/a, hboneMtlsPort: 1}}]",
            "mesh.yaml:2:5: services[0].waypoint: \
             no such service or address in this file (got \"shop/wp.svc:1\")\n\
             mesh.yaml:2:5: services[0].weightedWaypoints[0]: \
             no such service or address in this file (got \"shop/a:1\")",
        ),
        (
            "    weightedWaypoints: [{destination: shop/a, weight: -1}, 1]",
            "mesh.yaml:7:39: services[0].weightedWaypoints[0].destination: \
             expected a mapping (got \"shop/a\")\n\
             mesh.yaml:7:55: services[0].weightedWaypoints[0].weight: \
             expected a number from 0 to 4294967295 (got \"-1\")\n\
             mesh.yaml:7:60: services[0].weightedWaypoints[1]: expected a mapping (got \"1\")",
        ),
        (
            "    loadBalancer: {mode: Random, healthPolicy: AllowAll, x: 1}",
            "mesh.yaml:7:26: services[0].loadBalancer.mode: \
             expected one of Standard, Strict, Failover, Passthrough (got \"Random\")\n\
             mesh.yaml:7:58: services[0].loadBalancer.x: unknown key",
        ),
        (
            "    subjectAltNames: [example.org]",
            "mesh.yaml:7:23: services[0].subjectAltNames[0]: \"example.org\" is not \
             spiffe://<trust domain>/ns/<namespace>/sa/<account>",
        ),
        (
            "    cidrVips: [{network: '', cidr: 10.0.0.0/33}]",
            "mesh.yaml:7:36: services[0].cidrVips[0].cidr: \
             expected an address block such as 10.0.0.0/8 (got \"10.0.0.0/33\")",
        ),
    ] {
        check(&service(lines), expected);
    }
    check(
        "services: [{name: a, namespace: n, hostname: h, vips: [10.0.0.1], ports: {0: 1, 80: 1, 080: 2}}]",
        "mesh.yaml:1:56: services[0].vips[0]: \
         expected network/address, such as /10.0.0.1 (got \"10.0.0.1\")\n\
         mesh.yaml:1:74: services[0].ports: one service port is given twice\n\
         mesh.yaml:1:78: services[0].ports.0: expected a port from 1 to 65535 (got \"0\")",
    );
}

#[test]
fn mistakes_in_policies() {
    let at = |field: &str, column: usize, cause: &str| {
        format!("mesh.yaml:3:{column}: policies[0].rules[0][0][0]{field}: {cause}")
    };
    for (a_match, expected) in [
        (
            "sourceIps: [10.0.0.0/8, 10.0.0.0/33]",
            at(
                ".sourceIps[1]",
                39,
                "expected an address block such as 10.0.0.0/8 (got \"10.0.0.0/33\")",
            ),
        ),
        (
            "principals: [cluster.local/ns/a/sa/b]",
            at(
                ".principals[0]",
                28,
                "expected !Exact, !Prefix, !Suffix or !Presence [] (got \"cluster.local/ns/a/sa/b\")",
            ),
        ),
        (
            "principals: [!Exact cluster.local/sa/b]",
            at(
                ".principals[0]",
                35,
                "no identity can match it: \"spiffe://cluster.local/sa/b\" is not \
                 spiffe://<trust domain>/ns/<namespace>/sa/<account>",
            ),
        ),
        (
            "principals: [!Regex a]",
            at(
                ".principals[0]",
                35,
                "expected !Exact, !Prefix, !Suffix or !Presence [] (got \"a\")",
            ),
        ),
        (
            "namespaces: [{Exact: a, Prefix: b}]",
            at(".namespaces[0]", 28, "expected !Exact, !Prefix, !Suffix or !Presence []"),
        ),
        (
            "namespaces: [!Presence x]",
            at(
                ".namespaces[0]",
                38,
                "expected !Exact, !Prefix, !Suffix or !Presence [] (got \"x\")",
            ),
        ),
        ("principals: ~", at(".principals", 27, "expected a list, found nothing")),
        (
            "destinationPorts: [0]",
            at(".destinationPorts[0]", 34, "expected a port from 1 to 65535 (got \"0\")"),
        ),
        ("requestPrincipals: [a]", at(".requestPrincipals", 15, "unknown key")),
        (
            "serviceAccounts: [{namespace: a}]",
            at(".serviceAccounts[0].serviceAccount", 33, "missing"),
        ),
    ] {
        check(&policy(&format!("{{{a_match}}}")), &expected);
    }
    check(
        "policies: [{name: a/b, namespace: n, scope: namespace, action: ALLOW, dryRun: 'true'}]",
        "mesh.yaml:1:12: policies[0].rules: missing\n\
         mesh.yaml:1:19: policies[0].name: namespace and name must not be empty, \
         and the name holds no / (got \"n/a/b\")\n\
         mesh.yaml:1:45: policies[0].scope: expected one of Global, Namespace, WorkloadSelector \
         (got \"namespace\")\n\
         mesh.yaml:1:64: policies[0].action: expected one of Allow, Deny (got \"ALLOW\")\n\
         mesh.yaml:1:79: policies[0].dryRun: expected true or false (got \"true\")",
    );
}

#[test]
fn what_is_there_twice() {
    check(
        "workloads:\n\
         - {name: a, namespace: n, uid: u, workloadIps: [10.0.0.1]}\n\
         - {name: b, namespace: n, uid: u, workloadIps: ['::ffff:10.0.0.1']}\n\
         - {name: a, namespace: n, uid: v, workloadIps: [10.0.0.1], network: other}\n\
         - {name: c, namespace: n, uid: w, workloadIps: [10.0.0.1], networkMode: HostNetwork}\n\
         - {name: a, namespace: n, uid: x, workloadIps: [], clusterId: other}\n\
         services:\n\
         - &s {name: s, namespace: n, hostname: h, vips: [/10.9.9.9], ports: {80: 80}}\n\
         - *s\n\
         - {name: s, namespace: m, hostname: h, vips: [/10.9.9.9], ports: {80: 80}}\n\
         policies:\n\
         - &p {name: p, namespace: n, scope: Global, action: Deny, rules: []}\n\
         - *p\n",
        "mesh.yaml:3:3: workloads[1].uid: the same as that of workloads[0] (got \"u\")\n\
         mesh.yaml:3:3: workloads[1].workloadIps: the same as that of workloads[0] (got \"/10.0.0.1\")\n\
         mesh.yaml:4:3: workloads[2].name: the same as that of workloads[0] \
         (got \"n/a/default in cluster Kubernetes\")\n\
         mesh.yaml:9:3: services[1].hostname: the same as that of services[0] (got \"n/h\")\n\
         mesh.yaml:13:3: policies[1].name: the same as that of policies[0] (got \"n/p\")",
    );
}

#[test]
fn many_mistakes_are_counted() {
    let text = format!("policies: [{}]", "1, ".repeat(60));
    let errors = parse("mesh.yaml", &text).expect_err("60 mistakes");
    assert_eq!((errors.errors().len(), errors.left_out()), (50, 10));
    assert!(errors.to_string().ends_with("\nand 10 more"));
    let long = parse("mesh.yaml", &workload(&format!("    capacity: {}", "x".repeat(500))));
    let shown = long.expect_err("no number").to_string();
    assert!(shown.ends_with("x…\")") && shown.len() < 250, "{shown}");
}

/// Pieces of a real file in any order: likelier to get deep than noise.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "workloads:",
        "policies:",
        "services:",
        "\n",
        "\n  ",
        "\n    ",
        "- ",
        "- - - ",
        "name: a",
        "rules:",
        "[",
        "]",
        "{",
        "}",
        ", ",
        ": ",
        "!Exact ",
        "!Presence []",
        "&a ",
        "*a",
        "<<: *a",
        "10.0.0.0/8",
        "::ffff:1.2.3.4",
        "99999999999999999999",
        "-1",
        "1e999",
        "~",
        "true",
        "|\n",
        ">\n",
        "\"",
        "'",
        "#",
        "---\n",
        "...",
        "\t",
        "é",
        "\u{feff}",
        "principals: ",
        "ports: {80: 0}",
        "%YAML 9",
    ]);
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, ..ProptestConfig::with_cases(1500)
    })]

    #[test]
    fn never_panics_on_any_text(text in ".{0,200}") {
        let _ = parse("mesh.yaml", &text);
    }

    #[test]
    fn never_panics_on_pieces_of_a_file(text in pieces()) {
        let _ = parse("mesh.yaml", &text);
    }

    /// A file with one character changed is refused or still means something; it never panics,
    /// and every error has a cause.
    #[test]
    fn never_panics_on_a_damaged_file(at in 0..EVERY_KEY.len(), with in any::<char>()) {
        prop_assume!(EVERY_KEY.is_char_boundary(at) && EVERY_KEY.is_char_boundary(at + 1));
        let text = format!("{}{with}{}", &EVERY_KEY[..at], &EVERY_KEY[at + 1..]);
        if let Err(errors) = parse("mesh.yaml", &text) {
            prop_assert!(!errors.errors().is_empty());
            prop_assert!(errors.errors().iter().all(|error| !error.cause.is_empty()));
        }
    }
}
