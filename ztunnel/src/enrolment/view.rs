//! How enrolment stands, for people, metrics and the CLI.

use std::sync::Arc;

use cni_node::{Answers, InstallReport, InstallState};
use enrol::{Failure, Report, Standing};
use model::PodUid;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::driver::Input;
use super::sandboxes::StartsOutside;

/// What the loop tells of itself.
#[derive(Clone)]
pub(crate) struct EnrolmentView {
    pub(super) told: watch::Receiver<Arc<Told>>,
    pub(super) inputs: mpsc::Sender<Input>,
    /// The plugin's place on the node, where this agent keeps it.
    pub(super) install: Option<watch::Receiver<InstallReport>>,
    /// How the plugin was answered.
    pub(super) answers: Option<Answers>,
    /// Pods that started uncaptured.
    pub(super) outside: StartsOutside,
}

/// How all pods stand.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Each pod that is known or captured.
    pub(crate) pods: Vec<Report>,
    /// How well the API server is followed.
    pub(crate) behind: Behind,
}

/// Since when what is known of a collection may be old; `None`: it is followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Behind {
    /// This node's pods.
    pub(crate) pods: Option<Instant>,
    /// All namespaces.
    pub(crate) namespaces: Option<Instant>,
}

impl Behind {
    /// For how many seconds each collection was not followed.
    pub(crate) fn ages(self) -> [(&'static str, u64); 2] {
        let age = |since: Option<Instant>| since.map_or(0, |since| since.elapsed().as_secs());
        [("pods", age(self.pods)), ("namespaces", age(self.namespaces))]
    }
}

impl Told {
    /// Pods that should be captured, run, and are not proved to be.
    pub(crate) fn gap(&self) -> usize {
        self.pods.iter().filter(|report| report.is_gap).count()
    }

    /// Pods in a state.
    pub(crate) fn count(&self, standing: Standing) -> usize {
        self.pods.iter().filter(|report| report.standing == standing).count()
    }
}

impl EnrolmentView {
    /// Of a loop alone, without a plugin.
    pub(super) fn new(told: watch::Receiver<Arc<Told>>, inputs: mpsc::Sender<Input>) -> Self {
        let outside = StartsOutside::default();
        Self { told, inputs, install: None, answers: None, outside }
    }

    /// How the plugin was answered: verb, code or `OK`, and how often.
    pub(crate) fn answers(&self) -> Vec<(&'static str, String, u64)> {
        self.answers.as_ref().map(Answers::counts).unwrap_or_default()
    }

    /// Pods that started uncaptured, because their namespace fails open, by why.
    pub(crate) fn starts_outside(&self) -> Vec<(enrol::Code, u64)> {
        self.outside.counts()
    }

    /// Whether the plugin is in its place, and how often it had to be put back; `None`: that is not
    /// this agent's business.
    pub(crate) fn plugin(&self) -> Option<(bool, u64)> {
        let report = self.install.as_ref()?.borrow().clone();
        Some((matches!(report.state, InstallState::Installed { .. }), report.repairs))
    }

    /// How all pods stand now.
    pub(crate) fn told(&self) -> Arc<Told> {
        self.told.borrow().clone()
    }

    /// What is wrong beyond single pods, for people.
    pub(crate) fn problems(&self) -> Vec<String> {
        let behind = self.told().behind;
        let known = [behind.pods, behind.namespaces];
        let ages = behind.ages().into_iter().zip(known).filter(|(_, since)| since.is_some());
        let away = ages.map(|((what, age), _)| {
            format!("the API server's {what} have not been followed for {age} s")
        });
        let install = self.install.as_ref().and_then(|report| problem(&report.borrow().state));
        away.chain(install).collect()
    }

    /// Whether the CLI may enrol a pod or let it go: the API server outranks it.
    pub(crate) async fn may_others(&self, uid: &PodUid) -> Result<(), Failure> {
        let (answer, answered) = oneshot::channel();
        let asked = self.inputs.send(Input::MayOthers { uid: uid.clone(), answer }).await;
        let stopping = || Failure::new(enrol::Code::TooLate, "the agent is stopping");
        asked.map_err(|_| stopping())?;
        answered.await.map_err(|_| stopping())?
    }
}

/// Why pods start without the plugin.
fn problem(state: &InstallState) -> Option<String> {
    match state {
        InstallState::Starting | InstallState::Installed { .. } => None,
        InstallState::WaitingForPrimary => Some(
            "the CNI plugin waits: the node has no network configuration that it could follow"
                .to_owned(),
        ),
        InstallState::Failed { code, message } => {
            Some(format!("the CNI plugin's place on the node: {code}: {message}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_wrong_beyond_single_pods_is_told() {
        let (told, receiver) = watch::channel(Arc::default());
        let state = InstallState::WaitingForPrimary;
        let (installed, report) = watch::channel(InstallReport { state, repairs: 0 });
        let (inputs, _receiver) = mpsc::channel(1);
        let view = EnrolmentView { install: Some(report), ..EnrolmentView::new(receiver, inputs) };
        assert_eq!(view.problems().len(), 1, "no primary");
        let message = "a read-only folder".to_owned();
        installed.send_modify(|report| {
            report.state = InstallState::Failed { code: "CNI_FOLDER", message };
        });
        let behind = Behind { pods: Some(Instant::now()), namespaces: None };
        told.send_replace(Arc::new(Told { pods: Vec::new(), behind }));
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(behind.ages(), [("pods", 7), ("namespaces", 0)]);
        let problems = view.problems();
        assert!(problems[0].contains("pods have not been followed for 7 s"), "{problems:?}");
        assert!(problems[1].contains("CNI_FOLDER: a read-only folder"), "{problems:?}");
    }
}
