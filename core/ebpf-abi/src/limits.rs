//! Numbers that both sides of the kernel boundary must agree on.

/// Layout version of pinned maps. Any change to a key, a value, a flag or a bound raises it: maps of
/// another version are left alone under their own folder and never reinterpreted. A map that is only added
/// raises nothing: programs find theirs by name.
pub const LAYOUT: u32 = 4;

/// Port that captured connections are rewritten to. Nothing binds it: `sk_lookup` recognises the
/// connection by its registered tuple and hands it to the outbound listener.
pub const OUTBOUND_CAPTURE_PORT: u16 = 15_001;

/// HBONE's port in every pod.
pub const HBONE_PORT: u16 = 15_008;

/// Port of resolvers (RFC 1035 section 4.2).
pub const DNS_PORT: u16 = 53;

/// Resolvers of one family that a pod's datagrams are captured for: the three that a resolver library
/// reads from `resolv.conf`, and one that somebody tries by hand. Datagrams to further ones go where
/// they were sent, and are counted. Changing it means unrolling [`crate::dns`] again.
pub const DNS_SLOTS: usize = 4;

/// Slots of one pod: family (2) x slot.
pub const DNS_RESOLVERS: usize = 2 * DNS_SLOTS;

/// Proxy threads with a listener of their own in each pod. More worker threads than this share
/// listeners.
pub const MAX_THREADS: u16 = 16;
// The same number as a size.
const THREADS: usize = 16;
const _: () = assert!(THREADS == 16 && MAX_THREADS == 16);

/// Slots of a pod's LISTENERS: kind (3) x family (2) x thread.
pub const LISTENER_SLOTS: usize = 3 * 2 * THREADS;

/// Registered connections of one pod: those that are being opened, since an entry goes when its
/// connection is accepted. About 100 bytes each, allocated when used, and 16 bytes each that every pod
/// takes. When full, a new outbound connection is dropped by `sk_lookup` and counted; other pods are not
/// affected.
pub const MAX_TUPLES: usize = 8_192;

/// Connections of the kubelet that are being opened; the least recently used entry makes room. An
/// evicted probe is judged like any other connection.
pub const MAX_PROBES: usize = 8_192;

/// Addresses and bypass prefixes of one pod. A larger set is refused when it is set.
pub const MAX_PREFIXES: usize = 1_024;

/// Ports of one pod that the kubelet may reach directly. Further ones are refused when set: probes
/// to them would be judged without identity.
pub const MAX_PROBE_PORTS: usize = 8;

/// Ports of one pod that are left alone, in each direction. Further ones are refused when set.
pub const MAX_EXCLUDED_PORTS: usize = 8;

/// Enrolled pods on a node. Enrolment of one more fails.
pub const MAX_PODS: usize = 4_096;

/// Entries of RESOLVERS: room for every slot of every pod.
pub const MAX_RESOLVERS: usize = MAX_PODS * DNS_RESOLVERS;

/// How long after its registration a tuple lets a connection pass, in nanoseconds of
/// `CLOCK_MONOTONIC`. Long enough for SYN retransmissions (1, 3 and 7 s), short enough that a leaked
/// entry is worth nothing.
pub const TUPLE_LIFETIME_NS: u64 = 10_000_000_000;

/// Mark of the proxy's own sockets in a pod.
pub const PROXY_MARK: u32 = 0x5752_0001;

/// Marks that equal [`PROXY_MARK`] under this mask may not be set by a pod.
pub const PROXY_MARK_MASK: u32 = 0xffff_0000;
