//! Finds what compiles and links for the BPF target.
//!
//! That target has no prebuilt `core`, so it is built from source, and source and compiler must be
//! of one version. A compiler qualifies by having `lib/rustlib/src`, not by calling itself
//! nightly: `RUSTC_BOOTSTRAP=1` opens the needed options on any.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::anyhow;

use crate::step::output;
use crate::workspace::cache;

pub(crate) const LINKER_VERSION: &str = "0.13.0";
/// What the linker is built against. It reads bitcode of this LLVM or an older one, no newer.
pub(crate) const LLVM_MAJOR: u32 = 22;
/// Oldest compiler that the kernel-side crates (aya-ebpf 0.2) accept.
const OLDEST_RUSTC: (u32, u32) = (1, 87);
/// Debian's compiler. Only ever called by this path: rustup's stays the one on PATH.
const DISTRIBUTION_RUSTC: &str = "/usr/bin/rustc";

/// A compiler with the source of its own `core`.
pub(crate) struct Compiler {
    pub(crate) rustc: PathBuf,
    pub(crate) version: String,
}

/// The compiler for eBPF programs: a rustup toolchain with `rust-src` (the active one first), or
/// else the distribution's pair.
pub(crate) fn compiler() -> anyhow::Result<Compiler> {
    let mut rejected = Vec::new();
    for rustc in candidates() {
        match qualify(&rustc) {
            Ok(version) => return Ok(Compiler { rustc, version }),
            Err(why) => rejected.push(format!("{}: {why}", rustc.display())),
        }
    }
    Err(anyhow!("no rustc with matching sources ({})", rejected.join("; ")))
}

fn candidates() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let active = Command::new("rustup").args(["which", "rustc"]).output();
    if let Ok(active) = active
        && active.status.success()
        && let Ok(path) = String::from_utf8(active.stdout)
    {
        found.push(PathBuf::from(path.trim()));
    }
    let home = env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".rustup")));
    if let Some(toolchains) = home.and_then(|home| home.join("toolchains").read_dir().ok()) {
        let mut others: Vec<_> =
            toolchains.flatten().map(|folder| folder.path().join("bin/rustc")).collect();
        others.sort();
        found.extend(others);
    }
    found.push(PathBuf::from(DISTRIBUTION_RUSTC));
    found.retain(|rustc| rustc.exists());
    found
}

/// The compiler's version, or why it will not do.
fn qualify(rustc: &Path) -> Result<String, String> {
    let sysroot = output(Command::new(rustc).args(["--print", "sysroot"]))
        .map_err(|error| format!("{error:#}"))?;
    let source = Path::new(sysroot.trim()).join("lib/rustlib/src/rust");
    if !source.join("library/core/Cargo.toml").exists() {
        return Err("has no lib/rustlib/src/rust/library".to_owned());
    }
    let verbose = output(Command::new(rustc).arg("-vV")).map_err(|error| format!("{error:#}"))?;
    let about = About::parse(&verbose).ok_or("prints no version")?;
    about.suits()?;
    // A toolchain of rustup's is one unit. A distribution's sources are a package of their own,
    // unpacked to a folder that carries their version.
    let unpacked = source.canonicalize().unwrap_or(source);
    let folder = unpacked.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if let Some(version) = folder.strip_prefix("rustc-")
        && version != about.release
    {
        return Err(format!("is {} but its sources are {version}", about.release));
    }
    Ok(about.release)
}

struct About {
    release: String,
    rust: (u32, u32),
    llvm_major: u32,
}

impl About {
    fn parse(verbose: &str) -> Option<Self> {
        let field =
            |name: &str| verbose.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let release = field("release:")?;
        let mut numbers = release.split(['.', '-']).map(str::parse);
        let rust = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        let llvm_major = field("LLVM version:")?.split('.').next()?.parse().ok()?;
        Some(Self { release: release.to_owned(), rust, llvm_major })
    }

    fn suits(&self) -> Result<(), String> {
        if self.rust < OLDEST_RUSTC {
            return Err(format!("is {}, older than {OLDEST_RUSTC:?}", self.release));
        }
        if self.llvm_major > LLVM_MAJOR {
            return Err(format!("uses LLVM {}, newer than the linker's", self.llvm_major));
        }
        Ok(())
    }
}

/// The folder given to `cargo install --root` for the linker.
pub(crate) fn linker_root() -> PathBuf {
    cache().join(format!("bpf-linker-{LINKER_VERSION}"))
}

/// The linker, if it is there and its shared libraries too.
pub(crate) fn linker() -> Option<PathBuf> {
    let linker = linker_root().join("bin/bpf-linker");
    let version = output(Command::new(&linker).arg("--version")).ok()?;
    version.contains(LINKER_VERSION).then_some(linker)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(release: &str, llvm: &str) -> About {
        let text = format!("rustc {release}\nrelease: {release}\nLLVM version: {llvm}\n");
        About::parse(&text).expect("a version")
    }

    #[test]
    fn compilers_are_judged_by_version() {
        assert!(about("1.95.0", "22.1.2").suits().is_ok());
        assert!(about("1.97.0-nightly", "22.1.4").suits().is_ok());
        assert!(about("1.87.0", "20.1.0").suits().is_ok());
        assert!(about("1.86.0", "19.1.0").suits().is_err());
        assert!(about("1.99.0", "23.1.0").suits().is_err());
        assert!(About::parse("rustc 1.95.0").is_none());
    }
}
