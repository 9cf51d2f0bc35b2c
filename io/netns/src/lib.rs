//! Network namespaces, as the node proxy needs them.
//!
//! The agent is one process that owns sockets in many pods' namespaces. Everything here keeps one
//! rule: a thread is inside another namespace only for the length of a synchronous closure, so no
//! await, lock or panic can leave it there ([`within`]). Sockets stay in the namespace they were
//! made in, whatever thread uses them later.

mod addresses;
mod datagrams;
mod diag;
mod enter;
mod netlink;
mod routing;
mod sockets;

pub use addresses::{LocalAddress, NetworkWatch, addresses};
pub use datagrams::{
    Datagram, answer_datagram, connected_datagrams, own_datagrams, receive_datagram,
};
pub use diag::{half_open_connections, marked_sockets};
pub use enter::{EnterError, NetnsFd, OpenError, within};
pub use netlink::NetlinkError;
pub use routing::{MarkRouting, MarkSysctls, OpenSysctls, RoutingError, RoutingState};
pub use sockets::{
    Dial, DialError, Family, Keepalive, SocketError, Source, TcpTuning, limit_unsent, listener,
    redirected_from, shared_listener,
};
