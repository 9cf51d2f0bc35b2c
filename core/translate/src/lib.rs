//! From the objects of a cluster to the resources of a mesh.

mod condition;
pub mod policy;
mod settings;

pub use condition::Condition;
pub use settings::{EntryVisibility, Settings, VisibilityRule};
