//! How an operator talks to an agent, or to a control plane ([`control_plane`]): JSON lines over a
//! unix socket that only root may use.
//!
//! A client writes one [`Request`] a line; the agent answers each with one [`Response`] a line, or
//! with many for [`Request::Flows`]. The types are the protocol: fields may be added, never
//! renamed or removed. The decisions behind the answers are the agent's ([`Handler`]); this crate
//! holds no mesh semantics.

mod client;
pub mod control_plane;
mod line;
mod protocol;
mod server;
mod socket;
mod source;
mod subject;

pub use client::{Answer, Client, ClientError};
pub use protocol::{
    Direction, Drain, Enrol, Failure, Feature, Flow, Identity, Kernel, Party, Path, Pod, PodCounts,
    PodState, Request, Response, Status, Why, WhyRoute, WhyVerdict,
};
pub use server::{CONNECTIONS_MAX, FLOW_QUEUE_MAX, Handler, Reply, Server};
pub use socket::BindError;
pub use source::{Config, ControlPlane, Sync};
pub use subject::{Subject, SubjectError, Target};

/// Where the agent listens unless `WARREN_ADMIN_SOCKET` or `--socket` says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/warren/admin.sock";

#[cfg(test)]
mod tests;
