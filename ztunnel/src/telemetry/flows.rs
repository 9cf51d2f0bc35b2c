//! The last connection outcomes in memory, readable without any logging.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use model::Outcome;
use parking_lot::Mutex;
use tokio::sync::broadcast;

/// Flows kept: at about 400 bytes each, below 2 MB. The oldest is dropped for a new one.
const FLOWS_KEPT: usize = 4096;
/// Flows a follower may lag behind before it loses the oldest, and is told how many.
const FOLLOWER_LAG_MAX: usize = 1024;

/// One outcome and when it was reported.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    /// When the connection ended.
    pub at: SystemTime,
    /// What became of it.
    pub outcome: Arc<Outcome>,
}

/// A stream of flows that end from now on.
pub(super) type FlowSubscription = broadcast::Receiver<Flow>;

/// The ring.
#[derive(Debug)]
pub(crate) struct FlowRing {
    kept: Mutex<VecDeque<Flow>>,
    followers: broadcast::Sender<Flow>,
}

impl Default for FlowRing {
    fn default() -> Self {
        let (followers, _) = broadcast::channel(FOLLOWER_LAG_MAX);
        Self { kept: Mutex::new(VecDeque::with_capacity(FLOWS_KEPT)), followers }
    }
}

impl FlowRing {
    pub(super) fn push(&self, flow: Flow) {
        // The lock is held while sending, so that a follower sees no flow twice and misses none.
        let mut kept = self.kept.lock();
        if kept.len() == FLOWS_KEPT {
            kept.pop_front();
        }
        kept.push_back(flow.clone());
        // Nobody follows: fine.
        let _ = self.followers.send(flow);
    }

    /// The last `limit` flows, oldest first.
    #[must_use]
    pub(crate) fn last(&self, limit: usize) -> Vec<Flow> {
        let kept = self.kept.lock();
        kept.iter().skip(kept.len().saturating_sub(limit)).cloned().collect()
    }

    /// The last `limit` flows and a stream of all that follow, without a gap between them.
    #[must_use]
    pub(crate) fn follow(&self, limit: usize) -> (Vec<Flow>, FlowSubscription) {
        let kept = self.kept.lock();
        let stream = self.followers.subscribe();
        (kept.iter().skip(kept.len().saturating_sub(limit)).cloned().collect(), stream)
    }
}
