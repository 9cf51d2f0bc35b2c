//! Following a collection: a list in pages, then its changes, for ever.

use std::time::Duration;

use serde_json::value::RawValue;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::time::{Instant, sleep, timeout};

use crate::back_off::{BackOff, watch_seconds};
use crate::event::{Event, EventError, event};
use crate::exchange::{Answer, Asked};
use crate::lines::Lines;
use crate::list::{ListError, page};
use crate::query::is_path;
use crate::{ApiClient, ApiError, Cause, Operation, Query};

/// Changes that wait for whoever reads them. When it is full the watch stops reading, the server
/// notices that, and ends a watch that stays behind; then it goes on from the last version, or by a
/// new list.
pub const CHANGES_MAX: usize = 64;
/// Objects in a page.
const PAGE_OBJECTS: usize = 500;
/// Largest page: 500 pods of 64 KiB. A larger one is an outage with its reason.
const PAGE_BYTES_MAX: usize = 32 << 20;
/// Most objects, and bytes of all pages, of one list. A larger one is an outage with its reason.
const OBJECTS_MAX: usize = 100_000;
const LIST_BYTES_MAX: usize = 128 << 20;
/// How often a list is begun again because its pages expired while they were read; then it failed.
const LISTS_MAX: usize = 3;

/// What happened to a collection.
#[derive(Debug)]
pub enum Change {
    /// These are all; what was known before is void.
    Replace(Vec<Box<RawValue>>),
    /// One is new or has changed.
    Upsert(Box<RawValue>),
    /// One is gone; this was its last state.
    Remove(Box<RawValue>),
    /// The server cannot be followed, and why; once for each outage. What was known may be old until
    /// the next `Replace`, which ends the outage.
    Away(String),
}

/// Follows a collection until the receiver is dropped. The future does the work: spawn it.
pub fn watch(
    client: ApiClient,
    query: Query,
) -> (Receiver<Change>, impl Future<Output = ()> + Send + 'static) {
    let (changes, receiver) = mpsc::channel(CHANGES_MAX);
    let closed = changes.clone();
    let mut follower = Follower { client, query, changes, back_off: BackOff::default() };
    let following = async move {
        tokio::select! {
            // Dropping the follower closes its connection and loses what nobody would read.
            () = closed.closed() => {}
            Closed = follower.run() => {}
        }
    };
    (receiver, following)
}

/// Nobody reads any more.
struct Closed;

/// How a watch came to its end.
enum End {
    /// As it should: the next one goes on from this version.
    Over {
        version: String,
    },
    /// The server does not know our version any more. What was told is still the last that is
    /// known, so this is no outage.
    Gone,
    /// It broke.
    Failed(ApiError),
    Closed,
}

/// The state of a collection at one version.
struct Listed {
    objects: Vec<Box<RawValue>>,
    version: String,
}

struct Follower {
    client: ApiClient,
    query: Query,
    changes: Sender<Change>,
    back_off: BackOff,
}

impl Follower {
    async fn run(&mut self) -> Closed {
        let mut is_away = false;
        loop {
            let failed = match self.list().await {
                Ok(Listed { objects, version }) => {
                    is_away = false;
                    if self.changes.send(Change::Replace(objects)).await.is_err() {
                        return Closed;
                    }
                    match self.follow(version).await {
                        End::Failed(error) => Some(error),
                        End::Gone => None,
                        End::Over { .. } | End::Closed => return Closed,
                    }
                }
                Err(error) => Some(error),
            };
            let asked = failed.as_ref().and_then(ApiError::refusal).and_then(|no| no.retry_after);
            if let Some(error) = failed
                && !std::mem::replace(&mut is_away, true)
                && self.changes.send(Change::Away(model::causes(&error))).await.is_err()
            {
                return Closed;
            }
            self.wait(asked).await;
        }
    }

    /// Watch after watch, from a version on. Never [`End::Over`].
    async fn follow(&mut self, mut version: String) -> End {
        loop {
            let began = Instant::now();
            let end = self.watch(version).await;
            self.back_off.lasted(self.client.timing(), began.elapsed());
            match end {
                End::Over { version: last } => version = last,
                End::Gone | End::Failed(_) | End::Closed => return end,
            }
            // A server that ends every watch at once would be asked without pause.
            if began.elapsed() < self.client.timing().steady {
                self.wait(None).await;
            }
        }
    }

    async fn wait(&mut self, asked: Option<Duration>) {
        let wait = self.back_off.wait(self.client.timing(), asked, rand::random());
        sleep(wait).await;
    }

    async fn list(&self) -> Result<Listed, ApiError> {
        let failed = |cause| ApiError::request(Operation::List, &self.query.path, cause);
        if !is_path(&self.query.path) {
            return Err(failed(Cause::Path));
        }
        for _ in 0..LISTS_MAX {
            match self.pages().await {
                Err(Cause::Refused(refusal)) if refusal.is_gone() => {}
                pages => return pages.map_err(failed),
            }
        }
        Err(failed(Cause::Expired(LISTS_MAX)))
    }

    /// All pages of one state: the server keeps it as long as the marks are valid.
    async fn pages(&self) -> Result<Listed, Cause> {
        let (mut objects, mut bytes, mut next) = (Vec::new(), 0, String::new());
        loop {
            let asked = Asked::get(self.query.page(PAGE_OBJECTS, &next));
            let time = self.client.timing().page;
            let body = self.client.repeated(&asked, PAGE_BYTES_MAX, time).await?;
            bytes += body.len();
            let page = page(&body)?;
            objects.extend(page.objects);
            if objects.len() > OBJECTS_MAX || bytes > LIST_BYTES_MAX {
                let (objects, bytes) = (OBJECTS_MAX, LIST_BYTES_MAX);
                return Err(ListError::TooLarge { objects, bytes }.into());
            }
            if page.next.is_empty() {
                return Ok(Listed { objects, version: page.version });
            }
            next = page.next;
        }
    }

    /// One watch, from its request to its end.
    async fn watch(&self, version: String) -> End {
        let timing = self.client.timing();
        let seconds = watch_seconds(timing, rand::random());
        let asked = Asked::get(self.query.changes(&version, seconds));
        let begin = timing.connect + timing.silence;
        let answer = timeout(begin, self.client.exchange().ask(&asked)).await;
        let followed = match answer.unwrap_or(Err(Cause::Timeout(begin))) {
            Ok(answer) => {
                let time = Duration::from_secs(seconds) + timing.silence;
                self.read(answer, version, time).await
            }
            Err(cause) => Err(cause),
        };
        match followed {
            Ok(end) => end,
            Err(Cause::Refused(refusal)) if refusal.is_gone() => End::Gone,
            Err(cause) => End::Failed(ApiError::request(Operation::Watch, &self.query.path, cause)),
        }
    }

    /// Reads events for at most `time`. What the reader of the changes needs is not counted: a
    /// server that has to wait for us is not silent.
    async fn read(
        &self,
        mut answer: Answer,
        version: String,
        time: Duration,
    ) -> Result<End, Cause> {
        let (mut version, mut deadline) = (version, Instant::now() + time);
        let mut lines = Lines::default();
        loop {
            while let Some(line) = lines.next()? {
                let (change, last) = match event(line)? {
                    Event::Upsert { object, version } => (Some(Change::Upsert(object)), version),
                    Event::Remove { object, version } => (Some(Change::Remove(object)), version),
                    Event::Bookmark { version } => (None, version),
                    Event::Refused(refusal) => return Err(Cause::Refused(refusal)),
                };
                version = last;
                if let Some(change) = change {
                    let before = Instant::now();
                    if self.changes.send(change).await.is_err() {
                        return Ok(End::Closed);
                    }
                    deadline += before.elapsed();
                }
            }
            // A cut piece ends the watch, so nothing of it is used.
            let piece = tokio::time::timeout_at(deadline, answer.piece()).await;
            match piece.unwrap_or(Err(Cause::Timeout(time)))? {
                Some(piece) => lines.push(&piece),
                None if lines.is_at_end_of_line() => return Ok(End::Over { version }),
                None => return Err(EventError::Cut.into()),
            }
        }
    }
}
