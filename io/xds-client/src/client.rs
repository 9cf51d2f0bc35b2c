//! What others hold of a client.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use xds::{Answer, LOOKUP_WAIT, LookupKey};

use crate::state::State;
use crate::status::Status;

/// Look-ups that the driver has not seen yet. While it applies a large response they queue; one
/// beyond is refused as if it had waited in vain.
pub(crate) const LOOKUPS_QUEUED_MAX: usize = 8192;

/// A look-up on its way to the driver.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) key: LookupKey,
    pub(crate) answer: oneshot::Sender<Answer>,
}

/// Whether something exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existence {
    /// It is in the state that is published now.
    Found,
    /// The control plane says that there is none. Nothing else is a reason to say so.
    Absent,
}

/// Why it is not known whether something exists. The connection it was asked for is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// No answer within [`LOOKUP_WAIT`], or too many look-ups at once.
    #[error("the control plane did not say in time")]
    TimedOut,
    /// The driver has ended.
    #[error("the client of the control plane has ended")]
    Ended,
}

/// States, look-ups and status. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) states: watch::Receiver<Arc<State>>,
    pub(crate) status: watch::Receiver<Status>,
    pub(crate) questions: mpsc::Sender<Question>,
}

impl Client {
    /// Every state from the current one on. The first is empty, with [`crate::Sync::Waiting`].
    #[must_use]
    pub fn states(&self) -> watch::Receiver<Arc<State>> {
        self.states.clone()
    }

    /// How it goes.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// How it goes, from now on.
    #[must_use]
    pub fn statuses(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Asks the control plane whether something exists, if the client is on demand; else the state
    /// says it. Takes at most [`LOOKUP_WAIT`].
    pub async fn lookup(&self, key: LookupKey) -> Result<Existence, LookupError> {
        let (answer, answered) = oneshot::channel();
        match self.questions.try_send(Question { key, answer }) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => return Err(LookupError::TimedOut),
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(LookupError::Ended),
        }
        // The driver keeps to the same time, but may be busy with a large response.
        match tokio::time::timeout(LOOKUP_WAIT, answered).await {
            Ok(Ok(Answer::Found)) => Ok(Existence::Found),
            Ok(Ok(Answer::Absent)) => Ok(Existence::Absent),
            Ok(Ok(Answer::TimedOut)) | Err(_) => Err(LookupError::TimedOut),
            Ok(Err(_)) => Err(LookupError::Ended),
        }
    }
}
