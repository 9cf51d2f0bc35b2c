//! Hooks that somebody with `CAP_SYS_ADMIN` on the node takes off captured pods come back, and do their work.

use std::path::Path;

use anyhow::{Context, ensure};
use tests::{Agent, AgentOptions, eventually};
use ztunnel::capture::bpf;

use crate::common::{House, SOON, Town, names, pins, wait_verified, within};

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
    eventually(&what, SOON, || Ok(reasons(agent, house).into_iter().nth(before)))
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
        is_adopted(west, web, shop, old)
    })
}
