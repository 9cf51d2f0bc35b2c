//! Hooks of the agent's and the kubelet's cgroups. A role goes by the exact cgroup of the task that
//! connects, so a socket below such a cgroup, or one handed to another process, has none.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, bpf_sock_ops,
    },
    helpers::{bpf_get_current_cgroup_id, bpf_get_netns_cookie},
    programs::{SockAddrContext, SockOpsContext},
};
use ebpf_abi::{Counter, GlobalCounter, Role, Roles, SocketRole, Tuple};
use ebpf_programs::access::{insert, lookup, only, remove};

use crate::{
    connect::{ALLOW, is_tcp, prefix},
    maps::{POD_TUPLES, PROBES, ROLES, count, count_global},
    sock_ops::{DONE, Moment, accepted, forget, moment, netns_cookie, opened, tuple, watch_state},
    socket,
};

/// Never refuses: a socket without its role is judged like any other.
#[inline(always)]
pub fn connect(ctx: &SockAddrContext) -> i32 {
    if !is_tcp(ctx) {
        return ALLOW;
    }
    // SAFETY: ROLES is an array of one Roles; the helpers take the running program's context.
    let role = unsafe {
        let Some(roles) = only::<_, Roles>(&ROLES) else { return ALLOW };
        roles.as_ref().of(bpf_get_current_cgroup_id(), bpf_get_netns_cookie(ctx.as_ptr()))
    };
    if role == Role::NONE {
        // A pod's role stays: this hook also runs for cgroups below, after their own hooks.
        socket::clear_role(ctx, Role::is_host);
    } else if !socket::stamp(ctx, SocketRole { role, ..SocketRole::default() }) {
        count_global(GlobalCounter::RoleStorageFailed);
    }
    ALLOW
}

#[inline(always)]
pub fn sock_ops(ctx: &SockOpsContext) -> u32 {
    let ops = ctx.ops;
    match moment(ops) {
        Moment::Connect => register(ctx, ops),
        Moment::Closed => match socket::of_ops(ops).map_or(Role::NONE, |stored| stored.role) {
            Role::PROXY_TO_APP => forget(netns_cookie(ctx), &opened(ops)),
            // SAFETY: PROBES is keyed by tuples.
            Role::KUBELET => unsafe { remove(&PROBES, &opened(ops)) },
            _ => {}
        },
        Moment::Other(BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB) => inherit(ctx, ops),
        Moment::Other(BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB) => leave(ctx, ops),
        Moment::Other(_) => {}
    }
    DONE
}

#[inline(always)]
fn register(ctx: &SockOpsContext, ops: *mut bpf_sock_ops) {
    let Some(stored) = socket::of_ops(ops) else { return };
    match stored.role {
        Role::PROXY_TO_APP => {
            let cookie = netns_cookie(ctx);
            // SAFETY: the inner map holds tuples. Outside pods there is nothing to pass.
            let Some(map) = (unsafe { POD_TUPLES.get(&cookie) }) else { return };
            if unsafe { insert(map, &opened(ops), &tuple(stored)) } {
                watch_state(ops);
            } else {
                count(cookie, Counter::TupleInsertFailed);
            }
        }
        Role::KUBELET => {
            // SAFETY: PROBES holds tuples.
            if unsafe { insert(&PROBES, &opened(ops), &tuple(stored)) } {
                watch_state(ops);
            } else {
                count_global(GlobalCounter::ProbeInsertFailed);
            }
        }
        _ => {}
    }
}

/// A connection that the proxy opened is established. One that left the pod is accepted where nobody knows
/// this registry. One to the pod's own address goes when the application accepts it, which may come later.
#[inline(always)]
fn leave(ctx: &SockOpsContext, ops: *mut bpf_sock_ops) {
    if socket::of_ops(ops).is_some_and(|stored| stored.role == Role::PROXY_TO_APP) {
        let (cookie, key) = (netns_cookie(ctx), opened(ops));
        if !prefix(cookie, &key.local).is_own() {
            forget(cookie, &key);
        }
    }
}

/// The proxy's accepted socket takes over the original destination of the connection it accepted, and the
/// registry entry has done its work.
#[inline(always)]
fn inherit(ctx: &SockOpsContext, ops: *mut bpf_sock_ops) {
    let key = accepted(ops);
    // SAFETY: the inner map holds tuples.
    let found = unsafe {
        let Some(map) = POD_TUPLES.get(&netns_cookie(ctx)) else { return };
        let found = lookup::<_, _, Tuple>(map, &key).map(|tuple| *tuple.as_ptr());
        if found.is_some() {
            remove(map, &key);
        }
        found
    };
    if let Some(tuple) = found
        && tuple.role == Role::OUTBOUND
    {
        let stored = SocketRole {
            role: Role::OUTBOUND,
            original_port: tuple.original_port,
            reserved: 0,
            original: tuple.original,
        };
        if !socket::stamp_ops(ops, stored) {
            count_global(GlobalCounter::RoleStorageFailed);
        }
    }
}
