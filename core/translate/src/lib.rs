//! From the objects of a cluster to the resources of a mesh.
//!
//! [`Translator`] takes objects as they change and says what changed of workloads, services and
//! policies, of conditions in statuses, and of what is wrong. It is pure: the same objects in any
//! order make the same resources, and a change is worth what depends on it, not what there is.

mod attachment;
mod bind;
mod changes;
mod condition;
mod hosts;
mod ledger;
mod names;
mod networks;
pub mod policy;
mod problem;
mod selectors;
mod service;
mod settings;
mod store;
mod text;
mod translator;
mod vips;
mod waypoint;
mod wire_value;
mod workload;
mod world;

#[cfg(test)]
mod tests;

pub use attachment::CONDITION as WAYPOINT_CONDITION;
pub use changes::{Address, Assignment, Authorization, Change, Changes};
pub use condition::Condition;
pub use problem::{PROBLEMS_EACH_MAX, PROBLEMS_MAX, Problem};
pub use settings::{EntryVisibility, Settings, VisibilityRule};
pub use text::is_label;
pub use translator::Translator;
pub use vips::AUTO_VIPS_MAX;
