//! An API server that does what a test says: real TLS and HTTP on a real socket, objects without
//! validation, and every mood of a bad day.
//!
//! [`TestApi`] is what it knows and how it answers, and outlives its listener, [`TestApiServer`], which
//! runs in this process on a thread of its own. [`crate::ApiServer`] is the real one, for what depends
//! on how it behaves.

mod serve;
mod store;

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};

use crate::kube::Credentials;
use crate::namespace::Namespace;
use store::{Key, Place, Store};

/// Where it listens, on the loopback of a node.
const PORT: u16 = 6443;
/// Requests that are remembered; of more, the last.
const ASKED_MAX: usize = 100_000;

/// How an API server is reached from within a pod: what a kubelet gives to it.
#[derive(Clone, Debug)]
pub struct ApiAccess {
    /// `KUBERNETES_SERVICE_HOST`.
    pub host: String,
    /// `KUBERNETES_SERVICE_PORT`.
    pub port: u16,
    /// The roots of its certificate, as PEM.
    pub authority: String,
    /// The service account's token.
    pub token: String,
}

/// A request that was answered, or is about to be.
#[derive(Clone, Debug)]
pub struct ApiRequest {
    /// When.
    pub at: Instant,
    /// `GET`, `PATCH` …
    pub method: String,
    /// Path and query.
    pub target: String,
    /// What was sent; null for nothing.
    pub body: Value,
}

/// A handle on what the server knows and how it answers. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct TestApi(Arc<Shared>);

struct Shared {
    credentials: Credentials,
    state: Mutex<State>,
    /// Whether patches wait.
    held: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    store: Store,
    mood: Mood,
    asked: VecDeque<ApiRequest>,
    /// For names of events.
    events: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Mood {
    /// Before each answer.
    delay: Duration,
    /// Answers everything with this status.
    refusal: Option<u16>,
    /// Answers patches with this status.
    patch_refusal: Option<u16>,
    /// Objects in a page at most; 0: as many as asked for.
    page: usize,
    /// So many further pages are answered with 410.
    expired_pages: u32,
}

impl fmt::Debug for TestApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestApi").field("mood", &self.0.state.lock().mood).finish()
    }
}

impl TestApi {
    /// One that knows nothing. Its keys are in `folder`.
    pub fn new(folder: &Path) -> anyhow::Result<Self> {
        let shared = Shared {
            credentials: Credentials::create(folder)?,
            state: Mutex::default(),
            held: watch::Sender::new(false),
        };
        Ok(Self(Arc::new(shared)))
    }

    /// How it is reached from the node that it is on.
    #[must_use]
    pub fn access(&self) -> ApiAccess {
        let authority = self.0.credentials.authority().to_owned();
        let token = Credentials::TOKEN.to_owned();
        ApiAccess { host: "127.0.0.1".to_owned(), port: PORT, authority, token }
    }

    /// Makes an object or replaces it, at a path such as `/api/v1/namespaces/shop/pods/web`.
    pub fn put(&self, path: &str, object: Value) -> anyhow::Result<()> {
        self.0.state.lock().store.put(key(path)?, object);
        Ok(())
    }

    /// Changes what a merge patch names.
    pub fn change(&self, path: &str, patch: &Value) -> anyhow::Result<()> {
        let changed = self.0.state.lock().store.patch(&key(path)?, patch);
        changed.map(|_| ()).map_err(|refused| anyhow::anyhow!("change {path}: {refused:?}"))
    }

    /// Removes an object.
    pub fn remove(&self, path: &str) -> anyhow::Result<()> {
        let removed = self.0.state.lock().store.remove(&key(path)?);
        removed.map(|_| ()).with_context(|| format!("there is no {path}"))
    }

    /// An object as it is now; null if there is none.
    pub fn get(&self, path: &str) -> anyhow::Result<Value> {
        Ok(self.0.state.lock().store.get(&key(path)?).cloned().unwrap_or_default())
    }

    /// The events that were written, oldest first.
    #[must_use]
    pub fn events(&self) -> Vec<Value> {
        self.0.state.lock().store.of_kind("events")
    }

    /// What was asked, oldest first.
    #[must_use]
    pub fn asked(&self) -> Vec<ApiRequest> {
        self.0.state.lock().asked.iter().cloned().collect()
    }

    /// Waits so long before each answer, from now on.
    pub fn delay(&self, delay: Duration) {
        self.0.state.lock().mood.delay = delay;
    }

    /// Answers everything with a status, or as usual again. Open watches go on.
    pub fn refuse(&self, status: Option<u16>) {
        self.0.state.lock().mood.refusal = status;
    }

    /// Answers patches with a status, or as usual again.
    pub fn refuse_patches(&self, status: Option<u16>) {
        self.0.state.lock().mood.patch_refusal = status;
    }

    /// Leaves patches unanswered and undone until it is told otherwise.
    pub fn hold_patches(&self, hold: bool) {
        self.0.held.send_replace(hold);
    }

    /// Puts at most so many objects into a page of a list; 0: as many as are asked for.
    pub fn page(&self, objects: usize) {
        self.0.state.lock().mood.page = objects;
    }

    /// Answers so many requests for a further page with 410.
    pub fn expire_pages(&self, count: u32) {
        self.0.state.lock().mood.expired_pages = count;
    }

    /// How many further pages will still be answered with 410.
    #[must_use]
    pub fn expired_pages_left(&self) -> u32 {
        self.0.state.lock().mood.expired_pages
    }

    /// Forgets the past and ends every watch with 410: they have to list anew.
    pub fn expire_watches(&self) {
        let mut state = self.0.state.lock();
        state.store.forget();
        state.store.end_watches(Some(&status(410, "Expired")));
    }

    /// Ends every watch as if its time were over.
    pub fn end_watches(&self) {
        self.0.state.lock().store.end_watches(None);
    }
}

fn key(path: &str) -> anyhow::Result<Key> {
    match Place::parse(path) {
        Some(Place::Object(key)) => Ok(key),
        Some(Place::Collection { .. }) | None => anyhow::bail!("{path} names no object"),
    }
}

/// A refusal as an API server words it.
fn status(code: u16, reason: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "code": code, "reason": reason, "message": format!("{reason}, as the test wants"),
    })
}

/// Serves what a [`TestApi`] knows. Dropping it closes its port and every connection.
#[derive(Debug)]
pub struct TestApiServer {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl TestApiServer {
    /// Listens on the loopback of a namespace, where [`TestApi::access`] says.
    pub fn start(namespace: &Namespace, api: &TestApi) -> anyhow::Result<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], PORT));
        let listener = namespace.within(|| std::net::TcpListener::bind(address))?;
        let listener = listener.with_context(|| format!("listen on {address}"))?;
        listener.set_nonblocking(true).context("listen without blocking")?;
        let tls = serve::tls(&api.0.credentials)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let api = api.clone();
        let serve = move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve::accept(listener, tls, api.clone()) => {}
                    _ = stopped => {}
                }
            });
            // Their clients are gone: what happens from now on is for those that come back.
            api.end_watches();
        };
        let thread = std::thread::Builder::new().name("test-api".to_owned()).spawn(serve)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }

    /// Closes everything and says whether it ran until now.
    pub fn stop(mut self) -> anyhow::Result<()> {
        let ran = self.thread.as_ref().is_some_and(|thread| !thread.is_finished());
        self.end();
        ensure!(ran, "the test API server had ended by itself");
        Ok(())
    }

    fn end(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there was printed; the test fails by what is missing.
            let _ = thread.join();
        }
    }
}

impl Drop for TestApiServer {
    fn drop(&mut self) {
        self.end();
    }
}
