//! Takes down what a world made, knowing nothing but its prefix.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::cgroup;
use crate::namespace::{FOLDER as NETNS_FOLDER, ip_batch};
use crate::prefix::Prefix;

/// Where bpffs is, or gets, mounted.
pub(crate) const BPFFS: &str = "/sys/fs/bpf";

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
        let name = self.0.to_string();
        let mut troubles = Vec::new();
        match cgroup::mount() {
            Ok(mount) => troubles.extend(cgroup::remove(&mount.join(&name)).err()),
            Err(error) => troubles.push(error),
        }
        let namespaces: Vec<_> = names(Path::new(NETNS_FOLDER))
            .into_iter()
            .filter(|other| Prefix::of_name(other).as_ref() == Some(&self.0))
            .map(|name| format!("netns del {name}"))
            .collect();
        if !namespaces.is_empty() {
            troubles.extend(ip_batch(None, &namespaces).err());
        }
        for folder in [Path::new(BPFFS).join(&name), folder(&self.0)] {
            match fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    let error = anyhow::Error::from(error);
                    troubles.push(error.context(format!("remove {}", folder.display())));
                }
                _ => {}
            }
        }
        for trouble in troubles {
            eprintln!("teardown of {name}: {trouble:#}");
        }
    }

    /// Removes the worlds of processes that no longer exist.
    pub fn run_for_the_dead() {
        let mut folders = vec![PathBuf::from(NETNS_FOLDER), BPFFS.into(), std::env::temp_dir()];
        folders.extend(cgroup::mount());
        let prefixes: BTreeSet<_> = folders
            .iter()
            .flat_map(|folder| names(folder))
            .filter_map(|name| Prefix::of_name(&name))
            .filter(Prefix::is_stale)
            .collect();
        for prefix in prefixes {
            Self(prefix).run();
        }
    }
}

/// The world's files: the mesh, the CA, run folders, logs.
pub(crate) fn folder(prefix: &Prefix) -> PathBuf {
    std::env::temp_dir().join(prefix.to_string())
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
