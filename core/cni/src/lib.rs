//! The plugin's words: network configurations, requests to the agent, results, and conflists.
//!
//! `warren-cni` is the last plugin of a chain. It hands on the result of the plugins before it,
//! once the agent of the node says that the pod is captured. [`plan`] reads what a runtime gave and
//! says what to do; [`Question::answered`] turns the agent's reply into what the runtime reads.
//! [`conflist`] makes the chain that names the plugin. Nothing here does I/O.

mod args;
mod codes;
pub mod conflist;
mod netconf;
mod plugin;
mod request;
mod result;
mod sandbox;
mod version;

pub use codes::code;
pub use conflist::{PluginSettings, SettingsError};
pub use plugin::{Answer, Environment, Question, Silence, Step, VERBS, plan, unreadable};
pub use request::{
    PROTOCOL_VERSION, Refusal, Reply, ReplyError, Request, RequestError, SandboxEnd,
    SandboxRequest, Valid, Work,
};
pub use sandbox::{InterfaceName, Namespace, NetnsPath, PodName, PodUid, SandboxError, SandboxId};
pub use version::Version;

/// The plugin's name: its file in the folder of plugins, and its `type` in a conflist.
pub const PLUGIN: &str = "warren-cni";
/// Where the agent listens for the plugin, unless the conflist says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/warren/cni.sock";
/// Longest network configuration and longest conflist that is read. The largest that are known have
/// some kilobytes; a longer one is refused.
pub const NETCONF_BYTES_MAX: usize = 1024 * 1024;
/// Longest request to the agent. Only garbage collection comes near: it names some 1,500 sandboxes.
/// A longer one is refused, and nothing is collected.
pub const REQUEST_BYTES_MAX: usize = 256 * 1024;
/// Longest reply of the agent: a code and a sentence. A longer one counts as none.
pub const REPLY_BYTES_MAX: usize = 16 * 1024;
