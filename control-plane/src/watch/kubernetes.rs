//! Objects of an API server: each kind is listed page by page, then watched.
//!
//! A streaming list would need less of the server, but one that breaks off begins again without
//! saying so (kube 4.2), and an object that was deleted in between would stay for ever.

use std::collections::HashSet;
use std::pin::pin;
use std::time::{Duration, Instant};

use cluster::{Kind, Object, ObjectKey, ObjectName};
use futures_util::StreamExt;
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::problems::not_understood;
use super::relist::Known;
use super::watched::{Watched, resource_of};
use super::{Closed, Event, Problems, Source, say};
use crate::backoff::Backoff;

/// Objects of one page of a list. Text of one page is in memory as a whole: 2 MB at 4 KiB each.
const PAGE_OBJECTS: u32 = 500;
/// Waits between attempts at a server that does not answer, each up to twice the one before.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(8));
/// Waits between looks for a kind whose CRD is not installed.
const ABSENT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// The same before anything was said of the kind: a start without CRDs waits for these.
const ABSENT_AT_START: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(1));
/// A failure this long after the one before is the first of a new outage.
const CALM: Duration = Duration::from_mins(1);
/// A watch that has been quiet for so long after a failure works again: one that begins says nothing
/// of it. Longer than a connection may take to be made.
const QUIET: Duration = Duration::from_secs(35);
/// Looks in a row that must not find a kind before it is taken to be without objects, at a start too:
/// a server that starts may not know its CRDs yet, and a mesh must not be without policies because of
/// that. Deleting a CRD deletes its objects first, one by one, which is seen at once.
const ABSENT_LOOKS: u32 = 5;

/// Watches every kind until it is cancelled or nobody takes the changes.
pub async fn run(
    client: Client,
    events: mpsc::Sender<Event>,
    problems: Problems,
    shutdown: CancellationToken,
) {
    let mut kinds = JoinSet::new();
    for kind in Kind::ALL {
        let follower = Follower::new(kind, events.clone(), problems.clone());
        let (client, shutdown) = (client.clone(), shutdown.clone());
        kinds.spawn(async move {
            // Cancelling is safe at every point: what was not said is listed again at the next start.
            let _ = shutdown.run_until_cancelled(follower.follow(client)).await;
        });
    }
    while let Some(ended) = kinds.join_next().await {
        if let Err(error) = ended
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

/// One kind.
struct Follower {
    kind: Kind,
    /// The version that is watched.
    version: &'static str,
    events: mpsc::Sender<Event>,
    problems: Problems,
    known: Known,
    /// Objects whose latest version was not understood: one entry each, of those known.
    broken: HashSet<ObjectName>,
    /// Whether a list is under way: it does not work before it is whole.
    is_listing: bool,
    is_synced: bool,
    /// How often in a row the kind was not found.
    absent_looks: u32,
    state: State,
}

/// What the log said last of a kind.
#[derive(Debug, PartialEq, Eq)]
enum State {
    Followed,
    Absent,
    Failing(String),
}

/// What a failure asks for.
enum Remedy {
    /// The kind does not exist: look for it now and then.
    AwaitKind,
    /// What is known is too old to go on from: list anew.
    ListAnew,
    /// Too, but the watcher does it by itself.
    Expired,
    /// Go on where it broke off.
    GoOn,
}

impl Follower {
    fn new(kind: Kind, events: mpsc::Sender<Event>, problems: Problems) -> Self {
        Self {
            kind,
            version: kind.names().version,
            events,
            problems,
            known: Known::default(),
            broken: HashSet::new(),
            is_listing: true,
            is_synced: false,
            absent_looks: 0,
            state: State::Followed,
        }
    }

    async fn follow(mut self, client: Client) -> Result<(), Closed> {
        let mut retry = Backoff::new(RETRY.0, RETRY.1);
        let mut absent = Backoff::new(ABSENT.0, ABSENT.1);
        let mut absent_at_start = Backoff::new(ABSENT_AT_START.0, ABSENT_AT_START.1);
        let mut failed_at: Option<Instant> = None;
        loop {
            let names = resource_of(self.kind, self.version);
            let api: Api<Watched> = Api::all_with(client.clone(), &names);
            let config = watcher::Config::default().page_size(PAGE_OBJECTS);
            let mut stream = pin!(watcher(api, config));
            loop {
                // Cancelling it is safe: the stream keeps where it is.
                let error = match tokio::time::timeout(QUIET, stream.next()).await {
                    Ok(Some(Ok(event))) => {
                        self.take(event).await?;
                        continue;
                    }
                    Ok(Some(Err(error))) => error,
                    Ok(None) => break,
                    Err(_) => {
                        if !self.is_listing {
                            self.followed();
                        }
                        continue;
                    }
                };
                match self.remedy(&error) {
                    Remedy::AwaitKind => {
                        self.look_for_kind(&client).await?;
                        let waits = if self.is_synced { &mut absent } else { &mut absent_at_start };
                        tokio::time::sleep(waits.wait()).await;
                        break;
                    }
                    remedy @ (Remedy::ListAnew | Remedy::Expired | Remedy::GoOn) => {
                        absent.reset();
                        self.absent_looks = 0;
                        if !matches!(remedy, Remedy::Expired) {
                            self.failing(error.to_string());
                        }
                        // Success does not reset it: a list may work where its watch never does.
                        if failed_at.is_none_or(|at| at.elapsed() > CALM) {
                            retry.reset();
                        }
                        failed_at = Some(Instant::now());
                        tokio::time::sleep(retry.wait()).await;
                        if matches!(remedy, Remedy::ListAnew) {
                            break;
                        }
                    }
                }
            }
        }
    }

    /// The version that is watched does not exist: another one may.
    async fn look_for_kind(&mut self, client: &Client) -> Result<(), Closed> {
        match served_version(client, self.kind).await {
            Ok(None) => return self.absent().await,
            Ok(Some(version)) if version != self.version => {
                tracing::info!(kind = %self.kind, version, "the API server has this version");
                self.version = version;
            }
            // It comes or goes just now.
            Ok(Some(version)) => self.failing(format!("{version} is announced, but not served")),
            Err(error) => self.failing(format!("asking which versions there are: {error}")),
        }
        self.absent_looks = 0;
        Ok(())
    }

    async fn take(&mut self, event: watcher::Event<Watched>) -> Result<(), Closed> {
        match event {
            watcher::Event::Init => {
                self.is_listing = true;
                self.known.begin();
            }
            watcher::Event::InitApply(object) => self.set(&object).await?,
            watcher::Event::Apply(object) => {
                self.followed();
                self.set(&object).await?;
            }
            watcher::Event::Delete(object) => {
                self.followed();
                let name = object.name();
                let was_in_force = self.known.remove(&name);
                self.gone(name, was_in_force).await?;
            }
            watcher::Event::InitDone => {
                self.is_listing = false;
                self.followed();
                for (name, was_in_force) in self.known.end() {
                    self.gone(name, was_in_force).await?;
                }
                self.synced().await?;
            }
        }
        Ok(())
    }

    async fn set(&mut self, object: &Watched) -> Result<(), Closed> {
        let name = object.name();
        match object.decode(self.kind) {
            Ok(object) => {
                match not_understood(&object) {
                    Some(problem) => {
                        self.problems.state(&object.key().to_string(), vec![problem]);
                        self.broken.insert(name.clone());
                    }
                    None => self.sound(&name),
                }
                self.known.set(name);
                say(&self.events, Event::Set(object)).await
            }
            Err(error) => {
                let is_kept = self.known.keep(name.clone());
                let denying = Object::unreadable(self.kind, &name, &error).filter(|_| !is_kept);
                let consequence = match (is_kept, &denying) {
                    (true, _) => "the version before stays in force",
                    (false, Some(_)) => "it denies all connections of its namespace",
                    (false, None) => "it has no effect",
                };
                let place = self.key(name.clone()).to_string();
                self.problems.state(&place, vec![format!("{error}; {consequence}")]);
                self.broken.insert(name.clone());
                let Some(denying) = denying else { return Ok(()) };
                self.known.set(name);
                say(&self.events, Event::Set(denying)).await
            }
        }
    }

    async fn gone(&mut self, name: ObjectName, was_in_force: bool) -> Result<(), Closed> {
        self.sound(&name);
        if !was_in_force {
            return Ok(());
        }
        say(&self.events, Event::Delete(self.key(name))).await
    }

    fn sound(&mut self, name: &ObjectName) {
        if self.broken.remove(name) {
            self.problems.clear(&self.key(name.clone()).to_string());
        }
    }

    fn key(&self, name: ObjectName) -> ObjectKey {
        ObjectKey { kind: self.kind, name }
    }

    async fn synced(&mut self) -> Result<(), Closed> {
        if self.is_synced {
            return Ok(());
        }
        self.is_synced = true;
        say(&self.events, Event::Synced(Source::Kubernetes(self.kind))).await
    }

    async fn absent(&mut self) -> Result<(), Closed> {
        self.absent_looks = self.absent_looks.saturating_add(1);
        if self.absent_looks < ABSENT_LOOKS {
            return Ok(());
        }
        if self.state != State::Absent {
            tracing::info!(kind = %self.kind, "the API server does not have this kind yet");
            self.problems.clear(&self.kind.to_string());
            self.state = State::Absent;
        }
        for (name, was_in_force) in self.known.clear() {
            self.gone(name, was_in_force).await?;
        }
        self.synced().await
    }

    fn followed(&mut self) {
        self.absent_looks = 0;
        if self.state != State::Followed {
            tracing::info!(kind = %self.kind, "objects of this kind are followed again");
            self.problems.clear(&self.kind.to_string());
            self.state = State::Followed;
        }
    }

    /// Says so once for each cause, not once for each attempt.
    fn failing(&mut self, cause: String) {
        if self.state != State::Failing(cause.clone()) {
            let text = format!("{cause}; what is known of this kind stays in force");
            self.problems.state(&self.kind.to_string(), vec![text]);
            self.state = State::Failing(cause);
        }
    }

    fn remedy(&self, error: &watcher::Error) -> Remedy {
        let code = match error {
            watcher::Error::InitialListFailed(error)
            | watcher::Error::WatchStartFailed(error)
            | watcher::Error::WatchFailed(error) => {
                // Every other one is between us and the server.
                let kube::Error::Api(status) = error else { return Remedy::GoOn };
                status.code
            }
            watcher::Error::WatchError(status) if status.code == 410 => return Remedy::Expired,
            watcher::Error::WatchError(_) => return Remedy::GoOn,
            watcher::Error::NoResourceVersion => return Remedy::ListAnew,
        };
        match code {
            404 if !self.kind.names().is_built_in => Remedy::AwaitKind,
            410 => Remedy::ListAnew,
            _ => Remedy::GoOn,
        }
    }
}

/// Which of the versions that are read an API server has of a kind; `None`: none of them.
pub(crate) async fn served_version(
    client: &Client,
    kind: Kind,
) -> kube::Result<Option<&'static str>> {
    let names = kind.names();
    for version in [names.version].into_iter().chain(names.also.iter().copied()) {
        let group_version = format!("{}/{version}", names.group);
        match client.list_api_group_resources(&group_version).await {
            Ok(list) if list.resources.iter().any(|each| each.name == names.plural) => {
                return Ok(Some(version));
            }
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
