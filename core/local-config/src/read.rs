//! Readers of nodes: each returns the value, or reports the mistake and returns `None`.
//!
//! A missing value never counts: any report makes the whole file an error, so what stands in for
//! it is not used.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;
use model::{PortMapping, ServiceName};

use crate::error::Collector;
use crate::node::{Kind, Node};

/// Where a node stands in the document.
#[derive(Clone, Copy)]
pub(crate) enum Path<'p> {
    Root,
    Key(&'p Path<'p>, &'p str),
    Index(&'p Path<'p>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            // A key that is no word is shown so that dots and slashes in it do not mislead.
            Self::Key(parent, key) if !key.bytes().all(|b| b.is_ascii_alphanumeric()) => {
                write!(f, "{parent}[{key:?}]")
            }
            Self::Key(Self::Root, key) => f.write_str(key),
            Self::Key(parent, key) => write!(f, "{parent}.{key}"),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// Reads one node.
pub(crate) trait Read<T>: FnOnce(&mut Collector<'_>, &Node, &Path<'_>) -> Option<T> {}
impl<T, F: FnOnce(&mut Collector<'_>, &Node, &Path<'_>) -> Option<T>> Read<T> for F {}

/// What a node is, for people.
fn kind(node: &Node) -> &'static str {
    match node.kind {
        Kind::Null => "nothing",
        Kind::Bool(_) => "a boolean",
        Kind::Text(_) => "a text",
        Kind::List(_) => "a list",
        Kind::Map(_) => "a mapping",
    }
}

fn expected<T>(errors: &mut Collector<'_>, node: &Node, path: &Path<'_>, what: &str) -> Option<T> {
    let value = match &node.kind {
        Kind::Text(text) => Some(text.as_str()),
        Kind::Null | Kind::Bool(_) | Kind::List(_) | Kind::Map(_) => None,
    };
    let cause = match value {
        Some(_) => format!("expected {what}"),
        None => format!("expected {what}, found {}", kind(node)),
    };
    errors.push(node.position, path, value, cause);
    None
}

fn untagged(errors: &mut Collector<'_>, node: &Node, path: &Path<'_>) {
    if let Some(tag) = &node.tag {
        errors.push(node.position, path, None, format!("the tag !{tag} has no meaning here"));
    }
}

/// A text; a plain number or boolean counts as the text it was written as.
pub(crate) fn text<'n>(
    errors: &mut Collector<'_>,
    node: &'n Node,
    path: &Path<'_>,
) -> Option<&'n str> {
    untagged(errors, node, path);
    plain_text(errors, node, path)
}

/// The same, whatever its tag.
pub(crate) fn plain_text<'n>(
    errors: &mut Collector<'_>,
    node: &'n Node,
    path: &Path<'_>,
) -> Option<&'n str> {
    match &node.kind {
        Kind::Text(text) => Some(text),
        Kind::Bool(true) => Some("true"),
        Kind::Bool(false) => Some("false"),
        Kind::Null | Kind::List(_) | Kind::Map(_) => expected(errors, node, path, "a text"),
    }
}

pub(crate) fn owned_text(
    errors: &mut Collector<'_>,
    node: &Node,
    path: &Path<'_>,
) -> Option<String> {
    text(errors, node, path).map(str::to_owned)
}

pub(crate) fn boolean(errors: &mut Collector<'_>, node: &Node, path: &Path<'_>) -> Option<bool> {
    untagged(errors, node, path);
    match node.kind {
        Kind::Bool(value) => Some(value),
        Kind::Null | Kind::Text(_) | Kind::List(_) | Kind::Map(_) => {
            expected(errors, node, path, "true or false")
        }
    }
}

/// A text that `parse` accepts; otherwise the report says `what` was expected.
pub(crate) fn parsed<T>(what: &'static str, parse: impl FnOnce(&str) -> Option<T>) -> impl Read<T> {
    move |errors: &mut Collector<'_>, node: &Node, path: &Path<'_>| {
        let text = text(errors, node, path)?;
        let value = parse(text);
        if value.is_none() {
            errors.push(node.position, path, Some(text), format!("expected {what}"));
        }
        value
    }
}

/// A text with its own parser and its own explanation.
pub(crate) fn explained<T, E: fmt::Display>(
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> impl Read<T> {
    move |errors: &mut Collector<'_>, node: &Node, path: &Path<'_>| {
        let text = text(errors, node, path)?;
        match parse(text) {
            Ok(value) => Some(value),
            Err(error) => {
                errors.push(node.position, path, None, error.to_string());
                None
            }
        }
    }
}

/// One of a few words.
pub(crate) fn word<T: Copy>(words: &'static [(&'static str, T)]) -> impl Read<T> {
    move |errors: &mut Collector<'_>, node: &Node, path: &Path<'_>| {
        let text = text(errors, node, path)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let names: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            let cause = format!("expected one of {}", names.join(", "));
            errors.push(node.position, path, Some(text), cause);
        }
        found
    }
}

/// Every item of a list; the path of each ends in its index.
pub(crate) fn list<T>(
    mut item: impl FnMut(&mut Collector<'_>, &Node, &Path<'_>) -> Option<T>,
) -> impl Read<Vec<T>> {
    move |errors: &mut Collector<'_>, node: &Node, path: &Path<'_>| {
        untagged(errors, node, path);
        let Kind::List(items) = &node.kind else { return expected(errors, node, path, "a list") };
        let mut read = |(index, node)| item(errors, node, &Path::Index(path, index));
        Some(items.iter().enumerate().filter_map(&mut read).collect())
    }
}

/// Every entry of a mapping, its key as text; the path of each ends in its key.
pub(crate) fn entries<T>(
    mut entry: impl FnMut(&mut Collector<'_>, &str, &Node, &Path<'_>) -> Option<T>,
) -> impl Read<Vec<T>> {
    move |errors: &mut Collector<'_>, node: &Node, path: &Path<'_>| {
        untagged(errors, node, path);
        let Kind::Map(entries) = &node.kind else {
            return expected(errors, node, path, "a mapping");
        };
        let mut values = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let Some(key) = text(errors, key, path) else { continue };
            values.extend(entry(errors, key, value, &Path::Key(path, key)));
        }
        Some(values)
    }
}

/// A mapping with a fixed set of keys. [`Object::finish`] reports those that nobody asked for.
pub(crate) struct Object<'n, 'p> {
    path: &'p Path<'p>,
    node: &'n Node,
    fields: Vec<Field<'n>>,
}

struct Field<'n> {
    key: &'n str,
    key_node: &'n Node,
    value: &'n Node,
    used: bool,
}

impl<'n, 'p> Object<'n, 'p> {
    pub(crate) fn open(
        errors: &mut Collector<'_>,
        node: &'n Node,
        path: &'p Path<'p>,
    ) -> Option<Self> {
        untagged(errors, node, path);
        let Kind::Map(entries) = &node.kind else {
            return expected(errors, node, path, "a mapping");
        };
        let fields = entries.iter().filter_map(|(key_node, value)| {
            let key = text(errors, key_node, path)?;
            Some(Field { key, key_node, value, used: false })
        });
        Some(Self { path, node, fields: fields.collect() })
    }

    fn take(&mut self, key: &'static str) -> Option<&'n Node> {
        let field = self.fields.iter_mut().find(|field| field.key == key)?;
        field.used = true;
        Some(field.value)
    }

    /// The value of a key that may be absent.
    pub(crate) fn optional<T>(
        &mut self,
        errors: &mut Collector<'_>,
        key: &'static str,
        read: impl Read<T>,
    ) -> Option<T> {
        let node = self.take(key)?;
        read(errors, node, &Path::Key(self.path, key))
    }

    /// The same, where nothing (`null`) counts as absent.
    pub(crate) fn nullable<T>(
        &mut self,
        errors: &mut Collector<'_>,
        key: &'static str,
        read: impl Read<T>,
    ) -> Option<T> {
        let node = self.take(key).filter(|node| node.kind != Kind::Null)?;
        read(errors, node, &Path::Key(self.path, key))
    }

    /// The value of a key that must be there.
    pub(crate) fn required<T>(
        &mut self,
        errors: &mut Collector<'_>,
        key: &'static str,
        read: impl Read<T>,
    ) -> Option<T> {
        if let Some(node) = self.take(key) {
            return read(errors, node, &Path::Key(self.path, key));
        }
        errors.push(self.node.position, Path::Key(self.path, key), None, "missing");
        None
    }

    /// The node under a key, for a later report about it.
    pub(crate) fn peek(&self, key: &str) -> &'n Node {
        let field = self.fields.iter().find(|field| field.key == key);
        field.map_or(self.node, |field| field.value)
    }

    /// Reports every key that is not part of the shape.
    pub(crate) fn finish(self, errors: &mut Collector<'_>) {
        for field in self.fields.iter().filter(|field| !field.used) {
            let path = Path::Key(self.path, field.key);
            errors.push(field.key_node.position, path, None, "unknown key");
        }
    }
}

/// A port, 1 to 65535.
pub(crate) fn port(errors: &mut Collector<'_>, node: &Node, path: &Path<'_>) -> Option<NonZeroU16> {
    parsed("a port from 1 to 65535", parse_port)(errors, node, path)
}

fn parse_port(text: &str) -> Option<NonZeroU16> {
    decimal::<u16>(text).and_then(NonZeroU16::new)
}

/// A plain decimal number: no sign, no point.
pub(crate) fn decimal<T: FromStr>(text: &str) -> Option<T> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// `{service port: target port}`; the target 0 is a named port that each endpoint resolves.
pub(crate) fn port_mappings(
    errors: &mut Collector<'_>,
    node: &Node,
    path: &Path<'_>,
) -> Option<Vec<PortMapping>> {
    let read = entries(|errors, key, value, path| {
        let Some(service_port) = parse_port(key) else {
            errors.push(value.position, path, Some(key), "expected a port from 1 to 65535");
            return None;
        };
        let target = parsed("a port from 1 to 65535, or 0 for a named one", decimal::<u16>);
        let target_port = NonZeroU16::new(target(errors, value, path)?);
        Some(PortMapping { service_port, target_port })
    });
    let mut mappings = read(errors, node, path)?;
    // `80` and `"080"` are different keys and one port.
    mappings.sort_unstable();
    if mappings.windows(2).any(|pair| match pair {
        [a, b] => a.service_port == b.service_port,
        _ => false,
    }) {
        errors.push(node.position, path, None, "one service port is given twice");
    }
    Some(mappings)
}

/// An address, folded to IPv4 if it is v4-mapped.
pub(crate) fn ip(errors: &mut Collector<'_>, node: &Node, path: &Path<'_>) -> Option<IpAddr> {
    let parse = |text: &str| text.parse().ok().map(model::canonical_ip);
    parsed("an IP address", parse)(errors, node, path)
}

/// `address/length`, or an address for its own block.
pub(crate) fn block(errors: &mut Collector<'_>, node: &Node, path: &Path<'_>) -> Option<IpNet> {
    parsed("an address block such as 10.0.0.0/8", parse_block)(errors, node, path)
}

fn parse_block(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// Longest host name, in characters, and longest of its labels (RFC 1035, section 2.3.4).
const HOST_NAME_MAX: usize = 253;
const LABEL_MAX: usize = 63;

/// A host name that can be looked up, or nothing. An address is no host name.
pub(crate) fn host_name(text: &str) -> Option<Arc<str>> {
    let label = |label: &str| {
        (1..=LABEL_MAX).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    let number = |label: &str| label.bytes().all(|b| b.is_ascii_digit());
    let valid = text.len() <= HOST_NAME_MAX
        && text.split('.').all(label)
        && !text.rsplit('.').next().is_some_and(number);
    (valid || text.is_empty()).then(|| text.into())
}

/// `namespace/hostname`.
pub(crate) fn service_name(text: &str) -> Option<ServiceName> {
    ServiceName::parse(text)
}
