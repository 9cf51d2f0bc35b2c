//! Waiting for something to become true, with a bound, and finding the binaries under test.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(10);
/// Tells where `ztunnel`, `warren` and the actors are.
const BINARIES_VARIABLE: &str = "WARREN_BIN_DIR";

/// Looks at a condition until it holds or `timeout` is over; says which.
pub fn wait_until(timeout: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + timeout;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(POLL);
    }
}

/// Asks for a value until there is one; an error that says `what` was awaited when time is over.
pub fn eventually<T>(
    what: &str,
    timeout: Duration,
    mut ask: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + timeout;
    loop {
        let answer = ask();
        let late = Instant::now() >= deadline;
        match answer {
            Ok(Some(value)) => return Ok(value),
            Ok(None) if late => bail!("{what}: not within {} ms", timeout.as_millis()),
            Err(error) if late => {
                return Err(error.context(format!("{what}: not within {} ms", timeout.as_millis())));
            }
            Ok(None) | Err(_) => thread::sleep(POLL),
        }
    }
}

/// The folder of the binaries under test: `WARREN_BIN_DIR`, or that of the running program's build.
pub fn binaries() -> anyhow::Result<PathBuf> {
    if let Some(folder) = std::env::var_os(BINARIES_VARIABLE) {
        return Ok(folder.into());
    }
    let program = std::env::current_exe().context("find the running program")?;
    let folder = program.parent().context("the running program has no folder")?;
    // Test programs are one folder below the binaries.
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    Ok(folder.to_owned())
}

/// One of them; an error that says how to get it if it was not built.
pub(crate) fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let path = binaries()?.join(name);
    if !path.is_file() {
        bail!(
            "{} does not exist: build it, or set {BINARIES_VARIABLE} to the folder that holds it",
            path.display()
        );
    }
    Ok(path)
}
