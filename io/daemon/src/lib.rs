//! What every long-running process of the mesh needs: logs, signals, readiness, and the HTTP
//! ports for metrics and probes. Knows nothing of the mesh.

mod descriptors;
mod http_port;
mod log_route;
mod logging;
mod posts;
mod readiness;
mod signals;

pub use descriptors::raise_descriptor_limit;
pub use http::StatusCode;
pub use http_port::{Changes, HttpPort, HttpPortError, Reply, Routes, metrics_reply};
pub use log_route::log_reply;
pub use logging::{LogFilter, LogFormat, LogGuard, LoggingError, init_logging};
pub use posts::{PostRoutes, serve_posts};
pub use readiness::{Pending, Readiness};
pub use signals::{SignalError, StopSignals};
pub use tracing_appender::non_blocking::ErrorCounter;
