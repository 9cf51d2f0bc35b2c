//! Named network namespaces: made in bulk, configured by `ip`, entered for a system call.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail};
use netns::NetnsFd;

use crate::teardown::ensure_open;

/// Where `ip netns` keeps the names.
pub(crate) const FOLDER: &str = "/run/netns";

/// Settings of every namespace. Connection-per-request loads leave tens of thousands of sockets in
/// TIME_WAIT: with a small bound the kernel forgets the oldest, and a wide port range does the rest
/// (the fixed ports of the tests are below it). Addresses are used at once, without duplicate
/// detection.
const SYSCTLS: [(&str, &str); 7] = [
    ("ipv4/tcp_max_tw_buckets", "8192"),
    ("ipv4/ip_local_port_range", "16384 65535"),
    ("ipv4/conf/all/rp_filter", "2"),
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/all/disable_ipv6", "0"),
];

/// A namespace that `ip netns` knows. Cheap to clone; not removed when dropped.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
    fd: NetnsFd,
}

impl Namespace {
    /// Makes namespaces with loopback up and the settings of this module.
    pub(crate) fn create(names: &[String]) -> anyhow::Result<Vec<Self>> {
        ensure_open()?;
        let lines: Vec<_> = names.iter().map(|name| format!("netns add {name}")).collect();
        ip_batch(None, &lines)?;
        names.iter().map(|name| Self::open(name)).collect()
    }

    fn open(name: &str) -> anyhow::Result<Self> {
        let fd = NetnsFd::open(&Path::new(FOLDER).join(name))?;
        let namespace = Self { name: name.to_owned(), fd };
        for (setting, value) in SYSCTLS {
            namespace.set_sysctl(setting, value)?;
        }
        namespace.ip(&["link set lo up"])?;
        Ok(namespace)
    }

    /// Its name for `ip netns exec`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(FOLDER).join(&self.name)
    }

    /// Its handle.
    #[must_use]
    pub fn fd(&self) -> &NetnsFd {
        &self.fd
    }

    /// Runs `ip` commands inside, as one batch: either all succeed or it is an error.
    pub fn ip<S: AsRef<str>>(&self, lines: &[S]) -> anyhow::Result<()> {
        ip_batch(Some(&self.name), lines)
    }

    /// What one `ip` command prints inside, such as `["-json", "rule"]`.
    pub fn ip_output(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = Command::new("ip").args(["-n", &self.name]).args(arguments).output();
        let output = output.context("start ip")?;
        if !output.status.success() {
            bail!("ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Writes `/proc/sys/net/<setting>`, such as `ipv4/ip_forward`.
    pub fn set_sysctl(&self, setting: &str, value: &str) -> anyhow::Result<()> {
        let path = Path::new("/proc/sys/net").join(setting);
        // The folder shows the namespace of the thread that looks.
        self.within(|| fs::write(&path, value))?
            .with_context(|| format!("set {} to {value} in {}", path.display(), self.name))
    }

    /// Reads `/proc/sys/net/<setting>`.
    pub fn sysctl(&self, setting: &str) -> anyhow::Result<String> {
        let path = Path::new("/proc/sys/net").join(setting);
        let value = self.within(|| fs::read_to_string(&path))?;
        let value = value.with_context(|| format!("read {} in {}", path.display(), self.name))?;
        Ok(value.trim().to_owned())
    }

    /// Runs a closure on this thread inside the namespace.
    pub fn within<T>(&self, inside: impl FnOnce() -> T) -> anyhow::Result<T> {
        netns::within(&self.fd, inside).with_context(|| format!("enter {}", self.name))
    }

    /// Starts a program inside: a child is in the namespace of the thread that makes it.
    pub fn spawn(&self, command: &mut Command) -> anyhow::Result<Child> {
        let program = command.get_program().to_owned();
        self.within(|| command.spawn())?.with_context(|| format!("start {}", program.display()))
    }
}

/// Removes namespaces by name. One that is gone already is fine.
pub(crate) fn remove(names: &[String]) -> anyhow::Result<()> {
    let mut trouble = None;
    for name in names {
        let removed = ip_batch(None, &[format!("netns del {name}")]);
        if Path::new(FOLDER).join(name).exists() {
            trouble = removed.err().or(trouble);
        }
    }
    trouble.map_or(Ok(()), Err)
}

/// Runs lines of `ip -batch`, in a namespace or in this process's own.
pub(crate) fn ip_batch<S: AsRef<str>>(namespace: Option<&str>, lines: &[S]) -> anyhow::Result<()> {
    let mut command = Command::new("ip");
    if let Some(name) = namespace {
        command.args(["-n", name]);
    }
    let mut child = command
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("start ip (package iproute2)")?;
    let script = lines.iter().fold(String::new(), |script, line| script + line.as_ref() + "\n");
    if let Some(mut stdin) = child.stdin.take() {
        // A refusal of the first line closes the pipe; the status below tells.
        let _ = stdin.write_all(script.as_bytes());
    }
    let output = child.wait_with_output().context("wait for ip")?;
    if !output.status.success() {
        let place = namespace.unwrap_or("the own namespace");
        bail!("ip in {place}: {}\n{script}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
