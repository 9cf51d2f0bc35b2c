//! Counters of the programs, by name. A pod's counters are an array per CPU with one `u64` each.

macro_rules! counters {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u32)]
        pub enum $name {
            $($(#[$doc])* $variant,)+
        }

        impl $name {
            /// Every counter, in the order of its index.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
            /// Elements of the array.
            pub const COUNT: usize = Self::ALL.len();

            /// Position in the array.
            #[inline(always)]
            #[expect(clippy::as_conversions, reason = "the discriminant is the index")]
            pub const fn index(self) -> u32 {
                self as u32
            }

            /// Stable name, as metrics and `warren status` show it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }
    };
}

counters! {
    /// What happened in one pod.
    Counter {
        /// A connect was rewritten to the capture port.
        Captured = "captured",
        /// A connect went to an address of the pod itself.
        SelfCall = "self_call",
        /// A connect was refused: the pod has no address of the family that was dialled.
        DeniedNoAddress = "denied_no_address",
        /// A connect was refused: the socket could not store its original destination.
        DeniedStorage = "denied_storage",
        /// A connection could not be registered (the pod's tuples are full); `sk_lookup` drops it.
        TupleInsertFailed = "tuple_insert_failed",
        /// A pod tried to set a socket option that would let it pass for the proxy.
        SockoptRefused = "sockopt_refused",
        /// Handed to the outbound listener.
        SteeredOutbound = "steered_outbound",
        /// Handed to the HBONE listener.
        SteeredHbone = "steered_hbone",
        /// Handed to the plaintext listener.
        SteeredPlaintext = "steered_plaintext",
        /// Passed to the application: opened by the proxy.
        PassedProxy = "passed_proxy",
        /// Passed to the application: opened by the pod itself.
        PassedSelfCall = "passed_self_call",
        /// Passed to the application: loopback.
        PassedLoopback = "passed_loopback",
        /// Passed to the application: a kubelet's probe to a probe port.
        PassedProbe = "passed_probe",
        /// Passed to the application: the local address is in a bypass CIDR.
        PassedBypass = "passed_bypass",
        /// Dropped: the captured connection was registered too long ago.
        DroppedStale = "dropped_stale",
        /// Dropped: a connection to the capture port that nobody registered.
        DroppedUnregistered = "dropped_unregistered",
        /// Dropped: no listener in the slot, or the kernel refused it.
        DroppedNoListener = "dropped_no_listener",
        /// A datagram for a resolver was rewritten to the proxy, or a socket for them was connected.
        DnsCaptured = "dns_captured",
        /// One was left alone: the pod asks more resolvers than there are slots.
        DnsNoSlot = "dns_no_slot",
    }
}

counters! {
    /// What happened outside any known pod.
    GlobalCounter {
        /// A connect was refused: the socket is in a pod's cgroup and in an unknown namespace.
        DeniedUnknownNetns = "denied_unknown_netns",
        /// A pod's connection could not be registered: its namespace is unknown.
        UnregisteredNetns = "unregistered_netns",
        /// A socket of the agent or the kubelet could not store its role; its connection is judged
        /// like any other.
        RoleStorageFailed = "role_storage_failed",
        /// A kubelet's connection could not be registered; it is judged like any other.
        ProbeInsertFailed = "probe_insert_failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_is_the_position() {
        for (position, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(usize::try_from(counter.index()).expect("fits"), position);
        }
        for (position, counter) in GlobalCounter::ALL.iter().enumerate() {
            assert_eq!(usize::try_from(counter.index()).expect("fits"), position);
        }
    }
}
