//! Who captures on this node, behind one face for the rest of the agent.

use std::io;

use enrol::redirection::{self, Choice, CniAgent, Mode, Reason, Unmet, Wish};
use model::PodUid;
use tokio::sync::mpsc;

use super::adopt::AdoptAllError;
use super::enrol::{EnrolCode, EnrolError, EnrolRequest};
use super::external::{Connection, External, ExternalConfig};
use super::ground::Ground;
use super::leave::Rest;
use super::node::{Candidate, Capture, CaptureConfig, CaptureError, PodEvent};
use super::pins::PinError;
use super::probe::KernelFeatures;
use super::view::PodView;

/// A process that could capture, and does not yet.
pub enum Prepared {
    /// With our own hooks.
    Hooks(Box<Candidate>),
    /// Through a CNI agent.
    Rules(ExternalConfig, Choice),
}

impl Prepared {
    /// Chooses the mode, and makes this process fit for it. Must run before any socket of the data
    /// plane exists. `rules` are those of a CNI agent, if one may be followed.
    pub fn choose(
        wish: Wish,
        hooks: CaptureConfig,
        rules: ExternalConfig,
        cni_agent: CniAgent,
    ) -> Result<Self, CaptureError> {
        if wish == Wish::External {
            let choice = Choice { mode: Mode::External, reason: Reason::Forced };
            return Ok(Self::Rules(rules, choice));
        }
        let ground = Ground::survey(wish, &hooks)?;
        let choice = match redirection::choose(wish, ground.facts(cni_agent)) {
            Ok(choice) => choice,
            Err(Unmet::Kernel) => {
                return Err(ground.kernel.err().map_or(CaptureError::NoMode, Into::into));
            }
            Err(Unmet::Root) => {
                return Err(ground.root_error().map_or(CaptureError::NoMode, CaptureError::Root));
            }
        };
        match choice.mode {
            Mode::Ebpf | Mode::EbpfRoot => {
                Ok(Self::Hooks(Box::new(Capture::prepare(hooks, ground, choice)?)))
            }
            Mode::External => {
                if let Some(error) = ground.error() {
                    let error = model::causes(&error);
                    tracing::warn!(error, "hooks do not work here; following a CNI agent instead");
                }
                Ok(Self::Rules(rules, choice))
            }
        }
    }

    /// The mark by which the proxy's packets are known, if that is not our hooks' business.
    #[must_use]
    pub fn mark(&self) -> Option<u32> {
        match self {
            Self::Hooks(_) => None,
            Self::Rules(config, _) => Some(config.mark),
        }
    }

    /// Begins; pods come as events.
    pub async fn start(self) -> Result<(Capturing, mpsc::Receiver<PodEvent>), CaptureError> {
        match self {
            Self::Hooks(candidate) => {
                let (capture, events) = candidate.start().await?;
                Ok((Capturing::Hooks(capture), events))
            }
            Self::Rules(config, choice) => {
                let (external, events) = External::new(config, choice)?;
                Ok((Capturing::Rules(external), events))
            }
        }
    }
}

/// Who captures. Clones share it.
#[derive(Clone)]
pub enum Capturing {
    /// Our own hooks.
    Hooks(Capture),
    /// The rules of a CNI agent.
    Rules(External),
}

impl Capturing {
    /// The mode, and why it was chosen.
    #[must_use]
    pub fn choice(&self) -> Choice {
        match self {
            Self::Hooks(capture) => capture.choice(),
            Self::Rules(external) => external.choice(),
        }
    }

    /// Optional kernel features that were found.
    #[must_use]
    pub fn features(&self) -> Option<KernelFeatures> {
        match self {
            Self::Hooks(capture) => Some(capture.features()),
            Self::Rules(_) => None,
        }
    }

    /// What is wrong beyond single pods, for people.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        match self {
            Self::Hooks(capture) => capture.kubelet_problem(),
            Self::Rules(external) => match &*external.connection().borrow() {
                Connection::Live => None,
                Connection::Never => Some("the CNI agent has not told its pods yet".to_owned()),
                Connection::Away(reason) => Some(format!("the CNI agent is away: {reason}")),
            },
        }
    }

    /// Counters of the programs that belong to no pod.
    pub fn counters(&self) -> io::Result<Vec<(&'static str, u64)>> {
        match self {
            Self::Hooks(capture) => capture.counters(),
            Self::Rules(_) => Ok(Vec::new()),
        }
    }

    /// Every pod.
    #[must_use]
    pub fn pods(&self) -> Vec<PodView> {
        match self {
            Self::Hooks(capture) => capture.pods(),
            Self::Rules(external) => external.pods(),
        }
    }

    /// Captures a running pod.
    pub async fn enrol(&self, request: EnrolRequest) -> Result<(), EnrolError> {
        match self {
            Self::Hooks(capture) => capture.enrol(request).await,
            Self::Rules(_) => Err(not_ours()),
        }
    }

    /// Ends the capture of a pod that lives.
    pub async fn unenrol(&self, uid: &PodUid) -> Result<(), EnrolError> {
        match self {
            Self::Hooks(capture) => capture.unenrol(uid, Rest::GoesOn).await,
            Self::Rules(_) => Err(not_ours()),
        }
    }

    /// Whether a pod is kept captured, and what was written of it cannot be used.
    #[must_use]
    pub fn has_lost_record(&self, uid: &PodUid) -> bool {
        match self {
            Self::Hooks(capture) => capture.has_lost_record(uid),
            Self::Rules(_) => false,
        }
    }

    /// Brings back what was there: adopts the pods of an earlier agent, or waits until the CNI agent
    /// has told its own.
    pub async fn restore(&self) -> Result<(), AdoptAllError> {
        match self {
            Self::Hooks(capture) => capture.adopt_all().await,
            Self::Rules(external) => {
                tokio::spawn(external.clone().run());
                let mut connection = external.connection();
                // It lives as long as this does.
                let _ = connection.wait_for(|now| *now == Connection::Live).await;
                Ok(())
            }
        }
    }

    /// The first step of stopping: new connections are refused from now on.
    pub async fn refuse_new(&self) {
        match self {
            Self::Hooks(capture) => capture.refuse_new().await,
            // Listeners close with their threads; what shares their ports takes the rest.
            Self::Rules(_) => {}
        }
    }

    /// Ends the work on pods.
    pub async fn stop(&self) {
        match self {
            Self::Hooks(capture) => capture.stop().await,
            Self::Rules(external) => external.stop().await,
        }
    }

    /// Resolves when another agent waits for the place of this one. A CNI agent tells both of its
    /// pods, and their listeners share the ports, so there is no place to wait for.
    pub async fn successor_waits(&self) {
        match self {
            Self::Hooks(capture) => capture.successor_waits().await,
            Self::Rules(_) => std::future::pending().await,
        }
    }

    /// Gives the pods to the agent that waits.
    pub async fn hand_over(&self) -> Result<(), PinError> {
        match self {
            Self::Hooks(capture) => capture.hand_over().await,
            Self::Rules(external) => {
                external.stop().await;
                Ok(())
            }
        }
    }
}

fn not_ours() -> EnrolError {
    let message = "a CNI agent says which pods there are (WARREN_REDIRECTION=external)";
    EnrolError::new(EnrolCode::AttachFailed, message)
}
