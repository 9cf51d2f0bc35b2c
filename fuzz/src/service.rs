//! A service from a control plane: what is accepted says what was sent.
#![no_main]

use prost::Message;
use proto::workload as wire;
use xds::{Address, Interner, parse_address};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut interner = Interner::default();
    let Ok(sent) = wire::Service::decode(bytes) else { return };
    let name = format!("{}/{}", sent.namespace, sent.hostname);
    let address = wire::Address { r#type: Some(wire::address::Type::Service(sent.clone())) };
    let Ok(read) = parse_address(&name, &address.encode_to_vec(), &mut interner) else { return };
    let Address::Service(read) = read else { panic!("a workload") };
    assert_eq!(read.name.to_string(), name);
    assert_eq!(read.addresses.len(), sent.addresses.len());
    for (read, sent) in read.addresses.iter().zip(&sent.addresses) {
        assert_eq!(read.net.trunc(), read.net);
        if sent.length.is_none() {
            assert_eq!(read.net.prefix_len(), read.net.max_prefix_len());
        }
    }
    // Never a number that was cut to fit.
    for port in &read.ports {
        let target = port.target_port.map_or(0, |port| port.get());
        assert!(sent.ports.iter().any(|sent| {
            (sent.service_port, sent.target_port) == (port.service_port.get().into(), target.into())
        }));
    }
    assert_eq!(read.waypoint.is_some(), sent.waypoint.is_some());
    assert_eq!(read.weighted_waypoints.len(), sent.weighted_waypoints.len());
    let preferences = sent.load_balancing.map_or(0, |sent| sent.routing_preference.len());
    assert_eq!(read.load_balancing.preferences.len(), preferences);
    for identity in &read.subject_alt_names {
        assert!(sent.subject_alt_names.iter().any(|sent| sent == identity.as_str()));
    }
});
