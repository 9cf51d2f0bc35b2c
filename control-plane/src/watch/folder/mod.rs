//! Objects of a folder of manifests: the source where there is no API server.
//!
//! `*.yaml`, `*.yml` and `*.json` of the folder and of its folders, one level deep; names that begin
//! with a dot are skipped, as editors and mounted ConfigMaps want it. A change is taken once it has
//! been the same at two looks, so that a file that is being written is not read in half.

mod scan;
mod state;

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Closed, Event, Problems, Source, say};
use state::Files;

/// Time between two looks. A change is said after two of them at the latest, plus reading it.
const POLL: Duration = Duration::from_millis(250);

/// The folder cannot be read at all.
#[derive(Debug, thiserror::Error)]
#[error("reading the folder of manifests {path}")]
pub struct FolderError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

/// A folder of manifests.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    files: Files,
    /// What the first look found.
    first: Vec<Event>,
}

impl Folder {
    /// Reads everything once. Files that cannot be read are problems; the folder itself must be
    /// readable. Blocks.
    pub fn open(path: &Path, problems: Problems) -> Result<Self, FolderError> {
        let failed = |source| FolderError { path: path.to_owned(), source };
        let mut files = Files::new(problems);
        let found = scan::scan(path).map_err(failed)?;
        let first = files.take(path, found, state::Patience::None);
        Ok(Self { path: path.to_owned(), files, first })
    }

    /// Says what is there, then what changes, until it is cancelled or nobody takes it.
    pub async fn follow(
        self,
        events: mpsc::Sender<Event>,
        shutdown: CancellationToken,
    ) -> Result<(), Closed> {
        // Cancelling is safe at every point: the folder is read again at the next start.
        shutdown.run_until_cancelled(self.run(events)).await.unwrap_or(Ok(()))
    }

    async fn run(self, events: mpsc::Sender<Event>) -> Result<(), Closed> {
        let Self { path, mut files, first } = self;
        for event in first {
            say(&events, event).await?;
        }
        say(&events, Event::Synced(Source::Folder)).await?;
        let mut tick = tokio::time::interval(POLL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let folder = path.clone();
            let look = tokio::task::spawn_blocking(move || {
                let changes = files.look(&folder);
                (files, changes)
            });
            let changes;
            (files, changes) = match look.await {
                Ok(looked) => looked,
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                // The runtime ends.
                Err(_) => return Ok(()),
            };
            for event in changes {
                say(&events, event).await?;
            }
        }
    }
}

#[cfg(test)]
mod tests;
