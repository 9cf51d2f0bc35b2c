//! Handles of network namespaces, and the only way into one.
//!
//! A thread left behind in a pod's namespace would act as that pod: it would dial from its address
//! and listen on its ports. So entering is a synchronous closure, leaving is a guard that also runs
//! on panic, and a guard that cannot leave aborts the process.

use std::cell::OnceCell;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

/// `SO_NETNS_COOKIE` (linux/asm-generic/socket.h, since Linux 5.14); not in libc.
const SO_NETNS_COOKIE: libc::c_int = 71;

thread_local! {
    /// The namespace this thread belongs to. Opened before the thread's first visit elsewhere, and
    /// kept, because opening it at the way back could fail when file descriptors run out.
    static HOME: OnceCell<OwnedFd> = const { OnceCell::new() };
}

/// A handle that keeps a network namespace alive. Cheap to clone.
#[derive(Clone, Debug)]
pub struct NetnsFd(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    fd: OwnedFd,
    device: u64,
    inode: u64,
    cookie: u64,
}

/// Why a path is not a usable network namespace.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The path cannot be opened.
    #[error("cannot open network namespace {path}")]
    Open {
        /// The path asked for.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// The file is something else, such as a regular file or a PID namespace.
    #[error("{path} is not a network namespace")]
    NotANetns {
        /// The path asked for.
        path: PathBuf,
    },
    /// It is one, but it cannot be entered or asked for its cookie.
    #[error("cannot enter network namespace {path}")]
    Enter {
        /// The path asked for.
        path: PathBuf,
        /// What failed.
        #[source]
        cause: EnterError,
    },
}

/// Why a namespace was not entered. The closure has not run.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// The thread's own namespace could not be opened.
    #[error("cannot open this thread's own network namespace")]
    Home(#[source] io::Error),
    /// The kernel refused `setns`.
    #[error("setns failed")]
    Setns(#[source] Errno),
    /// A call inside the namespace failed while its cookie was read.
    #[error("cannot read the namespace's cookie")]
    Cookie(#[source] Errno),
}

impl NetnsFd {
    /// Opens a namespace file such as `/run/netns/x` or `/proc/PID/ns/net`.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        // The standard library opens with O_CLOEXEC.
        let file =
            File::open(path).map_err(|cause| OpenError::Open { path: path.to_owned(), cause })?;
        Self::from_file(file, path)
    }

    /// Takes a namespace that was received as a descriptor. `name` tells it in errors.
    pub fn take(descriptor: OwnedFd, name: &Path) -> Result<Self, OpenError> {
        Self::from_file(File::from(descriptor), name)
    }

    /// The namespace of the calling thread.
    pub fn current() -> Result<Self, OpenError> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    fn from_file(file: File, path: &Path) -> Result<Self, OpenError> {
        let open = |cause| OpenError::Open { path: path.to_owned(), cause };
        let filesystem = fstatfs(file.as_fd()).map_err(|errno| open(errno.into()))?;
        if filesystem.filesystem_type() != NSFS_MAGIC {
            return Err(OpenError::NotANetns { path: path.to_owned() });
        }
        let metadata = file.metadata().map_err(open)?;
        let fd = OwnedFd::from(file);
        let enter = |cause| OpenError::Enter { path: path.to_owned(), cause };
        // `setns` is given the kind it expects, so a namespace of another kind is EINVAL here.
        let cookie = match enter_and(fd.as_fd(), read_cookie) {
            Ok(cookie) => cookie.map_err(|errno| enter(EnterError::Cookie(errno)))?,
            Err(EnterError::Setns(Errno::EINVAL)) => {
                return Err(OpenError::NotANetns { path: path.to_owned() });
            }
            Err(cause) => return Err(enter(cause)),
        };
        Ok(Self(Arc::new(Inner { fd, device: metadata.dev(), inode: metadata.ino(), cookie })))
    }

    /// Whether a path names this namespace now. Costs one call, and cannot be wrong while this handle lives:
    /// the kernel uses no number of a namespace that is still there for another one.
    #[must_use]
    pub fn is_named(&self, path: &Path) -> bool {
        std::fs::metadata(path)
            .is_ok_and(|found| (found.dev(), found.ino()) == (self.0.device, self.0.inode))
    }

    /// The inode number, which names the namespace while it lives.
    #[must_use]
    pub fn inode(&self) -> u64 {
        self.0.inode
    }

    /// The kernel's cookie: like the inode, but never used again after the namespace is gone.
    #[must_use]
    pub fn cookie(&self) -> u64 {
        self.0.cookie
    }
}

impl PartialEq for NetnsFd {
    fn eq(&self, other: &Self) -> bool {
        (self.0.device, self.0.inode) == (other.0.device, other.0.inode)
    }
}

impl Eq for NetnsFd {}

impl AsFd for NetnsFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}

/// Runs `inside` on this thread, in `namespace`, and returns to the thread's own namespace.
///
/// The closure must not block for long: it occupies a worker thread. Aborts the process if the
/// way back fails; nothing that runs afterwards could be trusted.
pub fn within<T>(namespace: &NetnsFd, inside: impl FnOnce() -> T) -> Result<T, EnterError> {
    enter_and(namespace.as_fd(), inside)
}

fn enter_and<T>(namespace: BorrowedFd<'_>, inside: impl FnOnce() -> T) -> Result<T, EnterError> {
    HOME.with(|home| {
        if home.get().is_none() {
            let own = File::open("/proc/thread-self/ns/net").map_err(EnterError::Home)?;
            // Set just above to be empty, on this thread: the value cannot be there already.
            let _ = home.set(own.into());
        }
        let home = home.get().ok_or_else(|| {
            EnterError::Home(io::Error::other("the handle of the thread's namespace is missing"))
        })?;
        // Armed first: a signal-free path where setns succeeds and the guard does not exist is
        // impossible, and returning to where one already is costs nothing.
        let way_back = WayBack(home.as_fd());
        setns(namespace, CloneFlags::CLONE_NEWNET).map_err(EnterError::Setns)?;
        let result = inside();
        drop(way_back);
        Ok(result)
    })
}

struct WayBack<'a>(BorrowedFd<'a>);

impl Drop for WayBack<'_> {
    fn drop(&mut self) {
        if setns(self.0, CloneFlags::CLONE_NEWNET).is_err() {
            std::process::abort();
        }
    }
}

fn read_cookie() -> Result<u64, Errno> {
    // A local datagram socket belongs to the namespace like any other and needs no address family
    // that could be missing.
    let probe = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut cookie = 0_u64;
    let mut length: libc::socklen_t = 8;
    #[expect(unsafe_code, reason = "no crate wraps SO_NETNS_COOKIE")]
    // SAFETY: the descriptor is open, and both pointers are to live values of the stated size.
    let result = unsafe {
        libc::getsockopt(
            probe.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    Errno::result(result).map(|_| cookie)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_regular_file_or_another_namespace_is_refused() {
        let refused = NetnsFd::open(Path::new("/proc/self/status"));
        assert!(matches!(refused, Err(OpenError::NotANetns { .. })), "{refused:?}");
        let refused = NetnsFd::open(Path::new("/does/not/exist"));
        assert!(matches!(refused, Err(OpenError::Open { .. })), "{refused:?}");
    }
}
