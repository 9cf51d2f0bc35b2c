//! `sk_lookup` of one pod: every incoming TCP connection goes to a listener of the proxy, except those
//! that the registry vouches for.
#![no_std]
#![no_main]

mod maps;
mod steer;

use aya_ebpf::{macros::sk_lookup, programs::SkLookupContext};

#[sk_lookup]
pub fn steer(ctx: SkLookupContext) -> u32 {
    steer::steer(&ctx)
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
