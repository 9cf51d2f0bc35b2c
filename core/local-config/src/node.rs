//! YAML as a tree of nodes that know where they stand.
//!
//! A typed deserializer stops at the first mistake and cannot say `policies[2].rules[0]`; the
//! tree lets the readers report every mistake with its field path, line and column.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned, Tagged};

/// Largest file, in bytes; a larger one is refused.
pub(crate) const TEXT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Deepest nesting; the shape needs nine levels. A deeper file is refused.
const DEPTH_MAX: usize = 24;
/// Most nodes: about 200,000 workloads with 20 keys each. A larger file is refused.
const NODES_MAX: usize = 10_000_000;

/// Line and column, from 1; 0 where the parser does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) line: u64,
    pub(crate) column: u64,
}

impl From<Location> for Position {
    fn from(location: Location) -> Self {
        Self { line: location.line(), column: location.column() }
    }
}

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) position: Position,
    /// The name of a local tag: `Exact` for `!Exact text`.
    pub(crate) tag: Option<String>,
    pub(crate) kind: Kind,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    Null,
    Bool(bool),
    /// A string, or a plain number as it was written.
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
}

/// The parser refused the text.
#[derive(Debug)]
pub(crate) struct SyntaxError {
    pub(crate) position: Position,
    pub(crate) cause: String,
}

/// Parses one document. An empty one is refused: a file that is being rewritten is empty for a
/// moment, and an empty configuration has no policies.
pub(crate) fn parse(text: &str) -> Result<Node, SyntaxError> {
    if text.len() > TEXT_BYTES_MAX {
        let cause = format!("larger than {TEXT_BYTES_MAX} bytes");
        return Err(SyntaxError { position: Position::default(), cause });
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEPTH_MAX,
            flow_nesting_limit: DEPTH_MAX,
            max_nodes: NODES_MAX,
            max_events: NODES_MAX.saturating_mul(4),
        },
        // `1_000` and `007` keep their spelling, `yes` is a word.
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        merge_keys: serde_saphyr::options::MergeKeyPolicy::Merge,
    };
    let parsed: Raw = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let position = error.location().map(Position::from).unwrap_or_default();
        let cause = error.without_snippet().to_string();
        SyntaxError { position, cause }
    })?;
    let root = parsed.place(text);
    if root.kind == Kind::Null {
        let cause = "the file is empty; write {} for an empty configuration".to_owned();
        return Err(SyntaxError { position: root.position, cause });
    }
    Ok(root)
}

/// A node before its plain scalars got their spelling back.
struct Raw(Spanned<Tagged<RawKind>>);

enum RawKind {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    List(Vec<Raw>),
    Map(Vec<(Raw, Raw)>),
}

impl Raw {
    fn place(self, text: &str) -> Node {
        let Spanned { value: Tagged(kind, tag), referenced, defined } = self.0;
        let kind = match kind {
            RawKind::Null => Kind::Null,
            RawKind::Bool(value) => Kind::Bool(value),
            RawKind::Number(value) => Kind::Text(spelling(text, defined).unwrap_or(value)),
            RawKind::Text(value) => Kind::Text(value),
            RawKind::List(items) => {
                Kind::List(items.into_iter().map(|item| item.place(text)).collect())
            }
            RawKind::Map(entries) => Kind::Map(
                entries.into_iter().map(|(k, v)| (k.place(text), v.place(text))).collect(),
            ),
        };
        let tag = tag.as_deref().and_then(|tag| tag.strip_prefix('!')).map(str::to_owned);
        Node { position: referenced.into(), tag, kind }
    }
}

/// A plain scalar as it was written: `1.10` is a revision, not 1.1.
fn spelling(text: &str, at: Location) -> Option<String> {
    let start = usize::try_from(at.span().byte_offset()?).ok()?;
    let length = usize::try_from(at.span().byte_len()?).ok()?;
    let slice = text.get(start..start.checked_add(length)?)?.trim();
    (!slice.is_empty()).then(|| slice.to_owned())
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Spanned::deserialize(deserializer).map(Self)
    }
}

impl<'de> Deserialize<'de> for RawKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KindVisitor)
    }
}

struct KindVisitor;

impl<'de> Visitor<'de> for KindVisitor {
    type Value = RawKind;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E: Error>(self) -> Result<RawKind, E> {
        Ok(RawKind::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<RawKind, E> {
        Ok(RawKind::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<RawKind, E> {
        Ok(RawKind::Number(value.to_string()))
    }

    fn visit_i128<E: Error>(self, value: i128) -> Result<RawKind, E> {
        Ok(RawKind::Number(value.to_string()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<RawKind, E> {
        Ok(RawKind::Number(value.to_string()))
    }

    fn visit_u128<E: Error>(self, value: u128) -> Result<RawKind, E> {
        Ok(RawKind::Number(value.to_string()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<RawKind, E> {
        Ok(RawKind::Number(value.to_string()))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<RawKind, E> {
        Ok(RawKind::Text(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<RawKind, E> {
        Ok(RawKind::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<RawKind, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(RawKind::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawKind, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(RawKind::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tree in one line: kinds, tags and positions.
    fn show(node: &Node) -> String {
        let Position { line, column } = node.position;
        let tag = node.tag.as_ref().map_or_else(String::new, |tag| format!("!{tag} "));
        let kind = match &node.kind {
            Kind::Null => "null".to_owned(),
            Kind::Bool(value) => value.to_string(),
            Kind::Text(text) => format!("{text:?}"),
            Kind::List(items) => {
                format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(", "))
            }
            Kind::Map(entries) => {
                let show = |(k, v): &(Node, Node)| format!("{}: {}", show(k), show(v));
                format!("{{{}}}", entries.iter().map(show).collect::<Vec<_>>().join(", "))
            }
        };
        format!("{tag}{kind}@{line}:{column}")
    }

    #[test]
    fn values_keep_their_spelling_tag_and_place() {
        for (text, expected) in [
            ("a: 1.10\n", "{\"a\"@1:1: \"1.10\"@1:4}@1:1"),
            ("- 0x10\n- 007\n- 1_0", "[\"0x10\"@1:3, \"007\"@2:3, \"1_0\"@3:3]@1:1"),
            ("- true\n- yes\n- ~\n-\n", "[true@1:3, \"yes\"@2:3, null@3:3, null@4:2]@1:1"),
            ("- \"80\"\n- '1'", "[\"80\"@1:3, \"1\"@2:3]@1:1"),
            ("80: 8080", "{\"80\"@1:1: \"8080\"@1:5}@1:1"),
            (
                "- !Exact a\n- !Presence []\n- !Prefix 10",
                "[!Exact \"a\"@1:10, !Presence []@2:13, !Prefix \"10\"@3:11]@1:1",
            ),
            ("a: &x [1]\nb: *x", "{\"a\"@1:1: [\"1\"@1:8]@1:7, \"b\"@2:1: [\"1\"@2:4]@2:4}@1:1"),
            ("é: 12", "{\"é\"@1:1: \"12\"@1:4}@1:1"),
        ] {
            assert_eq!(show(&parse(text).expect(text)), expected, "{text}");
        }
    }

    #[test]
    fn refuses_what_is_not_one_small_document() {
        let deep = "[".repeat(100);
        for text in ["", "# only a comment\n", "a: 1\n---\nb: 2", "a: 1\na: 2", "a: [", &deep] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
