//! `getpeername` of a pod: shows the destination that the application dialled. The agent's accepted sockets carry
//! that, too, and it sees who has dialled them.

use core::ptr::addr_of_mut;

use aya_ebpf::programs::SockAddrContext;
use ebpf_programs::access::{write, write_v6};

use crate::{connect::ALLOW, root, socket};

#[inline(always)]
pub fn v4(ctx: &SockAddrContext) -> i32 {
    if let Some(stored) = socket::of_address(ctx)
        && stored.role.is_rewritten()
        && !root::is_exempt()
    {
        let raw = ctx.sock_addr;
        // SAFETY: fields of the running program's context; getpeername4 may write these.
        unsafe {
            write(addr_of_mut!((*raw).user_ip4), stored.original.v4().raw());
            write(addr_of_mut!((*raw).user_port), u32::from(stored.original_port.raw()));
        }
    }
    ALLOW
}

#[inline(always)]
pub fn v6(ctx: &SockAddrContext) -> i32 {
    if let Some(stored) = socket::of_address(ctx)
        && stored.role.is_rewritten()
        && !root::is_exempt()
    {
        let raw = ctx.sock_addr;
        // SAFETY: fields of the running program's context; getpeername6 may write these.
        unsafe {
            write_v6(addr_of_mut!((*raw).user_ip6), &stored.original);
            write(addr_of_mut!((*raw).user_port), u32::from(stored.original_port.raw()));
        }
    }
    ALLOW
}
