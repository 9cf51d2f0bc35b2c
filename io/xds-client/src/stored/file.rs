//! The file: read as a whole, replaced as a whole.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use prost::bytes::Bytes;
use xds::{Kind, Record, RecordBody};

use super::format::{Encoder, FormatError, Header, decode};

/// Largest file read or written, in bytes: some 400,000 workloads. A larger state is not stored.
pub(crate) const STORED_BYTES_MAX: u64 = 256 << 20;

/// Changes since the file was written, by type and name.
pub(crate) type Changes = BTreeMap<(Kind, String), Option<RecordBody>>;

/// Why a stored state was not used, or not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoredError {
    /// The operating system said no.
    #[error("{operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Somebody else could have written it.
    #[error("{}: others than its owner may write it, or its owner is another (mode {mode:o}, uid {uid})", path.display())]
    Writable {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// Its owner.
        uid: u32,
    },
    /// More than [`STORED_BYTES_MAX`].
    #[error("{bytes} bytes are more than the {STORED_BYTES_MAX} that are stored")]
    TooLarge {
        /// How many.
        bytes: u64,
    },
    /// It cannot be read.
    #[error("{}", path.display())]
    Format {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: FormatError,
    },
    /// It is of another control plane, or was asked for otherwise.
    #[error("{}: is of {found}, not of {expected}", path.display())]
    Origin {
        /// Which file.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        expected: String,
    },
}

impl StoredError {
    /// Whether the file is simply not there.
    pub(crate) fn is_missing(&self) -> bool {
        match self {
            Self::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
            Self::Writable { .. }
            | Self::TooLarge { .. }
            | Self::Format { .. }
            | Self::Origin { .. } => false,
        }
    }
}

/// Where a state is stored, and whose it is.
#[derive(Clone, Debug)]
pub(crate) struct StoredFile {
    pub(crate) path: PathBuf,
    /// Control plane and mode: the state of another one is not used.
    pub(crate) origin: String,
}

/// A state as it was stored.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) records: Vec<Record>,
    /// When the control plane last confirmed it.
    pub(crate) as_of: SystemTime,
}

impl StoredFile {
    fn failed(&self, operation: &'static str) -> impl FnOnce(io::Error) -> StoredError {
        let path = self.path.clone();
        move |source| StoredError::Io { operation, path, source }
    }

    /// Reads the state; `None` if there is none.
    pub(crate) fn load(&self, now: SystemTime) -> Result<Option<Loaded>, StoredError> {
        let file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(self.failed("opening"))?,
        };
        let meta = file.metadata().map_err(self.failed("reading"))?;
        let (mode, uid) = (meta.mode() & 0o7777, meta.uid());
        if mode & 0o022 != 0 || uid != nix::unistd::geteuid().as_raw() {
            return Err(StoredError::Writable { path: self.path.clone(), mode, uid });
        }
        let mut bytes = Vec::new();
        // One byte more than may be there, to notice it.
        let read = file.take(STORED_BYTES_MAX + 1).read_to_end(&mut bytes);
        let length = read.map_err(self.failed("reading"))?;
        if u64::try_from(length).is_ok_and(|length| length > STORED_BYTES_MAX) {
            return Err(StoredError::TooLarge { bytes: meta.len() });
        }
        let decoded = decode(Bytes::from(bytes));
        let (header, records) =
            decoded.map_err(|source| StoredError::Format { path: self.path.clone(), source })?;
        if header.origin != self.origin {
            return Err(StoredError::Origin {
                path: self.path.clone(),
                found: header.origin,
                expected: self.origin.clone(),
            });
        }
        // Confirming it without a change only touches the file. A clock that was set back makes
        // nothing younger than now.
        let touched = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        Ok(Some(Loaded { records, as_of: touched.max(header.written_at()).min(now) }))
    }

    /// Writes what the file holds with the changes, or only the changes, as one replacement.
    /// Returns the number of bytes.
    pub(crate) fn write(
        &self,
        base: Base,
        changes: &Changes,
        now: SystemTime,
    ) -> Result<u64, WriteError> {
        let records = match base {
            Base::Nothing => Vec::new(),
            Base::File => match self.load(now) {
                Ok(Some(loaded)) => loaded.records,
                Ok(None) => return Err(WriteError::BaseLost(None)),
                Err(error) => return Err(WriteError::BaseLost(Some(error))),
            },
        };
        self.replace(records, changes, now).map_err(WriteError::Failed)
    }

    fn replace(
        &self,
        records: Vec<Record>,
        changes: &Changes,
        now: SystemTime,
    ) -> Result<u64, StoredError> {
        if let Some(folder) = self.path.parent() {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
            made.map_err(self.failed("making the folder of"))?;
        }
        let next = self.path.with_extension("next");
        // Left behind by a process that was killed.
        match fs::remove_file(&next) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(self.failed("replacing")(error));
            }
            Ok(()) | Err(_) => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&next);
        let file = file.map_err(self.failed("replacing"))?;
        let written = self.fill(file, records, changes, now);
        let written = written.and_then(|bytes| {
            fs::rename(&next, &self.path).map_err(self.failed("replacing"))?;
            Ok(bytes)
        });
        if written.is_err() {
            // The error to report is the first one.
            let _ = fs::remove_file(&next);
        }
        let bytes = written?;
        if let Some(folder) = self.path.parent() {
            let folder = File::open(folder).and_then(|folder| folder.sync_all());
            folder.map_err(self.failed("syncing the folder of"))?;
        }
        Ok(bytes)
    }

    fn fill(
        &self,
        file: File,
        records: Vec<Record>,
        changes: &Changes,
        now: SystemTime,
    ) -> Result<u64, StoredError> {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let written_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let header = Header { origin: self.origin.clone(), written_ms };
        let encoder = Encoder::new(BufWriter::new(file), &header);
        let mut encoder = encoder.map_err(self.failed("writing"))?;
        let changed = |record: &Record| changes.contains_key(&(record.kind, record.name.clone()));
        let kept = records.into_iter().filter(|record| !changed(record));
        let new = changes.iter().map(|((kind, name), body)| Record {
            kind: *kind,
            name: name.clone(),
            body: body.clone(),
        });
        for record in kept.chain(new) {
            encoder.record(record).map_err(self.failed("writing"))?;
            if encoder.bytes() > STORED_BYTES_MAX - 64 {
                return Err(StoredError::TooLarge { bytes: encoder.bytes() });
            }
        }
        let bytes = encoder.bytes();
        let file = encoder.finish().map_err(self.failed("writing"))?;
        let file = file.into_inner().map_err(|error| self.failed("writing")(error.into_error()))?;
        file.sync_all().map_err(self.failed("syncing"))?;
        Ok(bytes)
    }

    /// Says that the file is still what the control plane says.
    pub(crate) fn confirm(&self, now: SystemTime) -> Result<(), StoredError> {
        let file = File::options().append(true).open(&self.path);
        file.and_then(|file| file.set_modified(now)).map_err(self.failed("touching"))
    }

    /// The file's folder and name.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// What a new file starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    /// The changes are all there is.
    Nothing,
    /// What the file holds.
    File,
}

/// Why no new file was written.
#[derive(Debug)]
pub(crate) enum WriteError {
    /// The old file is in place.
    Failed(StoredError),
    /// The old file is gone or damaged, so that the changes are not enough to write a new one. An
    /// incomplete one would be worse than none: a policy that is missing opens what it denied.
    BaseLost(Option<StoredError>),
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(folder: &tempfile::TempDir) -> StoredFile {
        // The folder is made too.
        let path = folder.path().join("state").join("mesh");
        StoredFile { path, origin: "https://istiod:15012 (Wildcard)".to_owned() }
    }

    fn changes(entries: &[(&str, Option<&'static str>)]) -> Changes {
        let body = |text: &'static str| RecordBody {
            version: "v".to_owned(),
            aliases: vec![],
            bytes: Bytes::from_static(text.as_bytes()),
        };
        let entry = |(name, text): &(&str, Option<&'static str>)| {
            ((Kind::Address, (*name).to_owned()), text.map(body))
        };
        entries.iter().map(entry).collect()
    }

    fn texts(file: &StoredFile) -> Vec<String> {
        let loaded = file.load(SystemTime::now()).expect("valid").expect("there");
        let text = |record: Record| {
            let body = record.body.expect("not gone");
            format!("{}={}", record.name, String::from_utf8_lossy(&body.bytes))
        };
        loaded.records.into_iter().map(text).collect()
    }

    fn error(file: &StoredFile) -> String {
        model::causes(&file.load(SystemTime::now()).expect_err("not used"))
    }

    #[test]
    fn a_file_is_replaced_by_itself_with_changes() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = file(&folder);
        let now = SystemTime::now();
        assert!(file.load(now).expect("no error").is_none());
        let first = changes(&[("a", Some("1")), ("b", Some("1")), ("c", None)]);
        file.write(Base::Nothing, &first, now).expect("written");
        assert_eq!(texts(&file), ["a=1", "b=1"]);
        let second = changes(&[("a", None), ("b", Some("2")), ("d", Some("2"))]);
        file.write(Base::File, &second, now).expect("written");
        assert_eq!(texts(&file), ["b=2", "d=2"]);
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(file.path()), 0o600);
        assert_eq!(mode(file.path().parent().expect("a folder")), 0o700);
        // A file left behind is in nobody's way, and none is left behind.
        let next = file.path().with_extension("next");
        fs::write(&next, "half").expect("written");
        file.write(Base::Nothing, &first, now).expect("written");
        assert!(!next.exists());
    }

    #[test]
    fn age_counts_from_the_last_confirmation() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = file(&folder);
        let at = |seconds| SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        file.write(Base::Nothing, &Changes::new(), at(1000)).expect("written");
        file.confirm(at(500)).expect("touched");
        let as_of = |now| file.load(now).expect("valid").expect("there").as_of;
        assert_eq!(as_of(at(5000)), at(1000));
        file.confirm(at(2000)).expect("touched");
        assert_eq!(as_of(at(5000)), at(2000));
        // A clock that was set back.
        assert_eq!(as_of(at(1500)), at(1500));
        fs::remove_file(file.path()).expect("there");
        assert!(file.confirm(at(3000)).expect_err("gone").is_missing());
    }

    #[test]
    fn what_is_not_ours_or_not_whole_is_not_used() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = file(&folder);
        let now = SystemTime::now();
        file.write(Base::Nothing, &changes(&[("a", Some("1"))]), now).expect("written");
        let other = StoredFile { origin: "other".to_owned(), ..file.clone() };
        assert!(error(&other).ends_with("is of https://istiod:15012 (Wildcard), not of other"));
        let mode = |mode| fs::set_permissions(file.path(), fs::Permissions::from_mode(mode));
        mode(0o620).expect("set");
        assert!(error(&file).contains("others than its owner may write it"));
        mode(0o600).expect("set");
        let mut bytes = fs::read(file.path()).expect("there");
        *bytes.last_mut().expect("not empty") ^= 1;
        fs::write(file.path(), &bytes).expect("written");
        assert!(error(&file).ends_with("is damaged: the checksum differs"));
        fs::write(file.path(), "something else").expect("written");
        assert!(error(&file).ends_with("is not in this version's format"));
    }

    #[test]
    fn nothing_incomplete_is_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = file(&folder);
        let now = SystemTime::now();
        let some = changes(&[("a", Some("1"))]);
        let lost = file.write(Base::File, &some, now).expect_err("no base");
        assert!(matches!(lost, WriteError::BaseLost(None)));
        assert!(!file.path().exists());
        file.write(Base::Nothing, &some, now).expect("written");
        fs::write(file.path(), "damaged").expect("written");
        let lost = file.write(Base::File, &some, now).expect_err("no base");
        assert!(matches!(lost, WriteError::BaseLost(Some(_))));
        // A folder in its place: the old one stays.
        fs::remove_file(file.path()).expect("there");
        fs::create_dir_all(file.path().join("x")).expect("made");
        let failed = file.write(Base::Nothing, &some, now).expect_err("a folder");
        assert!(matches!(failed, WriteError::Failed(_)));
        assert!(!file.path().with_extension("next").exists());
    }
}
