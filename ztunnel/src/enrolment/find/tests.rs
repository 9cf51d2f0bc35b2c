use std::os::unix::fs::symlink;

use enrol::{Source, Switches};
use model::WorkloadKey;

use super::*;

const UID: &str = "0b5c1f3e-7f2e-4a41-9d3a-111111111111";

/// A host in a folder: a cgroup tree, processes, named network namespaces. The only real network namespace
/// is this process's, so pods that are found whole live in it.
struct Host(tempfile::TempDir);

impl Host {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["proc", "cgroup", "netns"] {
            fs::create_dir(folder.path().join(name)).expect("a folder");
        }
        let host = Self(folder);
        // The host's own namespace is another one: PID namespaces are not network namespaces, so this
        // one is only ever compared by its number.
        host.process(1, "/init", "/proc/self/ns/net");
        host
    }

    fn finder(&self, bypass: &[&str]) -> Finder {
        self.finder_for(Hooked::Pod, bypass)
    }

    fn finder_for(&self, hooked: Hooked, bypass: &[&str]) -> Finder {
        let at = |name: &str| self.0.path().join(name);
        let bypass = bypass.iter().map(|net| net.parse().expect("a network")).collect();
        Finder::new(HostView::new(at("proc"), at("cgroup")), hooked, at("netns"), bypass)
    }

    fn cgroup(&self, path: &str) -> PathBuf {
        let folder = self.0.path().join("cgroup").join(path);
        fs::create_dir_all(&folder).expect("a cgroup");
        folder
    }

    fn process(&self, pid: u32, cgroup: &str, netns: &str) {
        let folder = self.0.path().join("proc").join(pid.to_string());
        fs::create_dir_all(folder.join("ns")).expect("a process");
        // Several lines, or the unified one alone.
        let lines = if cgroup.contains(':') { cgroup.to_owned() } else { format!("0::{cgroup}\n") };
        fs::write(folder.join("cgroup"), lines).expect("cgroup");
        symlink(netns, folder.join("ns/net")).expect("netns");
    }
}

fn wanted() -> Wanted {
    Wanted {
        uid: PodUid::parse(UID).expect("a uid"),
        workload: WorkloadKey::parse("shop/web-1/web").expect("a key"),
        addresses: Vec::new(),
        source: Source::Api,
        sandbox: None,
        dns: false,
        switches: Switches::default(),
        problems: Vec::new(),
        is_running: true,
    }
}

fn code(result: &Result<Found, Failure>) -> Option<Code> {
    result.as_ref().err().map(|failure| failure.code)
}

#[test]
fn a_pods_cgroup_is_found_in_every_layout() {
    let slice = format!("pod{}.slice", UID.replace('-', "_"));
    for path in [
        format!("kubepods/pod{UID}"),
        format!("kubepods/burstable/pod{UID}"),
        format!("kubepods/besteffort/pod{UID}"),
        format!("kubepods.slice/kubepods-{slice}"),
        format!("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-{slice}"),
        format!("kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-{slice}"),
        // k3s, a node in a container, and a root that a user gave.
        format!("k3s/kubepods/burstable/pod{UID}"),
        format!("docker/0123/kubelet/kubepods/burstable/pod{UID}"),
        format!(
            "system.slice/x.service/kubelet.slice/kubelet-kubepods.slice/\
             kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-{slice}"
        ),
    ] {
        let host = Host::new();
        host.cgroup("kubepods/burstable/podanother");
        let folder = host.cgroup(&path);
        let found = host.finder(&[]).folders(&PodUid::parse(UID).expect("a uid"));
        assert_eq!(found, [folder], "{path}");
    }
}

#[test]
fn what_a_pod_makes_below_its_own_cgroup_is_not_looked_at() {
    let host = Host::new();
    host.cgroup(&format!("kubepods/burstable/podhostile/kubepods/burstable/pod{UID}"));
    host.cgroup(&format!("user.slice/pod{UID}"));
    assert_eq!(code(&host.finder(&[]).find(&wanted())), Some(Code::PodNotFound));
    let starting = Wanted { is_running: false, ..wanted() };
    assert_eq!(code(&host.finder(&[]).find(&starting)), Some(Code::NotStarted));
}

#[test]
fn two_cgroups_of_one_uid_are_a_conflict() {
    let host = Host::new();
    host.cgroup(&format!("kubepods/burstable/pod{UID}"));
    host.cgroup(&format!("k3s/kubepods/besteffort/pod{UID}"));
    assert_eq!(code(&host.finder(&[]).find(&wanted())), Some(Code::IdentityConflict));
}

#[test]
fn processes_must_agree_and_be_nobody_elses() {
    let pod = format!("/kubepods/pod{UID}");
    let hosts = format!("net:[{}]", NetnsFd::current().expect("ours").inode());
    for (processes, expected) in [
        (&[][..], Code::PodNotFound),
        (&["net:[5]", "net:[6]"], Code::IdentityConflict),
        // The host's first process is in this test's namespace.
        (&[hosts.as_str()], Code::IdentityConflict),
    ] {
        let host = Host::new();
        host.cgroup(&format!("kubepods/pod{UID}/container"));
        for (pid, netns) in (10..).zip(processes) {
            host.process(pid, &format!("{pod}/container"), netns);
        }
        // A neighbour whose name begins alike.
        host.process(99, &format!("{pod}0/container"), "net:[7]");
        let found = host.finder(&[]).find(&wanted());
        assert_eq!(code(&found), Some(expected), "{processes:?}: {found:?}");
    }
}

#[test]
fn with_hooks_on_the_root_a_pod_is_found_without_a_unified_cgroup() {
    let other = |path: &str| format!("4:memory:{path}\n0::/\n");
    let hosts = format!("net:[{}]", NetnsFd::current().expect("ours").inode());
    let pod = format!("/kubepods/burstable/pod{UID}/c");
    for (processes, expected) in [
        (&[][..], Code::PodNotFound),
        (&[(pod.as_str(), "net:[5]"), (&pod, "net:[6]")], Code::IdentityConflict),
        (&[(&pod, hosts.as_str())], Code::IdentityConflict),
        // Found, and its process's file is no namespace.
        (&[(&pod, "net:[5]"), (&pod, "net:[5]")], Code::NetnsInvalid),
        (&[(&format!("{pod}0"), "net:[5]"), ("/user.slice", "net:[5]")], Code::NetnsInvalid),
    ] {
        let host = Host::new();
        for (pid, (path, netns)) in (10..).zip(processes) {
            host.process(pid, &other(path), netns);
        }
        host.process(99, &other("/kubepods/podother/c"), "net:[7]");
        let found = host.finder_for(Hooked::Root, &[]).find(&wanted());
        assert_eq!(code(&found), Some(expected), "{processes:?}: {found:?}");
        // Where hooks go onto pods' own cgroups it is not there at all.
        assert_eq!(code(&host.finder(&[]).find(&wanted())), Some(Code::PodNotFound));
    }
}

#[test]
fn a_self_tests_process_is_not_the_pods() {
    let host = Host::new();
    let folder = host.cgroup(&format!("kubepods/pod{UID}/warren-self-test-1"));
    host.process(10, &format!("/kubepods/pod{UID}/warren-self-test-1"), "net:[5]");
    host.process(11, &format!("/kubepods/pod{UID}/container"), "net:[6]");
    let pod = folder.parent().expect("it is below the pod");
    assert_eq!(host.finder(&[]).processes(pod).expect("readable"), [(11, 6)]);
}

#[test]
fn a_runtimes_path_is_a_plain_name_or_a_process() {
    let host = Host::new();
    let finder = host.finder(&[]);
    let netns = host.0.path().join("netns");
    symlink("/proc/self/ns/net", netns.join("link")).expect("a link");
    fs::write(netns.join("plain"), "").expect("a file");
    for path in [
        "/run/netns/link",
        "/var/run/netns/plain",
        "/run/netns/absent",
        "/etc/passwd",
        "/proc/self/ns/net",
        "/proc/77/ns/net",
    ] {
        let refused = finder.netns(Path::new(path)).expect_err(path);
        assert_eq!(refused.code, Code::NetnsInvalid, "{path}");
    }
    let (path, inode) = finder.netns(Path::new("/proc/1/ns/net")).expect("a process's");
    assert_eq!(path, host.0.path().join("proc/1/ns/net"));
    assert_eq!(inode, NetnsFd::current().expect("ours").inode());
}

#[test]
fn a_namespace_must_hold_the_pods_addresses_and_no_others() {
    let host = Host::new();
    let finder = host.finder(&[]);
    let here = NetnsFd::current().expect("ours");
    let own: Vec<IpAddr> = netns::addresses(&here)
        .expect("listed")
        .into_iter()
        .filter(netns::LocalAddress::is_global_unicast)
        .map(|address| address.ip)
        .collect();
    let check = |finder: &Finder, addresses: Vec<IpAddr>| {
        let wanted = Wanted { addresses, ..wanted() };
        finder.check_addresses(&wanted, &here).err().map(|failure| failure.code)
    };
    let stranger = IpAddr::from([203, 0, 113, 77]);
    if own.is_empty() {
        // A machine without a network has a namespace without an address.
        assert_eq!(check(&finder, vec![stranger]), Some(Code::NoAddress));
        return;
    }
    assert_eq!(check(&finder, own.clone()), None);
    assert_eq!(check(&finder, vec![stranger]), Some(Code::IdentityConflict));
    let more = own.iter().copied().chain([stranger]).collect();
    assert_eq!(check(&finder, more), Some(Code::IdentityConflict));
    assert_eq!(check(&finder, Vec::new()), Some(Code::PodNotFound), "unknown is not any");
    // Exclusions are destinations, and hide no address.
    let all = ["0.0.0.0/0", "::/0"].map(|net| net.parse().expect("a network")).to_vec();
    let switches = Switches { excluded: all, ..Switches::default() };
    let wanted = Wanted { addresses: vec![stranger], switches, ..wanted() };
    let refused = finder.check_addresses(&wanted, &here).err().map(|failure| failure.code);
    assert_eq!(refused, Some(Code::IdentityConflict));
    // Secondary networks are nobody's business.
    let bypassing = host.finder(&["203.0.113.0/24"]);
    let more = own.iter().copied().chain([stranger]).collect();
    assert_eq!(check(&bypassing, more), None);
}
