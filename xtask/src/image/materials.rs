//! The list of what an image's binaries were made from (SBOM), as CycloneDX 1.5.

use std::collections::BTreeMap;

use anyhow::Context;
use serde_json::json;

use crate::step::output;
use crate::workspace::cargo;

/// Every crate that is linked into the packages' binaries, with its version and license.
pub(super) fn list(image: &str, packages: &[&str], platform: &str) -> anyhow::Result<String> {
    // What is built, not what could be: features that are off are left out. Build scripts and macros
    // run at our side and are not in the image.
    let text = output(
        cargo()
            .args(["tree", "--locked", "--edges", "normal,no-proc-macro", "--prefix", "none"])
            .args(["--format", "{p}\t{l}", "--no-dedupe", "--target", platform])
            .args(packages.iter().flat_map(|name| ["--package", name])),
    )?;
    let components = components(&text);
    let document = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {
                "type": "container",
                "name": format!("warren/{image}"),
                "version": env!("CARGO_PKG_VERSION"),
            },
        },
        "components": components,
    });
    serde_json::to_string_pretty(&document).context("write the list of materials")
}

/// From lines such as `serde v1.0.0 (*)`, a tab, `MIT OR Apache-2.0`.
fn components(text: &str) -> Vec<serde_json::Value> {
    let mut found = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let (package, license) = line.split_once('\t').unwrap_or((line, ""));
        let mut words = package.split(' ');
        let (Some(name), Some(version)) = (words.next(), words.next()) else { continue };
        let version = version.trim_start_matches('v');
        // A crate of this clone has its folder behind its version.
        let is_ours = words.next().is_some_and(|word| word.starts_with("(/"));
        found.insert((name, version), (license.trim_end_matches(" (*)"), is_ours));
    }
    let component = |((name, version), (license, is_ours)): ((&str, &str), (&str, bool))| {
        let mut component = json!({ "type": "library", "name": name, "version": version });
        if !license.is_empty() {
            component["licenses"] = json!([{ "expression": license.replace('/', " OR ") }]);
        }
        if !is_ours {
            component["purl"] = json!(format!("pkg:cargo/{name}@{version}"));
        }
        component
    };
    found.into_iter().map(component).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_are_listed_once_with_their_license() {
        let text = "ours v0.1.0 (/clone/ours)\tApache-2.0\nserde v1.0.1\tMIT/Apache-2.0\n\
                    serde v1.0.1\tMIT/Apache-2.0 (*)\n";
        let found = components(text);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0]["name"], "ours");
        assert!(found[0]["purl"].is_null());
        assert_eq!(found[1]["purl"], "pkg:cargo/serde@1.0.1");
        assert_eq!(found[1]["licenses"][0]["expression"], "MIT OR Apache-2.0");
    }
}
