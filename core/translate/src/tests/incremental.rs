//! A change sends what it changes and nothing else, and the order of changes leaves no trace.

use proptest::prelude::*;

use super::*;

/// Objects that have to do with each other in every way there is.
const CLUSTER: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: ns, labels: {istio.io/use-waypoint: wp}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: far, annotations: {networking.istio.io/traffic-distribution: PreferClose}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: istio-system, labels: {topology.istio.io/network: east}}}
---
{apiVersion: v1, kind: Node, metadata: {name: node, labels: {topology.kubernetes.io/region: r}}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: c, labels: {istio.io/waypoint-for: all}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: wp, namespace: ns}
spec: {gatewayClassName: c, listeners: [{port: 15008, protocol: HBONE, allowedRoutes: {namespaces: {from: All}}}]}
status: {addresses: [{value: 10.5.0.1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: wp-1, namespace: ns, labels: {gateway.networking.k8s.io/gateway-name: wp}}
spec: {serviceAccountName: wp}
status: {phase: Running, podIP: 10.0.0.9}
---
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: ns, labels: {app: a}, creationTimestamp: '2026-01-01T00:00:00Z'}
spec: {nodeName: node, containers: [{ports: [{name: web, containerPort: 8080}]}]}
status: {phase: Running, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: b, namespace: ns, labels: {app: b}, creationTimestamp: '2026-01-02T00:00:00Z'}
spec: {nodeName: node}
status: {phase: Running, podIPs: [{ip: 10.0.0.1}, {ip: 10.0.0.2}]}
---
apiVersion: v1
kind: Pod
metadata: {name: c, namespace: far, labels: {app: a, istio.io/use-waypoint: wp, istio.io/use-waypoint-namespace: ns}}
status: {phase: Running, podIP: 10.0.0.2}
---
apiVersion: v1
kind: Service
metadata: {name: a, namespace: ns}
spec: {clusterIP: 10.9.0.1, selector: {app: a}, ports: [{port: 80, targetPort: web}]}
---
apiVersion: v1
kind: Service
metadata: {name: bare, namespace: ns, labels: {istio.io/use-waypoint: none}}
spec: {clusterIP: 10.9.0.1, ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: bare-1, namespace: ns, labels: {kubernetes.io/service-name: bare}}
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.0.0.1], targetRef: {kind: Pod, name: b, namespace: ns}}, {addresses: [10.0.9.9]}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: one, namespace: ns, creationTimestamp: '2026-01-02T00:00:00Z'}
spec: {hosts: [x.example, a.ns.svc.cluster.local], resolution: DNS, ports: [{number: 80, name: web, protocol: HTTP}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: two, namespace: ns, creationTimestamp: '2026-01-01T00:00:00Z'}
spec: {hosts: [x.example], resolution: STATIC, workloadSelector: {labels: {app: b}}, ports: [{number: 80, name: web, protocol: HTTP}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: three, namespace: far}
spec: {hosts: [x.example, y.example], resolution: STATIC, endpoints: [{address: 2.2.2.2}, {address: 10.0.0.9}], ports: [{number: 80, name: web, protocol: HTTP}]}
status: {addresses: [{value: 240.240.0.9, host: y.example}]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: we, namespace: ns, labels: {app: b}}
spec: {address: 10.0.0.2, ports: {web: 9090}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: far, namespace: far}
spec: {address: 10.0.0.2}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: west, namespace: far}
spec: {network: west}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: networks, namespace: far}
spec: {hosts: [z.example], resolution: STATIC, endpoints: [{address: 10.0.0.1, network: west}, {address: 10.0.0.3, network: east}, {address: 10.0.0.4}]}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: r}, spec: {controllerName: istio.io/unmanaged-gateway}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: new, namespace: ns, labels: {topology.istio.io/network: west}, creationTimestamp: '2026-01-02T00:00:00Z'}
spec: {gatewayClassName: r, listeners: [{port: 15008, protocol: HBONE}], addresses: [{value: 192.0.2.1}, {value: 192.0.2.2}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: old, namespace: far, labels: {topology.istio.io/network: west}, creationTimestamp: '2026-01-01T00:00:00Z'}
spec: {gatewayClassName: istio-remote, listeners: [{port: 15008, protocol: HBONE}], addresses: [{value: gw.example, type: Hostname}, {value: 192.0.2.1}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: ew, namespace: ns, labels: {topology.istio.io/network: east}}
spec: {gatewayClassName: istio-east-west, listeners: [{port: 15008, protocol: HBONE}]}
status: {addresses: [{value: 192.0.2.9}]}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: ns}, spec: {selector: {matchLabels: {app: a}}, rules: [{}]}}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: q, namespace: istio-system}, spec: {selector: {matchLabels: {app: b}}}}
---
{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: s, namespace: ns}, spec: {mtls: {mode: STRICT}}}
";

/// Everything that can be seen of a mesh.
fn picture(mesh: &Mesh) -> (Vec<crate::Address>, Vec<crate::Authorization>, Vec<String>) {
    let translator = &mesh.translator;
    let mut told: Vec<String> = translator.statuses().map(|all| format!("{all:?}")).collect();
    told.extend(translator.assignments().map(|all| format!("{all:?}")));
    told.extend(mesh.problems());
    told.sort();
    (mesh.addresses.values().cloned().collect(), mesh.policies.values().cloned().collect(), told)
}

fn variants() -> [Settings; 2] {
    [settings(), Settings { allow_waypoints: true, ..settings() }]
}

#[test]
fn the_cluster_has_what_it_is_meant_to_have() {
    let mesh = Mesh::with(variants()[1].clone(), CLUSTER);
    // Of three pods the newest has the addresses that they share.
    let addresses = |name: &str| mesh.pod(name).addresses.len();
    assert_eq!((addresses("ns/a"), addresses("ns/b"), mesh.names().len()), (1, 2, 18));
    assert!(!mesh.addresses.contains_key("Kubernetes//Pod/far/c"));
    assert_eq!(served(&mesh.pod("ns/a")), ["ns/a.ns.svc.cluster.local: 80->8080"]);
    let of_b = ["ns/bare.ns.svc.cluster.local: 80->8080", "ns/x.example: 80->80"];
    assert_eq!(served(&mesh.pod("ns/b")), of_b);
    let policies = [
        "istio-system/istio_converted_static_strict",
        "istio-system/q",
        "ns/istio_allow_waypoint_ns_wp",
    ];
    assert_eq!(mesh.pod("ns/b").authorization_policies, policies);
    assert_eq!(vips(&mesh.service("far/y.example")), ["240.240.0.9"]);
    assert_eq!(mesh.translator.assignments().count(), 3);
    let through = mesh.workload("Kubernetes/networking.istio.io/WorkloadEntry/far/west");
    assert_eq!(gateway(through.network_gateway.as_ref()), "far/gw.example:15008");
    // Pods lost addresses to newer ones, entries to pods and a gateway to an older one; hosts and their
    // addresses are shared.
    assert_eq!(mesh.problems().len(), 10, "{:#?}", mesh.problems());
}

#[test]
fn nothing_changes_when_nothing_does() {
    for settings in variants() {
        let mut mesh = Mesh::with(settings, CLUSTER);
        assert!(mesh.settle().is_empty());
        assert_eq!(mesh.set(CLUSTER), Changes::default());
    }
}

#[test]
fn one_change_sends_only_what_it_changes() {
    let mut mesh = Mesh::with(variants()[0].clone(), CLUSTER);
    let cluster = objects(CLUSTER);
    for object in &cluster {
        let key = object.key();
        // What goes and comes back at once was never away.
        mesh.translator.apply(Change::Delete(key.clone()));
        mesh.translator.apply(Change::Set(object.clone()));
        let changes = mesh.settle();
        assert_eq!(changed(&changes), [""; 0], "{key}");
        assert_eq!(changes.policies, [], "{key}");
    }
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: d, namespace: far}, status: {phase: Running, podIP: 10.0.0.77}}";
    assert_eq!(changed(&mesh.set(pod)), ["Kubernetes//Pod/far/d"]);
    assert_eq!(changed(&mesh.delete(Kind::Pod, "far", "d")), ["-Kubernetes//Pod/far/d"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_order_with_deletions_ends_in_the_same_mesh(
        steps in prop::collection::vec((0..64_usize, 0..3_u8, any::<bool>()), 0..120),
        variant in 0..2_usize,
    ) {
        let settings = variants()[variant].clone();
        let cluster = objects(CLUSTER);
        let mut mesh = Mesh::new(settings.clone());
        let mut present = vec![false; cluster.len()];
        for (index, what, settles) in steps {
            let index = index % cluster.len();
            let object = &cluster[index];
            present[index] = what > 0;
            mesh.translator.apply(match what {
                0 => Change::Delete(object.key()),
                _ => Change::Set(object.clone()),
            });
            if settles {
                mesh.settle();
            }
        }
        mesh.settle();
        let mut fresh = Mesh::new(settings);
        for (object, _) in cluster.iter().zip(&present).filter(|(_, present)| **present) {
            fresh.translator.apply(Change::Set(object.clone()));
        }
        fresh.settle();
        prop_assert_eq!(picture(&mesh), picture(&fresh));
    }
}
