//! `--keep`: what one can try while everything is up.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Context;
use tests::{Node, Pod, binaries};

use crate::stage::{HTTP_PORT, SERVICE_PORT, SERVICE_VIP, Stage};

/// Writes small scripts beside the demo's files, and prints how to use them.
pub(crate) fn invite(stage: &Stage<'_>) -> anyhow::Result<()> {
    let folder = stage.world.folder();
    let pods =
        [&stage.web, &stage.cart, &stage.intruder, &stage.legacy, &stage.orders, &stage.mail];
    for pod in pods.into_iter().chain(&stage.others) {
        write(&folder.join(pod.name()), &in_pod(pod))?;
    }
    for agent in &stage.agents {
        let warren = binaries()?.join("warren");
        let socket = agent.socket();
        let text = format!("exec {} --socket {} \"$@\"", warren.display(), socket.display());
        write(&folder.join(format!("warren-{}", agent.node().number())), &text)?;
    }
    let warren = binaries()?.join("warren");
    let text = format!(
        "exec {} cp \"$@\" --cp-socket {}",
        warren.display(),
        stage.plane.socket().display()
    );
    write(&folder.join("warren-cp"), &text)?;
    let (folder, orders) = (folder.display(), stage.orders.at(HTTP_PORT));
    println!("\nEverything is still up. In another terminal, as root:\n");
    println!("  cd {folder}");
    println!("  ./web curl -s http://{SERVICE_VIP}:{SERVICE_PORT}/      # allowed, by service");
    println!("  ./intruder curl -s http://{orders}/   # denied");
    println!("  ./warren-2 flows                          # why; also: status, pods, flows -f");
    println!("  ./warren-2 why elsewhere/intruder {orders}");
    println!("  tail -f node-2/ztunnel.log                # access log and more");
    println!("  vi control-plane/manifests/policy.yaml    # verdicts follow at once");
    println!("  ./warren-cp policies                      # also: status, clients, objects, ca");
    println!("  {}", tcpdump(stage.world.node(1)));
    println!("\nCtrl-C here takes everything down.");
    Ok(())
}

/// A process of the pod: first its cgroup, which decides whose connections are captured.
fn in_pod(pod: &Pod) -> String {
    let procs = pod.container().join("cgroup.procs");
    let netns = pod.netns().path();
    format!("echo $$ > {}\nexec nsenter --net={} -- \"$@\"", procs.display(), netns.display())
}

fn tcpdump(node: &Node) -> String {
    format!("nsenter --net={} tcpdump -ni eth0 -A", node.namespace().path().display())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, format!("#!/bin/sh\n{text}\n"))
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o700)))
        .with_context(|| format!("write {}", path.display()))
}
