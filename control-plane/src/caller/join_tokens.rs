//! Join tokens: what an operator gives to a node where there is no API server to ask.
//!
//! A bearer that may be used again until it ends, bound to one node's name, so that an unmodified
//! agent can send it. The file keeps only hashes: who reads it cannot join. It is looked at again
//! when it changes; one that cannot be read leaves the last good one in force, and one that is
//! removed ends every token.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::jiff::Timestamp;
use model::{SpiffeId, causes};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    Account, Authenticate, Authenticating, Caller, ClusterNames, Credentials, Proof, Refusal,
    RefusalCode, Roles,
};

/// How such tokens begin: no other kind is tried for them.
pub const JOIN_TOKEN_PREFIX: &str = "wjt_";
/// The file's name within the control plane's folder.
pub const JOIN_TOKENS_FILE: &str = "join-tokens";
/// Most tokens of a file. More are refused when made, and a file with more is not read.
pub const JOIN_TOKENS_MAX: usize = 10_000;
/// Largest file read, in bytes: [`JOIN_TOKENS_MAX`] tokens of some 300 bytes.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// How long a look at the file counts.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Longest name of a node (a DNS subdomain).
const NODE_MAX: usize = 253;
/// How long a token lives at most.
pub const JOIN_TOKEN_LIFE_MAX: Duration = Duration::from_hours(24 * 366);

/// Why tokens cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum JoinTokenError {
    /// The file.
    #[error("{operation} {}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Others could give themselves tokens.
    #[error("{} may be changed by others (owner {owner}, mode {mode:o}): not used", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// User id of its owner.
        owner: u32,
        /// Permission bits.
        mode: u32,
    },
    /// It is not what it should be.
    #[error("{} is not usable: {problem}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// No node can have that name.
    #[error("{0:?} is not the name of a node")]
    Node(String),
    /// Longer than [`JOIN_TOKEN_LIFE_MAX`].
    #[error("a token lives for a year at most")]
    Life,
    /// [`JOIN_TOKENS_MAX`].
    #[error("there are {JOIN_TOKENS_MAX} tokens already: revoke some")]
    Full,
    /// No token could be made.
    #[error(transparent)]
    Random(#[from] authority::RandomError),
}

/// A token as the file has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinToken {
    /// By which it is revoked; the beginning of its hash.
    pub id: String,
    /// SHA-256 of the token, hexadecimal.
    pub hash: String,
    /// The one node that it is for.
    pub node: String,
    /// The account that its holder is.
    #[serde(default = "default_account")]
    pub account: String,
    /// Until when, RFC 3339.
    pub expires: Timestamp,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    tokens: Vec<JoinToken>,
}

fn default_account() -> String {
    "istio-system/ztunnel".to_owned()
}

/// A file of tokens, as a command changes it.
#[derive(Clone, Debug)]
pub struct JoinTokenFile {
    path: PathBuf,
}

impl JoinTokenFile {
    /// The file in a folder. It need not be there yet.
    #[must_use]
    pub fn in_folder(folder: &Path) -> Self {
        Self { path: folder.join(JOIN_TOKENS_FILE) }
    }

    /// Makes a token for a node and returns it: it is not kept, and cannot be shown again.
    pub fn create(
        &self,
        node: &str,
        account: &Account,
        life: Duration,
        now: SystemTime,
    ) -> Result<String, JoinTokenError> {
        let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        if node.is_empty() || node.len() > NODE_MAX || !node.bytes().all(is_name) {
            return Err(JoinTokenError::Node(node.to_owned()));
        }
        let ends = now.checked_add(life).filter(|_| life <= JOIN_TOKEN_LIFE_MAX);
        let expires = ends.and_then(|ends| Timestamp::try_from(ends).ok());
        let expires = expires.ok_or(JoinTokenError::Life)?;
        let secret: [u8; 32] = authority::random()?;
        let token = format!("{JOIN_TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(secret));
        let hash = hex(&authority::sha256(token.as_bytes()));
        let entry = JoinToken {
            id: hash[..12].to_owned(),
            hash,
            node: node.to_owned(),
            account: format!("{}/{}", account.namespace, account.name),
            expires,
        };
        self.change(|tokens| {
            // Nobody needs those that have ended.
            tokens.retain(|token| SystemTime::from(token.expires) > now);
            if tokens.len() >= JOIN_TOKENS_MAX {
                return Err(JoinTokenError::Full);
            }
            tokens.push(entry);
            Ok(())
        })?;
        Ok(token)
    }

    /// Ends a token, by its id or by itself. Whether there was one.
    pub fn revoke(&self, id_or_token: &str) -> Result<bool, JoinTokenError> {
        let hash = hex(&authority::sha256(id_or_token.as_bytes()));
        let mut found = false;
        self.change(|tokens| {
            let before = tokens.len();
            tokens.retain(|token| token.id != id_or_token && token.hash != hash);
            found = tokens.len() < before;
            Ok(())
        })?;
        Ok(found)
    }

    /// Every token, without what it is.
    pub fn list(&self) -> Result<Vec<JoinToken>, JoinTokenError> {
        Ok(self.read()?.unwrap_or_default().tokens)
    }

    fn change(
        &self,
        change: impl FnOnce(&mut Vec<JoinToken>) -> Result<(), JoinTokenError>,
    ) -> Result<(), JoinTokenError> {
        // Of its own, and kept: the file itself is replaced.
        let lock_path = self.path.with_extension("lock");
        let lock = OpenOptions::new().create(true).append(true).mode(0o600).open(&lock_path);
        let lock = lock.map_err(|source| file_error("cannot open", &lock_path, source))?;
        lock.lock().map_err(|source| file_error("cannot lock", &lock_path, source))?;
        let mut document = self.read()?.unwrap_or_default();
        change(&mut document.tokens)?;
        let text = serde_json::to_vec_pretty(&document)
            .map_err(|error| content_error(&self.path, error.to_string()))?;
        let draft = self.path.with_extension("next");
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&draft)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&draft, &self.path)
        };
        write().map_err(|source| file_error("cannot write", &self.path, source))
    }

    fn read(&self) -> Result<Option<Document>, JoinTokenError> {
        let path = &self.path;
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(file_error("cannot open", path, error)),
        };
        // Of the open file, not of the path: what is checked is what is read.
        let found = file.metadata().map_err(|error| file_error("cannot examine", path, error))?;
        let (owner, mode) = (found.uid(), found.mode() & 0o7777);
        if mode & 0o022 != 0 || (owner != 0 && owner != nix::unistd::geteuid().as_raw()) {
            return Err(JoinTokenError::Exposed { path: path.clone(), owner, mode });
        }
        if !found.is_file() || found.len() > FILE_BYTES_MAX {
            return Err(content_error(path, "not a plain file of reasonable size".to_owned()));
        }
        let mut text = Vec::new();
        file.take(FILE_BYTES_MAX)
            .read_to_end(&mut text)
            .map_err(|error| file_error("cannot read", path, error))?;
        let document: Document = serde_json::from_slice(&text)
            .map_err(|error| content_error(path, error.to_string()))?;
        if document.tokens.len() > JOIN_TOKENS_MAX {
            return Err(content_error(path, format!("more than {JOIN_TOKENS_MAX} tokens")));
        }
        Ok(Some(document))
    }

    fn stamp(&self) -> Option<(SystemTime, u64, u64)> {
        let found = fs::metadata(&self.path).ok()?;
        Some((found.modified().unwrap_or(UNIX_EPOCH), found.len(), found.ino()))
    }
}

/// A token, ready to be compared.
#[derive(Clone, Debug)]
struct Known {
    hash: [u8; 32],
    node: Arc<str>,
    identity: SpiffeId,
    expires: SystemTime,
}

#[derive(Debug, Default)]
struct Looked {
    at: Option<Instant>,
    stamp: Option<(SystemTime, u64, u64)>,
    tokens: Arc<[Known]>,
    problem: Option<String>,
}

/// Authenticates by join tokens.
#[derive(Debug)]
pub struct JoinTokenCallers {
    file: JoinTokenFile,
    clusters: ClusterNames,
    roles: Roles,
    looked: Mutex<Looked>,
}

impl JoinTokenCallers {
    /// By the tokens of a file, now and later.
    #[must_use]
    pub fn new(file: JoinTokenFile, clusters: ClusterNames, roles: Roles) -> Self {
        Self { file, clusters, roles, looked: Mutex::default() }
    }

    /// What an operator has to mend about the file.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.tokens();
        self.looked.lock().problem.clone()
    }

    fn caller(&self, credentials: &Credentials, now: SystemTime) -> Result<Caller, Refusal> {
        let token = credentials.token.as_deref();
        let token = token.filter(|token| token.starts_with(JOIN_TOKEN_PREFIX));
        let token =
            token.ok_or_else(|| Refusal::new(RefusalCode::NoCredentials, "no join token"))?;
        self.clusters.require(credentials.cluster.as_deref())?;
        let hash = authority::sha256(token.as_bytes());
        // All of them, in the same time whichever it is.
        let mut found = None;
        for known in self.tokens().iter() {
            if authority::equal(&known.hash, &hash) {
                found = Some(known.clone());
            }
        }
        let unknown = || Refusal::new(RefusalCode::JoinTokenUnknown, "an unknown join token");
        let known = found.ok_or_else(unknown)?;
        if known.expires <= now {
            let why = format!("the join token of node {} has expired", known.node);
            return Err(Refusal::new(RefusalCode::JoinTokenExpired, why));
        }
        let role = self.roles.of(&known.identity, None);
        let node = Some(known.node);
        Ok(Caller { identity: known.identity, node, pod: None, proof: Proof::JoinToken, role })
    }

    fn tokens(&self) -> Arc<[Known]> {
        let mut looked = self.looked.lock();
        let now = Instant::now();
        if looked.at.is_some_and(|at| now.duration_since(at) < LOOK_INTERVAL) {
            return looked.tokens.clone();
        }
        let stamp = self.file.stamp();
        let is_same = looked.at.is_some() && looked.stamp == stamp && looked.problem.is_none();
        looked.at = Some(now);
        if is_same {
            return looked.tokens.clone();
        }
        looked.stamp = stamp;
        let read = self.file.read().and_then(|document| self.known(document.unwrap_or_default()));
        match read {
            Ok(tokens) => {
                looked.tokens = tokens;
                looked.problem = None;
            }
            Err(error) => {
                let problem = causes(&error);
                if looked.problem.as_ref() != Some(&problem) {
                    tracing::error!(error = %problem, "join tokens not applied");
                }
                looked.problem = Some(problem);
            }
        }
        looked.tokens.clone()
    }

    fn known(&self, document: Document) -> Result<Arc<[Known]>, JoinTokenError> {
        let wrong = |token: &JoinToken, what: &str| {
            content_error(&self.file.path, format!("{what} of token {:?}", token.id))
        };
        let known = document.tokens.into_iter().map(|token| {
            let account: Account =
                token.account.parse().map_err(|_| wrong(&token, "the account"))?;
            let domain = &self.roles.trust_domain;
            let identity = SpiffeId::new(domain, &account.namespace, &account.name)
                .map_err(|_| wrong(&token, "the account"))?;
            let hash = unhex(&token.hash).ok_or_else(|| wrong(&token, "the hash"))?;
            if token.node.is_empty() {
                return Err(wrong(&token, "the node"));
            }
            let node = Arc::from(token.node.as_str());
            Ok(Known { hash, node, identity, expires: token.expires.into() })
        });
        known.collect()
    }
}

impl Authenticate for JoinTokenCallers {
    fn authenticate<'a>(&'a self, credentials: &'a Credentials) -> Authenticating<'a> {
        Box::pin(async move { self.caller(credentials, SystemTime::now()) })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(at * 2..at * 2 + 2)?, 16).ok()?;
    }
    Some(bytes)
}

fn file_error(operation: &'static str, path: &Path, source: io::Error) -> JoinTokenError {
    JoinTokenError::File { operation, path: path.to_owned(), source }
}

fn content_error(path: &Path, problem: String) -> JoinTokenError {
    JoinTokenError::Content { path: path.to_owned(), problem }
}

#[cfg(test)]
mod tests;
