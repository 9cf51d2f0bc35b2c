//! Installs what the build and the tests need, and nothing that is there already.
//!
//! What is missing is found by looking for the thing itself (a program, a source tree), not for a
//! package: on a distribution that is not Debian the same list says what to provide.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::arguments::Usage;
use crate::kubernetes;
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
/// The store of an API server.
const ETCD_PACKAGE: &str = "etcd-server";
/// Builds the API server, where Debian's is new enough.
const GO_PACKAGE: &str = "golang-go";

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
        if !missing.packages.is_empty() || missing.linker || missing.etcd {
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
        if missing.etcd {
            step("etcd", unpack_etcd)?;
        }
        if missing.bpf_fs {
            step("mount bpffs", mount_bpf_fs)?;
        }
        let left = Missing::look();
        if !left.is_nothing_to_install() {
            bail!("still missing after installing:\n{}", left.describe());
        }
        Ok(())
    })
}

/// What this machine lacks.
#[expect(clippy::struct_excessive_bools, reason = "each thing is there or not, for itself")]
struct Missing {
    packages: Vec<&'static str>,
    /// Why no compiler qualifies, if none does.
    compiler: Option<String>,
    linker: bool,
    etcd: bool,
    /// Why no Go qualifies, if none does and Debian has none that would.
    go: Option<String>,
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
        let provided = kubernetes::provided().is_ok_and(|folder| folder.is_some());
        let mut go = kubernetes::go().err().filter(|_| !provided);
        if go.is_some() && debian_go_suits() {
            packages.push(GO_PACKAGE);
            go = None;
        }
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        Self {
            packages,
            compiler,
            linker: linker().is_none(),
            etcd: !provided && kubernetes::etcd().is_none(),
            go,
            bpf_fs: !is_mounted(&mounts, "bpf", Some(BPF_FS)),
            cgroup2: !is_mounted(&mounts, "cgroup2", None),
        }
    }

    fn is_nothing(&self) -> bool {
        self.is_nothing_to_install() && self.go.is_none()
    }

    /// Without Go the tier `kube` fails, with this reason; everything else runs.
    fn is_nothing_to_install(&self) -> bool {
        let files = self.packages.is_empty() && !self.linker && !self.etcd;
        files && !self.bpf_fs && !self.cgroup2
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
        if self.etcd {
            let root = kubernetes::etcd_root();
            lines.push(format!("etcd on PATH, or {ETCD_PACKAGE} unpacked in {}", root.display()));
        }
        if let Some(why) = &self.go {
            let oldest = kubernetes::oldest_go();
            lines.push(format!(
                "Go {oldest} or newer for the tests of the tier kube: {why}, and Debian's \
                 {GO_PACKAGE} here is older too; install it from go.dev (setup does not)"
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

/// Unpacked, not installed: installing it would start a service, now and at every boot.
fn unpack_etcd() -> anyhow::Result<()> {
    unpack(&[ETCD_PACKAGE], &kubernetes::etcd_root())
}

/// Downloads packages of Debian and unpacks them into a folder.
pub(crate) fn unpack(packages: &[&str], root: &Path) -> anyhow::Result<()> {
    let download = root.join("download");
    fs::create_dir_all(&download).with_context(|| format!("make {}", download.display()))?;
    if is_root() {
        run(apt().arg("update"))?;
    }
    println!("    apt-get download {}", packages.join(" "));
    // The user that apt becomes for a download may not write into our cache.
    let as_caller = ["-o", "APT::Sandbox::User=root"];
    run(apt().current_dir(&download).args(as_caller).arg("download").args(packages))?;
    for package in fs::read_dir(&download).context("list what was downloaded")? {
        let package = package.context("list what was downloaded")?.path();
        run(Command::new("dpkg-deb").arg("--extract").arg(&package).arg(root))?;
    }
    fs::remove_dir_all(&download).context("remove what was downloaded")
}

/// Whether `apt-get install` would give a Go that is new enough.
fn debian_go_suits() -> bool {
    let policy = output(Command::new("apt-cache").args(["policy", GO_PACKAGE])).unwrap_or_default();
    let candidate = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
    candidate.and_then(kubernetes::two_numbers).is_some_and(|go| go >= kubernetes::OLDEST_GO)
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

fn on_path(program: &str) -> bool {
    find_on_path(program).is_some()
}

/// Administrators' programs are often outside a user's PATH.
pub(crate) fn find_on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(Into::into))
        .map(|folder| folder.join(program))
        .find(|path| path.exists())
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
