//! A cluster that is generated: objects as an API server writes them, with all that nobody reads.

use std::fmt::Write;

pub(crate) const SERVICES: u32 = 10_000;
pub(crate) const PODS: u32 = 100_000;
pub(crate) const POLICIES: u32 = 5_000;
pub(crate) const NAMESPACES: u32 = 100;
pub(crate) const NODES: u32 = 1_000;
/// Length of a pod's text at least.
pub(crate) const POD_BYTES: usize = 4096;

fn namespace_of(service: u32) -> u32 {
    service % NAMESPACES
}

pub(crate) fn namespace(number: u32) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"Namespace","metadata":{{"name":"shop-{number}","uid":"n-{number}","resourceVersion":"1","labels":{{"istio.io/dataplane-mode":"ambient","kubernetes.io/metadata.name":"shop-{number}"}}}},"status":{{"phase":"Active"}}}}"#
    )
}

pub(crate) fn node(number: u32) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"Node","metadata":{{"name":"node-{number}","uid":"h-{number}","resourceVersion":"1","labels":{{"topology.kubernetes.io/region":"region","topology.kubernetes.io/zone":"zone-{}"}}}},"status":{{"capacity":{{"cpu":"8"}}}}}}"#,
        number % 3
    )
}

pub(crate) fn service(number: u32) -> String {
    let [_, a, b, c] = number.to_be_bytes();
    format!(
        r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"service-{number}","namespace":"shop-{}","uid":"s-{number}","resourceVersion":"1","creationTimestamp":"2026-01-01T00:00:00Z"}},"spec":{{"clusterIP":"10.{}.{b}.{c}","clusterIPs":["10.{}.{b}.{c}"],"selector":{{"app":"service-{number}"}},"ports":[{{"name":"http","port":80,"targetPort":"http","protocol":"TCP"}}],"type":"ClusterIP","ipFamilies":["IPv4"]}},"status":{{"loadBalancer":{{}}}}}}"#,
        namespace_of(number),
        u32::from(a) + 200,
        u32::from(a) + 200,
    )
}

/// Every fourth selects the pods of a service, the others hold for their namespace's pods of a tier.
pub(crate) fn policy(number: u32) -> String {
    let label = if number.is_multiple_of(4) {
        format!(r#""app":"service-{number}""#)
    } else {
        format!(r#""tier":"tier-{}""#, number / NAMESPACES % 50)
    };
    format!(
        r#"{{"apiVersion":"security.istio.io/v1","kind":"AuthorizationPolicy","metadata":{{"name":"policy-{number}","namespace":"shop-{}","uid":"p-{number}","resourceVersion":"1","creationTimestamp":"2026-01-01T00:00:00Z"}},"spec":{{"selector":{{"matchLabels":{{{label}}}}},"action":"ALLOW","rules":[{{"from":[{{"source":{{"principals":["cluster.local/ns/shop-{}/sa/client-{}"]}}}}],"to":[{{"operation":{{"ports":["8080"]}}}}]}}]}}}}"#,
        namespace_of(number),
        namespace_of(number),
        number % 97,
    )
}

/// A pod that is ready, or not.
pub(crate) fn pod(number: u32, version: u64, is_ready: bool) -> String {
    let service = number % SERVICES;
    let [_, a, b, c] = number.to_be_bytes();
    let ready = if is_ready { "True" } else { "False" };
    let mut text = format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"service-{service}-6c1f0f0e8c-{number}","generateName":"service-{service}-6c1f0f0e8c-","namespace":"shop-{namespace}","uid":"6c1f0f0e-8c1d-4b0c-9d0e-{number:012}","resourceVersion":"{version}","creationTimestamp":"2026-01-01T00:00:00Z","labels":{{"app":"service-{service}","tier":"tier-{tier}","pod-template-hash":"6c1f0f0e8c"}},"annotations":{{"ambient.istio.io/redirection":"enabled"}},"ownerReferences":[{{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"service-{service}-6c1f0f0e8c","uid":"r-{service}","controller":true}}],"managedFields":[{{"manager":"kubelet","operation":"Update","fieldsV1":{{"f:status":{{"f:filler":""#,
        namespace = namespace_of(service),
        tier = service / NAMESPACES % 50,
    );
    let rest = format!(
        r#""}}}}}}]}},"spec":{{"nodeName":"node-{node}","serviceAccountName":"service-{service}","containers":[{{"name":"app","image":"registry/service:1","ports":[{{"name":"http","containerPort":8080,"protocol":"TCP"}}],"resources":{{}}}}],"volumes":[{{"name":"token"}}]}},"status":{{"phase":"Running","podIP":"10.{a}.{b}.{c}","podIPs":[{{"ip":"10.{a}.{b}.{c}"}}],"conditions":[{{"type":"Initialized","status":"True"}},{{"type":"Ready","status":"{ready}"}}]}}}}"#,
        node = number % NODES,
    );
    // What managers of fields leave behind is half of a real pod.
    while text.len() + rest.len() < POD_BYTES {
        // Writing to a text cannot fail.
        let _ = write!(text, "f:field-{}-", text.len());
    }
    text.push_str(&rest);
    text
}
