//! The chain that names the plugin: a copy of the node's own, with `warren-cni` as its last plugin,
//! under a name that outranks it.
//!
//! Runtimes take the configuration whose file name is the first in the order of bytes. The copy
//! keeps the network's name, because plugins keep their state under it, and every field that is not
//! known here, byte for byte.

use std::fmt::{self, Write as _};
use std::time::Duration;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::sandbox::Namespace;
use crate::{NETCONF_BYTES_MAX, PLUGIN, Version};

/// How long ADD waits for the agent, unless told otherwise.
pub const TIMEOUT_SECONDS: u64 = 30;
/// The longest it may: below the two minutes that a kubelet gives a runtime.
pub const TIMEOUT_SECONDS_MAX: u64 = 90;
/// Names that the copy can have, the preferred one first, each before the ones above it. A primary
/// such as Multus's `00-multus.conf` needs the second.
pub const OWN_FILES: [&str; 3] =
    ["00-warren.conflist", "00-0-warren.conflist", "!00-warren.conflist"];
/// What Cilium appends to the files of others when it is told to be exclusive. A copy of ours
/// under such a name would come back when Cilium goes, without the plugin that it names.
pub const SET_ASIDE: &str = ".cilium_bak";

/// Endings of files that runtimes read. A list of plugins has the first; the others hold one.
const LIST: &str = ".conflist";
const SINGLE: [&str; 2] = [".conf", ".json"];

/// What the plugin needs to know, which goes into its place in the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginSettings {
    socket: String,
    pass_namespaces: Vec<Namespace>,
    timeout_seconds: u64,
}

/// Settings that no plugin could work with.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The socket's path.
    #[error("the agent's socket is not an absolute path: {0:?}")]
    Socket(String),
    /// How long to wait.
    #[error("the plugin's timeout must be whole seconds from 1 to {TIMEOUT_SECONDS_MAX}: {0:?}")]
    Timeout(Duration),
    /// A namespace to pass.
    #[error("{name:?} cannot be a namespace")]
    Namespace {
        /// The text.
        name: String,
        /// Why it cannot.
        #[source]
        source: crate::SandboxError,
    },
}

impl PluginSettings {
    /// The agent's socket as the host sees it, the namespaces whose pods pass without an agent, and
    /// how long ADD waits.
    pub fn new<'a>(
        socket: &str,
        pass_namespaces: impl IntoIterator<Item = &'a str>,
        timeout: Duration,
    ) -> Result<Self, SettingsError> {
        if !socket.starts_with('/') {
            return Err(SettingsError::Socket(socket.to_owned()));
        }
        let timeout_seconds = timeout.as_secs();
        let whole = timeout.subsec_nanos() == 0;
        if !whole || !(1..=TIMEOUT_SECONDS_MAX).contains(&timeout_seconds) {
            return Err(SettingsError::Timeout(timeout));
        }
        let namespace = |name: &str| {
            let bad = |source| SettingsError::Namespace { name: name.to_owned(), source };
            Namespace::new(name).map_err(bad)
        };
        let pass_namespaces = pass_namespaces.into_iter().map(namespace);
        let mut pass_namespaces = pass_namespaces.collect::<Result<Vec<_>, _>>()?;
        // In an order of their own: the same settings make the same file.
        pass_namespaces.sort();
        pass_namespaces.dedup();
        Ok(Self { socket: socket.to_owned(), pass_namespaces, timeout_seconds })
    }
}

/// A primary configuration from which no chain can be made.
#[derive(Debug, thiserror::Error)]
pub enum ConflistError {
    /// Too long to be one.
    #[error("{file} has more than {NETCONF_BYTES_MAX} bytes")]
    TooLong {
        /// The file.
        file: String,
    },
    /// Not JSON, or not of the right kind.
    #[error("{file} cannot be read as a network configuration: {source}")]
    Unreadable {
        /// The file.
        file: String,
        /// Where, and what.
        #[source]
        source: serde_json::Error,
    },
    /// A field that every configuration has.
    #[error("{file} has no {field}")]
    Missing {
        /// The file.
        file: String,
        /// The field.
        field: &'static str,
    },
    /// Before chains, or after us.
    #[error(
        "{file} is of version {version:?} of CNI; {PLUGIN} can be chained in {}",
        Version::list()
    )]
    Version {
        /// The file.
        file: String,
        /// Its version.
        version: String,
    },
    /// There is no name before this one.
    #[error("{file} comes before every name that a chain of ours can have: rename it")]
    Outranks {
        /// The file.
        file: String,
    },
}

/// The chain to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflist {
    /// Its file's name, one of [`OWN_FILES`].
    pub file: &'static str,
    /// Its contents.
    pub contents: Vec<u8>,
}

/// Whether a file of that name is ours, whoever wrote it last.
#[must_use]
pub fn is_ours(file: &str) -> bool {
    OWN_FILES.contains(&file)
}

/// Whether runtimes read a file of that name.
#[must_use]
pub fn is_read(file: &str) -> bool {
    is_list(file) || SINGLE.iter().any(|ending| file.ends_with(ending))
}

fn is_list(file: &str) -> bool {
    file.ends_with(LIST)
}

/// The configuration that runtimes would use without us: the first by name.
pub fn primary<'a>(files: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    files.into_iter().filter(|file| is_read(file) && !is_ours(file)).min()
}

/// Whether a configuration names the plugin anywhere. Other installers copy chains, with us in them.
#[must_use]
pub fn names_plugin(contents: &[u8]) -> bool {
    // As a word: what cannot be read counts too, so that the plugin stays where it may be needed.
    contents.windows(PLUGIN.len()).any(|window| window == PLUGIN.as_bytes())
}

/// Makes the chain from the primary configuration. The same input makes the same bytes.
pub fn chain(
    file: &str,
    contents: &[u8],
    settings: &PluginSettings,
) -> Result<Conflist, ConflistError> {
    let named = || file.to_owned();
    if contents.len() > NETCONF_BYTES_MAX {
        return Err(ConflistError::TooLong { file: named() });
    }
    // The last one of the names is the first of all in the order of bytes.
    let Some(own) = OWN_FILES.into_iter().find(|own| *own < file) else {
        return Err(ConflistError::Outranks { file: named() });
    };
    let unreadable = |source| ConflistError::Unreadable { file: named(), source };
    let fields: Fields<'_> = serde_json::from_slice(contents).map_err(unreadable)?;
    let text = |field: &'static str| {
        let raw = fields.find(field).ok_or(ConflistError::Missing { file: named(), field })?;
        let text: String = serde_json::from_str(raw.get()).map_err(unreadable)?;
        if text.is_empty() {
            return Err(ConflistError::Missing { file: named(), field });
        }
        Ok(text)
    };
    text("name")?;
    let versions = versions(&fields).map_err(unreadable)?;
    if fields.find("cniVersion").is_some() || versions.is_empty() {
        let version = text("cniVersion")?;
        if Version::parse(&version).is_none() {
            return Err(ConflistError::Version { file: named(), version });
        }
    }
    let last = entry(file, settings);
    let contents = if is_list(file) {
        let raw = fields.find("plugins");
        let raw = raw.ok_or(ConflistError::Missing { file: named(), field: "plugins" })?;
        let plugins = others(file, raw)?;
        fields.with_plugins(&plugins, &last, &versions)
    } else {
        text("type")?;
        let whole: &RawValue = serde_json::from_slice(contents).map_err(unreadable)?;
        let kept = ["cniVersion", "cniVersions", "name"];
        let kept = fields.0.iter().filter(|(key, _)| kept.contains(&&**key));
        let fields = Fields(kept.cloned().collect());
        fields.with_plugins(&[whole], &last, &versions)
    };
    Ok(Conflist { file: own, contents: contents.into_bytes() })
}

/// The plugins of the primary, without ours, should somebody have put it there.
fn others<'a>(file: &str, plugins: &'a RawValue) -> Result<Vec<&'a RawValue>, ConflistError> {
    #[derive(Deserialize)]
    struct Plugin {
        #[serde(rename = "type", default)]
        kind: String,
    }
    let unreadable = |source| ConflistError::Unreadable { file: file.to_owned(), source };
    let missing = |field| ConflistError::Missing { file: file.to_owned(), field };
    let plugins: Vec<&RawValue> = serde_json::from_str(plugins.get()).map_err(unreadable)?;
    let mut others = Vec::with_capacity(plugins.len());
    for raw in plugins {
        // An array would be read as well, field by field.
        if !raw.get().starts_with('{') {
            return Err(missing("type of a plugin"));
        }
        let plugin: Plugin = serde_json::from_str(raw.get()).map_err(unreadable)?;
        if plugin.kind.is_empty() {
            return Err(missing("type of a plugin"));
        }
        if plugin.kind != PLUGIN {
            others.push(raw);
        }
    }
    if others.is_empty() { Err(missing("plugin but ours")) } else { Ok(others) }
}

/// `cniVersions`, where the primary offers several: those that ours speaks too, because a runtime
/// uses one of them for the whole chain.
fn versions(fields: &Fields<'_>) -> Result<Vec<String>, serde_json::Error> {
    let Some(raw) = fields.find("cniVersions") else { return Ok(Vec::new()) };
    let mut versions: Vec<String> = serde_json::from_str(raw.get())?;
    versions.retain(|version| Version::parse(version).is_some());
    Ok(versions)
}

/// The plugin's own place in the chain.
fn entry(primary: &str, settings: &PluginSettings) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Entry<'a> {
        #[serde(rename = "type")]
        kind: &'static str,
        socket: &'a str,
        pass_namespaces: &'a [Namespace],
        timeout_seconds: u64,
        /// For people: what the rest of the chain is a copy of.
        primary: &'a str,
    }
    let entry = Entry {
        kind: PLUGIN,
        socket: &settings.socket,
        pass_namespaces: &settings.pass_namespaces,
        timeout_seconds: settings.timeout_seconds,
        primary,
    };
    json(&entry)
}

fn json(value: &(impl Serialize + ?Sized)) -> String {
    serde_json::to_string(value).expect("strings and numbers are JSON")
}

/// The fields of an object in their order, each value as it was written.
#[derive(Clone)]
struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Fields<'a> {
    fn find(&self, key: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(found, _)| found == key).map(|(_, raw)| *raw)
    }

    /// The object again, with these plugins and then ours. What was not replaced is as it was.
    fn with_plugins(&self, plugins: &[&RawValue], last: &str, versions: &[String]) -> String {
        let plugins = plugins.iter().map(|raw| raw.get()).chain([last]);
        let plugins = format!("[\n    {}\n  ]", plugins.collect::<Vec<_>>().join(",\n    "));
        let mut lines = Vec::with_capacity(self.0.len() + 1);
        for (key, raw) in &self.0 {
            let value = match key.as_str() {
                // Its place is the last: people look there for the plugins.
                "plugins" => continue,
                "cniVersions" => json(versions),
                _ => raw.get().to_owned(),
            };
            lines.push((json(key), value));
        }
        lines.push((json(&"plugins"), plugins));
        let mut text = String::from("{");
        for (at, (key, value)) in lines.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            // Writing to a string cannot fail.
            let _ = write!(text, "{comma}\n  {key}: {value}");
        }
        text.push_str("\n}\n");
        text
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields: Self::Value = Vec::new();
                while let Some((key, raw)) = map.next_entry::<String, &'de RawValue>()? {
                    // Of two fields of one name, runtimes take the last.
                    match fields.iter_mut().find(|(found, _)| *found == key) {
                        Some(field) => field.1 = raw,
                        None => fields.push((key, raw)),
                    }
                }
                Ok(fields)
            }
        }

        deserializer.deserialize_map(Object).map(Fields)
    }
}

#[cfg(test)]
mod tests;
