//! Where the mesh's state comes from, as it is on the wire.

use serde::{Deserialize, Serialize};

/// Where the mesh's state comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// A path or an address.
    pub source: String,
    /// What distinguishes this state from the one before.
    pub revision: Option<String>,
    /// When this state was loaded.
    pub loaded_unix_ms: Option<u64>,
    /// Why the newest state was not taken; this one stays in force.
    pub last_error: Option<String>,
    /// Number of policies.
    pub policies: u64,
    /// Number of workloads.
    pub workloads: u64,
    /// Number of services.
    pub services: u64,
    /// Whether this is all that the source says.
    pub sync: Sync,
    /// The connection to the source, where that is a control plane.
    pub control_plane: Option<ControlPlane>,
}

/// How far the mesh's state can be trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Sync {
    /// Nothing complete has arrived and nothing is stored: connections are refused.
    Waiting,
    /// The last known good state of an earlier agent.
    Stored {
        /// Since it was last known to be what the control plane says.
        age_seconds: u64,
    },
    /// As the control plane says, or said before the connection was lost.
    Live {
        /// Since the control plane was last heard of; 0 while connected.
        age_seconds: u64,
    },
    /// A file: always whole.
    #[default]
    Complete,
}

/// The connection to a control plane.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ControlPlane {
    /// Since when there is one; none: there is not.
    pub connected_unix_ms: Option<u64>,
    /// Why the last one ended or could not be made.
    pub last_error: Option<String>,
    /// Resources refused in the last push that had any, as `name: cause`; a bounded number.
    pub refused: Vec<String>,
}

impl Config {
    /// What is not as it should be, for people.
    pub(crate) fn degradations(&self) -> Vec<String> {
        let mut found = Vec::new();
        match self.sync {
            Sync::Waiting => found.push("not synced: no state has arrived yet".to_owned()),
            Sync::Stored { age_seconds } => {
                found.push(format!("the state is stale: stored {age_seconds} s ago"));
            }
            Sync::Live { .. } | Sync::Complete => {}
        }
        if let Some(plane) = &self.control_plane {
            if plane.connected_unix_ms.is_none() {
                let cause = plane.last_error.as_deref().unwrap_or("connecting");
                found.push(format!("no control plane: {cause}"));
            }
            found.extend(plane.refused.iter().map(|refused| format!("refused: {refused}")));
        }
        found
    }
}
