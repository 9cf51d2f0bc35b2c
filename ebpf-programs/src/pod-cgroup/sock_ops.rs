//! `sock_ops` of a pod: registers a connection before its SYN leaves, forgets it when it is accepted, or when
//! its socket closes. The kernel ignores what a program returns at connect, so a failed registration is counted
//! here and the connection dropped by `sk_lookup`.

use core::ptr::addr_of;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
        BPF_SOCK_OPS_TCP_CONNECT_CB, bpf_sock_ops,
    },
    helpers::{bpf_get_netns_cookie, bpf_sock_ops_cb_flags_set},
    programs::SockOpsContext,
};
use ebpf_abi::{Address, Be16, Be32, Counter, GlobalCounter, SocketRole, Tuple, TupleKey};
use ebpf_programs::access::{insert, now_ns, read, read_v6, remove};

use crate::{
    maps::{POD_TUPLES, count, count_global},
    socket,
};

/// Return value of a `sock_ops` program that has no opinion.
pub const DONE: u32 = 1;

const AF_INET: u32 = 2;
/// `TCP_CLOSE` in the kernel's numbering.
const TCP_CLOSE: u32 = 7;

/// The moments that matter.
pub enum Moment {
    Connect,
    Closed,
    Other(u32),
}

#[inline(always)]
pub fn pod(ctx: &SockOpsContext) -> u32 {
    let ops = ctx.ops;
    match moment(ops) {
        Moment::Connect => {
            if let Some(stored) = socket::of_ops(ops)
                && stored.role.is_pod()
            {
                let cookie = netns_cookie(ctx);
                // SAFETY: the inner map holds tuples.
                match unsafe { POD_TUPLES.get(&cookie) } {
                    Some(map) => {
                        if unsafe { insert(map, &opened(ops), &tuple(stored)) } {
                            watch_state(ops);
                        } else {
                            count(cookie, Counter::TupleInsertFailed);
                        }
                    }
                    None => count_global(GlobalCounter::UnregisteredNetns),
                }
            }
        }
        Moment::Closed => {
            if let Some(stored) = socket::of_ops(ops)
                && stored.role.is_pod()
            {
                forget(netns_cookie(ctx), &opened(ops));
            }
        }
        // From now on the kernel finds the connection by its own tuple, so nobody asks the registry.
        Moment::Other(BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB) => {
            forget(netns_cookie(ctx), &accepted(ops));
        }
        Moment::Other(_) => {}
    }
    DONE
}

#[inline(always)]
pub fn moment(ops: *mut bpf_sock_ops) -> Moment {
    // SAFETY: fields of the running program's context. At a state change the second argument is the
    // new state.
    unsafe {
        match read(addr_of!((*ops).op)) {
            BPF_SOCK_OPS_TCP_CONNECT_CB => Moment::Connect,
            BPF_SOCK_OPS_STATE_CB => {
                let state = read(addr_of!((*ops).__bindgen_anon_1.args).cast::<u32>().add(1));
                if state == TCP_CLOSE { Moment::Closed } else { Moment::Other(0) }
            }
            other => Moment::Other(other),
        }
    }
}

#[inline(always)]
pub fn netns_cookie(ctx: &SockOpsContext) -> u64 {
    // SAFETY: the helper takes the running program's context.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}

/// Registry entry for a connection that is being opened.
#[inline(always)]
pub fn tuple(stored: SocketRole) -> Tuple {
    Tuple {
        role: stored.role,
        original_port: stored.original_port,
        reserved: 0,
        original: stored.original,
        opened_ns: now_ns(),
    }
}

/// Removes a connection that is established, or was never.
#[inline(always)]
pub fn forget(cookie: u64, key: &TupleKey) {
    // SAFETY: the inner map is keyed by tuples.
    unsafe {
        if let Some(map) = POD_TUPLES.get(&cookie) {
            remove(map, key);
        }
    }
}

/// Asks for state changes of this socket, beside what other programs asked for.
#[inline(always)]
pub fn watch_state(ops: *mut bpf_sock_ops) {
    // SAFETY: a field and a helper of the running program's context. It fails for sockets that are
    // not full ones, which do not connect.
    unsafe {
        let flags = read(addr_of!((*ops).bpf_sock_ops_cb_flags)) | BPF_SOCK_OPS_STATE_CB_FLAG;
        bpf_sock_ops_cb_flags_set(ops, flags as i32);
    }
}

/// A connection that this socket opens, as the receiver of its SYN sees it.
#[inline(always)]
pub fn opened(ops: *mut bpf_sock_ops) -> TupleKey {
    let (ours, theirs) = ends(ops);
    TupleKey {
        remote: ours.address,
        local: theirs.address,
        remote_port: ours.port,
        local_port: theirs.port,
    }
}

/// A connection that this socket accepted, under the key that its opener registered.
#[inline(always)]
pub fn accepted(ops: *mut bpf_sock_ops) -> TupleKey {
    let (ours, theirs) = ends(ops);
    TupleKey {
        remote: theirs.address,
        local: ours.address,
        remote_port: theirs.port,
        local_port: ours.port,
    }
}

struct End {
    address: Address,
    port: Be16,
}

#[inline(always)]
fn ends(ops: *mut bpf_sock_ops) -> (End, End) {
    // All are read before the family is looked at, see `pod-netns`.
    // SAFETY: fields of the running program's context. `local_port` is in host order, `remote_port`
    // in network order in the upper half of its word.
    let (v4, our_port, their_port, ours4, theirs4, ours6, theirs6) = unsafe {
        (
            read(addr_of!((*ops).family)) == AF_INET,
            Be16::new(read(addr_of!((*ops).local_port)) as u16),
            Be16::from_raw((read(addr_of!((*ops).remote_port)) >> 16) as u16),
            Be32::from_raw(read(addr_of!((*ops).local_ip4))),
            Be32::from_raw(read(addr_of!((*ops).remote_ip4))),
            read_v6(addr_of!((*ops).local_ip6)),
            read_v6(addr_of!((*ops).remote_ip6)),
        )
    };
    // An IPv6 socket that dialled a v4-mapped address sends IPv4 packets.
    let (ours, theirs) = if v4 || theirs6.is_v4() {
        (Address::from_v4(ours4), Address::from_v4(theirs4))
    } else {
        (ours6, theirs6)
    };
    (End { address: ours, port: our_port }, End { address: theirs, port: their_port })
}
