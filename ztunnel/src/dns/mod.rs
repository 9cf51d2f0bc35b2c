//! A pod's questions to its resolvers: answered from the state of the mesh, or passed on as they are to
//! the resolver that the application asked.
//!
//! `core/names` decides; this stage carries messages: datagrams one by one, streams as long as they last.
//! A resolver that fails is answered for with SERVFAIL, so that the application asks its next one: without
//! a name it can do nothing, and nothing is let past by answering.

mod datagram;
mod stream;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use model::ServiceName;
use names::{Answer, Header, Question, Reply, Transport};

pub(crate) use datagram::forward;
pub(crate) use stream::{Surroundings, serve};

/// Questions of one pod that wait for a resolver, over all threads and both transports; each holds a
/// socket, or a place in a stream. A further one gets SERVFAIL, which costs no socket.
const FORWARDS_MAX: usize = 256;

/// How long a resolver may take. Longer than resolver libraries wait by default, so that patience set for
/// slow resolvers is not cut short; then SERVFAIL.
const UPSTREAM_TIMEOUT: Duration = Duration::from_secs(10);

/// Room for any datagram: its length has 16 bits.
pub(crate) const DATAGRAM_ROOM: usize = names::MESSAGE_BYTES_MAX;

/// Why a question could not be passed on. The text is an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Failure {
    /// The resolver did not answer in time.
    Timeout,
    /// The resolver refused, could not be reached, or broke the connection off.
    Unreachable,
    /// Too many of the pod's questions are waiting.
    LimitReached,
    /// Nobody knows whom the question is for: a process of the pod has asked the agent's socket itself.
    NoResolver,
    /// Too short to be a message. There is nothing to answer.
    Malformed,
    /// The client's stream, the agent or the pod ended before the resolver answered.
    Abandoned,
}

impl Failure {
    /// The stable text.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "DNS_UPSTREAM_TIMEOUT",
            Self::Unreachable => "DNS_UPSTREAM_UNREACHABLE",
            Self::LimitReached => "LIMIT_REACHED",
            Self::NoResolver => "DNS_NO_RESOLVER",
            Self::Malformed => "DNS_MALFORMED",
            Self::Abandoned => "DNS_ABANDONED",
        }
    }
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Answered from the state of the mesh.
    Answered {
        /// Whose name it was.
        service: ServiceName,
        /// How many addresses it was told.
        addresses: usize,
    },
    /// The resolver has answered.
    Forwarded,
    /// Nobody has.
    Failed(Failure),
}

/// What is reported of one message.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) question: Question,
    pub(crate) transport: Transport,
    /// Whom the application asked.
    pub(crate) resolver: Option<SocketAddr>,
    pub(crate) fate: Fate,
    pub(crate) took: Duration,
}

/// One message on its way.
#[derive(Debug)]
pub(crate) struct Asked {
    question: Question,
    transport: Transport,
    resolver: Option<SocketAddr>,
    since: Instant,
}

impl Asked {
    pub(crate) fn new(
        message: &[u8],
        transport: Transport,
        resolver: Option<SocketAddr>,
        since: Instant,
    ) -> Self {
        Self { question: Question::read(message), transport, resolver, since }
    }

    pub(crate) fn report(self, fate: Fate) -> Report {
        let Self { question, transport, resolver, since } = self;
        Report { question, transport, resolver, fate, took: since.elapsed() }
    }
}

/// What is to be done with a message.
#[derive(Debug)]
pub(crate) enum Step {
    /// Send this; it is reported so.
    Reply(Vec<u8>, Fate),
    /// Ask the resolver.
    Forward,
    /// There is nothing to answer.
    Drop(Failure),
}

/// Decides one message. `answer` is asked only for what has a header.
pub(crate) fn step(message: &[u8], answer: impl FnOnce(&[u8]) -> Answer) -> Step {
    if Header::read(message).is_none() {
        return Step::Drop(Failure::Malformed);
    }
    match answer(message) {
        Answer::Reply(Reply { message, service, addresses }) => {
            Step::Reply(message, Fate::Answered { service, addresses })
        }
        Answer::Forward => Step::Forward,
    }
}

/// The questions of one pod that wait for a resolver.
#[derive(Debug, Default)]
pub(crate) struct Forwards(AtomicUsize);

/// One of them; dropping it frees its place.
#[derive(Debug)]
pub(crate) struct Place(Arc<Forwards>);

impl Forwards {
    /// Takes a place; `None` when there is none.
    pub(crate) fn begin(this: &Arc<Self>) -> Option<Place> {
        let taken = this.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |waiting| {
            (waiting < FORWARDS_MAX).then_some(waiting + 1)
        });
        taken.ok().map(|_| Place(this.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_has_so_many_places_and_gets_them_back() {
        let forwards = Arc::<Forwards>::default();
        let mut places: Vec<_> =
            (0..FORWARDS_MAX).map(|_| Forwards::begin(&forwards).expect("room")).collect();
        assert!(Forwards::begin(&forwards).is_none());
        places.pop();
        assert!(Forwards::begin(&forwards).is_some());
    }

    #[test]
    fn what_is_no_message_is_dropped_without_being_read() {
        for length in 0..Header::BYTES {
            let step = step(&vec![0; length], |_| panic!("read"));
            assert!(matches!(step, Step::Drop(Failure::Malformed)), "{length}");
        }
        assert!(matches!(step(&[0; Header::BYTES], |_| Answer::Forward), Step::Forward));
    }
}
