//! The name that everything made by one world carries: who made it, and whether they still live.

use std::fmt;
use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

/// Start of every name. Nothing else on a machine is called like this.
const MARK: &str = "ww";
/// Worlds made by this process so far.
static WORLDS: AtomicU32 = AtomicU32::new(1);

/// `ww<pid>x<start>x<number>`: the maker's process id, its start time (a process id is used again,
/// the pair is not, before the next boot) and a number for each of its worlds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix {
    pid: u32,
    start: u64,
    number: u32,
}

impl Prefix {
    /// A new one of this process.
    pub(crate) fn new() -> Self {
        let pid = std::process::id();
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        Self { pid, start: start_time(pid).unwrap_or(0), number }
    }

    /// The prefix at the start of a name such as `<prefix>-pod`, if it has one.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        let text = name.split('-').next()?.strip_prefix(MARK)?;
        let mut parts = text.split('x');
        let (pid, start, number) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        Some(Self {
            pid: pid.parse().ok()?,
            start: start.parse().ok()?,
            number: number.parse().ok()?,
        })
    }

    /// A uid as an API server makes them, which nothing else on this machine has.
    pub(crate) fn uuid(&self, number: u16) -> String {
        let (pid, world) = (self.pid, self.number & 0xffff);
        format!("{pid:08x}-{world:04x}-4000-8000-{:08x}{number:04x}", self.start & 0xffff_ffff)
    }

    /// Whether this process made it.
    pub(crate) fn is_own(&self) -> bool {
        self.pid == std::process::id() && !self.is_stale()
    }

    /// Whether the process that made it is gone.
    pub(crate) fn is_stale(&self) -> bool {
        start_time(self.pid) != Some(self.start)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{MARK}{}x{}x{}", self.pid, self.start, self.number)
    }
}

/// Field 22 of proc_pid_stat(5), in clock ticks since boot.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in brackets and may hold spaces and brackets.
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_its_maker() {
        let prefix = Prefix::new();
        assert_eq!(Prefix::of_name(&format!("{prefix}-web")), Some(prefix.clone()));
        assert!(!prefix.is_stale());
        assert!(Prefix { start: prefix.start + 1, ..prefix }.is_stale());
        for name in ["ww", "www", "ww1x2", "ww1x2x3x4-a", "eth0", "wwax1x1"] {
            assert_eq!(Prefix::of_name(name), None, "{name}");
        }
    }
}
