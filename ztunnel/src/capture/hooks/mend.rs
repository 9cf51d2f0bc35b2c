//! Putting back what somebody on the node took from a captured pod. Its agent still holds all of it: maps,
//! links, programs.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use super::{HookError, PodHooks, failed};
use crate::capture::bpf;

impl PodHooks {
    /// Attaches each hook anew that was taken off, in the order of attaching, and replaces its pin. Capture
    /// stays active: what one hook sends to the proxy and another does not know yet is refused. After a crash
    /// before the pin, the next agent finds one that leads nowhere, or none, and attaches all anew.
    pub fn rehook(
        &mut self,
        cgroup: Option<BorrowedFd<'_>>,
        netns: BorrowedFd<'_>,
    ) -> Result<(), HookError> {
        let Self { parts, links, .. } = self;
        for (link, held) in links {
            if !bpf::link_info(&*held).map_err(failed("inspect a link"))?.target.is_gone() {
                continue;
            }
            *held = parts.attach(*link, cgroup, netns)?;
            repin(held, &parts.pins.link(*link)).map_err(failed("pin a link"))?;
        }
        Ok(())
    }
}

fn repin(object: impl AsFd, path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    bpf::pin(object, path)
}
