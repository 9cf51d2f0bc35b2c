//! The routing that brings a preserved client address back to the proxy.
//!
//! The proxy dials the application from the client's own address. The application's replies go to
//! that address, and must come back to this namespace's loopback: the socket's mark selects a rule,
//! the rule a table, the table says that everything is local. `tcp_fwmark_accept` gives the
//! accepted socket the mark of the SYN, for both families. Where there is no socket, the kernel
//! answers itself, and `fwmark_reflect` gives its answers the mark: without it, the reset of a
//! closed port would leave for the true client, and the proxy would wait for it in vain.

mod procfs;
mod sysctls;

use std::io;

use nix::errno::Errno;

pub use self::sysctls::{MarkSysctls, OpenSysctls};
use crate::netlink::{self, Channel, NetlinkError, Request, attributes, u32_at};
use crate::{EnterError, NetnsFd, within};

const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const RTM_GETRULE: u16 = 34;

const RTA_OIF: u16 = 4;
const RTA_TABLE: u16 = 15;
const RTN_LOCAL: u8 = 2;
const RT_SCOPE_HOST: u8 = 254;
/// `RTPROT_STATIC`; `ip route` shows the origin, and routing daemons leave such routes alone.
const RTPROT_STATIC: u8 = 4;

const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FR_ACT_TO_TBL: u8 = 1;

/// `sizeof(struct rtmsg)` and of `struct fib_rule_hdr`.
const HEADER: usize = 12;
/// Loopback is the first interface of every namespace.
const LOOPBACK: u32 = 1;

/// What to install. The same in every pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarkRouting {
    /// The mark of the proxy's sockets.
    pub mark: u32,
    /// Which of its bits count.
    pub mask: u32,
    /// The routing table, above 255 so that it meets no named one.
    pub table: u32,
    /// Priority of the rule: after `local` (0), before `main` (32766).
    pub priority: u32,
}

/// What a namespace holds of a [`MarkRouting`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoutingState {
    /// Rule and route for IPv4 are there.
    pub ipv4: bool,
    /// Rule and route for IPv6 are there; a pod without IPv6 cannot have them.
    pub ipv6: bool,
    /// The sysctls.
    pub sysctls: MarkSysctls,
}

/// Why routing could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum RoutingError {
    /// The namespace was not entered.
    #[error("cannot enter the network namespace")]
    Enter(#[from] EnterError),
    /// A rule or route.
    #[error("cannot {action} the {what}")]
    Netlink {
        /// `add`, `remove` or `list`.
        action: &'static str,
        /// `IPv4 rule`, …
        what: &'static str,
        /// The cause.
        #[source]
        cause: NetlinkError,
    },
    /// A sysctl cannot be read or written; often a read-only `/proc/sys` in a container, where the
    /// node's `/proc` is not mounted to be written.
    #[error("cannot {action} {path}")]
    Sysctl {
        /// `open`, `read` or `write`.
        action: &'static str,
        /// Which.
        path: &'static str,
        /// The cause.
        #[source]
        cause: io::Error,
    },
}

#[derive(Clone, Copy)]
struct FamilyWords {
    family: u8,
    rule: &'static str,
    route: &'static str,
}

const IPV4: FamilyWords = FamilyWords { family: 2, rule: "IPv4 rule", route: "IPv4 route" };
const IPV6: FamilyWords = FamilyWords { family: 10, rule: "IPv6 rule", route: "IPv6 route" };

impl MarkRouting {
    /// Installs everything that is missing. Returns how the sysctls were before, for
    /// [`remove`](Self::remove). A namespace without IPv6 is left without the IPv6 half.
    pub fn install(&self, namespace: &NetnsFd) -> Result<MarkSysctls, RoutingError> {
        within(namespace, || {
            let mut channel = open()?;
            self.add(&mut channel, IPV4)?;
            match self.add(&mut channel, IPV6) {
                Err(RoutingError::Netlink { cause, .. }) if no_ipv6(&cause) => {}
                result => result?,
            }
            let before = sysctls::read()?;
            sysctls::write(MarkSysctls::ALL)?;
            Ok(before)
        })?
    }

    /// Removes rules and routes and puts the sysctls back. What is already gone is no error.
    pub fn remove(&self, namespace: &NetnsFd, sysctls: MarkSysctls) -> Result<(), RoutingError> {
        within(namespace, || {
            let mut channel = open()?;
            for words in [IPV4, IPV6] {
                let rule = self.rule_request("remove", RTM_DELRULE, netlink::ACK, words);
                tolerate_absence(channel.ask(rule, |_, _| {}), words.rule)?;
                let route = self.route_request("remove", RTM_DELROUTE, netlink::ACK, words);
                tolerate_absence(channel.ask(route, |_, _| {}), words.route)?;
            }
            sysctls::write(sysctls)
        })?
    }

    /// What is there now.
    pub fn inspect(&self, namespace: &NetnsFd) -> Result<RoutingState, RoutingError> {
        within(namespace, || {
            let mut channel = open()?;
            Ok(RoutingState {
                ipv4: self.is_there(&mut channel, IPV4)?,
                ipv6: self.is_there(&mut channel, IPV6)?,
                sysctls: sysctls::read()?,
            })
        })?
    }

    fn add(&self, channel: &mut Channel, words: FamilyWords) -> Result<(), RoutingError> {
        // A second identical rule would be accepted as a duplicate unless it is asked for
        // exclusively; a route is replaced in place.
        let flags = netlink::ACK | netlink::CREATE | netlink::EXCLUSIVE;
        let rule = self.rule_request("add", RTM_NEWRULE, flags, words);
        match channel.ask(rule, |_, _| {}) {
            Err(error) if error.refusal() == Some(Errno::EEXIST) => {}
            result => result.map_err(failed("add", words.rule))?,
        }
        let flags = netlink::ACK | netlink::CREATE | netlink::REPLACE;
        let route = self.route_request("add", RTM_NEWROUTE, flags, words);
        channel.ask(route, |_, _| {}).map_err(failed("add", words.route))
    }

    fn is_there(&self, channel: &mut Channel, words: FamilyWords) -> Result<bool, RoutingError> {
        let mut header = [0; HEADER];
        header[0] = words.family;
        let (mut rule, mut route) = (false, false);
        let request = Request::new(words.rule, RTM_GETRULE, netlink::DUMP, &header);
        let listed = channel.ask(request, |kind, body| {
            rule |= kind == RTM_NEWRULE && self.is_our_rule(body);
        });
        match listed {
            // The kernel has no rules for a family it does not have.
            Err(error) if no_ipv6(&error) => return Ok(false),
            result => result.map_err(failed("list", words.rule))?,
        }
        let request = Request::new(words.route, RTM_GETROUTE, netlink::DUMP, &header);
        let listed = channel.ask(request, |kind, body| {
            route |= kind == RTM_NEWROUTE && self.is_our_route(body, words.family);
        });
        listed.map_err(failed("list", words.route))?;
        Ok(rule && route)
    }

    fn is_our_rule(&self, body: &[u8]) -> bool {
        let value = |wanted| {
            attributes(body, HEADER)
                .find(|(kind, _)| *kind == wanted)
                .and_then(|(_, v)| u32_at(v, 0))
        };
        value(FRA_FWMARK) == Some(self.mark & self.mask)
            && value(FRA_FWMASK) == Some(self.mask)
            && value(FRA_TABLE) == Some(self.table)
            && value(FRA_PRIORITY) == Some(self.priority)
    }

    fn is_our_route(&self, body: &[u8], family: u8) -> bool {
        let value = |wanted| {
            attributes(body, HEADER)
                .find(|(kind, _)| *kind == wanted)
                .and_then(|(_, v)| u32_at(v, 0))
        };
        // `rtmsg`: family, destination length, …, type at byte 7.
        body.first() == Some(&family)
            && body.get(1) == Some(&0)
            && body.get(7) == Some(&RTN_LOCAL)
            && value(RTA_TABLE) == Some(self.table)
            && value(RTA_OIF) == Some(LOOPBACK)
    }

    fn rule_request(
        &self,
        name: &'static str,
        kind: u16,
        flags: u16,
        words: FamilyWords,
    ) -> Request {
        let mut header = [0; HEADER];
        header[0] = words.family;
        header[7] = FR_ACT_TO_TBL;
        Request::new(name, kind, flags, &header)
            .attribute(FRA_PRIORITY, &self.priority.to_ne_bytes())
            .attribute(FRA_FWMARK, &(self.mark & self.mask).to_ne_bytes())
            .attribute(FRA_FWMASK, &self.mask.to_ne_bytes())
            .attribute(FRA_TABLE, &self.table.to_ne_bytes())
    }

    fn route_request(
        &self,
        name: &'static str,
        kind: u16,
        flags: u16,
        words: FamilyWords,
    ) -> Request {
        let mut header = [0; HEADER];
        header[0] = words.family;
        header[5] = RTPROT_STATIC;
        header[6] = RT_SCOPE_HOST;
        header[7] = RTN_LOCAL;
        Request::new(name, kind, flags, &header)
            .attribute(RTA_TABLE, &self.table.to_ne_bytes())
            .attribute(RTA_OIF, &LOOPBACK.to_ne_bytes())
    }
}

fn open() -> Result<Channel, RoutingError> {
    Channel::open_here(libc::NETLINK_ROUTE, netlink::CONTROL)
        .map_err(failed("open", "routing socket"))
}

fn failed(action: &'static str, what: &'static str) -> impl FnOnce(NetlinkError) -> RoutingError {
    move |cause| RoutingError::Netlink { action, what, cause }
}

fn tolerate_absence(
    result: Result<(), NetlinkError>,
    what: &'static str,
) -> Result<(), RoutingError> {
    match result {
        Err(error)
            if no_ipv6(&error) || matches!(error.refusal(), Some(Errno::ENOENT | Errno::ESRCH)) =>
        {
            Ok(())
        }
        result => result.map_err(failed("remove", what)),
    }
}

/// How a kernel or interface without IPv6 refuses: unknown family, or disabled on the device.
fn no_ipv6(error: &NetlinkError) -> bool {
    let no = [Errno::EAFNOSUPPORT, Errno::EOPNOTSUPP, Errno::EACCES, Errno::ENODEV];
    error.refusal().is_some_and(|errno| no.contains(&errno))
}
