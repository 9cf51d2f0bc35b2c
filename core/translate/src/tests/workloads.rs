//! Workloads, from each of their sources.

use super::*;
use crate::workload::LIST_MAX;

/// A ready pod of namespace `ns`; `more` are lines of YAML at the top level of its metadata.
fn pod(name: &str, ip: &str, meta: &str, spec: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: ns, {meta}}}
spec: {{serviceAccountName: sa, nodeName: node, {spec}}}
status: {{phase: Running, podIP: {ip}, conditions: [{{type: Ready, status: 'True'}}]}}
"
    )
}

#[test]
fn a_pod_as_it_is() {
    let mesh = Mesh::of(&pod("a", "1.2.3.4", "labels: {app: foo}", ""));
    let expected = wire::Workload {
        uid: "Kubernetes//Pod/ns/a".into(),
        name: "a".into(),
        namespace: "ns".into(),
        addresses: vec![vec![1, 2, 3, 4].into()],
        service_account: "sa".into(),
        node: "node".into(),
        canonical_name: "foo".into(),
        canonical_revision: "latest".into(),
        workload_name: "a".into(),
        workload_type: wire::WorkloadType::Pod.into(),
        cluster_id: "Kubernetes".into(),
        ..wire::Workload::default()
    };
    assert_eq!(mesh.pod("ns/a"), expected);
    let address = &mesh.addresses["Kubernetes//Pod/ns/a"];
    assert_eq!(address.aliases, ["/1.2.3.4".into()]);
    assert_eq!(&*address.node, "node");
    assert_eq!(mesh.problems(), [""; 0]);
}

#[test]
fn phase_and_readiness() {
    let pod = |status: &str, meta: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: a, namespace: ns{meta}}}\nstatus: {status}"
        )
    };
    let ready = "conditions: [{type: Ready, status: 'True'}]";
    let (healthy, unhealthy) = (wire::WorkloadStatus::Healthy, wire::WorkloadStatus::Unhealthy);
    for (status, meta, expected) in [
        ("{phase: Pending}".to_owned(), "", None),
        ("{phase: Pending, podIP: 1.2.3.4}".to_owned(), "", Some(unhealthy)),
        ("{phase: Running, podIP: 1.2.3.4}".to_owned(), "", Some(unhealthy)),
        (format!("{{phase: Running, podIP: 1.2.3.4, {ready}}}"), "", Some(healthy)),
        (
            format!("{{phase: Running, podIP: 1.2.3.4, {ready}}}"),
            ", deletionTimestamp: 2026-01-01T00:00:00Z",
            Some(unhealthy),
        ),
        (format!("{{phase: Succeeded, podIP: 1.2.3.4, {ready}}}"), "", None),
        (format!("{{phase: Failed, podIP: 1.2.3.4, {ready}}}"), "", None),
        (format!("{{phase: Running, {ready}}}"), "", None),
    ] {
        let mesh = Mesh::of(&pod(&status, meta));
        let found = mesh.addresses.contains_key("Kubernetes//Pod/ns/a");
        assert_eq!(found, expected.is_some(), "{status}");
        if let Some(expected) = expected {
            assert_eq!(mesh.pod("ns/a").status, i32::from(expected), "{status} {meta}");
        }
    }
}

#[test]
fn owners() {
    use wire::WorkloadType::{Cronjob, Deployment, Job, Pod};
    let name = |kind: &str, name: &str, labels: &str| {
        let meta = format!(
            "ownerReferences: [{{kind: {kind}, name: {name}, controller: true}}], labels: {labels}"
        );
        let pod = Mesh::of(&pod("a", "1.2.3.4", &meta, "")).pod("ns/a");
        assert_eq!(pod.canonical_name, pod.workload_name);
        (pod.workload_name, wire::WorkloadType::try_from(pod.workload_type).expect("known"))
    };
    for (kind, owner, labels, expected) in [
        ("ReplicaSet", "cart-7d4b", "{pod-template-hash: 7d4b}", ("cart", Deployment)),
        ("ReplicaSet", "cart-7d4b", "{}", ("a", Pod)),
        ("ReplicaSet", "cart-7d4b", "{pod-template-hash: other}", ("a", Pod)),
        ("Deployment", "cart", "{}", ("cart", Deployment)),
        ("Job", "once", "{}", ("once", Job)),
        ("Job", "nightly-28394820", "{}", ("nightly", Cronjob)),
        ("Job", "nightly-1", "{}", ("nightly-1", Job)),
        ("StatefulSet", "db", "{}", ("a", Pod)),
    ] {
        let (name, kind_found) = name(kind, owner, labels);
        assert_eq!((&*name, kind_found), expected, "{kind} {owner}");
    }
}

#[test]
fn tunnels() {
    use wire::TunnelProtocol::{Hbone, None};
    for (meta, protocol, is_native) in [
        ("", None, false),
        ("annotations: {ambient.istio.io/redirection: enabled}", Hbone, false),
        ("annotations: {ambient.istio.io/redirection: pending}", None, false),
        ("labels: {networking.istio.io/tunnel: http}", Hbone, true),
        ("labels: {networking.istio.io/tunnel: 'x,http'}", Hbone, true),
        ("labels: {networking.istio.io/tunnel: https}", None, false),
    ] {
        let pod = Mesh::of(&pod("a", "1.2.3.4", meta, "")).pod("ns/a");
        assert_eq!(pod.tunnel_protocol, i32::from(protocol), "{meta}");
        assert_eq!(pod.native_tunnel, is_native, "{meta}");
    }
}

#[test]
fn host_network_and_both_families_and_canonical_labels() {
    let mut mesh = Mesh::of(
        "
apiVersion: v1
kind: Pod
metadata:
  name: a
  namespace: ns
  labels: {app.kubernetes.io/name: one, app: two, service.istio.io/canonical-revision: v7}
spec: {hostNetwork: true, nodeName: node}
status: {phase: Running, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}
",
    );
    let pod = mesh.pod("ns/a");
    assert_eq!(pod.network_mode, i32::from(wire::NetworkMode::HostNetwork));
    assert_eq!(pod.addresses.iter().map(|a| ip(a)).collect::<Vec<_>>(), ["10.0.0.1", "fd00::1"]);
    assert_eq!((&*pod.canonical_name, &*pod.canonical_revision), ("one", "v7"));
    assert_eq!(pod.service_account, "default");
    assert_eq!(pod.locality, None);

    // Where its node is, and that of nobody else.
    let node = "
apiVersion: v1
kind: Node
metadata:
  name: node
  labels: {topology.kubernetes.io/region: r, topology.kubernetes.io/zone: z, topology.istio.io/subzone: s}
";
    let changes = mesh.set(&format!("{node}\n---\n{}", node.replace("name: node", "name: other")));
    assert_eq!(changed(&changes), ["Kubernetes//Pod/ns/a"]);
    let locality = wire::Locality { region: "r".into(), zone: "z".into(), subzone: "s".into() };
    assert_eq!(mesh.pod("ns/a").locality, Some(locality));
    assert_eq!(changed(&mesh.set(node)), [""; 0]);
    let changes = mesh.delete(Kind::Node, "", "node");
    assert_eq!(changed(&changes), ["Kubernetes//Pod/ns/a"]);

    // The network is said in one place for all.
    let changes = mesh.set(
        "{apiVersion: v1, kind: Namespace, metadata: {name: istio-system, labels: {topology.istio.io/network: east}}}",
    );
    assert_eq!(changed(&changes), ["Kubernetes//Pod/ns/a"]);
    assert_eq!(mesh.pod("ns/a").network, "east");
    assert_eq!(&*mesh.addresses["Kubernetes//Pod/ns/a"].aliases[0], "east/10.0.0.1");
}

const SERVICE: &str = "
---
apiVersion: v1
kind: Service
metadata: {name: svc, namespace: ns}
spec:
  clusterIP: 10.9.0.1
  selector: {app: foo}
  ports:
  - {name: plain, port: 80}
  - {name: number, port: 81, targetPort: 8081}
  - {name: named, port: 82, targetPort: web}
  - {name: lost, port: 83, targetPort: nowhere}
  - {name: udp, port: 84, protocol: UDP}
";

#[test]
fn services_that_select_a_pod() {
    let ports = "containers: [{ports: [{name: web, containerPort: 8080}, {name: nowhere, containerPort: 1, protocol: UDP}]}]";
    let foo = pod("a", "1.2.3.4", "labels: {app: foo}", ports);
    let mesh =
        Mesh::of(&format!("{SERVICE}{foo}{}", pod("b", "1.2.3.5", "labels: {app: bar}", ports)));
    let key = "ns/svc.ns.svc.cluster.local";
    let expected = format!("{key}: 80->80 81->8081 82->8080");
    assert_eq!(served(&mesh.pod("ns/a")), [expected]);
    assert_eq!(mesh.addresses["Kubernetes//Pod/ns/a"].services, [key.into()]);
    assert_eq!(served(&mesh.pod("ns/b")), [""; 0]);
    // A service of another namespace does not select it, and one without selector selects nothing.
    let elsewhere = SERVICE.replace("namespace: ns", "namespace: other");
    let all = SERVICE.replace("selector: {app: foo}", "selector: {}");
    let mesh = Mesh::of(&format!("{foo}{elsewhere}{all}"));
    assert_eq!(served(&mesh.pod("ns/a")), [""; 0]);
}

#[test]
fn entries_that_select_a_pod_by_the_names_of_its_ports() {
    let entry = "
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: se, namespace: ns}
spec:
  hosts: [hostname1, hostname2]
  resolution: STATIC
  workloadSelector: {labels: {app: foo}}
  ports:
  - {number: 80, name: http, protocol: HTTP}
  - {number: 81, name: http-alt, protocol: HTTP, targetPort: 8081}
  - {number: 82, name: web, protocol: HTTP, targetPort: 8082}
  - {number: 83, name: dns, protocol: UDP}
";
    let ports = "containers: [{ports: [{name: web, containerPort: 9090}]}]";
    let mut mesh =
        Mesh::of(&format!("{entry}{}", pod("a", "1.2.3.4", "labels: {app: foo}", ports)));
    let both = [
        "ns/hostname1: 80->80 81->8081 82->9090".to_owned(),
        "ns/hostname2: 80->80 81->8081 82->9090".to_owned(),
    ];
    assert_eq!(served(&mesh.pod("ns/a")), both);
    // An empty selector selects all.
    let changes = mesh.set(&entry.replace("{labels: {app: foo}}", "{}"));
    assert_eq!(changed(&changes), [""; 0]);
    mesh.set(&entry.replace("{app: foo}", "{app: bar}"));
    assert_eq!(served(&mesh.pod("ns/a")), [""; 0]);
}

const SELECTORLESS: &str = "
---
apiVersion: v1
kind: Service
metadata: {name: svc, namespace: ns}
spec: {ports: [{name: http, port: 80}, {name: more, port: 81}]}
";

fn slice(endpoints: &str) -> String {
    format!(
        "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: slice, namespace: ns, labels: {{kubernetes.io/service-name: svc}}}}
addressType: IPv4
ports: [{{name: http, port: 8080, protocol: TCP}}, {{name: more, port: 53, protocol: UDP}}, {{name: none}}]
endpoints: {endpoints}
"
    )
}

#[test]
fn slices_of_services_without_a_selector_name_their_pods() {
    let meta = "uid: one, labels: {app: foo}";
    let with = |uid: &str| {
        slice(&format!(
            "[{{addresses: [1.2.3.4], targetRef: {{kind: Pod, name: a, namespace: ns{uid}}}}}]"
        ))
    };
    let pod = pod("a", "1.2.3.4", meta, "");
    let key = "ns/svc.ns.svc.cluster.local: 80->8080";
    let mut mesh = Mesh::of(&format!("{pod}{SELECTORLESS}{}", with(", uid: one")));
    assert_eq!(served(&mesh.pod("ns/a")), [key]);
    assert_eq!(mesh.names(), ["Kubernetes//Pod/ns/a", "ns/svc.ns.svc.cluster.local"]);
    mesh.set(&with(", uid: another"));
    assert_eq!(served(&mesh.pod("ns/a")), [""; 0]);
    mesh.set(&with(""));
    assert_eq!(served(&mesh.pod("ns/a")), [key]);
    mesh.set(&slice("[{addresses: [1.2.3.4]}]"));
    assert_eq!(served(&mesh.pod("ns/a")), [""; 0]);
    mesh.set(&with(""));
    // With a selector it is the selector that counts.
    let selecting = SELECTORLESS.replace("spec: {", "spec: {selector: {app: bar}, ");
    mesh.set(&selecting);
    assert_eq!(served(&mesh.pod("ns/a")), [""; 0]);
    mesh.set(SELECTORLESS);
    assert_eq!(served(&mesh.pod("ns/a")), [key]);
    mesh.delete(Kind::EndpointSlice, "ns", "slice");
    assert_eq!(served(&mesh.pod("ns/a")), [""; 0]);
}

#[test]
fn endpoints_that_are_no_pods() {
    let endpoints = "[{addresses: [172.18.0.5]}, {addresses: [172.18.0.5]}, {addresses: [nowhere]},
        {addresses: [172.18.0.6], conditions: {ready: false}}, {addresses: []}]";
    let mut mesh = Mesh::of(&format!("{SELECTORLESS}{}", slice(endpoints)));
    let uid = "Kubernetes/discovery.k8s.io/EndpointSlice/ns/slice/172.18.0.5";
    let expected = wire::Workload {
        uid: uid.into(),
        name: "slice".into(),
        namespace: "ns".into(),
        addresses: vec![vec![172, 18, 0, 5].into()],
        cluster_id: "Kubernetes".into(),
        network_mode: wire::NetworkMode::HostNetwork.into(),
        services: mesh.workload(uid).services,
        ..wire::Workload::default()
    };
    assert_eq!(mesh.workload(uid), expected);
    assert_eq!(served(&expected), ["ns/svc.ns.svc.cluster.local: 80->8080"]);
    let other = "Kubernetes/discovery.k8s.io/EndpointSlice/ns/slice/172.18.0.6";
    assert_eq!(mesh.workload(other).status, i32::from(wire::WorkloadStatus::Unhealthy));
    assert_eq!(mesh.names().len(), 3);
    assert_eq!(mesh.problems().len(), 1, "{:?}", mesh.problems());
    let names = slice("[{addresses: [example.com]}]").replace("IPv4", "FQDN");
    let changes = mesh.set(&names);
    assert_eq!(changed(&changes), [format!("-{uid}"), format!("-{other}")]);
    assert_eq!(mesh.problems(), [""; 0]);
    mesh.set(&slice(endpoints));
    mesh.delete(Kind::Service, "ns", "svc");
    assert_eq!(mesh.names(), [""; 0]);
}

#[test]
fn workload_entries() {
    let entry = |meta: &str, spec: &str| {
        format!(
            "---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: we, namespace: ns{meta}}}
spec: {{serviceAccount: sa{spec}}}
"
        )
    };
    let uid = "Kubernetes/networking.istio.io/WorkloadEntry/ns/we";
    let text = entry(
        ", labels: {app: foo}",
        ", address: 1.2.3.4, labels: {app: other, v: '1'}, ports: {web: 8080}, \
          locality: r/z/s, weight: 7",
    );
    let mut mesh = Mesh::of(&format!("{SERVICE}{text}"));
    let workload = mesh.workload(uid);
    assert_eq!(served(&workload), ["ns/svc.ns.svc.cluster.local: 80->80 81->8081 82->8080"]);
    assert_eq!(workload.capacity, Some(7));
    let locality = wire::Locality { region: "r".into(), zone: "z".into(), subzone: "s".into() };
    assert_eq!(workload.locality, Some(locality));
    assert_eq!((&*workload.canonical_name, &*workload.workload_name), ("foo", "we"));
    assert_eq!(workload.status, i32::from(wire::WorkloadStatus::Healthy));
    assert_eq!(workload.tunnel_protocol, 0);

    // Labels only in the spec; tunnels; a host name; another network.
    mesh.set(&entry(
        "",
        ", address: 1.2.3.4, labels: {app: foo, networking.istio.io/tunnel: http}",
    ));
    let workload = mesh.workload(uid);
    assert_eq!(served(&workload).len(), 1);
    assert_eq!((workload.tunnel_protocol, workload.native_tunnel), (1, true));
    mesh.set(&entry("", ", address: db.example"));
    let workload = mesh.workload(uid);
    assert_eq!((&*workload.hostname, workload.addresses.len()), ("db.example", 0));
    mesh.set(&entry("", ", network: west"));
    let workload = mesh.workload(uid);
    assert_eq!((&*workload.network, &*workload.hostname), ("west", ""));
    assert_eq!(mesh.problems(), [""; 0]);

    for (spec, problem) in [
        ("", "WorkloadEntry ns/we: address: \"\" is not a name, so it was left out"),
        (
            ", address: 'unix:///run/x'",
            "WorkloadEntry ns/we: address: \"unix:///run/x\" is not a name, so it was left out",
        ),
    ] {
        mesh.set(&entry("", spec));
        assert!(!mesh.addresses.contains_key(uid));
        assert_eq!(mesh.problems(), [problem]);
    }
    mesh.set(&entry(", labels: {istio.io/rev: other}", ", address: 1.2.3.4"));
    assert!(!mesh.addresses.contains_key(uid));
    mesh.set(&entry(", labels: {istio.io/rev: default}", ", address: 1.2.3.4"));
    assert!(mesh.addresses.contains_key(uid));
}

#[test]
fn entries_and_the_names_of_a_workload_entrys_ports() {
    let mesh = Mesh::of(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: se, namespace: ns}
spec:
  hosts: [hostname1]
  resolution: STATIC
  workloadSelector: {labels: {app: foo}}
  ports:
  - {number: 80, name: http, protocol: HTTP}
  - {number: 81, name: http-alt, protocol: HTTP, targetPort: 8081}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: we, namespace: ns}
spec: {address: 1.2.3.4, labels: {app: foo}, ports: {http: 8080}}
",
    );
    let workload = mesh.workload("Kubernetes/networking.istio.io/WorkloadEntry/ns/we");
    assert_eq!(served(&workload), ["ns/hostname1: 80->8080 81->8081"]);
}

#[test]
fn endpoints_of_entries() {
    let entry = |spec: &str| {
        format!(
            "---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: se, namespace: ns, labels: {{app: a}}}}
spec:
  hosts: [a.example, b.example]
  ports: [{{number: 80, name: http, protocol: HTTP}}]
{spec}
"
        )
    };
    let uid =
        |address: &str| format!("Kubernetes/networking.istio.io/ServiceEntry/ns/se/{address}");
    // Each host resolves itself.
    let mut mesh = Mesh::of(&entry("  resolution: DNS"));
    for host in ["a.example", "b.example"] {
        let workload = mesh.workload(&uid(host));
        assert_eq!((&*workload.hostname, &*workload.name), (host, "se"));
        assert_eq!(served(&workload), [format!("ns/{host}: 80->80")]);
        assert_eq!((&*workload.canonical_name, &*workload.workload_name), ("a", "se"));
    }
    // Given ones serve all hosts.
    let given = "  resolution: STATIC
  endpoints:
  - {address: 2.3.4.5, ports: {http: 8080}, weight: 3, serviceAccount: x, network: far}
  - {address: 2.3.4.5}
  - {address: 2.3.4.6, locality: r}
  - {address: 'unix:///x'}";
    let changes = mesh.set(&entry(given));
    assert!(changed(&changes).contains(&format!("-{}", uid("a.example"))), "{changes:?}");
    let workload = mesh.workload(&uid("2.3.4.5"));
    assert_eq!(served(&workload), ["ns/a.example: 80->8080", "ns/b.example: 80->8080"]);
    assert_eq!((&*workload.network, &*workload.service_account), ("far", "x"));
    assert_eq!(workload.capacity, Some(3));
    assert_eq!(mesh.workload(&uid("2.3.4.6")).locality.expect("is set").region, "r");
    assert_eq!(mesh.problems().len(), 2, "{:?}", mesh.problems());
    // Nothing where it goes where it was dialled, or where workloads are selected.
    for spec in ["  resolution: NONE", "  resolution: DNS\n  workloadSelector: {labels: {a: b}}"] {
        mesh.set(&entry(spec));
        assert_eq!(mesh.names(), ["ns/a.example", "ns/b.example"], "{spec}");
    }
    mesh.delete(Kind::ServiceEntry, "ns", "se");
    assert_eq!(mesh.names(), [""; 0]);
}

#[test]
fn an_address_belongs_to_the_newest_pod() {
    let pod = |name: &str, created: &str, more: &str, phase: &str| {
        format!(
            "---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: ns, creationTimestamp: '2026-01-0{created}T00:00:00Z'{more}}}
status: {{phase: {phase}, podIPs: [{{ip: 1.2.3.4}}, {{ip: 'fd00::{created}'}}]}}
"
        )
    };
    let addresses = |mesh: &Mesh, name: &str| mesh.pod(name).addresses.len();
    let mut mesh = Mesh::of(&pod("old", "1", "", "Running"));
    mesh.set(&pod("new", "2", "", "Running"));
    assert_eq!((addresses(&mesh, "ns/old"), addresses(&mesh, "ns/new")), (1, 2));
    assert_eq!(
        mesh.problems(),
        ["Pod ns/old: 1.2.3.4 now belongs to Pod ns/new, which is newer; \
          it is not reached by it any more"]
    );
    // One that is being deleted gives way.
    mesh.set(&pod("new", "2", ", deletionTimestamp: '2026-02-01T00:00:00Z'", "Running"));
    assert_eq!((addresses(&mesh, "ns/old"), addresses(&mesh, "ns/new")), (2, 1));
    // One that has ended has none.
    mesh.set(&pod("new", "2", "", "Succeeded"));
    assert_eq!(addresses(&mesh, "ns/old"), 2);
    assert_eq!(mesh.problems(), [""; 0]);
    // An entry with it is left out and named, as long as a pod has it.
    let changes = mesh.set(
        "{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: we, namespace: ns}, spec: {address: 1.2.3.4}}",
    );
    assert_eq!(changed(&changes), [""; 0]);
    assert_eq!(
        mesh.problems(),
        ["WorkloadEntry ns/we: 1.2.3.4 belongs to Pod ns/old, so it was left out"]
    );
    let changes = mesh.delete(Kind::Pod, "ns", "old");
    let uid = "Kubernetes/networking.istio.io/WorkloadEntry/ns/we";
    assert_eq!(changed(&changes), ["-Kubernetes//Pod/ns/old", uid]);
    assert_eq!(mesh.problems(), [""; 0]);
}

#[test]
fn no_entry_takes_the_address_of_a_pod() {
    let network = "{apiVersion: v1, kind: Namespace, metadata: {name: istio-system, labels: {topology.istio.io/network: east}}}\n";
    let inline = "Kubernetes/networking.istio.io/ServiceEntry/ns/se/1.2.3.4";
    let own = "Kubernetes/networking.istio.io/WorkloadEntry/ns/we";
    let mesh_of = |spec: &str| {
        format!(
            "{network}---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: we, namespace: ns}}
spec: {{{spec}}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: se, namespace: ns}}
spec: {{hosts: [a.example], resolution: STATIC, ports: [{{number: 80, name: http}}], endpoints: [{{{spec}}}, {{address: 1.2.3.9}}]}}
"
        )
    };
    let pod = pod("a", "1.2.3.4", "", "");
    for (spec, is_taken) in [
        ("address: 1.2.3.4", true),
        ("address: 1.2.3.4, network: east", true),
        ("address: 1.2.3.4, network: west", false),
    ] {
        let mut mesh = Mesh::of(&mesh_of(spec));
        let both = |mesh: &Mesh| {
            assert!(mesh.names().iter().any(|name| name.ends_with("1.2.3.9")));
            [inline, own].map(|name| mesh.addresses.contains_key(name))
        };
        assert_eq!(both(&mesh), [true; 2], "{spec}");
        // The pod comes later, ends, is back before the entries, and goes.
        mesh.set(&pod);
        assert_eq!(both(&mesh), [!is_taken; 2], "{spec}");
        let lost = "1.2.3.4 belongs to Pod ns/a, so it was left out";
        let expected =
            [format!("ServiceEntry ns/se: {lost}"), format!("WorkloadEntry ns/we: {lost}")];
        assert_eq!(mesh.problems(), if is_taken { expected.to_vec() } else { vec![] });
        mesh.set(&pod.replace("Running", "Failed"));
        assert_eq!(both(&mesh), [true; 2], "{spec}");
        assert_eq!(mesh.problems(), [""; 0], "{spec}");
        let mut mesh = Mesh::of(&pod);
        mesh.set(&mesh_of(spec));
        assert_eq!(both(&mesh), [!is_taken; 2], "{spec}");
        mesh.delete(Kind::Pod, "ns", "a");
        assert_eq!(both(&mesh), [true; 2], "{spec}");
    }
}

#[test]
fn what_cannot_be_sent_is_left_out_and_named() {
    let mesh = Mesh::of(&format!("{}{}", pod("a/b", "1.2.3.4", "", ""), pod("c", "1.2.3", "", "")));
    assert_eq!(mesh.names(), [""; 0]);
    assert_eq!(
        mesh.problems(),
        [
            "Pod ns/a/b: metadata: \"ns/a/b\" is not a name, so it was left out",
            "Pod ns/c: status.podIPs: \"1.2.3\" is not an IP address, and was left out",
        ]
    );
    for name in ["A", "a_b", "-a", "a.", "a..b", &"a".repeat(254)] {
        let mesh = Mesh::of(&pod(name, "1.2.3.4", "", ""));
        assert_eq!(mesh.names(), [""; 0], "{name}");
        assert_eq!(mesh.problems().len(), 1, "{name}");
    }
    for name in ["a.b-c", "0a", &"a".repeat(253)] {
        assert_eq!(Mesh::of(&pod(name, "1.2.3.4", "", "")).names().len(), 1, "{name}");
    }
    for (kind, namespace, name) in [
        ("Service", "ns", "a".repeat(64)),
        ("Service", "ns", "a.b".to_owned()),
        ("Pod", &*"n".repeat(64), "a".to_owned()),
    ] {
        let text = format!(
            "{{apiVersion: v1, kind: {kind}, metadata: {{name: {name}, namespace: {namespace}}}}}"
        );
        let problems = Mesh::of(&text).problems();
        assert_eq!(problems.len(), 1, "{text}");
        assert!(problems[0].contains("is not a name"), "{problems:?}");
    }
    // A policy is not left out for its name: that would allow more.
    let text = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, \
                metadata: {name: 'a/B ü', namespace: ns}, spec: {}}";
    let mesh = Mesh::of(text);
    assert_eq!((mesh.policies.len(), mesh.problems()), (1, vec![]));
    let long = "x".repeat(3000);
    let mesh = Mesh::of(&pod("a", "1.2.3.4", &format!("labels: {{app: {long}}}"), ""));
    assert_eq!(mesh.names(), [""; 0]);
    assert_eq!(
        mesh.problems(),
        ["Pod ns/a: the canonical name is longer than an agent reads, so it was left out"]
    );
}

#[test]
fn policies_that_select_a_workload_are_named() {
    let policy = "
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: ns}
spec: {selector: {matchLabels: {app: foo}}, rules: [{}]}
";
    let foo = pod("a", "1.2.3.4", "labels: {app: foo}", "");
    let bar = pod("b", "1.2.3.5", "labels: {app: bar}", "");
    // After the pod, as an edit is.
    let mut mesh = Mesh::of(&format!("{foo}{bar}"));
    let changes = mesh.set(policy);
    assert_eq!(changed(&changes), ["Kubernetes//Pod/ns/a"]);
    assert_eq!(mesh.pod("ns/a").authorization_policies, ["ns/p"]);
    assert_eq!(mesh.addresses["Kubernetes//Pod/ns/a"].policies, ["ns/p".into()]);
    assert!(mesh.policies.contains_key("ns/p"));
    let other = policy.replace("namespace: ns}", "namespace: ns, labels: {istio.io/rev: canary}}");
    let changes = mesh.set(&other);
    assert_eq!(changed(&changes), ["Kubernetes//Pod/ns/a"]);
    assert!(mesh.policies.is_empty());
}

#[test]
fn a_workload_with_more_policies_than_an_agent_reads_denies_everything() {
    const DENY: &str = "istio-system/warren_too_many_policies";
    let policy = |number: usize| {
        format!(
            "---\n{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: \
             p{number}, namespace: ns}}, spec: {{selector: {{matchLabels: {{app: foo}}}}, rules: [{{}}]}}}}\n"
        )
    };
    let policies: String = (0..LIST_MAX).map(policy).collect();
    let mut mesh = Mesh::of(&policies);
    mesh.set(&pod("a", "1.2.3.4", "labels: {app: foo}", ""));
    assert_eq!(mesh.pod("ns/a").authorization_policies.len(), LIST_MAX);
    assert!(!mesh.policies.contains_key(DENY));
    // The pod and the policy come at once.
    let changes = mesh.set(&policy(LIST_MAX));
    assert_eq!(changed(&changes), ["Kubernetes//Pod/ns/a"]);
    let names: Vec<&str> = changes.policies.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, [DENY, "ns/p4096"]);
    assert_eq!(mesh.pod("ns/a").authorization_policies, [DENY]);
    let message = proto::security::Authorization::decode(&*mesh.policies[DENY].bytes);
    let message = message.expect("decodes");
    assert_eq!(message.action, i32::from(proto::security::Action::Deny));
    assert_eq!(message.rules, [proto::security::Rule::default()]);
    let mut interner = xds::Interner::default();
    let read = xds::parse_policy(DENY, &mesh.policies[DENY].bytes, &mut interner);
    assert!(matches!(read, authz::Stored::Policy(_)), "{read:?}");
    assert_eq!(
        mesh.problems(),
        [
            "Pod ns/a: has 4097 policies, more than the 4096 that an agent reads, so it denies everything"
        ]
    );
    assert!(mesh.settle().is_empty());
    // It is there once, as long as it is needed.
    let changes = mesh.set(&pod("b", "1.2.3.5", "labels: {app: foo}", ""));
    assert_eq!(
        (changes.policies.len(), mesh.pod("ns/b").authorization_policies),
        (0, vec![DENY.into()])
    );
    mesh.delete(Kind::Pod, "ns", "b");
    assert!(mesh.policies.contains_key(DENY));
    mesh.delete(Kind::AuthorizationPolicy, "ns", "p7");
    assert_eq!(mesh.pod("ns/a").authorization_policies.len(), LIST_MAX);
    assert!(!mesh.policies.contains_key(DENY));
    assert_eq!(mesh.problems(), [""; 0]);
}
