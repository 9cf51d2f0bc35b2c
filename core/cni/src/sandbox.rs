//! What names a pod and its sandbox. Each is checked when it is read, because the agent makes paths
//! of cgroups and namespaces from them.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Longest path of a network namespace: the kernel's `PATH_MAX`, without its zero.
const NETNS_BYTES_MAX: usize = 4095;

/// A name that cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SandboxError {
    /// Nothing where something is needed.
    #[error("the {0} is empty")]
    Empty(&'static str),
    /// Longer than such a name can be.
    #[error("the {what} is longer than {max} characters")]
    TooLong {
        /// Which.
        what: &'static str,
        /// Its bound.
        max: usize,
    },
    /// A character that such a name cannot have, or not in that place.
    #[error("the {what} has {character:?} where it cannot be")]
    Character {
        /// Which.
        what: &'static str,
        /// The first such character.
        character: char,
    },
    /// Not absolute.
    #[error("the path of the network namespace is not absolute: {0:?}")]
    NetnsRelative(String),
    /// Has `..`, `.` or an empty step, so that it would be another path than it seems.
    #[error("the path of the network namespace is not plain: {0:?}")]
    NetnsNotPlain(String),
}

fn check(
    what: &'static str,
    text: &str,
    max: usize,
    allowed: fn(char) -> bool,
) -> Result<(), SandboxError> {
    let Some(first) = text.chars().next() else { return Err(SandboxError::Empty(what)) };
    if text.len() > max {
        return Err(SandboxError::TooLong { what, max });
    }
    if !first.is_ascii_alphanumeric() {
        return Err(SandboxError::Character { what, character: first });
    }
    match text.chars().find(|&character| !allowed(character)) {
        Some(character) => Err(SandboxError::Character { what, character }),
        None => Ok(()),
    }
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident: $what:literal, $max:literal, $allowed:expr;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks `text`.
            pub fn new(text: impl Into<String>) -> Result<Self, SandboxError> {
                let text = text.into();
                check($what, &text, $max, $allowed)?;
                Ok(Self(text))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = SandboxError;

            fn try_from(text: String) -> Result<Self, SandboxError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )+};
}

names! {
    /// The UID of a pod as the kubelet knows it. For a static pod that is a hash, not a UUID.
    PodUid: "UID of the pod", 64, |c| c.is_ascii_alphanumeric() || c == '-';
    /// A namespace of Kubernetes.
    Namespace: "namespace of the pod", 63, is_label;
    /// The name of a pod.
    PodName: "name of the pod", 253, |c| is_label(c) || c == '.';
    /// The id of a sandbox: what a runtime calls the container that holds a pod's namespaces.
    SandboxId: "id of the sandbox", 256, |c| c.is_ascii_alphanumeric() || "_.-".contains(c);
    /// The name of an interface in a sandbox.
    InterfaceName: "name of the interface", 15, |c| c.is_ascii_graphic() && !"/:".contains(c);
}

fn is_label(character: char) -> bool {
    character.is_ascii_lowercase() || character.is_ascii_digit() || character == '-'
}

/// The path of a network namespace as a runtime gives it: absolute and without detours.
///
/// It may still be, or pass, a symlink: whoever opens it checks what was opened.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NetnsPath(String);

impl NetnsPath {
    /// Checks `text`.
    pub fn new(text: impl Into<String>) -> Result<Self, SandboxError> {
        let text = text.into();
        if text.is_empty() {
            return Err(SandboxError::Empty("path of the network namespace"));
        }
        if text.len() > NETNS_BYTES_MAX {
            let what = "path of the network namespace";
            return Err(SandboxError::TooLong { what, max: NETNS_BYTES_MAX });
        }
        let Some(steps) = text.strip_prefix('/') else {
            return Err(SandboxError::NetnsRelative(text));
        };
        let plain = |step: &str| !matches!(step, "" | "." | "..");
        if !steps.split('/').all(plain) || text.chars().any(char::is_control) {
            return Err(SandboxError::NetnsNotPlain(text));
        }
        Ok(Self(text))
    }

    /// As a path.
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl TryFrom<String> for NetnsPath {
    type Error = SandboxError;

    fn try_from(text: String) -> Result<Self, SandboxError> {
        Self::new(text)
    }
}

impl From<NetnsPath> for String {
    fn from(path: NetnsPath) -> Self {
        path.0
    }
}

impl fmt::Display for NetnsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests;
