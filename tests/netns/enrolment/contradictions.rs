//! Pods that are not who they say, and paths that lead elsewhere. None of them costs another pod
//! anything.

use std::os::unix::fs::symlink;
use std::path::PathBuf;

use anyhow::ensure;
use serde_json::json;
use tests::{House, PodSpec, Sandbox, pod_path};

use crate::stage::{Stage, leaves_nothing, told, wait_code};

/// A link that goes when it is dropped.
struct Link(PathBuf);

impl Link {
    fn new(target: PathBuf, link: PathBuf) -> anyhow::Result<Self> {
        symlink(target, &link)?;
        Ok(Self(link))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // It is there, or the test has failed already.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_path_that_leads_to_another_namespace_is_refused() -> anyhow::Result<()> {
    let stage = Stage::new()?;
    let Stage { web, node, .. } = &stage;
    let pod = node.bind(PodSpec::new(1, "job"))?;
    let sandbox = Sandbox::of(&pod);
    let at = |netns: PathBuf| Sandbox { netns, ..sandbox.clone() };
    let theirs = web.pod.netns().path();
    // A link in the folder of namespaces, to another pod's and to its own: what it leads to can change
    // between two looks, so neither is followed.
    let named = PathBuf::from(format!("/run/netns/{}-link", node.world.prefix()));
    for target in [theirs.clone(), pod.netns().path()] {
        let link = Link::new(target, named.clone())?;
        node.runtime.add(&at(link.0.clone()))?.refused("NETNS_INVALID")?;
    }
    // Elsewhere no runtime keeps namespaces.
    let link = Link::new(theirs.clone(), node.world.folder().join("netns"))?;
    node.runtime.add(&at(link.0.clone()))?.refused("NETNS_INVALID")?;
    // Not even a path that could be read in two ways comes to the agent.
    let dotted = PathBuf::from(format!("/run/netns/../netns/{}", web.pod.netns().name()));
    node.runtime.add(&at(dotted))?.refused("ARGS_INVALID")?;
    // The link of a process is how some runtimes name a namespace. It is followed, and what it leads to
    // is not the pod's.
    let of_process = PathBuf::from(format!("/proc/{}/ns/net", web.actor.pid()));
    node.runtime.add(&at(of_process))?.refused("IDENTITY_CONFLICT")?;
    leaves_nothing(node, &pod)?;
    node.runtime.add(&sandbox)?.ok()?;
    stage.is_untouched()
}

#[test]
fn a_sandbox_that_claims_another_pods_address_is_refused() -> anyhow::Result<()> {
    let stage = Stage::new()?;
    let Stage { web, node, .. } = &stage;
    let pod = node.bind(PodSpec::new(1, "thief"))?;
    let sandbox = Sandbox::of(&pod);
    // The word of the plugins before, against what the kernel shows.
    let addresses = vec![web.pod.ipv4(), web.pod.ipv6()];
    let claimed = Sandbox { addresses: addresses.clone(), ..sandbox.clone() };
    node.runtime.add(&claimed)?.refused("IDENTITY_CONFLICT")?;
    // The other pod's namespace with all that is true of it, under this one's name.
    let whole = Sandbox { netns: web.pod.netns().path(), addresses, ..sandbox.clone() };
    node.runtime.add(&whole)?.refused("NETNS_TAKEN")?;
    // Another instance of the name.
    let stale = Sandbox { uid: web.pod.uid().to_owned(), ..sandbox.clone() };
    node.runtime.add(&stale)?.refused("IDENTITY_CONFLICT")?;
    // One that takes the address itself.
    pod.netns().ip(&[format!("addr add {}/32 dev eth0", web.pod.ipv4())])?;
    node.runtime.add(&sandbox)?.refused("IDENTITY_CONFLICT")?;
    leaves_nothing(node, &pod)?;
    ensure!(told(node, &pod).contains(&"IDENTITY_CONFLICT".to_owned()), "{:?}", told(node, &pod));
    pod.netns().ip(&[format!("addr del {}/32 dev eth0", web.pod.ipv4())])?;
    node.runtime.add(&sandbox)?.ok()?;
    stage.is_untouched()
}

/// One that runs already: what the API server says of it, or what it has, is another pod's.
#[test]
fn a_pod_that_runs_with_anothers_address_is_not_served() -> anyhow::Result<()> {
    let stage = Stage::new()?;
    let Stage { web, node, .. } = &stage;
    node.namespace("later", None)?;
    let thief = |name| node.house(PodSpec::new(1, name).namespace("later"));
    let (told_of, has) = (thief("told")?, thief("has")?);
    let theirs = web.pod.ipv4();
    let status = json!({"status": {"podIP": theirs, "podIPs": [{"ip": theirs}]}});
    node.api.change(&pod_path(&told_of.pod), &status)?;
    has.pod.netns().ip(&[format!("addr add {theirs}/32 dev eth0")])?;
    let well = thief("well")?;
    node.label("later", Some("ambient"))?;
    node.wait_captured(&well.pod, crate::stage::REPAIR)?;
    for House { pod, .. } in [&told_of, &has] {
        wait_code(node, pod, "IDENTITY_CONFLICT")?;
        leaves_nothing(node, pod)?;
        ensure!(!node.is_annotated(pod)?, "{} is announced", pod.name());
    }
    let gap = node.agent.metric("warren_enrolment_gap_pods", &[])?;
    ensure!((gap - 2.0).abs() < 0.1, "{gap} pods in the gap");
    stage.is_untouched()
}
