//! Captures interfaces into memory while a test runs.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use netns::NetnsFd;
use parking_lot::Mutex;
use socket2::Socket;

use crate::capture::Capture;
use crate::frames::Frame;
use crate::namespace::Namespace;
use crate::packet_socket::{self, Devices};

/// Bytes kept; frames beyond are counted as lost.
const KEPT_BYTES_MAX: usize = 512 << 20;
/// Largest frame: what the kernel hands over before segmentation, with room for its headers.
const FRAME_BYTES_MAX: usize = 256 << 10;

/// How long reading goes on after the end on an interface that never falls silent; by then, what
/// was queued when the end came has long been read.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(1);

/// A running capture. Dropping it ends it.
#[derive(Debug)]
pub struct Sniffer {
    capture: Arc<Mutex<Capture>>,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<io::Result<()>>>,
}

impl Sniffer {
    /// Captures every frame of an interface, both directions, from now on.
    pub fn start(namespace: &Namespace, device: &str) -> anyhow::Result<Self> {
        let socket = namespace
            .within(|| packet_socket::open(Devices::Named(device)))?
            .with_context(|| format!("capture {device} in {}", namespace.name()))?;
        Self::read(socket, device)
    }

    /// The same for every interface of a namespace: a packet counts once for each that it passes.
    pub(crate) fn everywhere(namespace: &NetnsFd, name: &str) -> anyhow::Result<Self> {
        let socket = netns::within(namespace, || packet_socket::open(Devices::Every))
            .with_context(|| format!("enter {name}"))?;
        Self::read(socket.with_context(|| format!("capture all of {name}"))?, name)
    }

    fn read(socket: Socket, name: &str) -> anyhow::Result<Self> {
        let capture = Arc::<Mutex<Capture>>::default();
        let stop = Arc::<AtomicBool>::default();
        let (into, until) = (capture.clone(), stop.clone());
        let reader = thread::Builder::new()
            .name(format!("sniff {name}"))
            .spawn(move || read(socket, &into, &until))
            .context("start a thread")?;
        Ok(Self { capture, stop, reader: Some(reader) })
    }

    /// Looks at what has been captured so far, while it goes on.
    pub fn look<T>(&self, question: impl FnOnce(&Capture) -> T) -> T {
        question(&self.capture.lock())
    }

    /// Ends it. What passed before this call is in the capture.
    pub fn stop(mut self) -> anyhow::Result<Capture> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            let result = reader.join().map_err(|_| anyhow::anyhow!("the sniffer panicked"))?;
            result.context("read frames")?;
        }
        Ok(std::mem::take(&mut self.capture.lock()))
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn read(mut socket: Socket, capture: &Mutex<Capture>, stop: &AtomicBool) -> io::Result<()> {
    let mut buffer = vec![0; FRAME_BYTES_MAX];
    let mut kept = 0;
    let mut stopped_at: Option<Instant> = None;
    loop {
        if stop.load(Ordering::Relaxed)
            && stopped_at.get_or_insert_with(Instant::now).elapsed() > QUEUE_TIMEOUT
        {
            capture.lock().lost += packet_socket::drops(&socket)?;
            return Ok(());
        }
        match socket.read(&mut buffer) {
            Ok(read) => {
                let mut capture = capture.lock();
                if kept + read > KEPT_BYTES_MAX {
                    capture.lost += 1;
                    continue;
                }
                kept += read;
                let bytes = buffer[..read].to_vec();
                capture.frames.push(Frame { at: SystemTime::now(), length: read, bytes });
            }
            Err(error)
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
            {
                // Nothing is queued: whatever passed before the stop has been read.
                capture.lock().lost += packet_socket::drops(&socket)?;
                if stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
            }
            // The interface went away or down, which a test may do; it may come back.
            Err(error) if error.kind() == io::ErrorKind::NetworkDown => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
