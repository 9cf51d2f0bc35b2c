//! HTTP/2 settings of both ends, compatible with Istio's ztunnel.

use std::time::Duration;

/// Most streams a client may have open at once in one tunnel (SETTINGS_MAX_CONCURRENT_STREAMS).
/// h2 refuses a further one with REFUSED_STREAM; after 1,024 of them it ends the tunnel.
pub const SERVER_STREAMS_MAX: u32 = 200;
/// Largest header list a server reads, in bytes. h2 answers a larger one with 431, and ends the tunnel
/// at one four times as large.
pub const SERVER_HEADERS_MAX: u32 = 64 * 1024;
/// Largest header list a client reads, in bytes. The stream of a larger one fails.
pub const CLIENT_HEADERS_MAX: u32 = 16 * 1024;
/// Most bytes of a stream that wait inside h2 to be sent. With that many waiting, the stream has
/// no capacity. One thread sends and drives, so more would only take memory.
pub const SEND_BUFFER: usize = 512 * 1024;
/// h2's allowance for small DATA frames that wait inside it to be read: each counts 256 bytes less
/// its payload, until it is read. When it is spent, h2 ends the connection. Fixed at what h2 takes
/// for a connection window of 16 MiB, since ours varies: 32,896 frames of one byte. A peer cannot
/// spend it: one poll of a connection reads at most `READ_PER_POLL`, which is
/// 13,107 such frames, and [`crate::HboneStream::poll_fill`] takes all of them out.
pub const DATA_FRAME_BUDGET: usize = 8 * 1024 * 1024;

/// What can be configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Bytes a peer may send on a stream before they are consumed. At most 2^31 - 1.
    pub stream_window: u32,
    /// Bytes a peer may send on a connection before they are read. At most 2^31 - 1.
    pub connection_window: u32,
    /// Largest frame accepted, in bytes; 16 KiB to 16 MiB - 1. A read buffer must hold one, and a
    /// small frame can keep a whole buffer alive; larger ones were measured to bring nothing.
    pub frame_size: u32,
    /// Pause between PINGs.
    pub ping_interval: Duration,
    /// How long a PING may stay without an answer; then the peer is dead.
    pub ping_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            stream_window: 4 * 1024 * 1024,
            connection_window: 16 * 1024 * 1024,
            frame_size: 64 * 1024,
            // Together 30 s from the last sign of life to the verdict.
            ping_interval: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(20),
        }
    }
}

const WINDOW_MAX: u32 = (1 << 31) - 1;
/// What RFC 9113, section 6.5.2 allows.
const FRAME_SIZES: (u32, u32) = (1 << 14, (1 << 24) - 1);

impl Settings {
    /// Within what HTTP/2 can express: h2 panics otherwise.
    fn clamped(&self) -> Self {
        Self {
            stream_window: self.stream_window.min(WINDOW_MAX),
            connection_window: self.connection_window.min(WINDOW_MAX),
            frame_size: self.frame_size.clamp(FRAME_SIZES.0, FRAME_SIZES.1),
            ..self.clone()
        }
    }

    pub(crate) fn client(&self) -> h2::client::Builder {
        let settings = self.clamped();
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(settings.stream_window)
            .initial_connection_window_size(settings.connection_window)
            .max_frame_size(settings.frame_size)
            .max_header_list_size(CLIENT_HEADERS_MAX)
            .max_send_buffer_size(SEND_BUFFER)
            .data_frame_budget(DATA_FRAME_BUDGET)
            .enable_push(false);
        builder
    }

    pub(crate) fn server(&self) -> h2::server::Builder {
        let settings = self.clamped();
        let mut builder = h2::server::Builder::new();
        builder
            .initial_window_size(settings.stream_window)
            .initial_connection_window_size(settings.connection_window)
            .max_frame_size(settings.frame_size)
            .max_header_list_size(SERVER_HEADERS_MAX)
            .max_concurrent_streams(SERVER_STREAMS_MAX)
            .max_send_buffer_size(SEND_BUFFER)
            .data_frame_budget(DATA_FRAME_BUDGET);
        builder
    }
}
