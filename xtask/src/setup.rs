//! Installs what the build and the tests need, and nothing that is there already.
//!
//! What is missing is found by looking for the thing itself (a program, a source tree), not for a
//! package: on a distribution that is not Debian the same list says what to provide.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::bail;

use crate::arguments::Usage;
use crate::step::{output, run, step};
use crate::toolchain::{LINKER_VERSION, LLVM_MAJOR, compiler, linker, linker_root};

const BPF_FS: &str = "/sys/fs/bpf";

/// Programs that the build and the tests call, with the Debian package that has them.
const PROGRAMS: [(&str, &str); 7] = [
    ("cc", "gcc"),
    ("c++", "g++"),
    ("make", "make"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("iptables", "iptables"),
    ("tcpdump", "tcpdump"),
];
/// A C library to compile against (aws-lc-sys is C).
const C_LIBRARY: (&str, &str) = ("/usr/include/stdio.h", "libc6-dev");
/// The compiler of last resort and the sources of its `core`, of one version.
const COMPILER_PACKAGES: [&str; 2] = ["rustc-web", "rust-web-src"];

pub(crate) fn verb(arguments: &[String]) -> anyhow::Result<()> {
    match arguments {
        [] => install(),
        [flag] if flag == "--check" => check(),
        _ => Err(Usage::new("setup takes --check or nothing").into()),
    }
}

/// Reports; changes nothing.
fn check() -> anyhow::Result<()> {
    let missing = Missing::look();
    if missing.is_nothing() {
        println!("setup: nothing is missing");
        return Ok(());
    }
    bail!("missing:\n{}", missing.describe())
}

/// Installs what is missing. Does nothing, quickly, when nothing is.
pub(crate) fn install() -> anyhow::Result<()> {
    step("setup", || {
        warn_of_shadowed_compiler();
        let missing = Missing::look();
        if missing.is_nothing() {
            println!("    nothing is missing");
            return Ok(());
        }
        println!("{}", missing.describe());
        if !missing.packages.is_empty() || missing.linker {
            if !is_debian() {
                bail!(
                    "this is not Debian: provide what is listed above (the names are Debian's), \
                     then run this again"
                );
            }
            install_packages(&missing)?;
        }
        if missing.linker {
            step("bpf-linker", install_linker)?;
        }
        if missing.bpf_fs {
            step("mount bpffs", mount_bpf_fs)?;
        }
        let left = Missing::look();
        if !left.is_nothing() {
            bail!("still missing after installing:\n{}", left.describe());
        }
        Ok(())
    })
}

/// What this machine lacks.
struct Missing {
    packages: Vec<&'static str>,
    /// Why no compiler qualifies, if none does.
    compiler: Option<String>,
    linker: bool,
    bpf_fs: bool,
    cgroup2: bool,
}

impl Missing {
    fn look() -> Self {
        let mut packages: Vec<_> = PROGRAMS
            .iter()
            .filter(|(program, _)| !on_path(program))
            .map(|(_, package)| *package)
            .collect();
        let (header, package) = C_LIBRARY;
        if !Path::new(header).exists() {
            packages.push(package);
        }
        let compiler = compiler().err().map(|error| format!("{error:#}"));
        if compiler.is_some() {
            packages.extend(COMPILER_PACKAGES);
        }
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        Self {
            packages,
            compiler,
            linker: linker().is_none(),
            bpf_fs: !is_mounted(&mounts, "bpf", Some(BPF_FS)),
            cgroup2: !is_mounted(&mounts, "cgroup2", None),
        }
    }

    fn is_nothing(&self) -> bool {
        self.packages.is_empty() && !self.linker && !self.bpf_fs && !self.cgroup2
    }

    fn describe(&self) -> String {
        let mut lines = Vec::new();
        if !self.packages.is_empty() {
            lines.push(format!("packages: {}", self.packages.join(" ")));
        }
        if let Some(why) = &self.compiler {
            lines.push(format!("a compiler for eBPF: {why}"));
        }
        if self.linker {
            lines.push(format!(
                "bpf-linker {LINKER_VERSION} in {} (built against LLVM {LLVM_MAJOR})",
                linker_root().display()
            ));
        }
        if self.bpf_fs {
            lines.push(format!("a BPF file system on {BPF_FS}"));
        }
        if self.cgroup2 {
            lines.push("a mounted cgroup v2 hierarchy (mount it; setup does not)".to_owned());
        }
        lines.iter().map(|line| format!("    - {line}")).collect::<Vec<_>>().join("\n")
    }
}

fn install_packages(missing: &Missing) -> anyhow::Result<()> {
    let mut packages: Vec<String> = missing.packages.iter().map(ToString::to_string).collect();
    if missing.linker {
        packages.extend([
            format!("llvm-{LLVM_MAJOR}-dev"),
            format!("libpolly-{LLVM_MAJOR}-dev"),
            "libzstd-dev".to_owned(),
            "zlib1g-dev".to_owned(),
            "libxml2-dev".to_owned(),
        ]);
        let installed = installed_packages();
        packages.retain(|package| !installed.contains(package));
    }
    if packages.is_empty() {
        return Ok(());
    }
    if !is_root() {
        bail!("installing needs root: run `cargo xtask setup` as root, or install the packages");
    }
    step("apt-get update", || run(apt().arg("update")))?;
    step(&format!("apt-get install {}", packages.join(" ")), || {
        run(apt().args(["install", "--yes", "--no-install-recommends"]).args(&packages))
    })
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").stdin(std::process::Stdio::null());
    command.args(["-qq", "-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3"]);
    command
}

/// Names of the packages dpkg holds as installed.
fn installed_packages() -> Vec<String> {
    let listing = output(Command::new("dpkg-query").args([
        "--show",
        "--showformat",
        "${db:Status-Status} ${Package}\n",
    ]));
    let listing = listing.unwrap_or_default();
    listing.lines().filter_map(|line| line.strip_prefix("installed ")).map(str::to_owned).collect()
}

/// Built from source: a prebuilt one would be a download from outside cargo and apt.
fn install_linker() -> anyhow::Result<()> {
    let mut command = crate::workspace::cargo();
    command
        .current_dir("/")
        .args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--force"])
        .args(["--no-default-features", "--features", &format!("llvm-{LLVM_MAJOR}")])
        .arg("--root")
        .arg(linker_root())
        .env("LLVM_PREFIX", format!("/usr/lib/llvm-{LLVM_MAJOR}"))
        // Its build must neither see our flags nor fill our target folder.
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    run(&mut command)
}

fn mount_bpf_fs() -> anyhow::Result<()> {
    if !is_root() {
        bail!("mounting needs root: mount -t bpf bpf {BPF_FS}");
    }
    println!("    mount -t bpf bpf {BPF_FS}");
    run(Command::new("mount").args(["-t", "bpf", "bpf", BPF_FS]))
}

/// `rustc-web` installs `/usr/bin/rustc`. Our own calls are safe, the user's may not be.
fn warn_of_shadowed_compiler() {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let first = std::env::split_paths(&path).find(|folder| folder.join("rustc").exists());
    if first.is_some_and(|folder| folder == Path::new("/usr/bin")) && on_path("rustup") {
        println!("    note: /usr/bin/rustc comes before rustup's on your PATH");
    }
}

fn is_debian() -> bool {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    release.lines().any(|line| line == "ID=debian")
}

fn is_root() -> bool {
    output(Command::new("id").arg("-u")).is_ok_and(|uid| uid.trim() == "0")
}

/// Administrators' programs are often outside a user's PATH.
fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(Into::into))
        .any(|folder| folder.join(program).exists())
}

/// Whether a line of `/proc/self/mounts` shows this file system type (at this folder).
fn is_mounted(mounts: &str, kind: &str, folder: Option<&str>) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let place = fields.next();
        fields.next() == Some(kind) && (folder.is_none() || place == folder)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_matched_by_type_and_place() {
        let mounts = "bpf /sys/fs/bpf bpf rw 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n\
                      tmpfs /sys/fs/cgroup tmpfs rw 0 0\n";
        assert!(is_mounted(mounts, "bpf", Some("/sys/fs/bpf")));
        assert!(is_mounted(mounts, "cgroup2", None));
        assert!(!is_mounted(mounts, "bpf", Some("/run/bpf")));
        assert!(!is_mounted("tmpfs /sys/fs/bpf tmpfs rw 0 0\n", "bpf", Some("/sys/fs/bpf")));
    }
}
