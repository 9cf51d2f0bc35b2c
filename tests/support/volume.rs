//! A small file system of a world: one that can be full, or read-only.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// What fills it up.
const FILLER: &str = "filler";
/// No volume of a test is larger, so filling one ends.
const BYTES_MAX: u64 = 64 << 20;

/// A tmpfs. Dropping it unmounts it, and so does the teardown of its world.
#[derive(Debug)]
pub struct Volume(PathBuf);

impl Volume {
    /// Mounts one of so many bytes on a new folder.
    pub fn create(path: &Path, bytes: u64) -> anyhow::Result<Self> {
        fs::create_dir_all(path).with_context(|| format!("make {}", path.display()))?;
        let options = format!("size={bytes},mode=0700");
        mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
            .with_context(|| format!("mount a tmpfs on {}", path.display()))?;
        Ok(Self(path.to_owned()))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Leaves no room for a single byte.
    pub fn fill(&self) -> anyhow::Result<()> {
        let path = self.0.join(FILLER);
        let mut file = File::create(&path).context("make a file that fills")?;
        let piece = [0; 4096];
        for _ in 0..BYTES_MAX / 4096 {
            match file.write_all(&piece) {
                Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
                written => written.context("fill a volume")?,
            }
        }
        bail!("{} is not full after {BYTES_MAX} bytes", path.display())
    }

    /// Gives the room back.
    pub fn empty(&self) -> anyhow::Result<()> {
        fs::remove_file(self.0.join(FILLER)).context("remove what fills a volume")
    }

    /// Makes it read-only for everybody, however they have mounted it.
    pub fn freeze(&self) -> anyhow::Result<()> {
        self.remount(MsFlags::MS_RDONLY)?;
        // The flag is the file system's now. This mount's own, which copies of it in other mount
        // namespaces would keep, is not needed.
        self.remount(MsFlags::MS_BIND)
    }

    /// Makes it writable again.
    pub fn thaw(&self) -> anyhow::Result<()> {
        self.remount(MsFlags::empty())
    }

    fn remount(&self, flags: MsFlags) -> anyhow::Result<()> {
        mount(None::<&str>, &self.0, None::<&str>, flags | MsFlags::MS_REMOUNT, None::<&str>)
            .with_context(|| format!("mount {} anew", self.0.display()))
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        detach(&self.0);
    }
}

/// Unmounts all that is mounted below a folder.
pub(crate) fn unmount_below(folder: &Path) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // Field 5 is the mount point. Later ones may be below earlier ones.
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
    let below: Vec<_> = points.filter(|point| point.starts_with(folder)).collect();
    for point in below.into_iter().rev() {
        detach(point);
    }
}

fn detach(path: &Path) {
    // Whoever still uses it keeps it until then. What is not mounted needs nothing.
    let _ = umount2(path, MntFlags::MNT_DETACH);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_mounted_below_a_new_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        unmount_below(folder.path());
        assert!(folder.path().exists());
    }
}
