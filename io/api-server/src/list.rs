//! One page of a list.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::event::{VERSION_MAX, is_version};

/// Longest mark of the next page; the API server's own has some hundred bytes.
const NEXT_MAX: usize = 8 << 10;

/// Why a page was refused.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// Not the JSON of a list.
    #[error("it is not the JSON of a list")]
    Json(#[source] serde_json::Error),
    /// Nothing to watch from.
    #[error("it has no resource version of 1 to {VERSION_MAX} bytes")]
    NoVersion,
    /// The next page could not be asked for.
    #[error("the mark of its next page has more than {NEXT_MAX} bytes")]
    Next,
    /// More than is kept at a time.
    #[error("the list has more than {objects} objects or {bytes} bytes")]
    TooLarge {
        /// Most objects.
        objects: usize,
        /// Most bytes.
        bytes: usize,
    },
}

/// Some objects, and how to go on.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) objects: Vec<Box<RawValue>>,
    /// From where to watch.
    pub(crate) version: String,
    /// The mark of the next page; empty after the last.
    pub(crate) next: String,
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
    /// Go's empty list is `null`.
    items: Option<Vec<Box<RawValue>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(borrow, default)]
    resource_version: Cow<'a, str>,
    #[serde(borrow, default, rename = "continue")]
    next: Cow<'a, str>,
}

pub(crate) fn page(body: &[u8]) -> Result<Page, ListError> {
    let wire: Wire<'_> = serde_json::from_slice(body).map_err(ListError::Json)?;
    let Metadata { resource_version, next } = wire.metadata;
    if !is_version(&resource_version) {
        return Err(ListError::NoVersion);
    }
    if next.len() > NEXT_MAX {
        return Err(ListError::Next);
    }
    Ok(Page {
        objects: wire.items.unwrap_or_default(),
        version: resource_version.into_owned(),
        next: next.into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_read_or_refused() {
        let read = |body: &str| {
            let Page { objects, version, next } = page(body.as_bytes()).ok()?;
            let objects: Vec<String> = objects.iter().map(|o| o.get().to_owned()).collect();
            Some((objects.join(" "), version, next))
        };
        let want = |objects: &str, version: &str, next: &str| {
            Some((objects.to_owned(), version.to_owned(), next.to_owned()))
        };
        for (body, expected) in [
            (
                r#"{"kind":"PodList","metadata":{"resourceVersion":"7","continue":"x",
                    "remainingItemCount":3},"items":[{"a": 1},{}]}"#,
                want(r#"{"a": 1} {}"#, "7", "x"),
            ),
            (r#"{"metadata":{"resourceVersion":"7"},"items":null}"#, want("", "7", "")),
            (r#"{"metadata":{"resourceVersion":"7"}}"#, want("", "7", "")),
            (r#"{"metadata":{"resourceVersion":"\u0037"},"items":[]}"#, want("", "7", "")),
            (r#"{"metadata":{"resourceVersion":""},"items":[]}"#, None),
            (r#"{"metadata":{},"items":[]}"#, None),
            (r#"{"items":[]}"#, None),
            (r#"{"metadata":{"resourceVersion":7},"items":[]}"#, None),
            (r#"{"metadata":{"resourceVersion":"7"},"items":{}}"#, None),
            (r#"{"metadata":{"resourceVersion":"7"},"items":[{]}"#, None),
            (r#"{"metadata":{"resourceVersion":"7"},"items":[{}"#, None),
            ("", None),
        ] {
            assert_eq!(read(body), expected, "{body}");
        }
        let next = "x".repeat(NEXT_MAX + 1);
        let long = format!(r#"{{"metadata":{{"resourceVersion":"7","continue":"{next}"}}}}"#);
        assert!(matches!(page(long.as_bytes()), Err(ListError::Next)));
    }
}
