use super::*;

fn record(uid: &str) -> Record {
    Record {
        uid: PodUid::parse(uid).expect("valid"),
        workload: WorkloadKey::parse("shop/cart-1/cart").expect("valid"),
        cgroup: Some(RecordedCgroup { path: "/sys/fs/cgroup/pod".into(), id: 77 }),
        hooked: Hooked::Pod,
        netns_path: "/run/netns/pod".into(),
        netns_inode: 4_026_531_840,
        netns_cookie: 5,
        source: Source::default(),
        switches: Switches { probe_ports: vec![8080], ..Switches::default() },
        dns: DnsCapture::Off,
        mark_sysctls: MarkSysctls { reflect_ipv6: true, ..MarkSysctls::default() },
        progress: Progress::Verified,
        boot_id: "b".into(),
    }
}

fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("warren-records-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    path
}

#[test]
fn a_record_survives_and_is_private() {
    let run = folder("survives");
    let records = Records::open(&run).expect("open");
    records.save(&record("a-1")).expect("save");
    let path = run.join("pods/a-1.json");
    assert_eq!(fs::metadata(&path).expect("file").permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(run.join("pods")).expect("dir").permissions().mode() & 0o777, 0o700);
    let loaded = Records::open(&run).expect("reopen").load().expect("load");
    assert_eq!(loaded.len(), 1);
    assert_eq!(*loaded[0].record.as_ref().expect("readable"), record("a-1"));
    records.remove(&record("a-1").uid).expect("remove");
    records.remove(&record("a-1").uid).expect("twice is fine");
    assert!(records.load().expect("load").is_empty());
    fs::remove_dir_all(run).expect("clean up");
}

#[test]
fn a_record_that_is_there_is_left_alone() {
    let run = folder("left-alone");
    let records = Records::open(&run).expect("open");
    let path = run.join("pods/a-1.json");
    let inode = || fs::metadata(&path).expect("file").ino();
    records.save(&record("a-1")).expect("save");
    let first = inode();
    // A folder that takes no file any more: what is written aside has no place.
    let aside = run.join("pods/.a-1.new");
    fs::create_dir(&aside).expect("a folder in its place");
    records.save(&record("a-1")).expect("nothing to write");
    assert_eq!(inode(), first);
    let other = Record { progress: Progress::Leaving, ..record("a-1") };
    records.save(&other).expect_err("this one has to be written");
    fs::remove_dir(&aside).expect("remove");
    records.save(&other).expect("save");
    // One that others could have written is made anew.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("open to all");
    records.save(&other).expect("save");
    assert_eq!(fs::metadata(&path).expect("file").permissions().mode() & 0o777, 0o600);
    fs::remove_dir_all(run).expect("clean up");
}

#[test]
fn the_switch_for_questions_is_kept_and_old_records_mean_off() {
    let run = folder("questions");
    let records = Records::open(&run).expect("open");
    let on = Record { dns: DnsCapture::On, ..record("on") };
    records.save(&on).expect("save");
    // As agents wrote it that knew no such switch, and as they can read it.
    records.save(&record("off")).expect("save");
    let text = fs::read_to_string(run.join("pods/off.json")).expect("read");
    assert!(!text.contains("dns"), "{text}");
    let loaded = records.load().expect("load");
    let loaded: Vec<_> = loaded.iter().map(|e| e.record.as_ref().expect("readable").dns).collect();
    assert_eq!(loaded, [DnsCapture::Off, DnsCapture::On]);
    fs::remove_dir_all(run).expect("clean up");
}

#[test]
fn an_unreadable_record_costs_only_itself() {
    let run = folder("unreadable");
    let records = Records::open(&run).expect("open");
    records.save(&record("good")).expect("save");
    fs::write(run.join("pods/bad.json"), "{").expect("write");
    records.save(&record("open")).expect("save");
    let everybody = fs::Permissions::from_mode(0o644);
    fs::set_permissions(run.join("pods/open.json"), everybody).expect("chmod");
    fs::copy(run.join("pods/good.json"), run.join("pods/other.json")).expect("copy");
    fs::write(run.join("pods/.half.new"), "").expect("write");
    let loaded = records.load().expect("load");
    let names: Vec<_> = loaded.iter().map(|e| (e.name.as_str(), e.record.is_ok())).collect();
    assert_eq!(names, [("bad", false), ("good", true), ("open", false), ("other", false)]);
    assert!(matches!(loaded[2].record, Err(RecordError::Exposed { mode: 0o644, .. })));
    assert!(!run.join("pods/.half.new").exists());
    fs::remove_dir_all(run).expect("clean up");
}

#[test]
fn source_and_switches_are_kept() {
    let run = folder("switches");
    let records = Records::open(&run).expect("open");
    let switches = Switches {
        probe_ports: vec![1],
        inbound: Inbound::Bypassed,
        excluded_inbound: vec![2],
        excluded_outbound: vec![3, 4],
        excluded: vec!["10.0.0.0/8".parse().expect("net")],
    };
    for source in [Source::Cli, Source::Api, Source::Cni] {
        let saved = Record { source, switches: switches.clone(), ..record("kept") };
        records.save(&saved).expect("save");
        let loaded = records.load().expect("load");
        assert_eq!(*loaded[0].record.as_ref().expect("readable"), saved);
    }
    fs::remove_dir_all(run).expect("clean up");
}

#[test]
fn where_hooks_are_is_kept_and_old_records_mean_the_pods_cgroup() {
    let run = folder("hooked");
    let records = Records::open(&run).expect("open");
    let on_root = Record { hooked: Hooked::Root, ..record("a") };
    let without = Record { cgroup: None, hooked: Hooked::Root, ..record("b") };
    for record in [&on_root, &without, &record("c"), &Record { cgroup: None, ..record("d") }] {
        records.save(record).expect("save");
    }
    // As agents wrote it that knew one place only, and as they can read it.
    let text = fs::read_to_string(run.join("pods/c.json")).expect("read");
    assert!(!text.contains("hooked") && text.contains("cgroup_id"), "{text}");
    let loaded = records.load().expect("load");
    assert_eq!(*loaded[0].record.as_ref().expect("readable"), on_root);
    assert_eq!(*loaded[1].record.as_ref().expect("readable"), without);
    assert_eq!(*loaded[2].record.as_ref().expect("readable"), record("c"));
    let refused = loaded[3].record.as_ref().expect_err("its hooks are on no cgroup");
    assert!(refused.to_string().contains("no cgroup"), "{refused}");
    fs::remove_dir_all(run).expect("clean up");
}
