//! SIGTERM and SIGINT.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The handlers could not be installed.
#[derive(Debug, thiserror::Error)]
#[error("installing the handler of {name}")]
pub struct SignalError {
    name: &'static str,
    #[source]
    source: std::io::Error,
}

/// Waits for a request to stop.
#[derive(Debug)]
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// Installs the handlers. Must run on a tokio runtime.
    pub fn install() -> Result<Self, SignalError> {
        let handler = |name, kind| signal(kind).map_err(|source| SignalError { name, source });
        Ok(Self {
            terminate: handler("SIGTERM", SignalKind::terminate())?,
            interrupt: handler("SIGINT", SignalKind::interrupt())?,
        })
    }

    /// Resolves to the name of the next signal. Cancel safe.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
