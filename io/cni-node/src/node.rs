//! One look at the node: what should be there is compared with what is, and put there.
//!
//! First the plugin, then the chain that names it; when both go, the other way round. A chain whose
//! plugin is missing would let no pod of the node start.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cni::conflist::{self, Conflist, ConflistError, OWN_FILES, SET_ASIDE};
use cni::{NETCONF_BYTES_MAX, PLUGIN, PluginSettings};

use crate::files::{self, Fingerprint};

/// The chain may hold what other plugins keep from users.
const CHAIN_MODE: u32 = 0o600;
const PLUGIN_MODE: u32 = 0o755;
/// What is written before it is moved into place. Runtimes read no file of that ending.
pub(crate) const ASIDE: &str = ".warren-new";
/// Most files in the folder of configurations. Nodes have a handful; beyond, the folder is not what
/// it should be, and nothing is installed.
const FILES_MAX: usize = 1024;

/// Where the plugin goes.
#[derive(Clone, Debug)]
pub struct InstallSettings {
    /// The folder of network configurations, mostly `/etc/cni/net.d` of the host.
    pub conf_dir: PathBuf,
    /// The folder of plugins, mostly `/opt/cni/bin` of the host.
    pub bin_dir: PathBuf,
    /// The plugin to copy there: a static binary, because nodes differ.
    pub program: PathBuf,
    /// What the chain says to the plugin.
    pub plugin: PluginSettings,
}

/// The plugin is not where it should be, or still is where it should not.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The plugin's binary could not be put there.
    #[error("cannot {operation} {path}")]
    Program {
        /// What was done.
        operation: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The folder of configurations cannot be listed.
    #[error("cannot list {path}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The node's own configuration cannot be read.
    #[error("cannot read {path}")]
    Primary {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The node's own configuration is none from which a chain can be made.
    #[error("no chain can be made in {folder}")]
    Chain {
        /// The folder.
        folder: PathBuf,
        /// The file and what is wrong with it.
        #[source]
        source: ConflistError,
    },
    /// The chain could not be written.
    #[error("cannot {operation} {path}")]
    Conflist {
        /// What was done.
        operation: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Another configuration names the plugin, so that the node needs it.
    #[error("{file} names {PLUGIN}, so {program} stays: remove the plugin from that file first")]
    StillNamed {
        /// The configuration.
        file: PathBuf,
        /// The plugin.
        program: PathBuf,
    },
}

impl InstallError {
    /// Stable, for metrics and `warren status`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Program { .. } => "CNI_PROGRAM_NOT_INSTALLED",
            Self::Folder { .. } => "CNI_FOLDER_UNREADABLE",
            Self::Primary { .. } | Self::Chain { .. } => "CNI_PRIMARY_UNREADABLE",
            Self::Conflist { .. } => "CNI_CONFLIST_NOT_WRITTEN",
            Self::StillNamed { .. } => "CNI_STILL_NAMED",
        }
    }
}

/// What a look found, or brought about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// There is no configuration but ours.
    NoPrimary,
    /// All is there.
    Installed { conflist: &'static str, primary: String },
}

/// Whether somebody else had changed what this agent put there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Touched {
    No,
    Yes,
}

/// The node, and what was put there.
#[derive(Debug)]
pub(crate) struct Node {
    settings: InstallSettings,
    /// The source and the installed plugin when they were the same.
    program: Option<(Fingerprint, Fingerprint)>,
    /// The chain that was seen in place.
    chain: Option<Conflist>,
    touched: Touched,
}

impl Node {
    pub(crate) fn new(settings: InstallSettings) -> Self {
        Self { settings, program: None, chain: None, touched: Touched::No }
    }

    /// Looks once, and repairs.
    pub(crate) fn look(&mut self) -> (Result<Found, InstallError>, Touched) {
        self.touched = Touched::No;
        let found = self.install();
        (found, self.touched)
    }

    fn install(&mut self) -> Result<Found, InstallError> {
        let program = self.install_program();
        // An older plugin is better than none: it refuses or passes as the chain says.
        if program.is_err() && !self.plugin().is_file() {
            return program.map(|()| Found::NoPrimary);
        }
        let found = self.install_chain()?;
        program?;
        Ok(found)
    }

    fn plugin(&self) -> PathBuf {
        self.settings.bin_dir.join(PLUGIN)
    }

    fn install_program(&mut self) -> Result<(), InstallError> {
        let source = self.settings.program.clone();
        let target = self.plugin();
        let failed = |operation, path: &Path| {
            let path = path.to_owned();
            move |source| InstallError::Program { operation, path, source }
        };
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let of_source = Fingerprint::of(&source).and_then(|found| found.ok_or_else(missing));
        let of_source = of_source.map_err(failed("read", &source))?;
        let of_target = Fingerprint::of(&target).map_err(failed("look at", &target))?;
        if self.program.is_some_and(|seen| Some(seen) == of_target.map(|it| (of_source, it))) {
            return Ok(());
        }
        let installed = of_target.is_some_and(|found| found.is_plain(PLUGIN_MODE))
            && files::same(&source, &target).map_err(failed("compare", &target))?;
        if !installed {
            if self.program.is_some_and(|(seen, _)| seen == of_source) {
                self.touched = Touched::Yes;
            }
            let aside = self.settings.bin_dir.join(format!(".{PLUGIN}{ASIDE}"));
            let copy = |file: &mut fs::File| {
                let copied = io::copy(&mut files::open(&source)?, file)?;
                // An empty plugin would refuse every pod without a word.
                if copied == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
            };
            files::replace(&target, &aside, PLUGIN_MODE, copy)
                .map_err(failed("copy the plugin to", &target))?;
        }
        let of_target = Fingerprint::of(&target).map_err(failed("look at", &target))?;
        self.program = of_target.map(|of_target| (of_source, of_target));
        Ok(())
    }

    fn install_chain(&mut self) -> Result<Found, InstallError> {
        let folder = &self.settings.conf_dir;
        let names = list(folder)?;
        let Some(primary) = conflist::primary(names.iter().map(String::as_str)) else {
            // A chain that is there stays: its network comes back with the next primary, and until
            // then no pod can start outside the mesh.
            return Ok(Found::NoPrimary);
        };
        let path = folder.join(primary);
        let contents = files::read(&path, NETCONF_BYTES_MAX)
            .map_err(|source| InstallError::Primary { path, source })?;
        let chain = conflist::chain(primary, &contents, &self.settings.plugin)
            .map_err(|source| InstallError::Chain { folder: folder.clone(), source })?;
        let path = folder.join(chain.file);
        if !files::is(&path, &chain.contents, CHAIN_MODE) {
            if self.chain.as_ref() == Some(&chain) {
                self.touched = Touched::Yes;
            }
            write_chain(&path, &chain)?;
        }
        for stale in ours_but(chain.file).filter(|stale| names.contains(stale)) {
            remove_of_chain(&folder.join(stale))?;
        }
        let found = Found::Installed { conflist: chain.file, primary: primary.to_owned() };
        self.chain = Some(chain);
        Ok(found)
    }

    /// Takes the chain away, then the plugin. Nothing else is touched.
    pub(crate) fn remove(&mut self) -> Result<(), InstallError> {
        self.chain = None;
        self.program = None;
        let folder = &self.settings.conf_dir;
        let program = self.plugin();
        match list(folder) {
            Ok(names) => {
                for name in ours_but("").filter(|name| names.contains(name)) {
                    remove_of_chain(&folder.join(name))?;
                }
                for name in names.iter().filter(|name| conflist::is_read(name)) {
                    let file = folder.join(name);
                    let names_us = |contents: Vec<u8>| conflist::names_plugin(&contents);
                    if !conflist::is_ours(name)
                        && files::read(&file, NETCONF_BYTES_MAX).is_ok_and(names_us)
                    {
                        return Err(InstallError::StillNamed { file, program });
                    }
                }
            }
            Err(InstallError::Folder { source, .. })
                if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        for path in [self.settings.bin_dir.join(format!(".{PLUGIN}{ASIDE}")), program] {
            files::remove(&path).map_err(|source| InstallError::Program {
                operation: "remove",
                path,
                source,
            })?;
        }
        Ok(())
    }
}

impl Fingerprint {
    /// A regular file of that mode.
    fn is_plain(&self, mode: u32) -> bool {
        const TYPE: u32 = 0o170_000;
        const REGULAR: u32 = 0o100_000;
        self.mode() & TYPE == REGULAR && self.mode() & 0o7777 == mode
    }
}

/// Every name that a file of ours can have, but that one: chains, chains that are being written,
/// chains that Cilium set aside.
fn ours_but(kept: &str) -> impl Iterator<Item = String> {
    let names = OWN_FILES.into_iter().filter(move |name| *name != kept).map(str::to_owned);
    let aside = OWN_FILES.into_iter().map(|name| format!(".{name}{ASIDE}"));
    let set_aside = OWN_FILES.into_iter().map(|name| format!("{name}{SET_ASIDE}"));
    names.chain(aside).chain(set_aside).collect::<Vec<_>>().into_iter()
}

fn write_chain(path: &Path, chain: &Conflist) -> Result<(), InstallError> {
    let aside = path.with_file_name(format!(".{}{ASIDE}", chain.file));
    let write = |file: &mut fs::File| io::Write::write_all(file, &chain.contents);
    files::replace(path, &aside, CHAIN_MODE, write).map_err(|source| InstallError::Conflist {
        operation: "write",
        path: path.to_owned(),
        source,
    })
}

fn remove_of_chain(path: &Path) -> Result<bool, InstallError> {
    files::remove(path).map_err(|source| InstallError::Conflist {
        operation: "remove",
        path: path.to_owned(),
        source,
    })
}

/// The names in the folder. One that is not UTF-8 is written with replacement characters, and so
/// cannot be read if it turns out to be the primary.
fn list(folder: &Path) -> Result<Vec<String>, InstallError> {
    let failed = |source| InstallError::Folder { path: folder.to_owned(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_dir() {
            continue;
        }
        if names.len() == FILES_MAX {
            return Err(failed(io::Error::other(format!("there are more than {FILES_MAX} files"))));
        }
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

#[cfg(test)]
pub(crate) mod tests;
