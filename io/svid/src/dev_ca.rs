//! The embedded development authority: for demos, tests and trying Warren without a control plane.
//!
//! Its key lies in a folder; every node that sees the folder shares it, and with it the trust
//! domain. Agents may start at the same time: each prepares its own and links it into place, one
//! wins, the others use the winner's. The root is made from the key alone, so that an agent which
//! dies between the two files leaves nothing that the next one could not complete.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use authority::{BACKDATE, LeafTemplate, Names, Validity};
use model::{SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
    PublicKeyData,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use time::OffsetDateTime;
use tls::TrustBundle;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::csr::{new_key, pkcs8, uri};
use crate::issuer::{IssueError, Issued, Issuer, Issuing};

/// The authority's key, PKCS #8 in PEM, mode 0600.
pub const KEY_FILE: &str = "ca.key";
/// The authority's root certificate, PEM.
pub const CERTIFICATE_FILE: &str = "ca.crt";

/// Largest file read, in bytes. A longer one is refused.
const FILE_MAX: u64 = 64 * 1024;
/// How long the root is valid.
const ROOT_LIFE: time::Duration = time::Duration::days(3650);

/// Why the authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DevCaError {
    /// A file or folder could not be read or written.
    #[error("{operation} {}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Others could read the key, or put another in its place.
    #[error("{} is open to others (owner {owner}, mode {mode:o}): not used", path.display())]
    Exposed {
        /// The key or its folder.
        path: PathBuf,
        /// User id of its owner.
        owner: u32,
        /// Permission bits.
        mode: u32,
    },
    /// The file's content is not what it should be.
    #[error("{} is not usable: {problem}", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Making a key or a certificate failed.
    #[error("making {what} failed")]
    Make {
        /// What was to be made.
        what: &'static str,
        /// Why not.
        source: rcgen::Error,
    },
    /// The roots are not usable.
    #[error("the development root is not usable")]
    Bundle(#[from] tls::BundleError),
    /// The identity is in another trust domain.
    #[error("{0} is not in the development authority's trust domain")]
    TrustDomain(SpiffeId),
}

/// The authority, opened.
pub struct DevCa {
    issuer: rcgen::Issuer<'static, KeyPair>,
    bundle: TrustBundle,
    root_not_after: SystemTime,
}

impl DevCa {
    /// Opens the authority in a folder, and makes folder and authority if there are none. Refuses
    /// a key or folder that others could read or change, and a root of another trust domain.
    pub fn open(dir: &Path, trust_domain: &TrustDomain) -> Result<Self, DevCaError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|source| file_error("cannot create", dir, source))?;
        let folder = fs::metadata(dir).map_err(|e| file_error("cannot examine", dir, e))?;
        require_private(dir, &folder, 0o022)?;

        let key = open_key(&dir.join(KEY_FILE))?;
        let params = root_params(trust_domain)?;
        let root = open_root(&dir.join(CERTIFICATE_FILE), &key, &params, trust_domain)?;
        let root_not_after = root_not_after(&dir.join(CERTIFICATE_FILE), &root)?;
        let bundle = TrustBundle::new(trust_domain.clone(), [root])?;
        Ok(Self { issuer: rcgen::Issuer::new(params, key), bundle, root_not_after })
    }

    /// Issues a certificate with a fresh key, valid for `ttl` or until the root expires.
    pub fn issue(&self, identity: &SpiffeId, ttl: Duration) -> Result<Issued, DevCaError> {
        if identity.trust_domain() != self.bundle.trust_domain().as_str() {
            return Err(DevCaError::TrustDomain(identity.clone()));
        }
        let made = |source| DevCaError::Make { what: "a certificate", source };
        let key = new_key().map_err(made)?;
        let now = SystemTime::now();
        let not_after = now
            .checked_add(ttl)
            .map_or(self.root_not_after, |until| self.root_not_after.min(until));
        let names = Names::of(identity.clone());
        let validity = Validity { not_before: now - BACKDATE, not_after };
        let leaf = LeafTemplate { names: &names, validity }.sign(&key, &self.issuer);
        let chain = vec![leaf.map_err(made)?];
        Ok(Issued { chain, key: pkcs8(&key), bundle: self.bundle.clone() })
    }

    /// The root, as peers hold it.
    #[must_use]
    pub fn bundle(&self) -> &TrustBundle {
        &self.bundle
    }
}

impl Issuer for DevCa {
    fn issue<'a>(&'a self, identity: &'a SpiffeId, ttl: Duration) -> Issuing<'a> {
        let issued = Self::issue(self, identity, ttl).map_err(|e| IssueError::new(identity, e));
        Box::pin(async move { issued })
    }
}

fn open_key(path: &Path) -> Result<KeyPair, DevCaError> {
    let made = |source| DevCaError::Make { what: "the development key", source };
    let pem = if let Some(pem) = read(path, Some(0o077))? {
        pem
    } else {
        let pem = new_key().map_err(made)?.serialize_pem();
        publish(path, pem.as_bytes())?;
        // Ours, or that of whoever was faster.
        read(path, Some(0o077))?.ok_or_else(|| vanished(path))?
    };
    KeyPair::from_pem(&pem).map_err(|e| content_error(path, format!("not a private key: {e}")))
}

fn open_root(
    path: &Path,
    key: &KeyPair,
    params: &CertificateParams,
    trust_domain: &TrustDomain,
) -> Result<CertificateDer<'static>, DevCaError> {
    let made = |source| DevCaError::Make { what: "the development root", source };
    let pem = if let Some(pem) = read(path, None)? {
        pem
    } else {
        publish(path, params.self_signed(key).map_err(made)?.pem().as_bytes())?;
        read(path, None)?.ok_or_else(|| vanished(path))?
    };
    let root = CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|e| content_error(path, format!("not a certificate: {e}")))?;
    let parsed = parse(path, &root)?;
    if parsed.public_key().raw != key.subject_public_key_info() {
        return Err(content_error(path, format!("it is not the certificate of {KEY_FILE}")));
    }
    let names = parsed.subject_alternative_name().ok().flatten();
    let want = format!("spiffe://{trust_domain}");
    let fits = names.is_some_and(|n| n.value.general_names == [GeneralName::URI(&want)]);
    if !fits {
        return Err(content_error(path, format!("it is not a root of {want}")));
    }
    Ok(root)
}

fn root_params(trust_domain: &TrustDomain) -> Result<CertificateParams, DevCaError> {
    let made = |source| DevCaError::Make { what: "the development root", source };
    let now = OffsetDateTime::from(SystemTime::now());
    let mut params = CertificateParams::default();
    params.not_before = now - BACKDATE;
    params.not_after = now + ROOT_LIFE;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, trust_domain.as_str());
    params.distinguished_name.push(DnType::CommonName, "Warren development CA");
    params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}")).map_err(made)?];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn root_not_after(path: &Path, root: &CertificateDer<'_>) -> Result<SystemTime, DevCaError> {
    let not_after = parse(path, root)?.validity().not_after.to_datetime();
    if not_after <= OffsetDateTime::from(SystemTime::now()) {
        return Err(content_error(path, "it has expired; remove the folder".to_owned()));
    }
    Ok(not_after.into())
}

fn parse<'a>(path: &Path, root: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, DevCaError> {
    match X509Certificate::from_der(root) {
        Ok(([], parsed)) => Ok(parsed),
        Ok(_) | Err(_) => Err(content_error(path, "not a certificate".to_owned())),
    }
}

/// Reads a whole file that is not a link; `None` if there is none. `forbidden`: permission bits
/// that a private file may not have.
fn read(path: &Path, forbidden: Option<u32>) -> Result<Option<String>, DevCaError> {
    let no_follow = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC;
    let file = match OpenOptions::new().read(true).custom_flags(no_follow).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(file_error("cannot open", path, error)),
    };
    // Of the open file, not of the path: what is checked is what is read.
    let metadata = file.metadata().map_err(|e| file_error("cannot examine", path, e))?;
    if !metadata.is_file() || metadata.len() > FILE_MAX {
        return Err(content_error(path, "not a plain small file".to_owned()));
    }
    if let Some(forbidden) = forbidden {
        require_private(path, &metadata, forbidden)?;
    }
    let mut text = String::new();
    file.take(FILE_MAX)
        .read_to_string(&mut text)
        .map_err(|e| file_error("cannot read", path, e))?;
    Ok(Some(text))
}

/// Puts a complete file in place unless there is one already.
fn publish(path: &Path, content: &[u8]) -> Result<(), DevCaError> {
    let unique: u64 = rand::random();
    let draft = path.with_extension(format!("{}.{unique:016x}", std::process::id()));
    let write = || -> io::Result<()> {
        let mut file: File =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(content)?;
        file.sync_all()?;
        match fs::hard_link(&draft, path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    };
    let written = write();
    // A draft that cannot be removed is harmless: nothing reads it.
    let _ = fs::remove_file(&draft);
    written.map_err(|e| file_error("cannot write", path, e))
}

fn require_private(path: &Path, metadata: &fs::Metadata, forbidden: u32) -> Result<(), DevCaError> {
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    if owner != nix::unistd::geteuid().as_raw() || mode & forbidden != 0 {
        return Err(DevCaError::Exposed { path: path.to_owned(), owner, mode });
    }
    Ok(())
}

fn file_error(operation: &'static str, path: &Path, source: io::Error) -> DevCaError {
    DevCaError::File { operation, path: path.to_owned(), source }
}

fn content_error(path: &Path, problem: String) -> DevCaError {
    DevCaError::Content { path: path.to_owned(), problem }
}

fn vanished(path: &Path) -> DevCaError {
    content_error(path, "it was removed while the agent started".to_owned())
}

#[cfg(test)]
mod tests;
