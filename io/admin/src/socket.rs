//! The socket as a file: made with the right mode, and replaced only if nobody answers on it.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket,
};
use nix::sys::stat::{Mode, fchmod};
use tokio::net::UnixListener;

/// Connections that may wait to be accepted; a further client waits in `connect`.
const BACKLOG: i32 = 16;
/// Attempts to lock the folder against another agent that starts at the same moment.
const LOCK_ATTEMPTS: u32 = 20;
/// Pause between them.
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// The socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another agent answers on it.
    #[error("{0} is in use: another agent answers on it")]
    InUse(PathBuf),
    /// A file that is not a socket is in the way.
    #[error("{0} exists and is not a socket")]
    NotASocket(PathBuf),
    /// The folder is locked by another process for more than a second.
    #[error("the folder of {0} is locked by another process")]
    Locked(PathBuf),
    /// The socket file is open to others than its owner.
    #[error("{path} has mode {mode:o}, which lets others in")]
    Mode {
        /// The socket.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// An operating-system call failed.
    #[error("cannot {operation} {path}")]
    System {
        /// What was done.
        operation: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// The socket file; it is removed on drop, unless another one is in its place by then.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode);
        if ours {
            // Nothing is left to do if it cannot be removed: the next start replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes the socket with mode 0600, whatever the umask, and listens on it.
pub(crate) fn listener(path: &Path) -> Result<(UnixListener, SocketFile), BindError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    };
    let _lock = lock(folder, path)?;
    let fd = match make(path) {
        Err(nix::Error::EADDRINUSE) => {
            remove_stale(path)?;
            make(path).map_err(|error| system("bind", path, error.into()))?
        }
        made => made.map_err(|error| system("bind", path, error.into()))?,
    };
    let found = fs::symlink_metadata(path).map_err(|e| system("look at", path, e))?;
    let file = SocketFile { path: path.to_owned(), inode: found.ino() };
    let mode = found.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(BindError::Mode { path: path.to_owned(), mode });
    }
    let backlog = Backlog::new(BACKLOG).unwrap_or(Backlog::MAXCONN);
    listen(&fd, backlog).map_err(|error| system("listen on", path, error.into()))?;
    let listener = UnixListener::from_std(fd.into());
    Ok((listener.map_err(|error| system("listen on", path, error))?, file))
}

fn system(operation: &'static str, path: &Path, source: io::Error) -> BindError {
    BindError::System { operation, path: path.to_owned(), source }
}

/// Two agents that start at once must not each remove the other's socket.
fn lock(folder: &Path, path: &Path) -> Result<Flock<File>, BindError> {
    let mut file = File::open(folder).map_err(|error| system("open the folder of", path, error))?;
    for _ in 0..LOCK_ATTEMPTS {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, nix::Error::EWOULDBLOCK)) => file = back,
            Err((_, error)) => return Err(system("lock the folder of", path, error.into())),
        }
        thread::sleep(LOCK_PAUSE);
    }
    Err(BindError::Locked(path.to_owned()))
}

/// Makes and binds the socket. The mode of the file is that of the socket's own inode
/// (`unix_bind`, net/unix/af_unix.c), so there is no moment in which others could connect.
fn make(path: &Path) -> nix::Result<std::os::fd::OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(fd)
}

/// Removes a socket on which nobody answers.
fn remove_stale(path: &Path) -> Result<(), BindError> {
    let found = fs::symlink_metadata(path).map_err(|e| system("look at", path, e))?;
    if !found.file_type().is_socket() {
        return Err(BindError::NotASocket(path.to_owned()));
    }
    let probe = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    );
    let answer = probe.and_then(|fd| connect(fd.as_raw_fd(), &UnixAddr::new(path)?));
    match answer {
        Err(nix::Error::ECONNREFUSED) => {
            fs::remove_file(path).map_err(|error| system("remove", path, error))
        }
        // EAGAIN: somebody listens and is busy.
        Ok(()) | Err(nix::Error::EAGAIN) => Err(BindError::InUse(path.to_owned())),
        Err(error) => Err(system("probe", path, error.into())),
    }
}
