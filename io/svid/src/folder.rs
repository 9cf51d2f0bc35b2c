//! Keys and certificates for the next agent, in memory that looks like a folder.
//!
//! An agent that restarts must not depend on the authority being there. So a key is written, and
//! then only where it never reaches a disk: on tmpfs, which the file system itself confirms. A file
//! is one identity's: there is nothing to keep in step. Whatever is not as it was written is
//! ignored and removed.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use model::{SpiffeId, TrustDomain};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tls::{BundleError, TrustBundle};

use crate::issuer::Issued;

/// First line of a file; another one is another version's.
const VERSION: &str = "warren-svid 1";
/// Largest file read, in bytes: chain and roots at their bounds, in hexadecimal. A longer one is
/// removed.
const FILE_MAX: u64 = 1 << 20;
/// Most files looked at; further ones stay until they are asked for by name.
const FILES_MAX: usize = 2 * crate::IDENTITIES_MAX;
/// Ending of a file that is complete.
const ENDING: &str = "svid";

/// Why keys are not kept.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The folder could not be made or examined.
    #[error("{operation} {}", path.display())]
    Access {
        /// What was tried.
        operation: &'static str,
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is on a disk, or on something that may be one.
    #[error("{} is not on tmpfs: keys are not written there", .0.display())]
    NotTmpfs(PathBuf),
    /// Others could read it.
    #[error("{} is open to others (owner {owner}, mode {mode:o}): not used", path.display())]
    Exposed {
        /// The folder.
        path: PathBuf,
        /// User id of its owner.
        owner: u32,
        /// Permission bits.
        mode: u32,
    },
}

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("reading it")]
    Read(#[source] io::Error),
    #[error("it is open to others")]
    Exposed,
    #[error("it is larger than {FILE_MAX} bytes")]
    TooLarge,
    #[error("it is not what an agent writes")]
    Form,
    #[error("it is another identity's")]
    Identity,
    #[error("its roots")]
    Roots(#[from] BundleError),
}

/// A certificate of an earlier agent. Not checked yet.
pub(crate) struct Kept {
    pub(crate) issued: Issued,
    /// When it was issued.
    pub(crate) at: SystemTime,
}

/// The folder, mode 0700, on tmpfs.
#[derive(Debug)]
pub struct SvidFolder {
    path: PathBuf,
}

impl SvidFolder {
    /// Opens the folder, and makes it if there is none. Refused unless the file system under it is
    /// tmpfs and the folder is ours alone.
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        let failed = |operation| {
            move |source| FolderError::Access { operation, path: path.to_owned(), source }
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(failed("cannot create"))?;
        let found = fs::symlink_metadata(path).map_err(failed("cannot examine"))?;
        // A link would be examined here and another folder used later.
        if !found.is_dir() || !is_ours_alone(&found) {
            let (owner, mode) = (found.uid(), found.mode() & 0o7777);
            return Err(FolderError::Exposed { path: path.to_owned(), owner, mode });
        }
        let system = statfs(path).map_err(|e| failed("cannot examine")(e.into()))?;
        if system.filesystem_type() != TMPFS_MAGIC {
            return Err(FolderError::NotTmpfs(path.to_owned()));
        }
        Ok(Self { path: path.to_owned() })
    }

    /// Writes one identity's key and certificates in place of earlier ones.
    pub(crate) fn keep(&self, id: &SpiffeId, issued: &Issued, at: SystemTime) -> io::Result<()> {
        let text = write(id, issued, at);
        let draft = self.file(id).with_extension("draft");
        remove(&draft)?;
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(text.as_bytes())?;
        fs::rename(&draft, self.file(id))
    }

    /// What was kept for an identity. A file that cannot be used is removed.
    pub(crate) fn load(&self, id: &SpiffeId) -> Option<Kept> {
        let path = self.file(id);
        let kept = match open(&path).and_then(|text| text.as_deref().map(parse).transpose()) {
            Ok(None) => return None,
            Ok(Some((of, kept))) if of == *id => Ok(kept),
            Ok(Some(_)) => Err(Unusable::Identity),
            Err(error) => Err(error),
        };
        kept.inspect_err(|error| {
            let error = model::causes(error);
            tracing::warn!(identity = %id, %error, "a kept certificate is not used");
            self.forget(id);
        })
        .ok()
    }

    /// Removes what was kept for an identity.
    pub(crate) fn forget(&self, id: &SpiffeId) {
        if let Err(error) = remove(&self.file(id)) {
            tracing::error!(identity = %id, %error, "a key was not removed");
        }
    }

    /// Removes every file that is unusable or whose identity is not `wanted`.
    pub(crate) fn sweep(&self, wanted: impl Fn(SpiffeId, Kept) -> bool) {
        let files = match fs::read_dir(&self.path) {
            Ok(files) => files,
            Err(error) => {
                let path = self.path.display();
                return tracing::error!(%path, %error, "kept keys cannot be listed");
            }
        };
        for file in files.filter_map(Result::ok).take(FILES_MAX) {
            let path = file.path();
            let is_wanted = path.extension().is_some_and(|ending| ending == ENDING)
                && match open(&path).and_then(|text| text.as_deref().map(parse).transpose()) {
                    Ok(Some((id, kept))) => self.file(&id) == path && wanted(id, kept),
                    Ok(None) | Err(_) => false,
                };
            if !is_wanted && let Err(error) = remove(&path) {
                tracing::error!(path = %path.display(), %error, "a key was not removed");
            }
        }
    }

    /// SPIFFE IDs are longer than names of files may be.
    fn file(&self, id: &SpiffeId) -> PathBuf {
        let hash = digest(&SHA256, id.as_str().as_bytes());
        self.path.join(format!("{}.{ENDING}", hex(hash.as_ref())))
    }
}

fn is_ours_alone(found: &fs::Metadata) -> bool {
    const OF_OTHERS: u32 = 0o077;
    found.uid() == nix::unistd::geteuid().as_raw() && found.mode() & OF_OTHERS == 0
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn open(path: &Path) -> Result<Option<String>, Unusable> {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC;
    let file = match fs::OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Unusable::Read(error)),
    };
    // Of the open file: what is checked is what is read.
    let found = file.metadata().map_err(Unusable::Read)?;
    if !found.is_file() || !is_ours_alone(&found) {
        return Err(Unusable::Exposed);
    }
    if found.len() > FILE_MAX {
        return Err(Unusable::TooLarge);
    }
    let mut text = String::new();
    file.take(FILE_MAX).read_to_string(&mut text).map_err(Unusable::Read)?;
    Ok(Some(text))
}

/// One line for each part; the last one says that none is missing.
fn write(id: &SpiffeId, issued: &Issued, at: SystemTime) -> String {
    let at = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut text = format!("{VERSION}\nidentity {id}\nissued {at}\n");
    // Writing to a string cannot fail.
    let _ = writeln!(text, "key {}", hex(issued.key.secret_der()));
    for certificate in &issued.chain {
        let _ = writeln!(text, "certificate {}", hex(certificate));
    }
    for root in issued.bundle.certificates() {
        let _ = writeln!(text, "root {}", hex(root));
    }
    text.push_str("end\n");
    text
}

fn parse(text: &str) -> Result<(SpiffeId, Kept), Unusable> {
    let mut lines = text.lines();
    let form = || Unusable::Form;
    if lines.next() != Some(VERSION) || !text.ends_with("\nend\n") {
        return Err(Unusable::Form);
    }
    let (mut id, mut at, mut key, mut chain, mut roots) = (None, None, None, vec![], vec![]);
    for line in lines {
        match line.split_once(' ') {
            Some(("identity", value)) => id = Some(SpiffeId::parse(value).map_err(|_| form())?),
            Some(("issued", value)) => {
                let seconds = Duration::from_secs(value.parse().map_err(|_| form())?);
                at = Some(UNIX_EPOCH.checked_add(seconds).ok_or_else(form)?);
            }
            Some(("key", value)) => key = Some(bytes(value).ok_or_else(form)?),
            Some(("certificate", value)) => chain.push(bytes(value).ok_or_else(form)?),
            Some(("root", value)) => roots.push(bytes(value).ok_or_else(form)?),
            None if line == "end" => {}
            Some(_) | None => return Err(Unusable::Form),
        }
    }
    let id = id.ok_or_else(form)?;
    let domain = TrustDomain::parse(id.trust_domain()).map_err(|_| form())?;
    let bundle = TrustBundle::new(domain, roots.into_iter().map(CertificateDer::from))?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.ok_or_else(form)?));
    let chain = chain.into_iter().map(CertificateDer::from).collect();
    let issued = Issued { chain, key, bundle };
    Ok((id, Kept { issued, at: at.ok_or_else(form)? }))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    let byte = |pair: &[u8]| {
        let is_pair = pair.len() == 2 && pair.iter().all(u8::is_ascii_hexdigit);
        let pair = std::str::from_utf8(pair).ok().filter(|_| is_pair)?;
        u8::from_str_radix(pair, 16).ok()
    };
    text.as_bytes().chunks(2).map(byte).collect()
}
