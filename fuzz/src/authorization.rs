//! A policy from a control plane: read as it was sent, or unreadable; never with less in it.
#![no_main]

use authz::{Match, Stored};
use prost::Message;
use proto::security as wire;
use xds::{Interner, parse_policy};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut interner = Interner::default();
    let sent = wire::Authorization::decode(bytes);
    let name = match &sent {
        Ok(sent) => format!("{}/{}", sent.namespace, sent.name),
        Err(_) => "shop/p".to_owned(),
    };
    let policy = match parse_policy(&name, bytes, &mut interner) {
        Stored::Policy(policy) => policy,
        Stored::Unreadable(policy) => return assert!(!policy.cause.is_empty()),
    };
    let sent = sent.expect("it was read");
    assert_eq!(policy.rules.len(), sent.rules.len());
    for (rule, sent) in policy.rules.iter().zip(&sent.rules) {
        assert_eq!(rule.clauses.len(), sent.clauses.len());
        for (clause, sent) in rule.clauses.iter().zip(&sent.clauses) {
            assert_eq!(clause.matches.len(), sent.matches.len());
            for (read, sent) in clause.matches.iter().zip(&sent.matches) {
                assert_eq!(read_conditions(read), sent_conditions(sent));
            }
        }
    }
    // Nothing but what was read: written again, it reads the same.
    let again = parse_policy(&name, &sent.encode_to_vec(), &mut interner);
    assert_eq!(again, Stored::Policy(policy));
    // And nothing can be added to it that would be skipped.
    for later in [&b"\x40\x01"[..], b"\x18\x00\x18\x00", b"\x20\x00\x20\x00", b"\x2a\x02\x10\x00"] {
        let bytes = [bytes, later].concat();
        assert!(matches!(parse_policy(&name, &bytes, &mut interner), Stored::Unreadable(_)));
    }
});

fn read_conditions(read: &Match) -> [usize; 12] {
    [
        read.namespaces.any_of.len(),
        read.namespaces.none_of.len(),
        read.principals.any_of.len(),
        read.principals.none_of.len(),
        read.service_accounts.any_of.len(),
        read.service_accounts.none_of.len(),
        read.source_ips.any_of.len(),
        read.source_ips.none_of.len(),
        read.destination_ips.any_of.len(),
        read.destination_ips.none_of.len(),
        read.destination_ports.any_of.len(),
        read.destination_ports.none_of.len(),
    ]
}

fn sent_conditions(sent: &wire::Match) -> [usize; 12] {
    [
        sent.namespaces.len(),
        sent.not_namespaces.len(),
        sent.principals.len(),
        sent.not_principals.len(),
        sent.service_accounts.len(),
        sent.not_service_accounts.len(),
        sent.source_ips.len(),
        sent.not_source_ips.len(),
        sent.destination_ips.len(),
        sent.not_destination_ips.len(),
        sent.destination_ports.len(),
        sent.not_destination_ports.len(),
    ]
}
