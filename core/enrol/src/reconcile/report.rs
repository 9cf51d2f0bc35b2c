//! How pods stand, for people and metrics.

use cluster::ObjectName;
use model::PodUid;

use super::entry::{Desire, Entry};
use super::facts::{Act, Captured, Source, State};
use crate::code::{Code, Failure};

/// How one pod stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The pod instance.
    pub uid: PodUid,
    /// Its name, where the API server told it.
    pub name: Option<ObjectName>,
    /// How it stands.
    pub standing: Standing,
    /// Why it is in the mesh or not, in a word.
    pub why: &'static str,
    /// Who enrolled it.
    pub source: Option<Source>,
    /// What is wrong.
    pub failure: Option<Failure>,
    /// Whether it should be captured, runs, and is not proved to be.
    pub is_gap: bool,
}

/// A pod's state, as metrics count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Standing {
    /// Not wanted, and not captured.
    Outside,
    /// Wanted; nothing of it runs yet.
    Waiting,
    /// Being captured.
    Enrolling,
    /// Captured, as its self-test proved.
    Verified,
    /// Captured, and not as it should be.
    Degraded,
    /// Wanted and not captured; tried again.
    Failed,
    /// Captured and not wanted: about to be let go, or kept because it runs still.
    Releasing,
}

impl Standing {
    /// Each of them.
    pub const ALL: [Self; 7] = [
        Self::Outside,
        Self::Waiting,
        Self::Enrolling,
        Self::Verified,
        Self::Degraded,
        Self::Failed,
        Self::Releasing,
    ];

    /// The word in metrics and tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outside => "outside",
            Self::Waiting => "waiting",
            Self::Enrolling => "enrolling",
            Self::Verified => "verified",
            Self::Degraded => "degraded",
            Self::Failed => "failed",
            Self::Releasing => "releasing",
        }
    }
}

pub(super) fn report(
    uid: &PodUid,
    entry: Option<&Entry>,
    desire: &Desire,
    captured: Option<&Captured>,
) -> Report {
    let failure = entry.and_then(Entry::failure).cloned();
    let standing = standing(entry, desire, captured, failure.as_ref());
    let is_wanted_running = match desire {
        // One whose sandbox is being made does not run before it is captured.
        Desire::In(wanted) => {
            wanted.is_running || entry.is_some_and(|entry| !entry.is_waited_for())
        }
        Desire::Out(_) | Desire::Others | Desire::Unknown => false,
    };
    let is_gap = is_wanted_running
        && match standing {
            Standing::Enrolling | Standing::Degraded | Standing::Failed => true,
            Standing::Outside | Standing::Waiting | Standing::Verified | Standing::Releasing => {
                false
            }
        };
    Report {
        uid: uid.clone(),
        name: entry.and_then(|entry| entry.object.as_ref()).map(|pod| pod.metadata.object_name()),
        standing,
        why: match desire {
            Desire::In(_) => "selected",
            Desire::Out(why) => why.as_str(),
            Desire::Others => "enrolled by an operator",
            Desire::Unknown => "not known by the API server",
        },
        source: captured.map(|captured| captured.source),
        failure,
        is_gap,
    }
}

fn standing(
    entry: Option<&Entry>,
    desire: &Desire,
    captured: Option<&Captured>,
    failure: Option<&Failure>,
) -> Standing {
    let is_enrolling = entry.is_some_and(|entry| entry.node == Some(Act::Enrol));
    match (desire, captured.map(|captured| &captured.state)) {
        (_, Some(State::Leaving)) | (Desire::Out(_), Some(_)) => Standing::Releasing,
        (Desire::In(_) | Desire::Others | Desire::Unknown, Some(State::Enrolling)) => {
            Standing::Enrolling
        }
        (Desire::In(_) | Desire::Others | Desire::Unknown, Some(State::Verified)) => {
            Standing::Verified
        }
        (Desire::In(_) | Desire::Others | Desire::Unknown, Some(State::Degraded(_))) => {
            Standing::Degraded
        }
        (Desire::In(_), None) => match failure {
            Some(failure) if failure.code != Code::NotStarted => Standing::Failed,
            None if is_enrolling => Standing::Enrolling,
            Some(_) | None => Standing::Waiting,
        },
        (Desire::Out(_) | Desire::Others | Desire::Unknown, None) => Standing::Outside,
    }
}
