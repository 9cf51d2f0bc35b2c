//! Questions of an enrolled pod to its resolvers: capture → dns → telemetry.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use model::{Code, Direction, OriginalDst, Path, Workload};
use names::{Answer, Client, Query, Transport};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::pods::Pod;
use super::record::{Reason, Record};
use super::worker::Worker;
use crate::capture::{Captured, DnsCapture, DnsSocket, Question, RunningDnsSocket};
use crate::dns::{self, Asked, Failure, Fate, Forwards, Place, Report, Step, Surroundings};
use crate::relay::Meter;
use crate::telemetry::{QuestionReport, Upstream};
use crate::tunnel;

/// Whether a captured connection is a stream of questions.
pub(super) fn is_one(pod: &Pod, destination: OriginalDst) -> bool {
    destination.0.port() == ebpf_abi::DNS_PORT && pod.captured.dns() == DnsCapture::On
}

/// Serves the questions that come to one of a pod's sockets, until the pod leaves or the agent stops.
pub(super) async fn datagrams(worker: Rc<Worker>, pod: Arc<Pod>, socket: DnsSocket) {
    let socket = match socket.start() {
        Ok(socket) => Rc::new(socket),
        Err(error) => {
            // It closes here, and its questions get no answer until the pod's sockets are replaced.
            pod.captured.set_broken();
            tracing::error!(pod = %pod.captured.uid(), %error, "cannot serve a socket for questions");
            return;
        }
    };
    let mut forwards = JoinSet::new();
    loop {
        let question = tokio::select! {
            () = worker.stop.draining() => break,
            Some(_) = forwards.join_next(), if !forwards.is_empty() => continue,
            question = socket.receive(&worker.datagram) => question,
        };
        let Some(question) = question else { break };
        if let Some(forward) = datagram(&worker, &pod, &socket, question) {
            forwards.spawn_local(forward);
        }
    }
    // Those that are under way are answered through the socket, each within a bounded time.
    while forwards.join_next().await.is_some() {}
}

/// Answers one question at once, or returns what remains to be done.
fn datagram(
    worker: &Rc<Worker>,
    pod: &Arc<Pod>,
    socket: &Rc<RunningDnsSocket>,
    question: Question,
) -> Option<impl Future<Output = ()> + use<>> {
    let resolver = socket.resolver();
    let asked = Asked::new(&question.message, Transport::Udp, resolver, Instant::now());
    let (worker, pod, socket) = (worker.clone(), pod.clone(), socket.clone());
    let reply = |message: &[u8]| {
        if let Err(error) = socket.answer(&question, message) {
            // The application has gone, or its queue is full: as any answer, this one may be lost.
            tracing::debug!(pod = %pod.captured.uid(), %error, "an answer is lost");
        }
    };
    let failure = match dns::step(&question.message, |m| answer(&worker, &pod, m, Transport::Udp)) {
        Step::Reply(message, fate) => {
            reply(&message);
            report(&worker, &pod, asked.report(fate));
            return None;
        }
        Step::Drop(failure) => failure,
        Step::Forward => match (resolver, Forwards::begin(&pod.forwards)) {
            (Some(resolver), Some(place)) => {
                return Some(forward(
                    worker,
                    pod,
                    socket,
                    Forward { question, asked, resolver, place },
                ));
            }
            (None, _) => Failure::NoResolver,
            (Some(_), None) => Failure::LimitReached,
        },
    };
    if let Some(message) = names::servfail(&question.message) {
        reply(&message);
    }
    report(&worker, &pod, asked.report(Fate::Failed(failure)));
    None
}

/// A question that its resolver is asked.
struct Forward {
    question: Question,
    asked: Asked,
    resolver: SocketAddr,
    place: Place,
}

async fn forward(
    worker: Rc<Worker>,
    pod: Arc<Pod>,
    socket: Rc<RunningDnsSocket>,
    forward: Forward,
) {
    let Forward { question, asked, resolver, place } = forward;
    let namespace = pod.captured.namespace();
    let forwarding = dns::forward(namespace, resolver, &question.message, &worker.datagram);
    let answered = tokio::select! {
        answered = forwarding => answered,
        _ = worker.stop.ending(&pod) => Err(Failure::Abandoned),
    };
    drop(place);
    let (message, fate) = match answered {
        Ok(message) => (Some(message), Fate::Forwarded),
        Err(Failure::Abandoned) => (None, Fate::Failed(Failure::Abandoned)),
        Err(failure) => (names::servfail(&question.message), Fate::Failed(failure)),
    };
    if let Some(Err(error)) = message.map(|message| socket.answer(&question, &message)) {
        tracing::debug!(pod = %pod.captured.uid(), %error, "an answer is lost");
    }
    report(&worker, &pod, asked.report(fate));
}

/// Serves a captured connection to a resolver.
pub(super) async fn stream(worker: Rc<Worker>, pod: Arc<Pod>, captured: Captured) {
    let Captured { stream, peer, original_dst } = captured;
    let telemetry = &worker.telemetry;
    let mut record = Record::start(telemetry, Direction::Outbound, Path::Dns, peer, original_dst);
    let _open = pod.captured.track();
    record.outcome.source.workload = source(&worker, &pod);
    record.established();
    let questions =
        Stream { worker: &worker, pod: &pod, resolver: original_dst.0, record: &record };
    let ended = tokio::select! {
        ended = dns::serve(stream, &questions) => match ended {
            Ok(()) => Code::Ok.into(),
            Err(error) => Reason::new(Code::Reset, format!("client: {error}")),
        },
        ending = worker.stop.ending(&pod) => ending.into(),
    };
    record.end(ended);
}

struct Stream<'a> {
    worker: &'a Rc<Worker>,
    pod: &'a Arc<Pod>,
    resolver: SocketAddr,
    record: &'a Record,
}

impl Surroundings for Stream<'_> {
    type Upstream = TcpStream;

    fn resolver(&self) -> SocketAddr {
        self.resolver
    }

    fn answer(&self, message: &[u8]) -> Answer {
        answer(self.worker, self.pod, message, Transport::Tcp)
    }

    fn place(&self) -> Option<Place> {
        Forwards::begin(&self.pod.forwards)
    }

    async fn dial(&self) -> Result<TcpStream, Failure> {
        let namespace = self.pod.captured.namespace();
        let dialled = tunnel::passthrough(namespace, self.resolver, &self.worker.tuning).await;
        dialled.map_err(|error| {
            let late = error.code() == Code::ConnectTimeout;
            if late { Failure::Timeout } else { Failure::Unreachable }
        })
    }

    fn report(&self, report: Report) {
        self::report(self.worker, self.pod, report);
    }

    fn count(&self, received: usize, sent: usize) {
        let bytes = |count| u64::try_from(count).unwrap_or(u64::MAX);
        self.record.request(bytes(received));
        self.record.response(bytes(sent));
    }
}

fn answer(worker: &Worker, pod: &Pod, message: &[u8], transport: Transport) -> Answer {
    let mesh = worker.mesh.borrow_mut().current().clone();
    let client =
        Client { namespace: &pod.captured.workload().namespace, network: &worker.config.network };
    let domain = &worker.config.cluster_domain;
    let query = Query { message, transport, client, domain, random: rand::random() };
    names::answer(&mesh.snapshot, &query)
}

fn source(worker: &Worker, pod: &Pod) -> Option<Arc<Workload>> {
    let mesh = worker.mesh.borrow_mut().current().clone();
    mesh.snapshot.workload_by_key(pod.captured.workload()).cloned()
}

fn report(worker: &Worker, pod: &Pod, report: Report) {
    let Report { question, transport, resolver, fate, took } = report;
    let (result, upstream, service, addresses) = match &fate {
        Fate::Answered { service, addresses } => {
            ("ANSWERED", Upstream::Unasked, Some(service), *addresses)
        }
        Fate::Forwarded => ("FORWARDED", Upstream::Answered, None, 0),
        Fate::Failed(failure @ (Failure::Timeout | Failure::Unreachable | Failure::Abandoned)) => {
            (failure.as_str(), Upstream::Failed, None, 0)
        }
        Fate::Failed(
            failure @ (Failure::LimitReached | Failure::NoResolver | Failure::Malformed),
        ) => (failure.as_str(), Upstream::Unasked, None, 0),
    };
    worker.telemetry.asked(&QuestionReport {
        source: pod.captured.workload(),
        workload: source(worker, pod).as_deref(),
        kind: question.kind,
        name: &question.name,
        transport,
        resolver,
        result,
        upstream,
        service,
        addresses,
        took,
    });
}
