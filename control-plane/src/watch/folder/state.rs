//! What each file provides, and what is in force of it.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use cluster::{Object, ObjectKey, manifest};

use super::super::problems::not_understood;
use super::super::{Event, Problems};
use super::scan::{self, FILES_MAX, Stamp};

/// Text of all manifests together. A file beyond it is not read, which is a problem of that file;
/// what it provided before stays in force.
const BYTES_TOTAL_MAX: u64 = 512 << 20;

/// Whether a change must be the same at two looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// At the start nothing is in force that half a file could take away.
    None,
    /// Any later change.
    TwoLooks,
}

/// All files.
#[derive(Debug)]
pub(super) struct Files {
    problems: Problems,
    by_path: BTreeMap<PathBuf, File>,
    /// Stamps of the look before, of files that differ from what was read; `None`: it was missing.
    pending: HashMap<PathBuf, Option<Stamp>>,
    in_force: BTreeMap<ObjectKey, Object>,
}

/// One file, as it was read.
#[derive(Debug)]
struct File {
    stamp: Stamp,
    /// Whether it may have changed since without another stamp.
    is_settled: bool,
    hash: u64,
    /// What could be read of it.
    objects: BTreeMap<ObjectKey, Object>,
    /// What it provided before and is not in its readable part, while it has an unreadable one.
    retained: BTreeMap<ObjectKey, Object>,
    problems: Vec<String>,
}

impl Files {
    pub(super) fn new(problems: Problems) -> Self {
        let (by_path, pending, in_force) = (BTreeMap::new(), HashMap::new(), BTreeMap::new());
        Self { problems, by_path, pending, in_force }
    }

    /// Looks at the folder and tells what changed.
    pub(super) fn look(&mut self, folder: &Path) -> Vec<Event> {
        let place = folder.display().to_string();
        match scan::scan(folder) {
            Ok(found) => self.take(folder, found, Patience::TwoLooks),
            Err(error) => {
                let text = format!("listing it: {error}; what it provided stays in force");
                self.problems.state(&place, vec![text]);
                Vec::new()
            }
        }
    }

    /// Takes what a look found.
    pub(super) fn take(
        &mut self,
        folder: &Path,
        mut found: BTreeMap<PathBuf, Stamp>,
        patience: Patience,
    ) -> Vec<Event> {
        self.bound(folder, &mut found);
        let is_removed = self.remove_missing(folder, &found, patience);
        let mut is_changed = false;
        let mut bytes = 0_u64;
        for (path, stamp) in found {
            bytes = bytes.saturating_add(stamp.bytes);
            let known = self.by_path.get(&path);
            let is_same = known.is_some_and(|file| file.stamp == stamp);
            if is_same {
                self.pending.remove(&path);
                if known.is_some_and(|file| file.is_settled) {
                    continue;
                }
            } else if patience == Patience::TwoLooks
                && self.pending.insert(path.clone(), Some(stamp)) != Some(Some(stamp))
            {
                continue;
            }
            self.pending.remove(&path);
            is_changed |= self.read(folder, path, stamp, bytes);
        }
        if is_changed || is_removed { self.merge(folder) } else { Vec::new() }
    }

    /// Leaves files out beyond the bound, never one that is known.
    fn bound(&self, folder: &Path, found: &mut BTreeMap<PathBuf, Stamp>) {
        let mut texts = Vec::new();
        if found.len() > FILES_MAX {
            let known = found.keys().filter(|path| self.by_path.contains_key(*path)).count();
            let mut room = FILES_MAX.saturating_sub(known);
            let before = found.len();
            found.retain(|path, _| {
                let is_new = !self.by_path.contains_key(path);
                let is_kept = !is_new || room > 0;
                room = room.saturating_sub(usize::from(is_new && is_kept));
                is_kept
            });
            let left_out = before - found.len();
            texts.push(format!("it has more than {FILES_MAX} manifests: {left_out} are not read"));
        }
        self.problems.state(&folder.display().to_string(), texts);
    }

    fn remove_missing(
        &mut self,
        folder: &Path,
        found: &BTreeMap<PathBuf, Stamp>,
        patience: Patience,
    ) -> bool {
        self.pending.retain(|path, _| found.contains_key(path) || self.by_path.contains_key(path));
        let missing: Vec<_> =
            self.by_path.keys().filter(|path| !found.contains_key(*path)).cloned().collect();
        let mut is_removed = false;
        for path in missing {
            if patience == Patience::TwoLooks
                && self.pending.insert(path.clone(), None) != Some(None)
            {
                continue;
            }
            self.pending.remove(&path);
            self.problems.clear(&folder.join(&path).display().to_string());
            self.by_path.remove(&path);
            is_removed = true;
        }
        is_removed
    }

    /// Reads a file and tells whether its text is another one.
    fn read(&mut self, folder: &Path, path: PathBuf, stamp: Stamp, bytes_so_far: u64) -> bool {
        let is_settled = stamp.is_settled(SystemTime::now());
        let text = if bytes_so_far > BYTES_TOTAL_MAX {
            Err(format!("all manifests together are longer than {BYTES_TOTAL_MAX} bytes"))
        } else {
            scan::read(&folder.join(&path))
        };
        let hash = hash(&text);
        let before = match self.by_path.remove(&path) {
            Some(mut file) if file.hash == hash => {
                file.stamp = stamp;
                file.is_settled = is_settled;
                self.by_path.insert(path, file);
                return false;
            }
            before => before,
        };
        let mut file = File {
            stamp,
            is_settled,
            hash,
            objects: BTreeMap::new(),
            retained: BTreeMap::new(),
            problems: Vec::new(),
        };
        file.fill(text, before);
        self.by_path.insert(path, file);
        true
    }

    /// Computes what is in force from all files, and tells the difference.
    fn merge(&mut self, folder: &Path) -> Vec<Event> {
        let mut providers: BTreeMap<&ObjectKey, (&Path, &Object)> = BTreeMap::new();
        let mut conflicts: HashMap<&Path, Vec<String>> = HashMap::new();
        for (path, file) in &self.by_path {
            for (key, object) in &file.objects {
                match providers.get(key) {
                    None => drop(providers.insert(key, (path, object))),
                    Some((first, _)) => conflicts.entry(path).or_default().push(format!(
                        "{key}: it is in {} as well, and that one counts",
                        first.display()
                    )),
                }
            }
        }
        // What was understood in any file counts before what a broken one said earlier.
        for (path, file) in &self.by_path {
            for (key, object) in &file.retained {
                providers.entry(key).or_insert((path, object));
            }
        }
        let next: BTreeMap<ObjectKey, Object> = providers
            .iter()
            .map(|(key, (_, object))| ((*key).clone(), (*object).clone()))
            .collect();
        for (path, file) in &self.by_path {
            let mut texts = file.problems.clone();
            texts.extend(conflicts.remove(path.as_path()).unwrap_or_default());
            self.problems.state(&folder.join(path).display().to_string(), texts);
        }
        let before = std::mem::replace(&mut self.in_force, next);
        // New ones before those that go: a policy that is renamed is never missing.
        let set = self.in_force.iter().filter(|(key, object)| before.get(key) != Some(object));
        let mut events: Vec<_> = set.map(|(_, object)| Event::Set(object.clone())).collect();
        let gone = before.into_keys().filter(|key| !self.in_force.contains_key(key));
        events.extend(gone.map(Event::Delete));
        events
    }
}

impl File {
    /// Takes what a text holds, and what the file provided before where it cannot be read as a whole.
    fn fill(&mut self, text: Result<String, String>, before: Option<Self>) {
        match text {
            Ok(text) => {
                let manifest = manifest::read(&text);
                self.problems.extend(manifest.errors.iter().map(ToString::to_string));
                let is_whole = manifest.errors.is_empty();
                for object in manifest.objects {
                    let key = object.key();
                    if self.objects.contains_key(&key) {
                        self.problems
                            .push(format!("{key}: it is given twice; the first one counts"));
                        continue;
                    }
                    self.problems.extend(not_understood(&object));
                    self.objects.insert(key, object);
                }
                if is_whole {
                    return;
                }
            }
            Err(problem) => self.problems.push(problem),
        }
        let Some(before) = before else { return };
        self.retained = before.retained;
        self.retained.extend(before.objects);
        self.retained.retain(|key, _| !self.objects.contains_key(key));
        if !self.retained.is_empty() {
            let count = self.retained.len();
            self.problems.push(format!("{count} objects that it provided before stay in force"));
        }
    }
}

fn hash(text: &Result<String, String>) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}
