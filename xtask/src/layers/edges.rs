//! Edges between crates: ours by the law, others' by their homes.

use std::path::PathBuf;

use serde_json::Value;

use super::law::{BANNED, BANNED_IN_CORE, HOMES, LAW, May, Row, find};

/// A member of a workspace of ours.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) folder: PathBuf,
    dependencies: Vec<Dependency>,
}

#[derive(Debug)]
struct Dependency {
    name: String,
    /// By path: a crate of ours.
    is_ours: bool,
    /// For tests only.
    is_dev: bool,
}

/// Reads the output of `cargo metadata --no-deps`.
pub(super) fn members(metadata: &Value) -> Vec<Member> {
    list(&metadata["packages"]).map(member).collect()
}

fn member(package: &Value) -> Member {
    let manifest = PathBuf::from(text(&package["manifest_path"]));
    let dependencies = list(&package["dependencies"]).map(|dependency| Dependency {
        name: text(&dependency["name"]),
        is_ours: dependency["path"].is_string(),
        is_dev: dependency["kind"] == "dev",
    });
    Member {
        name: text(&package["name"]),
        folder: manifest.parent().map(Into::into).unwrap_or_default(),
        dependencies: dependencies.collect(),
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Every edge that the law does not know.
pub(super) fn check(members: &[Member]) -> Vec<String> {
    let mut broken = Vec::new();
    for member in members {
        let Some(row) = find(&member.name) else {
            broken.push(format!("crate {}: has no row in the dependency law", member.name));
            continue;
        };
        if !member.folder.ends_with(row.folder) {
            broken.push(format!("crate {}: does not live in {}", row.name, row.folder));
        }
        for dependency in &member.dependencies {
            let is_allowed = if dependency.is_ours {
                may_import(row, dependency)
            } else {
                may_use(row, dependency)
            };
            if !is_allowed {
                broken.push(format!("crate {}: must not import {}", row.name, dependency.name));
            }
        }
    }
    broken
}

fn may_import(importer: &Row, dependency: &Dependency) -> bool {
    let Some(imported) = find(&dependency.name) else { return false };
    if imported.may == May::Anything {
        return false;
    }
    // Tests of a crate may build on its neighbours, never on what is above it.
    if dependency.is_dev && importer.is_core() {
        return imported.is_core();
    }
    if dependency.is_dev && importer.is_io() {
        return imported.is_core() || imported.is_io();
    }
    match importer.may {
        May::Only(names) => names.contains(&imported.name),
        May::CoreAnd(names) => imported.is_core() || names.contains(&imported.name),
        May::CoreAndIo => imported.is_core() || imported.is_io(),
        May::CoreAndIoAnd(names) => {
            imported.is_core() || imported.is_io() || names.contains(&imported.name)
        }
        May::Anything => true,
    }
}

fn may_use(importer: &Row, dependency: &Dependency) -> bool {
    if importer.may == May::Anything || dependency.is_dev {
        return true;
    }
    if importer.is_core() && BANNED_IN_CORE.contains(&dependency.name.as_str()) {
        return false;
    }
    HOMES
        .iter()
        .find(|(name, _)| *name == dependency.name)
        .is_none_or(|(_, homes)| homes.contains(&importer.name))
}

/// Banned crates among all that are built, however deep.
pub(super) fn banned(resolved: &[String], platform: &str) -> Vec<String> {
    BANNED
        .iter()
        .filter(|name| resolved.iter().any(|resolved| resolved == *name))
        .map(|name| {
            format!("{name} is built for {platform}; see `cargo tree --workspace -i {name}`")
        })
        .collect()
}

/// The law as the table that ARCHITECTURE.md shows.
pub(super) fn table() -> String {
    let mut lines = vec!["| crate | may import of ours |".to_owned(), "| --- | --- |".to_owned()];
    for row in LAW {
        let may = match row.may {
            May::Only([]) => "nothing".to_owned(),
            May::Only(names) => quoted(names),
            May::CoreAnd([]) => "`core/*`".to_owned(),
            May::CoreAnd(names) => format!("`core/*`, {}", quoted(names)),
            May::CoreAndIo => "`core/*`, `io/*`".to_owned(),
            May::CoreAndIoAnd(names) => format!("`core/*`, `io/*`, {}", quoted(names)),
            May::Anything => "anything; nobody imports it".to_owned(),
        };
        lines.push(format!("| `{}` | {may} |", row.folder));
    }
    lines.join("\n")
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What the law says of one crate with one dependency.
    fn broken(crate_folder: &str, dependency: &Value) -> Vec<String> {
        let name = crate_folder.rsplit('/').next().unwrap_or_default();
        let metadata = json!({ "packages": [{
            "name": name,
            "manifest_path": format!("/w/{crate_folder}/Cargo.toml"),
            "dependencies": [dependency],
        }]});
        check(&members(&metadata))
    }

    fn ours(name: &str) -> Value {
        json!({ "name": name, "path": "/w/x", "kind": null })
    }

    fn external(name: &str) -> Value {
        json!({ "name": name, "path": null, "kind": null })
    }

    #[test]
    fn edges_of_ours_follow_the_law() {
        for (importer, imported, is_allowed) in [
            ("core/authz", "model", true),
            ("core/authz", "resolve", false),
            ("core/local-config", "resolve", true),
            ("core/hbone", "authz", true),
            ("core/model", "authz", false),
            ("io/admin", "model", true),
            ("io/admin", "tls", false),
            ("io/svid", "tls", true),
            ("io/tls", "svid", false),
            ("io/daemon", "ztunnel", false),
            ("ztunnel", "netns", true),
            ("ztunnel", "cli", false),
            ("cli", "ztunnel", false),
            ("cli", "tests", false),
            ("tests", "ztunnel", true),
            ("xtask", "model", false),
            ("ebpf-programs", "ebpf-abi", true),
            ("ebpf-programs", "model", false),
        ] {
            let result = broken(importer, &ours(imported));
            assert_eq!(result.is_empty(), is_allowed, "{importer} -> {imported}: {result:?}");
        }
    }

    #[test]
    fn external_crates_stay_at_home() {
        for (importer, imported, is_allowed) in [
            ("ztunnel", "aya", true),
            ("io/netns", "aya", false),
            ("io/tls", "rustls", true),
            ("ztunnel", "rustls", false),
            ("io/svid", "rustls-pki-types", true),
            ("io/hbone-h2", "h2", true),
            ("ztunnel", "h2", false),
            ("tests", "h2", true),
            ("core/model", "serde", true),
            ("core/model", "tokio", false),
            ("core/resolve", "rand", false),
            ("cli", "kube", false),
        ] {
            let result = broken(importer, &external(imported));
            assert_eq!(result.is_empty(), is_allowed, "{importer} -> {imported}: {result:?}");
        }
    }

    #[test]
    fn tests_of_a_crate_may_look_sideways_but_not_up() {
        let dev = |name: &str| json!({ "name": name, "path": "/w/x", "kind": "dev" });
        assert!(broken("io/tls", &dev("svid")).is_empty());
        assert!(!broken("io/tls", &dev("ztunnel")).is_empty());
        assert!(broken("core/resolve", &dev("authz")).is_empty());
        assert!(!broken("core/resolve", &dev("tls")).is_empty());
    }

    #[test]
    fn a_crate_without_a_row_or_in_another_place_is_named() {
        assert!(broken("core/unknown", &ours("model"))[0].contains("no row"));
        assert!(broken("io/model", &external("serde"))[0].contains("does not live"));
    }

    #[test]
    fn banned_crates_are_found_at_any_depth() {
        let resolved = ["aws-lc-rs", "ring", "model"].map(str::to_owned);
        assert_eq!(banned(&resolved, "linux").len(), 1);
        assert!(banned(&["string".to_owned()], "linux").is_empty());
    }
}
