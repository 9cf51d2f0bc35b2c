//! Prefixes of a pod: its own addresses and the operator's bypass CIDRs, in one longest-prefix trie.

use crate::Address;

/// Key of the trie. `length` counts bits of the 128-bit form, so an IPv4 prefix is 96 bits longer
/// than written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
pub struct PrefixKey {
    /// Host order, as the kernel's `bpf_lpm_trie_key` wants it.
    pub length: u32,
    pub address: Address,
}

impl PrefixKey {
    /// The key that looks up or stores one address.
    #[inline(always)]
    pub const fn host(address: Address) -> Self {
        Self { length: 128, address }
    }
}

/// What a prefix means; bits combine.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(transparent)]
pub struct PrefixFlags(pub u32);

impl PrefixFlags {
    pub const NONE: Self = Self(0);
    /// An address of the pod.
    pub const OWN: Self = Self(1);
    /// Neither captured on the way out nor steered on the way in.
    pub const BYPASS: Self = Self(2);

    #[inline(always)]
    pub const fn is_own(self) -> bool {
        self.0 & Self::OWN.0 != 0
    }

    #[inline(always)]
    pub const fn is_bypass(self) -> bool {
        self.0 & Self::BYPASS.0 != 0
    }

    #[inline(always)]
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}
