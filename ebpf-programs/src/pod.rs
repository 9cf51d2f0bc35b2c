//! Types of a pod's maps. `pod-netns` creates the maps; `pod-cgroup` finds them through outer maps,
//! so the definitions of both must agree to the flag (the kernel compares them at insertion).

use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray};
use ebpf_abi::{
    Address, Counter, MAX_PREFIXES, MAX_PROBES, MAX_TUPLES, PrefixFlags, Settings, Tuple, TupleKey,
};

/// `BPF_F_NO_PREALLOC`: memory is taken when an entry is, so that idle pods cost little.
pub const NO_PREALLOC: usize = 1;

/// Connections. Bound: [`MAX_TUPLES`]. Entries go when they are accepted, or when
/// their socket closes. When full: the connection
/// is counted and `sk_lookup` drops it.
pub type Tuples = HashMap<TupleKey, Tuple, MAX_TUPLES, NO_PREALLOC>;

/// The pod's addresses and bypass prefixes, keyed like [`ebpf_abi::PrefixKey`]. Written by the agent
/// only. Bound: [`MAX_PREFIXES`].
pub type Prefixes = LpmTrie<Address, PrefixFlags, MAX_PREFIXES>;

/// One element, written by the agent only.
pub type PodSettings = Array<Settings, 1>;

/// [`Counter`] by index.
pub type Counters = PerCpuArray<u64, { Counter::COUNT }>;

/// The kubelet's connections, one map for the node. Bound: [`MAX_PROBES`]; evicts the least recently
/// used.
pub type Probes = LruHashMap<TupleKey, Tuple, MAX_PROBES>;
