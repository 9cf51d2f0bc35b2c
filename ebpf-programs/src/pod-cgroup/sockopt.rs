//! `setsockopt` of a pod: refuses what would let a socket pass for the proxy's. Everything else goes
//! through untouched, and on the root whatever is no pod's.

use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::{EbpfContext as _, helpers::bpf_get_netns_cookie, programs::SockoptContext};
use ebpf_abi::{Counter, PROXY_MARK, PROXY_MARK_MASK};
use ebpf_programs::access::{read, write};

use crate::{connect::settings, maps::count, root};

const REFUSE: i32 = 0;
const ALLOW: i32 = 1;

const SOL_IP: i32 = 0;
const SOL_SOCKET: i32 = 1;
const SOL_IPV6: i32 = 41;
const IP_TRANSPARENT: i32 = 19;
const SO_MARK: i32 = 36;
const IPV6_TRANSPARENT: i32 = 75;

/// Longest option that the kernel is sure to hand over whole. For longer ones kernels before 6.5 fail
/// the call unless the program sets the length to zero, which means "use the caller's own buffer"
/// (Documentation/bpf/prog_cgroup_sockopt.rst).
const PAGE: i32 = 4096;

#[inline(always)]
pub fn set(ctx: &SockoptContext) -> i32 {
    let raw = ctx.sockopt;
    // SAFETY: fields of the running program's context.
    let (level, name, length) = unsafe {
        (
            read(addr_of!((*raw).level)),
            read(addr_of!((*raw).optname)),
            read(addr_of!((*raw).optlen)),
        )
    };
    let refused = match (level, name) {
        (SOL_SOCKET, SO_MARK) => is_proxy_mark(ctx),
        (SOL_IP, IP_TRANSPARENT) | (SOL_IPV6, IPV6_TRANSPARENT) => true,
        _ => false,
    };
    if refused {
        // SAFETY: the helper takes the running program's context.
        let cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
        if !root::is_here() || (settings(cookie).is_some() && !root::is_exempt()) {
            count(cookie, Counter::SockoptRefused);
            return REFUSE;
        }
    }
    if length > PAGE {
        // SAFETY: setsockopt programs may write the length.
        unsafe { write(addr_of_mut!((*raw).optlen), 0) };
    }
    ALLOW
}

/// Whether the option's value is in the proxy's range of marks. A value that cannot be read counts.
#[inline(always)]
fn is_proxy_mark(ctx: &SockoptContext) -> bool {
    let raw = ctx.sockopt;
    // SAFETY: fields of the running program's context; the bounds check is the one that the verifier
    // wants to see before the value is read.
    unsafe {
        let value = read(addr_of!((*raw).__bindgen_anon_2.optval)).cast::<u32>();
        let end = read(addr_of!((*raw).__bindgen_anon_3.optval_end)).cast::<u32>();
        if value.wrapping_add(1) > end {
            return true;
        }
        *value & PROXY_MARK_MASK == PROXY_MARK & PROXY_MARK_MASK
    }
}
