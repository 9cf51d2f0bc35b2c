//! What becomes of a pod's TCP `connect`: captured, left alone, noted as a call to itself, or refused.

use crate::{Address, Counter, DNS_PORT, GlobalCounter, PrefixFlags, Role, Settings};

/// Where the hooks are that ask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hooked {
    /// On the cgroup of a pod: every socket that they see is that pod's.
    Pod,
    /// On the root of the hierarchy: they see the sockets of the whole node.
    Root,
}

/// Outcome of a `connect`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Connect {
    /// Goes where it was dialled; the socket has no role.
    Leave,
    /// Goes where it was dialled, which is the pod itself; the socket gets the role `SELF_CALL`.
    SelfCall,
    /// Goes to this address and the settings' capture port; the socket keeps what was dialled.
    Capture(Address),
    /// `EPERM`, counted for the pod.
    Deny(Counter),
    /// `EPERM`, counted for the node: the socket's namespace is no pod's.
    DenyUnknown(GlobalCounter),
}

/// Decides a `connect` to `destination` and `port`. `settings` is `None` when the socket's network namespace
/// belongs to no enrolled pod; `prefix` looks an address up in the pod's prefixes.
///
/// A socket of no pod's namespace is refused by a pod's own hooks, since a process of the pod opened it,
/// and left alone by those on the root.
///
/// Own addresses are recognised before link-local ones, so that a pod's call to its own link-local
/// address is registered and reaches the application.
///
/// Of link-local destinations only an IPv4 resolver is captured, where questions are: node-local caches
/// listen there. An IPv6 one could not be dialled on, as its interface is not told.
#[inline(always)]
pub fn decide(
    destination: &Address,
    port: u16,
    settings: Option<&Settings>,
    hooked: Hooked,
    prefix: impl FnOnce(&Address) -> PrefixFlags,
) -> Connect {
    if destination.is_loopback() {
        return Connect::Leave;
    }
    let Some(settings) = settings else {
        return match hooked {
            Hooked::Root => Connect::Leave,
            Hooked::Pod if destination.is_unspecified() => Connect::Leave,
            Hooked::Pod => Connect::DenyUnknown(GlobalCounter::DeniedUnknownNetns),
        };
    };
    // The kernel turns an unspecified destination into the socket's own source address, which is the
    // pod's when the socket is bound to it.
    if destination.is_unspecified() {
        return Connect::SelfCall;
    }
    let flags = prefix(destination);
    if flags.is_own() {
        return Connect::SelfCall;
    }
    if destination.is_multicast() || flags.is_bypass() || settings.is_excluded_outbound(port) {
        return Connect::Leave;
    }
    if destination.is_link_local() && !is_local_resolver(destination, port, settings) {
        return Connect::Leave;
    }
    if !settings.flags.is_active() {
        return Connect::Leave;
    }
    let pod = if destination.is_v4() { settings.pod_v4 } else { settings.pod_v6 };
    if pod.is_unspecified() {
        return Connect::Deny(Counter::DeniedNoAddress);
    }
    Connect::Capture(pod)
}

/// Whether hooks on the pod's own cgroup have captured this very `connect`. They run before those on the
/// root, which see what they rewrote: a pod has both while it moves from one kind to the other.
#[inline(always)]
pub fn is_captured(destination: &Address, port: u16, settings: &Settings, role: Role) -> bool {
    let pod = if destination.is_v4() { settings.pod_v4 } else { settings.pod_v6 };
    role == Role::OUTBOUND && port == settings.capture_port && *destination == pod
}

/// Whether a link-local destination is a resolver whose questions are captured.
#[inline(always)]
const fn is_local_resolver(destination: &Address, port: u16, settings: &Settings) -> bool {
    port == DNS_PORT && settings.flags.captures_dns() && destination.is_v4()
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::*;
    use crate::{OUTBOUND_CAPTURE_PORT, SettingsFlags};

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().expect(text).into()
    }

    fn settings() -> Settings {
        Settings {
            pod_v4: address("10.0.0.5"),
            pod_v6: address("fd00::5"),
            capture_port: OUTBOUND_CAPTURE_PORT,
            threads: 2,
            flags: SettingsFlags::ACTIVE,
            ..Settings::default()
        }
    }

    fn prefix(destination: &Address) -> PrefixFlags {
        let own = ["10.0.0.5", "fd00::5", "fe80::5"].map(address);
        if own.contains(destination) {
            PrefixFlags::OWN
        } else if *destination == address("192.0.2.1") {
            PrefixFlags::BYPASS
        } else if *destination == address("192.0.2.2") {
            PrefixFlags::OWN.with(PrefixFlags::BYPASS)
        } else {
            PrefixFlags::NONE
        }
    }

    #[test]
    fn an_active_pod() {
        let settings = settings();
        let v4 = Connect::Capture(address("10.0.0.5"));
        let v6 = Connect::Capture(address("fd00::5"));
        for (destination, expected) in [
            ("10.96.0.1", v4),
            ("::ffff:10.96.0.1", v4),
            ("8.8.8.8", v4),
            ("2001:db8::1", v6),
            ("127.0.0.1", Connect::Leave),
            ("::1", Connect::Leave),
            ("::ffff:127.0.0.9", Connect::Leave),
            ("0.0.0.0", Connect::SelfCall),
            ("::", Connect::SelfCall),
            ("::ffff:0.0.0.0", Connect::SelfCall),
            ("10.0.0.5", Connect::SelfCall),
            ("::ffff:10.0.0.5", Connect::SelfCall),
            ("fd00::5", Connect::SelfCall),
            ("fe80::5", Connect::SelfCall),
            ("fe80::6", Connect::Leave),
            ("169.254.169.254", Connect::Leave),
            ("224.0.0.1", Connect::Leave),
            ("ff02::1", Connect::Leave),
            ("192.0.2.1", Connect::Leave),
            ("192.0.2.2", Connect::SelfCall),
        ] {
            assert_eq!(
                decide(&address(destination), 443, Some(&settings), Hooked::Pod, prefix),
                expected,
                "{destination}"
            );
        }
    }

    #[test]
    fn a_link_local_resolver_is_captured_where_questions_are() {
        let capture = Connect::Capture(address("10.0.0.5"));
        let dns = Settings { flags: SettingsFlags::ACTIVE.with(SettingsFlags::DNS), ..settings() };
        for (destination, port, settings, expected) in [
            ("169.254.20.10", 53, &dns, capture),
            ("::ffff:169.254.20.10", 53, &dns, capture),
            ("169.254.20.10", 80, &dns, Connect::Leave),
            ("169.254.20.10", 53, &settings(), Connect::Leave),
            ("fe80::6", 53, &dns, Connect::Leave),
            ("fe80::5", 53, &dns, Connect::SelfCall),
            ("127.0.0.53", 53, &dns, Connect::Leave),
        ] {
            assert_eq!(
                decide(&address(destination), port, Some(settings), Hooked::Pod, prefix),
                expected,
                "{destination} {port}"
            );
        }
    }

    #[test]
    fn excluded_ports_are_left_alone_and_calls_to_itself_noted() {
        let settings = Settings { excluded_outbound: [3306, 0, 0, 0, 0, 0, 0, 0], ..settings() };
        for (destination, port, expected) in [
            ("10.96.0.1", 3306, Connect::Leave),
            ("2001:db8::1", 3306, Connect::Leave),
            ("10.0.0.5", 3306, Connect::SelfCall),
            ("10.96.0.1", 443, Connect::Capture(address("10.0.0.5"))),
        ] {
            assert_eq!(
                decide(&address(destination), port, Some(&settings), Hooked::Pod, prefix),
                expected,
                "{destination} {port}"
            );
        }
    }

    #[test]
    fn a_family_without_a_pod_address_is_refused() {
        let v4_only = Settings { pod_v6: Address::NONE, ..settings() };
        assert_eq!(
            decide(&address("2001:db8::1"), 443, Some(&v4_only), Hooked::Pod, prefix),
            Connect::Deny(Counter::DeniedNoAddress)
        );
        assert_eq!(
            decide(&address("8.8.8.8"), 443, Some(&v4_only), Hooked::Pod, prefix),
            Connect::Capture(address("10.0.0.5"))
        );
        let v6_only = Settings { pod_v4: Address::NONE, ..settings() };
        assert_eq!(
            decide(&address("::ffff:8.8.8.8"), 443, Some(&v6_only), Hooked::Pod, prefix),
            Connect::Deny(Counter::DeniedNoAddress)
        );
    }

    #[test]
    fn an_inactive_pod_only_notes_self_calls() {
        let inactive = Settings { flags: SettingsFlags::default(), ..settings() };
        assert_eq!(
            decide(&address("8.8.8.8"), 443, Some(&inactive), Hooked::Pod, prefix),
            Connect::Leave
        );
        assert_eq!(
            decide(&address("10.0.0.5"), 443, Some(&inactive), Hooked::Pod, prefix),
            Connect::SelfCall
        );
    }

    #[test]
    fn an_unknown_namespace_reaches_loopback_only() {
        let deny = Connect::DenyUnknown(GlobalCounter::DeniedUnknownNetns);
        for (destination, expected) in [
            ("127.0.0.1", Connect::Leave),
            ("::1", Connect::Leave),
            ("0.0.0.0", Connect::Leave),
            ("10.0.0.5", deny),
            ("169.254.1.1", deny),
            ("2001:db8::1", deny),
        ] {
            let destination = address(destination);
            assert_eq!(decide(&destination, 443, None, Hooked::Pod, prefix), expected);
            let at_root = decide(&destination, 443, None, Hooked::Root, prefix);
            assert_eq!(at_root, Connect::Leave, "no pod's");
        }
    }

    #[test]
    fn hooks_on_the_root_know_what_a_pods_own_have_captured() {
        let settings = settings();
        for (destination, port, role, expected) in [
            ("10.0.0.5", OUTBOUND_CAPTURE_PORT, Role::OUTBOUND, true),
            ("::ffff:10.0.0.5", OUTBOUND_CAPTURE_PORT, Role::OUTBOUND, true),
            ("fd00::5", OUTBOUND_CAPTURE_PORT, Role::OUTBOUND, true),
            ("10.0.0.5", OUTBOUND_CAPTURE_PORT, Role::NONE, false),
            ("10.0.0.5", OUTBOUND_CAPTURE_PORT, Role::SELF_CALL, false),
            ("10.0.0.5", 443, Role::OUTBOUND, false),
            ("10.0.0.6", OUTBOUND_CAPTURE_PORT, Role::OUTBOUND, false),
        ] {
            let captured = is_captured(&address(destination), port, &settings, role);
            assert_eq!(captured, expected, "{destination} {port} {role:?}");
        }
    }
}
