//! The gate in front of an application: judge, dial if it may pass, and keep judging while open.
//!
//! `hbone::Stream` decides; this performs what it says. Tunnel streams, plaintext and same-node
//! connections all pass here, so there is one place where a connection can be let in.

use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;

use hbone::{Action, Input, Refusal, Stream};
use model::{Code, Connection, Peer};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::pods::Pod;
use super::record::{Reason, Record};
use super::worker::Worker;
use crate::capture::CapturedPod;
use crate::policy::{Judged, Via};
use crate::relay::Ending;
use crate::tunnel::{self, ClientLeg};

/// A connection at the gate.
pub(super) struct Call {
    /// Who calls, and what for.
    pub(super) connection: Connection,
    /// By which way it came.
    pub(super) via: Via,
    /// How the application is dialled.
    pub(super) leg: ClientLeg,
}

/// A connection that was let in.
pub(super) struct Admitted {
    /// The leg to the application.
    pub(super) application: TcpStream,
    /// What may take the verdict back.
    pub(super) watch: Watch,
}

/// Follows the state of the mesh for one open connection.
pub(super) struct Watch {
    worker: Rc<Worker>,
    pod: Arc<CapturedPod>,
    judged: Judged,
    state: Stream,
}

/// A connection that was not let in.
pub(super) struct Refused {
    /// For the report.
    pub(super) reason: Reason,
    /// HTTP status for a peer in a tunnel.
    pub(super) status: u16,
}

impl Refused {
    fn new(refusal: &Refusal, failure: Option<String>) -> Self {
        let policy = refusal.denial.as_ref().and_then(|denial| denial.policy.clone());
        let detail = failure.or_else(|| Some(refusal.to_string()));
        Self { reason: Reason { code: refusal.code, policy, detail }, status: refusal.status() }
    }
}

/// Judges a call and dials the application.
///
/// It is registered for changes of the mesh before it is judged first, so that no
/// change falls between the two. `client_gone` resolves when nobody is left to answer.
pub(super) async fn admit(
    worker: &Rc<Worker>,
    pod: &Pod,
    call: Call,
    client_gone: impl Future<Output = ()>,
    record: &mut Record,
) -> Result<Admitted, Refused> {
    let Call { connection, via, leg } = call;
    let mut client_gone = pin!(client_gone);
    let watched = worker.mesh.borrow_mut().watched();
    let identity = connection.peer.identity();
    record.outcome.source.identity = identity.map(|identity| identity.id().clone());
    // A gateway's address is not the client's.
    if record.outcome.source.workload.is_none() && via == Via::Direct {
        record.outcome.source.workload =
            worker.workload_of(&watched.0, connection.source.ip(), identity);
    }
    record.outcome.destination.address = Some(connection.destination);
    record.outcome.destination.identity = match connection.peer {
        Peer::Verified(_) => pod.identity.current().map(|svid| svid.identity().id().clone()),
        Peer::Plaintext => None,
    };
    let key = pod.captured.workload().clone();
    let mut judged = Judged::register(watched, key, (connection, via), worker.ways.clone());
    record.outcome.destination.workload = judged.workload();

    let (mut state, mut action) = Stream::Judging.step(Input::Judged(judged.judge()));
    let mut dial: Option<Pin<Box<_>>> = None;
    let mut application = None;
    let mut failure = None;
    let mut hold = held(None, &state, &judged);
    loop {
        match action {
            Action::Wait | Action::Hold => {}
            Action::Dial(permit) => {
                record.outcome.policy = permit.reason().policy().cloned();
                let namespace = pod.captured.namespace();
                dial =
                    Some(Box::pin(tunnel::to_application(namespace, permit, leg, &worker.tuning)));
            }
            Action::Relay => break,
            Action::Refuse(refusal) | Action::Reset(refusal) => {
                return Err(Refused::new(&refusal, failure));
            }
            Action::Abandon => return Err(Refused::new(&Code::TunnelLost.into(), None)),
        }
        let input = tokio::select! {
            dialled = or_pending(&mut dial) => {
                dial = None;
                match dialled {
                    Ok(socket) => {
                        application = Some(socket);
                        Input::Dialed
                    }
                    Err(error) => {
                        failure = Some(error.detail());
                        Input::DialFailed(error.code())
                    }
                }
            }
            verdict = judged.judge_again() => Input::Judged(verdict),
            () = or_pending(&mut hold) => Input::HoldElapsed,
            () = &mut client_gone => Input::PeerGone,
            () = worker.stop.cut() => Input::DrainElapsed,
            () = pod.captured.gone().cancelled() => Input::PodGone,
        };
        (state, action) = state.step(input);
        hold = held(hold, &state, &judged);
        record.outcome.destination.workload = judged.workload();
    }
    match application {
        Some(application) => {
            let pod = pod.captured.clone();
            let watch = Watch { worker: worker.clone(), pod, judged, state };
            Ok(Admitted { application, watch })
        }
        // The machine relays only after a dial has succeeded.
        None => Err(Refused::new(&Code::Internal.into(), None)),
    }
}

impl Watch {
    /// Resolves when the connection must be cut. Never, while its verdict holds.
    pub(super) async fn revoked(mut self) -> Ending {
        let mut hold = held(None, &self.state, &self.judged);
        loop {
            let input = tokio::select! {
                verdict = self.judged.judge_again() => Input::Judged(verdict),
                () = or_pending(&mut hold) => Input::HoldElapsed,
                () = self.worker.stop.cut() => Input::DrainElapsed,
                () = self.pod.gone().cancelled() => Input::PodGone,
            };
            let (state, action) = self.state.step(input);
            self.state = state;
            hold = held(hold, &self.state, &self.judged);
            if let Action::Reset(refusal) | Action::Refuse(refusal) = action {
                let policy = refusal.denial.as_ref().and_then(|denial| denial.policy.clone());
                return Ending { policy, ..Ending::new(refusal.code, refusal.to_string()) };
            }
        }
    }
}

/// The bounded wait for a policy or a workload that was not sent yet.
type Hold = Option<Pin<Box<Sleep>>>;

/// Runs while the stream is held, from when that began.
fn held(running: Hold, stream: &Stream, judged: &Judged) -> Hold {
    if !stream.is_held() {
        return None;
    }
    running.or_else(|| Some(Box::pin(tokio::time::sleep(judged.patience()))))
}

async fn or_pending<F: Future>(future: &mut Option<Pin<Box<F>>>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
