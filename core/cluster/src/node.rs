//! Nodes: their labels say where they are.

use serde::Deserialize;

use crate::meta::Meta;

/// `v1/Node`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Metadata.
    pub metadata: Meta,
}
