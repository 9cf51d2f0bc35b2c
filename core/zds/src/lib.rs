//! Which pods of a node Istio's CNI agent has redirected: its messages, and a session of them.
//!
//! Somebody else redirects; this says whom. The agent listens on a Unix socket and the proxy dials: it
//! says [`hello`], is told of every pod, one message at a time, answers each ([`answer`]), is told that
//! this was all, and from then on of changes (`istio.workload.zds`).

mod message;
mod session;

pub use message::{Message, PACKET_MAX, Pod, ReadError, answer, hello, read};
pub use session::{Act, PODS_MAX, Session, SessionError};
