//! Services of Kubernetes and of service entries.

use super::*;

fn service(meta: &str, spec: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: svc, namespace: ns{meta}}}
spec: {{ports: [{{name: http, port: 80}}]{spec}}}
"
    )
}

fn entry(meta: &str, spec: &str) -> String {
    format!(
        "---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: se, namespace: ns{meta}}}
spec: {{hosts: [a.example.com], ports: [{{number: 80, name: http, protocol: HTTP}}]{spec}}}
"
    )
}

fn namespace(annotations: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: ns, annotations: {annotations}}}\n"
    )
}

const KEY: &str = "ns/svc.ns.svc.cluster.local";
const ENTRY: &str = "ns/a.example.com";

#[test]
fn a_service_as_it_is() {
    let mesh = Mesh::of(&service(
        "",
        ", clusterIP: 10.9.0.1, clusterIPs: [10.9.0.1, 'fd00::9'], ipFamilies: [IPv4, IPv6]",
    ));
    let address = |bytes: &[u8]| wire::NetworkAddress {
        address: bytes.to_vec().into(),
        ..wire::NetworkAddress::default()
    };
    let v6: std::net::Ipv6Addr = "fd00::9".parse().expect("an address");
    let expected = wire::Service {
        name: "svc".into(),
        namespace: "ns".into(),
        hostname: "svc.ns.svc.cluster.local".into(),
        addresses: vec![address(&[10, 9, 0, 1]), address(&v6.octets())],
        ports: vec![wire::Port { service_port: 80, target_port: 80, app_protocol: 1 }],
        ip_families: wire::IpFamilies::Dual.into(),
        canonical: true,
        ..wire::Service::default()
    };
    assert_eq!(mesh.service(KEY), expected);
    let aliases: Vec<&str> = mesh.addresses[KEY].aliases.iter().map(|alias| &**alias).collect();
    assert_eq!(aliases, ["/10.9.0.1", "/fd00::9"]);
}

#[test]
fn kinds_and_addresses() {
    for (spec, expected) in [
        (", clusterIP: None", Some(vec![])),
        (", clusterIPs: [None]", Some(vec![])),
        (", clusterIP: ''", Some(vec![])),
        (", clusterIP: 10.9.0.1", Some(vec!["10.9.0.1"])),
        (", clusterIP: 10.9.0.1, clusterIPs: [10.9.0.1, oops]", Some(vec!["10.9.0.1"])),
        (", clusterIPs: ['::', 10.9.0.1]", Some(vec!["10.9.0.1"])),
        (", type: LoadBalancer, clusterIP: 10.9.0.1", Some(vec!["10.9.0.1"])),
        (", type: ExternalName, externalName: x.example", None),
    ] {
        let mesh = Mesh::of(&service("", spec));
        match expected {
            None => assert_eq!(mesh.names(), [""; 0], "{spec}"),
            Some(expected) => assert_eq!(vips(&mesh.service(KEY)), expected, "{spec}"),
        }
        assert_eq!(
            mesh.problems().len(),
            usize::from(spec.contains("oops") || spec.contains("::"))
        );
    }
}

#[test]
fn ports_and_protocols() {
    use wire::AppProtocol::{Grpc, Http2, Http11, Tcp, Tls, Unknown};
    let mesh = Mesh::of(
        "
apiVersion: v1
kind: Service
metadata: {name: svc, namespace: ns}
spec:
  ports:
  - {port: 80, targetPort: 8080, name: http}
  - {port: 81, targetPort: web, name: grpc-web}
  - {port: 82, targetPort: 0, name: TLS-x}
  - {port: 83, appProtocol: kubernetes.io/h2c, name: tcp}
  - {port: 84, appProtocol: https}
  - {port: 53, protocol: UDP, targetPort: 5353}
  - {port: 53, name: tcp-dns}
  - {port: 3306}
  - {port: 85, name: odd}
  - {port: 0}
",
    );
    let service = mesh.service(KEY);
    assert_eq!(
        ports(&service.ports),
        "80->8080 81->0 82->82 83->83 84->84 53->53 3306->3306 85->85"
    );
    let expected = [Http11, Grpc, Tls, Http2, Tls, Tcp, Tcp, Unknown].map(i32::from);
    let found: Vec<i32> = service.ports.iter().map(|port| port.app_protocol).collect();
    assert_eq!(found, expected);
    assert_eq!(mesh.problems(), ["Service ns/svc: spec.ports: 0 is not a port, and was left out"]);
}

#[test]
fn traffic_distribution() {
    use wire::load_balancing::Scope::{Network, Node, Region, Subzone, Zone};
    use wire::load_balancing::{HealthPolicy, Mode};
    let zone = (Mode::Failover, vec![Network, Region, Zone]);
    let node = (Mode::Failover, vec![Network, Region, Zone, Subzone, Node]);
    let annotation = |value: &str| {
        format!(", annotations: {{networking.istio.io/traffic-distribution: {value}}}")
    };
    let of_namespace = namespace("{networking.istio.io/traffic-distribution: PreferClose}");
    let close = annotation("PreferClose");
    let any = annotation("Any");
    let same_node = annotation("PreferSameNode");
    let cases = [
        ("", "", "", None),
        ("", "", ", trafficDistribution: PreferClose", Some(zone.clone())),
        ("", "", ", trafficDistribution: PreferSameZone", Some(zone.clone())),
        ("", "", ", trafficDistribution: PreferSameNode", Some(node.clone())),
        ("", "", ", trafficDistribution: Somehow", None),
        ("", &*close, "", Some(zone.clone())),
        ("", &*close, ", trafficDistribution: PreferSameNode", Some(node.clone())),
        (&*of_namespace, "", "", Some(zone.clone())),
        (&*of_namespace, &*same_node, "", Some(node.clone())),
        (&*of_namespace, &*any, "", None),
        (
            &*of_namespace,
            &*close,
            ", internalTrafficPolicy: Local, trafficDistribution: PreferClose",
            Some((Mode::Strict, vec![Node])),
        ),
        ("", "", ", internalTrafficPolicy: Cluster", None),
    ];
    for (before, meta, spec, expected) in cases {
        let mesh = Mesh::of(&format!("{before}{}", service(meta, spec)));
        let found = mesh.service(KEY).load_balancing;
        let expected = expected.map(|(mode, scopes)| wire::LoadBalancing {
            mode: mode.into(),
            routing_preference: scopes.into_iter().map(i32::from).collect(),
            health_policy: HealthPolicy::OnlyHealthy.into(),
        });
        assert_eq!(found, expected, "{before}{meta}{spec}");
        if spec.is_empty() {
            let mesh = Mesh::of(&format!("{before}{}", entry(meta, ", resolution: STATIC")));
            assert_eq!(mesh.service(ENTRY).load_balancing, expected, "{before}{meta}{spec}");
        }
    }
    let all = |mode: Mode| {
        let health_policy = HealthPolicy::AllowAll.into();
        let mode = mode.into();
        Some(wire::LoadBalancing { mode, health_policy, ..wire::LoadBalancing::default() })
    };
    let mesh = Mesh::of(&service("", ", publishNotReadyAddresses: true"));
    assert_eq!(mesh.service(KEY).load_balancing, all(Mode::UnspecifiedMode));
    let mesh =
        Mesh::of(&service("", ", publishNotReadyAddresses: true, internalTrafficPolicy: Local"));
    let both = mesh.service(KEY).load_balancing.expect("is set");
    assert_eq!((both.mode, both.health_policy), (Mode::Strict.into(), 1));
    let mesh = Mesh::of(&entry(&close, ", resolution: NONE"));
    assert_eq!(mesh.service(ENTRY).load_balancing, all(Mode::Passthrough));
    // The namespace's word comes later, and everything in it is looked at again.
    let mut mesh = Mesh::of(&service("", ""));
    assert_eq!(changed(&mesh.set(&of_namespace)), [KEY]);
    assert_eq!(changed(&mesh.set(&of_namespace)), [""; 0]);
}

#[test]
fn addresses_of_entries() {
    let automatic = |mesh: &Mesh, name: &str| {
        let vips = vips(&mesh.service(name));
        let is =
            vips.len() == 2 && vips[0].starts_with("240.240.") && vips[1].starts_with("2001:2::");
        assert!(is || vips.is_empty(), "{vips:?}");
        is
    };
    let opt_out = ", labels: {networking.istio.io/enable-autoallocate-ip: 'false'}";
    for (meta, spec, expected) in [
        ("", ", resolution: STATIC", true),
        ("", ", resolution: DNS", true),
        ("", ", resolution: DYNAMIC_DNS", true),
        ("", ", resolution: NONE", false),
        ("", "", false),
        (opt_out, ", resolution: DNS", false),
    ] {
        let mesh = Mesh::of(&entry(meta, spec));
        assert_eq!(automatic(&mesh, ENTRY), expected, "{meta}{spec}");
    }
    for (resolution, expected) in [("DNS", false), ("DYNAMIC_DNS", true), ("NONE", false)] {
        let text = entry("", &format!(", resolution: {resolution}"));
        let mesh = Mesh::of(&text.replace("a.example.com", "'*.example.com'"));
        assert_eq!(automatic(&mesh, "ns/*.example.com"), expected, "{resolution}");
    }
    // Addresses that are given, blocks among them.
    let spec = ", resolution: DNS, addresses: [1.2.3.4, 10.7.3.1/16, 10.8.0.1/32, 'fd00::1/64', x, '::ffff:1.2.3.4']";
    let mesh = Mesh::of(&entry("", spec));
    let found = vips(&mesh.service(ENTRY));
    assert_eq!(found, ["1.2.3.4", "10.7.0.0/16", "10.8.0.1", "fd00::/64"]);
    assert_eq!(
        mesh.problems(),
        ["ServiceEntry ns/se: spec.addresses: \"x\" is neither an IP address nor a CIDR block, \
          and was left out"]
    );
    let aliases: Vec<&str> = mesh.addresses[ENTRY].aliases.iter().map(|a| &**a).collect();
    assert_eq!(aliases, ["/1.2.3.4", "/10.8.0.1"]);
}

#[test]
fn automatic_addresses_are_reported_until_they_are_in_the_status() {
    let text =
        entry("", ", resolution: DNS").replace("[a.example.com]", "[a.example.com, b.example.com]");
    let mut mesh = Mesh::new(settings());
    let changes = mesh.set(&text);
    let [(object, assigned)] = &changes.assignments[..] else { panic!("{changes:?}") };
    assert_eq!(*object, key(Kind::ServiceEntry, "ns", "se"));
    let hosts: Vec<&str> = assigned.iter().map(|a| &*a.host).collect();
    assert_eq!(hosts, ["a.example.com", "b.example.com"]);
    let sent = vips(&mesh.service(ENTRY));
    let [v4, v6] = assigned[0].addresses;
    assert_eq!(sent, [v4.to_string(), v6.to_string()]);
    assert!(mesh.set(&text).is_empty());

    // The leader writes it: nothing changes but that there is nothing left to write.
    let status: String = assigned
        .iter()
        .flat_map(|a| a.addresses.map(|ip| format!("{{value: '{ip}', host: {}}}, ", a.host)))
        .collect();
    let changes = mesh.set(&format!("{text}status: {{addresses: [{status}]}}\n"));
    assert_eq!(changed(&changes), [""; 0]);
    assert_eq!(changes.assignments, [(object.clone(), vec![])]);

    // What a status says counts, whatever it is; a host without one is given one.
    let changes = mesh.set(&format!(
        "{text}status: {{addresses: [{{value: 240.240.7.7, host: a.example.com}}]}}\n"
    ));
    assert_eq!(changed(&changes), [ENTRY]);
    assert_eq!(vips(&mesh.service(ENTRY)), ["240.240.7.7"]);
    assert_eq!(changes.assignments.len(), 1);
    let mesh = Mesh::of(&format!("{text}status: {{addresses: [{{value: 240.240.7.7}}]}}\n"));
    assert_eq!(vips(&mesh.service("ns/b.example.com")), ["240.240.7.7"]);
}

#[test]
fn an_address_does_not_depend_on_other_entries() {
    let named = |name: &str| {
        entry("", ", resolution: DNS")
            .replace("a.example", name)
            .replace("se,", &format!("{name},"))
    };
    let alone = Mesh::of(&named("one"));
    let text: String = ["two", "three", "one", "four"].map(named).concat();
    let mut crowd = Mesh::of(&text);
    let of = |mesh: &Mesh| vips(&mesh.service("ns/one.com"));
    assert_eq!(of(&alone), of(&crowd));
    let changes = crowd.delete(Kind::ServiceEntry, "ns", "two");
    assert!(changed(&changes).iter().all(|name| name.starts_with('-')), "{changes:?}");
}

#[test]
fn identities_and_ports_of_entries() {
    let mesh = Mesh::of(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: se, namespace: ns}
spec:
  hosts: [a.example.com]
  subjectAltNames: ['spiffe://cluster.local/ns/ns/sa/a', b]
  ports:
  - {number: 80, targetPort: 8080, name: a, protocol: HTTP}
  - {number: 443, name: b, protocol: HTTPS}
  - {number: 53, name: c, protocol: UDP}
",
    );
    let service = mesh.service(ENTRY);
    assert_eq!(ports(&service.ports), "80->8080 443->443");
    assert_eq!(service.subject_alt_names, ["spiffe://cluster.local/ns/ns/sa/a", "b"]);
    assert_eq!(service.visibility, 0);
}

#[test]
fn overlapping_addresses_are_named() {
    let one = service("", ", clusterIP: 10.9.0.1");
    let two = one.replace("name: svc", "name: other");
    let mut mesh = Mesh::of(&format!("{one}{two}"));
    let shared = [
        "Service ns/other: 10.9.0.1 is also an address of the service ns/svc.ns.svc.cluster.local",
        "Service ns/svc: 10.9.0.1 is also an address of the service ns/other.ns.svc.cluster.local",
    ];
    assert_eq!(mesh.problems(), shared);
    assert_eq!(mesh.names().len(), 2);
    let changes = mesh.set(&two.replace("10.9.0.1", "10.9.0.2"));
    assert_eq!(mesh.problems(), [""; 0]);
    assert_eq!(changed(&changes), ["ns/other.ns.svc.cluster.local"]);
    assert_eq!(changes.problems.len(), 2);
    // Hosts of one entry have the same addresses, and that is meant.
    let mesh = Mesh::of(
        &entry("", ", addresses: [10.7.0.0/16]")
            .replace("[a.example.com]", "[a.example.com, b.example.com]"),
    );
    assert_eq!(mesh.problems(), [""; 0]);
}

#[test]
fn ingress_use_waypoint() {
    let label = |value: &str| format!(", labels: {{istio.io/ingress-use-waypoint: '{value}'}}");
    let of_namespace = "{apiVersion: v1, kind: Namespace, metadata: {name: ns, labels: {istio.io/ingress-use-waypoint: 'true'}}}\n";
    for (before, own, expected) in [
        ("", String::new(), false),
        ("", label("true"), true),
        ("", label("oops"), false),
        (of_namespace, String::new(), true),
        (of_namespace, label("false"), false),
    ] {
        let mesh = Mesh::of(&format!("{before}{}", service(&own, "")));
        assert_eq!(mesh.service(KEY).ingress_use_waypoint, expected, "{before}{own}");
        let mesh = Mesh::of(&format!("{before}{}", entry(&own, "")));
        assert_eq!(mesh.service(ENTRY).ingress_use_waypoint, expected, "{before}{own}");
    }
}

/// A service with a pod's address would take its connections.
#[test]
fn an_address_of_a_pod_is_the_pods() {
    const ENTRY: &str = "---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: se, namespace: ns}
spec:
  hosts: [a.example]
  addresses: [10.0.0.1, 10.0.0.2, 10.0.0.0/24]
  ports: [{number: 80, name: http}]
  resolution: STATIC
";
    const POD: &str = "---
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: other}
status: {phase: Running, podIP: 10.0.0.1}
";
    let all = ["10.0.0.1", "10.0.0.2", "10.0.0.0/24"];
    let problem = "ServiceEntry ns/se: 10.0.0.1 belongs to Pod other/a, so it was left out";
    let aliases = |mesh: &Mesh| mesh.addresses["ns/a.example"].aliases.clone();
    let mut mesh = Mesh::of(ENTRY);
    assert_eq!(vips(&mesh.service("ns/a.example")), all);
    for _ in 0..2 {
        mesh.set(POD);
        assert_eq!(vips(&mesh.service("ns/a.example")), all[1..]);
        assert_eq!(aliases(&mesh), [Text::from("/10.0.0.2")]);
        assert_eq!(mesh.problems(), [problem]);
        mesh.delete(Kind::Pod, "other", "a");
        assert_eq!(vips(&mesh.service("ns/a.example")), all);
        assert_eq!(mesh.problems(), [""; 0]);
    }
    let mesh = Mesh::of(&format!("{POD}{ENTRY}"));
    assert_eq!(
        (vips(&mesh.service("ns/a.example")), mesh.problems()),
        (all[1..].iter().map(ToString::to_string).collect(), vec![problem.to_owned()],)
    );
}
