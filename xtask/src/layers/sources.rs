//! Rules about the text of our sources. They look at code, not at comments.

use super::law::{STAGES, STORY};

/// Rustup would download the toolchain that such a file names.
const TOOLCHAIN_FILES: [&str; 6] = [
    "rust-toolchain.toml",
    "rust-toolchain",
    "ebpf-programs/rust-toolchain.toml",
    "ebpf-programs/rust-toolchain",
    "fuzz/rust-toolchain.toml",
    "fuzz/rust-toolchain",
];

/// Broken rules of one Rust file; `path` is from the root.
pub(super) fn check_file(path: &str, text: &str) -> Vec<String> {
    let mut broken = Vec::new();
    if !may_assert_identity(path) {
        let code = before_tests(text);
        for (number, line) in code_lines(code) {
            if line.contains("VerifiedIdentity::assertion") {
                broken.push(format!("{path}:{number}: only io/tls mints a VerifiedIdentity"));
            }
        }
    }
    if let Some(inside) = path.strip_prefix("ztunnel/src/") {
        broken.extend(check_stage(path, inside, text));
    }
    broken
}

/// `io/tls` verifies; tests state what was verified.
fn may_assert_identity(path: &str) -> bool {
    let file = path.rsplit('/').next().unwrap_or_default();
    path.starts_with("io/tls/")
        || path.starts_with("xtask/")
        || path.split('/').any(|folder| folder == "tests" || folder == "benches")
        || file == "tests.rs"
        || file.ends_with("_tests.rs")
}

/// The part of a file above its test module, which is last by the style.
fn before_tests(text: &str) -> &str {
    text.find("#[cfg(test)]\nmod tests {").map_or(text, |end| &text[..end])
}

fn check_stage(path: &str, inside: &str, text: &str) -> Vec<String> {
    let here = module(inside);
    if STORY.contains(&here) {
        return Vec::new();
    }
    let mut broken = Vec::new();
    for (number, imported) in crate_paths(text) {
        let is_stage = STAGES.contains(&imported.as_str()) && imported != here;
        let is_upward = STAGES.contains(&here) && STORY.contains(&imported.as_str());
        if is_stage || is_upward {
            broken.push(format!("{path}:{number}: `{here}` must not use crate::{imported}"));
        }
    }
    broken
}

/// `capture/pods.rs` and `capture.rs` are both of the module `capture`.
fn module(inside: &str) -> &str {
    let first = inside.split('/').next().unwrap_or(inside);
    first.strip_suffix(".rs").unwrap_or(first)
}

/// The top-level modules that code names after `crate::`, with their line.
fn crate_paths(text: &str) -> Vec<(usize, String)> {
    let code: Vec<_> = code_lines(text).collect();
    let mut found = Vec::new();
    for (index, (number, line)) in code.iter().enumerate() {
        for (start, _) in line.match_indices("crate::") {
            let rest = &line[start + "crate::".len()..];
            // A name such as `my_crate::` is another thing.
            let before = line[..start].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
                continue;
            }
            if rest.starts_with('{') {
                let following = code[index + 1..].iter().map(|(_, line)| *line);
                let group: String = std::iter::once(rest).chain(following).collect();
                found.extend(group_heads(&group).into_iter().map(|name| (*number, name)));
            } else {
                found.push((*number, first_word(rest)));
            }
        }
    }
    found
}

/// The first names inside `{a, b::c, d::{e, f}}`.
fn group_heads(group: &str) -> Vec<String> {
    let mut heads = Vec::new();
    let mut depth = 0_u32;
    let mut is_at_head = false;
    for (at, c) in group.char_indices() {
        match c {
            '{' => {
                depth += 1;
                is_at_head = depth == 1;
            }
            '}' if depth == 1 => break,
            '}' => depth -= 1,
            ',' => is_at_head = depth == 1,
            c if is_at_head && !c.is_whitespace() => {
                heads.push(first_word(&group[at..]));
                is_at_head = false;
            }
            _ => {}
        }
    }
    heads
}

fn first_word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// Numbered lines that are not comments.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .map(|(index, line)| (index + 1, line.split(" // ").next().unwrap_or(line)))
}

/// Each crate takes part in the workspace's lint table.
pub(super) fn check_lints(path: &str, manifest: &str) -> Option<String> {
    let mut lines = manifest.lines().map(str::trim).skip_while(|line| *line != "[lints]").skip(1);
    let inherits = lines
        .by_ref()
        .take_while(|line| !line.starts_with('['))
        .any(|line| line.replace(' ', "") == "workspace=true");
    (!inherits).then(|| format!("{path}: lacks `[lints] workspace = true`"))
}

pub(super) fn check_toolchain_files(exists: impl Fn(&str) -> bool) -> Vec<String> {
    TOOLCHAIN_FILES
        .iter()
        .filter(|path| exists(path))
        .map(|path| format!("{path}: would make rustup download a toolchain"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tls_mints_identities() {
        let call = "fn f() {\n    VerifiedIdentity::assertion(id)\n}\n";
        assert_eq!(check_file("io/svid/src/store.rs", call).len(), 1);
        assert_eq!(check_file("ztunnel/src/flow/inbound.rs", call).len(), 1);
        for path in ["io/tls/src/verify.rs", "tests/support/lib.rs", "core/authz/src/tests.rs"] {
            assert!(check_file(path, call).is_empty(), "{path}");
        }
        let comment = "/// See [`VerifiedIdentity::assertion`].\nfn f() {}\n";
        assert!(check_file("core/model/src/identity.rs", comment).is_empty());
        let in_tests = format!("fn f() {{}}\n#[cfg(test)]\nmod tests {{\n{call}}}\n");
        assert!(check_file("core/hbone/src/inbound.rs", &in_tests).is_empty());
    }

    #[test]
    fn stages_do_not_know_one_another() {
        for (path, code, is_allowed) in [
            ("ztunnel/src/policy/mod.rs", "use crate::discovery::Snapshot;", false),
            ("ztunnel/src/policy/mod.rs", "use crate::policy::Judge;", true),
            ("ztunnel/src/policy.rs", "use crate::config::Values;", true),
            ("ztunnel/src/policy/mod.rs", "// use crate::discovery::Snapshot;", true),
            ("ztunnel/src/policy/mod.rs", "fn f() { crate::relay::copy() }", false),
            ("ztunnel/src/relay/mod.rs", "use crate::{config, tunnel::Stream};", false),
            ("ztunnel/src/relay/mod.rs", "use crate::{\n    config,\n    dns::Name,\n};", false),
            ("ztunnel/src/relay/mod.rs", "use crate::{config::{tunnel}, mesh};", true),
            ("ztunnel/src/relay/mod.rs", "use crate::flow::Outbound;", false),
            ("ztunnel/src/config/mod.rs", "use crate::capture::Pods;", false),
            ("ztunnel/src/flow/outbound.rs", "use crate::{capture, relay};", true),
            ("ztunnel/src/app.rs", "use crate::capture::Pods;", true),
            ("ztunnel/src/main.rs", "use crate::telemetry;", true),
            ("cli/src/main.rs", "use crate::policy::Why;", true),
        ] {
            let broken = check_file(path, code);
            assert_eq!(broken.is_empty(), is_allowed, "{path}: {code}: {broken:?}");
        }
    }

    #[test]
    fn crates_inherit_the_lint_table() {
        assert_eq!(check_lints("a", "[package]\n\n[lints]\nworkspace = true\n"), None);
        assert!(check_lints("a", "[package]\nworkspace = true\n").is_some());
        assert!(check_lints("a", "[lints]\n[dependencies]\nworkspace = true\n").is_some());
    }

    #[test]
    fn a_toolchain_file_is_refused() {
        assert!(check_toolchain_files(|_| false).is_empty());
        assert_eq!(check_toolchain_files(|path| path == "rust-toolchain.toml").len(), 1);
    }
}
