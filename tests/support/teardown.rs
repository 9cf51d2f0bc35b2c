//! Takes down what a world made, knowing nothing but its prefix.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::ensure;

use crate::cgroup;
use crate::namespace::{self, FOLDER as NETNS_FOLDER};
use crate::prefix::Prefix;
use crate::volume;

/// Where bpffs is, or gets, mounted.
pub(crate) const BPFFS: &str = "/sys/fs/bpf";

/// Set once this process must make nothing more.
static CLOSED: AtomicBool = AtomicBool::new(false);
/// How often a teardown beside busy threads looks again; what then remains is left to the next
/// process that makes a world.
const PASSES: u32 = 5;
const PASS_PAUSE: Duration = Duration::from_millis(50);

/// What removes one world. May run any number of times, from any thread, while others use the
/// world: they then see errors.
#[derive(Clone, Debug)]
pub struct Teardown(Prefix);

impl Teardown {
    pub(crate) fn new(prefix: Prefix) -> Self {
        Self(prefix)
    }

    /// Kills what runs in the world's cgroups; removes cgroups, namespaces, pins and files.
    /// Bounded: some seconds at the worst. What cannot be removed is reported on stderr.
    pub fn run(&self) {
        report(&self.0, &self.attempt());
    }

    /// What could not be removed.
    fn attempt(&self) -> Vec<anyhow::Error> {
        let name = self.0.to_string();
        let mut troubles = Vec::new();
        match cgroup::mount() {
            Ok(mount) => troubles.extend(cgroup::remove(&mount.join(&name)).err()),
            Err(error) => troubles.push(error),
        }
        let namespaces: Vec<_> = names(Path::new(NETNS_FOLDER))
            .into_iter()
            .filter(|other| Prefix::of_name(other).as_ref() == Some(&self.0))
            .collect();
        troubles.extend(namespace::remove(&namespaces).err());
        volume::unmount_below(&folder(&self.0));
        for folder in [Path::new(BPFFS).join(&name), folder(&self.0)] {
            match fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    let error = anyhow::Error::from(error);
                    troubles.push(error.context(format!("remove {}", folder.display())));
                }
                _ => {}
            }
        }
        troubles
    }

    /// Removes every world of this process, and lets it make nothing more: for a signal handler,
    /// while other threads may be making something this very moment.
    pub fn run_for_this_process() {
        CLOSED.store(true, Ordering::SeqCst);
        for pass in 1..=PASSES {
            let own: Vec<_> = prefixes().into_iter().filter(Prefix::is_own).collect();
            // What was under way at the first pass has ended by the second.
            if own.is_empty() && pass > 1 {
                return;
            }
            for prefix in own {
                let troubles = Self(prefix.clone()).attempt();
                if pass == PASSES {
                    report(&prefix, &troubles);
                }
            }
            thread::sleep(PASS_PAUSE);
        }
    }

    /// Removes the worlds of processes that no longer exist.
    pub fn run_for_the_dead() {
        for prefix in prefixes().into_iter().filter(Prefix::is_stale) {
            Self(prefix).run();
        }
    }
}

/// Whether this process may still make something.
pub(crate) fn ensure_open() -> anyhow::Result<()> {
    ensure!(!CLOSED.load(Ordering::SeqCst), "everything is being taken down");
    Ok(())
}

fn report(prefix: &Prefix, troubles: &[anyhow::Error]) {
    for trouble in troubles {
        eprintln!("teardown of {prefix}: {trouble:#}");
    }
}

/// Of everything that any world left or has.
fn prefixes() -> BTreeSet<Prefix> {
    let mut folders = vec![PathBuf::from(NETNS_FOLDER), BPFFS.into(), std::env::temp_dir()];
    folders.extend(cgroup::mount());
    folders
        .iter()
        .flat_map(|folder| names(folder))
        .filter_map(|name| Prefix::of_name(&name))
        .collect()
}

/// The world's files: the mesh, the CA, run folders, logs.
pub(crate) fn folder(prefix: &Prefix) -> PathBuf {
    std::env::temp_dir().join(prefix.to_string())
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
