//! Tunnels and second legs: from a permit, or a route, to a stream of bytes.

mod dial;
mod inbound;
mod inner;
mod outbound;
mod pool;

use std::time::Duration;

use hbone_h2::Settings;
use netns::TcpTuning;

use crate::config::Http2;

pub(crate) use dial::{ClientLeg, announce, passthrough, to_application};
pub(crate) use inbound::accept;
pub(crate) use inner::Behind;
pub(crate) use outbound::TunnelKey;
pub(crate) use pool::Tunnels;

/// How long a handshake may take, TLS and HTTP/2 each; then the connection is closed.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// What both ends of a tunnel are made with.
#[derive(Clone, Debug)]
pub(crate) struct TunnelOptions {
    settings: Settings,
    tuning: TcpTuning,
}

impl TunnelOptions {
    pub(crate) fn new(http2: &Http2, tuning: TcpTuning) -> Self {
        let settings = Settings {
            stream_window: http2.stream_window,
            connection_window: http2.connection_window,
            frame_size: http2.frame_size,
            ..Settings::default()
        };
        Self { settings, tuning }
    }
}
