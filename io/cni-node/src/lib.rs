//! The agent's half of the CNI plugin: its socket, and its place on the node.
//!
//! [`CniSocket`] serves what the plugin asks and gives it to [`Sandboxes`]. [`NodeInstaller`] puts
//! the plugin and the chain that names it onto the node, repairs both, and takes them away. What
//! the chain is, and what a request means, is `core/cni`'s.

mod answers;
mod files;
mod installer;
mod node;
mod server;
mod socket;
mod watch;

pub use answers::Answers;
pub use installer::{InstallReport, InstallState, NodeInstaller};
pub use node::{InstallError, InstallSettings};
pub use server::{CONNECTIONS_MAX, CniSocket, Sandboxes};
pub use socket::BindError;
