//! The kernel's settings for marks: read, written, and kept open to be read again.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::{RoutingError, procfs};
use crate::{NetnsFd, within};

/// Relative to the namespace of the thread that opens them.
const ACCEPT: &str = "/proc/sys/net/ipv4/tcp_fwmark_accept";
const REFLECT_IPV4: &str = "/proc/sys/net/ipv4/fwmark_reflect";
const REFLECT_IPV6: &str = "/proc/sys/net/ipv6/fwmark_reflect";
/// A number and an end of line; the kernel writes no more than this.
const VALUE_BYTES_MAX: usize = 16;

/// Which of the kernel's settings for marks are on; all are off by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MarkSysctls {
    /// `net.ipv4.tcp_fwmark_accept`, for both families.
    pub accept: bool,
    /// `net.ipv4.fwmark_reflect`.
    pub reflect_ipv4: bool,
    /// `net.ipv6.fwmark_reflect`; a kernel without IPv6 does not have it.
    pub reflect_ipv6: bool,
}

impl MarkSysctls {
    /// As preserved client addresses need them.
    pub const ALL: Self = Self { accept: true, reflect_ipv4: true, reflect_ipv6: true };
}

/// The settings of one namespace, open. Of their changes nobody tells, so they are read often; and a
/// look-up of their paths costs more with every namespace of the node, whose entries share one chain of
/// the kernel's name cache. They do not keep the namespace alive: after its end they cannot be read.
#[derive(Debug)]
pub struct OpenSysctls {
    accept: File,
    reflect_ipv4: File,
    reflect_ipv6: Option<File>,
}

impl OpenSysctls {
    /// Opens them for reading.
    pub fn open(namespace: &NetnsFd) -> Result<Self, RoutingError> {
        within(namespace, Self::open_here)?
    }

    fn open_here() -> Result<Self, RoutingError> {
        Ok(Self {
            accept: open(ACCEPT)?,
            reflect_ipv4: open(REFLECT_IPV4)?,
            reflect_ipv6: unless_absent(open(REFLECT_IPV6).map(Some))?,
        })
    }

    /// What they are now.
    pub fn read(&self) -> Result<MarkSysctls, RoutingError> {
        Ok(MarkSysctls {
            accept: is_on(&self.accept, ACCEPT)?,
            reflect_ipv4: is_on(&self.reflect_ipv4, REFLECT_IPV4)?,
            reflect_ipv6: match &self.reflect_ipv6 {
                Some(file) => is_on(file, REFLECT_IPV6)?,
                None => false,
            },
        })
    }
}

/// Those of the namespace that this thread is in.
pub(super) fn read() -> Result<MarkSysctls, RoutingError> {
    OpenSysctls::open_here()?.read()
}

/// Writes those of the namespace that this thread is in.
pub(super) fn write(values: MarkSysctls) -> Result<(), RoutingError> {
    set(ACCEPT, values.accept)?;
    set(REFLECT_IPV4, values.reflect_ipv4)?;
    unless_absent(set(REFLECT_IPV6, values.reflect_ipv6))
}

/// A kernel without IPv6 does not have its sysctls: they are off, and cannot be set.
fn unless_absent<T: Default>(result: Result<T, RoutingError>) -> Result<T, RoutingError> {
    match result {
        Err(RoutingError::Sysctl { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => {
            Ok(T::default())
        }
        result => result,
    }
}

fn open(path: &'static str) -> Result<File, RoutingError> {
    File::open(path).map_err(|cause| RoutingError::Sysctl { action: "open", path, cause })
}

fn is_on(file: &File, path: &'static str) -> Result<bool, RoutingError> {
    let mut text = [0; VALUE_BYTES_MAX];
    let read = file.read_at(&mut text, 0);
    let length = read.map_err(|cause| RoutingError::Sysctl { action: "read", path, cause })?;
    Ok(text[..length].trim_ascii() != b"0")
}

fn set(path: &'static str, on: bool) -> Result<(), RoutingError> {
    let written = procfs::write(path.trim_start_matches("/proc/"), if on { "1" } else { "0" });
    written.map_err(|cause| RoutingError::Sysctl { action: "write", path, cause })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_is_read_as_often_as_one_likes() {
        let open = OpenSysctls::open_here().expect("opens");
        let here = read().expect("reads");
        assert_eq!(open.read().expect("reads"), here);
        assert_eq!(open.read().expect("reads again"), here);
    }
}
