//! Owns the machine: connects, publishes, answers look-ups, waits, and connects again.

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use authz::PolicyStore;
use grpc_channel::ControlPlane;
use proto::discovery::DeltaDiscoveryRequest;
use resolve::Snapshot;
use tokio::sync::{mpsc, oneshot, watch};
use xds::{Answer, ClientSettings, Lookup, WaiterId};

use crate::client::{Client, LOOKUPS_QUEUED_MAX, Question};
use crate::lines::Lines;
use crate::session::End;
use crate::state::{State, Sync};
use crate::status::{LastError, Status};
use crate::stored::{Keeper, StoredSettings, Turn};

/// What a client is made with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the control plane is, how it is recognised, and who we are to it.
    pub control_plane: ControlPlane,
    /// What is asked for.
    pub client: ClientSettings,
    /// The last known good state on disk; `None`: nothing is stored.
    pub stored: Option<StoredSettings>,
}

/// Makes a client and its driver.
#[must_use]
pub fn new(settings: Settings) -> (Client, Driver) {
    let now = SystemTime::now();
    let (states, states_seen) = watch::channel(Arc::new(State {
        snapshot: Arc::new(Snapshot::default()),
        policies: Arc::new(PolicyStore::empty(&settings.client.policies)),
        revision: 0,
        applied_at: now,
        sync: Sync::Waiting,
    }));
    let control_plane = settings.control_plane.address().to_string();
    let (status, status_seen) = watch::channel(Status::new(control_plane, now));
    let (questions, asked) = mpsc::channel(LOOKUPS_QUEUED_MAX);
    let client = Client { states: states_seen, status: status_seen, questions };
    let origin = format!("{} ({:?})", settings.control_plane.address(), settings.client.mode);
    let driver = Driver {
        machine: xds::Client::new(settings.client.clone()),
        keeper: Keeper::new(settings.stored.clone(), origin),
        settings,
        states,
        status,
        asked,
        waiting: HashMap::new(),
        outgoing: Outgoing::Closed,
        stored_as_of: None,
        refusals: Lines::default(),
    };
    (client, driver)
}

/// The way to the control plane.
#[derive(Debug)]
pub(crate) enum Outgoing {
    /// There is no stream.
    Closed,
    /// Into the open stream.
    Open(mpsc::Sender<DeltaDiscoveryRequest>),
    /// Its queue was full, or gone: the session ends.
    Unread,
}

/// Runs a client. Whoever made it runs it on a task of its own.
#[derive(Debug)]
pub struct Driver {
    pub(crate) settings: Settings,
    pub(crate) machine: xds::Client,
    pub(crate) keeper: Keeper,
    states: watch::Sender<Arc<State>>,
    pub(crate) status: watch::Sender<Status>,
    asked: mpsc::Receiver<Question>,
    /// Bounded by the machine's own bound.
    waiting: HashMap<WaiterId, oneshot::Sender<Answer>>,
    pub(crate) outgoing: Outgoing,
    /// When the control plane last confirmed what was restored.
    stored_as_of: Option<SystemTime>,
    /// Of responses that were refused, or resources in them.
    pub(crate) refusals: Lines,
}

impl Driver {
    /// Connects, again and again. Ends when every [`Client`] is gone.
    pub async fn run(mut self) {
        self.restore().await;
        loop {
            let end = self.session().await;
            self.outgoing = Outgoing::Closed;
            self.report(&end);
            if matches!(end, End::Unused) {
                return;
            }
            let delay = self.machine.closed(rand::random());
            if let Err(End::Unused) = self.serving(tokio::time::sleep(delay)).await {
                return;
            }
        }
    }

    /// Takes over what an earlier agent stored.
    async fn restore(&mut self) {
        let now = SystemTime::now();
        let loaded = self.keeper.load(now).await;
        let stored = self.keeper.status();
        self.status.send_modify(|status| status.stored = stored);
        let Some(loaded) = loaded else { return };
        let (mut machine, records) = (self.take_machine(), loaded.records);
        let work = tokio::task::spawn_blocking(move || {
            let rejected = machine.restore(records);
            (machine, rejected)
        });
        let Ok((machine, rejected)) = work.await else { return self.lost_machine() };
        self.machine = machine;
        self.stored_as_of = Some(loaded.as_of);
        self.status.send_modify(|status| {
            status.stale_since = Some(loaded.as_of);
            status.rejected(rejected);
        });
        self.publish(now);
        let age = now.duration_since(loaded.as_of).unwrap_or_default();
        tracing::info!(?age, "stored mesh state in use until the control plane answers");
    }

    /// Leaves a new machine in place of the one that is taken.
    pub(crate) fn take_machine(&mut self) -> xds::Client {
        let new = xds::Client::new(self.settings.client.clone());
        std::mem::replace(&mut self.machine, new)
    }

    /// Forgets what the control plane has sent, so that it sends everything again. What is
    /// published stays until then.
    pub(crate) fn begin_anew(&mut self) {
        self.machine.begin_anew(&self.states.borrow().snapshot);
        self.keeper.begin_anew();
    }

    /// The machine is lost, and what it waited for.
    pub(crate) fn lost_machine(&mut self) {
        // The new one counts its look-ups from the start.
        self.waiting.clear();
        self.begin_anew();
    }

    fn report(&mut self, end: &End) {
        let now = SystemTime::now();
        self.keeper.follow(false, Instant::now());
        let text = end.to_string();
        match end.termination() {
            None => {}
            Some(reason) if end.is_orderly() => {
                tracing::info!(reason = reason.as_str(), %text, "connection to the control plane ended");
            }
            Some(reason) => {
                tracing::warn!(reason = reason.as_str(), %text, "connection to the control plane ended");
            }
        }
        self.status.send_modify(|status| {
            status.connected_since = None;
            status.stale_since.get_or_insert(now);
            if let Some(reason) = end.termination() {
                status.ended(reason);
            }
            if !end.is_orderly() {
                status.last_error = Some(LastError { at: now, text });
            }
        });
    }

    /// Waits for something and answers look-ups meanwhile.
    pub(crate) async fn serving<F: Future>(&mut self, event: F) -> Result<F::Output, End> {
        let mut event = pin!(event);
        loop {
            // What was applied since may have had no room for its answer.
            if matches!(self.outgoing, Outgoing::Unread) {
                return Err(End::Deaf);
            }
            let end = self.machine.next_end().map(tokio::time::Instant::from_std);
            let expiry = async move {
                match end {
                    Some(end) => tokio::time::sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            // Each arm may be dropped: the event stays pinned outside, a question is taken from
            // the queue only when its arm is chosen, the expiry is asked for anew, and the keeper
            // remembers what it has begun.
            tokio::select! {
                output = &mut event => return Ok(output),
                question = self.asked.recv() => self.look_up(question.ok_or(End::Unused)?),
                () = expiry => self.expire(),
                turn = self.keeper.turn() => {
                    let stored = self.keeper.status();
                    self.status.send_modify(|status| status.stored = stored);
                    if turn == Turn::BaseLost {
                        self.begin_anew();
                        return Err(End::Resend);
                    }
                }
            }
        }
    }

    fn look_up(&mut self, Question { key, answer }: Question) {
        match self.machine.lookup(&key, Instant::now()) {
            // Whoever asked may have given up.
            Lookup::Known(known) => {
                let _ = answer.send(known);
            }
            Lookup::Wait { waiter, request } => {
                self.waiting.insert(waiter, answer);
                if let Some(request) = request {
                    self.send(*request);
                }
            }
        }
    }

    fn expire(&mut self) {
        let expired = self.machine.expire(Instant::now());
        if expired.published {
            self.publish(SystemTime::now());
        }
        if let Some(request) = expired.request {
            self.send(request);
        }
        self.release(expired.released);
    }

    /// Sends a request, if a stream is open.
    pub(crate) fn send(&mut self, request: DeltaDiscoveryRequest) {
        if let Outgoing::Open(requests) = &self.outgoing
            && requests.try_send(request).is_err()
        {
            self.outgoing = Outgoing::Unread;
        }
    }

    /// Ends look-ups; after the state that they ended with was published.
    pub(crate) fn release(&mut self, released: Vec<(WaiterId, Answer)>) {
        for (waiter, answer) in released {
            if answer == Answer::TimedOut {
                self.status.send_modify(|status| status.lookups_timed_out += 1);
            }
            if let Some(waiting) = self.waiting.remove(&waiter) {
                // Whoever asked may have given up.
                let _ = waiting.send(answer);
            }
        }
    }

    /// Publishes the machine's state as the next one.
    pub(crate) fn publish(&mut self, now: SystemTime) {
        let sync = match self.machine.sync() {
            xds::Sync::Waiting => Sync::Waiting,
            xds::Sync::Stored => Sync::Stored { as_of: self.stored_as_of.unwrap_or(now) },
            xds::Sync::Live => Sync::Live,
        };
        // A machine that had to begin anew does not take back what was published.
        if sync == Sync::Waiting && self.states.borrow().sync != Sync::Waiting {
            return;
        }
        let state = State {
            snapshot: self.machine.snapshot().clone(),
            policies: self.machine.policies().clone(),
            revision: self.states.borrow().revision + 1,
            applied_at: now,
            sync,
        };
        self.status.send_modify(|status| {
            status.sync = sync;
            status.revision = state.revision;
            status.workloads = state.snapshot.workloads().len();
            status.services = state.snapshot.services().len();
            status.policies = state.policies.len();
        });
        self.states.send_replace(Arc::new(state));
    }
}
