//! Where sysctls can be written.
//!
//! In a container `/proc/sys` is read-only. What is below `sys/net` of any mounted procfs is that of the
//! thread which opens it, whichever process namespace the mount shows: so the node's, mounted into an
//! agent's container, serves as well.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const OWN: &str = "/proc";
const MOUNTINFO: &str = "/proc/self/mountinfo";

/// Writes a sysctl, such as `sys/net/ipv4/fwmark_reflect`.
pub(super) fn write(path: &str, text: &str) -> io::Result<()> {
    let refused = match fs::write(Path::new(OWN).join(path), text) {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => error,
        result => return result,
    };
    let mounts = fs::read_to_string(MOUNTINFO)?;
    match writable(&mounts) {
        Some(other) => fs::write(other.join(path), text),
        None => Err(refused),
    }
}

/// The first whole procfs that may be written, of those that are not our own (proc_pid_mountinfo(5)).
fn writable(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point, options) = (fields.next()?, fields.next()?, fields.next()?);
        let may_write = options.split(',').any(|option| option == "rw");
        let is_whole = filesystem.starts_with("proc ") && root == "/" && point != OWN;
        (is_whole && may_write).then(|| PathBuf::from(point))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_procfs_is_found_if_it_may_be_written() {
        let own = "20 1 0:5 / /proc rw,nosuid - proc proc rw\n\
                   21 20 0:5 /sys /proc/sys ro,nosuid - proc proc rw\n";
        assert_eq!(writable(own), None);
        let node = format!("{own}30 1 0:9 / /host/proc rw,relatime master:1 - proc proc rw\n");
        assert_eq!(writable(&node), Some(PathBuf::from("/host/proc")));
        let read_only = node.replace("rw,relatime", "ro,relatime");
        assert_eq!(writable(&read_only), None);
    }
}
