//! Where trust comes from: answers of our authority, files, and what an earlier agent had seen.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::{TrustDomain, causes};
use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;

use super::files::{BundleFolder, CrlFile, read};
use super::issued::IssuedRoots;
use super::{Aliases, Domain, Origin, Trust, TrustView};
use crate::TrustBundle;
use crate::bundle::{ROOTS_MAX, Root};
use crate::chain::{Issuer, hex};
use crate::provider::Compliance;
use crate::revocation::{CRL_FILE_MAX, CrlError, List, Lists, Revocations};

/// How often files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// Largest file of roots read back, in bytes: those of some dozen trust domains.
const KEPT_ROOTS_MAX: usize = 4 << 20;
/// Name of the file of revocation lists last in force, DER.
const KEPT_LISTS: &str = "revocations.der";
/// Name of the file of roots: a line for each, with trust domain, end of its time in seconds since
/// 1970, and DER in hexadecimal.
const KEPT_ROOTS: &str = "roots";

/// What trust is made of.
#[derive(Clone, Debug)]
pub struct TrustSettings {
    /// Our own trust domain.
    pub domain: TrustDomain,
    /// Other names of it.
    pub aliases: Vec<TrustDomain>,
    /// Which key exchanges are allowed.
    pub compliance: Compliance,
    /// File of revocation lists, PEM or DER. If it cannot be used and none is kept, nobody is
    /// accepted.
    pub crl: Option<PathBuf>,
    /// Folder of bundles, one PEM file for each trust domain.
    pub bundles: Option<PathBuf>,
    /// Folder where roots and lists in force are kept for the next agent. They are public; whoever
    /// can write there decides whom we trust.
    pub keep: Option<PathBuf>,
}

/// Revocation lists, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CrlStatus {
    /// None are configured.
    Off,
    /// None could be used: handshakes are refused.
    Unavailable {
        /// Why not.
        problem: String,
    },
    /// Some are in force.
    InForce {
        /// How many.
        lists: usize,
        /// Certificates revoked by them.
        entries: usize,
        /// Lists that should have been replaced by now. They stay in force.
        expired: usize,
        /// Why the file's present content is not in force, if it is not.
        problem: Option<String>,
    },
}

/// One trust domain, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainStatus {
    /// Its name.
    pub domain: TrustDomain,
    /// Where its roots are from.
    pub origin: Origin,
    /// How many it has.
    pub roots: usize,
}

/// The trust in force, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustStatus {
    /// Counts changes.
    pub generation: u64,
    /// Who is trusted.
    pub domains: Vec<DomainStatus>,
    /// Who is not trusted any more, though a certificate says otherwise.
    pub crl: CrlStatus,
    /// Files that an operator has to mend.
    pub problems: Vec<String>,
}

/// Gathers trust and publishes it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TrustStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: TrustSettings,
    /// Locked by [`TrustStore::look`] only, while it reads: a file may take long, and who asks for the
    /// trust or for its status is not to wait for it. Locked before `sources`.
    files: Mutex<Files>,
    sources: Mutex<Sources>,
    sender: watch::Sender<Arc<Trust>>,
}

#[derive(Debug)]
struct Files {
    folder: Option<BundleFolder>,
    crl: Option<CrlFile>,
}

#[derive(Debug, Default)]
struct Sources {
    issued: BTreeMap<TrustDomain, IssuedRoots>,
    /// Those of the folder.
    bundles: Vec<TrustBundle>,
    /// What is wrong in the folder.
    bundle_problems: Vec<String>,
    revocations: Revocations,
    /// Why the file's content is not in force.
    crl_problem: Option<String>,
    /// What was written last: the lists, and how many of them were known to be their issuers'.
    kept_lists: Option<(Arc<Lists>, usize)>,
    /// Roots came or went since they were written.
    has_new_roots: bool,
}

impl TrustStore {
    /// Reads the files. None of them stops the agent: what cannot be read is not trusted, and said
    /// in [`status`](Self::status).
    #[must_use]
    pub fn open(settings: TrustSettings) -> Self {
        let now = SystemTime::now();
        let files = Files {
            folder: settings.bundles.clone().map(BundleFolder::new),
            crl: settings.crl.clone().map(CrlFile::new),
        };
        let mut sources = Sources::default();
        if let Some(folder) = &settings.keep {
            sources.restore_roots(folder, now);
        }
        let aliases = Aliases {
            of: settings.domain.clone(),
            names: settings.aliases.iter().cloned().collect(),
        };
        let trust = Trust {
            generation: 0,
            domains: BTreeMap::new(),
            aliases,
            revocations: Revocations::Off,
            compliance: settings.compliance,
        };
        let sender = watch::channel(Arc::new(trust)).0;
        let (files, sources) = (Mutex::new(files), Mutex::new(sources));
        let store = Self(Arc::new(Inner { settings, files, sources, sender }));
        store.look();
        store
    }

    /// The trust in force, now and later.
    #[must_use]
    pub fn view(&self) -> TrustView {
        TrustView(self.0.sender.subscribe())
    }

    /// Our own trust domain.
    #[must_use]
    pub fn domain(&self) -> &TrustDomain {
        &self.0.settings.domain
    }

    /// Takes the roots of an answer of our authority; `lifetime` is that of the certificate in it.
    pub fn observe(&self, bundle: &TrustBundle, lifetime: Duration) {
        let now = SystemTime::now();
        self.change(bundle, now, |issued| issued.observe(bundle.roots(), lifetime, now));
    }

    /// Takes the roots that came with a certificate of an earlier agent, until it expires.
    pub fn restore(&self, bundle: &TrustBundle, until: SystemTime) {
        let now = SystemTime::now();
        self.change(bundle, now, |issued| {
            for root in bundle.roots() {
                issued.restore(root.clone(), until, now);
            }
        });
    }

    fn change(&self, bundle: &TrustBundle, now: SystemTime, change: impl FnOnce(&mut IssuedRoots)) {
        let mut sources = self.0.sources.lock();
        let issued = sources.issued.entry(bundle.trust_domain().clone()).or_default();
        let before: Vec<_> = issued.roots().cloned().collect();
        change(issued);
        let is_same = before.iter().eq(issued.roots());
        sources.has_new_roots |= !is_same;
        self.publish(&mut sources, now);
    }

    /// Follows the files, and forgets roots whose time is over. Runs until dropped.
    pub async fn watch(self) {
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let store = self.clone();
            if tokio::task::spawn_blocking(move || store.look()).await.is_err() {
                tracing::error!("looking at the files of trust panicked");
            }
        }
    }

    /// What is in force, and what is wrong.
    #[must_use]
    pub fn status(&self) -> TrustStatus {
        let now = SystemTime::now();
        let sources = self.0.sources.lock();
        let trust = self.0.sender.borrow().clone();
        let domains = trust.domains.iter().map(|(name, domain)| DomainStatus {
            domain: name.clone(),
            origin: domain.origin,
            roots: domain.bundle.roots().len(),
        });
        let problem = sources.crl_problem.clone();
        let crl = match &trust.revocations {
            Revocations::Off => CrlStatus::Off,
            Revocations::Unavailable => {
                CrlStatus::Unavailable { problem: problem.unwrap_or_default() }
            }
            Revocations::InForce(lists) => CrlStatus::InForce {
                lists: lists.len(),
                entries: lists.entries(),
                expired: lists.expired(now),
                problem,
            },
        };
        TrustStatus {
            generation: trust.generation,
            domains: domains.collect(),
            crl,
            problems: sources.bundle_problems.clone(),
        }
    }

    /// Reads the files that have changed, once. [`watch`](Self::watch) does so again and again.
    pub fn look(&self) {
        // Held to the end, so that what one look has read is not undone by an earlier one.
        let mut files = self.0.files.lock();
        if let Some(folder) = &mut files.folder {
            folder.look();
        }
        let content = files.crl.as_mut().and_then(CrlFile::look);
        let lists = content.map(|content| content.and_then(|content| Lists::read(&content)));
        let now = SystemTime::now();
        let mut sources = self.0.sources.lock();
        if let Some(folder) = &files.folder {
            sources.bundles = folder.bundles().cloned().collect();
            sources.bundle_problems = folder.problems().map(str::to_owned).collect();
        }
        if let Some(lists) = lists {
            sources.apply(lists, self.0.settings.keep.as_deref(), now);
        }
        self.publish(&mut sources, now);
    }

    /// Composes the trust and publishes it if it is another one.
    fn publish(&self, sources: &mut Sources, now: SystemTime) {
        let domains = sources.domains(now);
        if let Revocations::InForce(lists) = &sources.revocations
            && lists.is_forged(&issuers(&domains))
        {
            // Believed while its issuer was unknown; nothing better is at hand.
            let problem = "a revocation list is not signed by its issuer";
            tracing::error!(problem, "no revocation list in force: handshakes are refused");
            sources.crl_problem = Some(problem.to_owned());
            sources.revocations = Revocations::Unavailable;
        }
        let revocations = sources.revocations.clone();
        self.0.sender.send_if_modified(|trust| {
            if trust.domains == domains && trust.revocations.is(&revocations) {
                return false;
            }
            *trust = Arc::new(Trust {
                generation: trust.generation.saturating_add(1),
                domains,
                revocations,
                ..Trust::clone(trust)
            });
            true
        });
        if let Some(folder) = &self.0.settings.keep
            && let Err(error) = sources.keep(folder, now)
        {
            let folder = folder.display();
            tracing::warn!(%folder, %error, "roots and revocation lists are not kept");
        }
    }
}

impl Sources {
    fn domains(&mut self, now: SystemTime) -> BTreeMap<TrustDomain, Domain> {
        let mut roots: BTreeMap<TrustDomain, (Vec<Root>, Origin)> = BTreeMap::new();
        for (domain, issued) in &mut self.issued {
            self.has_new_roots |= issued.prune(now);
            let all: Vec<_> = issued.roots().cloned().collect();
            if !all.is_empty() {
                roots.insert(domain.clone(), (all, Origin::Issued));
            }
        }
        // A file for our own domain adds roots: one that the authority is about to use, say.
        for bundle in &self.bundles {
            let entry = roots.entry(bundle.trust_domain().clone());
            let (all, _) = entry.or_insert_with(|| (Vec::new(), Origin::Federated));
            for root in bundle.roots() {
                let fits = all.len() < ROOTS_MAX && root.not_after > now;
                if fits && !all.contains(root) {
                    all.push(root.clone());
                }
            }
        }
        let domain = |(name, (roots, origin)): (TrustDomain, (Vec<Root>, Origin))| {
            TrustBundle::of(name.clone(), roots).map(|bundle| (name, Domain { bundle, origin }))
        };
        roots.into_iter().filter_map(domain).collect()
    }

    /// Takes the file's lists in place of those in force, or says why they cannot be taken.
    fn apply(&mut self, read: Result<Vec<List>, CrlError>, keep: Option<&Path>, now: SystemTime) {
        let known = issuers(&self.domains(now));
        let old = match &self.revocations {
            Revocations::InForce(lists) => Some(lists.clone()),
            Revocations::Off | Revocations::Unavailable => None,
        };
        match read.and_then(|new| Lists::succeed(old.as_deref(), new, &known, now)) {
            Ok(lists) => {
                let expired = lists.expired(now);
                tracing::info!(
                    lists = lists.len(),
                    revoked = lists.entries(),
                    expired,
                    "revocation lists applied"
                );
                self.revocations = Revocations::InForce(Arc::new(lists));
                self.crl_problem = None;
            }
            Err(error) => {
                let text = causes(&error);
                // One that passes is looked at again and again.
                let is_known =
                    self.crl_problem.replace(text.clone()).is_some_and(|old| old == text);
                if old.is_none() {
                    self.revocations = keep
                        .and_then(|folder| kept_lists(folder, &known, now))
                        .map_or(Revocations::Unavailable, |lists| {
                            Revocations::InForce(Arc::new(lists))
                        });
                }
                if is_known {
                    return;
                }
                if matches!(self.revocations, Revocations::Unavailable) {
                    tracing::error!(error = %text, "no revocation list in force: handshakes are refused");
                } else {
                    tracing::error!(error = %text, "revocation lists not applied; the last good ones stay in force");
                }
            }
        }
    }

    /// Writes what the next agent should know, if it is another than before.
    fn keep(&mut self, folder: &Path, now: SystemTime) -> io::Result<()> {
        if let Revocations::InForce(lists) = &self.revocations {
            let attested = lists.attested();
            let kept = self.kept_lists.as_ref();
            let is_kept = kept.is_some_and(|(kept, n)| Arc::ptr_eq(kept, lists) && *n == attested);
            if attested > 0 && !is_kept {
                replace(folder, KEPT_LISTS, &lists.to_der())?;
                self.kept_lists = Some((lists.clone(), attested));
            }
        }
        if self.has_new_roots {
            let mut text = String::new();
            for (domain, issued) in &self.issued {
                for (root, until) in issued.terms(now) {
                    let until = until.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                    // Writing to a string cannot fail.
                    let _ = writeln!(text, "{domain} {until} {}", hex(&root.certificate));
                }
            }
            replace(folder, KEPT_ROOTS, text.as_bytes())?;
            self.has_new_roots = false;
        }
        Ok(())
    }

    fn restore_roots(&mut self, folder: &Path, now: SystemTime) {
        let path = folder.join(KEPT_ROOTS);
        let text = match read(&path, KEPT_ROOTS_MAX) {
            Ok(content) => String::from_utf8(content.unwrap_or_default()).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                let path = path.display();
                return tracing::warn!(%path, %error, "roots of the earlier agent are not read");
            }
        };
        for line in text.lines() {
            // A line that is cut off is one root less to trust.
            if let Some((domain, until, root)) = kept_root(line) {
                self.issued.entry(domain).or_default().restore(root, until, now);
            }
        }
    }
}

fn kept_root(line: &str) -> Option<(TrustDomain, SystemTime, Root)> {
    let (domain, rest) = line.split_once(' ')?;
    let (until, der) = rest.split_once(' ')?;
    let until = UNIX_EPOCH.checked_add(Duration::from_secs(until.parse().ok()?))?;
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let der: Option<Vec<u8>> = der.as_bytes().chunks(2).map(byte).collect();
    let root = Root::parse(CertificateDer::from(der?)).ok()?;
    Some((TrustDomain::parse(domain).ok()?, until, root))
}

fn kept_lists(folder: &Path, known: &[Arc<Issuer>], now: SystemTime) -> Option<Lists> {
    let content = read(&folder.join(KEPT_LISTS), CRL_FILE_MAX).ok()??;
    let lists = Lists::read(&content).and_then(|new| Lists::succeed(None, new, known, now));
    lists.inspect_err(|error| tracing::error!(%error, "the kept revocation lists")).ok()
}

/// Everybody whose signature on a list can be checked now.
fn issuers(domains: &BTreeMap<TrustDomain, Domain>) -> Vec<Arc<Issuer>> {
    let anchors = domains.values().flat_map(|domain| domain.bundle.anchors());
    anchors.map(|anchor| Arc::new(Issuer::of_anchor(anchor))).collect()
}

/// Puts a whole file in the place of another.
fn replace(folder: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let draft = folder.join(format!(".{name}.draft"));
    // An agent that died may have left one.
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(content)?;
    fs::rename(draft, folder.join(name))
}
