//! The state of the mesh from a file, reloaded when the file changes.
//!
//! A file that cannot be read or parsed at start stops the agent; later, it leaves the last good
//! state in force, and its errors are kept for `warren status`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use authz::PolicyStore;
use local_config::{ConfigErrors, Defaults};
use parking_lot::Mutex;
use resolve::Snapshot;
use tokio::sync::watch;

use crate::mesh::{MeshState, Sync};

/// How often the file is looked at. Editors and config-map mounts replace files in many ways;
/// looking is the one method that sees them all.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// Largest file read: about 100,000 workloads. A larger one is refused.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Why a state could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    /// The file cannot be read.
    #[error("{path}: reading: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The file is larger than the bound.
    #[error("{path}: {bytes} bytes are more than the {FILE_BYTES_MAX} that are read")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The file's content is wrong; names file, place, field and cause.
    #[error("{0}")]
    Content(ConfigErrors),
}

impl MeshError {
    /// Whether the same file may be readable later: the node may have been short of descriptors.
    fn may_pass(&self) -> bool {
        match self {
            Self::Read { source, .. } => source.kind() != std::io::ErrorKind::InvalidData,
            Self::TooLarge { .. } | Self::Content(_) => false,
        }
    }
}

/// What identifies one version of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
    inode: u64,
}

/// How a file is understood.
#[derive(Clone, Debug)]
pub(crate) struct MeshSettings {
    /// How policies are compiled.
    pub(crate) policies: authz::Settings,
    /// What workloads have that name none.
    pub(crate) defaults: Defaults,
}

/// A watched file.
#[derive(Debug)]
pub(crate) struct LocalFile {
    path: PathBuf,
    settings: MeshSettings,
    sender: watch::Sender<Arc<MeshState>>,
    last_error: Mutex<Option<String>>,
    stamp: Mutex<Option<Stamp>>,
}

impl LocalFile {
    /// Loads the file for the first time.
    pub(crate) fn open(path: &Path, settings: MeshSettings) -> Result<Arc<Self>, MeshError> {
        let stamp = stamp(path).ok();
        let state = load(path, &settings, 1)?;
        let (sender, _) = watch::channel(Arc::new(state));
        Ok(Arc::new(Self {
            path: path.to_owned(),
            settings,
            sender,
            last_error: Mutex::new(None),
            stamp: Mutex::new(stamp),
        }))
    }

    /// A receiver of every state from the current one on.
    #[must_use]
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<MeshState>> {
        self.sender.subscribe()
    }

    /// The state in force.
    #[must_use]
    pub(crate) fn current(&self) -> Arc<MeshState> {
        self.sender.borrow().clone()
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Why its present content is not in force, if it is not.
    pub(crate) fn last_error(&self) -> Option<String> {
        self.last_error.lock().clone()
    }

    /// Reloads the file whenever it changes. Runs until dropped.
    pub(crate) async fn watch(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let file = self.clone();
            // Parsing 100,000 workloads takes a while; the control runtime goes on meanwhile.
            if tokio::task::spawn_blocking(move || file.look()).await.is_err() {
                tracing::error!(path = %self.path.display(), "reloading the mesh state panicked");
            }
        }
    }

    fn look(&self) {
        let stamp = stamp(&self.path).ok();
        if *self.stamp.lock() == stamp {
            return;
        }
        *self.stamp.lock() = stamp;
        let revision = self.sender.borrow().revision + 1;
        match load(&self.path, &self.settings, revision) {
            Ok(state) => {
                tracing::info!(
                    path = %self.path.display(),
                    revision,
                    workloads = state.snapshot.workloads().len(),
                    "mesh state applied"
                );
                *self.last_error.lock() = None;
                self.sender.send_replace(Arc::new(state));
            }
            Err(error) => {
                if error.may_pass() {
                    *self.stamp.lock() = None;
                }
                let text = Some(error.to_string());
                let mut last = self.last_error.lock();
                if *last != text {
                    tracing::error!(%error, "mesh state not applied; the last good one stays in force");
                }
                *last = text;
            }
        }
    }
}

fn stamp(path: &Path) -> std::io::Result<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(path)?;
    Ok(Stamp { modified: meta.modified().ok(), bytes: meta.len(), inode: meta.ino() })
}

fn load(path: &Path, settings: &MeshSettings, revision: u64) -> Result<MeshState, MeshError> {
    use std::io::Read;
    let failed = |source| MeshError::Read { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(MeshError::TooLarge { path: path.to_owned(), bytes });
    }
    let mut text = String::new();
    // The bound holds for what is read too: the file may grow, or be a pipe.
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    let config = local_config::parse(&path.display().to_string(), &text, &settings.defaults)
        .map_err(MeshError::Content)?;
    Ok(MeshState {
        snapshot: Arc::new(Snapshot::build(config.workloads, config.services)),
        policies: Arc::new(PolicyStore::compile(config.policies, &settings.policies)),
        revision,
        applied_at: SystemTime::now(),
        // A file is complete or not there.
        sync: Sync::Complete,
    })
}
