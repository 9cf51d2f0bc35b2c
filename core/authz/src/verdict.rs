//! What a decision says, and the proof that it said yes.

use std::fmt;
use std::net::SocketAddr;

use model::{Code, Connection, PolicyName};

use crate::policy::{MatchType, MatchTypes};

/// The outcome for one connection.
#[derive(Debug)]
pub struct Decision {
    /// May it pass?
    pub verdict: Verdict,
    /// What policies in dry-run mode would have said; at most
    /// [`crate::DRY_RUN_NOTES_MAX`], further ones are left out. ALLOW policies have no say where
    /// something denied.
    pub dry_run: Vec<DryRunNote>,
}

/// Yes or no, each with its reason.
#[derive(Debug)]
pub enum Verdict {
    /// It may pass.
    Allow(Permit),
    /// It may not.
    Deny(Denial),
}

/// Proof that [`crate::authorize`] said yes, naming the one connection it said yes to.
///
/// Neither `Clone` nor constructible elsewhere; dialling an application takes nothing else.
///
/// ```compile_fail,E0451
/// let destination = "10.0.0.1:80".parse().unwrap();
/// let _forged = authz::Permit {
///     source: destination,
///     destination,
///     reason: authz::AllowReason::NoAllowPolicy,
/// };
/// ```
///
/// ```compile_fail,E0599
/// fn twice(permit: authz::Permit) -> (authz::Permit, authz::Permit) {
///     (permit.clone(), permit)
/// }
/// ```
#[derive(Debug)]
pub struct Permit {
    source: SocketAddr,
    destination: SocketAddr,
    reason: AllowReason,
}

impl Permit {
    /// Where the bytes may go.
    #[must_use]
    pub fn destination(&self) -> SocketAddr {
        self.destination
    }

    /// Where they come from.
    #[must_use]
    pub fn source(&self) -> SocketAddr {
        self.source
    }

    /// Why.
    #[must_use]
    pub fn reason(&self) -> &AllowReason {
        &self.reason
    }

    pub(crate) fn issue(conn: &Connection, reason: AllowReason) -> Self {
        Self { source: conn.source, destination: conn.destination, reason }
    }
}

/// Why a connection may pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowReason {
    /// No enforced ALLOW policy is bound to the workload, and nothing denied.
    NoAllowPolicy,
    /// An ALLOW policy matched.
    PolicyMatched {
        /// The policy.
        policy: PolicyName,
        /// Index of the rule, from 0.
        rule: usize,
    },
}

impl AllowReason {
    /// The policy that allowed, if one did.
    #[must_use]
    pub fn policy(&self) -> Option<&PolicyName> {
        match self {
            Self::NoAllowPolicy => None,
            Self::PolicyMatched { policy, .. } => Some(policy),
        }
    }

    /// Index of the rule that allowed, from 0.
    #[must_use]
    pub fn rule(&self) -> Option<usize> {
        match self {
            Self::NoAllowPolicy => None,
            Self::PolicyMatched { rule, .. } => Some(*rule),
        }
    }
}

impl fmt::Display for AllowReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAllowPolicy => f.write_str("no ALLOW policy applies"),
            Self::PolicyMatched { policy, rule } => write!(f, "allowed by rule {rule} of {policy}"),
        }
    }
}

const UNENFORCEABLE: &str = "has a condition that layer 4 cannot check";

/// Why a connection may not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The stable reason.
    pub code: Code,
    /// The policy that decided; none if no ALLOW policy matched.
    pub policy: Option<PolicyName>,
    /// Index of the rule that matched, from 0.
    pub rule: Option<usize>,
    /// If no ALLOW policy matched: what came closest.
    pub nearest_miss: Option<Box<NearestMiss>>,
    /// What the code does not say, such as why a policy cannot be read.
    pub detail: Option<String>,
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let policy = self.policy.as_ref().map_or_else(String::new, ToString::to_string);
        match (self.code, self.rule) {
            (Code::PolicyDenied, Some(rule)) => write!(f, "denied by rule {rule} of {policy}")?,
            (Code::PolicyNotEnforceable, Some(rule)) => {
                write!(f, "rule {rule} of {policy} {UNENFORCEABLE}, and so denies")?;
            }
            (Code::PolicyNoMatch, _) => f.write_str("ALLOW policies apply, and none matched")?,
            (Code::PolicyUnreadable, _) => write!(f, "policy {policy} cannot be read")?,
            (Code::PolicyUnknown, _) => {
                write!(f, "the workload names policy {policy}, which this node does not have")?;
            }
            (code, _) => write!(f, "{code} {policy}")?,
        }
        if let Some(detail) = &self.detail {
            write!(f, ": {detail}")?;
        }
        if let Some(miss) = &self.nearest_miss {
            write!(f, "; {miss}")?;
        }
        Ok(())
    }
}

/// The ALLOW rule that came closest to matching.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NearestMiss {
    /// Its policy.
    pub policy: PolicyName,
    /// Why it did not match.
    pub miss: Miss,
}

/// Why an ALLOW policy did not match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Miss {
    /// It has no rules: it denies everything.
    NoRules,
    /// The rule holds a condition that layer 4 cannot check.
    NotEnforceable {
        /// Index of the rule, from 0.
        rule: usize,
    },
    /// A condition of the rule failed.
    Type(TypeMiss),
}

/// The condition that failed, and those that did not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeMiss {
    /// Index of the rule, from 0.
    pub rule: usize,
    /// Conditions of the rule that held.
    pub matched: MatchTypes,
    /// The first that failed.
    pub failed: MatchType,
    /// What the connection has.
    pub got: String,
    /// What the rule asks for.
    pub want: String,
    /// Further conditions that failed.
    pub also_failed: MatchTypes,
}

impl fmt::Display for NearestMiss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let policy = &self.policy;
        match &self.miss {
            Miss::NoRules => write!(f, "{policy} has no rules and so allows nothing"),
            Miss::NotEnforceable { rule } => {
                write!(f, "rule {rule} of {policy} {UNENFORCEABLE}")
            }
            Miss::Type(miss) => {
                write!(f, "rule {} of {policy} ", miss.rule)?;
                if !miss.matched.is_empty() {
                    write!(f, "matched {}, but ", miss.matched)?;
                }
                write!(f, "{}: got {}, want {}", miss.failed, miss.got, miss.want)?;
                if !miss.also_failed.is_empty() {
                    write!(f, " (also failed: {})", miss.also_failed)?;
                }
                Ok(())
            }
        }
    }
}

/// What a policy in dry-run mode would have said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DryRunNote {
    /// A DENY policy matched: it would refuse the connection.
    WouldDeny {
        /// The code it would refuse with.
        code: Code,
        /// The policy.
        policy: PolicyName,
        /// Index of the rule, from 0.
        rule: usize,
    },
    /// An ALLOW policy matched.
    WouldAllow {
        /// The policy.
        policy: PolicyName,
        /// Index of the rule, from 0.
        rule: usize,
    },
    /// No enforced ALLOW policy applies, and none of the dry-run ones matched: enforcing them
    /// would refuse the connection.
    WouldNotMatch {
        /// What came closest.
        nearest_miss: Option<Box<NearestMiss>>,
    },
}

impl fmt::Display for DryRunNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WouldDeny { code: Code::PolicyNotEnforceable, policy, rule } => {
                write!(f, "dry run: rule {rule} of {policy} {UNENFORCEABLE}, and so would deny")
            }
            Self::WouldDeny { policy, rule, .. } => {
                write!(f, "dry run: rule {rule} of {policy} would deny")
            }
            Self::WouldAllow { policy, rule } => {
                write!(f, "dry run: rule {rule} of {policy} would allow")
            }
            Self::WouldNotMatch { nearest_miss } => {
                f.write_str("dry run: no ALLOW policy would match")?;
                match nearest_miss {
                    Some(miss) => write!(f, "; {miss}"),
                    None => Ok(()),
                }
            }
        }
    }
}
