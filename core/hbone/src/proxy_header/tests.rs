use proptest::prelude::*;

use super::*;

const IDENTITY: &str = "spiffe://cluster.local/ns/shop/sa/web";

fn socket(text: &str) -> SocketAddr {
    text.parse().expect(text)
}

fn header(source: &str, destination: &str, service: Option<&str>) -> ProxyHeader {
    ProxyHeader {
        identity: Some(SpiffeId::parse(IDENTITY).expect("literal")),
        service: service.map(Into::into),
        ..ProxyHeader::new(socket(source), socket(destination))
    }
}

/// Hexadecimal digits with spaces between fields, as the specification lays a header out.
fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<char> = hex.chars().filter(|c| !c.is_whitespace()).collect();
    let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16);
    digits.chunks(2).map(|pair| byte(pair).expect("hex")).collect()
}

/// The start of every header, up to the family.
const START: &str = "0d0a0d0a000d0a515549540a 21";
/// The identity's field.
const SPIFFE: &str =
    "d0 0025 7370696666653a2f2f636c75737465722e6c6f63616c2f6e732f73686f702f73612f776562";

#[test]
fn golden() {
    let bare = ProxyHeader::new(socket("10.0.1.5:40000"), socket("10.0.2.7:80"));
    let v4 = "0a000105 0a000207 9c40 0050";
    let mapped = "00000000000000000000ffff0a000105 fd000000000000000000000000000002 9c40 0050";
    for (header, rest) in [
        (bare, format!("11 000c {v4}")),
        (header("10.0.1.5:40000", "10.0.2.7:80", None), format!("11 0034 {v4} {SPIFFE}")),
        (header("10.0.1.5:40000", "[fd00::2]:80", None), format!("21 004c {mapped} {SPIFFE}")),
        (
            header("[fd00::1]:1", "[fd00::2]:65535", None),
            format!(
                "21 004c fd000000000000000000000000000001 fd000000000000000000000000000002 \
                 0001 ffff {SPIFFE}"
            ),
        ),
        (
            header("10.0.1.5:40000", "10.0.2.7:80", Some("a.b")),
            format!("11 003a {v4} {SPIFFE} d1 0003 612e62"),
        ),
    ] {
        let want = bytes(&format!("{START}{rest}"));
        assert_eq!(header.encode(), want, "{header:?}");
        let followed = [want.as_slice(), b"GET /"].concat();
        assert_eq!(ProxyHeader::decode(&followed), Ok((header, want.len())));
    }
}

#[test]
fn mapped_addresses_are_folded_both_ways() {
    let mapped = ProxyHeader::new(socket("[::ffff:10.0.0.1]:1"), socket("[::ffff:10.0.0.2]:2"));
    assert_eq!(mapped, ProxyHeader::new(socket("10.0.0.1:1"), socket("10.0.0.2:2")));
    let wire = bytes(&format!(
        "{START} 21 0024 00000000000000000000ffff0a000001 00000000000000000000ffff0a000002 0001 0002"
    ));
    assert_eq!(ProxyHeader::decode(&wire), Ok((mapped, 52)));
}

#[test]
fn what_is_not_a_host_name_is_not_written() {
    let odd = header("10.0.0.1:1", "10.0.0.2:2", Some("a b\r\n"));
    assert_eq!(odd.encode(), ProxyHeader { service: None, ..odd }.encode());
}

#[test]
fn fields_of_others_are_skipped() {
    let wire =
        bytes(&format!("{START} 11 0016 0a000001 0a000002 0001 0002 03 0004 00000000 ee 0000"));
    let want = ProxyHeader::new(socket("10.0.0.1:1"), socket("10.0.0.2:2"));
    assert_eq!(ProxyHeader::decode(&wire), Ok((want, wire.len())));
}

#[test]
fn everything_else_is_refused() {
    use ProxyHeaderError::{
        Command, Family, Identity, Incomplete, Service, Signature, TooLong, Truncated, Twice,
    };
    let v4 = "0a000001 0a000002 0001 0002";
    for (wire, error) in [
        (String::new(), Incomplete(16)),
        ("0d0a0d0a".to_owned(), Incomplete(16)),
        (format!("{START} 11 00"), Incomplete(16)),
        (format!("{START} 11 000c 0a000001"), Incomplete(28)),
        ("0d0a0d0b".to_owned(), Signature),
        ("50524f5859205443503420".to_owned(), Signature),
        (format!("0d0a0d0a000d0a515549540b 21 11 000c {v4}"), Signature),
        (format!("0d0a0d0a000d0a515549540a 20 11 000c {v4}"), Command(0x20)),
        (format!("0d0a0d0a000d0a515549540a 11 11 000c {v4}"), Command(0x11)),
        (format!("0d0a0d0a000d0a515549540a 22 11 000c {v4}"), Command(0x22)),
        (format!("{START} 00 0000"), Family(0)),
        (format!("{START} 12 000c {v4}"), Family(0x12)),
        (format!("{START} 31 000c {v4}"), Family(0x31)),
        (format!("{START} 11 1ff1"), TooLong(8193)),
        (format!("{START} 11 ffff"), TooLong(65551)),
        (format!("{START} 11 000b 0a000001 0a000002 0001 00"), Truncated),
        (format!("{START} 21 000c {v4}"), Truncated),
        (format!("{START} 11 000e {v4} d0 00"), Truncated),
        (format!("{START} 11 0010 {v4} d0 0002 61"), Truncated),
        (format!("{START} 11 0010 {v4} d0 0001 ff"), Identity(None)),
        (format!("{START} 11 005c {v4} {SPIFFE} {SPIFFE}"), Twice(0xd0)),
        (format!("{START} 11 0014 {v4} d1 0001 61 d1 0001 61"), Twice(0xd1)),
        (format!("{START} 11 000f {v4} d1 0000"), Service),
        (format!("{START} 11 0010 {v4} d1 0001 20"), Service),
    ] {
        assert_eq!(ProxyHeader::decode(&bytes(&wire)), Err(error), "{wire}");
    }
    let wire = bytes(&format!("{START} 11 0010 {v4} d0 0001 61"));
    assert!(matches!(ProxyHeader::decode(&wire), Err(Identity(Some(_)))));
}

#[test]
fn the_largest_header_fits() {
    let account = "a".repeat(2048 - "spiffe://td/ns/n/sa/".len());
    let largest = ProxyHeader {
        identity: Some(SpiffeId::parse(&format!("spiffe://td/ns/n/sa/{account}")).expect("2048")),
        service: Some(format!("{}b", "a.".repeat(126)).into()),
        ..ProxyHeader::new(socket("[fd00::1]:1"), socket("[fd00::2]:2"))
    };
    let wire = largest.encode();
    assert_eq!(wire.len(), 16 + 36 + 3 + 2048 + 3 + 253);
    assert!(wire.len() < PROXY_HEADER_MAX);
    assert_eq!(ProxyHeader::decode(&wire), Ok((largest, wire.len())));
}

proptest! {
    #[test]
    fn round_trip(
        source: SocketAddr,
        destination: SocketAddr,
        account in proptest::option::of("[a-z][a-z0-9-]{0,40}"),
        service in proptest::option::of("[a-z]{1,9}(\\.[a-z]{1,9}){0,3}"),
    ) {
        let identity = account.map(|a| SpiffeId::parse(&format!("spiffe://td/ns/n/sa/{a}")).expect("valid"));
        let header = ProxyHeader {
            identity,
            service: service.map(Into::into),
            ..ProxyHeader::new(source, destination)
        };
        let wire = header.encode();
        prop_assert_eq!(ProxyHeader::decode(&wire), Ok((header, wire.len())));
        // Every shorter piece asks for more, and is never taken for a whole header.
        for len in 0..wire.len() {
            let piece = ProxyHeader::decode(&wire[..len]);
            prop_assert!(matches!(piece, Err(ProxyHeaderError::Incomplete(more)) if more > len));
        }
    }

    #[test]
    fn never_panics(rest in proptest::collection::vec(any::<u8>(), 0..120), family in prop::sample::select(vec![0x11_u8, 0x21])) {
        let _ = ProxyHeader::decode(&rest);
        let mut wire = bytes(START);
        wire.push(family);
        wire.extend_from_slice(&length(rest.len()));
        wire.extend_from_slice(&rest);
        if let Ok((header, len)) = ProxyHeader::decode(&wire) {
            prop_assert_eq!(len, wire.len());
            let again = header.encode();
            prop_assert_eq!(ProxyHeader::decode(&again), Ok((header, again.len())));
        }
    }
}
