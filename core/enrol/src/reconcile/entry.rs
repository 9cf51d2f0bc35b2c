//! What is known of one pod, and what is being done about it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::Pod;
use model::PodUid;

use super::facts::{Act, Captured, Event, EventKind, Place, Sandbox, State, Target, Wanted, Why};
use super::{
    ACT_PAUSE, BACKOFF_FIRST, BACKOFF_MAX, EVENT_PAUSE, EVENT_REPEAT, RELEASE_SETTLE, START_PAUSE,
};
use crate::code::{Code, Failure};
use crate::{REDIRECTION_ANNOTATION, REDIRECTION_ENABLED};

/// What a pod should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Desire {
    /// Captured.
    In(Box<Wanted>),
    /// Not captured.
    Out(Why),
    /// As whoever else enrolled it wants.
    Others,
    /// As it is: it is not known what it should be.
    Unknown,
}

#[derive(Debug, Default)]
pub(super) struct Entry {
    /// What the API server says; `None`: it does not know the pod.
    pub(super) object: Option<Arc<Pod>>,
    /// When the object was read for a sandbox.
    pub(super) read_by_request: Option<Instant>,
    /// A list lacked it after that.
    pub(super) is_unlisted: bool,
    claim: Option<Claim>,
    pub(super) claimed_at: Option<Instant>,
    /// The namespace of a sandbox that is gone.
    pub(super) ended_netns: Option<u64>,
    /// Since when it is unwanted.
    out_since: Option<Instant>,
    /// The node act in flight.
    pub(super) node: Option<Act>,
    node_lane: Lane,
    /// The API act in flight.
    pub(super) api: Option<Act>,
    api_lane: Lane,
    /// What is known of the annotation: the object's word, until an act has changed it.
    annotated: bool,
    /// Why it is not captured, or not well.
    failure: Option<Failure>,
    told: Option<Told>,
}

/// A sandbox, and whether its maker has been answered.
#[derive(Debug)]
struct Claim {
    sandbox: Sandbox,
    waits: bool,
    /// An enrolment began that knows of it: how that ends is the answer.
    tried: bool,
}

/// Failures in a row, and when the next act may be.
#[derive(Debug, Default)]
struct Lane {
    failures: u32,
    not_before: Option<Instant>,
}

impl Lane {
    fn is_open(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|time| time <= now)
    }

    fn ended(&mut self, failed: bool, now: Instant) {
        if failed {
            let doubled = BACKOFF_FIRST.saturating_mul(1 << self.failures.min(8));
            self.failures = self.failures.saturating_add(1);
            self.not_before = Some(now + doubled.min(BACKOFF_MAX));
        } else {
            *self = Self { failures: 0, not_before: Some(now + ACT_PAUSE) };
        }
    }

    fn pause(&mut self, pause: Duration, now: Instant) {
        self.not_before = Some(now + pause);
    }
}

/// The last event about a pod.
#[derive(Debug)]
struct Told {
    at: Instant,
    /// `None`: that all is well again.
    code: Option<Code>,
}

impl Entry {
    pub(super) fn put(&mut self, pod: Arc<Pod>) {
        let value = pod.metadata.annotation(REDIRECTION_ANNOTATION);
        self.annotated = value == Some(REDIRECTION_ENABLED);
        self.object = Some(pod);
        self.is_unlisted = false;
    }

    /// The API server does not know the pod any more. A sandbox that nobody waits for is no reason to
    /// remember it; whoever waits is still to be answered.
    pub(super) fn forget_object(&mut self) {
        (self.object, self.read_by_request, self.is_unlisted) = (None, None, false);
        if self.claim.take_if(|claim| !claim.waits).is_some() {
            self.claimed_at = None;
        }
    }

    pub(super) fn claim(&mut self, sandbox: Sandbox, now: Instant) {
        // What is left of the one before is superseded, or goes because the pod has moved.
        self.ended_netns = None;
        self.claim = Some(Claim { sandbox, waits: true, tried: false });
        (self.claimed_at, self.read_by_request) = (Some(now), Some(now));
        // Somebody waits: what failed before was about another sandbox, or is tried once more.
        self.node_lane = Lane::default();
        self.failure = None;
    }

    pub(super) fn unclaim(&mut self, id: &str) {
        if let Some(claim) = self.claim.take_if(|claim| claim.sandbox.id == id) {
            self.ended_netns = Some(claim.sandbox.netns_inode);
            self.claimed_at = None;
        }
    }

    pub(super) fn forget_sandbox_unless(&mut self, is_valid: impl Fn(&str) -> bool) {
        let forgotten = self.claim.take_if(|claim| !claim.waits && !is_valid(&claim.sandbox.id));
        if forgotten.is_some() {
            self.claimed_at = None;
        }
    }

    pub(super) fn sandbox(&self) -> Option<&Sandbox> {
        self.claim.as_ref().map(|claim| &claim.sandbox)
    }

    pub(super) fn is_waited_for(&self) -> bool {
        self.claim.as_ref().is_some_and(|claim| claim.waits)
    }

    pub(super) fn is_annotated(&self) -> bool {
        self.annotated && self.object.is_some()
    }

    /// Whether nothing is known or done that would be missed.
    pub(super) fn is_idle(&self) -> bool {
        let is_working = self.node.is_some() || self.api.is_some();
        !is_working && self.object.is_none() && !self.is_waited_for()
    }

    /// Notes when the pod became unwanted, and that nothing is left of a sandbox that is gone: the kernel
    /// gives its namespace's number to another one.
    pub(super) fn heed(&mut self, desire: &Desire, captured: Option<&Captured>, now: Instant) {
        if captured.is_none() && self.node.is_none() {
            self.ended_netns = None;
        }
        match desire {
            Desire::Out(_) => _ = self.out_since.get_or_insert(now),
            Desire::In(_) | Desire::Others | Desire::Unknown => self.out_since = None,
        }
    }

    pub(super) fn has_settled(&self, why: Why, now: Instant) -> bool {
        !why.may_flip() || self.out_since.is_some_and(|since| since + RELEASE_SETTLE <= now)
    }

    pub(super) fn may_act(&self, now: Instant) -> bool {
        self.node_lane.is_open(now)
    }

    pub(super) fn may_patch(&self, now: Instant) -> bool {
        self.api_lane.is_open(now)
    }

    pub(super) fn target(&self, uid: &PodUid) -> Option<Target> {
        let meta = &self.object.as_ref()?.metadata;
        let (namespace, name) = (meta.namespace.to_string(), meta.name.to_string());
        Some(Target { uid: uid.clone(), namespace, name })
    }

    pub(super) fn begin(&mut self, act: Act) {
        match act {
            Act::Enrol | Act::Update | Act::Release => {
                self.node = Some(act);
                if let Some(claim) = self.claim.as_mut().filter(|_| act == Act::Enrol) {
                    claim.tried = true;
                }
            }
            Act::Annotate | Act::Unannotate => self.api = Some(act),
        }
    }

    pub(super) fn finished(&mut self, act: Act, result: Result<(), Failure>, now: Instant) {
        match act {
            Act::Enrol | Act::Update | Act::Release => {
                self.node = None;
                match &result {
                    // Not a failure, unless it should run: it is looked for again soon.
                    Err(failure) if failure.code == Code::NotStarted => {
                        self.node_lane.pause(START_PAUSE, now);
                    }
                    Ok(()) if act == Act::Release => {
                        // Where it moved to, it is not captured yet.
                        self.node_lane.ended(false, now);
                        if self.is_waited_for() {
                            self.node_lane = Lane::default();
                        }
                    }
                    Ok(()) | Err(_) => self.node_lane.ended(result.is_err(), now),
                }
                self.failure = result.err();
            }
            Act::Annotate | Act::Unannotate => {
                self.api = None;
                self.api_lane.ended(result.is_err(), now);
                match result {
                    Ok(()) => self.annotated = act == Act::Annotate,
                    Err(failure) => self.failure = Some(failure),
                }
            }
        }
    }

    /// The answer for a waiting sandbox, once there is one.
    pub(super) fn answer(
        &mut self,
        desire: &Desire,
        captured: Option<&Captured>,
    ) -> Option<(String, Result<(), Failure>)> {
        let is_working = self.node.is_some();
        let claim = self.claim.as_mut().filter(|claim| claim.waits)?;
        let result = match (desire, captured) {
            (Desire::Out(Why::Refused(_)) | Desire::Others, _) => Ok(()),
            (Desire::In(_), Some(captured))
                if !is_working
                    && captured.netns == claim.sandbox.netns_inode
                    && captured.state == State::Verified
                    // Nothing of a pod need run while its sandbox is being made.
                    && matches!(captured.place, Place::Same | Place::Empty) =>
            {
                Ok(())
            }
            (Desire::In(_), _) if !is_working && claim.tried => Err(self.failure.clone()?),
            (Desire::Unknown, _) if !is_working && self.object.is_none() => {
                Err(Failure::new(Code::PodGone, "the pod was deleted meanwhile"))
            }
            // What is left of an earlier sandbox goes first.
            (Desire::In(_) | Desire::Out(_) | Desire::Unknown, _) => return None,
        };
        claim.waits = false;
        Some((claim.sandbox.id.clone(), result))
    }

    /// Takes what the kernel shows for the pod's failure, or its end.
    pub(super) fn note_state(
        &mut self,
        desire: &Desire,
        captured: Option<&Captured>,
        now: Instant,
    ) {
        match (desire, captured.map(|captured| &captured.state)) {
            (Desire::In(_), Some(State::Degraded(reason))) => {
                let same = self.failure.as_ref().is_some_and(|failure| failure.message == *reason);
                if !same {
                    self.failure = Some(Failure::new(Code::Degraded, reason.clone()));
                }
            }
            (Desire::In(_), Some(State::Verified)) => {
                // Nothing is left to do on the node, though something could be done.
                let (annotated, well) = (self.annotated, self.node.is_none() && self.may_act(now));
                if well {
                    self.node_lane.failures = 0;
                }
                self.failure.take_if(|failure| {
                    if failure.code == Code::AnnotationFailed { annotated } else { well }
                });
            }
            (Desire::Out(_), None) => self.failure = None,
            (Desire::In(_) | Desire::Out(_) | Desire::Others | Desire::Unknown, _) => {}
        }
    }

    pub(super) fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }

    /// What to tell the pod's owner now.
    pub(super) fn event(
        &mut self,
        uid: &PodUid,
        desire: &Desire,
        captured: Option<&Captured>,
        now: Instant,
    ) -> Option<Event> {
        let target = self.target(uid)?;
        if self.told.as_ref().is_some_and(|told| told.at + EVENT_PAUSE > now) {
            return None;
        }
        let told = self.told.as_ref().and_then(|told| Some((told.code?, told.at)));
        let is_new = |code| told.is_none_or(|(last, at)| last != code || at + EVENT_REPEAT <= now);
        let verified = captured.is_some_and(|captured| captured.state == State::Verified);
        let waits = self.failure.as_ref().is_some_and(|failure| failure.code == Code::NotStarted);
        let event = match (desire, &self.failure) {
            (Desire::Others | Desire::Unknown, _) => return None,
            (_, Some(failure)) if !waits && is_new(failure.code) => {
                self.told = Some(Told { at: now, code: Some(failure.code) });
                Event::warning(target, failure.code, &failure.message)
            }
            (Desire::In(wanted), None) if !wanted.problems.is_empty() => {
                is_new(Code::SwitchIgnored).then_some(())?;
                self.told = Some(Told { at: now, code: Some(Code::SwitchIgnored) });
                Event::warning(target, Code::SwitchIgnored, &wanted.problems.join("; "))
            }
            (Desire::In(_), None) if told.is_some() && verified => {
                self.told = Some(Told { at: now, code: None });
                let (kind, reason) = (EventKind::Normal, Event::ENROLLED);
                Event { target, kind, reason, message: "the pod is in the mesh".to_owned() }
            }
            (Desire::In(_) | Desire::Out(_), _) => return None,
        };
        Some(event)
    }

    /// When something may change by itself.
    pub(super) fn times(&self) -> impl Iterator<Item = Instant> {
        let settled = self.out_since.map(|since| since + RELEASE_SETTLE);
        [settled, self.node_lane.not_before, self.api_lane.not_before].into_iter().flatten()
    }
}
