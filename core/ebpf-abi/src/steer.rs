//! Where an incoming TCP connection of a pod goes: to one of the proxy's listeners, to the
//! application, or nowhere.
//!
//! The application is reached only by connections whose opener is known (registry), by true loopback,
//! by bypass CIDRs and where the pod's switches leave incoming connections alone. Everything else, to
//! whatever local address, is the proxy's to judge.

use crate::{
    Address, Counter, HBONE_PORT, Kind, PrefixFlags, Role, Settings, Tuple, TupleKey, tuple::Age,
};

/// Outcome of `sk_lookup`, with what to count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Steer {
    /// The kernel looks up the application's listener as usual.
    Pass(Counter),
    /// The proxy's listener of this kind.
    Assign(Kind, Counter),
    /// No socket: the peer gets a reset.
    Drop(Counter),
}

/// Which interface the packet says it came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ingress {
    /// The loopback device. Packets to the pod's own other addresses do not count: the kernel reports
    /// those with the address's interface.
    Loopback,
    /// Another device.
    Other,
    /// The kernel does not tell (before 5.17).
    Unknown,
}

/// The pod's maps, read lazily: most connections need only the first.
pub trait Registry {
    /// Entry of the pod's TUPLES.
    fn tuple(&self) -> Option<Tuple>;
    /// Entry of the node's PROBES.
    fn probe(&self) -> Option<Tuple>;
    /// Flags of an address in the pod's PREFIXES.
    fn prefix(&self, address: &Address) -> PrefixFlags;
}

/// Decides a TCP connection at `now_ns` of `CLOCK_MONOTONIC`.
#[inline(always)]
pub fn decide(
    key: &TupleKey,
    ingress: Ingress,
    settings: &Settings,
    now_ns: u64,
    registry: &impl Registry,
) -> Steer {
    if let Some(tuple) = registry.tuple() {
        match (tuple.role, tuple.age(now_ns)) {
            (Role::OUTBOUND, Age::Fresh) => {
                return Steer::Assign(Kind::Outbound, Counter::SteeredOutbound);
            }
            (Role::OUTBOUND, Age::Stale) => return Steer::Drop(Counter::DroppedStale),
            // The proxy's own tunnel to this pod, from this pod: no application serves HBONE.
            (Role::PROXY_TO_APP, Age::Fresh) if key.local_port.get() == HBONE_PORT => {
                return Steer::Assign(Kind::Hbone, Counter::SteeredHbone);
            }
            (Role::PROXY_TO_APP, Age::Fresh) => return Steer::Pass(Counter::PassedProxy),
            (Role::SELF_CALL, Age::Fresh) => return Steer::Pass(Counter::PassedSelfCall),
            // Stale or unknown: judged like any other connection.
            _ => {}
        }
    }
    let port = key.local_port.get();
    if settings.is_probe_port(port)
        && let Some(probe) = registry.probe()
        && probe.role == Role::KUBELET
        && probe.age(now_ns) == Age::Fresh
    {
        return Steer::Pass(Counter::PassedProbe);
    }
    // With `route_localnet` and a DNAT rule a packet from outside can carry a loopback destination;
    // then it did not come in over the loopback device, or its source is foreign.
    if key.local.is_loopback()
        && ingress != Ingress::Other
        && (key.remote.is_loopback() || registry.prefix(&key.remote).is_own())
    {
        return Steer::Pass(Counter::PassedLoopback);
    }
    // Its own too: a namespace's exclusions are destinations, and an address that the pod was given inside
    // of one since the agent looked last is not to be open for that.
    let local = registry.prefix(&key.local);
    if local.is_own() && local.is_bypass() {
        return Steer::Pass(Counter::PassedBypass);
    }
    // A captured connection whose registration failed. It must not be taken for an incoming one.
    if port == settings.capture_port
        && (key.remote.is_loopback() || registry.prefix(&key.remote).is_own())
    {
        return Steer::Drop(Counter::DroppedUnregistered);
    }
    if port == HBONE_PORT {
        return Steer::Assign(Kind::Hbone, Counter::SteeredHbone);
    }
    // What is bound to loopback is meant for the pod alone, whatever is said of its ports.
    if !key.local.is_loopback() && settings.is_excluded_inbound(port) {
        return Steer::Pass(Counter::PassedBypass);
    }
    Steer::Assign(Kind::Plaintext, Counter::SteeredPlaintext)
}

#[cfg(test)]
mod tests;
