//! Map access and context reads, in the form the verifier accepts.

use core::ptr::{self, NonNull};

use aya_ebpf::helpers::{
    bpf_ktime_get_ns, bpf_map_delete_elem, bpf_map_lookup_elem, bpf_map_update_elem,
};
use ebpf_abi::{Address, Be32};

/// Update flag: insert or replace (`BPF_ANY`).
const ANY: u64 = 0;
/// Update flag: insert, unless there is one (`BPF_NOEXIST`).
const NEW: u64 = 1;

/// Looks `key` up in a map, also in an inner map that an outer one returned.
///
/// # Safety
///
/// `K` and `V` are the map's key and value types. The entry may be deleted and, in maps without
/// preallocation, freed after the program; it may be written concurrently.
#[inline(always)]
pub unsafe fn lookup<M, K, V>(map: &M, key: &K) -> Option<NonNull<V>> {
    let map = ptr::from_ref(map).cast_mut().cast();
    // SAFETY: `map` is a map that the loader relocated or the kernel returned.
    NonNull::new(unsafe { bpf_map_lookup_elem(map, ptr::from_ref(key).cast()) }.cast())
}

/// The only element of an array.
///
/// # Safety
///
/// As [`lookup`], for an array of one `V`.
#[inline(always)]
pub unsafe fn only<M, V>(map: &M) -> Option<NonNull<V>> {
    // A variable and not `&0`: the linker may store such a constant in the same place as a global
    // with the same initial value, and the loader then changes both.
    let index = 0u32;
    // SAFETY: upheld by the caller.
    unsafe { lookup(map, &index) }
}

/// Inserts or replaces an entry; `false` when the kernel refuses (the map is full, no memory).
///
/// # Safety
///
/// `K` and `V` are the map's key and value types.
#[inline(always)]
pub unsafe fn insert<M, K, V>(map: &M, key: &K, value: &V) -> bool {
    // SAFETY: upheld by the caller.
    unsafe { update(map, key, value, ANY) }
}

/// Inserts an entry; `false` when there is one, or when the kernel refuses.
///
/// # Safety
///
/// `K` and `V` are the map's key and value types.
#[inline(always)]
pub unsafe fn insert_new<M, K, V>(map: &M, key: &K, value: &V) -> bool {
    // SAFETY: upheld by the caller.
    unsafe { update(map, key, value, NEW) }
}

/// # Safety
///
/// `K` and `V` are the map's key and value types.
#[inline(always)]
unsafe fn update<M, K, V>(map: &M, key: &K, value: &V, flags: u64) -> bool {
    let map = ptr::from_ref(map).cast_mut().cast();
    let (key, value) = (ptr::from_ref(key).cast(), ptr::from_ref(value).cast());
    // SAFETY: as in `lookup`; key and value are initialised and have no padding (`Plain`).
    unsafe { bpf_map_update_elem(map, key, value, flags) == 0 }
}

/// Removes an entry, if it is there.
///
/// # Safety
///
/// `K` is the map's key type.
#[inline(always)]
pub unsafe fn remove<M, K>(map: &M, key: &K) {
    let map = ptr::from_ref(map).cast_mut().cast();
    // SAFETY: as in `lookup`. A missing entry is fine.
    unsafe { bpf_map_delete_elem(map, ptr::from_ref(key).cast()) };
}

/// Adds one to the element `index` of an array of `u64` per CPU.
///
/// # Safety
///
/// The map is such an array.
#[inline(always)]
pub unsafe fn increment<M>(map: &M, index: u32) {
    // SAFETY: the element belongs to this CPU while the program runs.
    if let Some(counter) = unsafe { lookup::<M, u32, u64>(map, &index) } {
        unsafe { *counter.as_ptr() += 1 };
    }
}

/// `CLOCK_MONOTONIC` in nanoseconds.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: takes nothing, reads a clock.
    unsafe { bpf_ktime_get_ns() }
}

/// Reads a field of a context.
///
/// # Safety
///
/// `field` points into the context of the running program, to a field that it may read.
#[inline(always)]
pub unsafe fn read<T: Copy>(field: *const T) -> T {
    // SAFETY: upheld by the caller. Volatile keeps the access at its width and offset.
    unsafe { ptr::read_volatile(field) }
}

/// Writes a field of a context.
///
/// # Safety
///
/// As [`read`], for a field that the program may write.
#[inline(always)]
pub unsafe fn write<T: Copy>(field: *mut T, value: T) {
    // SAFETY: upheld by the caller.
    unsafe { ptr::write_volatile(field, value) }
}

/// Reads an IPv6 address of a context.
///
/// # Safety
///
/// As [`read`], for four consecutive words.
#[inline(always)]
pub unsafe fn read_v6(words: *const [u32; 4]) -> Address {
    let words = words.cast::<u32>();
    // SAFETY: upheld by the caller.
    unsafe {
        Address::from_words([
            Be32::from_raw(read(words)),
            Be32::from_raw(read(words.add(1))),
            Be32::from_raw(read(words.add(2))),
            Be32::from_raw(read(words.add(3))),
        ])
    }
}

/// Writes an IPv6 address into a context.
///
/// # Safety
///
/// As [`write`], for four consecutive words.
#[inline(always)]
pub unsafe fn write_v6(words: *mut [u32; 4], address: &Address) {
    let words = words.cast::<u32>();
    // SAFETY: upheld by the caller.
    unsafe {
        write(words, address.words[0].raw());
        write(words.add(1), address.words[1].raw());
        write(words.add(2), address.words[2].raw());
        write(words.add(3), address.words[3].raw());
    }
}
