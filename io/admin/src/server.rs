//! The served side: accepts operators, bounds what they can take, and asks the [`Handler`].

use std::future::Future;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::BufReader;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::line;
use crate::protocol::{Failure, Response};
use crate::socket::{BindError, SocketFile, listener};

/// Operators served at once; a further one is told `BUSY` and closed.
pub const CONNECTIONS_MAX: usize = 32;
/// A bound for the channel behind [`Reply::Many`]: what does not fit is counted as missed.
pub const FLOW_QUEUE_MAX: usize = 1024;
/// Longest request, in bytes. A longer one is refused and the connection closed.
const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// A connection on which no request arrives for that long is closed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// A client that does not take a line for that long is closed.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests that are being answered when the agent stops get that long to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a failed accept, which is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers requests. Called at once from several connections.
pub trait Handler: Send + Sync + 'static {
    /// What is asked.
    type Request: DeserializeOwned + Send;
    /// What is answered.
    type Response: Serialize + From<Failure> + Send + Sync;

    /// Answers one request. Runs to its end even if the client hangs up meanwhile.
    fn handle(&self, request: Self::Request) -> impl Future<Output = Reply<Self::Response>> + Send;
}

/// An answer.
#[derive(Debug)]
pub enum Reply<R = Response> {
    /// One response.
    One(R),
    /// Responses until the sender is dropped, then the last one.
    Many {
        /// Make it with [`FLOW_QUEUE_MAX`], send without waiting, and report what did not fit.
        events: mpsc::Receiver<R>,
        /// What says that there are no more.
        end: R,
    },
}

impl Reply {
    /// Flows: [`Response::Flow`], and [`Response::Missed`] for those that did not fit.
    #[must_use]
    pub fn flows(events: mpsc::Receiver<Response>) -> Self {
        Self::Many { events, end: Response::End }
    }
}

impl<R: From<Failure>> From<Result<R, Failure>> for Reply<R> {
    fn from(result: Result<R, Failure>) -> Self {
        Self::One(result.unwrap_or_else(R::from))
    }
}

/// The admin socket.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    owner: u32,
    // Dropped after the listener: the file goes last.
    _file: SocketFile,
}

impl Server {
    /// Makes the socket at `path` with mode 0600. A stale one is replaced; one on which somebody
    /// answers is not. Must run within a tokio runtime.
    ///
    /// `owner` is the only user whose connections are served (`SO_PEERCRED`): 0 for an agent.
    pub fn bind(path: &Path, owner: u32) -> Result<Self, BindError> {
        let (listener, file) = listener(path)?;
        Ok(Self { listener, owner, _file: file })
    }

    /// Serves until `stop` ends; then closes idle connections at once, and gives requests that
    /// are being answered five seconds. The socket file is removed.
    pub async fn serve<H: Handler>(self, handler: Arc<H>, stop: impl Future<Output = ()>) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let (stopping, stopped) = watch::channel(false);
        let mut connections = JoinSet::new();
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                // Cancel safe: accept and join_next lose nothing when dropped.
                Some(_) = connections.join_next() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => self.start(stream, &slots, &handler, &stopped, &mut connections),
                    Err(_) => sleep(ACCEPT_PAUSE).await,
                },
            }
        }
        // A receiver may be gone; then nobody needs to know.
        let _ = stopping.send(true);
        let drained = async { while connections.join_next().await.is_some() {} };
        if timeout(STOP_TIMEOUT, drained).await.is_err() {
            connections.shutdown().await;
        }
    }

    fn start<H: Handler>(
        &self,
        stream: UnixStream,
        slots: &Arc<Semaphore>,
        handler: &Arc<H>,
        stopped: &watch::Receiver<bool>,
        connections: &mut JoinSet<()>,
    ) {
        // Fails closed: whoever cannot be identified is not served.
        if !stream.peer_cred().is_ok_and(|peer| peer.uid() == self.owner) {
            return;
        }
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            refuse_busy(stream);
            return;
        };
        let (handler, stopped) = (handler.clone(), stopped.clone());
        connections.spawn(async move {
            // An error here is the client's hang-up or silence; there is nobody to tell.
            let _ = Connection::new(stream, stopped).run(&*handler).await;
            drop(slot);
        });
    }
}

/// One line, which the socket's empty buffer takes at once.
fn refuse_busy(stream: UnixStream) {
    let failure = Failure::new(Failure::BUSY, "too many connections to the admin socket");
    if let Ok(mut line) = serde_json::to_vec(&Response::Error(failure)) {
        line.push(b'\n');
        // Non-blocking still; whoever misses the line sees the connection close.
        let _ = stream.into_std().and_then(|mut stream| stream.write_all(&line));
    }
}

struct Connection {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    stopped: watch::Receiver<bool>,
}

impl Connection {
    fn new(stream: UnixStream, stopped: watch::Receiver<bool>) -> Self {
        let (reader, writer) = stream.into_split();
        Self { reader: BufReader::new(reader), writer, stopped }
    }

    async fn run<H: Handler>(mut self, handler: &H) -> io::Result<()> {
        while let Some(line) = self.next_line().await? {
            let reply = match serde_json::from_slice(&line) {
                Ok(request) => handler.handle(request).await,
                Err(error) => {
                    let failure = Failure::new(Failure::BAD_REQUEST, error.to_string());
                    Reply::One(failure.into())
                }
            };
            match reply {
                Reply::One(response) => self.send(&response).await?,
                Reply::Many { events, end } => self.stream(events, end).await?,
            }
        }
        Ok(())
    }

    /// `None` when the client or the agent is done.
    async fn next_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let read = timeout(REQUEST_TIMEOUT, line::read(&mut self.reader, REQUEST_BYTES_MAX));
        let line = tokio::select! {
            // Nothing is lost that anybody would still read: the connection ends here.
            () = stopping(&mut self.stopped) => return Ok(None),
            line = read => line.map_err(io::Error::from)?,
        };
        match line {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let message = format!("a request is at most {REQUEST_BYTES_MAX} bytes");
                self.send(&Response::Error(Failure::new(Failure::BAD_REQUEST, message))).await?;
                Ok(None)
            }
            line => line,
        }
    }

    async fn stream<R>(&mut self, mut events: mpsc::Receiver<R>, end: R) -> io::Result<()>
    where
        R: Serialize + From<Failure>,
    {
        loop {
            let event = tokio::select! {
                () = stopping(&mut self.stopped) => None,
                // Whatever the client sends now, it is no request: the stream ends.
                line = line::read(&mut self.reader, REQUEST_BYTES_MAX) => {
                    return line.and(Err(io::ErrorKind::ConnectionAborted.into()));
                }
                // Cancel safe: recv takes nothing until it returns.
                event = events.recv() => Some(event),
            };
            match event {
                Some(Some(event)) => self.send(&event).await?,
                Some(None) => return self.send(&end).await,
                None => {
                    let failure = Failure::new(Failure::STOPPING, "the process is stopping");
                    return self.send(&R::from(failure)).await;
                }
            }
        }
    }

    async fn send(&mut self, response: &impl Serialize) -> io::Result<()> {
        timeout(WRITE_TIMEOUT, line::write(&mut self.writer, response)).await?
    }
}

/// Ends when the agent stops, or its server is gone.
async fn stopping(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
}
