use std::os::unix::fs::symlink;

use super::*;

/// A folder that looks like a host's `/proc`.
struct Proc(tempfile::TempDir);

impl Proc {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn process(&self, pid: u32, cgroup: &str, netns: u64) -> &Self {
        let folder = self.0.path().join(pid.to_string());
        fs::create_dir_all(folder.join("ns")).expect("a process");
        fs::write(folder.join("cgroup"), format!("0::{cgroup}\n")).expect("cgroup");
        fs::write(folder.join("comm"), "app\n").expect("comm");
        fs::write(folder.join("status"), "Name:\tapp\nUid:\t0\t0\t0\t0\n").expect("status");
        fs::write(folder.join("stat"), format!("{pid} (a) b) {} {pid}00 0\n", "S ".repeat(19)))
            .expect("stat");
        symlink(format!("net:[{netns}]"), folder.join("ns/net")).expect("netns");
        self
    }

    /// The lines of other hierarchies for a process that is there.
    fn also(&self, pid: u32, lines: &str) -> &Self {
        let path = self.0.path().join(pid.to_string()).join("cgroup");
        let unified = fs::read_to_string(&path).expect("a process");
        fs::write(path, format!("{lines}\n{unified}")).expect("cgroup");
        self
    }

    fn view(&self) -> HostView {
        HostView::new(self.0.path().to_owned(), "/host/cgroup".into())
    }
}

#[test]
fn the_processes_of_a_pod_are_those_below_its_cgroup() {
    let proc = Proc::new();
    proc.process(10, "/kubepods/pod1/a", 5)
        .process(11, "/kubepods/pod1", 5)
        .process(12, "/kubepods/pod10/a", 6)
        .process(13, "/../kubepods/pod1/a", 7)
        .process(14, "/kubepods/pod1/b (deleted)", 8);
    fs::create_dir(proc.0.path().join("sys")).expect("not a process");
    let mut found =
        proc.view().namespaces_below(Path::new("/host/cgroup/kubepods/pod1")).expect("readable");
    found.sort_unstable();
    assert_eq!(found, [(10, 5), (11, 5), (14, 8)]);
    let elsewhere = proc.view().namespaces_below(Path::new("/elsewhere/kubepods/pod1"));
    assert!(elsewhere.expect("readable").is_empty());
}

#[test]
fn the_start_of_a_process_is_behind_its_name() {
    let proc = Proc::new();
    proc.process(10, "/a", 5);
    assert_eq!(proc.view().started(10), Some(1000));
    assert_eq!(proc.view().started(11), None);
}

#[test]
fn the_kubelet_is_found_by_name_namespace_and_place() {
    let host = NetnsFd::current().expect("a namespace");
    let named = |proc: &Proc, pid: u32| {
        fs::write(proc.0.path().join(pid.to_string()).join("comm"), "kubelet\n").expect("comm");
    };
    let proc = Proc::new();
    proc.process(20, "/kubepods/pod1/a", host.inode()).process(21, "/system.slice/fake.service", 6);
    named(&proc, 20);
    named(&proc, 21);
    let found = proc.view().kubelet(&host);
    assert!(matches!(found, Err(KubeletError::Absent)), "in a pod, or in another namespace");
    proc.process(22, "/system.slice/kubelet.service", host.inode());
    named(&proc, 22);
    // A user's, who took the name.
    proc.process(23, "/user.slice", host.inode());
    named(&proc, 23);
    let status = proc.0.path().join("23/status");
    fs::write(&status, "Name:\tkubelet\nUid:\t1000\t0\t0\t0\n").expect("status");
    let found = proc.view().kubelet(&host).expect("one");
    assert_eq!(found, Path::new("/host/cgroup/system.slice/kubelet.service"));
    fs::write(&status, "Name:\tkubelet\nUid:\t0\t0\t0\t0\n").expect("status");
    let found = proc.view().kubelet(&host);
    assert!(matches!(found, Err(KubeletError::Ambiguous { .. })), "{found:?}");
    let proc = Proc::new();
    proc.process(1, "/", host.inode());
    named(&proc, 1);
    assert!(matches!(proc.view().kubelet(&host), Err(KubeletError::Root)));
}

#[test]
fn who_must_not_be_missed_is_read_anew_and_whole() {
    let proc = Proc::new();
    proc.process(10, "/kubepods/pod1/a", 5);
    let (view, pod) = (proc.view(), Path::new("/host/cgroup/kubepods/pod1"));
    assert_eq!(view.namespaces_below(pod).expect("readable"), [(10, 5)]);
    proc.process(11, "/kubepods/pod1/a", 6);
    let mut found = view.namespaces_now(pod).expect("readable");
    found.sort_unstable();
    assert_eq!(found, [(10, 5), (11, 6)], "not of the list of a moment ago");
    // It ends while it is looked at.
    let link = proc.0.path().join("11/ns/net");
    fs::remove_file(&link).expect("removed");
    assert_eq!(view.namespaces_now(pod).expect("no error"), [(10, 5)]);
    // What may not be looked at is not absent.
    fs::write(&link, "").expect("no link");
    assert!(matches!(view.namespaces_now(pod), Err(HostError::File { .. })));
    let elsewhere = view.namespaces_now(Path::new("/elsewhere/kubepods/pod1"));
    assert!(matches!(elsewhere, Err(HostError::Elsewhere { .. })));
}

#[test]
fn a_pods_processes_are_told_by_any_hierarchy() {
    let proc = Proc::new();
    proc.process(10, "/", 5)
        .also(10, "9:name=systemd:/kubepods/burstable/podaaaa-1/c1\n4:memory:/kubepods/burstable/podaaaa-1/c1")
        .process(11, "/system.slice/containerd.service", 5)
        .also(11, "4:cpu,cpuacct:/kubepods.slice/kubepods-podaaaa_1.slice/a:b.scope")
        .process(12, "/kubepods/podaaaa-1/c", 6)
        .process(13, "/", 7)
        .also(13, "4:memory:/kubepods/podbbbb-2/kubepods/podaaaa-1")
        // In two pods at once: it counts for both, and contradicts one of them.
        .process(14, "/kubepods/podbbbb-2", 8)
        .also(14, "4:memory:/kubepods/podaaaa-1")
        .process(15, "/", 9)
        .also(15, "4:memory:/../kubepods/podaaaa-1\nnonsense");
    let pod = PodUid::parse("aaaa-1").expect("a uid");
    let mut found = proc.view().namespaces_of_pod(&pod).expect("readable");
    found.sort_unstable();
    assert_eq!(found, [(10, 5), (11, 5), (12, 6), (14, 8)]);
    assert!(proc.view().is_inhabited(7).expect("readable"));
    assert!(!proc.view().is_inhabited(77).expect("readable"));
    // What may not be looked at is not absent.
    let link = proc.0.path().join("11/ns/net");
    fs::remove_file(&link).expect("removed");
    fs::write(&link, "").expect("no link");
    assert!(matches!(proc.view().namespaces_of_pod(&pod), Err(HostError::File { .. })));
}

#[test]
fn a_kubelet_in_a_pod_of_another_hierarchy_is_none() {
    let host = NetnsFd::current().expect("a namespace");
    let proc = Proc::new();
    proc.process(20, "/system.slice/containerd.service", host.inode())
        .also(20, "4:memory:/kubepods/podaaaa-1/c");
    fs::write(proc.0.path().join("20/comm"), "kubelet\n").expect("comm");
    assert!(matches!(proc.view().kubelet(&host), Err(KubeletError::Absent)));
}

/// Processes: number, unified cgroup, line of another hierarchy.
type Rows<'a> = &'a [(u32, &'a str, &'a str)];

#[test]
fn where_pods_are_is_seen_by_their_processes() {
    let other = "4:memory:/";
    let of_pod = "4:memory:/kubepods/podaaaa-1/c";
    let cases: [(Rows<'_>, PodCgroups); 6] = [
        (&[(1, "/init", "")], PodCgroups::NoOther),
        (&[(1, "/init", other)], PodCgroups::NoneSeen),
        (&[(1, "/init", other), (7, "/kubepods/podaaaa-1/c", of_pod)], PodCgroups::Seen),
        (&[(1, "/init", other), (7, "/kubepods/podaaaa-1/c", other)], PodCgroups::Seen),
        (&[(1, "/init", other), (7, "/", of_pod)], PodCgroups::Elsewhere),
        (
            &[(1, "/init", other), (7, "/kubepods/podb/c", of_pod), (8, "/kubepods", of_pod)],
            PodCgroups::Elsewhere,
        ),
    ];
    for (processes, expected) in cases {
        let proc = Proc::new();
        for (pid, unified, others) in processes {
            proc.process(*pid, unified, 5);
            if !others.is_empty() {
                proc.also(*pid, others);
            }
        }
        assert_eq!(proc.view().pod_cgroups().expect("readable"), expected, "{processes:?}");
    }
}
