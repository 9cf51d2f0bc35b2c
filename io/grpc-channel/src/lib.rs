//! The authenticated gRPC channel to a control plane, shared by xDS and certificates.
//!
//! The server proves its name against given roots (`io/tls`); we prove who we are with a token in
//! the metadata of each call. Roots are read anew for each connection and the token for each call,
//! so that neither rotation needs a restart. Plaintext goes to this machine's loopback only.

mod address;
mod channel;
mod credentials;

pub use address::{Address, AddressError};
pub use channel::{
    CONNECT_TIMEOUT, ChannelError, ControlPlane, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT,
};
pub use credentials::{
    CredentialError, Credentials, HEADERS_MAX, Header, HeaderError, TOKEN_MAX, Token,
};
