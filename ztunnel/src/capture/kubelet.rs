//! Following the kubelet: where it restarts, its supervisor often makes its cgroup anew. The role is an id,
//! and the old one is nobody's then: probes would be judged like any other connection.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use model::causes;

use super::agent_cgroup::Cgroup;
use super::host::KubeletError;
use super::node::{Capture, Node, open_folder};

/// Between two looks at a cgroup that is known: one call.
const LOOK_PAUSE: Duration = Duration::from_secs(2);
/// After a search in vain, which goes through all processes of the host.
const SEARCH_PAUSE: Duration = Duration::from_secs(10);

impl Capture {
    /// Why the kubelet's probes do not pass, for people.
    #[must_use]
    pub fn kubelet_problem(&self) -> Option<String> {
        let why = self.0.kubelet_problem.lock().clone()?;
        Some(format!("the kubelet's probes are judged like any other connection: {why}"))
    }
}

impl Node {
    /// Runs until the agent stops.
    pub(super) async fn follow_kubelet(self: Arc<Self>) {
        let mut pause = LOOK_PAUSE;
        loop {
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = LOOK_PAUSE;
            if self.kubelet.lock().as_ref().is_some_and(Cgroup::exists) {
                continue;
            }
            let node = Arc::clone(&self);
            let found = tokio::task::spawn_blocking(move || node.find_kubelet()).await;
            match found {
                Ok(Ok(cgroup)) => self.move_kubelet(cgroup),
                Ok(Err(error)) => {
                    self.miss_kubelet(causes(&error));
                    pause = SEARCH_PAUSE;
                }
                Err(_) => pause = SEARCH_PAUSE,
            }
        }
    }

    fn find_kubelet(&self) -> Result<Cgroup, KubeletError> {
        match (&self.config.kubelet_cgroup, &self.host) {
            (Some(path), _) => Ok(Cgroup::open(path)?),
            (None, Some(host)) => Ok(Cgroup::open(&host.kubelet(&self.host_netns)?)?),
            (None, None) => Err(KubeletError::Absent),
        }
    }

    /// Notes that nobody has the kubelet's role, and why.
    pub(super) fn miss_kubelet(&self, why: String) {
        let mut problem = self.kubelet_problem.lock();
        if problem.as_ref() != Some(&why) {
            tracing::warn!(why, "the kubelet's probes are judged like any other connection");
            *problem = Some(why);
        }
    }

    fn move_kubelet(&self, cgroup: Cgroup) {
        let path = cgroup.path().display().to_string();
        let folder = match open_folder(cgroup.path()) {
            Ok(folder) => folder,
            Err(error) => {
                return self.miss_kubelet(format!("{path} cannot be opened: {}", causes(&error)));
            }
        };
        // What another agent has told the programs must stay.
        let moved =
            self.seats.while_owner(|| self.programs.move_kubelet(folder.as_fd(), cgroup.id()));
        match moved {
            Ok(Ok(())) => {
                tracing::info!(path, "following the kubelet to its cgroup");
                *self.kubelet.lock() = Some(cgroup);
                *self.kubelet_problem.lock() = None;
            }
            Ok(Err(error)) => {
                self.miss_kubelet(format!("its role cannot go to {path}: {}", causes(&error)));
            }
            Err(_) => {}
        }
    }
}
