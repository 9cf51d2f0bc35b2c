//! A node is two folders.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cni::PluginSettings;

use super::{Found, InstallError, InstallSettings, Node, Touched};

pub(crate) const PRIMARY: &str =
    r#"{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"bridge"}]}"#;

/// A node whose folders are there, and the program to install.
pub(crate) struct Folders {
    pub(crate) root: tempfile::TempDir,
}

impl Folders {
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().expect("a folder");
        let folders = Self { root };
        fs::create_dir(folders.conf("")).expect("net.d");
        fs::create_dir(folders.bin("")).expect("bin");
        fs::write(folders.program(), "the plugin, version 1").expect("a program");
        folders
    }

    pub(crate) fn conf(&self, name: &str) -> PathBuf {
        self.root.path().join("net.d").join(name)
    }

    pub(crate) fn bin(&self, name: &str) -> PathBuf {
        self.root.path().join("bin").join(name)
    }

    pub(crate) fn program(&self) -> PathBuf {
        self.root.path().join("program")
    }

    pub(crate) fn settings(&self) -> InstallSettings {
        let timeout = Duration::from_secs(30);
        InstallSettings {
            conf_dir: self.conf(""),
            bin_dir: self.bin(""),
            program: self.program(),
            plugin: PluginSettings::new("/run/warren/cni.sock", ["kube-system"], timeout)
                .expect("settings"),
        }
    }

    pub(crate) fn primary(&self) {
        fs::write(self.conf("10-bridge.conflist"), PRIMARY).expect("written");
    }

    /// All files of the node, sorted.
    fn all(&self) -> Vec<String> {
        let names = |folder: PathBuf| fs::read_dir(folder).expect("a folder");
        let entries = names(self.conf("")).chain(names(self.bin("")));
        let mut names: Vec<_> = entries
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
            .collect();
        names.sort();
        names
    }
}

fn installed(conflist: &'static str, primary: &str) -> Found {
    Found::Installed { conflist, primary: primary.to_owned() }
}

fn look(node: &mut Node) -> (Found, Touched) {
    let (found, touched) = node.look();
    (found.unwrap_or_else(|error| panic!("{}", model::causes(&error))), touched)
}

fn fails(node: &mut Node) -> InstallError {
    node.look().0.expect_err("a failure")
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("a file").mode() & 0o7777
}

#[test]
fn installs_once_and_writes_nothing_more() {
    let folders = Folders::new();
    let mut node = Node::new(folders.settings());
    assert_eq!(look(&mut node), (Found::NoPrimary, Touched::No));
    assert_eq!(folders.all(), ["warren-cni"]);
    folders.primary();
    let found = installed("00-warren.conflist", "10-bridge.conflist");
    assert_eq!(look(&mut node), (found.clone(), Touched::No));
    assert_eq!(folders.all(), ["00-warren.conflist", "10-bridge.conflist", "warren-cni"]);
    let chain = folders.conf("00-warren.conflist");
    assert_eq!((mode(&chain), mode(&folders.bin("warren-cni"))), (0o600, 0o755));
    let text = fs::read_to_string(&chain).expect("the chain");
    assert!(text.contains("\"bridge\"") && text.contains("\"warren-cni\""), "{text}");

    let inodes = || {
        let inode = |path| fs::metadata(path).expect("a file").ino();
        (inode(chain.clone()), inode(folders.bin("warren-cni")))
    };
    let before = inodes();
    assert_eq!(look(&mut node), (found.clone(), Touched::No));
    // Nor does the next agent.
    assert_eq!(look(&mut Node::new(folders.settings())), (found, Touched::No));
    assert_eq!(inodes(), before);
}

#[test]
fn repairs_what_others_change_and_knows_that_they_did() {
    let folders = Folders::new();
    folders.primary();
    let mut node = Node::new(folders.settings());
    let (found, _) = look(&mut node);
    let chain = folders.conf("00-warren.conflist");
    let plugin = folders.bin("warren-cni");
    let text = fs::read_to_string(&chain).expect("the chain");
    let elsewhere = folders.root.path().join("elsewhere");
    fs::write(&elsewhere, "not ours").expect("written");

    let changes: [&dyn Fn(); 8] = [
        &|| fs::write(&chain, PRIMARY).expect("overwritten"),
        &|| fs::write(&chain, "").expect("emptied"),
        &|| fs::remove_file(&chain).expect("removed"),
        &|| fs::rename(&chain, folders.conf("00-warren.conflist.cilium_bak")).expect("moved"),
        &|| fs::set_permissions(&chain, fs::Permissions::from_mode(0o666)).expect("opened"),
        &|| {
            fs::remove_file(&chain).expect("removed");
            symlink(&elsewhere, &chain).expect("a link");
        },
        &|| fs::write(&plugin, "another program").expect("overwritten"),
        &|| fs::remove_file(&plugin).expect("removed"),
    ];
    for (at, change) in changes.iter().enumerate() {
        change();
        assert_eq!(look(&mut node), (found.clone(), Touched::Yes), "change {at}");
        assert_eq!(fs::read_to_string(&chain).expect("the chain"), text, "change {at}");
        assert_eq!(fs::read(&plugin).expect("the plugin"), b"the plugin, version 1");
        assert_eq!((mode(&chain), mode(&plugin)), (0o600, 0o755), "change {at}");
        assert_eq!(look(&mut node), (found.clone(), Touched::No), "change {at}");
    }
    assert_eq!(fs::read(&elsewhere).expect("the other file"), b"not ours");
    assert_eq!(folders.all(), ["00-warren.conflist", "10-bridge.conflist", "warren-cni"]);
}

#[test]
fn follows_the_primary_and_a_new_plugin() {
    let folders = Folders::new();
    folders.primary();
    let mut node = Node::new(folders.settings());
    look(&mut node);
    let text = |name| fs::read_to_string(folders.conf(name)).expect("the chain");

    let changed = PRIMARY.replace("bridge", "ptp");
    fs::write(folders.conf("10-bridge.conflist"), changed).expect("written");
    let found = installed("00-warren.conflist", "10-bridge.conflist");
    assert_eq!(look(&mut node), (found, Touched::No));
    assert!(text("00-warren.conflist").contains("ptp"));

    // Multus comes before us, so our name changes, and the old one does not stay.
    let multus = r#"{"cniVersion":"0.3.1","name":"multus","type":"multus-shim"}"#;
    fs::write(folders.conf("00-multus.conf"), multus).expect("written");
    let found = installed("00-0-warren.conflist", "00-multus.conf");
    assert_eq!(look(&mut node), (found, Touched::No));
    assert!(text("00-0-warren.conflist").contains("multus-shim"));
    assert!(!folders.conf("00-warren.conflist").exists());

    fs::remove_file(folders.conf("00-multus.conf")).expect("removed");
    let found = installed("00-warren.conflist", "10-bridge.conflist");
    assert_eq!(look(&mut node), (found, Touched::No));
    assert!(!folders.conf("00-0-warren.conflist").exists());

    fs::write(folders.program(), "the plugin, version 2").expect("written");
    assert_eq!(look(&mut node).1, Touched::No);
    assert_eq!(fs::read(folders.bin("warren-cni")).expect("it"), b"the plugin, version 2");

    // A network that goes leaves the chain: no pod may start outside the mesh meanwhile.
    fs::remove_file(folders.conf("10-bridge.conflist")).expect("removed");
    assert_eq!(look(&mut node), (Found::NoPrimary, Touched::No));
    assert!(folders.conf("00-warren.conflist").exists());
}

#[test]
fn what_cannot_be_read_is_named_and_keeps_what_is_there() {
    let folders = Folders::new();
    folders.primary();
    let mut node = Node::new(folders.settings());
    look(&mut node);
    let before = fs::read(folders.conf("00-warren.conflist")).expect("the chain");
    let primary = folders.conf("05-new.conflist");
    let named = |error: &InstallError| {
        let text = model::causes(error);
        assert!(text.contains("05-new.conflist"), "{text}");
        assert_eq!(error.code(), "CNI_PRIMARY_UNREADABLE");
    };
    fs::write(&primary, "{").expect("written");
    named(&fails(&mut node));
    fs::remove_file(&primary).expect("removed");
    symlink("/nowhere/at/all", &primary).expect("a link");
    named(&fails(&mut node));
    fs::remove_file(&primary).expect("removed");
    nix::unistd::mkfifo(&primary, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    named(&fails(&mut node));
    assert_eq!(fs::read(folders.conf("00-warren.conflist")).expect("the chain"), before);
}

#[test]
fn a_plugin_that_cannot_be_copied_names_no_chain() {
    let folders = Folders::new();
    folders.primary();
    let mut node = Node::new(folders.settings());
    for broken in ["missing", "empty", "folder"] {
        fs::remove_file(folders.program()).ok();
        match broken {
            "empty" => fs::write(folders.program(), "").expect("written"),
            "folder" => fs::create_dir(folders.program()).expect("made"),
            _ => {}
        }
        let error = fails(&mut node);
        assert_eq!(error.code(), "CNI_PROGRAM_NOT_INSTALLED", "{broken}: {error}");
        assert_eq!(folders.all(), ["10-bridge.conflist"], "{broken}");
    }
    fs::remove_dir(folders.program()).expect("removed");
    fs::write(folders.program(), "the plugin").expect("written");
    look(&mut node);
    // With a plugin there, an old one, the chain is still kept.
    fs::remove_file(folders.program()).expect("removed");
    fs::remove_file(folders.conf("00-warren.conflist")).expect("removed");
    assert_eq!(fails(&mut node).code(), "CNI_PROGRAM_NOT_INSTALLED");
    assert!(folders.conf("00-warren.conflist").exists());
}

/// A folder that this thread may not write to. Root may write anywhere but with another's rights
/// to files, which a thread can take for itself.
fn as_nobody<T: Send>(folders: &Folders, act: impl FnOnce() -> T + Send) -> T {
    let opened = fs::Permissions::from_mode(0o755);
    fs::set_permissions(folders.root.path(), opened).expect("opened");
    let closed = fs::Permissions::from_mode(0o555);
    fs::set_permissions(folders.conf(""), closed.clone()).expect("closed");
    fs::set_permissions(folders.bin(""), closed).expect("closed");
    let result = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65_534));
            act()
        });
        thread.join().expect("no panic")
    });
    for folder in [folders.conf(""), folders.bin("")] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("opened");
    }
    result
}

#[test]
fn folders_that_cannot_be_written_to_are_told_and_tried_again() {
    let folders = Folders::new();
    folders.primary();
    let mut node = Node::new(folders.settings());
    let error = as_nobody(&folders, || fails(&mut node));
    assert_eq!(error.code(), "CNI_PROGRAM_NOT_INSTALLED");
    assert!(model::causes(&error).contains("Permission denied"), "{}", model::causes(&error));
    assert_eq!(folders.all(), ["10-bridge.conflist"]);

    look(&mut node);
    fs::remove_file(folders.conf("00-warren.conflist")).expect("removed");
    let error = as_nobody(&folders, || fails(&mut node));
    assert_eq!(error.code(), "CNI_CONFLIST_NOT_WRITTEN");
    let text = model::causes(&error);
    assert!(text.contains("00-warren.conflist") && text.contains("Permission denied"), "{text}");

    look(&mut node);
    let error = as_nobody(&folders, || node.remove().expect_err("closed"));
    assert_eq!(error.code(), "CNI_CONFLIST_NOT_WRITTEN");
    assert!(folders.bin("warren-cni").exists(), "a chain whose plugin is missing");
}

#[test]
fn a_folder_that_is_not_there_is_told() {
    let folders = Folders::new();
    fs::remove_dir(folders.conf("")).expect("removed");
    let mut node = Node::new(folders.settings());
    let error = fails(&mut node);
    assert_eq!(error.code(), "CNI_FOLDER_UNREADABLE");
    // Nothing of ours is there either.
    node.remove().expect("removed");
    assert_eq!(fs::read_dir(folders.bin("")).expect("listed").count(), 0);
}

#[test]
fn removal_leaves_what_was_there_before() {
    let folders = Folders::new();
    folders.primary();
    fs::write(folders.bin("bridge"), "another plugin").expect("written");
    fs::write(folders.conf("calico-kubeconfig"), "secret").expect("written");
    let before = folders.all();
    let mut node = Node::new(folders.settings());
    look(&mut node);
    // What an agent that died, and Cilium, left.
    fs::write(folders.conf(".00-warren.conflist.warren-new"), "half").expect("written");
    fs::write(folders.conf("00-warren.conflist.cilium_bak"), "{}").expect("written");
    fs::write(folders.bin(".warren-cni.warren-new"), "half").expect("written");
    node.remove().expect("removed");
    assert_eq!(folders.all(), before);
    assert_eq!(fs::read_to_string(folders.conf("10-bridge.conflist")).expect("it"), PRIMARY);
    node.remove().expect("twice");
}

#[test]
fn a_plugin_that_another_chain_names_is_not_removed() {
    let folders = Folders::new();
    folders.primary();
    let mut node = Node::new(folders.settings());
    look(&mut node);
    fs::copy(folders.conf("00-warren.conflist"), folders.conf("02-copy.conflist")).expect("copied");
    let error = node.remove().expect_err("still named");
    assert_eq!(error.code(), "CNI_STILL_NAMED");
    assert!(error.to_string().contains("02-copy.conflist"));
    assert!(folders.bin("warren-cni").exists() && !folders.conf("00-warren.conflist").exists());
    fs::remove_file(folders.conf("02-copy.conflist")).expect("removed");
    node.remove().expect("removed");
    assert!(!folders.bin("warren-cni").exists());
}
