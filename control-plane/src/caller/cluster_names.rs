//! Which cluster callers must say they are of.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Refusal, RefusalCode};

/// Names of our cluster.
#[derive(Clone, Debug)]
pub struct ClusterNames {
    /// The id, and other names of it.
    pub names: BTreeSet<Arc<str>>,
}

impl ClusterNames {
    /// Refuses callers of another cluster: our API server cannot say who they are. Who names none
    /// is taken for ours, and proves it with the token.
    pub fn require(&self, cluster: Option<&str>) -> Result<(), Refusal> {
        const SHOWN: usize = 64;
        match cluster {
            Some(name) if !name.is_empty() && !self.names.contains(name) => {
                let name: String = name.chars().take(SHOWN).collect();
                let why = format!("a token of another cluster, {name:?}");
                Err(Refusal::new(RefusalCode::OtherCluster, why))
            }
            Some(_) | None => Ok(()),
        }
    }
}
