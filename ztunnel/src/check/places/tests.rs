use super::*;

fn is_missing(outcome: &Outcome, word: &str) -> bool {
    matches!(outcome, Outcome::Missing(why) if why.contains(word))
}

#[test]
fn places_are_those_of_the_settings() {
    let bare = Places::read(|_| None);
    assert_eq!(bare.pins, Path::new("/sys/fs/bpf/warren"));
    assert_eq!((bare.is_kubernetes, bare.cni), (false, None));
    let chart = |name: &str| {
        let value = match name {
            "WARREN_ENROLMENT" => "kubernetes",
            "WARREN_HOST_PROC" => "/host/proc",
            "WARREN_HOST_CGROUP" => "/host/cgroup",
            "WARREN_CNI_CONF_DIR" => "/host/etc/cni/net.d",
            "WARREN_RUN_DIR" => "/elsewhere",
            _ => return None,
        };
        Some(value.to_owned())
    };
    let places = Places::read(chart);
    assert!(places.is_kubernetes);
    assert_eq!(places.proc, Path::new("/host/proc"));
    assert_eq!(places.cgroup, Path::new("/host/cgroup"));
    assert_eq!(places.run, Path::new("/elsewhere"));
    let cni = places.cni.expect("installed");
    assert_eq!(cni.program, Path::new("/usr/local/bin/warren-cni"));
    assert_eq!(cni.bin, None);
}

#[test]
fn a_file_system_of_another_kind_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    assert!(is_missing(&cgroup2(folder.path()), "not cgroup v2"));
    assert!(is_missing(&bpffs(&folder.path().join("warren")), "not on bpffs"));
    assert!(is_missing(&process_files(folder.path()), "mount the node's /proc"));
    assert!(is_missing(&process_files(&folder.path().join("x")), "No such file"));
    assert_eq!(magic(Path::new("/proc")), Ok(PROC_SUPER_MAGIC));
}

#[test]
fn what_the_agent_makes_need_not_be_there_and_what_others_make_must() {
    let folder = tempfile::tempdir().expect("a folder");
    let (file, absent) = (folder.path().join("file"), folder.path().join("a/b"));
    fs::write(&file, "").expect("written");
    assert_eq!(writable(&absent), Outcome::Fine);
    assert!(is_missing(&writable(&file.join("x")), "is no folder"));
    assert!(is_missing(&existing(&absent), "mount the node's folder"));
    assert_eq!(existing(folder.path()), Outcome::Fine);
    assert!(is_missing(&executable(&absent), "No such file"));
    assert!(is_missing(&executable(folder.path()), "no file"));
    assert!(!absent.exists() && !folder.path().join("a").exists(), "nothing is made");
}

#[test]
fn only_ipv6_may_be_without_its_sysctl() {
    let folder = tempfile::tempdir().expect("a folder");
    let absent = folder.path().join("fwmark_reflect");
    assert!(matches!(sysctl(&absent, false), Outcome::Limited(_)));
    assert!(is_missing(&sysctl(&absent, true), "WARREN_HOST_PROC"));
    fs::write(&absent, "0").expect("written");
    assert_eq!(sysctl(&absent, true), Outcome::Fine);
}

#[test]
fn a_kubelet_that_is_named_should_be_there() {
    let kubelet = |path: Option<&str>| {
        let kubelet_cgroup = path.map(PathBuf::from);
        Places { kubelet_cgroup, ..Places::read(|_| None) }.kubelet().map(|check| check.outcome)
    };
    assert_eq!(kubelet(None), None);
    assert!(matches!(kubelet(Some("/nowhere/kubelet")), Some(Outcome::Limited(_))));
    assert!(is_missing(&kubelet(Some("/proc")).expect("told"), "not cgroup v2"));
}
