//! Hooks on cgroups, loaded once and shared: those of pods (capture), on each pod's own cgroup or on the root,
//! and those of the agent and the kubelet (roles). Which pod a socket belongs to is told by its network namespace's cookie.
#![no_std]
#![no_main]

mod connect;
mod datagram;
mod maps;
mod peer;
mod role;
mod root;
mod sock_ops;
mod socket;
mod sockopt;

use aya_ebpf::{
    macros::{cgroup_sock_addr, cgroup_sockopt, sock_ops},
    programs::{SockAddrContext, SockOpsContext, SockoptContext},
};

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    connect::v4(&ctx)
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    connect::v6(&ctx)
}

#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    peer::v4(&ctx)
}

#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    peer::v6(&ctx)
}

#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    datagram::send_v4(&ctx)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    datagram::send_v6(&ctx)
}

#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    datagram::receive_v4(&ctx)
}

#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    datagram::receive_v6(&ctx)
}

#[cgroup_sockopt(setsockopt)]
pub fn setsockopt(ctx: SockoptContext) -> i32 {
    sockopt::set(&ctx)
}

#[sock_ops]
pub fn sock_ops(ctx: SockOpsContext) -> u32 {
    sock_ops::pod(&ctx)
}

#[cgroup_sock_addr(connect4)]
pub fn role_connect4(ctx: SockAddrContext) -> i32 {
    role::connect(&ctx)
}

#[cgroup_sock_addr(connect6)]
pub fn role_connect6(ctx: SockAddrContext) -> i32 {
    role::connect(&ctx)
}

#[sock_ops]
pub fn role_sock_ops(ctx: SockOpsContext) -> u32 {
    role::sock_ops(&ctx)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// Helpers that only GPL programs may call are not used.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 11] = *b"Apache-2.0\0";
