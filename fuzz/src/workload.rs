//! A workload from a control plane: what is accepted says what was sent.
#![no_main]

use prost::Message;
use proto::workload as wire;
use xds::{Address, Interner, parse_address};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut interner = Interner::default();
    let _ = parse_address("shop/cart.example", bytes, &mut interner);
    let Ok(sent) = wire::Workload::decode(bytes) else { return };
    let address = wire::Address { r#type: Some(wire::address::Type::Workload(sent.clone())) };
    let Ok(read) = parse_address(&sent.uid, &address.encode_to_vec(), &mut interner) else {
        return;
    };
    let Address::Workload(read) = read else { panic!("a service") };
    assert_eq!(*read.uid.0, *sent.uid);
    assert_eq!(read.addresses.len(), sent.addresses.len());
    assert!(read.addresses.iter().all(|ip| ip.to_canonical() == *ip));
    assert_eq!(read.services.iter().len(), sent.services.len());
    for (name, ports) in read.services.iter() {
        let sent = &sent.services[&name.to_string()].ports;
        // Never a number that was cut to fit.
        for port in ports {
            let target = port.target_port.map_or(0, |port| port.get());
            assert!(sent.iter().any(|sent| {
                (sent.service_port, sent.target_port)
                    == (port.service_port.get().into(), target.into())
            }));
        }
    }
    let policies = read.policies.iter().map(ToString::to_string);
    assert!(policies.eq(sent.authorization_policies.iter().cloned()));
    assert_eq!(read.waypoint.is_some(), sent.waypoint.is_some());
    assert_eq!(read.network_gateway.is_some(), sent.network_gateway.is_some());
    assert_eq!(read.application_tunnel.is_some(), sent.application_tunnel.is_some());
    // Another name is another resource.
    let other = format!("{}x", sent.uid);
    assert!(parse_address(&other, &address.encode_to_vec(), &mut interner).is_err());
});
