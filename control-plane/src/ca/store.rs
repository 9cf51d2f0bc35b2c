//! Where the authority's secrets are kept: a file, or a Secret of Kubernetes.
//!
//! Either holds a few named texts, is made once by whoever is first, and is replaced only by who
//! knows what is there. So several control planes may start at the same time, and two commands to
//! rotate cannot both succeed.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::future::Future;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;

/// Largest content, in bytes: what a Secret may hold.
pub const CONTENT_BYTES_MAX: u64 = 1024 * 1024;

/// Why secrets cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or folder.
    #[error("{operation} {}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Others could read the keys, or put others in their place.
    #[error("{} is open to others (owner {owner}, mode {mode:o}): not used", path.display())]
    Exposed {
        /// The file or its folder.
        path: PathBuf,
        /// User id of its owner.
        owner: u32,
        /// Permission bits.
        mode: u32,
    },
    /// It is not what it should be.
    #[error("{place} is not usable: {problem}")]
    Content {
        /// Which file or Secret.
        place: String,
        /// What is wrong.
        problem: String,
    },
    /// The API server.
    #[error("{operation} Secret {name}")]
    Kubernetes {
        /// What was tried.
        operation: &'static str,
        /// Namespace and name.
        name: String,
        /// Why not.
        source: Box<kube::Error>,
    },
}

/// Named texts.
pub type Texts = BTreeMap<String, String>;

/// What is stored, and by what it is known to be unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The texts.
    pub texts: Texts,
    /// Of this version only.
    pub version: String,
}

/// The answer of a store.
pub type Storing<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// One place for named texts.
pub trait SecretStore: Send + Sync {
    /// What is there.
    fn get(&self) -> Storing<'_, Option<Stored>>;
    /// Puts texts there if there is nothing, and returns what is there then: ours or the winner's.
    fn create(&self, texts: Texts) -> Storing<'_, Stored>;
    /// Replaces what is known to be there; `None`: somebody was faster.
    fn replace(&self, texts: Texts, known: String) -> Storing<'_, Option<Stored>>;
    /// For people.
    fn place(&self) -> String;
}

/// A file of mode 0600, JSON, in a folder that nobody else may write to.
#[derive(Clone, Debug)]
pub struct FileStore {
    path: PathBuf,
}

impl FileStore {
    /// A file in a folder, which is made if there is none.
    pub fn open(folder: &Path, name: &str) -> Result<Self, StoreError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|source| file_error("cannot create", folder, source))?;
        let found = fs::metadata(folder);
        let found = found.map_err(|source| file_error("cannot examine", folder, source))?;
        require_private(folder, &found, 0o022)?;
        Ok(Self { path: folder.join(name) })
    }

    fn read(&self) -> Result<Option<Stored>, StoreError> {
        let path = &self.path;
        let no_follow = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC;
        let file = match OpenOptions::new().read(true).custom_flags(no_follow).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(file_error("cannot open", path, error)),
        };
        // Of the open file, not of the path: what is checked is what is read.
        let found = file.metadata().map_err(|error| file_error("cannot examine", path, error))?;
        require_private(path, &found, 0o077)?;
        if !found.is_file() || found.len() > CONTENT_BYTES_MAX {
            return Err(self.content("not a plain small file".to_owned()));
        }
        let mut content = Vec::new();
        file.take(CONTENT_BYTES_MAX)
            .read_to_end(&mut content)
            .map_err(|error| file_error("cannot read", path, error))?;
        let texts = serde_json::from_slice(&content);
        let texts = texts.map_err(|error| self.content(error.to_string()))?;
        Ok(Some(Stored { texts, version: version(&content) }))
    }

    /// Writes a draft beside the file and puts it in place.
    fn write(
        &self,
        texts: &Texts,
        put: impl FnOnce(&Path, &Path) -> io::Result<()>,
    ) -> Result<(), StoreError> {
        let content =
            serde_json::to_vec_pretty(texts).map_err(|error| self.content(error.to_string()))?;
        let unique: u64 = rand::random();
        let draft = self.path.with_extension(format!("{}.{unique:016x}", std::process::id()));
        let write = || -> io::Result<()> {
            let mut file: File =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
            file.write_all(&content)?;
            file.sync_all()?;
            put(&draft, &self.path)
        };
        let written = write();
        // A draft that cannot be removed is harmless: nothing reads it. One in place is gone.
        let _ = fs::remove_file(&draft);
        written.map_err(|source| file_error("cannot write", &self.path, source))
    }

    fn make(&self, texts: &Texts) -> Result<Stored, StoreError> {
        self.write(texts, |draft, path| match fs::hard_link(draft, path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            Ok(()) | Err(_) => Ok(()),
        })?;
        // Ours, or that of whoever was faster.
        self.read()?.ok_or_else(|| self.content("it was removed meanwhile".to_owned()))
    }

    fn change(&self, texts: &Texts, known: &str) -> Result<Option<Stored>, StoreError> {
        // Of its own, and kept: the file itself is replaced.
        let lock_path = self.path.with_extension("lock");
        let lock = OpenOptions::new().create(true).append(true).mode(0o600).open(&lock_path);
        let lock = lock.map_err(|source| file_error("cannot open", &lock_path, source))?;
        lock.lock().map_err(|source| file_error("cannot lock", &lock_path, source))?;
        if self.read()?.is_none_or(|stored| stored.version != known) {
            return Ok(None);
        }
        self.write(texts, |draft, path| fs::rename(draft, path))?;
        self.read()
    }

    fn content(&self, problem: String) -> StoreError {
        StoreError::Content { place: self.path.display().to_string(), problem }
    }
}

// Small files, read and written rarely: not worth a thread.
impl SecretStore for FileStore {
    fn get(&self) -> Storing<'_, Option<Stored>> {
        Box::pin(async move { self.read() })
    }

    fn create(&self, texts: Texts) -> Storing<'_, Stored> {
        Box::pin(async move { self.make(&texts) })
    }

    fn replace(&self, texts: Texts, known: String) -> Storing<'_, Option<Stored>> {
        Box::pin(async move { self.change(&texts, &known) })
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }
}

fn version(content: &[u8]) -> String {
    authority::sha256(content).iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

fn require_private(path: &Path, found: &fs::Metadata, forbidden: u32) -> Result<(), StoreError> {
    let (owner, mode) = (found.uid(), found.mode() & 0o7777);
    if owner != nix::unistd::geteuid().as_raw() || mode & forbidden != 0 {
        return Err(StoreError::Exposed { path: path.to_owned(), owner, mode });
    }
    Ok(())
}

fn file_error(operation: &'static str, path: &Path, source: io::Error) -> StoreError {
    StoreError::File { operation, path: path.to_owned(), source }
}
