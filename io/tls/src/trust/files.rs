//! What operators give in files: revocation lists, and bundles of other trust domains.
//!
//! Files are looked at, not watched: editors and config-map mounts replace them in many ways. What
//! cannot be used leaves the last good content in force, and a word for `warren status`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use model::{TrustDomain, causes};

use crate::bundle::{BundleError, TrustBundle};
use crate::revocation::{CRL_FILE_MAX, CrlError};

/// Most trust domains in the folder of bundles; those after, by name, are not trusted.
pub const FEDERATED_MAX: usize = 256;
/// Largest bundle file, in bytes. A larger one is refused.
pub const BUNDLE_FILE_MAX: usize = 256 * 1024;

/// What identifies one version of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
    inode: u64,
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    let found = std::fs::metadata(path)?;
    if !found.is_file() {
        // A pipe would be waited for.
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a plain file"));
    }
    Ok(Stamp { modified: found.modified().ok(), bytes: found.len(), inode: found.ino() })
}

/// Reads a file of at most `limit` bytes; `None`: it is larger.
pub(super) fn read(path: &Path, limit: usize) -> io::Result<Option<Vec<u8>>> {
    let mut content = Vec::new();
    let bound = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    // The bound holds for what is read: the file may grow meanwhile.
    File::open(path)?.take(bound).read_to_end(&mut content)?;
    Ok((content.len() <= limit).then_some(content))
}

/// What was found when a file was last looked at.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Never,
    Nothing,
    Version(Stamp),
}

/// A file of revocation lists.
#[derive(Debug)]
pub(super) struct CrlFile {
    path: PathBuf,
    seen: Seen,
}

impl CrlFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, seen: Seen::Never }
    }

    /// The file's content, if it is another than before; `None`: as before.
    pub(super) fn look(&mut self) -> Option<Result<Vec<u8>, CrlError>> {
        let stamp = stamp(&self.path);
        let now = stamp.as_ref().map_or(Seen::Nothing, |stamp| Seen::Version(stamp.clone()));
        if self.seen == now {
            return None;
        }
        let is_there = stamp.is_ok();
        self.seen = now;
        Some(match stamp.and_then(|_| read(&self.path, CRL_FILE_MAX)) {
            Ok(Some(content)) => Ok(content),
            Ok(None) => Err(CrlError::TooLarge),
            Err(error) => {
                if is_there {
                    // The node may have been short of descriptors: this version was not read yet.
                    self.seen = Seen::Never;
                }
                Err(CrlError::Read(error))
            }
        })
    }
}

/// Why a file of the folder is not in force.
#[derive(Debug, thiserror::Error)]
enum FileProblem {
    #[error("the name is not a trust domain")]
    Name(#[source] model::IdentityError),
    #[error("the name is not text")]
    NotText,
    #[error("reading it")]
    Read(#[source] io::Error),
    #[error("it is larger than {BUNDLE_FILE_MAX} bytes")]
    TooLarge,
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error("more than {FEDERATED_MAX} trust domains")]
    TooMany,
}

#[derive(Debug)]
struct Entry {
    seen: Option<Stamp>,
    bundle: Option<TrustBundle>,
    problem: Option<String>,
    /// It was gone at the last look. Replacing a file may remove it first.
    is_gone: bool,
}

/// A folder of bundles, one PEM file for each trust domain, whose name is the file's.
#[derive(Debug)]
pub(super) struct BundleFolder {
    path: PathBuf,
    entries: BTreeMap<TrustDomain, Entry>,
    /// What is wrong beside the entries.
    problems: Vec<String>,
}

impl BundleFolder {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, entries: BTreeMap::new(), problems: Vec::new() }
    }

    /// Reads what has changed.
    pub(super) fn look(&mut self) {
        self.problems.clear();
        let names = match self.names() {
            Ok(names) => names,
            Err(error) => {
                // A folder that cannot be listed says nothing about who is trusted.
                self.problems.push(format!("{}: {error}", self.path.display()));
                return;
            }
        };
        self.entries.retain(|domain, entry| {
            let is_here = names.contains_key(domain);
            let stays = is_here || !entry.is_gone;
            entry.is_gone = !is_here;
            stays
        });
        for (domain, path) in names {
            let entry = self.entries.entry(domain.clone()).or_insert(Entry {
                seen: None,
                bundle: None,
                problem: None,
                is_gone: false,
            });
            entry.look(&domain, &path);
        }
    }

    /// The bundles in force.
    pub(super) fn bundles(&self) -> impl Iterator<Item = &TrustBundle> {
        self.entries.values().filter_map(|entry| entry.bundle.as_ref())
    }

    /// What an operator has to mend.
    pub(super) fn problems(&self) -> impl Iterator<Item = &str> {
        let of_files = self.entries.values().filter_map(|entry| entry.problem.as_deref());
        self.problems.iter().map(String::as_str).chain(of_files)
    }

    fn names(&mut self) -> io::Result<BTreeMap<TrustDomain, PathBuf>> {
        let mut names = BTreeMap::new();
        for file in std::fs::read_dir(&self.path)? {
            let path = file?.path();
            let name = path.file_name().unwrap_or_default();
            // Config-map mounts keep their versions in hidden folders.
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let parsed = name
                .to_str()
                .ok_or(FileProblem::NotText)
                .and_then(|name| TrustDomain::parse(name).map_err(FileProblem::Name));
            match parsed {
                Ok(domain) => {
                    names.insert(domain, path);
                }
                Err(problem) => self.problems.push(describe(&path, &problem)),
            }
        }
        while names.len() > FEDERATED_MAX {
            if let Some((_, path)) = names.pop_last() {
                self.problems.push(describe(&path, &FileProblem::TooMany));
            }
        }
        Ok(names)
    }
}

impl Entry {
    fn look(&mut self, domain: &TrustDomain, path: &Path) {
        let stamp = stamp(path);
        let now = stamp.as_ref().ok().cloned();
        if self.seen.is_some() && self.seen == now {
            return;
        }
        self.seen = now;
        match stamp.map_err(FileProblem::Read).and_then(|_| bundle(domain, path)) {
            Ok(bundle) => {
                tracing::info!(%domain, roots = bundle.certificates().len(), "bundle of a trust domain applied");
                self.bundle = Some(bundle);
                self.problem = None;
            }
            Err(problem) => {
                if matches!(problem, FileProblem::Read(_)) {
                    // Not read yet: looked at again.
                    self.seen = None;
                }
                let text = describe(path, &problem);
                if self.problem.as_ref() != Some(&text) {
                    tracing::error!(error = %text, "bundle of a trust domain not applied");
                }
                self.problem = Some(text);
            }
        }
    }
}

fn bundle(domain: &TrustDomain, path: &Path) -> Result<TrustBundle, FileProblem> {
    let content = read(path, BUNDLE_FILE_MAX).map_err(FileProblem::Read)?;
    let content = content.ok_or(FileProblem::TooLarge)?;
    Ok(TrustBundle::from_pem(domain.clone(), &content)?)
}

fn describe(path: &Path, problem: &FileProblem) -> String {
    format!("{}: {}", path.display(), causes(problem))
}
