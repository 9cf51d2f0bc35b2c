//! The last known good state on disk, for a start without a control plane (ADR 0011).
//!
//! The file holds resources as they were sent, so that a later version reads them with its own
//! eyes. In memory only the changes since the last writing are kept.

mod file;
mod format;

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use model::causes;
use tokio::task::JoinHandle;
use xds::Record;

use file::{Base, Changes, Loaded, STORED_BYTES_MAX, StoredFile, WriteError};

/// From the first change to its writing, unless told otherwise.
const DELAY: Duration = Duration::from_secs(5);
/// Writing takes at most one part in so many of the time.
const WRITING_SHARE: u32 = 20;
/// How often an unchanged state is confirmed.
const CONFIRM_INTERVAL: Duration = Duration::from_mins(1);
/// After so many failures in a row nothing more is stored; the changes would fill memory.
const FAILURES_MAX: u32 = 5;

/// Where and when the state is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSettings {
    /// The file, its owner's alone; its folder is made.
    pub path: PathBuf,
    /// From the first change to its writing; further ones meanwhile are written with it.
    pub delay: Duration,
}

impl StoredSettings {
    /// In that file, a few seconds after a change.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        Self { path, delay: DELAY }
    }
}

/// How storing goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredStatus {
    /// Where; `None`: nothing is stored.
    pub path: Option<PathBuf>,
    /// When the file was last written or confirmed.
    pub as_of: Option<SystemTime>,
    /// Its size.
    pub bytes: u64,
    /// Stored states that were not used: damaged, foreign, or not root's alone.
    pub ignored: u64,
    /// Times that writing failed.
    pub failures: u64,
    /// What went wrong last.
    pub last_error: Option<String>,
}

/// Keeps the file.
#[derive(Debug)]
pub(crate) struct Keeper {
    /// `None`: nothing is stored.
    file: Option<StoredFile>,
    delay: Duration,
    /// What a new file starts from.
    base: Base,
    changes: Changes,
    /// Bytes of `changes`.
    size: u64,
    /// The control plane is followed.
    is_followed: bool,
    /// Set only once the changes and their base together are complete.
    due: Option<Instant>,
    confirm_due: Option<Instant>,
    not_before: Option<Instant>,
    failures: u32,
    job: Option<JoinHandle<Done>>,
    /// What the running job writes belongs to what was forgotten since.
    is_job_outdated: bool,
    status: StoredStatus,
}

/// A job that ended.
#[derive(Debug)]
struct Done {
    took: Duration,
    at: SystemTime,
    result: JobResult,
}

#[derive(Debug)]
enum JobResult {
    Written(u64),
    NotWritten(WriteError, Changes),
    Confirmed(Result<(), file::StoredError>),
}

/// What has to be done about a file that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Nothing.
    GoOn,
    /// Everything has to be sent again, to write it.
    BaseLost,
}

impl Keeper {
    pub(crate) fn new(settings: Option<StoredSettings>, origin: String) -> Self {
        let delay = settings.as_ref().map_or(DELAY, |settings| settings.delay);
        let path = settings.map(|settings| settings.path);
        let status = StoredStatus { path: path.clone(), ..StoredStatus::default() };
        Self {
            file: path.map(|path| StoredFile { path, origin }),
            delay,
            base: Base::Nothing,
            changes: Changes::new(),
            size: 0,
            is_followed: false,
            due: None,
            confirm_due: None,
            not_before: None,
            failures: 0,
            job: None,
            is_job_outdated: false,
            status,
        }
    }

    pub(crate) fn status(&self) -> StoredStatus {
        self.status.clone()
    }

    /// Reads the stored state, on a thread where that may take its time.
    pub(crate) async fn load(&mut self, now: SystemTime) -> Option<Loaded> {
        let file = self.file.clone()?;
        let path = file.path().to_owned();
        let loaded = tokio::task::spawn_blocking(move || file.load(now)).await;
        let loaded = loaded.unwrap_or(Ok(None));
        match loaded {
            Ok(loaded) => {
                let loaded = loaded?;
                self.base = Base::File;
                self.status.as_of = Some(loaded.as_of);
                Some(loaded)
            }
            Err(error) => {
                let text = causes(&error);
                tracing::warn!(path = %path.display(), error = %text, "stored mesh state ignored");
                self.status.ignored += 1;
                self.status.last_error = Some(text);
                None
            }
        }
    }

    /// Nothing is known any more: whatever comes next starts from nothing. The file stays, as the
    /// last state that was good.
    pub(crate) fn begin_anew(&mut self) {
        self.base = Base::Nothing;
        self.changes.clear();
        self.size = 0;
        self.due = None;
        self.is_job_outdated = self.job.is_some();
    }

    /// Notes what a response changed. `is_complete`: the state is, with this response.
    pub(crate) fn note(&mut self, records: Vec<Record>, is_complete: bool, now: Instant) {
        if self.file.is_none() {
            return;
        }
        for Record { kind, name, body } in records {
            let size = |body: &xds::RecordBody| u64::try_from(body.bytes.len()).unwrap_or(u64::MAX);
            self.size += body.as_ref().map_or(0, size);
            let old = self.changes.insert((kind, name), body);
            self.size -= old.flatten().as_ref().map_or(0, size);
        }
        if self.size > STORED_BYTES_MAX {
            self.give_up("the changes are more than can be stored");
        } else if is_complete && (!self.changes.is_empty() || self.base == Base::Nothing) {
            self.due.get_or_insert(now + self.delay);
        }
    }

    /// Whether the control plane is followed: only then is an unchanged state confirmed.
    pub(crate) fn follow(&mut self, is_followed: bool, now: Instant) {
        self.is_followed = is_followed;
        // Without a file there is nothing to confirm, and what is due would be due for ever.
        self.confirm_due = (is_followed && self.file.is_some()).then(|| now + self.delay);
    }

    /// Waits for the next thing to do, and does it. Cancel safe: what was begun is remembered.
    pub(crate) async fn turn(&mut self) -> Turn {
        loop {
            if let Some(job) = &mut self.job {
                let done = job.await;
                self.job = None;
                let is_outdated = std::mem::take(&mut self.is_job_outdated);
                match done {
                    // Whatever became of it, the next file is written without it.
                    Ok(_) if is_outdated => {}
                    Ok(done) => return self.done(done),
                    Err(_) => self.give_up("writing panicked"),
                }
                return Turn::GoOn;
            }
            match self.write_due().into_iter().chain(self.confirm_due).min() {
                None => std::future::pending().await,
                Some(due) => tokio::time::sleep_until(due.into()).await,
            }
            self.job = self.begin(Instant::now());
        }
    }

    fn write_due(&self) -> Option<Instant> {
        self.due.map(|due| self.not_before.map_or(due, |other| due.max(other)))
    }

    fn begin(&mut self, now: Instant) -> Option<JoinHandle<Done>> {
        let file = self.file.clone()?;
        let is_due = |due: Option<Instant>| due.is_some_and(|due| due <= now);
        if is_due(self.write_due()) {
            self.due = None;
            self.size = 0;
            let (base, changes) = (self.base, std::mem::take(&mut self.changes));
            return Some(job(move |at| match file.write(base, &changes, at) {
                Ok(bytes) => JobResult::Written(bytes),
                Err(error) => JobResult::NotWritten(error, changes),
            }));
        }
        if is_due(self.confirm_due) {
            self.confirm_due = Some(now + CONFIRM_INTERVAL);
            if self.is_followed && self.changes.is_empty() && self.base == Base::File {
                return Some(job(move |at| JobResult::Confirmed(file.confirm(at))));
            }
        }
        None
    }

    fn done(&mut self, done: Done) -> Turn {
        let now = Instant::now();
        match done.result {
            JobResult::Written(bytes) => {
                tracing::debug!(bytes, took = ?done.took, "mesh state stored");
                self.base = Base::File;
                self.failures = 0;
                self.not_before = Some(now + done.took * WRITING_SHARE);
                self.status.as_of = Some(done.at);
                self.status.bytes = bytes;
            }
            JobResult::Confirmed(Ok(())) => self.status.as_of = Some(done.at),
            JobResult::NotWritten(WriteError::BaseLost(error), _) => {
                let text = error.map_or_else(|| "it is gone".to_owned(), |error| causes(&error));
                self.failed(&text);
                return Turn::BaseLost;
            }
            JobResult::NotWritten(WriteError::Failed(error), unwritten) => {
                self.failed(&causes(&error));
                for (name, body) in unwritten {
                    // What was noted meanwhile is newer.
                    self.changes.entry(name).or_insert(body);
                }
                let size = |body: &Option<xds::RecordBody>| {
                    body.as_ref().map_or(0, |body| u64::try_from(body.bytes.len()).unwrap_or(0))
                };
                self.size = self.changes.values().map(size).sum();
                self.due = Some(now + self.delay * 2_u32.saturating_pow(self.failures));
                if self.failures >= FAILURES_MAX {
                    self.give_up("writing failed again and again");
                }
            }
            JobResult::Confirmed(Err(error)) => {
                self.failed(&causes(&error));
                if error.is_missing() {
                    return Turn::BaseLost;
                }
            }
        }
        Turn::GoOn
    }

    fn failed(&mut self, error: &str) {
        tracing::warn!(error, "mesh state not stored");
        self.failures += 1;
        self.status.failures += 1;
        self.status.last_error = Some(error.to_owned());
    }

    /// Stores nothing more until the agent restarts. The file stays, as the last state that was
    /// good.
    fn give_up(&mut self, why: &str) {
        tracing::error!(why, "mesh state is not stored any more");
        self.begin_anew();
        self.file = None;
        self.confirm_due = None;
        self.status.failures += 1;
        self.status.last_error = Some(format!("given up: {why}"));
    }
}

fn job(work: impl FnOnce(SystemTime) -> JobResult + Send + 'static) -> JoinHandle<Done> {
    tokio::task::spawn_blocking(move || {
        let (at, started) = (SystemTime::now(), Instant::now());
        let result = work(at);
        Done { took: started.elapsed(), at, result }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_stores_nothing_has_nothing_to_confirm() {
        let now = Instant::now();
        let mut never = Keeper::new(None, "origin".to_owned());
        never.follow(true, now);
        assert_eq!(never.confirm_due, None);

        let settings = StoredSettings::at("/nowhere".into());
        let mut gave_up = Keeper::new(Some(settings), "origin".to_owned());
        gave_up.follow(true, now);
        assert!(gave_up.confirm_due.is_some());
        gave_up.give_up("the disk is full");
        // The control plane goes away and comes back.
        gave_up.follow(false, now);
        gave_up.follow(true, now);
        assert_eq!(gave_up.confirm_due, None);
    }
}
