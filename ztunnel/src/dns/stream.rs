//! Questions in a stream (RFC 7766): each message follows its length. Answers from the mesh and from the
//! resolver mix in the order in which they come; their ids tell them apart.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use names::{Answer, Header, Transport};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::{Instant, sleep_until, timeout};

use super::{Asked, Failure, Fate, Place, Report, Step, UPSTREAM_TIMEOUT, step};

/// Questions of one stream that wait for the resolver. Beyond it no more are read, until some have been
/// answered.
const WAITING_MAX: usize = 64;
/// A stream without any message is closed after this; clients open another (RFC 7766 section 6.2.3).
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long one side may take no bytes; then the stream ends.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a stream needs of its surroundings.
pub(crate) trait Surroundings {
    /// A connection to a resolver.
    type Upstream: AsyncRead + AsyncWrite;

    /// Whom the application asked.
    fn resolver(&self) -> SocketAddr;
    /// Answers a message from the state of the mesh.
    fn answer(&self, message: &[u8]) -> Answer;
    /// A place among the pod's questions that wait; `None` when there is none.
    fn place(&self) -> Option<Place>;
    /// Connects to the resolver.
    async fn dial(&self) -> Result<Self::Upstream, Failure>;
    /// Takes the report of one message.
    fn report(&self, report: Report);
    /// Takes the bytes that came from the client, and went to it.
    fn count(&self, received: usize, sent: usize);
}

/// Serves one stream until the client or the resolver ends it. An error is the client's.
pub(crate) async fn serve<S: Surroundings>(
    client: impl AsyncRead + AsyncWrite,
    surroundings: &S,
) -> io::Result<()> {
    let (reader, writer) = tokio::io::split(client);
    let mut stream = Stream {
        surroundings,
        reader,
        writer,
        questions: Frames::default(),
        ended: false,
        upstream: None,
        waiting: Vec::new(),
        active: Instant::now(),
    };
    stream.run().await
}

struct Stream<'a, S: Surroundings, C> {
    surroundings: &'a S,
    reader: ReadHalf<C>,
    writer: WriteHalf<C>,
    questions: Frames,
    /// The client has shut down its side.
    ended: bool,
    upstream: Option<Upstream<S::Upstream>>,
    waiting: Vec<Waiting>,
    /// When the last message was seen.
    active: Instant,
}

struct Upstream<U> {
    reader: ReadHalf<U>,
    writer: WriteHalf<U>,
    answers: Frames,
}

/// A question that the resolver has.
struct Waiting {
    id: u16,
    asked: Asked,
    /// What the client gets if the resolver does not answer; nothing for what is no question.
    refusal: Option<Vec<u8>>,
    due: Instant,
    _place: Place,
}

enum Event {
    Question(Vec<u8>),
    ClientEnded,
    Answer(Vec<u8>),
    UpstreamEnded,
    Due,
}

impl<S: Surroundings, C: AsyncRead + AsyncWrite> Stream<'_, S, C> {
    async fn run(&mut self) -> io::Result<()> {
        loop {
            match self.next().await? {
                Event::Question(message) => {
                    self.active = Instant::now();
                    self.question(message).await?;
                }
                Event::ClientEnded => self.ended = true,
                Event::Answer(message) => {
                    self.active = Instant::now();
                    self.answered(&message);
                    self.send(&message).await?;
                }
                // As it would be for the client, had it asked the resolver itself.
                Event::UpstreamEnded => {
                    self.refuse_all(Failure::Unreachable).await?;
                    return self.finish().await;
                }
                Event::Due => {
                    if self.waiting.is_empty() {
                        return self.finish().await;
                    }
                    self.refuse_due().await?;
                }
            }
            if self.ended && self.waiting.is_empty() {
                return self.finish().await;
            }
        }
    }

    /// Cancel safe: what was read in part stays in [`Frames`].
    async fn next(&mut self) -> io::Result<Event> {
        let oldest = self.waiting.iter().map(|waiting| waiting.due).min();
        let due = oldest.unwrap_or(self.active + IDLE_TIMEOUT);
        let may_ask = !self.ended && self.waiting.len() < WAITING_MAX;
        tokio::select! {
            question = self.questions.next(&mut self.reader), if may_ask => {
                Ok(question?.map_or(Event::ClientEnded, Event::Question))
            }
            answer = Upstream::next(self.upstream.as_mut()) => {
                Ok(answer.ok().flatten().map_or(Event::UpstreamEnded, Event::Answer))
            }
            () = sleep_until(due) => Ok(Event::Due),
        }
    }

    async fn question(&mut self, message: Vec<u8>) -> io::Result<()> {
        self.surroundings.count(framed(&message), 0);
        let resolver = Some(self.surroundings.resolver());
        let now = std::time::Instant::now();
        let asked = Asked::new(&message, Transport::Tcp, resolver, now);
        match step(&message, |message| self.surroundings.answer(message)) {
            Step::Reply(reply, fate) => {
                self.surroundings.report(asked.report(fate));
                self.send(&reply).await
            }
            Step::Drop(failure) => {
                self.surroundings.report(asked.report(Fate::Failed(failure)));
                // What comes after it cannot be told apart either.
                Err(io::Error::new(io::ErrorKind::InvalidData, failure.as_str()))
            }
            Step::Forward => self.forward(message, asked).await,
        }
    }

    async fn forward(&mut self, message: Vec<u8>, asked: Asked) -> io::Result<()> {
        let refusal = names::servfail(&message);
        let Some(place) = self.surroundings.place() else {
            return self.refuse(asked, refusal, Failure::LimitReached).await;
        };
        let id = Header::read(&message).map_or(0, |header| header.id);
        let due = Instant::now() + UPSTREAM_TIMEOUT;
        self.waiting.push(Waiting { id, asked, refusal, due, _place: place });
        if self.upstream.is_none() {
            match self.surroundings.dial().await {
                Ok(upstream) => self.upstream = Some(Upstream::new(upstream)),
                // Without a resolver none but this one waits.
                Err(failure) => return self.refuse_all(failure).await,
            }
        }
        let Some(upstream) = &mut self.upstream else { return Ok(()) };
        if write(&mut upstream.writer, &message).await.is_err() {
            // A part of the frame may have been sent: whatever followed would be read as its rest.
            self.upstream = None;
            return self.refuse_all(Failure::Unreachable).await;
        }
        Ok(())
    }

    /// Of several questions with one id, the oldest counts as answered. A further message of a zone
    /// transfer belongs to none that waits.
    fn answered(&mut self, message: &[u8]) {
        let id = Header::read(message).map(|header| header.id);
        let place = self.waiting.iter().position(|waiting| Some(waiting.id) == id);
        if let Some(place) = place {
            let waiting = self.waiting.remove(place);
            self.surroundings.report(waiting.asked.report(Fate::Forwarded));
        }
    }

    async fn refuse_due(&mut self) -> io::Result<()> {
        let now = Instant::now();
        while let Some(place) = self.waiting.iter().position(|waiting| waiting.due <= now) {
            let Waiting { asked, refusal, .. } = self.waiting.remove(place);
            self.refuse(asked, refusal, Failure::Timeout).await?;
        }
        Ok(())
    }

    async fn refuse_all(&mut self, failure: Failure) -> io::Result<()> {
        for Waiting { asked, refusal, .. } in std::mem::take(&mut self.waiting) {
            self.refuse(asked, refusal, failure).await?;
        }
        Ok(())
    }

    async fn refuse(
        &mut self,
        asked: Asked,
        refusal: Option<Vec<u8>>,
        failure: Failure,
    ) -> io::Result<()> {
        self.surroundings.report(asked.report(Fate::Failed(failure)));
        match refusal {
            Some(refusal) => self.send(&refusal).await,
            None => Ok(()),
        }
    }

    async fn send(&mut self, message: &[u8]) -> io::Result<()> {
        write(&mut self.writer, message).await?;
        self.surroundings.count(0, framed(message));
        Ok(())
    }

    async fn finish(&mut self) -> io::Result<()> {
        self.writer.shutdown().await
    }
}

impl<S: Surroundings, C> Drop for Stream<'_, S, C> {
    /// Whoever ended it, what still waits has an end too.
    fn drop(&mut self) {
        for Waiting { asked, .. } in self.waiting.drain(..) {
            self.surroundings.report(asked.report(Fate::Failed(Failure::Abandoned)));
        }
    }
}

impl<U: AsyncRead + AsyncWrite> Upstream<U> {
    fn new(stream: U) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        Self { reader, writer, answers: Frames::default() }
    }

    /// The resolver's next message; never while there is no resolver.
    async fn next(this: Option<&mut Self>) -> io::Result<Option<Vec<u8>>> {
        match this {
            Some(upstream) => upstream.answers.next(&mut upstream.reader).await,
            None => std::future::pending().await,
        }
    }
}

/// Messages out of a stream.
#[derive(Default)]
struct Frames(BytesMut);

/// Bytes of the length before a message.
const LENGTH_BYTES: usize = 2;
/// Room that one read is given: most messages are shorter.
const READ_BYTES: usize = 2048;

impl Frames {
    /// The next message; `None` at the end of the stream. Holds at most one message, of up to 64 KiB, and
    /// what one read brought beyond it. Cancel safe.
    async fn next(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(message) = self.take() {
                return Ok(Some(message));
            }
            self.0.reserve(READ_BYTES);
            if stream.read_buf(&mut self.0).await? == 0 {
                let cut_off = Err(io::ErrorKind::UnexpectedEof.into());
                return if self.0.is_empty() { Ok(None) } else { cut_off };
            }
        }
    }

    fn take(&mut self) -> Option<Vec<u8>> {
        let length = usize::from(u16::from_be_bytes(*self.0.first_chunk()?));
        let end = LENGTH_BYTES.saturating_add(length);
        let message = self.0.get(LENGTH_BYTES..end)?.to_vec();
        self.0.advance(end);
        Some(message)
    }
}

fn framed(message: &[u8]) -> usize {
    LENGTH_BYTES.saturating_add(message.len())
}

/// Writes a message and its length at once: some servers take only what comes in one piece.
async fn write(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let framed = [&length.to_be_bytes()[..], message].concat();
    match timeout(WRITE_TIMEOUT, stream.write_all(&framed)).await {
        Ok(written) => written,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

#[cfg(test)]
mod tests;
