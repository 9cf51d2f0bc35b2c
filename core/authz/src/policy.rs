//! Policies as an operator means them (`istio.security.Authorization`), already parsed.
//!
//! Rules are OR-ed, the clauses of a rule AND-ed, the matches of a clause OR-ed, the types of a
//! match AND-ed and the values of a type OR-ed. Everything that cannot be expressed here was
//! refused by the parser, never dropped: a dropped condition widens an ALLOW.

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;
use model::PolicyName;

/// Which workloads a policy is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Every workload of the mesh.
    Global,
    /// Every workload of the policy's namespace; of the mesh, if that is the root namespace.
    Namespace,
    /// The workloads that name it.
    WorkloadSelector,
}

/// What a match means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The connection is one of those that may pass.
    Allow,
    /// The connection is refused.
    Deny,
}

/// Whether a policy decides or only reports what it would have decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// It decides.
    #[default]
    Enforce,
    /// It leaves a [`crate::DryRunNote`] and decides nothing.
    DryRun,
}

/// One authorization policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Namespace and name.
    pub name: PolicyName,
    /// Which workloads it is for.
    pub scope: Scope,
    /// What a match means.
    pub action: Action,
    /// Whether it decides.
    pub mode: Mode,
    /// OR-ed. Without rules nothing matches: an ALLOW without rules denies everything.
    pub rules: Vec<Rule>,
}

/// Clauses, AND-ed. Without clauses everything matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// The clauses; `from`, `to` and `when` of the source resource.
    pub clauses: Vec<Clause>,
}

/// Matches, OR-ed. Without matches everything matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clause {
    /// The alternatives.
    pub matches: Vec<Match>,
}

/// Conditions on one connection, AND-ed.
///
/// With no condition at all it stands for one that layer 4 cannot check: it never matches in an
/// ALLOW policy, and in a DENY policy it does what [`crate::UnenforceableDeny`] says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// Namespace of the peer's identity; the empty string for a peer without one.
    pub namespaces: Filter<StringMatch>,
    /// The peer's identity without `spiffe://`. A peer without identity matches no value.
    pub principals: Filter<StringMatch>,
    /// Service account of the peer's identity, whatever its trust domain.
    pub service_accounts: Filter<ServiceAccount>,
    /// The client's address.
    pub source_ips: Filter<IpNet>,
    /// The workload's address.
    pub destination_ips: Filter<IpNet>,
    /// The workload's port, after the service port was translated.
    pub destination_ports: Filter<u16>,
}

impl Match {
    /// Whether it holds no condition that layer 4 can check.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.namespaces.is_empty()
            && self.principals.is_empty()
            && self.service_accounts.is_empty()
            && self.source_ips.is_empty()
            && self.destination_ips.is_empty()
            && self.destination_ports.is_empty()
    }
}

/// Values of one type. An empty `any_of` constrains nothing; `none_of` always holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter<T> {
    /// One of these, if there are any.
    pub any_of: Vec<T>,
    /// And none of these.
    pub none_of: Vec<T>,
}

impl<T> Default for Filter<T> {
    fn default() -> Self {
        Self { any_of: Vec::new(), none_of: Vec::new() }
    }
}

impl<T> Filter<T> {
    /// Whether it constrains nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.any_of.is_empty() && self.none_of.is_empty()
    }
}

/// A pattern for a string. Istio's `*` is `Presence`, `*x` is `Suffix` and `x*` is `Prefix`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StringMatch {
    /// The whole string.
    Exact(Arc<str>),
    /// Its beginning.
    Prefix(Arc<str>),
    /// Its end.
    Suffix(Arc<str>),
    /// Any string that is not empty.
    Presence,
}

const SCHEME: &str = "spiffe://";

impl StringMatch {
    /// The same pattern for an identity without `spiffe://`, whichever form it was written in.
    ///
    /// A suffix that begins with the scheme can only be a whole identity.
    #[must_use]
    pub fn into_principal(self) -> Self {
        let strip = |text: &Arc<str>| text.strip_prefix(SCHEME).map(Arc::from);
        match &self {
            Self::Exact(text) | Self::Suffix(text) => strip(text).map(Self::Exact),
            Self::Prefix(text) => strip(text).map(Self::Prefix),
            Self::Presence => None,
        }
        .unwrap_or(self)
    }
}

impl fmt::Display for StringMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => Quoted(&[text]).fmt(f),
            Self::Prefix(text) => write!(f, "{}*", Quoted(&[text])),
            Self::Suffix(text) => write!(f, "*{}", Quoted(&[text])),
            Self::Presence => f.write_str("any"),
        }
    }
}

/// A text in quotes, from its parts. Names come from outside, and what is shown of them cannot end
/// a line. Nearly all of them need no escapes, which is told much faster than it is done.
pub(crate) struct Quoted<'t>(pub(crate) &'t [&'t str]);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for part in self.0 {
            let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
            if part.bytes().all(plain) {
                f.write_str(part)?;
            } else {
                write!(f, "{}", part.escape_debug())?;
            }
        }
        f.write_str("\"")
    }
}

/// A service account, in any trust domain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceAccount {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl fmt::Display for ServiceAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Quoted(&[&self.namespace, "/", &self.name]).fmt(f)
    }
}

/// The types of condition in a [`Match`], in the order of reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MatchType {
    /// [`Match::namespaces`].
    Namespaces,
    /// [`Match::principals`].
    Principals,
    /// [`Match::service_accounts`].
    ServiceAccounts,
    /// [`Match::source_ips`].
    SourceIps,
    /// [`Match::destination_ips`].
    DestinationIps,
    /// [`Match::destination_ports`].
    DestinationPorts,
}

impl MatchType {
    /// Every type, in the order in which a miss is reported.
    pub const ALL: [Self; 6] = [
        Self::Namespaces,
        Self::Principals,
        Self::ServiceAccounts,
        Self::SourceIps,
        Self::DestinationIps,
        Self::DestinationPorts,
    ];

    /// The key of the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Namespaces => "namespaces",
            Self::Principals => "principals",
            Self::ServiceAccounts => "serviceAccounts",
            Self::SourceIps => "sourceIps",
            Self::DestinationIps => "destinationIps",
            Self::DestinationPorts => "destinationPorts",
        }
    }
}

impl fmt::Display for MatchType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of types of condition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MatchTypes(u8);

impl MatchTypes {
    fn bit(kind: MatchType) -> u8 {
        match kind {
            MatchType::Namespaces => 1,
            MatchType::Principals => 1 << 1,
            MatchType::ServiceAccounts => 1 << 2,
            MatchType::SourceIps => 1 << 3,
            MatchType::DestinationIps => 1 << 4,
            MatchType::DestinationPorts => 1 << 5,
        }
    }

    /// Whether the type is one of them.
    #[must_use]
    pub fn contains(self, kind: MatchType) -> bool {
        self.0 & Self::bit(kind) != 0
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// They, in the order of reports.
    pub fn iter(self) -> impl Iterator<Item = MatchType> {
        MatchType::ALL.into_iter().filter(move |kind| self.contains(*kind))
    }

    pub(crate) fn len(self) -> u32 {
        self.0.count_ones()
    }

    pub(crate) fn insert(&mut self, kind: MatchType) {
        self.0 |= Self::bit(kind);
    }

    /// Those that are not among `others`.
    pub(crate) fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// The types of both.
    pub(crate) fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for MatchTypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, kind) in self.iter().enumerate() {
            let separator = if number == 0 { "" } else { ", " };
            write!(f, "{separator}{kind}")?;
        }
        Ok(())
    }
}
