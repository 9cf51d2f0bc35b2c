use authz::{Action, Binding, Mode, Policy, Scope, Stored, StringMatch, UnreadablePolicy};
use proptest::prelude::*;
use prost::Message;
use proto::security as wire;
use wire::string_match::MatchType;

use crate::parse::{Interner, parse_policy};

const NAME: &str = "shop/p";

fn pattern(kind: MatchType) -> wire::StringMatch {
    wire::StringMatch { match_type: Some(kind) }
}

fn block(bytes: &[u8], length: u32) -> wire::Address {
    wire::Address { address: bytes.to_vec().into(), length }
}

fn account(namespace: &str, name: &str) -> wire::ServiceAccountMatch {
    wire::ServiceAccountMatch { namespace: namespace.into(), service_account: name.into() }
}

/// A DENY with one value of each type.
fn full() -> wire::Authorization {
    let a_match = wire::Match {
        namespaces: vec![pattern(MatchType::Exact("a".into()))],
        not_namespaces: vec![pattern(MatchType::Prefix("b".into()))],
        principals: vec![pattern(MatchType::Exact("spiffe://td/ns/a/sa/b".into()))],
        not_principals: vec![pattern(MatchType::Presence(()))],
        source_ips: vec![block(&[10, 0, 0, 7], 8)],
        not_source_ips: vec![block(&[10, 1, 0, 0], 16)],
        destination_ips: vec![block(&[0; 16], 0)],
        not_destination_ips: vec![block(&[10, 2, 0, 1], 32)],
        destination_ports: vec![80, 443],
        not_destination_ports: vec![65535],
        service_accounts: vec![account("a", "b")],
        not_service_accounts: vec![account("c", "d")],
        extensions: Vec::new(),
    };
    wire::Authorization {
        name: "p".into(),
        namespace: "shop".into(),
        scope: 1,
        action: 1,
        rules: vec![wire::Rule { clauses: vec![wire::Clause { matches: vec![a_match] }] }],
        dry_run: true,
        extensions: vec![proto::workload::Extension { name: "x".into(), config: None }],
    }
}

fn read(bytes: &[u8]) -> Stored {
    parse_policy(NAME, bytes, &mut Interner::default())
}

fn readable(wire: &wire::Authorization) -> Policy {
    match read(&wire.encode_to_vec()) {
        Stored::Policy(policy) => policy,
        Stored::Unreadable(policy) => panic!("{}", policy.cause),
    }
}

fn unreadable(name: &str, bytes: &[u8]) -> UnreadablePolicy {
    match parse_policy(name, bytes, &mut Interner::default()) {
        Stored::Unreadable(policy) => policy,
        Stored::Policy(policy) => panic!("read as {policy:?}"),
    }
}

#[test]
fn everything_arrives() {
    let policy = readable(&full());
    assert_eq!(policy.name.to_string(), NAME);
    assert_eq!((policy.scope, policy.action), (Scope::Namespace, Action::Deny));
    assert_eq!(policy.mode, Mode::DryRun);
    let a_match = &policy.rules[0].clauses[0].matches[0];
    let text = |text: &str| text.into();
    assert_eq!(a_match.namespaces.any_of, [StringMatch::Exact(text("a"))]);
    assert_eq!(a_match.namespaces.none_of, [StringMatch::Prefix(text("b"))]);
    assert_eq!(a_match.principals.any_of, [StringMatch::Exact(text("td/ns/a/sa/b"))]);
    assert_eq!(a_match.principals.none_of, [StringMatch::Presence]);
    let nets = |nets: &[ipnet::IpNet]| nets.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(nets(&a_match.source_ips.any_of), ["10.0.0.0/8"]);
    assert_eq!(nets(&a_match.source_ips.none_of), ["10.1.0.0/16"]);
    assert_eq!(nets(&a_match.destination_ips.any_of), ["::/0"]);
    assert_eq!(nets(&a_match.destination_ips.none_of), ["10.2.0.1/32"]);
    assert_eq!(a_match.destination_ports.any_of, [80, 443]);
    assert_eq!(a_match.destination_ports.none_of, [65535]);
    assert_eq!(a_match.service_accounts.any_of[0].to_string(), "\"a/b\"");
    assert_eq!(a_match.service_accounts.none_of[0].to_string(), "\"c/d\"");
    // Zero rules, clauses and matches are kept apart: they mean three different things.
    let empty = |change: fn(&mut wire::Authorization)| {
        let mut wire = full();
        change(&mut wire);
        readable(&wire).rules
    };
    assert!(empty(|w| w.rules.clear()).is_empty());
    assert!(empty(|w| w.rules[0].clauses.clear())[0].clauses.is_empty());
    assert!(empty(|w| w.rules[0].clauses[0].matches.clear())[0].clauses[0].matches.is_empty());
    let none = empty(|w| w.rules[0].clauses[0].matches[0] = wire::Match::default());
    assert!(none[0].clauses[0].matches[0].is_empty());
}

#[test]
fn ports_may_be_packed_or_not() {
    let mut wire = full();
    wire.rules[0].clauses[0].matches = vec![wire::Match::default()];
    // A match with 80 and 443, each under a tag of its own.
    let a_match = b"\x48\x50\x48\xbb\x03";
    let bytes = with_matches(&[a_match]);
    let Stored::Policy(policy) = read(&bytes) else { panic!("not read") };
    assert_eq!(policy.rules[0].clauses[0].matches[0].destination_ports.any_of, [80, 443]);
}

/// A DENY of scope NAMESPACE whose one clause has these matches, as they are.
fn with_matches(matches: &[&[u8]]) -> Vec<u8> {
    let wrap = |tag: u8, inner: &[u8]| {
        let mut outer = vec![tag];
        prost::encoding::encode_varint(u64::try_from(inner.len()).expect("short"), &mut outer);
        outer.extend(inner);
        outer
    };
    let clause: Vec<u8> = matches.iter().flat_map(|a_match| wrap(0x12, a_match)).collect();
    let rule = wrap(0x0a, &clause);
    [&b"\x0a\x01p\x12\x04shop\x18\x01\x20\x01"[..], &wrap(0x2a, &rule)].concat()
}

fn check(change: impl FnOnce(&mut wire::Authorization), expected: &str) {
    let mut wire = full();
    change(&mut wire);
    let policy = unreadable(NAME, &wire.encode_to_vec());
    assert_eq!((&*policy.cause, policy.binding), (expected, Binding::Namespace));
}

fn check_match(change: impl FnOnce(&mut wire::Match), expected: &str) {
    check(
        |wire| change(&mut wire.rules[0].clauses[0].matches[0]),
        &format!("rules[0].clauses[0].matches[0].{expected}"),
    );
}

/// A field of a match: its name and the field.
type List<T> = (&'static str, fn(&mut wire::Match) -> &mut Vec<T>);

#[test]
fn a_value_that_cannot_be_read_makes_the_policy_unreadable() {
    check(|w| w.scope = 3, "scope: 3 is not a known value");
    check(|w| w.action = 2, "action: 2 is not a known value");
    check(|w| w.action = -1, "action: cannot be decoded: a number of more than 32 bits");
    let nothing = || wire::StringMatch { match_type: None };
    let lists: [List<_>; 4] = [
        ("namespaces", |m| &mut m.namespaces),
        ("not_namespaces", |m| &mut m.not_namespaces),
        ("principals", |m| &mut m.principals),
        ("not_principals", |m| &mut m.not_principals),
    ];
    for (field, list) in lists {
        let expected = format!("{field}[1].match_type: is missing");
        check_match(|m| list(m).push(nothing()), &expected);
    }
    let lists: [List<_>; 4] = [
        ("source_ips", |m| &mut m.source_ips),
        ("not_source_ips", |m| &mut m.not_source_ips),
        ("destination_ips", |m| &mut m.destination_ips),
        ("not_destination_ips", |m| &mut m.not_destination_ips),
    ];
    for (field, list) in lists {
        for (wire, expected) in [
            (block(&[10, 0, 0], 8), "address: 3 bytes are not an IP address"),
            (block(&[10, 0, 0, 0], 33), "length: a prefix of 33 bits is not one of 10.0.0.0"),
            (block(&[10, 0, 0, 0], 264), "length: a prefix of 264 bits is not one of 10.0.0.0"),
            (block(&[0; 16], 129), "length: a prefix of 129 bits is not one of ::"),
        ] {
            check_match(|m| list(m).push(wire), &format!("{field}[1].{expected}"));
        }
    }
    for (port, text) in [(0, "0"), (65536, "65536"), (65536 + 80, "65616")] {
        let expected = |field, at| format!("{field}[{at}]: {text} is not a port");
        check_match(|m| m.destination_ports.push(port), &expected("destination_ports", 2));
        check_match(|m| m.not_destination_ports.push(port), &expected("not_destination_ports", 1));
    }
    for (wire, field) in [(account("", "x"), "namespace"), (account("x", ""), "serviceAccount")] {
        let expected = |list| format!("{list}[1].{field}: is missing");
        let other = wire.clone();
        check_match(|m| m.service_accounts.push(wire), &expected("service_accounts"));
        check_match(|m| m.not_service_accounts.push(other), &expected("not_service_accounts"));
    }
    check_match(
        |m| m.extensions = vec![proto::workload::Extension::default()],
        "extensions[0]: says something that is not known here",
    );
}

#[test]
fn a_field_that_is_not_known_makes_the_policy_unreadable_at_every_depth() {
    let check = |a_match: &[u8], expected: &str| {
        let policy = unreadable(NAME, &with_matches(&[a_match]));
        assert_eq!(policy.cause, format!("rules[0].clauses[0].matches[0]{expected}"));
        assert_eq!(policy.binding, Binding::Namespace);
    };
    check(b"\x70\x01", ": field 14 is not known");
    check(b"\x0a\x03\x2a\x01x", ".namespaces[0]: field 5 is not known");
    check(b"\x22\x04\x22\x02\x08\x01", ".not_principals[0].presence: field 1 is not known");
    check(b"\x2a\x02\x18\x01", ".source_ips[0]: field 3 is not known");
    check(b"\x5a\x02\x18\x01", ".service_accounts[0]: field 3 is not known");
    // What the decoder would resolve by taking the last, by merging, or by cutting.
    check(b"\x0a\x06\x0a\x01a\x12\x01b", ".namespaces[0].prefix: is given twice");
    check(b"\x2a\x04\x10\x08\x10\x18", ".source_ips[0].length: is given twice");
    let wide = "cannot be decoded: a number of more than 32 bits";
    check(b"\x48\xd0\x80\x80\x80\x10", &format!(".destination_ports[0]: {wide}"));
    check(b"\x4a\x05\xd0\x80\x80\x80\x10", &format!(".destination_ports[0]: {wide}"));
    check(b"\x2a\x06\x10\x88\x80\x80\x80\x10", &format!(".source_ips[0].length: {wide}"));
    check(b"\x4d\0\0\0\0", ".destination_ports[0]: cannot be decoded: a value of another type");
    for (level, expected) in [
        (&b"\x40\x01"[..], "field 8 is not known"),
        (b"\x2a\x02\x10\x01", "rules[0]: field 2 is not known"),
        (b"\x2a\x04\x0a\x02\x08\x01", "rules[0].clauses[0]: field 1 is not known"),
        (b"\x20\x00\x20\x01", "action: is given twice"),
        (b"\x30\x01\x30\x00", "dry_run: is given twice"),
    ] {
        let bytes = [&b"\x0a\x01p\x12\x04shop\x18\x01"[..], level].concat();
        let policy = unreadable(NAME, &bytes);
        assert_eq!((&*policy.cause, policy.binding), (expected, Binding::Namespace));
    }
}

#[test]
fn an_unreadable_policy_denies_its_scope_or_else_more() {
    let check = |name: &str, bytes: &[u8], binding| {
        let policy = unreadable(name, bytes);
        assert_eq!(policy.binding, binding, "{name} {bytes:?}: {}", policy.cause);
        policy
    };
    let of_scope = |scope: &[u8]| [b"\x0a\x01p\x12\x04shop", scope, b"\x40\x01"].concat();
    check(NAME, &of_scope(b"\x18\x02"), Binding::Workload);
    check(NAME, &of_scope(b"\x18\x01"), Binding::Namespace);
    check(NAME, &of_scope(b"\x18\x00"), Binding::Mesh);
    check(NAME, &of_scope(b""), Binding::Mesh);
    // The scope cannot be read: not known, twice, of another type, in a malformed message.
    check(NAME, &of_scope(b"\x18\x03"), Binding::Namespace);
    check(NAME, &of_scope(b"\x18\x02\x18\x02"), Binding::Namespace);
    check(NAME, &of_scope(b"\x18\x02\x18\x02\x18\x02"), Binding::Namespace);
    check(NAME, &of_scope(b"\x1a\x01\x02"), Binding::Namespace);
    check(NAME, b"\x0a\x01p\x12\x04shop\x18\x02\x2a\x7f", Binding::Namespace);
    check(NAME, b"\xff", Binding::Namespace);
    // Sent under the name of another policy: whose workloads it is for cannot be told.
    let selected = of_scope(b"\x18\x02");
    check("shop/q", &selected, Binding::Namespace);
    check("other/p", &selected, Binding::Mesh);
    for name in ["", "p", "/p", "shop/", "shop/p/q"] {
        let policy = check(name, &selected, Binding::Mesh);
        assert_eq!(policy.name.namespace, "".into());
    }
}

#[test]
fn a_large_policy_is_unreadable() {
    let mut wire = full();
    wire.rules = vec![wire.rules[0].clone(); 10_000];
    let policy = unreadable(NAME, &wire.encode_to_vec());
    assert!(policy.cause.ends_with("more than the 1048576 that are read"), "{}", policy.cause);
}

fn messages(bytes: &[u8]) -> Vec<(usize, usize)> {
    // Start and length of each message within an encoded `full()`, itself included.
    fn walk(all: &[u8], from: usize, to: usize, depth: u32, found: &mut Vec<(usize, usize)>) {
        found.push((from, to));
        let mut at = from;
        while at < to {
            let mut rest = &all[at..to];
            let before = rest.len();
            let tag = prost::encoding::decode_varint(&mut rest).expect("own encoding");
            let (number, kind) = (tag >> 3, tag & 7);
            let value = prost::encoding::decode_varint(&mut rest).expect("own encoding");
            at += before - rest.len();
            if kind == 2 {
                let end = at + usize::try_from(value).expect("short");
                let nested = match depth {
                    0 => number == 5,
                    1 | 2 => true,
                    3 => !matches!(number, 9 | 10),
                    _ => false,
                };
                if nested {
                    walk(all, at, end, depth + 1, found);
                }
                at = end;
            }
        }
    }
    let mut found = Vec::new();
    walk(bytes, 0, bytes.len(), 0, &mut found);
    found
}

/// `bytes` with `inserted` at the end of the message that spans `from..to`, every length around it
/// corrected.
fn insert(
    bytes: &[u8],
    (from, to): (usize, usize),
    inserted: &[u8],
    spans: &[(usize, usize)],
) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.splice(to..to, inserted.iter().copied());
    for (start, end) in spans.iter().rev() {
        if *start <= from && to <= *end && *start > 0 {
            // All lengths in `full()` are a single byte, and stay so.
            let length = u8::try_from(end - start + inserted.len()).expect("short");
            assert!(length < 0x80);
            bytes[start - 1] = length;
        }
    }
    bytes
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(name in ".{0,10}", bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse_policy(&name, &bytes, &mut Interner::default());
    }

    #[test]
    fn an_unknown_field_anywhere_is_never_skipped(
        at in any::<prop::sample::Index>(),
        number in 14_u64..100_000,
        value in any::<u8>(),
    ) {
        // Lists are halved, so that each length fits in one byte.
        let mut wire = full();
        let a_match = &mut wire.rules[0].clauses[0].matches[0];
        a_match.principals = vec![pattern(MatchType::Exact("td".into()))];
        a_match.destination_ips = vec![];
        let bytes = wire.encode_to_vec();
        prop_assert!(matches!(read(&bytes), Stored::Policy(_)));
        let spans = messages(&bytes);
        let span = spans[at.index(spans.len())];
        let mut field = Vec::new();
        prost::encoding::encode_varint(number << 3, &mut field);
        prost::encoding::encode_varint(value.into(), &mut field);
        let changed = insert(&bytes, span, &field, &spans);
        prop_assert!(wire::Authorization::decode(&*changed).is_ok(), "the decoder skips it");
        let policy = unreadable(NAME, &changed);
        prop_assert!(policy.cause.contains("is not known"), "{}", policy.cause);
        prop_assert_eq!(policy.binding, Binding::Namespace);
    }
}
