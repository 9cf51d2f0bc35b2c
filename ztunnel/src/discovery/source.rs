//! Where the state of the mesh comes from: a file or a control plane.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;

use super::{Asking, ControlPlaneSource, LocalFile};
use crate::mesh::MeshState;

/// The one source of this agent. Cheap to clone.
#[derive(Clone)]
pub(crate) enum Source {
    /// A file.
    File(Arc<LocalFile>),
    /// Delta xDS.
    ControlPlane(Arc<ControlPlaneSource>),
}

/// What people are told of a source.
#[derive(Clone, Debug)]
pub(crate) struct SourceStatus {
    /// A path or an address.
    pub(crate) source: String,
    /// The state in force.
    pub(crate) revision: u64,
    /// When it was applied; `None` before the first.
    pub(crate) applied_at: Option<SystemTime>,
    /// Why the file's present content is not in force, if it is not.
    pub(crate) last_error: Option<String>,
    /// The connection, to a control plane.
    pub(crate) control_plane: Option<xds_client::Status>,
}

impl Source {
    /// A receiver of every state from the current one on.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<MeshState>> {
        match self {
            Self::File(file) => file.subscribe(),
            Self::ControlPlane(plane) => plane.subscribe(),
        }
    }

    /// The state in force.
    pub(crate) fn current(&self) -> Arc<MeshState> {
        match self {
            Self::File(file) => file.current(),
            Self::ControlPlane(plane) => plane.current(),
        }
    }

    /// Whom connections ask for what the state does not hold.
    pub(crate) fn asking(&self) -> Asking {
        match self {
            Self::File(_) => Asking::default(),
            Self::ControlPlane(plane) => plane.asking(),
        }
    }

    /// How it is.
    pub(crate) fn status(&self) -> SourceStatus {
        let state = self.current();
        let source = SourceStatus {
            source: String::new(),
            revision: state.revision,
            applied_at: (state.revision > 0).then_some(state.applied_at),
            last_error: None,
            control_plane: None,
        };
        match self {
            Self::File(file) => SourceStatus {
                source: file.path().display().to_string(),
                last_error: file.last_error(),
                ..source
            },
            Self::ControlPlane(plane) => {
                let status = plane.client().status();
                SourceStatus {
                    source: status.control_plane.clone(),
                    control_plane: Some(status),
                    ..source
                }
            }
        }
    }
}
