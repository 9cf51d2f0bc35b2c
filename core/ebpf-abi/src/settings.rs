//! Settings of one pod, the single element of its SETTINGS array.
//!
//! The kernel copies the value word by word while programs read it. Each IPv4 address is one word; a
//! torn IPv6 address is possible only while a pod changes its address, and costs that one connect.

use crate::{Address, DNS_RESOLVERS, MAX_EXCLUDED_PORTS, MAX_PROBE_PORTS};

/// Settings that the programs of one pod read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Settings {
    /// Captured IPv4 connections go to this address; [`Address::NONE`] when the pod has none.
    pub pod_v4: Address,
    /// Captured IPv6 connections go to this address; [`Address::NONE`] when the pod has none.
    pub pod_v6: Address,
    /// Ports that the kubelet reaches directly, host order; zero is an unused entry.
    pub probe_ports: [u16; MAX_PROBE_PORTS],
    /// Port that captured connections are rewritten to, host order.
    pub capture_port: u16,
    /// Threads with listeners, at most [`crate::MAX_THREADS`]; zero drops every steered connection.
    pub threads: u16,
    /// Ports of the proxy's datagram sockets, one for each resolver slot ([`crate::dns`]), host order;
    /// zero is a slot without a socket.
    pub dns_ports: [u16; DNS_RESOLVERS],
    /// The pod's ports that anybody reaches directly, host order; zero is an unused entry.
    pub excluded_inbound: [u16; MAX_EXCLUDED_PORTS],
    /// Ports that the pod reaches directly, host order; zero is an unused entry.
    pub excluded_outbound: [u16; MAX_EXCLUDED_PORTS],
    pub flags: SettingsFlags,
}

/// Switches; bits combine.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(transparent)]
pub struct SettingsFlags(pub u32);

impl SettingsFlags {
    /// Outbound connections are captured. Clear while the hooks are being attached or taken off: the
    /// connect hooks then register self calls and leave the rest alone.
    pub const ACTIVE: Self = Self(1);

    /// Questions to resolvers are captured.
    pub const DNS: Self = Self(2);

    /// What comes in is left alone, but for HBONE.
    pub const INBOUND_BYPASS: Self = Self(4);

    #[inline(always)]
    pub const fn is_active(self) -> bool {
        self.0 & Self::ACTIVE.0 != 0
    }

    #[inline(always)]
    pub const fn captures_dns(self) -> bool {
        self.0 & Self::DNS.0 != 0
    }

    #[inline(always)]
    pub const fn bypasses_inbound(self) -> bool {
        self.0 & Self::INBOUND_BYPASS.0 != 0
    }

    #[inline(always)]
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[inline(always)]
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl Settings {
    /// Whether the kubelet may reach `port` directly.
    #[inline(always)]
    pub const fn is_probe_port(&self, port: u16) -> bool {
        holds(&self.probe_ports, port)
    }

    /// Whether anybody may reach `port` of the pod directly.
    #[inline(always)]
    pub const fn is_excluded_inbound(&self, port: u16) -> bool {
        self.flags.bypasses_inbound() || holds(&self.excluded_inbound, port)
    }

    /// Whether the pod may reach `port` directly, wherever it is.
    #[inline(always)]
    pub const fn is_excluded_outbound(&self, port: u16) -> bool {
        holds(&self.excluded_outbound, port)
    }
}

/// Whether a port is in a list. Unrolled: programs have no loops. Zero is an unused entry.
#[inline(always)]
const fn holds(ports: &[u16; 8], port: u16) -> bool {
    port != 0
        && (ports[0] == port
            || ports[1] == port
            || ports[2] == port
            || ports[3] == port
            || ports[4] == port
            || ports[5] == port
            || ports[6] == port
            || ports[7] == port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_probe_port_entry_counts_and_zero_never_does() {
        for index in 0..MAX_PROBE_PORTS {
            let mut settings = Settings::default();
            settings.probe_ports[index] = 8080;
            assert!(settings.is_probe_port(8080), "entry {index}");
            assert!(!settings.is_probe_port(8081));
            assert!(!settings.is_probe_port(0), "an unused entry is not port 0");
        }
    }

    #[test]
    fn each_list_is_its_own() {
        let settings = Settings {
            excluded_inbound: [1, 0, 0, 0, 0, 0, 0, 0],
            excluded_outbound: [0, 0, 0, 0, 0, 0, 0, 2],
            ..Settings::default()
        };
        assert!(settings.is_excluded_inbound(1) && !settings.is_excluded_inbound(2));
        assert!(settings.is_excluded_outbound(2) && !settings.is_excluded_outbound(1));
        assert!(!settings.is_probe_port(1) && !settings.is_probe_port(2));
        let flags = SettingsFlags::INBOUND_BYPASS;
        let all = Settings { flags, ..Settings::default() };
        assert!(all.is_excluded_inbound(7) && !all.is_excluded_outbound(7));
    }
}
