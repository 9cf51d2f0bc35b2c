//! Keeps the plugin on the node while the agent runs: looks, repairs, and says how it is.

use std::collections::VecDeque;
use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use crate::node::{Found, InstallError, InstallSettings, Node, Touched};
use crate::watch::Watch;

/// The longest between two looks, should no change be heard of.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// The shortest: who writes a file in pieces is given time, and who fights us does not keep us busy.
const LOOK_PAUSE: Duration = Duration::from_millis(200);
/// After a failure: doubled each time, up to the second.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// That many repairs within the time are a fight, and said to be one. It goes on.
const REPAIRS_CONTESTED: usize = 5;
const REPAIRS_WINDOW: Duration = Duration::from_mins(1);

/// The code of such a fight.
const CONTESTED: &str = "CNI_CONTESTED";

/// How the plugin's place on the node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InstallState {
    /// Nothing was looked at yet.
    Starting,
    /// The plugin and the chain that names it are there.
    Installed {
        /// The chain's file.
        conflist: String,
        /// The file that it is made from.
        primary: String,
    },
    /// The node has no network configuration yet. A chain of ours that is there stays.
    WaitingForPrimary,
    /// It is tried again.
    Failed {
        /// Stable.
        code: &'static str,
        /// What failed, on which file, and why.
        message: String,
    },
}

/// How it is, and what it took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstallReport {
    /// How it is.
    pub state: InstallState,
    /// How often somebody else had changed the plugin or its chain, and it was repaired.
    pub repairs: u64,
}

/// Installs the plugin, keeps it installed, and removes it.
///
/// Only the agent that owns the node may run one: two would write one after the other.
#[derive(Debug)]
pub struct NodeInstaller {
    settings: InstallSettings,
    /// Away while a look is on, and for ever if that was dropped.
    node: Option<Node>,
    repaired: VecDeque<Instant>,
    report: watch::Sender<InstallReport>,
}

impl NodeInstaller {
    /// Does nothing yet.
    #[must_use]
    pub fn new(settings: InstallSettings) -> Self {
        let report = InstallReport { state: InstallState::Starting, repairs: 0 };
        let (report, _) = watch::channel(report);
        Self { settings, node: None, repaired: VecDeque::new(), report }
    }

    /// Where to read how it is.
    #[must_use]
    pub fn report(&self) -> watch::Receiver<InstallReport> {
        self.report.subscribe()
    }

    /// Looks once, and puts there what is missing.
    pub async fn install(&mut self) -> InstallState {
        let mut node = self.take_node();
        let looked = spawn_blocking(move || {
            let (found, touched) = node.look();
            (node, found, touched)
        });
        let state = match looked.await {
            Ok((node, found, touched)) => {
                self.node = Some(node);
                self.state(found, touched)
            }
            // The look panicked, or the runtime ends.
            Err(error) => {
                InstallState::Failed { code: "CNI_NOT_LOOKED_AT", message: error.to_string() }
            }
        };
        self.report.send_if_modified(|report| {
            let changed = report.state != state;
            report.state.clone_from(&state);
            changed
        });
        state
    }

    /// Installs, watches and repairs until `stop` ends. All stays on the node then: an agent that
    /// merely restarts must not let pods start outside the mesh.
    pub async fn run(&mut self, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        let watch = Watch::new();
        let mut retry = RETRY_MIN;
        loop {
            // Before the look, so that a change after it is heard.
            watch.add(&self.settings.conf_dir);
            watch.add(&self.settings.bin_dir);
            let pause = match self.install().await {
                InstallState::Failed { code, .. } if code != CONTESTED => {
                    let pause = retry;
                    retry = RETRY_MAX.min(retry * 2);
                    pause
                }
                InstallState::Starting
                | InstallState::Installed { .. }
                | InstallState::WaitingForPrimary
                | InstallState::Failed { .. } => {
                    retry = RETRY_MIN;
                    LOOK_INTERVAL
                }
            };
            // Each arm leads to a look, which sees whatever a dropped arm had heard.
            tokio::select! {
                () = &mut stop => return,
                () = watch.changed() => {}
                () = sleep(pause) => continue,
            }
            tokio::select! {
                () = &mut stop => return,
                () = sleep(LOOK_PAUSE) => {}
            }
        }
    }

    /// Takes the chain and then the plugin from the node, and touches nothing else. For an
    /// uninstallation only, after [`Self::run`] has ended.
    pub async fn remove(&mut self) -> Result<(), InstallError> {
        let mut node = self.take_node();
        let removed = spawn_blocking(move || {
            let removed = node.remove();
            (node, removed)
        });
        match removed.await {
            Ok((node, removed)) => {
                self.node = Some(node);
                removed
            }
            Err(error) => Err(InstallError::Folder {
                path: self.settings.conf_dir.clone(),
                source: std::io::Error::other(error),
            }),
        }
    }

    fn take_node(&mut self) -> Node {
        self.node.take().unwrap_or_else(|| Node::new(self.settings.clone()))
    }

    fn state(&mut self, found: Result<Found, InstallError>, touched: Touched) -> InstallState {
        let now = Instant::now();
        if touched == Touched::Yes {
            self.repaired.push_back(now);
            self.report.send_modify(|report| report.repairs += 1);
        }
        while self.repaired.front().is_some_and(|&at| now - at > REPAIRS_WINDOW)
            || self.repaired.len() > REPAIRS_CONTESTED
        {
            self.repaired.pop_front();
        }
        match found {
            Err(error) => {
                InstallState::Failed { code: error.code(), message: model::causes(&error) }
            }
            Ok(Found::NoPrimary) => InstallState::WaitingForPrimary,
            Ok(Found::Installed { .. }) if self.repaired.len() == REPAIRS_CONTESTED => {
                InstallState::Failed { code: CONTESTED, message: self.contested() }
            }
            Ok(Found::Installed { conflist, primary }) => {
                InstallState::Installed { conflist: conflist.to_owned(), primary }
            }
        }
    }

    fn contested(&self) -> String {
        format!(
            "another program changed the plugin in {} or its chain in {} at least \
             {REPAIRS_CONTESTED} times within a minute, and each time it was repaired. Cilium does \
             so unless it is told cni.exclusive=false",
            self.settings.bin_dir.display(),
            self.settings.conf_dir.display(),
        )
    }
}

#[cfg(test)]
mod tests;
