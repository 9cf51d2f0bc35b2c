//! What sockets carry. `aya-ebpf` reaches socket storage from `sock_addr` programs only, so the
//! `sock_ops` side calls the helper itself.

use core::ptr::{self, addr_of};

use aya_ebpf::{
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock_ops},
    helpers::generated::bpf_sk_storage_get,
    programs::SockAddrContext,
};
use ebpf_abi::{Role, SocketRole};
use ebpf_programs::access::read;

use crate::maps::SOCKETS;

/// Stores `role` on the socket that is being connected; `false` when the kernel has no memory for it.
#[inline(always)]
pub fn stamp(ctx: &SockAddrContext, role: SocketRole) -> bool {
    let mut initial = role;
    // SAFETY: the context's socket is valid while the program runs; storage is freed after it.
    unsafe {
        let stored = SOCKETS.get_or_insert_ptr_mut(ctx, Some(&mut initial));
        if stored.is_null() {
            return false;
        }
        *stored = role;
    }
    true
}

/// Takes the role off the socket that is being connected, if it is one of `whose`.
#[inline(always)]
pub fn clear_role(ctx: &SockAddrContext, whose: impl FnOnce(Role) -> bool) {
    // SAFETY: as in `stamp`.
    unsafe {
        let stored = SOCKETS.get_ptr_mut(ctx);
        if !stored.is_null() && whose((*stored).role) {
            (*stored).role = Role::NONE;
        }
    }
}

/// What the socket of a `getpeername` carries.
#[inline(always)]
pub fn of_address(ctx: &SockAddrContext) -> Option<SocketRole> {
    // SAFETY: as in `stamp`.
    unsafe {
        let stored = SOCKETS.get_ptr_mut(ctx);
        if stored.is_null() { None } else { Some(*stored) }
    }
}

/// What the socket of a `sock_ops` carries.
#[inline(always)]
pub fn of_ops(ops: *mut bpf_sock_ops) -> Option<SocketRole> {
    let stored = storage(ops, ptr::null_mut(), 0);
    // SAFETY: not null, hence a value of SOCKETS.
    if stored.is_null() { None } else { Some(unsafe { *stored }) }
}

/// Stores `role` on the socket of a `sock_ops`; `false` when the kernel has no memory for it.
#[inline(always)]
pub fn stamp_ops(ops: *mut bpf_sock_ops, role: SocketRole) -> bool {
    let mut initial = role;
    let stored = storage(ops, &raw mut initial, u64::from(BPF_SK_STORAGE_GET_F_CREATE));
    if stored.is_null() {
        return false;
    }
    // SAFETY: not null, hence a value of SOCKETS.
    unsafe { *stored = role };
    true
}

#[inline(always)]
fn storage(ops: *mut bpf_sock_ops, initial: *mut SocketRole, flags: u64) -> *mut SocketRole {
    // SAFETY: a field of the running program's context. The verifier demands the null check.
    unsafe {
        let socket = read(addr_of!((*ops).__bindgen_anon_2.sk));
        if socket.is_null() {
            return ptr::null_mut();
        }
        let map = ptr::from_ref(&SOCKETS).cast_mut().cast();
        bpf_sk_storage_get(map, socket.cast(), initial.cast(), flags).cast()
    }
}
