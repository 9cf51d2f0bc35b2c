//! Gateways to other networks, and the endpoints behind them.

use super::*;

const SPEC: &str = "gatewayClassName: istio-remote, listeners: [{port: 15008, protocol: HBONE}]";
const BY_IP: &str = "addresses: [{type: IPAddress, value: 192.0.2.1}]";
const BY_NAME: &str = "addresses: [{type: Hostname, value: gw.example}]";
const IP_UID: &str = "NetworkGateway/west/192.0.2.1/15008";
const NAME_UID: &str = "NetworkGateway/west/gw.example/15008";
const ENTRY: &str = "Kubernetes/networking.istio.io/WorkloadEntry/ns/we";

fn gateway_object(name: &str, meta: &str, spec: &str) -> String {
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: istio-system, labels: {{topology.istio.io/network: west}}{meta}}}
{spec}
"
    )
}

/// A gateway elsewhere.
fn remote(name: &str, meta: &str, addresses: &str) -> String {
    gateway_object(name, meta, &format!("spec: {{{SPEC}, {addresses}}}"))
}

fn entry(name: &str, spec: &str) -> String {
    format!(
        "---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: {name}, namespace: ns, labels: {{app: foo}}}}
spec: {{{spec}}}
"
    )
}

fn through(mesh: &Mesh, name: &str) -> String {
    gateway(mesh.workload(name).network_gateway.as_ref())
}

#[test]
fn entries_of_another_network_are_reached_through_its_gateway_by_ip_and_by_name() {
    use wire::gateway_address::Destination;
    let mut mesh = Mesh::of(&entry("we", "network: west"));
    assert_eq!(through(&mesh, ENTRY), "-");

    let changes = mesh.set(&remote("gw", "", BY_IP));
    assert_eq!(changed(&changes), [ENTRY, IP_UID]);
    let destination = mesh.workload(ENTRY).network_gateway.and_then(|each| each.destination);
    let Some(Destination::Address(address)) = destination else { panic!("{destination:?}") };
    assert_eq!((&*address.network, ip(&address.address)), ("west", "192.0.2.1".to_owned()));
    assert_eq!(through(&mesh, ENTRY), "192.0.2.1:15008");
    let workload = mesh.workload(IP_UID);
    let expected = wire::Workload {
        uid: IP_UID.to_owned(),
        name: "gw".to_owned(),
        namespace: "istio-system".to_owned(),
        addresses: vec![vec![192, 0, 2, 1].into()],
        network: "west".to_owned(),
        tunnel_protocol: wire::TunnelProtocol::Hbone.into(),
        native_tunnel: true,
        service_account: "gw-istio-remote".to_owned(),
        canonical_name: "gw".to_owned(),
        canonical_revision: "latest".to_owned(),
        workload_type: wire::WorkloadType::Pod.into(),
        workload_name: "gw".to_owned(),
        ..wire::Workload::default()
    };
    assert_eq!(workload, expected);
    assert_eq!(mesh.addresses[IP_UID].aliases, ["west/192.0.2.1".into()]);

    let changes = mesh.set(&remote("gw", "", BY_NAME));
    assert_eq!(changed(&changes), [ENTRY, &format!("-{IP_UID}"), NAME_UID]);
    assert_eq!(through(&mesh, ENTRY), "istio-system/gw.example:15008");
    let workload = mesh.workload(NAME_UID);
    let (uid, hostname) = (NAME_UID.to_owned(), "gw.example".to_owned());
    assert_eq!(workload, wire::Workload { uid, hostname, addresses: Vec::new(), ..expected });

    let changes = mesh.delete(Kind::Gateway, "istio-system", "gw");
    assert_eq!(changed(&changes), [ENTRY, &format!("-{NAME_UID}")]);
    assert_eq!(through(&mesh, ENTRY), "-");
}

#[test]
fn a_gateway_changes_the_endpoints_of_its_network_and_no_others() {
    let service_entry = "---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: se, namespace: ns}
spec:
  hosts: [a.example]
  resolution: STATIC
  endpoints: [{address: 10.0.0.1, network: west}, {address: 10.0.0.2, network: north}, {address: 10.0.0.3}]
";
    let uid =
        |address: &str| format!("Kubernetes/networking.istio.io/ServiceEntry/ns/se/{address}");
    let mut mesh = Mesh::of(&format!(
        "{service_entry}{}{}{}",
        entry("we", "address: 10.0.0.1, network: west"),
        entry("near", "address: 10.0.0.4"),
        entry("north", "network: north"),
    ));
    let changes = mesh.set(&remote("gw", "", BY_IP));
    assert_eq!(changed(&changes), [&*uid("10.0.0.1"), ENTRY, IP_UID]);
    assert_eq!(through(&mesh, &uid("10.0.0.1")), "192.0.2.1:15008");
    for other in ["10.0.0.2", "10.0.0.3"] {
        assert_eq!(through(&mesh, &uid(other)), "-");
    }
    // Who is behind it by a later word of its own, and who is not any more.
    mesh.set(&entry("north", "network: west"));
    mesh.set(&entry("we", "address: 10.0.0.1, network: north"));
    let north = ENTRY.replace("/we", "/north");
    assert_eq!(
        (through(&mesh, &north), through(&mesh, ENTRY)),
        ("192.0.2.1:15008".into(), "-".into())
    );
    let changes = mesh.delete(Kind::Gateway, "istio-system", "gw");
    let gone = format!("-{IP_UID}");
    assert_eq!(changed(&changes), [&*uid("10.0.0.1"), &north, &gone]);
}

#[test]
fn of_several_gateways_the_oldest_counts() {
    let at = |day: u8| format!(", creationTimestamp: '2026-01-0{day}T00:00:00Z'");
    let mut mesh = Mesh::of(&format!(
        "{}{}",
        entry("we", "network: west"),
        remote("b", &at(2), "addresses: [{value: 192.0.2.2}, {value: 192.0.2.3}]"),
    ));
    assert_eq!(through(&mesh, ENTRY), "192.0.2.2:15008");
    // One that came later is there, and changes nothing.
    let changes = mesh.set(&remote("a", &at(3), BY_IP));
    assert_eq!(changed(&changes), [IP_UID]);
    let changes = mesh.set(&remote("c", &at(1), BY_NAME));
    assert_eq!(changed(&changes), [ENTRY, NAME_UID]);
    let changes = mesh.delete(Kind::Gateway, "istio-system", "c");
    assert_eq!(changed(&changes), [ENTRY, &format!("-{NAME_UID}")]);
    assert_eq!(through(&mesh, ENTRY), "192.0.2.2:15008");

    // An address is that of one of them.
    let service_account = |mesh: &Mesh| mesh.workload(IP_UID).service_account;
    mesh.set(&remote("d", &at(1), BY_IP));
    assert_eq!(service_account(&mesh), "d-istio-remote");
    let problem = "Gateway istio-system/a: 192.0.2.1 belongs to Gateway istio-system/d, \
                   so it was left out";
    assert_eq!(mesh.problems(), [problem]);
    let changes = mesh.delete(Kind::Gateway, "istio-system", "d");
    assert_eq!(changed(&changes), [ENTRY, IP_UID]);
    assert_eq!(service_account(&mesh), "a-istio-remote");
    assert_eq!(mesh.problems(), [""; 0]);
}

#[test]
fn classes_accounts_and_ports() {
    let listener = "listeners: [{port: 443, protocol: TLS}, {port: 15443, protocol: HBONE}]";
    let account = ", annotations: {gateway.istio.io/service-account: mine}";
    let class = |name: &str, controller: &str| {
        format!(
            "---\n{{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, \
             metadata: {{name: {name}}}, spec: {{controllerName: {controller}}}}}\n"
        )
    };
    let status = "status: {addresses: [{value: 192.0.2.9}]}";
    let (nothing, spec) = (String::new(), BY_IP);
    let (of_spec, of_status) = ("192.0.2.1", "192.0.2.9");
    for (meta, name, class, spec, expected) in [
        ("", "istio-remote", nothing.clone(), spec, Some((of_spec, "gw-istio-remote"))),
        (account, "istio-remote", nothing.clone(), spec, Some((of_spec, "mine"))),
        (
            "",
            "istio-remote",
            nothing.clone(),
            "addresses: []",
            Some((of_status, "gw-istio-remote")),
        ),
        ("", "istio-east-west", nothing.clone(), spec, Some((of_status, "gw"))),
        (account, "istio-east-west", nothing.clone(), spec, Some((of_status, "mine"))),
        ("", "far", class("far", "istio.io/unmanaged-gateway"), spec, Some((of_spec, "gw-far"))),
        ("", "ew", class("ew", "istio.io/eastwest-controller"), spec, Some((of_status, "gw"))),
        ("", "istio-remote", class("istio-remote", "other.example/controller"), spec, None),
        ("", "istio-waypoint", nothing.clone(), spec, None),
        ("", "far", nothing, spec, None),
    ] {
        let spec = format!("spec: {{gatewayClassName: {name}, {listener}, {spec}}}\n{status}");
        // A class may come after its gateways.
        let mesh = Mesh::of(&format!("{}{class}", gateway_object("gw", meta, &spec)));
        let found = mesh.names().first().map(|uid| {
            let workload = mesh.workload(uid);
            (ip(&workload.addresses[0]), workload.service_account)
        });
        let expected = expected.map(|(at, account)| (at.to_owned(), account.to_owned()));
        assert_eq!(found, expected, "{meta} {name}");
        let is_at_port = |uid: &&str| uid.ends_with("/15443");
        assert!(mesh.names().iter().all(is_at_port), "{:?}", mesh.names());
        assert_eq!(mesh.problems(), [""; 0]);
    }
}

#[test]
fn a_gateway_that_cannot_be_used_says_why() {
    let lacks =
        |what: &str| format!("lacks {what}, so nothing of the network west is reached through it");
    let hbone = "listeners: [{port: 15008, protocol: HBONE}]";
    let many = (0..17).map(|i| format!("{{value: 192.0.2.{i}}}")).collect::<Vec<_>>().join(", ");
    let many = format!("{hbone}, addresses: [{many}]");
    for (meta, spec, count, problems) in [
        ("", hbone, 0, vec![lacks("an address")]),
        ("", BY_IP, 0, vec![lacks("a listener of protocol HBONE")]),
        (
            "",
            &format!("{hbone}, addresses: [{{value: x}}, {{type: Hostname, value: '*.x'}}]"),
            0,
            vec![
                "spec.addresses: \"x\" is not an IP address, and was left out".to_owned(),
                "spec.addresses: \"*.x\" is not a name, so it was left out".to_owned(),
                lacks("an address"),
            ],
        ),
        (
            ", annotations: {gateway.istio.io/service-account: a/b}",
            &format!("{hbone}, {BY_IP}"),
            0,
            vec![
                "gateway.istio.io/service-account: \"a/b\" is not a name, so it was left out"
                    .to_owned(),
            ],
        ),
        (
            "",
            &many,
            16,
            vec!["has 17 addresses; those after the first 16 were left out".to_owned()],
        ),
    ] {
        let spec = format!("spec: {{gatewayClassName: istio-remote, {spec}}}");
        let mesh = Mesh::of(&format!(
            "{}{}",
            gateway_object("gw", meta, &spec),
            entry("we", "network: west")
        ));
        assert_eq!(mesh.names().len(), count + 1, "{spec}");
        assert_eq!(through(&mesh, ENTRY) == "-", count == 0, "{spec}");
        let of_gateway = |problem: String| format!("Gateway istio-system/gw: {problem}");
        assert_eq!(mesh.problems(), problems.into_iter().map(of_gateway).collect::<Vec<_>>());
    }
}

#[test]
fn nobody_takes_a_gateway_to_their_own_network() {
    let namespace = "---
{apiVersion: v1, kind: Namespace, metadata: {name: istio-system, labels: {topology.istio.io/network: west}}}
";
    let text =
        format!("{}{}", remote("gw", "", BY_IP), entry("we", "address: 10.0.0.1, network: west"));
    let mut mesh = Mesh::of(&format!("{text}{namespace}"));
    assert_eq!((mesh.names(), through(&mesh, ENTRY)), (vec![ENTRY], "-".to_owned()));
    assert_eq!(mesh.problems(), [""; 0]);
    // The network gets another name, and is another.
    let changes = mesh.set(&namespace.replace("west", "east"));
    assert_eq!(changed(&changes), [ENTRY, IP_UID]);
    assert_eq!(through(&mesh, ENTRY), "192.0.2.1:15008");
    mesh.set(namespace);
    assert_eq!((mesh.names(), through(&mesh, ENTRY)), (vec![ENTRY], "-".to_owned()));
    // Neither is one used that is not for this control plane.
    let other =
        remote("gw", "", BY_IP).replace("network: west", "network: west, istio.io/rev: other");
    let mesh = Mesh::of(&format!("{other}{}", entry("we", "network: west")));
    assert_eq!((mesh.names(), through(&mesh, ENTRY)), (vec![ENTRY], "-".to_owned()));
}
