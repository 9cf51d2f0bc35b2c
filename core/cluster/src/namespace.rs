//! Namespaces: their labels are what the mesh reads.

use serde::Deserialize;

use crate::meta::Meta;

/// `v1/Namespace`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Namespace {
    /// Metadata.
    pub metadata: Meta,
}
