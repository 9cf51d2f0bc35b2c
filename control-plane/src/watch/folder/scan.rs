//! Which manifests there are, and whether they changed, without reading them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cluster::manifest;

/// Manifests of a folder. Those beyond, in the order of names, are not read, which is a problem of
/// the folder; none that was read before is left out.
pub(super) const FILES_MAX: usize = 10_000;
/// Entries of folders that are looked at. With more the look fails, since those that were not seen
/// would count as gone.
pub(super) const ENTRIES_MAX: usize = 50_000;
/// A file that changed this shortly before it was read may have changed again within the same tick
/// of the file system's clock: it is read once more.
const CLOCK_TICK: Duration = Duration::from_secs(1);

/// What tells whether a file changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) bytes: u64,
    device: u64,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            bytes: metadata.len(),
            device: metadata.dev(),
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether it cannot change any more without being another one.
    pub(super) fn is_settled(&self, now: SystemTime) -> bool {
        let seconds = u64::try_from(self.changed.0).unwrap_or(0);
        let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        now.duration_since(changed).is_ok_and(|age| age > CLOCK_TICK * 2)
    }
}

/// Finds the manifests below a folder, by their path within it. What is not found counts as gone, so
/// that whatever cannot be looked at fails the look as a whole.
pub(super) fn scan(folder: &Path) -> io::Result<BTreeMap<PathBuf, Stamp>> {
    let mut found = BTreeMap::new();
    let mut entries = 0;
    let folders = list(folder, Path::new(""), &mut entries, &mut found)?;
    for below in folders {
        match list(&folder.join(&below), &below, &mut entries, &mut found) {
            // It was removed since: so its files are gone.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            listed => drop(listed.map_err(|error| at(&below, &error))?),
        }
    }
    Ok(found)
}

/// Adds the files of one folder and tells its folders.
fn list(
    folder: &Path,
    prefix: &Path,
    entries: &mut usize,
    found: &mut BTreeMap<PathBuf, Stamp>,
) -> io::Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(folder)? {
        *entries += 1;
        if *entries > ENTRIES_MAX {
            return Err(io::Error::other(format!("it has more than {ENTRIES_MAX} entries")));
        }
        let entry = entry?;
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = prefix.join(name);
        // Follows links: those of a mounted ConfigMap are the files.
        let metadata = match fs::metadata(entry.path()) {
            Ok(metadata) => metadata,
            // It vanished, or is a link to nothing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(at(&path, &error)),
        };
        if metadata.is_dir() {
            folders.push(path);
        } else if metadata.is_file() && is_manifest(&path) {
            found.insert(path, Stamp::of(&metadata));
        }
    }
    Ok(folders)
}

/// Says which entry it was.
fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn is_manifest(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("yaml" | "yml" | "json"))
}

/// Reads a file of bounded size.
pub(super) fn read(path: &Path) -> Result<String, String> {
    let describe = |error: io::Error| format!("reading it: {error}");
    let limit = u64::try_from(manifest::BYTES_MAX).unwrap_or(u64::MAX);
    let mut text = Vec::new();
    let file = fs::File::open(path).map_err(describe)?;
    file.take(limit + 1).read_to_end(&mut text).map_err(describe)?;
    if text.len() > manifest::BYTES_MAX {
        return Err(format!("it is longer than {} bytes", manifest::BYTES_MAX));
    }
    String::from_utf8(text).map_err(|error| format!("it is not text: {error}"))
}
