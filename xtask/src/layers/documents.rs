//! Holds the map of the code to the code.

use super::edges::table;
use super::law::SOURCE_FOLDERS;

/// Other first segments that make a word in backticks a path.
const FOLDERS: [&str; 4] = ["docs", "deploy", ".ci", ".cargo"];
/// Endings that make a word without a slash a path.
const ENDINGS: [&str; 3] = [".md", ".toml", ".rs"];

/// Each path that the map names must exist.
pub(super) fn check_paths(map: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    quoted(map)
        .filter(|word| is_path(word) && !exists(word.trim_end_matches("/*")))
        .map(|path| format!("ARCHITECTURE.md names {path}, which does not exist"))
        .collect()
}

/// The table of the map is the law itself.
pub(super) fn check_table(map: &str) -> Option<String> {
    let table = table();
    (!map.contains(&table))
        .then(|| format!("ARCHITECTURE.md lacks the dependency table, which is:\n{table}"))
}

/// What stands between single backticks on one line; blocks of code are left out.
fn quoted(map: &str) -> impl Iterator<Item = &str> {
    map.split("```")
        .step_by(2)
        .flat_map(str::lines)
        .flat_map(|line| line.split('`').skip(1).step_by(2).filter(|word| !word.is_empty()))
}

fn is_path(word: &str) -> bool {
    let is_plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "_-./*".contains(c));
    let (first, has_slash) = match word.split_once('/') {
        Some((first, _)) => (first, true),
        None => (word, false),
    };
    let is_ours = SOURCE_FOLDERS.contains(&first) || FOLDERS.contains(&first);
    is_plain && ((has_slash && is_ours) || ENDINGS.iter().any(|ending| word.ends_with(ending)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_are_gone_are_named() {
        let map = "See `core/model` and `core/gone/src/x.rs`, `io/*`, `README.md`.\n\
                   Not paths: `connect4/6`, `127.0.0.0/8`, `core`, `a b/c`, `ns/name/sa`.\n\
                   ```\n`docs/in-code`\n```\n`docs/adr/`";
        let existing = ["core/model", "io", "README.md", "docs/adr/"];
        let broken = check_paths(map, |path| existing.contains(&path));
        assert_eq!(broken, ["ARCHITECTURE.md names core/gone/src/x.rs, which does not exist"]);
    }

    #[test]
    fn the_table_must_be_the_law() {
        assert!(check_table("no table").is_some());
        assert_eq!(check_table(&format!("# Map\n\n{}\n\nmore", table())), None);
    }
}
