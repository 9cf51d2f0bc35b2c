//! What is wrong with a policy, and what that makes of it.

use std::fmt;

use crate::Condition;

/// The condition that says whether nodes enforce an object as it is written.
pub const CONDITION: &str = "ZtunnelAccepted";
/// Most problems of one object that a condition lists; it says how many more there are. An API
/// server refuses messages of more than 32 KiB.
pub const PROBLEMS_MAX: usize = 16;
/// Characters of a value or a cause that a message repeats; the rest is cut.
const TEXT_CHARS_MAX: usize = 120;

/// Reasons of [`CONDITION`].
pub mod reason {
    /// Nodes enforce it as it is written.
    pub const ACCEPTED: &str = "Accepted";
    /// Something in it is not for nodes, or is no value of its kind.
    pub const UNSUPPORTED_VALUE: &str = "UnsupportedValue";
    /// It was not understood.
    pub const UNREADABLE: &str = "Unreadable";
    /// Another object of the same level is older, and counts.
    pub const OVERRIDDEN: &str = "Overridden";
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// Such as `rules[0].to[1].operation.methods`; empty for the whole object.
    pub(super) field: String,
    pub(super) cause: Cause,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Cause {
    #[error("cannot be checked at layer 4")]
    Layer7,
    #[error("is not a known field")]
    Unknown,
    #[error("says nothing")]
    Empty,
    #[error("{value:?} is not {expected}")]
    Value { value: String, expected: &'static str },
    #[error("{0}")]
    Unreadable(String),
    #[error("{0}")]
    Said(&'static str),
    #[error("makes {length} bytes of what is sent, more than the {max} that a node reads")]
    TooLong { length: usize, max: usize },
}

impl Cause {
    pub(super) fn value(value: &str, expected: &'static str) -> Self {
        Self::Value { value: shortened(value), expected }
    }

    pub(super) fn unreadable(cause: &str) -> Self {
        Self::Unreadable(shortened(cause))
    }

    pub(super) fn at(self, field: impl Into<String>) -> Problem {
        Problem { field: field.into(), cause: self }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&*self.field, &self.cause) {
            ("", cause) => cause.fmt(f),
            // The cause begins with the field already, inside the spec.
            (field, Cause::Unreadable(cause)) => write!(f, "{field}.{cause}"),
            (field, cause) => write!(f, "{} {cause}", shortened(field)),
        }
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(TEXT_CHARS_MAX).collect()
}

/// What an object is for nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Enforced as it is written.
    AsWritten,
    /// Some ALLOW rules are left out.
    RulesLeftOut,
    /// Every ALLOW rule is left out.
    NothingAllowed,
    /// Some DENY rules match every connection, or the policy is one such rule.
    DeniesScope,
    /// As [`Effect::DeniesScope`], of a policy that decides nothing.
    WouldDenyScope,
    /// Mutual TLS is demanded wherever it is bound.
    Strict,
    /// What is wrong is not looked at.
    PartIgnored,
    /// It does nothing.
    None,
    /// A waypoint enforces it.
    Waypoint,
}

impl Effect {
    fn sentence(self) -> &'static str {
        match self {
            Self::AsWritten => "nodes enforce it as it is written",
            Self::RulesLeftOut => {
                "the ALLOW rules with it are left out, so less is allowed than was written"
            }
            Self::NothingAllowed => {
                "no ALLOW rule is left, so it allows nothing and denies everything in its scope \
                 that no other policy allows"
            }
            Self::DeniesScope => "it denies everything in its scope",
            Self::WouldDenyScope => "in this dry run it would deny everything in its scope",
            Self::Strict => "mutual TLS is demanded everywhere in its scope",
            Self::PartIgnored => "this part is ignored, the rest is enforced",
            Self::None => "it has no effect on nodes",
            Self::Waypoint => "the waypoint of its target enforces it, nodes do not",
        }
    }
}

/// What is said about an object that does not count, because of another of its level.
pub(super) fn overridden(by: &str) -> Condition {
    let message = format!("{by} counts instead: the oldest of a level does, or one not understood");
    let reason = reason::OVERRIDDEN;
    Condition { kind: CONDITION, status: false, reason, message: message.into() }
}

/// All that is to be said about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remarks {
    pub(super) problems: Vec<Problem>,
    pub(super) effect: Effect,
}

impl Remarks {
    pub(super) const ACCEPTED: Self = Self { problems: Vec::new(), effect: Effect::AsWritten };

    pub(super) fn new(problems: Vec<Problem>, effect: Effect) -> Self {
        Self { problems, effect }
    }

    /// As it is written into the object's status; `None` for one that is not for nodes: whether a
    /// waypoint enforces it depends on others.
    pub(super) fn nodes_condition(&self) -> Option<Condition> {
        (self.effect != Effect::Waypoint).then(|| self.condition())
    }

    /// As it is written into the status of an object for nodes.
    pub(super) fn condition(&self) -> Condition {
        let is_unreadable =
            self.problems.iter().any(|problem| matches!(problem.cause, Cause::Unreadable(_)));
        let reason = match (&*self.problems, self.effect) {
            _ if is_unreadable => reason::UNREADABLE,
            ([], Effect::AsWritten) => reason::ACCEPTED,
            ([..], _) => reason::UNSUPPORTED_VALUE,
        };
        Condition {
            kind: CONDITION,
            status: reason == reason::ACCEPTED,
            reason,
            message: self.to_string().into(),
        }
    }

    /// Nothing, or each problem and what they come to.
    pub(super) fn verdict(&self) -> Result<(), Vec<String>> {
        if self.problems.is_empty() {
            return Ok(());
        }
        let mut reasons: Vec<String> =
            self.problems.iter().take(PROBLEMS_MAX).map(ToString::to_string).collect();
        if let Some(more) = self.more() {
            reasons.push(more);
        }
        reasons.push(self.effect.sentence().to_owned());
        Err(reasons)
    }

    fn more(&self) -> Option<String> {
        let more = self.problems.len().checked_sub(PROBLEMS_MAX).filter(|more| *more > 0)?;
        Some(format!("and {more} more"))
    }
}

impl fmt::Display for Remarks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.problems.iter().take(PROBLEMS_MAX).enumerate() {
            let separator = if number == 0 { "" } else { ", " };
            write!(f, "{separator}{problem}")?;
        }
        if let Some(more) = self.more() {
            write!(f, ", {more}")?;
        }
        let separator = if self.problems.is_empty() { "" } else { ": " };
        write!(f, "{separator}{}", self.effect.sentence())
    }
}
