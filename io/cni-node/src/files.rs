//! Files of the node: read with a bound, replaced as a whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::fcntl::OFlag;

/// How an identical-looking file is told from the one that was looked at before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    device: u64,
    inode: u64,
    size: u64,
    mode: u32,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Fingerprint {
    /// `None` when there is none.
    pub(crate) fn of(path: &Path) -> io::Result<Option<Self>> {
        let found = match fs::symlink_metadata(path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some(Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            mode: found.mode(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }))
    }

    /// Type and permissions.
    pub(crate) fn mode(&self) -> u32 {
        self.mode
    }
}

/// Opens a regular file. Anything else would block, or never end.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
    }
}

/// Reads a file, at most one byte more than `max`.
pub(crate) fn read(path: &Path, max: usize) -> io::Result<Vec<u8>> {
    let max = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    let mut contents = Vec::new();
    open(path)?.take(max).read_to_end(&mut contents)?;
    Ok(contents)
}

/// Whether `path` is a regular file with this mode and these contents.
pub(crate) fn is(path: &Path, contents: &[u8], mode: u32) -> bool {
    // What cannot be read is replaced.
    fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.mode() & 0o7777 == mode)
        && read(path, contents.len()).is_ok_and(|found| found == contents)
}

/// Writes `aside`, makes it durable, then moves it over `path`: at any moment, also after a power
/// failure, there is the old file or the new one.
pub(crate) fn replace(
    path: &Path,
    aside: &Path,
    mode: u32,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    remove(aside)?;
    let replaced = write_aside(aside, mode, write).and_then(|()| fs::rename(aside, path));
    if replaced.is_err() {
        // What failed before is the error to tell; the next attempt removes it too.
        let _ = fs::remove_file(aside);
    }
    replaced?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    File::open(folder)?.sync_all()
}

fn write_aside(
    aside: &Path,
    mode: u32,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(aside)?;
    write(&mut file)?;
    file.flush()?;
    // Whatever the umask.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.sync_all()
}

/// Whether there was one.
pub(crate) fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether both have the same bytes.
pub(crate) fn same(left: &Path, right: &Path) -> io::Result<bool> {
    const PIECE: usize = 64 * 1024;
    let (mut left, mut right) = (open(left)?, open(right)?);
    if left.metadata()?.size() != right.metadata()?.size() {
        return Ok(false);
    }
    let (mut one, mut other) = (vec![0; PIECE], vec![0; PIECE]);
    loop {
        let read = left.read(&mut one)?;
        if read == 0 {
            return Ok(right.read(&mut other)? == 0);
        }
        match right.read_exact(&mut other[..read]) {
            Ok(()) if one[..read] == other[..read] => {}
            Ok(()) => return Ok(false),
            // It became shorter meanwhile.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}
