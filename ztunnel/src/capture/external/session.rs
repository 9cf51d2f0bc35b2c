//! Following the CNI agent: one message, one act, one answer.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use enrol::{Code, Failure};
use model::{PodUid, causes};
use netns::{Dial, NetnsFd, NetworkWatch, Source, TcpTuning, addresses};
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use zds::{Act, Pod, ReadError, Session, SessionError};
use zds_socket::{Packet, SocketError};

use super::super::node::{PodEvent, Status};
use super::super::pending::Expected;
use super::super::pod::{CapturedPod, PodParts, Redirection, ThreadAcceptors};
use super::super::questions::DnsCapture;
use super::super::self_test::{self, TOKEN_BYTES};
use super::super::watch::change;
use super::table::Told;
use super::{Connection, Inner, ServeError, Served, listeners};

/// The first pause after a connection ended; doubles up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(10);
/// The longest pause between two attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(15);
/// A connection that lived as long is no failure: the next attempt comes at once.
const STABLE: Duration = Duration::from_secs(15);
/// Between two attempts to serve pods that could not be, and two looks at those that are.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// How long a connection of the test may take. It stays in the pod.
const TEST_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two proofs of a pod that was redirected the last time: a pod with `NET_ADMIN` can take the
/// rules off, and then nothing of it comes here any more. One costs a connection within the pod.
const PROOF_INTERVAL: Duration = Duration::from_secs(10);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the CNI agent's socket")]
    Socket(#[from] SocketError),
    #[error("the CNI agent has closed the connection")]
    Closed,
    #[error("the CNI agent speaks out of turn")]
    Order(#[from] SessionError),
    #[error("a message of the CNI agent cannot be read")]
    Read(#[from] ReadError),
}

/// Connects, and again whenever the connection ends. Pods stay served meanwhile.
pub(super) async fn follow(inner: Arc<Inner>) {
    let looking = inner.clone();
    inner.tasks.spawn(async move {
        let looks = look_after(&looking);
        let _ = looking.shutdown.run_until_cancelled(looks).await;
    });
    let mut pause = BACKOFF_MIN;
    loop {
        let begin = Instant::now();
        let Err(end) = converse(&inner).await;
        let reason = causes(&end);
        let was = inner.connection.send_replace(Connection::Away(reason.clone()));
        if was != Connection::Away(reason.clone()) {
            tracing::warn!(%reason, "the CNI agent is away; its pods are served as it told them last");
        }
        if begin.elapsed() >= STABLE {
            pause = BACKOFF_MIN;
        }
        // Both ends restart at once in an upgrade of the node: not in step.
        tokio::time::sleep(pause.mul_f64(rand::random_range(0.8..1.2))).await;
        pause = (pause * 2).min(BACKOFF_MAX);
    }
}

async fn converse(inner: &Arc<Inner>) -> Result<std::convert::Infallible, End> {
    let connection = zds_socket::Connection::connect(&inner.config.socket)?;
    connection.send(&zds::hello()).await?;
    let mut session = Session::default();
    loop {
        let packet = connection.receive().await?.ok_or(End::Closed)?;
        let Packet { bytes, mut descriptors } = packet;
        let message = match zds::read(&bytes, descriptors.len()) {
            Ok(message) => message,
            // The agent's view of a pod is wrong, and it learns so; what else it says may be right.
            Err(
                error @ (ReadError::Uid(_)
                | ReadError::NoWorkload(_)
                | ReadError::Workload { .. }
                | ReadError::Unknown),
            ) => {
                let error = causes(&error);
                tracing::warn!(error, "a message of the CNI agent is refused");
                connection.send(&zds::answer(Err(&error))).await?;
                continue;
            }
            Err(error @ (ReadError::Malformed(_) | ReadError::Descriptors { .. })) => {
                return Err(error.into());
            }
        };
        let result = match session.take(message)? {
            Act::Serve(pod) => match descriptors.pop() {
                Some(descriptor) => {
                    let path = Path::new("of the CNI agent");
                    match NetnsFd::take(descriptor, path) {
                        Ok(namespace) => serve(inner, &pod, &namespace).await,
                        Err(error) => Err(error.into()),
                    }
                }
                None => Err(ServeError::Unknown),
            },
            Act::Retain(uid) if inner.table.lock().serves(&uid) => Ok(()),
            Act::Retain(_) => Err(ServeError::Unknown),
            Act::Stop(uid) => {
                withdraw(inner, &uid).await;
                Ok(())
            }
            Act::KeepOnly(told) => {
                let others = inner.table.lock().others(&told);
                for uid in others {
                    withdraw(inner, &uid).await;
                }
                inner.connection.send_replace(Connection::Live);
                tracing::info!(pods = told.len(), "the CNI agent has told all pods");
                Ok(())
            }
        };
        let answer = match result {
            Ok(()) => zds::answer(Ok(())),
            Err(error) => zds::answer(Err(&Failure::from(&error).to_string())),
        };
        connection.send(&answer).await?;
    }
}

/// Serves a pod. What cannot be served now is tried again; meanwhile its connections are refused,
/// because nothing listens where they are redirected.
async fn serve(inner: &Arc<Inner>, told: &Pod, namespace: &NetnsFd) -> Result<(), ServeError> {
    if *namespace == inner.own {
        return Err(ServeError::Own);
    }
    let entered = inner.table.lock().tell(told, namespace)?;
    if let Told::New(before) = entered {
        if let Some(before) = before {
            end(inner, &told.uid, &before).await;
        }
        start(inner, told, namespace).await?;
    }
    Ok(())
}

/// Serves a pod that is in the table as being started.
async fn start(inner: &Arc<Inner>, told: &Pod, namespace: &NetnsFd) -> Result<(), ServeError> {
    let begun = begin(inner, told, namespace).await;
    inner.table.lock().started(told, namespace, begun.is_ok());
    if let Err(error) = &begun {
        inner.set_status(&told.uid, degraded(error));
    }
    begun
}

async fn begin(inner: &Arc<Inner>, told: &Pod, namespace: &NetnsFd) -> Result<(), ServeError> {
    if inner.shutdown.is_cancelled() {
        return Err(ServeError::Stopping);
    }
    let own = own_addresses(namespace)?;
    let opened = listeners::open(namespace, inner.config.threads, inner.config.mark)?;
    let (addresses, receiver) = watch::channel(own);
    let pod = Arc::new(CapturedPod::new(PodParts {
        uid: told.uid.clone(),
        workload: told.workload.clone(),
        dns: DnsCapture::Off,
        namespace: namespace.clone(),
        addresses: receiver,
        redirection: Redirection::Rules,
    }));
    let served = Served { pod: pod.clone(), addresses };
    let threads = opened.into_iter();
    let acceptors = threads
        .map(|listeners| ThreadAcceptors::new(listeners, Vec::new(), &pod, &inner.pending))
        .collect();
    if !inner.table.lock().serve(told, namespace, &served) {
        return Err(ServeError::Unknown);
    }
    if !inner.emit(PodEvent::Up { pod, acceptors }).await {
        served.pod.gone().cancel();
        return Err(ServeError::DataPlane);
    }
    if !inner.table.lock().serves(&told.uid) {
        // Withdrawn in between: the data plane may have heard of its end first.
        end(inner, &told.uid, &served).await;
        return Err(ServeError::Unknown);
    }
    tracing::info!(pod = %told.uid, workload = %told.workload, "pod is served");
    let (inner, uid) = (inner.clone(), told.uid.clone());
    inner.tasks.clone().spawn(async move { attend(&inner, &uid, &served).await });
    Ok(())
}

fn degraded(error: &ServeError) -> Status {
    Status::Degraded(Failure::from(error).to_string())
}

/// Addresses that peers could know.
fn own_addresses(namespace: &NetnsFd) -> Result<Vec<IpAddr>, ServeError> {
    let mut found = addresses(namespace)?;
    found.retain(|address| address.is_global_unicast() && address.usable);
    found.sort_by_key(|address| (address.interface, address.ip));
    if found.is_empty() {
        return Err(ServeError::NoAddress);
    }
    Ok(found.into_iter().map(|address| address.ip).collect())
}

/// Follows a pod's addresses and proves its redirection, until it is withdrawn.
async fn attend(inner: &Arc<Inner>, uid: &PodUid, served: &Served) {
    let mut notices = NetworkWatch::new(served.pod.namespace()).ok();
    let mut ticks = tokio::time::interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut proved = Instant::now();
    loop {
        tokio::select! {
            () = served.pod.stopping().cancelled() => return,
            () = inner.shutdown.cancelled() => return,
            () = change(notices.as_mut()) => {}
            _ = ticks.tick() => {}
        }
        if served.pod.take_broken()
            && let Err(error) = reopen(inner, served).await
        {
            served.pod.set_broken();
            inner.set_status(uid, degraded(&error));
            continue;
        }
        let own = match own_addresses(served.pod.namespace()) {
            Ok(own) => own,
            Err(error) => {
                inner.set_status(uid, degraded(&error));
                continue;
            }
        };
        let changed = *served.addresses.borrow() != own;
        if changed {
            tracing::info!(pod = %uid, addresses = ?own, "addresses changed");
            served.addresses.send_replace(own);
        }
        if changed || !served.pod.is_verified() || proved.elapsed() >= PROOF_INTERVAL {
            proved = Instant::now();
            let status = match prove(inner, served).await {
                Ok(()) => Status::Verified,
                Err(failure) => Status::Degraded(failure.to_string()),
            };
            inner.set_status(uid, status);
        }
    }
}

/// Opens the listeners again. A privileged process of the pod can destroy them.
async fn reopen(inner: &Inner, served: &Served) -> Result<(), ServeError> {
    let pod = &served.pod;
    let opened = listeners::open(pod.namespace(), inner.config.threads, inner.config.mark)?;
    let old = pod.renew_listeners();
    let acceptors = opened
        .into_iter()
        .map(|listeners| ThreadAcceptors::new(listeners, Vec::new(), pod, &inner.pending))
        .collect();
    old.cancel();
    let taken = inner.emit(PodEvent::Up { pod: pod.clone(), acceptors }).await;
    if taken { Ok(()) } else { Err(ServeError::DataPlane) }
}

/// Dials a documentation address from inside the pod, without the proxy's mark: the rules must bring
/// that here. Says nothing of inbound connections.
async fn prove(inner: &Inner, served: &Served) -> Result<(), Failure> {
    let namespace = served.pod.namespace();
    let own = served.addresses.borrow().first().copied();
    let documentation: IpAddr = match own {
        Some(IpAddr::V6(_)) => self_test::DOCUMENTATION_V6.into(),
        Some(IpAddr::V4(_)) | None => self_test::DOCUMENTATION_V4.into(),
    };
    let destination = SocketAddr::new(documentation, self_test::nonce_port());
    let expectation =
        inner.pending.expect(Expected::Outbound { namespace: namespace.inode(), destination });
    let dial = Dial {
        namespace: namespace.clone(),
        source: Source::Own,
        tuning: TcpTuning::default(),
        timeout: TEST_TIMEOUT,
    };
    let reached = async {
        let mut stream = dial.connect(destination).await.map_err(|error| causes(&error))?;
        let mut answer = [0; TOKEN_BYTES];
        stream.read_exact(&mut answer).await.map_err(|error| error.to_string())?;
        if answer == expectation.token() { Ok(()) } else { Err("another answered".to_owned()) }
    };
    let not_redirected = |why| {
        let message = format!("a connection to {destination} is not redirected here: {why}");
        Failure::new(Code::NotCaptured, message)
    };
    match tokio::time::timeout(TEST_TIMEOUT, reached).await {
        Ok(result) => result.map_err(not_redirected),
        Err(_) => Err(not_redirected(format!("no answer within {TEST_TIMEOUT:?}"))),
    }
}

/// Tries pods again that could not be served.
async fn look_after(inner: &Arc<Inner>) {
    let mut ticks = tokio::time::interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let unserved = inner.table.lock().start_unserved();
        for (told, namespace) in unserved {
            // Why not is in the pod's status.
            let _ = start(inner, &told, &namespace).await;
        }
    }
}

/// Serves a pod no longer: it is gone, or its traffic comes no more.
async fn withdraw(inner: &Inner, uid: &PodUid) {
    let row = inner.table.lock().remove(uid);
    if let Some(served) = row.and_then(|row| row.served) {
        end(inner, uid, &served).await;
        tracing::info!(pod = %uid, "pod is no longer served");
    }
}

async fn end(inner: &Inner, uid: &PodUid, served: &Served) {
    served.pod.gone().cancel();
    inner.emit(PodEvent::Down { uid: uid.clone() }).await;
}
