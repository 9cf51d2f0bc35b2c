//! Putting back what somebody on the node took from a captured pod. Its agent still holds all of it: maps,
//! links, programs.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use super::{HookError, Parts, PodHooks, PodPrefixes, PodSettings, each_outer, failed};
use crate::capture::{bpf, pins::Completeness};

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
            // If this fails, `put_back` goes on with it.
            repin(held, &parts.pins.link(*link)).map_err(failed("pin a link"))?;
        }
        Ok(())
    }

    /// Writes again what the hooks are told of a pod, and pins again what the next agent must find, as far as
    /// it is not there. What was not.
    pub fn put_back(
        &self,
        netns_cookie: u64,
        settings: &PodSettings,
        prefixes: &PodPrefixes,
    ) -> Result<Vec<&'static str>, HookError> {
        let Self { parts: Parts { programs, pins, maps, .. }, links, dns } = self;
        let mut back = Vec::new();
        // Prefixes first, as when they change.
        if maps.restore_prefixes(prefixes)? {
            back.push("its prefixes");
        }
        if maps.restore_settings(settings)? {
            back.push("its settings");
        }
        let outer = programs.pods();
        if !maps.is_at(outer, netns_cookie).map_err(failed("look for the pod in the outer maps"))? {
            each_outer(outer, maps, |outer, inner| {
                outer.set(&netns_cookie, &bpf::descriptor(inner), bpf::Update::Any)
            })
            .map_err(failed("add the pod to an outer map"))?;
            back.push("its entry in the outer maps");
        }
        // Links after maps, as when they were attached: half of it is recognised as that.
        if pins.completeness(*dns, programs.hooked()) == Completeness::Absent {
            pins.create()?;
        }
        for (name, map) in maps.named() {
            let id = |map: BorrowedFd<'_>| Ok(bpf::map_info(map)?.id);
            if keep_pinned(map, &pins.map(name), id).map_err(failed("pin a map"))? {
                back.push(name);
            }
        }
        for (link, held) in links {
            if keep_link_pinned(held, &pins.link(*link)).map_err(failed("pin a link"))? {
                back.push(link.name());
            }
        }
        back.extend(programs.repin_root()?);
        Ok(back)
    }
}

/// Pins a link again if its pin is gone or leads elsewhere; whether it was so.
pub(in crate::capture) fn keep_link_pinned(link: &OwnedFd, path: &Path) -> io::Result<bool> {
    keep_pinned(link.as_fd(), path, |link| Ok(bpf::link_info(link)?.id))
}

fn keep_pinned(
    object: BorrowedFd<'_>,
    path: &Path,
    id: impl Fn(BorrowedFd<'_>) -> io::Result<u32>,
) -> io::Result<bool> {
    // What is no such object has no such id.
    if let Ok(pinned) = bpf::get(path)
        && id(pinned.as_fd()).is_ok_and(|pinned| id(object).is_ok_and(|held| held == pinned))
    {
        return Ok(false);
    }
    repin(object, path)?;
    Ok(true)
}

fn repin(object: impl AsFd, path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    bpf::pin(object, path)
}
