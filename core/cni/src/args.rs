//! `CNI_ARGS`: which pod a runtime of Kubernetes makes a sandbox for.

use crate::sandbox::{Namespace, PodName, PodUid, SandboxError};

/// Why the variable cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ArgsError {
    #[error("CNI_ARGS has {0:?}, which is not a pair of a key and a value")]
    NotAPair(String),
    #[error("CNI_ARGS has {0} more than once")]
    Twice(&'static str),
    #[error("CNI_ARGS has {0:?}, which is not known here, and IgnoreUnknown is not set")]
    Unknown(String),
    #[error("IgnoreUnknown in CNI_ARGS is {0:?}, which is neither 1 nor 0")]
    IgnoreUnknown(String),
    #[error("CNI_ARGS has no {0}, but others of Kubernetes")]
    Missing(&'static str),
    #[error("CNI_ARGS: {0}")]
    Invalid(#[from] SandboxError),
}

/// What CNI_ARGS says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Args {
    /// No key of Kubernetes: another runtime's network, whose pods are not ours to hold.
    Elsewhere,
    /// A pod.
    Kubernetes(Kubernetes),
}

/// The pod. Its namespace is always there: without, nobody could say whether it may pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kubernetes {
    pub(crate) namespace: Namespace,
    name: Option<String>,
    uid: Option<String>,
}

const NAMESPACE: &str = "K8S_POD_NAMESPACE";
const NAME: &str = "K8S_POD_NAME";
const UID: &str = "K8S_POD_UID";
const SANDBOX: &str = "K8S_POD_INFRA_CONTAINER_ID";

impl Args {
    /// Reads `A=1;B=2`. Runtimes of Kubernetes set IgnoreUnknown; without it a key that is not
    /// known here is an error, as the convention has it.
    pub(crate) fn parse(text: &str) -> Result<Self, ArgsError> {
        let mut namespace = None;
        let mut name = None;
        let mut uid = None;
        let mut sandbox = None;
        let mut ignore = None;
        let mut unknown = None;
        for pair in text.split(';').filter(|pair| !pair.is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(ArgsError::NotAPair(pair.to_owned()));
            };
            match key {
                NAMESPACE => once(&mut namespace, NAMESPACE, value)?,
                NAME => once(&mut name, NAME, value)?,
                UID => once(&mut uid, UID, value)?,
                SANDBOX => once(&mut sandbox, SANDBOX, value)?,
                "IgnoreUnknown" => once(&mut ignore, "IgnoreUnknown", value)?,
                other => unknown = unknown.or(Some(other)),
            }
        }
        if let Some(key) = unknown
            && !ignores_unknown(ignore)?
        {
            return Err(ArgsError::Unknown(key.to_owned()));
        }
        let Some(namespace) = namespace else {
            return match name.or(uid).or(sandbox) {
                Some(_) => Err(ArgsError::Missing(NAMESPACE)),
                None => Ok(Self::Elsewhere),
            };
        };
        Ok(Self::Kubernetes(Kubernetes {
            namespace: Namespace::new(namespace)?,
            name: name.map(str::to_owned),
            uid: uid.map(str::to_owned),
        }))
    }
}

impl Kubernetes {
    pub(crate) fn name(&self) -> Result<PodName, ArgsError> {
        Ok(PodName::new(self.name.as_deref().ok_or(ArgsError::Missing(NAME))?)?)
    }

    pub(crate) fn uid(&self) -> Result<PodUid, ArgsError> {
        Ok(PodUid::new(self.uid.as_deref().ok_or(ArgsError::Missing(UID))?)?)
    }
}

/// Twice is refused: which of the two would name the pod?
fn once<'a>(
    slot: &mut Option<&'a str>,
    key: &'static str,
    value: &'a str,
) -> Result<(), ArgsError> {
    match slot.replace(value) {
        Some(_) => Err(ArgsError::Twice(key)),
        None => Ok(()),
    }
}

fn ignores_unknown(value: Option<&str>) -> Result<bool, ArgsError> {
    match value.map(str::to_ascii_lowercase).as_deref() {
        Some("1" | "true") => Ok(true),
        Some("0" | "false") | None => Ok(false),
        Some(other) => Err(ArgsError::IgnoreUnknown(other.to_owned())),
    }
}

#[cfg(test)]
mod tests;
