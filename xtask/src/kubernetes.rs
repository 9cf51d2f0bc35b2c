//! The parts of Kubernetes that the tier `kube` starts.
//!
//! One Go module, `tests/kube/apiserver`, links every part into one binary. It is built once for
//! each state of the module and each version of Go, into the cache outside the clone. The result
//! is a folder as `KUBEBUILDER_ASSETS` names one, so that whoever has such a folder builds nothing.

use std::env;
use std::fs::{self, File, TryLockError};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, anyhow, bail};

use crate::setup::find_on_path;
use crate::step::{output, step};
use crate::workspace::{cache, root};

/// Names a folder with `kube-apiserver` and `etcd`; the tests look there and nowhere else.
pub(crate) const ASSETS_VARIABLE: &str = "KUBEBUILDER_ASSETS";
/// What the tests start out of it.
const PROGRAMS: [&str; 2] = ["kube-apiserver", "etcd"];
const MODULE: &str = "tests/kube/apiserver";
const MODULE_FILES: [&str; 3] = ["go.mod", "go.sum", "main.go"];
/// The binary, and the names it goes by.
const BINARY: &str = "kubernetes";
pub(crate) const PARTS: [&str; 6] = [
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
    "kubelet",
];
/// What the module asks for.
pub(crate) const OLDEST_GO: (u32, u32) = (1, 26);
/// Where Go's own archive is unpacked; a shell that is not a login shell has it not on its PATH.
const GO_FOLDER: &str = "/usr/local/go/bin";
/// A line of progress for so many packages; there are about 1,600.
const PACKAGES_A_LINE: usize = 200;
/// How many lines of complaint a failed build is quoted with.
const COMPLAINTS_MAX: usize = 30;

/// A Go toolchain that will do.
pub(crate) struct Go {
    program: PathBuf,
    version: String,
}

impl Go {
    /// A command that needs no C compiler, and nothing of a workspace that it may be started in.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env("CGO_ENABLED", "0").env("GOWORK", "off").stdin(Stdio::null());
        command
    }
}

/// The toolchain, or why there is none.
pub(crate) fn go() -> Result<Go, String> {
    let in_its_folder = || Some(Path::new(GO_FOLDER).join("go")).filter(|path| path.exists());
    let program = find_on_path("go").or_else(in_its_folder).ok_or("there is no go")?;
    // Asked outside the module, where a too old one would fetch another instead of answering.
    let version = output(Command::new(&program).current_dir("/").args(["env", "GOVERSION"]))
        .map_err(|error| format!("{error:#}"))?;
    let version = version.trim().to_owned();
    match two_numbers(version.trim_start_matches("go")) {
        Some(numbers) if numbers >= OLDEST_GO => Ok(Go { program, version }),
        _ => Err(format!("{} is {version}, older than {}", program.display(), oldest_go())),
    }
}

/// `1.26`.
pub(crate) fn oldest_go() -> String {
    format!("{}.{}", OLDEST_GO.0, OLDEST_GO.1)
}

/// The first two numbers of a version such as `1.26.8` or Debian's `2:1.26~1`.
pub(crate) fn two_numbers(version: &str) -> Option<(u32, u32)> {
    let version = version.split_once(':').map_or(version, |(_, rest)| rest);
    let mut numbers = version.split(|letter: char| !letter.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Where `setup` unpacks Debian's `etcd-server`.
pub(crate) fn etcd_root() -> PathBuf {
    cache().join("etcd-server")
}

/// etcd: the machine's own, or the unpacked one.
pub(crate) fn etcd() -> Option<PathBuf> {
    let unpacked = etcd_root().join("usr/bin/etcd");
    find_on_path("etcd").or_else(|| Some(unpacked).filter(|path| path.exists()))
}

/// The folder that the environment names, if it names one; an error if that will not do.
pub(crate) fn provided() -> anyhow::Result<Option<PathBuf>> {
    let Some(folder) = env::var_os(ASSETS_VARIABLE).filter(|folder| !folder.is_empty()) else {
        return Ok(None);
    };
    let folder = PathBuf::from(folder);
    match PROGRAMS.iter().find(|program| !folder.join(program).exists()) {
        None => Ok(Some(folder)),
        Some(program) => bail!("{ASSETS_VARIABLE} is {}, without {program}", folder.display()),
    }
}

/// A folder with all parts and etcd; builds it if nobody did.
pub(crate) fn assets() -> anyhow::Result<PathBuf> {
    if let Some(folder) = provided()? {
        return Ok(folder);
    }
    let go = go().map_err(|why| {
        anyhow!("Kubernetes is built with Go {} or newer, and {why}", oldest_go())
    })?;
    let etcd = etcd().context("there is no etcd: `cargo xtask setup` provides it")?;
    let folder = cache().join(format!("kubernetes-{:016x}", fingerprint(&go.version)?));
    let binary = folder.join(BINARY);
    if !binary.exists() {
        step("kubernetes", || alone(&folder, &binary, |unfinished| build(&go, unfinished)))?;
    }
    for part in PARTS {
        link(Path::new(BINARY), &folder.join(part))?;
    }
    link(&etcd, &folder.join("etcd"))?;
    Ok(folder)
}

/// What the binary is made from.
fn fingerprint(go_version: &str) -> anyhow::Result<u64> {
    let mut bytes = go_version.as_bytes().to_vec();
    for name in MODULE_FILES {
        let path = root().join(MODULE).join(name);
        bytes.push(0);
        bytes.extend(fs::read(&path).with_context(|| format!("read {}", path.display()))?);
    }
    Ok(fnv(&bytes))
}

/// FNV-1a. It tells states of our own files apart; the standard library's hash may change with the
/// compiler, and would build anew for nothing.
pub(crate) fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Makes something in the cache unless another process has just done so. What was cut short leaves
/// nothing in its place.
pub(crate) fn alone(
    folder: &Path,
    made: &Path,
    make: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let path = folder.join("lock");
    let lock = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    if let Err(TryLockError::WouldBlock) = lock.try_lock() {
        println!("    another process makes it: waiting");
    }
    lock.lock().with_context(|| format!("lock {}", path.display()))?;
    if made.exists() {
        return Ok(());
    }
    let unfinished = folder.join("unfinished");
    make(&unfinished)?;
    fs::rename(&unfinished, made).with_context(|| format!("put {} in place", made.display()))
}

fn build(go: &Go, binary: &Path) -> anyhow::Result<()> {
    println!("    {} builds {MODULE}; some minutes the first time", go.version);
    // The parts compare one another's versions.
    let version = format!("-X k8s.io/component-base/version.gitVersion={}", version()?);
    let mut command = go.command();
    command
        .current_dir(root().join(MODULE))
        .args(["build", "-v", "-trimpath", "-buildvcs=false", "-ldflags"])
        .arg(format!("-s -w {version}"))
        .arg("-o")
        .arg(binary);
    watched(&mut command)
}

/// Runs a build of Go with lines of progress; what else it said is in the error.
pub(crate) fn watched(command: &mut Command) -> anyhow::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let child = command.stderr(Stdio::piped()).spawn();
    let mut child = child.with_context(|| format!("start {program}"))?;
    let complaints = child.stderr.take().map(|output| follow(BufReader::new(output)));
    let status = child.wait().context("wait for go")?;
    if !status.success() {
        bail!("go ended with {status}:\n{}", complaints.unwrap_or_default().join("\n"));
    }
    Ok(())
}

/// Counts the packages that go names as it compiles them, and keeps what else it says.
fn follow(output: impl BufRead) -> Vec<String> {
    let start = Instant::now();
    let mut complaints = Vec::new();
    let mut packages = 0_usize;
    for line in output.lines().map_while(Result::ok) {
        if line.starts_with("go: downloading") {
            continue;
        }
        if line.starts_with('#') || line.contains(' ') {
            // The first ones have the cause.
            if complaints.len() < COMPLAINTS_MAX {
                complaints.push(line);
            }
            continue;
        }
        packages += 1;
        if packages.is_multiple_of(PACKAGES_A_LINE) {
            println!("    {packages} packages ({:.0} s)", start.elapsed().as_secs_f64());
        }
    }
    complaints
}

/// The version of Kubernetes that the module requires.
fn version() -> anyhow::Result<String> {
    let path = root().join(MODULE).join("go.mod");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    required(&text).with_context(|| format!("{} requires no Kubernetes", path.display()))
}

fn required(module: &str) -> Option<String> {
    let version = module.lines().find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes "))?;
    Some(version.trim().to_owned())
}

/// Makes a link, or sees that it is there.
pub(crate) fn link(target: &Path, place: &Path) -> anyhow::Result<()> {
    if fs::read_link(place).is_ok_and(|existing| existing == target) {
        return Ok(());
    }
    // Under a name of its own first: another process may do the same now.
    let fresh = place.with_extension(format!("{}", std::process::id()));
    symlink(target, &fresh).with_context(|| format!("link {}", fresh.display()))?;
    fs::rename(&fresh, place).with_context(|| format!("link {}", place.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_go_and_debian_write_them() {
        assert_eq!(two_numbers("1.26.8"), Some((1, 26)));
        assert_eq!(two_numbers("1.26rc1"), Some((1, 26)));
        assert_eq!(two_numbers("2:1.19~1"), Some((1, 19)));
        assert_eq!(two_numbers("devel"), None);
        assert_eq!(two_numbers("(none)"), None);
    }

    #[test]
    fn the_version_of_kubernetes_is_that_of_the_module() {
        let module = "require (\n\tk8s.io/kubectl v0.0.0\n\tk8s.io/kubernetes v1.36.3\n)\n";
        assert_eq!(required(module).as_deref(), Some("v1.36.3"));
        assert_eq!(required("module k8s.io/other\n"), None);
        assert!(version().is_ok_and(|version| version.starts_with("v1.")));
    }

    #[test]
    fn the_fingerprint_is_the_published_hash() {
        assert_eq!(fnv(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn complaints_are_kept_and_packages_are_not() {
        let output = "go: downloading k8s.io/api v0.36.3\nk8s.io/api/core/v1\n\
                      # warren.test/kubernetes\n./main.go:1:1: expected 'package'\n";
        let complaints = follow(output.as_bytes());
        assert_eq!(complaints, ["# warren.test/kubernetes", "./main.go:1:1: expected 'package'"]);
    }
}
