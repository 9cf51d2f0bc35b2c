//! Ctrl-C, SIGTERM and SIGHUP: take everything down, whatever the demo is doing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use tests::Teardown;
use tokio::signal::unix::{SignalKind, signal};

/// A signal came, and its thread is taking the world down and will end the process.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// The demo has nothing left to do but wait for a signal.
static WAITING: AtomicBool = AtomicBool::new(false);
/// As a shell reports an end by SIGINT.
const INTERRUPTED_STATUS: i32 = 130;

/// The thread that waits for signals.
pub(crate) struct Signals {
    came: Receiver<()>,
}

impl Signals {
    /// From now on a signal takes this process's worlds down and ends it.
    pub(crate) fn install() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start a runtime for signals")?;
        let (tell, came) = channel();
        let (armed, is_armed) = channel();
        let wait = async move {
            let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
                .map(signal);
            let [Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)] = kinds else { return };
            // Nobody waits for it any more only if the process is ending.
            let _ = armed.send(());
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            if WAITING.load(Ordering::SeqCst) {
                let _ = tell.send(());
                return;
            }
            INTERRUPTED.store(true, Ordering::SeqCst);
            eprintln!("\nInterrupted: taking everything down.");
            Teardown::run_for_this_process();
            std::process::exit(INTERRUPTED_STATUS);
        };
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || runtime.block_on(wait))
            .context("start a thread for signals")?;
        is_armed.recv().context("install signal handlers")?;
        Ok(Self { came })
    }

    /// Waits for a signal instead of being ended by it.
    pub(crate) fn wait_for_one(&self) {
        WAITING.store(true, Ordering::SeqCst);
        // An error means that the thread is gone: then there is nothing to wait for.
        let _ = self.came.recv();
    }
}

/// Stops a thread whose errors are only the consequence of a teardown under way.
pub(crate) fn hold_if_interrupted() {
    while INTERRUPTED.load(Ordering::SeqCst) {
        thread::sleep(Duration::from_millis(100));
    }
}
