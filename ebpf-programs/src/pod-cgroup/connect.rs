//! `connect` of a pod's TCP sockets: asks `ebpf_abi::connect`, rewrites the destination, remembers the original.

use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::{EbpfContext as _, helpers::bpf_get_netns_cookie, programs::SockAddrContext};
use ebpf_abi::{
    Address, Be16, Be32, Counter, PrefixFlags, PrefixKey, Role, Settings, SocketRole,
    connect::{Connect, decide, is_captured},
};
use ebpf_programs::access::{lookup, only, read, read_v6, write, write_v6};

use crate::{
    datagram,
    maps::{POD_PREFIXES, POD_SETTINGS, count, count_global},
    root, socket,
};

const DENY: i32 = 0;
pub const ALLOW: i32 = 1;

const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;
const IPPROTO_MPTCP: u32 = 262;

/// Where a captured connection or datagram goes instead.
pub struct Rewrite {
    pub address: Address,
    pub port: Be16,
}

pub enum Outcome {
    Allow,
    Deny,
    Rewrite(Rewrite),
}

#[inline(always)]
pub fn v4(ctx: &SockAddrContext) -> i32 {
    let raw = ctx.sock_addr;
    // SAFETY: fields of the running program's context; connect4 may read and write these.
    let address = unsafe { Address::from_v4(Be32::from_raw(read(addr_of!((*raw).user_ip4)))) };
    apply_v4(ctx, &capture(ctx, &address))
}

#[inline(always)]
pub fn v6(ctx: &SockAddrContext) -> i32 {
    let raw = ctx.sock_addr;
    // SAFETY: fields of the running program's context; connect6 may read and write these.
    let address = unsafe { read_v6(addr_of!((*raw).user_ip6)) };
    apply_v6(ctx, &capture(ctx, &address))
}

/// The result of a program that may rewrite an IPv4 address.
#[inline(always)]
pub fn apply_v4(ctx: &SockAddrContext, outcome: &Outcome) -> i32 {
    let raw = ctx.sock_addr;
    match outcome {
        Outcome::Allow => ALLOW,
        Outcome::Deny => DENY,
        Outcome::Rewrite(to) => {
            // SAFETY: fields of the running program's context; connect4 and sendmsg4 may write these.
            unsafe {
                write(addr_of_mut!((*raw).user_ip4), to.address.v4().raw());
                write(addr_of_mut!((*raw).user_port), u32::from(to.port.raw()));
            }
            ALLOW
        }
    }
}

/// The result of a program that may rewrite an IPv6 address.
#[inline(always)]
pub fn apply_v6(ctx: &SockAddrContext, outcome: &Outcome) -> i32 {
    let raw = ctx.sock_addr;
    match outcome {
        Outcome::Allow => ALLOW,
        Outcome::Deny => DENY,
        Outcome::Rewrite(to) => {
            // SAFETY: fields of the running program's context; connect6 and sendmsg6 may write these.
            unsafe {
                write_v6(addr_of_mut!((*raw).user_ip6), &to.address);
                write(addr_of_mut!((*raw).user_port), u32::from(to.port.raw()));
            }
            ALLOW
        }
    }
}

/// Whether the socket that is being connected speaks TCP.
#[inline(always)]
pub fn is_tcp(ctx: &SockAddrContext) -> bool {
    // SAFETY: a field of the running program's context.
    let protocol = unsafe { read(addr_of!((*ctx.sock_addr).protocol)) };
    protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP
}

/// The port that is being connected or sent to.
#[inline(always)]
pub fn port(ctx: &SockAddrContext) -> Be16 {
    // SAFETY: a field of the running program's context; network order in the low half.
    Be16::from_raw(unsafe { read(addr_of!((*ctx.sock_addr).user_port)) as u16 })
}

/// Whether the socket is one for datagrams.
#[inline(always)]
pub fn is_udp(ctx: &SockAddrContext) -> bool {
    // SAFETY: a field of the running program's context.
    unsafe { read(addr_of!((*ctx.sock_addr).protocol)) == IPPROTO_UDP }
}

#[inline(always)]
fn capture(ctx: &SockAddrContext, destination: &Address) -> Outcome {
    if !is_tcp(ctx) {
        return if is_udp(ctx) { datagram::connect(ctx, destination) } else { Outcome::Allow };
    }
    let port = port(ctx);
    // SAFETY: the helper takes the running program's context.
    let cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    let settings = settings(cookie);
    if let Some(settings) = settings
        && root::is_here()
    {
        let stored = socket::of_address(ctx).map_or(Role::NONE, |stored| stored.role);
        if root::is_exempt() || is_captured(destination, port.get(), settings, stored) {
            return Outcome::Allow;
        }
    }
    let prefix = |address: &Address| prefix(cookie, address);
    match decide(destination, port.get(), settings, root::hooked(), prefix) {
        Connect::Leave => {
            // The socket may have been connected before, with a role.
            socket::clear_role(ctx, Role::is_pod);
            Outcome::Allow
        }
        Connect::SelfCall => {
            let role = SocketRole { role: Role::SELF_CALL, ..SocketRole::default() };
            if !socket::stamp(ctx, role) {
                count(cookie, Counter::DeniedStorage);
                return Outcome::Deny;
            }
            count(cookie, Counter::SelfCall);
            Outcome::Allow
        }
        Connect::Capture(address) => {
            let role = SocketRole {
                role: Role::OUTBOUND,
                original_port: port,
                reserved: 0,
                original: *destination,
            };
            if !socket::stamp(ctx, role) {
                count(cookie, Counter::DeniedStorage);
                return Outcome::Deny;
            }
            count(cookie, Counter::Captured);
            let port = settings.map_or(0, |settings| settings.capture_port);
            Outcome::Rewrite(Rewrite { address, port: Be16::new(port) })
        }
        Connect::Deny(counter) => {
            count(cookie, counter);
            Outcome::Deny
        }
        Connect::DenyUnknown(counter) => {
            count_global(counter);
            Outcome::Deny
        }
    }
}

#[inline(always)]
pub fn settings(cookie: u64) -> Option<&'static Settings> {
    // SAFETY: the inner map is an array of one Settings, alive while the program runs.
    unsafe {
        let map = POD_SETTINGS.get(&cookie)?;
        only::<_, Settings>(map).map(|settings| settings.as_ref())
    }
}

#[inline(always)]
pub fn prefix(cookie: u64, address: &Address) -> PrefixFlags {
    let key = PrefixKey::host(*address);
    // SAFETY: PrefixKey has the layout of the trie's key.
    unsafe {
        let Some(map) = POD_PREFIXES.get(&cookie) else { return PrefixFlags::NONE };
        lookup::<_, _, PrefixFlags>(map, &key).map_or(PrefixFlags::NONE, |flags| *flags.as_ptr())
    }
}
