//! The maps of one pod. All but PROBES are created by loading this object and pinned under the pod;
//! PROBES is the node's, reused by its pin.

use aya_ebpf::{Global, btf_maps::SockMap, macros::btf_map};
use ebpf_abi::LISTENER_SLOTS;
use ebpf_programs::pod::{Counters, PodSettings, Prefixes, Probes, Tuples};

#[btf_map]
pub static TUPLES: Tuples = Tuples::new();

#[btf_map]
pub static PREFIXES: Prefixes = Prefixes::new();

#[btf_map]
pub static SETTINGS: PodSettings = PodSettings::new();

#[btf_map]
pub static COUNTERS: Counters = Counters::new();

/// The proxy's listening sockets by `ebpf_abi::slot::slot`. An entry goes when its socket closes; an
/// empty slot drops.
#[btf_map]
pub static LISTENERS: SockMap<LISTENER_SLOTS> = SockMap::new();

#[btf_map]
pub static PROBES: Probes = Probes::new();

/// Whether the context has `ingress_ifindex` (5.17). Set when loading; with zero the verifier removes
/// the read, which older kernels would refuse.
#[unsafe(no_mangle)]
pub static HAS_INGRESS: Global<u32> = Global::new(0);
