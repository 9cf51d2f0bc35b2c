//! A real Kubernetes for tests: its control plane and nodes with kubelet, containerd and runc, all in
//! namespaces of this machine, and what tests do with it.
//!
//! The shell scripts in `tests/cluster/nodes` are what runs inside; here they are driven. One cluster
//! at a time on a machine: a second waits for the first to end.

mod folder;
mod kubectl;
mod kubernetes;
mod node;
mod outage;
mod pki;
mod product;
mod room;
mod wire;

pub use kubernetes::Kubernetes;
pub use node::KubeNode;
pub use outage::Outage;
pub use product::SYSTEM;
pub use room::{Asking, Held, Questions, Room};
