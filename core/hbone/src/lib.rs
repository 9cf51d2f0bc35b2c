//! HBONE: TCP streams carried in HTTP/2 CONNECT over mutual TLS, port 15008.
//!
//! Sans-IO. What goes into and comes out of a CONNECT ([`ConnectHead`] and its parts), the life of
//! one inbound stream ([`Stream`]), which tunnel carries an outbound one ([`PoolMachine`]), and what
//! an application tunnel is told before the bytes ([`ProxyHeader`]).
//! Wire-compatible with Istio's ztunnel. Everything a peer can send is bounded and cannot panic.

mod authority;
mod baggage;
mod forwarded;
mod inbound;
mod pool;
mod proxy_header;
mod request;
mod status;
mod traceparent;

pub use authority::{AUTHORITY_MAX, Authority, AuthorityError};
pub use baggage::{BAGGAGE_MAX, BAGGAGE_MEMBERS_MAX, BAGGAGE_VALUE_MAX, Baggage};
pub use forwarded::{FORWARDED_MAX, Forwarded};
pub use inbound::{Action, HOLD_MAX, Input, Phase, Refusal, Stream};
pub use pool::{
    Checkout, Close, IDLE_DEFAULT, PoolKey, PoolLimits, PoolMachine, STREAMS_PER_TUNNEL_MAX,
    TUNNELS_MAX, TUNNELS_PER_KEY_MAX, TUNNELS_PER_POD_MAX, TunnelId,
};
pub use proxy_header::{PROXY_HEADER_MAX, ProxyHeader, ProxyHeaderError};
pub use request::{ConnectHead, HeadError, METHOD, NETWORK_MAX};
pub use status::{code_of_status, status_of};
pub use traceparent::{TRACEPARENT_MAX, Traceparent};

/// The TCP port on which a node proxy accepts tunnels for the pods of its node.
pub const HBONE_PORT: u16 = 15008;
