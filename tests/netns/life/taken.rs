//! What somebody with `CAP_SYS_ADMIN` on the node takes from captured pods: hooks, pins, entries of maps. All
//! of it comes back, and a test shows that it does its work.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use ebpf_abi::{PrefixFlags, PrefixKey, Settings, SettingsFlags};
use tests::{Agent, AgentOptions, eventually};
use ztunnel::capture::bpf::{self, Map, Update};

use crate::common::{House, SOON, Town, layout, names, pins, wait_verified, within};

/// A whole look comes every 20 s.
const WHOLE_LOOK: Duration = Duration::from_secs(30);

fn take_off(pin: &Path) -> anyhow::Result<()> {
    let link = bpf::get(pin).with_context(|| format!("open {}", pin.display()))?;
    bpf::link_detach(link).with_context(|| format!("take {} off", pin.display()))
}

/// Why a pod was shown as degraded, each time that it was.
fn reasons(agent: &Agent, house: &House) -> Vec<String> {
    let lines = agent
        .log()
        .into_iter()
        .filter(|line| line["message"] == "pod is degraded" && line["pod"] == house.pod.uid());
    lines.map(|line| line["reason"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Waits for another of [`reasons`].
fn next_reason(agent: &Agent, house: &House, before: usize) -> anyhow::Result<String> {
    let what = format!("{} is shown as degraded", house.pod.name());
    eventually(&what, WHOLE_LOOK, || Ok(reasons(agent, house).into_iter().nth(before)))
}

/// What goes out and what comes in takes its way through the agent.
fn is_captured(west: &Agent, house: &House, shop: &House, old: &House) -> anyhow::Result<()> {
    let mark = west.log_mark();
    house.greet(shop, "out")?;
    west.wait_access(mark, "a tunnel", |line| line.path == "hbone" && line.code == "OK")?;
    let mark = west.log_mark();
    old.greet(house, "in")?;
    west.wait_access(mark, "what comes in", |line| line.direction == "inbound")?;
    Ok(())
}

/// The next agent finds all that it needs.
fn is_adopted(west: &mut Agent, house: &House, shop: &House, old: &House) -> anyhow::Result<()> {
    west.kill9()?;
    ensure!(house.connect(old).is_err() && old.connect(house).is_err(), "open without an agent");
    let mark = west.log_mark();
    let shown = reasons(west, house).len();
    west.restart()?;
    west.wait_ready()?;
    wait_verified(west, &house.pod)?;
    west.wait_message(mark, "pod adopted", SOON)?;
    let anew = |line: &serde_json::Value| {
        line["message"] == "pinned hooks are missing; attaching them again"
    };
    ensure!(!west.log().iter().any(anew), "the next agent attached hooks anew");
    ensure!(reasons(west, house).len() == shown, "{:?}", reasons(west, house));
    is_captured(west, house, shop, old)
}

#[test]
fn a_hook_that_is_taken_off_a_pod_comes_back_and_the_pod_is_tested_again() -> anyhow::Result<()> {
    within(Town::enrolled()?, |town| {
        let Town { west, web, near, shop, old, .. } = town;
        let folder = pins(west, web.pod.uid());
        let links = || names(&folder).into_iter().filter(|name| name.starts_with("link_"));
        let all: Vec<_> = links().collect();
        let all: Vec<_> = all.iter().map(String::as_str).collect();
        ensure!(all.len() == 7, "{all:?}");
        for taken in [&["link_connect4"][..], &["link_sk_lookup"], &["link_sock_ops"], &all] {
            let before = reasons(west, web).len();
            for link in taken {
                take_off(&folder.join(link))?;
            }
            let reason = next_reason(west, web, before)?;
            ensure!(reason.contains("taken off the pod; it is back"), "{taken:?}: {reason}");
            wait_verified(west, &web.pod)?;
            is_captured(west, web, shop, old).with_context(|| format!("{taken:?}"))?;
            ensure!(links().eq(all.iter().copied()), "{:?}", names(&folder));
            ensure!(reasons(west, web).len() == before + 1, "{:?}", reasons(west, web));
        }
        ensure!(reasons(west, near).is_empty(), "{:?}", reasons(west, near));
        is_adopted(west, web, shop, old)
    })
}

#[test]
fn a_steering_hook_that_is_taken_off_comes_back_with_hooks_on_the_root() -> anyhow::Result<()> {
    within(Town::enrolled_with(&AgentOptions::default().on_root())?, |town| {
        let Town { west, web, shop, old, .. } = town;
        take_off(&pins(west, web.pod.uid()).join("link_sk_lookup"))?;
        let reason = next_reason(west, web, 0)?;
        ensure!(reason.contains("taken off the pod; it is back"), "{reason}");
        wait_verified(west, &web.pod)?;
        is_captured(west, web, shop, old)?;
        // A hook on the root whose pin is gone would go with its agent.
        let shown = reasons(west, web).len();
        fs::remove_file(layout(west).join("shared/root_link_connect4"))?;
        fs::remove_file(pins(west, web.pod.uid()).join("link_sk_lookup"))?;
        let reason = next_reason(west, web, shown)?;
        ensure!(reason.contains("removed from outside"), "{reason}");
        wait_verified(west, &web.pod)?;
        ensure!(layout(west).join("shared/root_link_connect4").exists());
        is_adopted(west, web, shop, old)
    })
}

#[test]
fn pins_and_entries_that_are_removed_come_back() -> anyhow::Result<()> {
    within(Town::enrolled()?, |town| {
        let Town { west, east, web, near, shop, old, .. } = town;
        let (of_web, of_near) = (pins(west, web.pod.uid()), pins(west, near.pod.uid()));
        let all = names(&of_web);
        // What the hooks are told: capture of what goes out is off, an own address unknown.
        let settings = Map::<u32, Settings>::open(&of_near.join("SETTINGS"))?;
        let told = settings.get(&0)?.context("no settings")?;
        let flags = told.flags.without(SettingsFlags::ACTIVE);
        settings.set(&0, &Settings { flags, ..told }, Update::Any)?;
        let prefixes = Map::<PrefixKey, PrefixFlags>::open(&of_near.join("PREFIXES"))?;
        for key in prefixes.keys()? {
            prefixes.delete(&key)?;
        }
        // One loses a link and a map, another one everything, and one is not found any more.
        for pin in ["link_connect4", "SETTINGS"] {
            fs::remove_file(of_web.join(pin))?;
        }
        fs::remove_dir_all(&of_near)?;
        for outer in ["POD_TUPLES", "POD_SETTINGS"] {
            let outer = Map::<u64, u32>::open(&layout(east).join("shared").join(outer))?;
            ensure!(outer.delete(&shop.pod.netns().fd().cookie())?, "no entry");
        }
        for (agent, house, expected) in [
            (&*west, &*web, &["link_connect4", "SETTINGS"][..]),
            (west, near, &["its settings", "its prefixes", "link_connect4", "LISTENERS"]),
            (east, shop, &["its entry in the outer maps"]),
        ] {
            let reason = next_reason(agent, house, 0)?;
            for word in expected {
                ensure!(reason.contains(word), "{word} is not in {reason:?}");
            }
            wait_verified(agent, &house.pod)?;
            let shown = reasons(agent, house);
            ensure!(shown.len() == 1, "{shown:?}");
        }
        ensure!(settings.get(&0)? == Some(told) && !prefixes.keys()?.is_empty());
        for (house, folder) in [(&*web, &of_web), (near, &of_near)] {
            ensure!(names(folder) == all, "{:?}", names(folder));
            is_adopted(west, house, shop, old)?;
        }
        is_captured(east, shop, web, old)
    })
}
