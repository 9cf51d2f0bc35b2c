//! Parsing of single values; each function names what it wants when it refuses.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use authz::UnenforceableDeny;
use daemon::LogFormat;
use ebpf_abi::MAX_THREADS;
use enrol::redirection::Wish;
use ipnet::IpNet;
use model::{Network, TrustDomain};
use names::ClusterDomain;
use resolve::{RequireWaypoint, SameNode, TunnelAddress};
use tls::Compliance;

use super::{Environment, Setting, schema};

/// Prefixes in `WARREN_BYPASS_CIDRS`; they are copied into a map of every pod.
const BYPASS_MAX: usize = 64;
/// Names in `WARREN_TRUST_DOMAIN_ALIASES`; each handshake looks through them.
const ALIASES_MAX: usize = 32;

/// One refused setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Environment variable.
    pub setting: &'static str,
    /// Its value, if it was set.
    pub value: Option<String>,
    /// What is wrong.
    pub cause: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={value:?}: {}", self.setting, self.cause),
            None => write!(f, "{}: {}", self.setting, self.cause),
        }
    }
}

/// Every refused setting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Looks settings up and collects what is wrong with them.
pub(super) struct Reader<'a> {
    environment: &'a Environment,
    errors: Vec<ConfigError>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(environment: &'a Environment) -> Self {
        Self { environment, errors: Vec::new() }
    }

    pub(super) fn finish(self) -> Result<(), ConfigErrors> {
        if self.errors.is_empty() { Ok(()) } else { Err(ConfigErrors(self.errors)) }
    }

    /// The setting's value or default; `None` after an error, which is recorded.
    pub(super) fn parse<T>(
        &mut self,
        setting: &Setting,
        parser: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.value(setting);
        let text = value.as_deref().unwrap_or(setting.default);
        parser(text).map_err(|cause| self.refuse(setting, value.clone(), cause)).ok()
    }

    /// Like `parse`, but not set means `Some(None)`.
    #[expect(
        clippy::option_option,
        reason = "the outer level is an error, the inner an unset value"
    )]
    pub(super) fn optional<T>(
        &mut self,
        setting: &Setting,
        parser: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Option<T>> {
        match self.value(setting) {
            None => Some(None),
            Some(_) => self.parse(setting, parser).map(Some),
        }
    }

    /// Like `parse`, but not set is an error.
    pub(super) fn require<T>(
        &mut self,
        setting: &Setting,
        parser: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        if self.value(setting).is_none() {
            self.refuse(setting, None, "must be set".to_owned());
            return None;
        }
        self.parse(setting, parser)
    }

    /// The drain time: given, or what the grace period leaves after a reserve, or 5 s.
    pub(super) fn drain_time(&mut self) -> Option<Duration> {
        if let Some(given) = self.optional(&schema::CONNECTION_TERMINATION_DEADLINE, duration)? {
            return Some(given);
        }
        let grace = self.optional(&schema::TERMINATION_GRACE_PERIOD_SECONDS, seconds)?;
        Some(match grace {
            None => Duration::from_secs(5),
            Some(grace) => {
                let reserve = if grace > 10 { 5 } else { 1 };
                Duration::from_secs(grace.saturating_sub(reserve).max(1))
            }
        })
    }

    /// Whether DNS questions are captured: as said, or as said in Istio's words, or not.
    pub(super) fn dns_capture(&mut self, on_demand: bool) -> Option<bool> {
        let given = self.optional(&schema::WARREN_DNS_CAPTURE, boolean)?;
        let (setting, on) = match (given, self.value(&schema::DNS_CAPTURE)) {
            (Some(on), _) => (&schema::WARREN_DNS_CAPTURE, on),
            (None, value) => (&schema::DNS_CAPTURE, value.is_some_and(|value| value == "true")),
        };
        if on && on_demand {
            let cause = "cannot be used together with XDS_ON_DEMAND".to_owned();
            self.refuse(setting, Some("true".to_owned()), cause);
            return None;
        }
        Some(on)
    }

    /// The variable, with an empty value meaning not set.
    fn value(&self, setting: &Setting) -> Option<String> {
        self.environment.get(setting.name).filter(|value| !value.is_empty()).map(str::to_owned)
    }

    /// Every variable whose name begins with the setting's, up to its `*`.
    pub(super) fn prefixed<T>(
        &mut self,
        setting: &Setting,
        parser: impl Fn(&str, &str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let prefix = setting.name.trim_end_matches('*');
        let parsed = self.environment.with_prefix(prefix).map(|(name, value)| parser(name, value));
        match parsed.collect::<Result<_, _>>() {
            Ok(values) => Some(values),
            Err(cause) => {
                self.refuse(setting, None, cause);
                None
            }
        }
    }

    /// Every variable whose name begins with the setting's, up to its `*`, as it is.
    pub(super) fn with_prefix(&self, setting: &Setting) -> Vec<(String, String)> {
        let prefix = setting.name.trim_end_matches('*');
        let named = |(rest, value): (&str, &str)| (format!("{prefix}{rest}"), value.to_owned());
        self.environment.with_prefix(prefix).map(named).collect()
    }

    /// Records that a setting is refused, with the value it has.
    pub(super) fn refuse_set(&mut self, setting: &Setting, cause: &str) {
        let value = self.value(setting);
        self.refuse(setting, value, cause.to_owned());
    }

    fn refuse(&mut self, setting: &Setting, value: Option<String>, cause: String) {
        self.errors.push(ConfigError { setting: setting.name, value, cause });
    }
}

pub(super) fn text(value: &str) -> Result<String, String> {
    if value.chars().any(char::is_control) {
        return Err("expected text without control characters".to_owned());
    }
    Ok(value.to_owned())
}

pub(super) fn path(value: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(value);
    if path.is_absolute() { Ok(path) } else { Err("expected an absolute path".to_owned()) }
}

/// A name that is safe as the last part of a path.
pub(super) fn file_name(value: &str) -> Result<String, String> {
    let valid = (1..=253).contains(&value.len())
        && !value.starts_with('.')
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    if valid {
        Ok(value.to_owned())
    } else {
        Err("expected 1 to 253 letters, digits, '.', '-' or '_', not starting with '.'".to_owned())
    }
}

pub(super) fn trust_domain(value: &str) -> Result<TrustDomain, String> {
    TrustDomain::parse(value).map_err(|error| error.to_string())
}

/// Other names of a trust domain, separated by commas.
pub(super) fn trust_domains(value: &str) -> Result<Vec<TrustDomain>, String> {
    let names = value.split(',').map(str::trim).filter(|name| !name.is_empty());
    let names: Vec<_> = names.map(trust_domain).collect::<Result<_, _>>()?;
    if names.len() > ALIASES_MAX {
        return Err(format!("expected at most {ALIASES_MAX} trust domains"));
    }
    Ok(names)
}

pub(super) fn compliance(value: &str) -> Result<Compliance, String> {
    match value {
        "" => Ok(Compliance::Default),
        "pqc" => Ok(Compliance::Pqc),
        _ => Err("expected pqc or nothing".to_owned()),
    }
}

pub(super) fn cluster_domain(value: &str) -> Result<ClusterDomain, String> {
    ClusterDomain::parse(value).map_err(|_| "expected a domain such as cluster.local".to_owned())
}

pub(super) fn network(value: &str) -> Result<Network, String> {
    // Network and address are written `network/address` in the mesh file.
    if value.contains('/') {
        return Err("expected a network's name, without '/'".to_owned());
    }
    text(value).map(|name| Network(name.into()))
}

pub(super) fn unenforceable_deny(value: &str) -> Result<UnenforceableDeny, String> {
    match value {
        "deny" => Ok(UnenforceableDeny::Deny),
        "ignore" => Ok(UnenforceableDeny::Ignore),
        _ => Err("expected deny or ignore".to_owned()),
    }
}

pub(super) fn boolean(value: &str) -> Result<bool, String> {
    match value {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err("expected true or false".to_owned()),
    }
}

pub(super) fn seconds(value: &str) -> Result<u64, String> {
    value.parse().map_err(|_| "expected a whole number of seconds".to_owned())
}

pub(super) fn count(value: &str) -> Result<u32, String> {
    value
        .parse::<NonZeroU32>()
        .map(NonZeroU32::get)
        .map_err(|_| "expected a whole number above 0".to_owned())
}

pub(super) fn positive(value: &str) -> Result<NonZeroUsize, String> {
    value.parse().map_err(|_| "expected a whole number above 0".to_owned())
}

/// A whole number with `ms`, `s`, `m` or `h`.
pub(super) fn duration(value: &str) -> Result<Duration, String> {
    let wrong = || "expected a duration such as 500ms, 10s, 5m or 24h".to_owned();
    let unit_at = value.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = value.split_at(unit_at);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let duration = match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3600).map(Duration::from_secs),
        _ => None,
    };
    duration.ok_or_else(wrong)
}

/// The lifetime of a certificate.
pub(super) fn lifetime(value: &str) -> Result<Duration, String> {
    let (least, most) = (Duration::from_secs(10), Duration::from_hours(2160));
    let lifetime = duration(value)?;
    if (least..=most).contains(&lifetime) {
        Ok(lifetime)
    } else {
        Err("expected 10s to 2160h".to_owned())
    }
}

/// An HTTP/2 window: RFC 9113, section 6.9.2.
pub(super) fn window(value: &str) -> Result<u32, String> {
    const WINDOW_MAX: u32 = (1 << 31) - 1;
    match value.parse() {
        Ok(size @ 65_535..=WINDOW_MAX) => Ok(size),
        Ok(_) | Err(_) => Err(format!("expected 65535 to {WINDOW_MAX} bytes")),
    }
}

/// An HTTP/2 frame size: RFC 9113, section 6.5.2.
pub(super) fn frame_size(value: &str) -> Result<u32, String> {
    match value.parse() {
        Ok(size @ 16_384..=16_777_215) => Ok(size),
        Ok(_) | Err(_) => Err("expected 16384 to 16777215 bytes".to_owned()),
    }
}

pub(super) fn ip(value: &str) -> Result<IpAddr, String> {
    value.parse().map_err(|_| "expected an IP address".to_owned())
}

pub(super) fn socket(value: &str) -> Result<SocketAddr, String> {
    value.parse().map_err(|_| "expected an address such as [::]:15020".to_owned())
}

/// An address that only this host reaches.
pub(super) fn loopback(value: &str) -> Result<SocketAddr, String> {
    let address = socket(value)?;
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err("expected a loopback address such as 127.0.0.1:15000".to_owned())
    }
}

pub(super) fn threads(value: &str) -> Result<NonZeroUsize, String> {
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let most = NonZeroUsize::new(usize::from(MAX_THREADS)).unwrap_or(NonZeroUsize::MIN);
    match value {
        "" | "0" => Ok(cores.min(most)),
        _ => match value.parse::<NonZeroUsize>() {
            Ok(threads) if threads <= most => Ok(threads),
            Ok(_) | Err(_) => Err(format!("expected 0 to {most}")),
        },
    }
}

pub(super) fn redirection(value: &str) -> Result<Wish, String> {
    Wish::parse(value).ok_or_else(|| "expected auto, ebpf, ebpf-root or external".to_owned())
}

/// A mark is told from others by its low twelve bits; zero is that of everybody.
pub(super) fn mark(value: &str) -> Result<u32, String> {
    match value.parse() {
        Ok(mark @ 1..=0xfff) => Ok(mark),
        _ => Err("expected a whole number from 1 to 4095".to_owned()),
    }
}

pub(super) fn same_node(value: &str) -> Result<SameNode, String> {
    match value {
        "relay" => Ok(SameNode::Relay),
        "tunnel" => Ok(SameNode::Tunnel),
        _ => Err("expected relay or tunnel".to_owned()),
    }
}

pub(super) fn require_waypoint(value: &str) -> Result<RequireWaypoint, String> {
    match value {
        "off" => Ok(RequireWaypoint::Off),
        "enforce" => Ok(RequireWaypoint::Enforce),
        _ => Err("expected off or enforce".to_owned()),
    }
}

pub(super) fn tunnel_address(value: &str) -> Result<TunnelAddress, String> {
    let of = |localhost| if localhost { TunnelAddress::Loopback } else { TunnelAddress::Pod };
    boolean(value).map(of)
}

pub(super) fn log_format(value: &str) -> Result<LogFormat, String> {
    match value {
        "plain" => Ok(LogFormat::Plain),
        "json" => Ok(LogFormat::Json),
        _ => Err("expected plain or json".to_owned()),
    }
}

/// The name of a congestion control (`TCP_CA_NAME_MAX` is 16 with its zero byte).
pub(super) fn congestion(value: &str) -> Result<String, String> {
    let valid = value.len() < 16 && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if valid { Ok(value.to_owned()) } else { Err("expected a name such as cubic".to_owned()) }
}

pub(super) fn cidrs(value: &str) -> Result<Vec<IpNet>, String> {
    let parse = |part: &str| {
        let part = part.trim();
        part.parse::<IpNet>().map_err(|_| format!("{part:?} is not a CIDR such as 10.0.0.0/8"))
    };
    let nets: Vec<_> = value
        .split(',')
        .filter(|part| !part.trim().is_empty())
        .map(parse)
        .collect::<Result<_, _>>()?;
    if nets.len() > BYPASS_MAX {
        return Err(format!("expected at most {BYPASS_MAX} CIDRs"));
    }
    Ok(nets)
}
