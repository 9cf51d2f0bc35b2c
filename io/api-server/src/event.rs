//! One line of a watch.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::status::Refusal;

/// Longest line of a watch, in bytes. An object has at most 1.5 MiB (etcd's bound), and its JSON
/// can be larger than what etcd keeps. A longer one ends the watch.
pub(crate) const LINE_MAX: usize = 4 << 20;
/// Longest resource version; they are numbers of 64 bits in practice, and opaque by contract.
pub(crate) const VERSION_MAX: usize = 128;

/// Why a line was refused.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// Not the JSON of an event about an object.
    #[error("it is not the JSON of an event")]
    Json(#[source] serde_json::Error),
    /// A kind of event that we do not know. Passing over it could lose a change.
    #[error("its type is unknown: {0:?}")]
    Unknown(String),
    /// The next watch could not go on from it.
    #[error("its object has no resource version of 1 to {VERSION_MAX} bytes")]
    NoVersion,
    /// Longer than any object.
    #[error("its line has more than {LINE_MAX} bytes")]
    TooLong,
    /// The watch ended within it.
    #[error("its line was cut off")]
    Cut,
}

/// What a line says.
#[derive(Debug)]
pub(crate) enum Event {
    /// The object is there, and is now so.
    Upsert { object: Box<RawValue>, version: String },
    /// It is there no more, and was so at last.
    Remove { object: Box<RawValue>, version: String },
    /// Nothing changed until this version.
    Bookmark { version: String },
    /// The server ends the watch.
    Refused(Refusal),
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct Object<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(borrow, default)]
    resource_version: Cow<'a, str>,
}

pub(crate) fn event(line: &[u8]) -> Result<Event, EventError> {
    let Line { kind, object } = serde_json::from_slice(line).map_err(EventError::Json)?;
    match &*kind {
        "ADDED" | "MODIFIED" => {
            Ok(Event::Upsert { version: version(object)?, object: object.to_owned() })
        }
        "DELETED" => Ok(Event::Remove { version: version(object)?, object: object.to_owned() }),
        "BOOKMARK" => Ok(Event::Bookmark { version: version(object)? }),
        "ERROR" => Ok(Event::Refused(Refusal::of_event(object.get()))),
        other => Err(EventError::Unknown(other.chars().take(VERSION_MAX).collect())),
    }
}

fn version(object: &RawValue) -> Result<String, EventError> {
    let object: Object<'_> = serde_json::from_str(object.get()).map_err(EventError::Json)?;
    let version = object.metadata.resource_version;
    if is_version(&version) { Ok(version.into_owned()) } else { Err(EventError::NoVersion) }
}

/// Whether a text can be a resource version to go on from. `0` would mean "anything you have".
pub(crate) fn is_version(text: &str) -> bool {
    (1..=VERSION_MAX).contains(&text.len()) && text != "0"
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a line says, in a few words.
    fn read(line: &str) -> String {
        match event(line.as_bytes()) {
            Ok(Event::Upsert { object, version }) => format!("upsert {version} {}", object.get()),
            Ok(Event::Remove { object, version }) => format!("remove {version} {}", object.get()),
            Ok(Event::Bookmark { version }) => format!("bookmark {version}"),
            Ok(Event::Refused(refusal)) => format!("refused {}", refusal.status),
            Err(EventError::Json(_)) => "not JSON".to_owned(),
            Err(EventError::Unknown(kind)) => format!("unknown {kind}"),
            Err(EventError::NoVersion) => "no version".to_owned(),
            Err(EventError::TooLong) => "too long".to_owned(),
            Err(EventError::Cut) => "cut".to_owned(),
        }
    }

    #[test]
    fn lines_are_read_or_refused() {
        let object = r#"{"metadata":{"name":"a","resourceVersion":"7"},"spec":{"x":[1]}}"#;
        let line = |kind: &str, object: &str| format!(r#"{{"type":"{kind}","object":{object}}}"#);
        for (line, want) in [
            (line("ADDED", object), format!("upsert 7 {object}")),
            (line("MODIFIED", object), format!("upsert 7 {object}")),
            (line("DELETED", object), format!("remove 7 {object}")),
            (line("BOOKMARK", object), "bookmark 7".to_owned()),
            (line("ERROR", r#"{"kind":"Status","code":410}"#), "refused 410".to_owned()),
            (line("ERROR", "null"), "refused 0".to_owned()),
            (line("RENAMED", object), "unknown RENAMED".to_owned()),
            (line("ADDED", r#"{"metadata":{}}"#), "no version".to_owned()),
            (line("ADDED", r#"{"metadata":{"resourceVersion":""}}"#), "no version".to_owned()),
            (line("BOOKMARK", r#"{"metadata":{"resourceVersion":"0"}}"#), "no version".to_owned()),
            (line("ADDED", r#"{"metadata":{"resourceVersion":7}}"#), "not JSON".to_owned()),
            (line("ADDED", "{}"), "not JSON".to_owned()),
            (line("ADDED", "[]"), "not JSON".to_owned()),
            (r#"{"type":"ADDED"}"#.to_owned(), "not JSON".to_owned()),
            (r#"{"type":"ADDED","object":{"metadata""#.to_owned(), "not JSON".to_owned()),
            (String::new(), "not JSON".to_owned()),
        ] {
            assert_eq!(read(&line), want, "{line}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(read(&line("ADDED", &deep)), "not JSON");
        assert!(matches!(event(&[0xff, 0xfe]), Err(EventError::Json(_))));
    }
}
