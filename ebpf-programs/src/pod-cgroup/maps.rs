//! The node's maps: pods' maps by namespace cookie, roles, and what sockets carry. All are pinned and
//! outlive the agent.

use aya_ebpf::{
    Global,
    btf_maps::{Array, HashMap, HashOfMaps, PerCpuArray, SkStorage},
    macros::btf_map,
};
use ebpf_abi::{
    Address, Counter, GlobalCounter, MAX_PODS, MAX_RESOLVERS, Roles, SocketRole, dns::ResolverKey,
};
use ebpf_programs::{
    access::increment,
    pod::{Counters, NO_PREALLOC, PodSettings, Prefixes, Probes, Tuples},
};

/// A pod's TUPLES by namespace cookie. Bound: [`MAX_PODS`]; enrolment of one more fails.
#[btf_map]
pub static POD_TUPLES: HashOfMaps<u64, Tuples, MAX_PODS> = HashOfMaps::new();

/// A pod's PREFIXES by namespace cookie.
#[btf_map]
pub static POD_PREFIXES: HashOfMaps<u64, Prefixes, MAX_PODS> = HashOfMaps::new();

/// A pod's SETTINGS by namespace cookie.
#[btf_map]
pub static POD_SETTINGS: HashOfMaps<u64, PodSettings, MAX_PODS> = HashOfMaps::new();

/// A pod's COUNTERS by namespace cookie.
#[btf_map]
pub static POD_COUNTERS: HashOfMaps<u64, Counters, MAX_PODS> = HashOfMaps::new();

/// Who has which slot of which pod ([`ebpf_abi::dns`]). Bound: [`MAX_RESOLVERS`], never reached: a pod
/// has a fixed number of slots. Memory is taken when an entry is; the agent deletes those of a pod that
/// leaves.
#[btf_map]
pub static RESOLVERS: HashMap<ResolverKey, Address, MAX_RESOLVERS, NO_PREALLOC> = HashMap::new();

/// Who has a role; one element.
#[btf_map]
pub static ROLES: Array<Roles, 1> = Array::new();

/// Id of the cgroup in which the self-test plays a stranger; one element, zero for none. Not a constant: hooks
/// on the root may be an earlier agent's, and its cgroup another one.
#[btf_map]
pub static NEUTRAL: Array<u64, 1> = Array::new();

/// What a socket carries: freed with the socket, bounded by its option memory.
#[btf_map]
pub static SOCKETS: SkStorage<SocketRole> = SkStorage::new();

/// The kubelet's connections.
#[btf_map]
pub static PROBES: Probes = Probes::new();

/// [`GlobalCounter`] by index.
#[btf_map]
pub static GLOBALS: PerCpuArray<u64, { GlobalCounter::COUNT }> = PerCpuArray::new();

/// Not zero: the pods' hooks are on the root of the hierarchy and see the sockets of the whole node. Set when
/// loading; with zero the verifier removes what is only for that.
#[unsafe(no_mangle)]
pub static AT_ROOT: Global<u32> = Global::new(0);

#[inline(always)]
pub fn count(cookie: u64, counter: Counter) {
    // SAFETY: the inner map is an array of u64 per CPU.
    unsafe {
        if let Some(counters) = POD_COUNTERS.get(&cookie) {
            increment(counters, counter.index());
        }
    }
}

#[inline(always)]
pub fn count_global(counter: GlobalCounter) {
    // SAFETY: GLOBALS is an array of u64 per CPU.
    unsafe { increment(&GLOBALS, counter.index()) };
}
