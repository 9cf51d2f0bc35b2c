use std::time::Duration;

use proptest::prelude::*;

use super::{
    Conflist, ConflistError, PluginSettings, SettingsError, chain, is_ours, is_read, names_plugin,
    primary,
};
use crate::Version;

fn settings() -> PluginSettings {
    let namespaces = ["warren-system", "kube-system", "warren-system"];
    PluginSettings::new("/run/warren/cni.sock", namespaces, Duration::from_secs(30))
        .expect("settings")
}

fn made(file: &str, contents: &[u8]) -> Conflist {
    chain(file, contents, &settings()).unwrap_or_else(|error| panic!("{error}"))
}

macro_rules! golden {
    ($($file:literal => $own:literal),+ $(,)?) => {
        [$((
            $file,
            $own,
            include_str!(concat!("../../testdata/conflist/", $file)),
            include_str!(concat!("../../testdata/conflist/", $file, ".chain")),
        )),+]
    };
}

#[test]
fn chains_of_the_known_networks() {
    let cases = golden! {
        "10-bridge.conflist" => "00-warren.conflist",
        "87-ptp.conf" => "00-warren.conflist",
        "10-calico.conflist" => "00-warren.conflist",
        "05-cilium.conflist" => "00-warren.conflist",
        "10-aws.conflist" => "00-warren.conflist",
        "00-multus.conf" => "00-0-warren.conflist",
        "10-versions.conflist" => "00-warren.conflist",
    };
    for (file, own, before, after) in cases {
        let made = made(file, before.as_bytes());
        assert_eq!(made.file, own, "{file}");
        assert_eq!(String::from_utf8_lossy(&made.contents), after, "{file}");
        assert!(made.file < file, "{file} is not outranked");
        assert!(names_plugin(&made.contents) && !names_plugin(before.as_bytes()));
        let json: serde_json::Value = serde_json::from_slice(&made.contents).expect("JSON");
        let plugins = json["plugins"].as_array().expect("plugins");
        assert_eq!(plugins.last().expect("one")["type"], "warren-cni");
        // A copy of ours in another's file gives the same plugins again, ours once.
        let again = chain("10-copy.conflist", &made.contents, &settings()).expect("a chain");
        let again: serde_json::Value = serde_json::from_slice(&again.contents).expect("JSON");
        let again = again["plugins"].as_array().expect("plugins");
        assert_eq!(again.len(), plugins.len(), "{file}");
        assert_eq!(again[..again.len() - 1], plugins[..plugins.len() - 1], "{file}");
    }
}

#[test]
fn the_primary_is_the_first_that_is_not_ours() {
    let cases: [(&[&str], Option<&str>); 7] = [
        (&[], None),
        (&["00-warren.conflist", "README", "calico-kubeconfig"], None),
        (&["10-b.conflist", "00-warren.conflist", "10-a.conf"], Some("10-a.conf")),
        (&["99-loopback.conf", "100-crio-bridge.conflist"], Some("100-crio-bridge.conflist")),
        (&["z.json", "!00-warren.conflist", "00-0-warren.conflist"], Some("z.json")),
        (&[".00-warren.conflist.warren-new", "10-a.conflist.cilium_bak"], None),
        (&["B.conf", "a.conf"], Some("B.conf")),
    ];
    for (files, expected) in cases {
        assert_eq!(primary(files.iter().copied()), expected, "{files:?}");
    }
    assert!(is_ours("00-warren.conflist") && !is_ours("00-warren.conf"));
    assert!(is_read("a.json") && !is_read("a.yaml") && !is_read("conflist"));
}

#[test]
fn a_primary_that_cannot_be_chained_is_named() {
    let chain = |file: &str, contents: &str| {
        let error = chain(file, contents.as_bytes(), &settings()).expect_err(contents);
        assert!(error.to_string().contains(file), "{error}");
        error
    };
    let list = |contents: &str| chain("10-a.conflist", contents);
    for unreadable in ["", "{", "[]", "null", "\u{feff}{}", r#"{"name":1}"#, "{} {}"] {
        assert!(matches!(list(unreadable), ConflistError::Unreadable { .. }), "{unreadable:?}");
    }
    let missing = |error: ConflistError| {
        let ConflistError::Missing { field, .. } = error else { panic!("{error}") };
        field
    };
    assert_eq!(missing(list(r#"{"cniVersion":"1.0.0","plugins":[]}"#)), "name");
    assert_eq!(missing(list(r#"{"name":"","cniVersion":"1.0.0"}"#)), "name");
    assert_eq!(missing(list(r#"{"name":"a","plugins":[]}"#)), "cniVersion");
    assert_eq!(missing(list(r#"{"name":"a","cniVersion":"1.0.0"}"#)), "plugins");
    let with = |plugins: &str| {
        list(&format!(r#"{{"name":"a","cniVersion":"1.0.0","plugins":{plugins}}}"#))
    };
    assert_eq!(missing(with("[]")), "plugin but ours");
    assert_eq!(missing(with(r#"[{"type":"warren-cni"}]"#)), "plugin but ours");
    assert_eq!(missing(with("[{}]")), "type of a plugin");
    assert_eq!(missing(with(r#"[["bridge"]]"#)), "type of a plugin");
    assert!(matches!(with("{}"), ConflistError::Unreadable { .. }));
    assert_eq!(missing(with("[1]")), "type of a plugin");
    let single = chain("10-a.conf", r#"{"name":"a","cniVersion":"1.0.0","plugins":[]}"#);
    assert_eq!(missing(single), "type");
    for version in ["0.2.0", "2.0.0"] {
        let text = format!(r#"{{"name":"a","cniVersion":"{version}","plugins":[]}}"#);
        assert!(matches!(list(&text), ConflistError::Version { .. }));
    }
    assert!(matches!(chain("!0", "{}"), ConflistError::Outranks { .. }));
    assert!(matches!(list(&" ".repeat(1024 * 1024 + 1)), ConflistError::TooLong { .. }));
}

#[test]
fn a_list_of_versions_will_do() {
    let text = r#"{"cniVersions":["0.2.0","1.0.0"],"name":"a","plugins":[{"type":"b"}]}"#;
    let made = made("10-a.conflist", text.as_bytes());
    let json: serde_json::Value = serde_json::from_slice(&made.contents).expect("JSON");
    assert_eq!(json["cniVersions"], serde_json::json!(["1.0.0"]));
    let none = text.replace("1.0.0", "2.0.0");
    let error = chain("10-a.conflist", none.as_bytes(), &settings()).expect_err("no version");
    assert!(matches!(error, ConflistError::Missing { field: "cniVersion", .. }), "{error}");
}

#[test]
fn of_two_fields_of_one_name_the_last_counts() {
    let text = r#"{"name":"a","cniVersion":"9","plugins":[{"type":"b"}],"cniVersion":"1.0.0"}"#;
    let made = made("10-a.conflist", text.as_bytes());
    let json: serde_json::Value = serde_json::from_slice(&made.contents).expect("JSON");
    assert_eq!(json["cniVersion"], "1.0.0");
}

#[test]
fn settings_that_no_plugin_could_use_are_refused() {
    let new = |socket, namespace, timeout| PluginSettings::new(socket, [namespace], timeout);
    let second = Duration::from_secs(1);
    assert!(matches!(new("cni.sock", "a", second), Err(SettingsError::Socket(_))));
    assert!(matches!(new("/a", "A", second), Err(SettingsError::Namespace { .. })));
    for timeout in [Duration::ZERO, Duration::from_millis(1500), Duration::from_secs(91)] {
        assert!(matches!(new("/a", "a", timeout), Err(SettingsError::Timeout(_))));
    }
}

proptest! {
    #[test]
    fn no_primary_panics(file in "\\PC{0,20}(\\.conf|\\.conflist)?", contents: Vec<u8>) {
        let _ = chain(&file, &contents, &settings());
    }

    #[test]
    fn every_readable_primary_keeps_its_fields(
        version in 0_usize..Version::ALL.len(),
        kinds in proptest::collection::vec("[a-z]{1,8}", 1..5),
        extra in "\\PC{0,12}",
        number: i64,
    ) {
        let plugins: Vec<_> = kinds
            .iter()
            .map(|kind| serde_json::json!({"type": kind, "x": extra, "n": number}))
            .collect();
        let before = serde_json::json!({
            "cniVersion": Version::ALL[version].as_str(),
            "name": "pods",
            "extra": {"x": extra},
            "plugins": plugins,
        });
        let made = made("10-a.conflist", before.to_string().as_bytes());
        let mut after: serde_json::Value = serde_json::from_slice(&made.contents).expect("JSON");
        let last = after["plugins"].as_array_mut().expect("plugins").pop().expect("ours");
        prop_assert_eq!(&last["type"], "warren-cni");
        prop_assert_eq!(after, before);
    }
}
