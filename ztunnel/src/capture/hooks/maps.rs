//! One pod's maps: listeners, settings, prefixes, the registry of connections and the counters.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, BorrowedFd},
};

use ebpf_abi::{
    Address, Counter, DNS_RESOLVERS, Family, Kind, MAX_EXCLUDED_PORTS, MAX_PREFIXES,
    MAX_PROBE_PORTS, MAX_THREADS, OUTBOUND_CAPTURE_PORT, PrefixFlags, PrefixKey, Role, Settings,
    SettingsFlags, Tuple, TupleKey, slot::slot, tuple::Age,
};
use enrol::Inbound;
use ipnet::IpNet;
use nix::time::{ClockId, clock_gettime};

use super::HookError;
use crate::capture::{
    bpf::{self, Map, Update},
    pins::{POD_MAPS, PodPins},
    programs::OuterMaps,
    questions::{DnsCapture, DnsPorts},
};

// What enrolment accepts, the kernel has room for.
const _: () =
    assert!(enrol::PORTS_MAX <= MAX_PROBE_PORTS && enrol::PORTS_MAX <= MAX_EXCLUDED_PORTS);
/// Prefixes that a pod may have: half of the map, so that a new set fits beside the old one while it
/// replaces it.
const PREFIXES_MOST: usize = MAX_PREFIXES / 2;

/// What the programs of a pod need to know.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PodSettings {
    /// Captured IPv4 connections are rewritten to this address of the pod; without it they are denied.
    pub v4: Option<Ipv4Addr>,
    /// Captured IPv6 connections are rewritten to this address of the pod; without it they are denied.
    pub v6: Option<Ipv6Addr>,
    /// Listeners of each kind and family, 1 to 16.
    pub threads: u16,
    /// Ports that the kubelet reaches directly, at most 8.
    pub probe_ports: Vec<u16>,
    /// Whether what comes in is captured, HBONE apart.
    pub inbound: Inbound,
    /// Ports of the pod that anybody reaches directly, at most 8.
    pub excluded_inbound: Vec<u16>,
    /// Ports that the pod reaches directly, at most 8.
    pub excluded_outbound: Vec<u16>,
    /// Ports that questions to resolvers are rewritten to; `None`: they are not captured.
    pub dns: Option<DnsPorts>,
}

/// The pod's addresses, the operator's bypass CIDRs and the namespace's exclusions.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PodPrefixes {
    /// Every address of the namespace, link-local ones included, loopback not needed.
    pub own: Vec<IpAddr>,
    /// Neither connections to them nor those to the pod's own addresses among them are captured.
    pub bypass: Vec<IpNet>,
    /// Destinations past the mesh. An own address among them is captured like any other.
    pub excluded: Vec<IpNet>,
}

/// Settings that the maps cannot hold.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    #[error("{threads} listener threads; 1 to {MAX_THREADS} are possible")]
    Threads { threads: u16 },
    #[error("{count} probe ports; {MAX_PROBE_PORTS} are possible")]
    ProbePorts { count: usize },
    #[error("{count} excluded ports; {MAX_EXCLUDED_PORTS} are possible in each direction")]
    ExcludedPorts { count: usize },
    #[error("{count} addresses and bypass prefixes; {PREFIXES_MOST} are possible")]
    Prefixes { count: usize },
}

impl PodSettings {
    /// Whether questions to resolvers are captured.
    pub(super) fn dns_capture(&self) -> DnsCapture {
        if self.dns.is_some() { DnsCapture::On } else { DnsCapture::Off }
    }

    /// The kernel's form, with capture switched off.
    pub(super) fn inactive(&self) -> Result<Settings, SettingsError> {
        if self.threads == 0 || self.threads > MAX_THREADS {
            return Err(SettingsError::Threads { threads: self.threads });
        }
        let probe_ports: [u16; MAX_PROBE_PORTS] = list(&self.probe_ports)
            .ok_or(SettingsError::ProbePorts { count: self.probe_ports.len() })?;
        let excluded = |ports: &[u16]| {
            list::<MAX_EXCLUDED_PORTS>(ports)
                .ok_or(SettingsError::ExcludedPorts { count: ports.len() })
        };
        let flags = match self.dns_capture() {
            DnsCapture::On => SettingsFlags::DNS,
            DnsCapture::Off => SettingsFlags::default(),
        };
        Ok(Settings {
            pod_v4: self.v4.map_or(Address::NONE, Address::from),
            pod_v6: self.v6.map_or(Address::NONE, Address::from),
            probe_ports,
            capture_port: OUTBOUND_CAPTURE_PORT,
            threads: self.threads,
            dns_ports: self.dns.map_or([0; DNS_RESOLVERS], |ports| ports.0),
            excluded_inbound: excluded(&self.excluded_inbound)?,
            excluded_outbound: excluded(&self.excluded_outbound)?,
            flags: match self.inbound {
                Inbound::Captured => flags,
                Inbound::Bypassed => flags.with(SettingsFlags::INBOUND_BYPASS),
            },
        })
    }
}

/// Ports in the kernel's form; `None`: too many.
fn list<const MAX: usize>(ports: &[u16]) -> Option<[u16; MAX]> {
    let mut list = [0; MAX];
    list.get_mut(..ports.len())?.copy_from_slice(ports);
    Some(list)
}

impl PodPrefixes {
    /// The trie's entries. The longest prefix wins there, so an own address inside a bypass CIDR gets
    /// that flag too.
    fn entries(&self) -> Result<HashMap<PrefixKey, PrefixFlags>, SettingsError> {
        let mut entries = HashMap::new();
        for net in self.bypass.iter().chain(&self.excluded) {
            let length = match net {
                IpNet::V4(net) => u32::from(net.prefix_len()) + 96,
                IpNet::V6(net) => u32::from(net.prefix_len()),
            };
            let key = PrefixKey { length, address: net.network().into() };
            entries.insert(key, PrefixFlags::BYPASS);
        }
        for own in &self.own {
            let own = own.to_canonical();
            let bypassed = self.bypass.iter().any(|net| net.contains(&own));
            let flags = if bypassed { PrefixFlags::BYPASS } else { PrefixFlags::NONE };
            entries.insert(PrefixKey::host(own.into()), flags.with(PrefixFlags::OWN));
        }
        if entries.len() > PREFIXES_MOST {
            return Err(SettingsError::Prefixes { count: entries.len() });
        }
        Ok(entries)
    }
}

/// The maps of one pod. Changes of settings read, modify and write: one caller at a time.
#[derive(Debug)]
pub struct PodMaps {
    tuples: Map<TupleKey, Tuple>,
    prefixes: Map<PrefixKey, PrefixFlags>,
    settings: Map<u32, Settings>,
    counters: Map<u32, u64>,
    listeners: Map<u32, u32>,
    cpus: usize,
}

impl PodMaps {
    pub(super) fn open(pins: &PodPins, cpus: usize) -> io::Result<Self> {
        Ok(Self {
            tuples: Map::open(&pins.map("TUPLES"))?,
            prefixes: Map::open(&pins.map("PREFIXES"))?,
            settings: Map::open(&pins.map("SETTINGS"))?,
            counters: Map::open(&pins.map("COUNTERS"))?,
            listeners: Map::open(&pins.map("LISTENERS"))?,
            cpus,
        })
    }

    /// Puts a listening socket of the pod's namespace into its slot, replacing the one there: new
    /// connections go to it, the old one's queue keeps draining. The slot empties by itself when the
    /// socket closes.
    pub fn set_listener(
        &self,
        kind: Kind,
        family: Family,
        thread: u16,
        listener: impl AsFd,
    ) -> io::Result<()> {
        let slot = slot(kind, family, thread);
        self.listeners.set(&slot, &bpf::descriptor(listener.as_fd()), Update::Any)
    }

    /// Empties a slot: new connections to it are refused. The listener's queue keeps draining. No error
    /// when it is empty.
    pub fn clear_listener(&self, kind: Kind, family: Family, thread: u16) -> io::Result<()> {
        match self.listeners.delete(&slot(kind, family, thread)) {
            // A socket map's word for "no entry".
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            result => result.map(drop),
        }
    }

    /// Empties every slot. On error the others are emptied all the same; the first error is returned.
    pub fn clear_listeners(&self) -> io::Result<()> {
        let mut result = Ok(());
        for kind in Kind::ALL {
            for family in Family::ALL {
                for thread in 0..MAX_THREADS {
                    result = result.and(self.clear_listener(kind, family, thread));
                }
            }
        }
        result
    }

    /// Replaces the settings.
    pub fn update_settings(&self, settings: &PodSettings) -> Result<(), HookError> {
        let failed = |source| HookError::Kernel { operation: "update the pod's settings", source };
        let active = self.read_settings().map_err(failed)?.flags.is_active();
        let settings = with_capture(settings.inactive()?, active);
        self.write_settings(&settings).map_err(failed)
    }

    /// Replaces the prefixes: adds before it removes, so no address of both sets is ever missing.
    pub fn replace_prefixes(&self, prefixes: &PodPrefixes) -> Result<(), HookError> {
        let failed = |source| HookError::Kernel { operation: "replace the pod's prefixes", source };
        let wanted = prefixes.entries()?;
        for (key, flags) in &wanted {
            self.prefixes.set(key, flags, Update::Any).map_err(failed)?;
        }
        for key in self.prefixes.keys().map_err(failed)? {
            if !wanted.contains_key(&key) {
                self.prefixes.delete(&key).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// The pod's counters by name, summed over CPUs.
    pub fn counters(&self) -> io::Result<Vec<(&'static str, u64)>> {
        let sum = |counter: &Counter| {
            Ok((counter.name(), self.counters.sum(counter.index(), self.cpus)?))
        };
        Counter::ALL.iter().map(sum).collect()
    }

    /// Registered connections.
    pub fn tuples_len(&self) -> io::Result<usize> {
        Ok(self.tuples.keys()?.len())
    }

    /// Deletes the agent's registrations that are too old to matter. Normally they go when the agent's
    /// sockets close, but the hooks that do this go with a killed agent. Safe at any time.
    pub fn sweep(&self) -> io::Result<usize> {
        let now = monotonic_ns()?;
        let mut swept = 0;
        for key in self.tuples.keys()? {
            let stale = self.tuples.get(&key)?.is_some_and(|tuple| {
                tuple.role == Role::PROXY_TO_APP && tuple.age(now) == Age::Stale
            });
            if stale && self.tuples.delete(&key)? {
                swept += 1;
            }
        }
        Ok(swept)
    }

    /// Replaces the settings if the map holds others than those of a captured pod; whether it did.
    pub(super) fn restore_settings(&self, settings: &PodSettings) -> Result<bool, HookError> {
        let failed = |source| HookError::Kernel { operation: "restore the pod's settings", source };
        let wanted = with_capture(settings.inactive()?, true);
        if self.read_settings().map_err(failed)? == wanted {
            return Ok(false);
        }
        self.write_settings(&wanted).map_err(failed)?;
        Ok(true)
    }

    /// Replaces the prefixes if the map holds others; whether it did.
    pub(super) fn restore_prefixes(&self, prefixes: &PodPrefixes) -> Result<bool, HookError> {
        let failed = |source| HookError::Kernel { operation: "read the pod's prefixes", source };
        let mut found = HashMap::new();
        for key in self.prefixes.keys().map_err(failed)? {
            // One that goes meanwhile is missing then.
            if let Some(flags) = self.prefixes.get(&key).map_err(failed)? {
                found.insert(key, flags);
            }
        }
        if found == prefixes.entries()? {
            return Ok(false);
        }
        self.replace_prefixes(prefixes)?;
        Ok(true)
    }

    /// Switches capture of outbound connections.
    pub(super) fn set_active(&self, active: bool) -> io::Result<()> {
        self.write_settings(&with_capture(self.read_settings()?, active))
    }

    pub(super) fn write_settings(&self, settings: &Settings) -> io::Result<()> {
        self.settings.set(&0, settings, Update::Any)
    }

    fn read_settings(&self) -> io::Result<Settings> {
        self.settings.get(&0)?.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The maps that outer maps refer to, in the order of [`OuterMaps::all`].
    pub(super) fn inner(&self) -> [BorrowedFd<'_>; 4] {
        [self.tuples.as_fd(), self.prefixes.as_fd(), self.settings.as_fd(), self.counters.as_fd()]
    }

    /// All maps by the names of their pins.
    pub(super) fn named(&self) -> [(&'static str, BorrowedFd<'_>); POD_MAPS.len()] {
        let [tuples, prefixes, settings, counters] = self.inner();
        let maps = [tuples, prefixes, settings, counters, self.listeners.as_fd()];
        std::array::from_fn(|index| (POD_MAPS[index], maps[index]))
    }

    /// Whether one cookie leads to all of these maps.
    pub(super) fn is_in(&self, outer: &OuterMaps) -> io::Result<bool> {
        let id = self.tuples.id()?;
        for cookie in outer.tuples.keys()? {
            if outer.tuples.get(&cookie)? == Some(id) {
                return self.is_at(outer, cookie);
            }
        }
        Ok(false)
    }

    /// Whether this cookie leads to all of these maps.
    pub(super) fn is_at(&self, outer: &OuterMaps, cookie: u64) -> io::Result<bool> {
        for (outer, inner) in outer.all().into_iter().zip(self.inner()) {
            if outer.get(&cookie)? != Some(bpf::map_info(inner)?.id) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn with_capture(settings: Settings, active: bool) -> Settings {
    let flags = settings.flags;
    let flags = if active {
        flags.with(SettingsFlags::ACTIVE)
    } else {
        flags.without(SettingsFlags::ACTIVE)
    };
    Settings { flags, ..settings }
}

/// The clock of `bpf_ktime_get_ns`.
fn monotonic_ns() -> io::Result<u64> {
    let now = std::time::Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
    u64::try_from(now.as_nanos()).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> PodSettings {
        PodSettings { v4: Some(Ipv4Addr::new(10, 0, 0, 5)), threads: 2, ..PodSettings::default() }
    }

    #[test]
    fn settings_start_inactive_and_are_bounded() {
        let kernel = settings().inactive().expect("valid");
        assert!(!kernel.flags.is_active());
        assert_eq!(kernel.pod_v6, Address::NONE);
        for threads in [0, MAX_THREADS + 1] {
            assert_eq!(
                PodSettings { threads, ..settings() }.inactive(),
                Err(SettingsError::Threads { threads })
            );
        }
        let probe_ports = vec![1; MAX_PROBE_PORTS + 1];
        assert_eq!(
            PodSettings { probe_ports, ..settings() }.inactive(),
            Err(SettingsError::ProbePorts { count: MAX_PROBE_PORTS + 1 })
        );
    }

    #[test]
    fn exclusions_are_bounded_and_told() {
        let excluding = PodSettings {
            inbound: Inbound::Bypassed,
            excluded_inbound: vec![22],
            excluded_outbound: vec![3306, 5432],
            ..settings()
        };
        let kernel = excluding.inactive().expect("valid");
        assert!(kernel.flags.bypasses_inbound());
        assert!(kernel.is_excluded_outbound(5432) && kernel.is_excluded_inbound(22));
        let count = MAX_EXCLUDED_PORTS + 1;
        let refused = Err(SettingsError::ExcludedPorts { count });
        let excluded_inbound = vec![1; count];
        assert_eq!(PodSettings { excluded_inbound, ..settings() }.inactive(), refused);
        let excluded_outbound = vec![1; count];
        assert_eq!(PodSettings { excluded_outbound, ..settings() }.inactive(), refused);
    }

    #[test]
    fn prefixes_are_v4_mapped_and_own_addresses_keep_the_bypass() {
        let prefixes = PodPrefixes {
            own: vec!["10.1.0.5".parse().expect("ip"), "fd00::5".parse().expect("ip")],
            bypass: vec!["10.1.0.0/16".parse().expect("net")],
            excluded: Vec::new(),
        };
        let entries = prefixes.entries().expect("valid");
        let address = |text: &str| Address::from(text.parse::<IpAddr>().expect("ip"));
        let both = PrefixFlags::OWN.with(PrefixFlags::BYPASS);
        assert_eq!(entries.get(&PrefixKey::host(address("10.1.0.5"))), Some(&both));
        assert_eq!(entries.get(&PrefixKey::host(address("fd00::5"))), Some(&PrefixFlags::OWN));
        let net = PrefixKey { length: 112, address: address("10.1.0.0") };
        assert_eq!(entries.get(&net), Some(&PrefixFlags::BYPASS));
    }

    #[test]
    fn an_exclusion_opens_no_way_in() {
        let net = "10.1.0.0/16".parse().expect("net");
        let own: Vec<IpAddr> = vec!["10.1.0.5".parse().expect("ip")];
        let prefixes = PodPrefixes { own: own.clone(), bypass: Vec::new(), excluded: vec![net] };
        let entries = prefixes.entries().expect("valid");
        let host = PrefixKey::host(own[0].into());
        assert_eq!(entries.get(&host), Some(&PrefixFlags::OWN));
        let address = Address::from("10.1.0.0".parse::<IpAddr>().expect("ip"));
        let excluded = entries.get(&PrefixKey { length: 112, address });
        assert_eq!(excluded, Some(&PrefixFlags::BYPASS));
        // What is excluded and bypassed is bypassed.
        let prefixes = PodPrefixes { own, bypass: vec![net], excluded: vec![net] };
        let both = PrefixFlags::OWN.with(PrefixFlags::BYPASS);
        assert_eq!(prefixes.entries().expect("valid").get(&host), Some(&both));
    }

    #[test]
    fn too_many_prefixes_are_refused() {
        let own = (0u32..).map(|n| Ipv4Addr::from_bits(n).into()).take(PREFIXES_MOST + 1).collect();
        let prefixes = PodPrefixes { own, ..PodPrefixes::default() };
        let count = PREFIXES_MOST + 1;
        assert_eq!(prefixes.entries(), Err(SettingsError::Prefixes { count }));
    }
}
