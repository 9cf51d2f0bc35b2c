//! Objects from YAML text: one or more documents, `List`s among them.

use std::fmt;

use serde::Deserialize;
use serde_json::Value;

use crate::meta::ObjectName;
use crate::object::{Kind, Object, Undecodable};

/// Longest text read, in bytes. A longer one is refused as a whole.
pub const BYTES_MAX: usize = 16 << 20;
/// Most objects of one text. More are refused as a whole.
pub const OBJECTS_MAX: usize = 100_000;

/// What a text holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// Objects, in order. A policy that could not be read is among them, so that it denies
    /// ([`Object::unreadable`]), and among the errors.
    pub objects: Vec<Object>,
    /// What could not be read; the rest is unaffected.
    pub errors: Vec<ManifestError>,
    /// Objects of kinds that a mesh does not read.
    pub ignored: usize,
}

/// What is wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestError {
    /// Which document, from 1.
    pub document: usize,
    /// Line of the text at which it begins, or at which the mistake is where that is known; from 1.
    pub line: usize,
    /// Kind and name, as far as they are known.
    pub object: Option<String>,
    /// The field, such as `spec.mtls.mode`; empty for the whole document.
    pub field: String,
    /// What is wrong.
    pub cause: String,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "document {} (line {})", self.document, self.line)?;
        if let Some(object) = &self.object {
            write!(f, ": {object}")?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.cause)
    }
}

impl std::error::Error for ManifestError {}

/// What says which kind a document is.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Header {
    api_version: String,
    kind: String,
    metadata: HeaderMeta,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct HeaderMeta {
    name: String,
    namespace: String,
}

/// Reads a text. Never fails as a whole without saying so in [`Manifest::errors`].
#[must_use]
pub fn read(text: &str) -> Manifest {
    let mut manifest = Manifest::default();
    if text.len() > BYTES_MAX {
        let cause = format!("longer than {BYTES_MAX} bytes");
        manifest.errors.push(whole(1, 1, cause));
        return manifest;
    }
    for (index, document) in documents(text).enumerate() {
        let place = Place { document: index + 1, line: document.line };
        let value: Value = match crate::yaml::value(document.text) {
            Ok(value) => value,
            Err(error) => {
                let line = error.location().map_or(1, |at| usize::try_from(at.line()).unwrap_or(1));
                let line = document.line + line.saturating_sub(1);
                let cause = first_line(&error.to_string());
                manifest.errors.push(whole(place.document, line, cause));
                continue;
            }
        };
        place.read(value, &mut manifest);
        if manifest.objects.len() > OBJECTS_MAX {
            manifest.objects.clear();
            let cause = format!("more than {OBJECTS_MAX} objects");
            manifest.errors.push(whole(place.document, place.line, cause));
            return manifest;
        }
    }
    manifest
}

/// Where a document is.
struct Place {
    document: usize,
    line: usize,
}

impl Place {
    fn read(&self, value: Value, manifest: &mut Manifest) {
        if value.is_null() {
            return;
        }
        let header = match Header::deserialize(&value) {
            Ok(header) => header,
            Err(error) => {
                manifest.errors.push(whole(self.document, self.line, error.to_string()));
                return;
            }
        };
        if header.kind.is_empty() || header.api_version.is_empty() {
            let cause = "neither apiVersion nor kind may be missing".to_owned();
            manifest.errors.push(whole(self.document, self.line, cause));
            return;
        }
        // `kubectl get -o yaml` writes one of these.
        if header.kind.ends_with("List")
            && let Value::Object(mut list) = value
        {
            if let Some(Value::Array(items)) = list.remove("items") {
                for item in items {
                    self.read(item, manifest);
                }
            }
            return;
        }
        let HeaderMeta { name, namespace } = &header.metadata;
        let (kind, decoded) = match Kind::of_any_version(&header.api_version, &header.kind) {
            None => {
                manifest.ignored += 1;
                return;
            }
            Some(Ok(kind)) => (kind, decode(kind, value)),
            Some(Err(kind)) => {
                let cause = format!("the version {:?} is not one that is read", header.api_version);
                (kind, Err(Undecodable { field: "apiVersion".to_owned(), cause }))
            }
        };
        let why = match decoded {
            Ok(object) => {
                manifest.objects.push(object);
                return;
            }
            Err(why) => why,
        };
        manifest.objects.extend(Object::unreadable(kind, &ObjectName::new(namespace, name), &why));
        let object = match &**namespace {
            "" => format!("{kind} {name}"),
            namespace => format!("{kind} {namespace}/{name}"),
        };
        let (document, line, object) = (self.document, self.line, Some(object));
        let Undecodable { field, cause } = why;
        manifest.errors.push(ManifestError { document, line, object, field, cause });
    }
}

fn decode(kind: Kind, value: Value) -> Result<Object, Undecodable> {
    match Object::decode(kind, value) {
        Ok(object) if object.meta().name.is_empty() => {
            let field = "metadata.name".to_owned();
            Err(Undecodable { field, cause: "is missing".to_owned() })
        }
        Ok(object) => Ok(object),
        Err(error) => {
            let (field, cause) = (error.path().to_string(), error.inner().to_string());
            Err(Undecodable { field, cause })
        }
    }
}

fn whole(document: usize, line: usize, cause: String) -> ManifestError {
    ManifestError { document, line, object: None, field: String::new(), cause }
}

/// The parser shows the text around a mistake as well.
fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

struct Document<'t> {
    text: &'t str,
    /// Of its first line, from 1.
    line: usize,
}

/// Splits at the lines that begin with `---`: nothing within a document may (YAML 1.2, 9.1.2).
fn documents(text: &str) -> impl Iterator<Item = Document<'_>> {
    let mut rest = Some(text);
    let mut line = 1;
    std::iter::from_fn(move || {
        let text = rest?;
        let mut end = text.len();
        let mut next = None;
        let mut position = 0;
        for (index, each) in text.split_inclusive('\n').enumerate() {
            let is_separator = each.strip_prefix("---").is_some_and(|after| {
                after.is_empty() || after.starts_with([' ', '\t', '\r', '\n'])
            });
            if is_separator && index > 0 {
                end = position;
                next = Some(&text[position..]);
                break;
            }
            position += each.len();
        }
        let document = Document { text: &text[..end], line };
        line += document.text.matches('\n').count();
        rest = next;
        Some(document)
    })
}

#[cfg(test)]
mod tests;
