//! Command lines and files.

use clap::{CommandFactory, Parser};

use super::*;
use translate::EntryVisibility;

fn config(line: &str) -> Result<Config, ConfigError> {
    let words = std::iter::once("control-plane").chain(line.split_whitespace());
    Config::new(Arguments::try_parse_from(words).expect(line).serve)
}

#[test]
fn the_command_line_is_consistent() {
    Arguments::command().debug_assert();
}

#[test]
fn flags_and_file_make_the_settings() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("mesh.yaml");
    std::fs::write(
        &file,
        "trustDomain: of.the.file\ntrustDomainAliases: [old]\nrootNamespace: root\n\
         serviceEntryVisibility: {defaultVisibility: NONE, policies: [{visibility: PUBLIC, \
         matchingRules: [{namespaceSelector: {matchLabels: {a: b}}}]}]}\nnew: 1\n",
    )
    .expect("write");
    let manifests = folder.path().display();
    let read = config(&format!("--manifests {manifests} --mesh-config {}", file.display()));
    let read = read.expect("good");
    assert_eq!(read.source, Source::Manifests(folder.path().to_owned()));
    assert_eq!(read.settings.trust_domain.as_str(), "of.the.file");
    assert_eq!(&*read.settings.root_namespace, "root");
    assert_eq!(read.settings.entry_visibility.len(), 2);
    assert_eq!(read.settings.entry_visibility[1].visibility, EntryVisibility::None);
    assert_eq!(read.unread, ["new"]);
    assert_eq!(read.node_accounts, [("istio-system".to_owned(), "ztunnel".to_owned())]);
    let outranked = config(&format!("--trust-domain flag --mesh-config {}", file.display()));
    assert_eq!(outranked.expect("good").settings.trust_domain.as_str(), "flag");
}

#[test]
fn what_is_wrong_is_named() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("mesh.yaml");
    std::fs::write(&file, "trustDomainAliases: 7\n").expect("write");
    let rooted = folder.path().join("rooted.yaml");
    std::fs::write(&rooted, "rootNamespace: Root/x\n").expect("write");
    let rooted = rooted.display();
    let manifests = folder.path().display();
    for (line, want) in [
        ("--manifests /nowhere".to_owned(), "--manifests: /nowhere is not a folder"),
        ("--trust-domain A/b".to_owned(), "trustDomain: "),
        ("--node-account ztunnel".to_owned(), "--node-account: \"ztunnel\" is not namespace/name"),
        (format!("--mesh-config {}", file.display()), "trustDomainAliases: invalid type"),
        ("--mesh-config /nowhere/x".to_owned(), "/nowhere/x: "),
        (
            format!("--mesh-config {rooted}"),
            "rooted.yaml: rootNamespace: \"Root/x\" is no name of a namespace",
        ),
        (format!("--manifests {manifests} --ca-secret cacerts"), "needs an API server"),
    ] {
        let error = config(&line).expect_err(&line).to_string();
        assert!(error.contains(want), "{line}: {error}");
    }
}

#[test]
fn times_have_units() {
    for (text, good) in [
        ("90d", true),
        ("24h", true),
        ("20s", true),
        ("5", true),
        ("0h", false),
        ("h", false),
        ("1w", false),
    ] {
        let words = ["control-plane", "--default-ttl", text];
        assert_eq!(Arguments::try_parse_from(words).is_ok(), good, "{text}");
    }
}
