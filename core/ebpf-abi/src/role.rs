//! Roles: why a connection may pass, decided by where it was opened and never by an address.

use crate::{Address, Be16};

/// Role of a socket or of its connection. A newtype and not an enum: it is read from memory that the
/// kernel shares, where an unknown value must stay harmless.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(transparent)]
pub struct Role(pub u32);

impl Role {
    /// Nothing is known; such a connection is steered like any other.
    pub const NONE: Self = Self(0);
    /// A pod's connection that was rewritten to the capture port.
    pub const OUTBOUND: Self = Self(1);
    /// A pod's connection to itself.
    pub const SELF_CALL: Self = Self(2);
    /// The proxy's connection to the application.
    pub const PROXY_TO_APP: Self = Self(3);
    /// A probe of the kubelet.
    pub const KUBELET: Self = Self(4);
    /// A pod's datagram socket that is connected to a resolver, and was rewritten to the proxy's.
    pub const RESOLVER: Self = Self(5);

    /// Given by the hooks of a pod's cgroup to connections.
    #[inline(always)]
    pub const fn is_pod(self) -> bool {
        self.0 == Self::OUTBOUND.0 || self.0 == Self::SELF_CALL.0
    }

    /// The application is shown the original destination.
    #[inline(always)]
    pub const fn is_rewritten(self) -> bool {
        self.0 == Self::OUTBOUND.0 || self.0 == Self::RESOLVER.0
    }

    /// Given by the hooks of the agent's or the kubelet's cgroup.
    #[inline(always)]
    pub const fn is_host(self) -> bool {
        self.0 == Self::PROXY_TO_APP.0 || self.0 == Self::KUBELET.0
    }
}

/// What a socket carries in its storage: stamped by the connect hooks, and on an accepted connection
/// by the agent's `sock_ops`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct SocketRole {
    pub role: Role,
    /// Original destination, when the role is `OUTBOUND` or `RESOLVER`.
    pub original_port: Be16,
    pub reserved: u16,
    pub original: Address,
}

/// Who has a role: cgroups by exact id, never by descent. Zero means "nobody".
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Roles {
    pub agent_cgroup: u64,
    /// An agent that has given its pods to the next one, and still dials for the connections it has.
    pub retiring_cgroup: u64,
    pub kubelet_cgroup: u64,
    /// A socket in the kubelet's cgroup counts as the kubelet's only in this network namespace.
    pub host_netns_cookie: u64,
}

impl Roles {
    /// Role of a socket that a task of `cgroup` connects in the namespace `netns_cookie`.
    #[inline(always)]
    pub const fn of(&self, cgroup: u64, netns_cookie: u64) -> Role {
        if cgroup == 0 {
            return Role::NONE;
        }
        if cgroup == self.agent_cgroup || cgroup == self.retiring_cgroup {
            return Role::PROXY_TO_APP;
        }
        if cgroup == self.kubelet_cgroup && netns_cookie == self.host_netns_cookie {
            return Role::KUBELET;
        }
        Role::NONE
    }

    /// Whether hooks on the root leave a task alone in a pod's namespace: one of the agent's, which serves
    /// the pod there, or of `neutral`, in which the self-test plays a stranger.
    #[inline(always)]
    pub const fn is_exempt(&self, cgroup: u64, neutral: u64) -> bool {
        if cgroup == 0 {
            return false;
        }
        cgroup == self.agent_cgroup || cgroup == self.retiring_cgroup || cgroup == neutral
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_exact() {
        let roles =
            Roles { agent_cgroup: 7, retiring_cgroup: 6, kubelet_cgroup: 9, host_netns_cookie: 1 };
        assert_eq!(roles.of(7, 5), Role::PROXY_TO_APP);
        assert_eq!(roles.of(6, 5), Role::PROXY_TO_APP, "while it retires");
        assert_eq!(Roles { retiring_cgroup: 0, ..roles }.of(6, 5), Role::NONE);
        assert_eq!(roles.of(9, 1), Role::KUBELET);
        assert_eq!(roles.of(9, 5), Role::NONE, "the kubelet's cgroup in a pod's namespace");
        assert_eq!(roles.of(8, 1), Role::NONE);
        let unset = Roles { kubelet_cgroup: 0, ..roles };
        assert_eq!(unset.of(0, 1), Role::NONE, "an unset cgroup matches nobody");
    }

    #[test]
    fn only_the_agents_and_the_neutral_cgroup_are_left_alone_on_the_root() {
        let roles =
            Roles { agent_cgroup: 7, retiring_cgroup: 6, kubelet_cgroup: 9, host_netns_cookie: 1 };
        for (cgroup, expected) in [(7, true), (6, true), (5, true), (9, false), (8, false)] {
            assert_eq!(roles.is_exempt(cgroup, 5), expected, "{cgroup}");
        }
        assert!(!Roles::default().is_exempt(0, 0), "an unset cgroup matches nobody");
    }
}
