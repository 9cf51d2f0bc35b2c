//! Values of a rule's attributes, read strictly: one that is skipped would widen or narrow a rule.

use std::net::IpAddr;

use ipnet::IpNet;
use proto::security as wire;

use super::problem::Cause;

/// Longest value, in bytes: a SPIFFE ID may have as many (SPIFFE-ID standard, section 2.3), and
/// nodes read no longer ones. A longer one makes its rule unreadable.
const VALUE_BYTES_MAX: usize = 2048;
/// Bits by which the prefix of a v4-mapped IPv6 block exceeds that of its IPv4 block.
const MAPPED_BITS: u8 = 96;

/// `*` is any that is not empty, `*x` a suffix, `x*` a prefix, and anything else itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Pattern {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Presence,
}

impl Pattern {
    pub(super) fn wire(self) -> wire::StringMatch {
        use wire::string_match::MatchType;
        let match_type = match self {
            Self::Exact(text) => MatchType::Exact(text),
            Self::Prefix(text) => MatchType::Prefix(text),
            Self::Suffix(text) => MatchType::Suffix(text),
            Self::Presence => MatchType::Presence(()),
        };
        wire::StringMatch { match_type: Some(match_type) }
    }

    fn read(text: &str, is_allowed: impl Fn(u8) -> bool) -> Option<Self> {
        let (pattern, fixed): (fn(String) -> Self, _) =
            match (text, text.strip_prefix('*'), text.strip_suffix('*')) {
                ("*", ..) => return Some(Self::Presence),
                (_, Some(fixed), _) => (Self::Suffix, fixed),
                (_, None, Some(fixed)) => (Self::Prefix, fixed),
                (_, None, None) => (Self::Exact, text),
            };
        // A further `*` was meant to match something, and would match nothing.
        let is_sound =
            !fixed.is_empty() && fixed.len() <= VALUE_BYTES_MAX && fixed.bytes().all(is_allowed);
        is_sound.then(|| pattern(fixed.to_owned()))
    }
}

/// What a segment of a SPIFFE ID may hold (standard, section 2.2).
fn is_of_segment(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')
}

pub(super) fn namespace(text: &str) -> Result<Pattern, Cause> {
    Pattern::read(text, is_of_segment)
        .ok_or_else(|| Cause::value(text, "a namespace, nor one with * at one end"))
}

/// With or without `spiffe://`: identities are compared without it.
pub(super) fn principal(text: &str) -> Result<Pattern, Cause> {
    const SCHEME: &str = "spiffe://";
    // Only a whole identity ends with the scheme and what follows it.
    let bare = text.strip_prefix('*').filter(|rest| rest.starts_with(SCHEME)).unwrap_or(text);
    let bare = bare.strip_prefix(SCHEME).unwrap_or(bare);
    Pattern::read(bare, |byte| is_of_segment(byte) || byte == b'/')
        .ok_or_else(|| Cause::value(text, "a principal, nor one with * at one end"))
}

/// The pattern of the principals in a trust domain.
pub(super) fn trust_domain(text: &str) -> Result<Pattern, Cause> {
    let is_of_domain = |byte: u8| is_of_segment(byte) && !byte.is_ascii_uppercase();
    match Pattern::read(text, is_of_domain) {
        Some(Pattern::Exact(name)) => Ok(Pattern::Prefix(format!("{name}/"))),
        Some(pattern @ (Pattern::Prefix(_) | Pattern::Presence)) => Ok(pattern),
        // The end of a trust domain is in the middle of a principal.
        Some(Pattern::Suffix(_)) => {
            Err(Cause::Said("cannot be checked at layer 4 by the end of a trust domain"))
        }
        None => Err(Cause::value(text, "a trust domain, nor one with * at its end")),
    }
}

/// `namespace/name`, or a name in the policy's own namespace.
pub(super) fn service_account(text: &str, own: &str) -> Result<wire::ServiceAccountMatch, Cause> {
    let (namespace, name) = text.split_once('/').unwrap_or((own, text));
    let is_sound = [namespace, name].iter().all(|part| {
        !part.is_empty() && part.len() <= VALUE_BYTES_MAX && part.bytes().all(is_of_segment)
    });
    if !is_sound {
        return Err(Cause::value(text, "a service account or a namespace and one"));
    }
    Ok(wire::ServiceAccountMatch {
        namespace: namespace.to_owned(),
        service_account: name.to_owned(),
    })
}

/// 1 to 65535. Digits only: `parse` would accept a sign.
pub(super) fn port(text: &str) -> Result<u16, Cause> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let port = if is_number { text.parse().ok().filter(|port| *port != 0) } else { None };
    port.ok_or_else(|| Cause::value(text, "a port number"))
}

/// An address or a block of addresses.
pub(super) fn block(text: &str) -> Result<wire::Address, Cause> {
    let alone = || text.parse::<IpAddr>().map(IpNet::from);
    let block = text.parse::<IpNet>().or_else(|_| alone()).ok().and_then(unmapped);
    let block = block.ok_or_else(|| Cause::value(text, "an IP address or a block of them"))?;
    let address = match block.network() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    Ok(wire::Address { address: address.into(), length: block.prefix_len().into() })
}

/// Peers with v4-mapped addresses count as IPv4, so a v4-mapped block has to be one of IPv4.
fn unmapped(block: IpNet) -> Option<IpNet> {
    match block.addr().to_canonical() {
        address @ IpAddr::V4(_) if block.max_prefix_len() > 32 => {
            IpNet::new(address, block.prefix_len().checked_sub(MAPPED_BITS)?).ok()
        }
        IpAddr::V4(_) | IpAddr::V6(_) => Some(block),
    }
}
