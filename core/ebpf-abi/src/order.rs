//! Integers in network byte order. The type carries the order, so a missing conversion does not
//! compile; the inner value is exactly what the kernel's context fields and our map keys hold.

/// A 16-bit integer in network byte order (a port).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(transparent)]
pub struct Be16(u16);

impl Be16 {
    /// From a value in host order.
    #[inline(always)]
    pub const fn new(host: u16) -> Self {
        Self(host.to_be())
    }

    /// From the bits as the kernel stores them.
    #[inline(always)]
    pub const fn from_raw(raw: u16) -> Self {
        Self(raw)
    }

    /// The bits as the kernel stores them.
    #[inline(always)]
    pub const fn raw(self) -> u16 {
        self.0
    }

    /// The value in host order.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }
}

/// A 32-bit integer in network byte order (an IPv4 address, or a quarter of an IPv6 one).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(transparent)]
pub struct Be32(u32);

impl Be32 {
    /// From a value in host order.
    #[inline(always)]
    pub const fn new(host: u32) -> Self {
        Self(host.to_be())
    }

    /// From the bits as the kernel stores them.
    #[inline(always)]
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    /// The bits as the kernel stores them.
    #[inline(always)]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// The value in host order.
    #[inline(always)]
    pub const fn get(self) -> u32 {
        u32::from_be(self.0)
    }

    /// Whether the bits under `mask` (host order) equal `value` (host order).
    #[inline(always)]
    pub const fn matches(self, mask: u32, value: u32) -> bool {
        self.0 & mask.to_be() == value.to_be()
    }
}
