//! The registry of connections: who opened a connection and, for a captured one, where to.
//!
//! Written by `sock_ops` before the SYN leaves, read by the `sk_lookup` of the pod that the SYN
//! arrives in, and by the proxy.

use crate::{Address, Be16, Role};

/// A connection as the receiver of its SYN sees it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
pub struct TupleKey {
    pub remote: Address,
    pub local: Address,
    pub remote_port: Be16,
    pub local_port: Be16,
}

/// What is known about a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Tuple {
    pub role: Role,
    /// Port that the application dialled, when the role is `Outbound`.
    pub original_port: Be16,
    pub reserved: u16,
    /// Address that the application dialled, when the role is `Outbound`.
    pub original: Address,
    /// `CLOCK_MONOTONIC` in nanoseconds, when the connection was opened.
    pub opened_ns: u64,
}

/// Age class of a tuple.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Age {
    Fresh,
    Stale,
}

impl Tuple {
    /// How old the tuple is at `now_ns` of the same clock. A time before `opened_ns` is fresh: another
    /// CPU registered it after this one read its clock.
    #[inline(always)]
    pub const fn age(&self, now_ns: u64) -> Age {
        if now_ns.saturating_sub(self.opened_ns) < crate::TUPLE_LIFETIME_NS {
            Age::Fresh
        } else {
            Age::Stale
        }
    }
}
