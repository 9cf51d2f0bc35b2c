//! Waits for changes in folders, by inotify.

use std::future;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

use crate::node::ASIDE;

/// Writes end with one of these; so do removals, and the folder's own.
fn changes() -> AddWatchFlags {
    AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVE
        | AddWatchFlags::IN_ATTRIB
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF
        | AddWatchFlags::IN_ONLYDIR
}

/// The watch. Without inotify, which a node may have run out of, nothing is ever heard, and only
/// looking helps.
#[derive(Debug)]
pub(crate) struct Watch(Option<AsyncFd<Source>>);

#[derive(Debug)]
struct Source(Inotify);

impl AsRawFd for Source {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Watch {
    /// Must run within a tokio runtime.
    #[expect(unsafe_code, reason = "tokio asks for it; see SAFETY")]
    pub(crate) fn new() -> Self {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK);
        // SAFETY: the source owns its descriptor, and is never replaced inside the `AsyncFd`.
        let register = |inotify| unsafe { AsyncFd::register(Source(inotify)) };
        Self(inotify.ok().and_then(|inotify| register(inotify).ok()))
    }

    /// Watches the folder that is at `path` now. To be called again and again: it may be another
    /// one by then, and the same one twice is once.
    pub(crate) fn add(&self, path: &Path) {
        if let Some(source) = &self.0 {
            // A folder that is not there is found by looking.
            let _ = source.get_ref().0.add_watch(path, changes());
        }
    }

    /// Ends after a change by somebody else, or by ourselves in the end; not for what we write
    /// aside, or a full disk would keep us busy. Cancel safe: what was read before it is dropped is
    /// looked at by whoever drops it.
    pub(crate) async fn changed(&self) {
        let Some(source) = &self.0 else { return future::pending().await };
        loop {
            let Ok(mut ready) = source.readable().await else { return future::pending().await };
            match ready.try_io(|source| Ok(source.get_ref().0.read_events()?)) {
                Ok(Ok(events)) => {
                    let aside = |name: &std::ffi::OsStr| {
                        name.to_str().is_some_and(|name| name.ends_with(ASIDE))
                    };
                    let foreign =
                        |name: &Option<std::ffi::OsString>| !name.as_deref().is_some_and(aside);
                    if events.iter().any(|event| foreign(&event.name)) {
                        return;
                    }
                }
                // Not ready after all.
                Err(_) => {}
                Ok(Err(_)) => return future::pending().await,
            }
        }
    }
}
