//! The tier `cluster`: our charts on a real Kubernetes with two nodes.
//!
//! All tests share one cluster, one after the other: each leaves it as it found it.

mod addresses;
mod admission;
mod agents;
mod bringing_up;
mod definitions;
mod deployments;
mod enrolment;
mod identities;
mod modes;
mod nodes;
mod outage;
mod reboot;
mod serving;
mod soak;
mod stage;
mod stranger;
mod taints;
