//! Where things are, and how cargo is called.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    let manifest = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest.parent().map_or_else(|| manifest.clone(), Path::to_path_buf)
}

/// Where cargo puts the host's build output.
pub(crate) fn target() -> PathBuf {
    root().join(env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| OsString::from("target")))
}

/// What outlives a clone: the eBPF linker, and in CI the build output.
pub(crate) fn cache() -> PathBuf {
    if let Some(folder) = env::var_os("WARREN_CACHE").filter(|folder| !folder.is_empty()) {
        return PathBuf::from(folder);
    }
    let home = env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from);
    home.join(".cache/warren")
}

/// Cargo in the repository's root, with rustup's compiler: a distribution's `rustc` that comes
/// first on PATH must not shadow it.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    command.current_dir(root());
    if let Some(path) = path_with_rustup_first() {
        command.env("PATH", path);
    }
    command
}

/// PATH with rustup's proxies in front, or nothing when it is right as it is.
fn path_with_rustup_first() -> Option<OsString> {
    let proxies = rustup_proxies()?;
    let path = env::var_os("PATH").unwrap_or_default();
    let first = env::split_paths(&path).find(|folder| folder.join("rustc").exists());
    if first.as_ref() == Some(&proxies) {
        return None;
    }
    env::join_paths(std::iter::once(proxies).chain(env::split_paths(&path))).ok()
}

fn rustup_proxies() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map_or_else(
        || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")),
        |home| Some(PathBuf::from(home)),
    )?;
    let folder = home.join("bin");
    (folder.join("rustup").exists() && folder.join("rustc").exists()).then_some(folder)
}
