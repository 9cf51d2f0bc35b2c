//! The codes of what the plugin refuses: stable words for people, numbers for runtimes.

/// Stable words. The agent's own reasons, such as `IDENTITY_CONFLICT`, join them in a
/// [`Refusal`](crate::Refusal).
pub mod code {
    /// Nobody answers on the agent's socket.
    pub const AGENT_AWAY: &str = "AGENT_AWAY";
    /// The agent did not answer in time.
    pub const AGENT_SLOW: &str = "AGENT_SLOW";
    /// The agent serves as many requests as it may.
    pub const AGENT_BUSY: &str = "AGENT_BUSY";
    /// The agent is stopping; the next one answers.
    pub const AGENT_STOPPING: &str = "AGENT_STOPPING";
    /// The agent's answer could not be read.
    pub const AGENT_UNREADABLE: &str = "AGENT_UNREADABLE";
    /// Plugin and agent are of different versions: one of them is about to be replaced.
    pub const PROTOCOL_MISMATCH: &str = "PROTOCOL_MISMATCH";
    /// The agent could not read the request.
    pub const BAD_REQUEST: &str = "BAD_REQUEST";
    /// The network configuration cannot be read.
    pub const NETCONF_UNREADABLE: &str = "NETCONF_UNREADABLE";
    /// The network configuration has a field that cannot be.
    pub const NETCONF_INVALID: &str = "NETCONF_INVALID";
    /// The plugin is the first of its chain.
    pub const NOT_CHAINED: &str = "NOT_CHAINED";
    /// The runtime's variables are missing or cannot be.
    pub const ARGS_INVALID: &str = "ARGS_INVALID";
    /// The version of the specification does not have the command, or the plugin not the version.
    pub const VERSION_UNSUPPORTED: &str = "VERSION_UNSUPPORTED";
}

/// Numbers of the specification.
pub(crate) mod number {
    pub(crate) const INCOMPATIBLE_VERSION: u32 = 1;
    pub(crate) const INVALID_ENVIRONMENT: u32 = 4;
    pub(crate) const IO_FAILURE: u32 = 5;
    pub(crate) const UNDECODABLE: u32 = 6;
    pub(crate) const INVALID_NETCONF: u32 = 7;
    pub(crate) const TRY_AGAIN: u32 = 11;
    /// The agent refused. Numbers from 100 on belong to plugins.
    pub(crate) const REFUSED: u32 = 100;
    /// The agent answered something else.
    pub(crate) const UNREADABLE_ANSWER: u32 = 101;
}

/// The number of what an agent refused: what passes by itself is "try again later".
pub(crate) fn number_of(code: &str) -> u32 {
    let passing =
        [code::AGENT_BUSY, code::AGENT_STOPPING, code::AGENT_SLOW, code::PROTOCOL_MISMATCH];
    if passing.contains(&code) { number::TRY_AGAIN } else { number::REFUSED }
}
