//! The data-plane threads: one single-threaded runtime each (ADR 0005).

use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{JoinSet, LocalSet};

use crate::capture::ThreadAcceptors;
use crate::flow::{Pod, Shared, Worker, serve_pod};

/// Pods that may wait to be taken over by a thread. The control side waits when it is full.
const COMMANDS_MAX: usize = 256;
/// How long a thread may take to report the connections it has cut.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A thread could not be started.
#[derive(Debug, thiserror::Error)]
#[error("starting a data-plane thread")]
pub struct ThreadError(#[from] std::io::Error);

/// Ends the process when a data-plane thread panics: its listeners would stay in the kernel's slots
/// and be refused there, while the agent looked healthy. A supervisor starts the next one, which
/// adopts the pods. (A panic in one connection ends only that connection's task.)
struct SharedFate;

impl Drop for SharedFate {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// A pod to serve, with this thread's listeners.
struct Serve(Arc<Pod>, ThreadAcceptors);

/// All data-plane threads.
pub(crate) struct Threads {
    commands: Vec<mpsc::Sender<Serve>>,
    handles: Vec<std::thread::JoinHandle<()>>,
}

impl Threads {
    /// Starts the threads.
    pub(crate) fn start(count: NonZeroUsize, shared: &Shared) -> Result<Self, ThreadError> {
        let mut threads = Self { commands: Vec::new(), handles: Vec::new() };
        for index in 0..count.get() {
            let (sender, receiver) = mpsc::channel(COMMANDS_MAX);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let shared = shared.clone();
            let handle =
                std::thread::Builder::new().name(format!("data-{index}")).spawn(move || {
                    let _fate = SharedFate;
                    LocalSet::new().block_on(&runtime, run(shared, receiver));
                })?;
            threads.commands.push(sender);
            threads.handles.push(handle);
        }
        Ok(threads)
    }

    /// Hands a pod to every thread, each with its own listeners.
    pub(crate) async fn serve(&self, pod: &Arc<Pod>, acceptors: Vec<ThreadAcceptors>) {
        for (thread, acceptors) in self.commands.iter().zip(acceptors) {
            if thread.send(Serve(pod.clone(), acceptors)).await.is_err() {
                // The thread has ended: its listeners are closed with the command, and the kernel
                // refuses what the empty slots would have taken.
                tracing::error!(pod = %pod.captured.uid(), "a data-plane thread has ended");
            }
        }
    }

    /// Waits for the threads to end by themselves: after draining, or after the cut. Blocks.
    pub(crate) fn join(self) {
        drop(self.commands);
        for handle in self.handles {
            if handle.join().is_err() {
                tracing::error!("a data-plane thread panicked");
            }
        }
    }
}

async fn run(shared: Shared, mut commands: mpsc::Receiver<Serve>) {
    let stop = shared.stop.clone();
    let worker = Rc::new(Worker::new(shared));
    let mut pods = JoinSet::new();
    let upkeep = tokio::task::spawn_local(upkeep(worker.clone()));
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Serve(pod, acceptors)) => {
                    pods.spawn_local(serve_pod(worker.clone(), pod, acceptors));
                }
                None => break,
            },
            Some(_) = pods.join_next(), if !pods.is_empty() => {}
        }
    }
    // Draining: the last connections end by themselves or are cut.
    tokio::select! {
        () = async { while pods.join_next().await.is_some() {} } => {}
        () = stop.cut() => {
            let reported = async { while pods.join_next().await.is_some() {} };
            // Those that do not make it are reported when their records are dropped below.
            let _ = tokio::time::timeout(LAST_WORDS, reported).await;
        }
    }
    upkeep.abort();
    worker.tunnels.close_all().await;
}

/// Closes tunnels that are idle, whose ends have changed, or whose peer is not trusted any more.
async fn upkeep(worker: Rc<Worker>) {
    let mut mesh = worker.mesh.borrow().clone();
    let mut pods = worker.watch_pods();
    let mut trust = worker.trust.clone();
    let mut draining = false;
    loop {
        tokio::select! {
            () = worker.tunnels.idle_due() => worker.tunnels.sweep(),
            changed = mesh.changed() => {
                if !changed {
                    return std::future::pending().await;
                }
                worker.retire_tunnels();
            }
            changed = pods.changed() => {
                if changed.is_err() {
                    return std::future::pending().await;
                }
                worker.retire_tunnels();
            }
            changed = trust.changed() => {
                if !changed {
                    return std::future::pending().await;
                }
                worker.tunnels.leave_distrusted(&trust.current_and_update());
            }
            () = worker.stop.draining(), if !draining => {
                draining = true;
                worker.tunnels.drain();
            }
        }
    }
}
