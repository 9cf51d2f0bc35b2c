//! Where objects come from: an API server ([`kubernetes`]) or a folder of manifests ([`folder`]).
//!
//! Both write into one bounded channel. What cannot be read is named in the log and kept among the
//! [`Problems`]; the rest is unaffected, and what was understood before stays in force.

pub mod folder;
pub mod kubernetes;
mod problems;
mod relist;
mod watched;

use cluster::{Kind, Object, ObjectKey};
use tokio::sync::mpsc;

pub(crate) use kubernetes::served_version;
pub use problems::{Problem, Problems};
pub(crate) use watched::resource_of;

/// Changes that may wait to be translated. Beyond them a source waits: an API server keeps what it
/// has to say in its own bounded window, and the folder is looked at later.
pub const EVENTS_MAX: usize = 1024;

/// What a source has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An object is there, perhaps unchanged.
    Set(Object),
    /// It is gone.
    Delete(ObjectKey),
    /// Everything that was there at the start has been said. Comes once for each source.
    Synced(Source),
}

/// What is watched as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// A kind of an API server. One whose CRD is not installed is synced, and empty.
    Kubernetes(Kind),
    /// The folder.
    Folder,
}

/// The receiver is gone: nobody translates any more.
#[derive(Debug, thiserror::Error)]
#[error("nobody takes the changes of objects any more")]
pub struct Closed;

/// The channel that sources write into.
#[must_use]
pub fn channel() -> (mpsc::Sender<Event>, mpsc::Receiver<Event>) {
    mpsc::channel(EVENTS_MAX)
}

async fn say(events: &mpsc::Sender<Event>, event: Event) -> Result<(), Closed> {
    events.send(event).await.map_err(|_| Closed)
}
