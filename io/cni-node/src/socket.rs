//! The socket as a file: made aside, then moved into place, so that there always is one.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
};
use nix::sys::stat::{Mode, fchmod};
use tokio::net::UnixListener;

/// Connections that may wait to be accepted; a further plugin waits in `connect`, within its own
/// time. A node has 110 pods unless told otherwise, and after a reboot all start at once.
const BACKLOG: i32 = 256;
/// Names to try for the socket aside. One is taken only if an agent died between two system calls.
const NAMES_MAX: u32 = 16;

/// The socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A file that is not a socket is in the way.
    #[error("{0} exists and is not a socket")]
    NotASocket(PathBuf),
    /// The path does not end in a file's name.
    #[error("{0} cannot be a socket's path")]
    NoName(PathBuf),
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

fn system(operation: &'static str, path: &Path, source: io::Error) -> BindError {
    BindError::System { operation, path: path.to_owned(), source }
}

/// The socket file; it is removed on drop, unless another agent's is in its place by then.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|found| found.ino() == self.inode && found.dev() == self.device);
        if ours {
            // Nothing is left to do if it cannot be removed: the next agent moves its own over it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes a socket with mode 0600 that listens, and moves it to `path`. One that is there already
/// loses its name but not the connections that it has, so that an agent can follow another.
pub(crate) fn listener(path: &Path) -> Result<(UnixListener, SocketFile), BindError> {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
        return Err(BindError::NoName(path.to_owned()));
    };
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(BindError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(system("look at", path, error)),
    }
    let (fd, aside) = make_aside(path, name)?;
    let placed = place(fd, &aside, path);
    if placed.is_err() {
        // Whatever failed before is the error to tell.
        let _ = fs::remove_file(&aside);
    }
    placed
}

fn make_aside(path: &Path, name: &str) -> Result<(OwnedFd, PathBuf), BindError> {
    for attempt in 0..NAMES_MAX {
        let aside = path.with_file_name(format!(".{name}.{attempt}"));
        match make(&aside) {
            Ok(fd) => return Ok((fd, aside)),
            // Another agent's that is starting, or what is left of one that died.
            Err(nix::Error::EADDRINUSE) if attempt + 1 < NAMES_MAX => {}
            Err(error) => return Err(system("make the socket", &aside, error.into())),
        }
    }
    Err(BindError::NoName(path.to_owned()))
}

/// The mode of the file is that of the socket's own inode (`unix_bind`, net/unix/af_unix.c), so
/// there is no moment in which others could connect.
fn make(path: &Path) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(fd)
}

fn place(fd: OwnedFd, aside: &Path, path: &Path) -> Result<(UnixListener, SocketFile), BindError> {
    let found = fs::symlink_metadata(aside).map_err(|error| system("look at", aside, error))?;
    let backlog = Backlog::new(BACKLOG).unwrap_or(Backlog::MAXCONN);
    listen(&fd, backlog).map_err(|error| system("listen on", aside, error.into()))?;
    let listener = UnixListener::from_std(fd.into());
    let listener = listener.map_err(|error| system("listen on", aside, error))?;
    fs::rename(aside, path).map_err(|error| system("move the socket to", path, error))?;
    let file = SocketFile { path: path.to_owned(), device: found.dev(), inode: found.ino() };
    Ok((listener, file))
}
