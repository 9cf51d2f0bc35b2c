//! The `traceparent` header (W3C Trace Context, section 3.2): one id for both ends' logs.
//!
//! Read byte by byte at fixed offsets, so that no input can make it slice outside the header: a
//! peer's node proxy has panicked on exactly that. One that cannot be read is no error.

use std::fmt;

/// Longest header read, in bytes. Version 00 has 55; later versions may append.
pub const TRACEPARENT_MAX: usize = 256;
/// Length of version 00.
const LEN: usize = 55;

/// A trace and the span within it that caused this request. Neither id is all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Traceparent {
    trace_id: [u8; 16],
    parent_id: [u8; 8],
    flags: u8,
}

impl Traceparent {
    /// A new trace from 24 random bytes, not sampled. An id that is all zero becomes 1.
    #[must_use]
    pub fn from_random(trace_id: [u8; 16], parent_id: [u8; 8]) -> Self {
        let (mut trace, mut parent) = (trace_id, parent_id);
        if trace == [0; 16] {
            trace[15] = 1;
        }
        if parent == [0; 8] {
            parent[7] = 1;
        }
        Self { trace_id: trace, parent_id: parent, flags: 0 }
    }

    /// Parses a header; `None` if it is not valid, in which case the request starts a trace.
    #[must_use]
    pub fn parse(header: &[u8]) -> Option<Self> {
        if header.len() < LEN || header.len() > TRACEPARENT_MAX {
            return None;
        }
        let (known, further) = header.split_at_checked(LEN)?;
        let [version] = hex(known.get(..2)?)?;
        // Version 00 ends here; a later one may go on after a dash.
        let ends_well = match further.first() {
            None => true,
            Some(byte) => version != 0 && *byte == b'-',
        };
        let dashes = [2, 35, 52].iter().all(|at| known.get(*at) == Some(&b'-'));
        if version == 0xff || !ends_well || !dashes {
            return None;
        }
        let trace_id = hex(known.get(3..35)?)?;
        let parent_id = hex(known.get(36..52)?)?;
        let [flags] = hex(known.get(53..55)?)?;
        let valid = trace_id != [0; 16] && parent_id != [0; 8];
        valid.then_some(Self { trace_id, parent_id, flags })
    }

    /// The trace's id as 32 hexadecimal digits, for logs.
    #[must_use]
    pub fn trace_id(&self) -> String {
        self.trace_id.iter().fold(String::with_capacity(32), |mut out, byte| {
            out.push(digit(byte >> 4));
            out.push(digit(byte & 15));
            out
        })
    }
}

impl fmt::Display for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("00-")?;
        self.trace_id.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("-")?;
        self.parent_id.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        write!(f, "-{:02x}", self.flags)
    }
}

/// Lower-case hexadecimal, as the standard demands.
fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let nibble = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let mut out = [0; N];
    for (slot, [high, low]) in out.iter_mut().zip(pairs) {
        *slot = nibble(*high)? << 4 | nibble(*low)?;
    }
    Some(out)
}

fn digit(nibble: u8) -> char {
    char::from_digit(u32::from(nibble), 16).unwrap_or('0')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOLDEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn reads_and_writes_the_standards_example() {
        let parsed = Traceparent::parse(GOLDEN.as_bytes()).expect("valid");
        assert_eq!(parsed.to_string(), GOLDEN);
        assert_eq!(parsed.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        let zero = Traceparent::from_random([0; 16], [0; 8]).to_string();
        assert_eq!(zero, "00-00000000000000000000000000000001-0000000000000001-00");
        assert!(Traceparent::parse(zero.as_bytes()).is_some());
    }

    #[test]
    fn refuses_without_panicking() {
        // The first once killed connections of Istio's ztunnel.
        let zeros = format!("00-{}", "0".repeat(52));
        let later = GOLDEN.replacen("00", "01", 1);
        assert!(Traceparent::parse(later.as_bytes()).is_some());
        assert!(Traceparent::parse(format!("{later}-more").as_bytes()).is_some());
        for bad in [
            zeros.as_str(),
            "",
            "00",
            &"-".repeat(55),
            &"ü".repeat(28),
            &GOLDEN[..54],
            &format!("{GOLDEN}-"),
            &format!("{GOLDEN}0"),
            &format!("{later}0"),
            &GOLDEN.to_uppercase(),
            &GOLDEN.replacen("00", "ff", 1),
            &GOLDEN.replace('-', "_"),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            &format!("{later}-{}", "x".repeat(TRACEPARENT_MAX)),
        ] {
            assert_eq!(Traceparent::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(header in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Traceparent::parse(&header);
        }

        #[test]
        fn never_panics_on_near_misses(text in "[0-9a-f-]{53,58}") {
            let _ = Traceparent::parse(text.as_bytes());
        }

        #[test]
        fn round_trip(trace: [u8; 16], parent: [u8; 8]) {
            let made = Traceparent::from_random(trace, parent);
            prop_assert_eq!(Traceparent::parse(made.to_string().as_bytes()), Some(made));
        }
    }
}
