use super::{ResultError, addresses};

fn check(result: &str, expected: &[&str]) {
    let found = addresses(result).unwrap_or_else(|error| panic!("{result}: {error}"));
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(found, expected, "{result}");
}

#[test]
fn addresses_of_every_known_shape() {
    // bridge, 0.4.0: two families.
    check(
        r#"{"cniVersion":"0.4.0","interfaces":[{"name":"cni0","mac":"a"},{"name":"veth1"},
            {"name":"eth0","sandbox":"/run/netns/x"}],
            "ips":[{"version":"4","interface":2,"address":"10.244.1.5/24","gateway":"10.244.1.1"},
            {"version":"6","interface":2,"address":"fd00::5/64"}],"dns":{}}"#,
        &["10.244.1.5", "fd00::5"],
    );
    // Calico: the host's side as the only interface, and no index.
    check(
        r#"{"cniVersion":"0.3.1","interfaces":[{"name":"cali1"}],
            "ips":[{"version":"4","address":"192.168.3.7/32"}]}"#,
        &["192.168.3.7"],
    );
    // AWS: the first and the last interface are not the pod's.
    check(
        r#"{"cniVersion":"0.4.0","interfaces":[{"name":"eni1"},{"name":"eth0","sandbox":"/n"},
            {"name":"dummy1","mac":"0","sandbox":"0"}],
            "ips":[{"version":"4","interface":1,"address":"10.0.7.9/32"}]}"#,
        &["10.0.7.9"],
    );
    // Cilium, 1.0.0; the same address twice.
    check(
        r#"{"cniVersion":"1.0.0","interfaces":[{"name":"lxc1","mac":"b"},
            {"name":"eth0","mac":"c","sandbox":"/n"}],
            "ips":[{"interface":1,"address":"10.0.1.2/32"},{"interface":1,"address":"10.0.1.2/32"}],
            "routes":[{"dst":"0.0.0.0/0","mtu":1450}]}"#,
        &["10.0.1.2"],
    );
    // An address of the host, and an index to nothing.
    check(
        r#"{"interfaces":[{"name":"br"}],
            "ips":[{"interface":0,"address":"10.0.0.1/24"},{"interface":7,"address":"10.0.0.2"}]}"#,
        &["10.0.0.2"],
    );
    check(r#"{"ips":null,"interfaces":null}"#, &[]);
    check("{}", &[]);
}

#[test]
fn what_is_no_address_is_refused() {
    let none = r#"{"ips":[{"address":"10.0.0/24"}]}"#;
    assert!(matches!(addresses(none), Err(ResultError::Address(_))));
    assert!(matches!(addresses(r#"{"ips":[{}]}"#), Err(ResultError::Unreadable(_))));
    assert!(matches!(addresses("[]"), Err(ResultError::NotAnObject)));
    let many: Vec<String> = (0..65).map(|at| format!(r#"{{"address":"10.0.0.{at}"}}"#)).collect();
    let many = format!(r#"{{"ips":[{}]}}"#, many.join(","));
    assert!(matches!(addresses(&many), Err(ResultError::TooMany)));
}
