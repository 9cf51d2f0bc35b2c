//! Reads the context, asks `ebpf_abi::steer`, assigns a listener.

use core::ptr::addr_of;

use aya_ebpf::{
    bindings::{
        bpf_sk_lookup,
        sk_action::{SK_DROP, SK_PASS},
    },
    programs::SkLookupContext,
};
use ebpf_abi::{
    Address, Be16, Be32, Counter, Family, PrefixFlags, PrefixKey, Settings, Tuple, TupleKey,
    slot::{slot, thread_of},
    steer::{Ingress, Registry, Steer, decide},
};
use ebpf_programs::access::{increment, lookup, now_ns, only, read, read_v6};

use crate::maps::{COUNTERS, HAS_INGRESS, LISTENERS, PREFIXES, PROBES, SETTINGS, TUPLES};

const IPPROTO_TCP: u32 = 6;
const AF_INET: u32 = 2;
/// Index of the loopback device in every network namespace.
const LOOPBACK_IFINDEX: u32 = 1;
/// `BPF_SK_LOOKUP_F_NO_REUSEPORT`: the slot's socket itself, not one of its reuseport group.
const NO_REUSEPORT: u64 = 2;

struct Maps<'a> {
    key: &'a TupleKey,
}

impl Registry for Maps<'_> {
    #[inline(always)]
    fn tuple(&self) -> Option<Tuple> {
        // SAFETY: types as in `maps`.
        unsafe { lookup::<_, _, Tuple>(&TUPLES, self.key).map(|tuple| *tuple.as_ptr()) }
    }

    #[inline(always)]
    fn probe(&self) -> Option<Tuple> {
        // SAFETY: types as in `maps`.
        unsafe { lookup::<_, _, Tuple>(&PROBES, self.key).map(|tuple| *tuple.as_ptr()) }
    }

    #[inline(always)]
    fn prefix(&self, address: &Address) -> PrefixFlags {
        let key = PrefixKey::host(*address);
        // SAFETY: PrefixKey has the layout of the trie's key.
        unsafe { lookup::<_, _, PrefixFlags>(&PREFIXES, &key) }
            .map_or(PrefixFlags::NONE, |flags| unsafe { *flags.as_ptr() })
    }
}

#[inline(always)]
pub fn steer(ctx: &SkLookupContext) -> u32 {
    let lookup_ctx = ctx.lookup;
    // SAFETY: fields of the running program's context.
    if unsafe { read(addr_of!((*lookup_ctx).protocol)) } != IPPROTO_TCP {
        return SK_PASS;
    }
    let (family, key) = connection(lookup_ctx);
    // SAFETY: SETTINGS is an array of one Settings; the element always exists.
    let Some(settings) = (unsafe { only::<_, Settings>(&SETTINGS) }) else {
        return SK_DROP;
    };
    let settings = unsafe { settings.as_ref() };
    let ingress = ingress(lookup_ctx);
    match decide(&key, ingress, settings, now_ns(), &Maps { key: &key }) {
        Steer::Pass(counter) => {
            count(counter);
            SK_PASS
        }
        Steer::Drop(counter) => {
            count(counter);
            SK_DROP
        }
        Steer::Assign(kind, counter) => {
            let threads = settings.threads;
            let index = slot(kind, family, thread_of(&key, threads));
            if threads == 0 || LISTENERS.redirect_sk_lookup(ctx, index, NO_REUSEPORT).is_err() {
                count(Counter::DroppedNoListener);
                return SK_DROP;
            }
            count(counter);
            SK_PASS
        }
    }
}

#[inline(always)]
fn connection(ctx: *mut bpf_sk_lookup) -> (Family, TupleKey) {
    // Everything is read before the family is looked at: reads in two branches get merged into one
    // with a computed offset, which the verifier refuses. Fields of the other family read as zero.
    // SAFETY: fields of the running program's context. `remote_port` is two bytes in network order
    // followed by padding, `local_port` a word in host order.
    let (v4, remote_port, local_port, remote4, local4, remote6, local6) = unsafe {
        (
            read(addr_of!((*ctx).family)) == AF_INET,
            Be16::from_raw(read(addr_of!((*ctx).remote_port))),
            Be16::new(read(addr_of!((*ctx).local_port)) as u16),
            Be32::from_raw(read(addr_of!((*ctx).remote_ip4))),
            Be32::from_raw(read(addr_of!((*ctx).local_ip4))),
            read_v6(addr_of!((*ctx).remote_ip6)),
            read_v6(addr_of!((*ctx).local_ip6)),
        )
    };
    if v4 {
        let (remote, local) = (Address::from_v4(remote4), Address::from_v4(local4));
        return (Family::V4, TupleKey { remote, local, remote_port, local_port });
    }
    (Family::V6, TupleKey { remote: remote6, local: local6, remote_port, local_port })
}

#[inline(always)]
fn ingress(ctx: *mut bpf_sk_lookup) -> Ingress {
    if HAS_INGRESS.load() == 0 {
        return Ingress::Unknown;
    }
    // SAFETY: a field of the running program's context, on kernels that have it.
    if unsafe { read(addr_of!((*ctx).ingress_ifindex)) } == LOOPBACK_IFINDEX {
        Ingress::Loopback
    } else {
        Ingress::Other
    }
}

#[inline(always)]
fn count(counter: Counter) {
    // SAFETY: COUNTERS is an array of u64 per CPU.
    unsafe { increment(&COUNTERS, counter.index()) };
}
