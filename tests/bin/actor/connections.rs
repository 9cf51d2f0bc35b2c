//! The client connections that a test drives step by step.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socket2::SockRef;
use tests::length;
use tests::protocol::{Amount, ConnectOptions, Failure, Hex, Response};

use crate::sockets;

/// Bound of one write of a test's data: a peer that does not read fails it.
const SEND_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes of one read.
const READ_BYTES: usize = 64 * 1024;

/// Open connections by number.
#[derive(Default)]
pub(crate) struct Connections {
    next: AtomicU64,
    open: Mutex<BTreeMap<u64, Arc<TcpStream>>>,
}

impl Connections {
    pub(crate) fn connect(
        &self,
        target: SocketAddr,
        options: &ConnectOptions,
    ) -> Result<Response, Failure> {
        let stream = sockets::connect(target, options)?;
        let local = stream.local_addr().map_err(failed("getsockname"))?;
        let peer = stream.peer_addr().ok();
        Ok(Response::Connected { connection: self.keep(stream), peer, local })
    }

    pub(crate) fn hold(
        &self,
        target: SocketAddr,
        options: &ConnectOptions,
        count: u64,
    ) -> Response {
        let (mut connections, mut failures) = (Vec::new(), BTreeMap::new());
        for _ in 0..count {
            match sockets::connect(target, options) {
                Ok(stream) => connections.push(self.keep(stream)),
                Err(failure) => *failures.entry(failure.to_string()).or_default() += 1,
            }
        }
        Response::Held { connections, failures }
    }

    fn keep(&self, stream: TcpStream) -> u64 {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.open.lock().insert(id, Arc::new(stream));
        id
    }

    fn get(&self, id: u64) -> Result<Arc<TcpStream>, Failure> {
        let stream = self.open.lock().get(&id).cloned();
        stream.ok_or_else(|| Failure::other("connection", format!("there is no connection {id}")))
    }

    fn take(&self, id: u64) -> Result<Arc<TcpStream>, Failure> {
        let stream = self.open.lock().remove(&id);
        stream.ok_or_else(|| Failure::other("connection", format!("there is no connection {id}")))
    }

    pub(crate) fn send(&self, id: u64, data: &[u8]) -> Result<Response, Failure> {
        let stream = self.get(id)?;
        stream.set_write_timeout(Some(SEND_TIMEOUT)).map_err(failed("send"))?;
        (&*stream).write_all(data).map_err(failed("send"))?;
        Ok(Response::Done)
    }

    pub(crate) fn receive(
        &self,
        id: u64,
        amount: Amount,
        timeout_ms: u64,
    ) -> Result<Response, Failure> {
        let stream = self.get(id)?;
        let deadline = Instant::now() + Duration::from_millis(timeout_ms);
        let mut data = Vec::new();
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let (Amount::Exactly(wanted) | Amount::Some(wanted) | Amount::All(wanted)) = amount;
            let left = wanted.saturating_sub(length(data.len()));
            if left == 0 {
                return Ok(Response::Received { data: Hex(data), ended: false });
            }
            let time = deadline.saturating_duration_since(Instant::now());
            // Zero would mean: for ever.
            let time = time.max(Duration::from_millis(1));
            stream.set_read_timeout(Some(time)).map_err(failed("receive"))?;
            let room = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            match (&*stream).read(&mut buffer[..room]) {
                Ok(0) => return Ok(Response::Received { data: Hex(data), ended: true }),
                Ok(read) => data.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let message = format!("ETIMEDOUT after {} bytes", data.len());
                    let errno = Some(libc::ETIMEDOUT);
                    return Err(Failure { operation: "receive".to_owned(), errno, message });
                }
                Err(error) => return Err(Failure::io("receive", &error)),
            }
            if matches!(amount, Amount::Some(_)) && !data.is_empty() {
                return Ok(Response::Received { data: Hex(data), ended: false });
            }
        }
    }

    pub(crate) fn shutdown_write(&self, id: u64) -> Result<Response, Failure> {
        self.get(id)?.shutdown(Shutdown::Write).map_err(failed("shutdown"))?;
        Ok(Response::Done)
    }

    pub(crate) fn close(&self, id: u64) -> Result<Response, Failure> {
        drop(self.take(id)?);
        Ok(Response::Done)
    }

    pub(crate) fn reset(&self, id: u64) -> Result<Response, Failure> {
        let stream = self.take(id)?;
        SockRef::from(&*stream).set_linger(Some(Duration::ZERO)).map_err(failed("reset"))?;
        Ok(Response::Done)
    }
}

fn failed(operation: &'static str) -> impl Fn(io::Error) -> Failure {
    move |error| Failure::io(operation, &error)
}
