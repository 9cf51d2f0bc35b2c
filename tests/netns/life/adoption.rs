//! What a new agent does with what an earlier one left: records are compared with the kernel's own
//! objects, and a pod whose record does not fit is shut and shown, while its neighbours are served.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::common::{
    House, Routing, Town, names, pins, record, routing, state, wait_degraded, wait_left,
    wait_verified, within,
};

/// One way to spoil a record.
type Spoil = fn(&Path, &mut Value, &Town) -> anyhow::Result<()>;

#[test]
fn a_pod_whose_record_does_not_fit_is_shut_and_shown() -> anyhow::Result<()> {
    let cases: [(&str, &str, Spoil); 8] = [
        ("a missing record", "no record", |path, _, _| Ok(fs::remove_file(path)?)),
        ("an unreadable record", "not an enrolment record", |path, _, _| {
            Ok(fs::write(path, "{\"version\": 1,")?)
        }),
        ("a record that others could write", "0666", |path, _, _| {
            Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o666))?)
        }),
        ("another version", "version 7", |path, value, _| {
            value["version"] = json!(7);
            write(path, value)
        }),
        ("another pod's cgroup", "cgroup", |path, value, town| {
            let other = town.old.pod.cgroup();
            value["cgroup_path"] = json!(other);
            value["cgroup_id"] = json!(fs::metadata(other)?.ino());
            write(path, value)
        }),
        ("a cgroup that does not exist", "cgroup", |path, value, _| {
            value["cgroup_path"] = json!("/sys/fs/cgroup/nowhere");
            write(path, value)
        }),
        ("another pod's namespace", "netns", |path, value, town| {
            let other = town.old.pod.netns();
            value["netns_path"] = json!(other.path());
            value["netns_inode"] = json!(other.fd().inode());
            value["netns_cookie"] = json!(other.fd().cookie());
            write(path, value)
        }),
        ("a namespace that does not exist", "network namespace", |path, value, _| {
            value["netns_path"] = json!("/run/netns/nowhere");
            write(path, value)
        }),
    ];
    within(Town::enrolled()?, |town| {
        let uid = town.web.pod.uid().to_owned();
        let path = record(&town.west, &uid);
        let good = fs::read(&path).context("read the record")?;
        ensure!(fs::metadata(&path)?.mode() & 0o7777 == 0o600, "the record is not private");
        let folder = fs::metadata(town.west.run_dir().join("pods"))?;
        ensure!(folder.mode() & 0o7777 == 0o700, "the folder of records is not private");
        for (what, reason, spoil) in cases {
            town.west.kill9()?;
            let mut value = serde_json::from_slice(&good)?;
            spoil(&path, &mut value, town)?;
            town.west.restart()?;
            town.west.wait_ready().context(what)?;
            let said = wait_degraded(&town.west, &uid).context(what)?;
            ensure!(said.contains(reason), "{what}: {said}");
            is_shut(town).context(what)?;
            ensure!(pins(&town.west, &uid).exists(), "{what}: the hooks were removed");
            let others = routing(&town.old.pod)?;
            ensure!(others == Routing::None, "{what}: another pod's routing is {others:?}");
            wait_verified(&town.west, &town.near.pod).context(what)?;
            town.near.greet(&town.shop, "a neighbour").context(what)?;
            let status = town.west.warren(&["status"])?;
            ensure!(status.status == 1, "{what}: `warren status` says all is well");
            // What the next case starts from.
            town.west.kill9()?;
            fs::write(&path, &good)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            town.west.restart()?;
            town.west.wait_ready()?;
            wait_verified(&town.west, &town.web.pod).with_context(|| format!("after {what}"))?;
        }
        town.web.greet(&town.shop, "in the end")?;
        town.west.unenrol(&town.web.pod)?;
        wait_left(&town.west, &town.web.pod)
    })
}

/// Nothing comes in, nothing goes out.
fn is_shut(town: &Town) -> anyhow::Result<()> {
    let House { actor, pod } = &town.web;
    for (what, result) in [
        ("from outside", town.old.connect(&town.web)),
        ("to a mesh pod", town.web.connect(&town.shop)),
        ("to the outside", town.web.connect(&town.old)),
        ("from outside, IPv6", town.old.actor.connect(pod.at_v6(7007))),
        ("to the outside, IPv6", actor.connect(town.old.pod.at_v6(7007))),
    ] {
        match result {
            Ok(_) => anyhow::bail!("a connection {what} passes a pod that is not captured"),
            Err(failure) => ensure!(failure.message == "ECONNREFUSED", "{what}: {failure}"),
        }
    }
    Ok(())
}

fn write(path: &Path, value: &Value) -> anyhow::Result<()> {
    Ok(fs::write(path, value.to_string())?)
}

#[test]
fn missing_pins_are_made_again_and_orphans_can_be_removed() -> anyhow::Result<()> {
    within(Town::enrolled()?, |town| {
        let Town { west, web, near, shop, old, .. } = town;
        let (web_pins, near_pins) = (pins(west, web.pod.uid()), pins(west, near.pod.uid()));
        ensure!(names(&web_pins).len() == 12, "{:?}", names(&web_pins));
        west.kill9()?;
        // One loses a link, the other everything.
        fs::remove_file(web_pins.join("link_connect4")).context("unpin a link")?;
        fs::remove_dir_all(&near_pins).context("unpin a pod")?;
        west.restart()?;
        west.wait_ready()?;
        for house in [&*web, &*near] {
            wait_verified(west, &house.pod)?;
            let mark = west.log_mark();
            house.greet(shop, "captured again")?;
            west.wait_access(mark, "a tunnel", |line| line.path == "hbone" && line.code == "OK")?;
        }
        // Hooks without a record: shut until an operator removes them, or enrols the pod again.
        west.kill9()?;
        fs::remove_file(record(west, web.pod.uid()))?;
        west.restart()?;
        west.wait_ready()?;
        wait_degraded(west, web.pod.uid())?;
        west.unenrol(&web.pod)?;
        ensure!(!web_pins.exists(), "the hooks are left");
        ensure!(state(west, web.pod.uid())?.is_none(), "`warren pods` still shows it");
        old.greet(web, "plain")?;
        west.enrol(&web.pod)?;
        web.greet(shop, "enrolled again")
    })
}
