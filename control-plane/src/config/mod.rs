//! Settings: flags, each with an environment variable, and a file in MeshConfig's shape. Parsed once.

mod arguments;
mod mesh;

use std::fmt;
use std::path::PathBuf;

use translate::Settings;

pub use arguments::{Arguments, ServeArguments, TokenVerb, Verb};

/// What a control plane is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// The flags.
    pub arguments: ServeArguments,
    /// Where objects come from.
    pub source: Source,
    /// The mesh.
    pub settings: Settings,
    /// Whom a namespace or a proxy may call a node's agent: `namespace/service-account`.
    pub node_accounts: Vec<(String, String)>,
    /// Whom it serves as gateways beside those of Gateway objects.
    pub gateway_accounts: Vec<(String, String)>,
    /// Names of settings in the file that are not read here.
    pub unread: Vec<String>,
}

/// Where objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A folder of manifests.
    Manifests(PathBuf),
    /// An API server: of this file, or of the cluster that this process runs in.
    Kubernetes(Option<PathBuf>),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifests(folder) => write!(f, "{}", folder.display()),
            Self::Kubernetes(_) => f.write_str("kubernetes"),
        }
    }
}

/// A setting that is wrong, for people.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{setting}: {cause}")]
pub struct ConfigError {
    setting: String,
    cause: String,
}

impl ConfigError {
    fn new(setting: impl Into<String>, cause: impl fmt::Display) -> Self {
        Self { setting: setting.into(), cause: cause.to_string() }
    }
}

impl Config {
    /// Checks the flags and reads the file.
    pub fn new(arguments: ServeArguments) -> Result<Self, ConfigError> {
        let source = source(&arguments);
        let (settings, unread) = mesh::settings(&arguments)?;
        let accounts = |setting, texts: &[String]| -> Result<Vec<_>, _> {
            texts.iter().map(|text| account(setting, text)).collect()
        };
        let node_accounts = accounts("--node-account", &arguments.node_accounts)?;
        let gateway_accounts = accounts("--gateway-account", &arguments.gateway_accounts)?;
        if let Source::Manifests(folder) = &source
            && !folder.is_dir()
        {
            return Err(ConfigError::new(
                "--manifests",
                format!("{} is not a folder", folder.display()),
            ));
        }
        if matches!(source, Source::Manifests(_))
            && (arguments.ca_secret.is_some() || arguments.ca_signer.is_some())
        {
            let cause = "needs an API server, and --manifests has none";
            return Err(ConfigError::new("--ca-secret, --ca-signer", cause));
        }
        Ok(Self { arguments, source, settings, node_accounts, gateway_accounts, unread })
    }
}

fn source(arguments: &ServeArguments) -> Source {
    match &arguments.manifests {
        Some(folder) => Source::Manifests(folder.clone()),
        None => Source::Kubernetes(arguments.kubeconfig.clone()),
    }
}

fn account(setting: &str, text: &str) -> Result<(String, String), ConfigError> {
    match text.split_once('/') {
        Some((namespace, name))
            if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
        {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => Err(ConfigError::new(setting, format!("{text:?} is not namespace/name"))),
    }
}

#[cfg(test)]
mod tests;
