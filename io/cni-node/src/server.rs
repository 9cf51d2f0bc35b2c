//! The served side: one request a connection, from root only, each with its deadline.

use std::future::Future;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cni::{
    REQUEST_BYTES_MAX, Refusal, Reply, Request, SandboxEnd, SandboxRequest, Valid, Work, code,
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::answers::{Answers, verb};
use crate::socket::{BindError, SocketFile, listener};

/// Requests served at once; a further one is told `AGENT_BUSY`, and its runtime tries again. More
/// than twice the pods of a usual node, since each may be added and deleted at once.
pub const CONNECTIONS_MAX: usize = 256;
/// A connection on which no whole request arrives for that long is closed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest that a request is worked on, whatever it asks for.
const WAIT_MAX: Duration = Duration::from_secs(cni::conflist::TIMEOUT_SECONDS_MAX);
/// A plugin that does not take its reply for that long is gone.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);
/// Requests that are worked on when the agent stops get that long to end, then are refused.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a failed accept, which is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the agent does with sandboxes. Called at once from several connections, also for one
/// sandbox: a runtime that gave up on an ADD deletes it while the ADD is still worked on, and may
/// add it again.
///
/// A future runs until its request's wait ends, also when its plugin has given up before, or until the
/// agent ends. Then it is dropped, and nothing may be lost by that.
/// Each call may come twice.
pub trait Sandboxes: Send + Sync + 'static {
    /// Ends when the pod is captured and verified and its certificate is there, or at once if it is
    /// not in the mesh.
    fn add(&self, sandbox: SandboxRequest) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// Whether what [`Self::add`] did still holds.
    fn check(&self, sandbox: SandboxRequest) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// The sandbox ends. One that is not known is no error.
    fn delete(&self, ended: SandboxEnd) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// All sandboxes that the runtime has. Others may be forgotten, but only if the kernel agrees.
    fn gc(&self, valid: Vec<Valid>) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// Whether pods could be added now.
    fn status(&self) -> impl Future<Output = Result<(), Refusal>> + Send;
}

/// The plugin's socket.
#[derive(Debug)]
pub struct CniSocket {
    listener: UnixListener,
    owner: u32,
    file: SocketFile,
    answers: Answers,
}

impl CniSocket {
    /// Makes the socket with mode 0600 and moves it to `path`. What was there before keeps the
    /// connections that it has: an agent can follow another without a gap. Connections wait until
    /// [`Self::serve`]. Must run within a tokio runtime.
    ///
    /// `owner` is the only user whose connections are served (`SO_PEERCRED`): 0 for an agent.
    pub fn bind(path: &Path, owner: u32) -> Result<Self, BindError> {
        let (listener, file) = listener(path)?;
        Ok(Self { listener, owner, file, answers: Answers::default() })
    }

    /// How requests were answered, also later.
    #[must_use]
    pub fn answers(&self) -> Answers {
        self.answers.clone()
    }

    /// Serves until `stop` ends. Then the socket's file is removed, unless it is another agent's;
    /// who had connected before is served; and what takes more than five seconds is refused with
    /// `AGENT_STOPPING`.
    pub async fn serve<S: Sandboxes>(self, sandboxes: Arc<S>, stop: impl Future<Output = ()>) {
        let Self { listener, owner, file, answers } = self;
        let (ending, ended) = watch::channel(false);
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let connections = JoinSet::new();
        let mut service = Service { sandboxes, owner, slots, ended, connections, answers };
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                // Cancel safe: accept and join_next lose nothing when dropped.
                Some(_) = service.connections.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => service.start(stream),
                    Err(_) => sleep(ACCEPT_PAUSE).await,
                },
            }
        }
        // First the name, then the queue: nobody can join it any more.
        drop(file);
        service.drain(listener);
        if timeout(STOP_TIMEOUT, service.idle()).await.is_ok() {
            return;
        }
        // A receiver may be gone; then nobody needs to know.
        let _ = ending.send(true);
        if timeout(REPLY_TIMEOUT, service.idle()).await.is_err() {
            service.connections.shutdown().await;
        }
    }
}

struct Service<S> {
    sandboxes: Arc<S>,
    owner: u32,
    slots: Arc<Semaphore>,
    ended: watch::Receiver<bool>,
    connections: JoinSet<()>,
    answers: Answers,
}

impl<S: Sandboxes> Service<S> {
    fn start(&mut self, stream: UnixStream) {
        // Fails closed: whoever cannot be identified is not served.
        if !stream.peer_cred().is_ok_and(|peer| peer.uid() == self.owner) {
            return;
        }
        let Ok(slot) = self.slots.clone().try_acquire_owned() else {
            self.refuse_busy(stream);
            return;
        };
        let connection = Connection {
            sandboxes: self.sandboxes.clone(),
            ended: self.ended.clone(),
            answers: self.answers.clone(),
            _slot: slot,
        };
        self.connections.spawn(async move {
            // An error here is the plugin's hang-up or silence; there is nobody to tell.
            let _ = connection.run(stream).await;
        });
    }

    /// Starts what waits to be accepted. Without the runtime's reactor, which may not have heard of
    /// all of it yet.
    fn drain(&mut self, listener: UnixListener) {
        let Ok(listener) = listener.into_std() else { return };
        while let Ok((stream, _)) = listener.accept() {
            let stream = stream.set_nonblocking(true).and_then(|()| UnixStream::from_std(stream));
            if let Ok(stream) = stream {
                self.start(stream);
            }
        }
    }

    async fn idle(&mut self) {
        while self.connections.join_next().await.is_some() {}
    }

    /// One line, which the socket's empty buffer takes at once.
    fn refuse_busy(&self, stream: UnixStream) {
        let message = format!("the agent serves {CONNECTIONS_MAX} requests already");
        let reply = Reply::Refused(Refusal::new(code::AGENT_BUSY, message));
        self.answers.count(verb(None), &reply);
        // Non-blocking still; whoever misses the line sees the connection close.
        let _ = stream.into_std().and_then(|mut stream| stream.write_all(&reply.encode()));
    }
}

struct Connection<S> {
    sandboxes: Arc<S>,
    ended: watch::Receiver<bool>,
    answers: Answers,
    _slot: OwnedSemaphorePermit,
}

impl<S: Sandboxes> Connection<S> {
    async fn run(mut self, mut stream: UnixStream) -> io::Result<()> {
        let line = timeout(REQUEST_TIMEOUT, read_line(&mut stream)).await??;
        let request = Request::decode(&line);
        let verb = verb(request.as_ref().ok().map(|request| &request.work));
        let reply = match request {
            Ok(request) => self.answer(request).await,
            Err(error) => Reply::Refused(error.refusal()),
        };
        self.answers.count(verb, &reply);
        timeout(REPLY_TIMEOUT, stream.write_all(&reply.encode())).await??;
        stream.shutdown().await
    }

    async fn answer(&mut self, request: Request) -> Reply {
        let wait = request.wait.min(WAIT_MAX);
        let ended = &mut self.ended;
        let outcome = tokio::select! {
            // Handlers bear being dropped; see `Sandboxes`.
            outcome = timeout(wait, work(&*self.sandboxes, request.work)) => outcome,
            // Also when the sender is gone: the service ends with it.
            _ = ended.wait_for(|ended| *ended) => {
                let message = "the agent stops; another one is to follow";
                return Reply::Refused(Refusal::new(code::AGENT_STOPPING, message));
            }
        };
        match outcome {
            Ok(Ok(())) => Reply::Done,
            Ok(Err(refusal)) => Reply::Refused(refusal),
            Err(_) => {
                let message = format!("it was not done within {:.1} s", wait.as_secs_f32());
                Reply::Refused(Refusal::new(code::AGENT_SLOW, message))
            }
        }
    }
}

async fn work<S: Sandboxes>(sandboxes: &S, work: Work) -> Result<(), Refusal> {
    match work {
        Work::Add(sandbox) => sandboxes.add(sandbox).await,
        Work::Check(sandbox) => sandboxes.check(sandbox).await,
        Work::Delete(ended) => sandboxes.delete(ended).await,
        Work::Gc(valid) => sandboxes.gc(valid).await,
        Work::Status => sandboxes.status().await,
    }
}

/// Up to the end of the line or the bound; beyond that, decoding refuses.
async fn read_line(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let max = u64::try_from(REQUEST_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    let mut line = Vec::new();
    BufReader::new(stream).take(max).read_until(b'\n', &mut line).await?;
    if line.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(line) }
}

#[cfg(test)]
mod tests;
