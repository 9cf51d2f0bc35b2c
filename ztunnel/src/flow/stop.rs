//! How the agent ends: first no new connections, then, when the drain time is over, none at all.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use model::Code;
use tokio_util::sync::CancellationToken;

use super::pods::Pod;
use crate::relay::Ending;

/// The two steps of stopping. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stop {
    drain: CancellationToken,
    cut: CancellationToken,
    since: Arc<OnceLock<Instant>>,
}

impl Stop {
    /// The drain time runs from now on.
    pub(crate) fn announce(&self) {
        // Set by the first call only.
        let _ = self.since.set(Instant::now());
    }

    /// No new connections from now on; peers are told with GOAWAY.
    pub(crate) fn begin_drain(&self) {
        self.announce();
        self.drain.cancel();
    }

    /// How much of `drain` is left, if draining has begun.
    pub(crate) fn remaining(&self, drain: Duration) -> Duration {
        self.since.get().map_or(drain, |since| drain.saturating_sub(since.elapsed()))
    }

    /// Whether draining has begun, or is about to.
    pub(crate) fn is_draining(&self) -> bool {
        self.since.get().is_some()
    }

    /// Cuts what is still open.
    pub(crate) fn cut_all(&self) {
        self.begin_drain();
        self.cut.cancel();
    }

    /// Resolves when draining begins.
    pub(crate) async fn draining(&self) {
        self.drain.cancelled().await;
    }

    /// Resolves when open connections must end.
    pub(crate) async fn cut(&self) {
        self.cut.cancelled().await;
    }

    /// Resolves when a connection of `pod` must end whatever it does.
    pub(crate) async fn ending(&self, pod: &Pod) -> Ending {
        let (code, detail) = tokio::select! {
            () = self.cut() => (Code::Draining, "the agent is stopping"),
            () = pod.captured.gone().cancelled() => (Code::PodGone, "the pod is gone"),
        };
        Ending::new(code, detail)
    }

    /// Resolves when `pod` takes no new connections here: it leaves, or the agent stops.
    pub(crate) async fn leaving(&self, pod: &Pod) {
        tokio::select! {
            () = self.drain.cancelled() => {}
            () = pod.captured.stopping().cancelled() => {}
        }
    }
}
