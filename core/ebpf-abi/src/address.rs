//! An IP address of either family in 16 bytes: IPv4 is stored v4-mapped (RFC 4291 section 2.5.5.2),
//! so one key type serves both families and a mapped address equals the IPv4 one, as on the wire.
//!
//! Comparisons work on four words and not on a byte array: the compiler would turn the latter into
//! `memcmp` calls, which an eBPF program cannot make.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::order::Be32;

/// An IP address, IPv4 as v4-mapped IPv6.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(C)]
pub struct Address {
    pub words: [Be32; 4],
}

/// Third word of a v4-mapped address, host order.
const MAPPED: u32 = 0x0000_ffff;

impl Address {
    /// `::`, which settings use for "the pod has no address of this family".
    pub const NONE: Self = Self { words: [Be32::new(0); 4] };

    /// From an IPv4 address as the kernel stores it.
    #[inline(always)]
    pub const fn from_v4(address: Be32) -> Self {
        Self { words: [Be32::new(0), Be32::new(0), Be32::new(MAPPED), address] }
    }

    /// From the four words of an IPv6 address as the kernel stores them.
    #[inline(always)]
    pub const fn from_words(words: [Be32; 4]) -> Self {
        Self { words }
    }

    /// Whether this is an IPv4 address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.words[0].raw() == 0 && self.words[1].raw() == 0 && self.words[2].get() == MAPPED
    }

    /// The IPv4 address; meaningful when [`Self::is_v4`].
    #[inline(always)]
    pub const fn v4(&self) -> Be32 {
        self.words[3]
    }

    /// `0.0.0.0` or `::`. Linux connects such a destination to the local host.
    #[inline(always)]
    pub const fn is_unspecified(&self) -> bool {
        let upper = self.words[0].raw() == 0 && self.words[1].raw() == 0;
        let third = self.words[2].get();
        upper && (third == 0 || third == MAPPED) && self.words[3].raw() == 0
    }

    /// `127.0.0.0/8`, also v4-mapped, or `::1`.
    #[inline(always)]
    pub const fn is_loopback(&self) -> bool {
        if self.is_v4() {
            return self.words[3].matches(0xff00_0000, 0x7f00_0000);
        }
        self.words[0].raw() == 0
            && self.words[1].raw() == 0
            && self.words[2].raw() == 0
            && self.words[3].get() == 1
    }

    /// `169.254.0.0/16` (RFC 3927) or `fe80::/10` (RFC 4291).
    #[inline(always)]
    pub const fn is_link_local(&self) -> bool {
        if self.is_v4() {
            return self.words[3].matches(0xffff_0000, 0xa9fe_0000);
        }
        self.words[0].matches(0xffc0_0000, 0xfe80_0000)
    }

    /// `224.0.0.0/4` or `ff00::/8`. TCP cannot be dialled there; the kernel says so itself.
    #[inline(always)]
    pub const fn is_multicast(&self) -> bool {
        if self.is_v4() {
            return self.words[3].matches(0xf000_0000, 0xe000_0000);
        }
        self.words[0].matches(0xff00_0000, 0xff00_0000)
    }
}

impl From<Ipv4Addr> for Address {
    fn from(address: Ipv4Addr) -> Self {
        Self::from_v4(Be32::new(address.to_bits()))
    }
}

impl From<Ipv6Addr> for Address {
    fn from(address: Ipv6Addr) -> Self {
        let bits = address.to_bits();
        let word = |shift: u32| {
            let low = u32::try_from((bits >> shift) & 0xffff_ffff);
            Be32::new(low.unwrap_or_default())
        };
        Self { words: [word(96), word(64), word(32), word(0)] }
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => v6.into(),
        }
    }
}

impl From<Address> for IpAddr {
    /// A v4-mapped address becomes IPv4.
    fn from(address: Address) -> Self {
        if address.is_v4() {
            return Ipv4Addr::from_bits(address.v4().get()).into();
        }
        let bits =
            address.words.iter().fold(0u128, |bits, word| (bits << 32) | u128::from(word.get()));
        Ipv6Addr::from_bits(bits).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().expect(text).into()
    }

    #[test]
    fn round_trip_keeps_the_address_and_unmaps_v4() {
        for (text, back) in [
            ("10.1.2.3", "10.1.2.3"),
            ("::ffff:10.1.2.3", "10.1.2.3"),
            ("2001:db8::1:2", "2001:db8::1:2"),
            ("::", "::"),
        ] {
            assert_eq!(IpAddr::from(address(text)), back.parse::<IpAddr>().expect(back));
        }
    }

    #[test]
    fn bytes_are_in_network_order() {
        let words = address("2001:db8::7").words.map(|word| word.raw().to_ne_bytes());
        assert_eq!(words.as_flattened()[..4], [0x20, 0x01, 0x0d, 0xb8]);
        assert_eq!(words.as_flattened()[12..], [0, 0, 0, 7]);
    }

    #[test]
    fn classes() {
        #[derive(PartialEq, Debug)]
        enum Class {
            Unspecified,
            Loopback,
            LinkLocal,
            Multicast,
            Other,
        }
        let class = |a: Address| match a {
            a if a.is_unspecified() => Class::Unspecified,
            a if a.is_loopback() => Class::Loopback,
            a if a.is_link_local() => Class::LinkLocal,
            a if a.is_multicast() => Class::Multicast,
            _ => Class::Other,
        };
        for (text, expected) in [
            ("0.0.0.0", Class::Unspecified),
            ("::", Class::Unspecified),
            ("::ffff:0.0.0.0", Class::Unspecified),
            ("127.0.0.1", Class::Loopback),
            ("127.255.0.9", Class::Loopback),
            ("::ffff:127.0.0.1", Class::Loopback),
            ("::1", Class::Loopback),
            ("::2", Class::Other),
            ("169.254.169.254", Class::LinkLocal),
            ("fe80::1", Class::LinkLocal),
            ("febf::1", Class::LinkLocal),
            ("fec0::1", Class::Other),
            ("224.0.0.1", Class::Multicast),
            ("239.255.255.255", Class::Multicast),
            ("ff02::1", Class::Multicast),
            ("10.0.0.1", Class::Other),
            ("128.0.0.1", Class::Other),
            ("2001:db8::1", Class::Other),
        ] {
            assert_eq!(class(address(text)), expected, "{text}");
        }
    }
}
