//! What an object's status says about it.

use cluster::Text;

/// One condition, as it is written into an object's status. When it changed is the writer's matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Such as `ZtunnelAccepted`.
    pub kind: &'static str,
    /// Whether it holds.
    pub status: bool,
    /// A word for programs, such as `UnsupportedValue`.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: Text,
}
