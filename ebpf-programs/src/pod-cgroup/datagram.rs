//! A pod's questions to its resolvers: asks `ebpf_abi::dns`, rewrites the destination to the proxy's
//! socket on the way out, and the source back to the resolver on the way in.
//!
//! A connected socket is rewritten once, when it is connected; the kernel runs `sendmsg` hooks only for
//! datagrams that carry a destination of their own.

use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::{EbpfContext as _, helpers::bpf_get_netns_cookie, programs::SockAddrContext};
use ebpf_abi::{
    Address, Be16, Be32, Counter, DNS_PORT, Family, Role, SocketRole,
    dns::{Ask, ResolverKey, Resolvers, decide, is_captured, slot_of},
};
use ebpf_programs::access::{insert_new, lookup, read, read_v6, write, write_v6};

use crate::{
    connect::{ALLOW, Outcome, Rewrite, apply_v4, apply_v6, is_udp, port, prefix, settings},
    maps::{RESOLVERS, count},
    root, socket,
};

/// A socket for datagrams is connected. `getpeername` shows what the application asked for.
#[inline(always)]
pub fn connect(ctx: &SockAddrContext, destination: &Address) -> Outcome {
    let outcome = ask(ctx, destination);
    let Outcome::Rewrite(to) = outcome else {
        // The socket may have been connected to a resolver before.
        socket::clear_role(ctx, |role| role == Role::RESOLVER && !is_sent(ctx, destination));
        return outcome;
    };
    let role = SocketRole {
        role: Role::RESOLVER,
        original_port: Be16::new(DNS_PORT),
        reserved: 0,
        original: *destination,
    };
    if socket::stamp(ctx, role) {
        return Outcome::Rewrite(to);
    }
    // SAFETY: the helper takes the running program's context.
    count(unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }, Counter::DeniedStorage);
    Outcome::Deny
}

#[inline(always)]
pub fn send_v4(ctx: &SockAddrContext) -> i32 {
    let raw = ctx.sock_addr;
    // SAFETY: fields of the running program's context; sendmsg4 may read these.
    let address = unsafe { Address::from_v4(Be32::from_raw(read(addr_of!((*raw).user_ip4)))) };
    apply_v4(ctx, &send(ctx, &address))
}

#[inline(always)]
pub fn send_v6(ctx: &SockAddrContext) -> i32 {
    let raw = ctx.sock_addr;
    // SAFETY: fields of the running program's context; sendmsg6 may read these.
    let address = unsafe { read_v6(addr_of!((*raw).user_ip6)) };
    apply_v6(ctx, &send(ctx, &address))
}

#[inline(always)]
pub fn receive_v4(ctx: &SockAddrContext) -> i32 {
    let raw = ctx.sock_addr;
    // SAFETY: fields of the running program's context; recvmsg4 may read and write these.
    let address = unsafe { Address::from_v4(Be32::from_raw(read(addr_of!((*raw).user_ip4)))) };
    if let Some(resolver) = resolver(ctx, &address) {
        unsafe {
            write(addr_of_mut!((*raw).user_ip4), resolver.v4().raw());
            write(addr_of_mut!((*raw).user_port), u32::from(Be16::new(DNS_PORT).raw()));
        }
    }
    ALLOW
}

/// Also for IPv4 datagrams that an IPv6 socket receives, with v4-mapped addresses.
#[inline(always)]
pub fn receive_v6(ctx: &SockAddrContext) -> i32 {
    let raw = ctx.sock_addr;
    // SAFETY: fields of the running program's context; recvmsg6 may read and write these.
    let address = unsafe { read_v6(addr_of!((*raw).user_ip6)) };
    if let Some(resolver) = resolver(ctx, &address) {
        unsafe {
            write_v6(addr_of_mut!((*raw).user_ip6), &resolver);
            write(addr_of_mut!((*raw).user_port), u32::from(Be16::new(DNS_PORT).raw()));
        }
    }
    ALLOW
}

#[inline(always)]
fn send(ctx: &SockAddrContext, destination: &Address) -> Outcome {
    if is_udp(ctx) { ask(ctx, destination) } else { Outcome::Allow }
}

#[inline(always)]
fn ask(ctx: &SockAddrContext, destination: &Address) -> Outcome {
    let port = port(ctx).get();
    if port != DNS_PORT {
        return Outcome::Allow;
    }
    // SAFETY: the helper takes the running program's context.
    let cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    let settings = settings(cookie);
    if settings.is_some() && root::is_exempt() {
        return Outcome::Allow;
    }
    let prefix = |address: &Address| prefix(cookie, address);
    match decide(destination, port, settings, prefix, &Slots(cookie)) {
        Ask::Leave => Outcome::Allow,
        Ask::NoSlot => {
            count(cookie, Counter::DnsNoSlot);
            Outcome::Allow
        }
        Ask::Capture(target) => {
            count(cookie, Counter::DnsCaptured);
            Outcome::Rewrite(Rewrite { address: target.address, port: Be16::new(target.port) })
        }
    }
}

/// Whether hooks on the pod's own cgroup have just sent this socket to the proxy.
#[inline(always)]
fn is_sent(ctx: &SockAddrContext, destination: &Address) -> bool {
    if !root::is_here() {
        return false;
    }
    // SAFETY: the helper takes the running program's context.
    let cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    settings(cookie).is_some_and(|settings| is_captured(destination, port(ctx).get(), settings))
}

/// The resolver for which the proxy answered, if `source` and its port are a socket of the proxy's.
#[inline(always)]
fn resolver(ctx: &SockAddrContext, source: &Address) -> Option<Address> {
    let port = port(ctx).get();
    // SAFETY: the helper takes the running program's context.
    let cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    let family = if source.is_v4() { Family::V4 } else { Family::V6 };
    let slot = slot_of(family, port, settings(cookie)?)?;
    if !prefix(cookie, source).is_own() {
        return None;
    }
    Slots(cookie).get(slot)
}

/// The slots of the pod with this namespace cookie.
struct Slots(u64);

impl Resolvers for Slots {
    #[inline(always)]
    fn get(&self, slot: u32) -> Option<Address> {
        let key = ResolverKey::new(self.0, slot);
        // SAFETY: types as in `maps`. An entry does not change.
        unsafe { lookup::<_, _, Address>(&RESOLVERS, &key).map(|address| *address.as_ptr()) }
    }

    #[inline(always)]
    fn claim(&self, slot: u32, resolver: &Address) -> bool {
        // SAFETY: types as in `maps`.
        unsafe { insert_new(&RESOLVERS, &ResolverKey::new(self.0, slot), resolver) }
    }
}
