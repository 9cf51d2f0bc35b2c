//! The network configuration that a runtime writes to the plugin's standard input.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::request::Valid;
use crate::sandbox::{InterfaceName, SandboxError, SandboxId};
use crate::version::Version;
use crate::{DEFAULT_SOCKET, conflist};

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetConfError {
    #[error("the network configuration cannot be read: {0}")]
    Unreadable(serde_json::Error),
    #[error("the network configuration is not one: {0}")]
    Invalid(serde_json::Error),
    #[error("{}", version_text(.0.as_deref()))]
    Version(Option<String>),
    #[error("socket is not an absolute path: {0:?}")]
    Socket(PathBuf),
    #[error("timeoutSeconds is {0}, and must be from 1 to {max}", max = conflist::TIMEOUT_SECONDS_MAX)]
    Timeout(u64),
    #[error("cni.dev/valid-attachments: {0}")]
    Attachment(#[from] SandboxError),
}

fn version_text(found: Option<&str>) -> String {
    match found {
        Some(found) => format!("cniVersion {found} is not one of {}", Version::list()),
        None => format!("cniVersion is missing, and must be one of {}", Version::list()),
    }
}

/// What is used of a configuration. All else in it is other plugins' or the runtime's, and ignored,
/// `runtimeConfig` too.
#[derive(Debug)]
pub(crate) struct NetConf<'a> {
    pub(crate) version: Version,
    /// The result of the plugins before, byte for byte.
    pub(crate) previous: Option<&'a str>,
    pub(crate) socket: PathBuf,
    /// Namespaces whose pods pass without asking.
    pub(crate) pass_namespaces: Vec<String>,
    pub(crate) timeout: Duration,
    /// What a runtime still has, at GC.
    pub(crate) valid: Option<Vec<Valid>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Read<'a> {
    #[serde(default)]
    cni_version: Option<String>,
    #[serde(borrow, default)]
    prev_result: Option<&'a RawValue>,
    #[serde(default)]
    socket: Option<PathBuf>,
    #[serde(default)]
    pass_namespaces: Vec<String>,
    #[serde(default)]
    timeout_seconds: Option<u64>,
    #[serde(rename = "cni.dev/valid-attachments", default, deserialize_with = "present")]
    valid: Option<Vec<Attachment>>,
}

#[derive(Deserialize)]
struct Attachment {
    #[serde(rename = "containerID")]
    sandbox: String,
    #[serde(rename = "ifname")]
    interface: String,
}

/// `null` is an empty list: so do runtimes in Go write one. Only an absent field is none.
fn present<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Vec<Attachment>>, D::Error> {
    let list = Option::<Vec<Attachment>>::deserialize(value)?;
    Ok(Some(list.unwrap_or_default()))
}

impl<'a> NetConf<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, NetConfError> {
        let read: Read<'a> = serde_json::from_slice(bytes).map_err(|error| {
            if error.is_data() {
                NetConfError::Invalid(error)
            } else {
                NetConfError::Unreadable(error)
            }
        })?;
        let version = read.cni_version.as_deref().and_then(Version::parse);
        let Some(version) = version else { return Err(NetConfError::Version(read.cni_version)) };
        let socket = read.socket.unwrap_or_else(|| DEFAULT_SOCKET.into());
        if !socket.is_absolute() {
            return Err(NetConfError::Socket(socket));
        }
        let seconds = read.timeout_seconds.unwrap_or(conflist::TIMEOUT_SECONDS);
        if !(1..=conflist::TIMEOUT_SECONDS_MAX).contains(&seconds) {
            return Err(NetConfError::Timeout(seconds));
        }
        let valid = read.valid.map(|valid| valid.into_iter().map(Attachment::check).collect());
        Ok(Self {
            version,
            previous: read.prev_result.map(RawValue::get),
            socket,
            pass_namespaces: read.pass_namespaces,
            timeout: Duration::from_secs(seconds),
            valid: valid.transpose()?,
        })
    }
}

impl Attachment {
    fn check(self) -> Result<Valid, SandboxError> {
        let interface = InterfaceName::new(self.interface)?;
        Ok(Valid { sandbox: SandboxId::new(self.sandbox)?, interface })
    }
}

#[cfg(test)]
mod tests;
