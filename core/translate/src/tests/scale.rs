//! That one change does not cost what the whole cluster costs. Times are measured by the benchmark;
//! here it is enough that a cluster of some thousand objects is no matter of seconds.

use super::*;

#[test]
fn a_pod_among_many_is_one_change() {
    let service = |number| {
        format!(
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: s{number}, namespace: ns}}, \
             spec: {{selector: {{app: a{number}}}, ports: [{{port: 80}}]}}}}\n"
        )
    };
    let mut text: String = (0..200).map(service).collect();
    let pod = |number: usize, ready: &str| {
        format!(
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: p{number}, namespace: ns, labels: \
             {{app: a{}, tier: web}}}}, status: {{phase: Running, podIP: 10.0.{}.{}, \
             conditions: [{{type: Ready, status: '{ready}'}}]}}}}\n",
            number % 200,
            number / 250,
            number % 250
        )
    };
    text.extend((0..1000).map(|number| pod(number, "True")));
    let mut mesh = Mesh::of(&text);
    assert_eq!(mesh.names().len(), 1200);
    let served = mesh.addresses.values().filter(|address| address.services.len() == 1).count();
    assert_eq!(served, 1000);
    assert_eq!(changed(&mesh.set(&pod(7, "False"))), ["Kubernetes//Pod/ns/p7"]);
    assert_eq!(changed(&mesh.set(&pod(7, "False"))), [""; 0]);
}
