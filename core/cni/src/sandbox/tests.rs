use super::{InterfaceName, Namespace, NetnsPath, PodName, PodUid, SandboxError, SandboxId};

#[test]
fn netns_paths_are_absolute_and_plain() {
    for good in ["/var/run/netns/cni-1", "/proc/4711/ns/net", "/run/netns/..a", "/x"] {
        assert_eq!(NetnsPath::new(good).expect(good).as_path().to_str(), Some(good));
    }
    for bad in [
        "var/run/netns/a",
        "./a",
        "/a/../b",
        "/a/..",
        "/a/./b",
        "/a//b",
        "/a/",
        "/",
        "/a\nb",
        "/a\0",
    ] {
        let error = NetnsPath::new(bad).expect_err(bad);
        assert!(
            matches!(error, SandboxError::NetnsRelative(_) | SandboxError::NetnsNotPlain(_)),
            "{bad:?}: {error}"
        );
    }
    assert!(matches!(NetnsPath::new(""), Err(SandboxError::Empty(_))));
    let long = format!("/{}", "a".repeat(4095));
    assert!(matches!(NetnsPath::new(long), Err(SandboxError::TooLong { max: 4095, .. })));
}

#[test]
fn names_hold_nothing_that_could_be_a_path() {
    let uid = "0a4b9f3e-6b0e-4d7b-9a1e-1f2d3c4b5a69";
    assert_eq!(PodUid::new(uid).expect("a UID").as_str(), uid);
    // Of a static pod.
    assert!(PodUid::new("8f7c2a1b9d3e4f5061728394a5b6c7d8").is_ok());
    for bad in ["", "..", "a/b", "-a", "a_b", "a.b", "ä", &"a".repeat(65)] {
        assert!(PodUid::new(bad).is_err(), "{bad:?}");
    }
    for bad in ["", "Shop", "a.b", "a/b", "-a", &"a".repeat(64)] {
        assert!(Namespace::new(bad).is_err(), "{bad:?}");
    }
    assert!(PodName::new("web-0.a").is_ok());
    for bad in ["", "Web", ".a", "a b", &"a".repeat(254)] {
        assert!(PodName::new(bad).is_err(), "{bad:?}");
    }
    assert!(SandboxId::new("a1_B.c-9").is_ok());
    for bad in ["", ".a", "_a", "a/b", "a b", "a\n", &"a".repeat(257)] {
        assert!(SandboxId::new(bad).is_err(), "{bad:?}");
    }
    for bad in ["", "a/b", "a:b", "a b", "abcdefghijklmnop"] {
        assert!(InterfaceName::new(bad).is_err(), "{bad:?}");
    }
}
