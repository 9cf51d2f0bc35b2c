//! The project's policy tests, `tests/conformance`: every row and every edge of the semantics.

use std::io::Write;
use std::path::PathBuf;

use local_config::conformance::{self, Case};

/// The fewest cases that the corpus may hold; a number of the project's own promises.
const CASES_MIN: usize = 250;

fn corpus() -> Vec<(PathBuf, Vec<Case>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/conformance");
    let entries = std::fs::read_dir(folder).expect("tests/conformance");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    paths.sort();
    let read = |path: PathBuf| {
        #[expect(clippy::disallowed_methods, reason = "a test reads what it tests")]
        let text = std::fs::read_to_string(&path).expect("a file of cases");
        let name = path.file_name().expect("a file").to_string_lossy().into_owned();
        let cases = conformance::parse(&name, &text).unwrap_or_else(|errors| panic!("{errors}"));
        (path, cases)
    };
    paths.into_iter().map(read).collect()
}

#[test]
fn every_case_gets_its_verdict() {
    let mut count = 0_usize;
    let mut wrong = Vec::new();
    for (path, cases) in corpus() {
        for case in cases {
            count += 1;
            for difference in case.differences(&case.judge()) {
                let place = format!("{}:{}", path.display(), case.line);
                wrong.push(format!("{place}: {}: {difference}", case.name));
            }
        }
    }
    // Not `println`, which only a failed test shows: the number of cases is a promise. The newline
    // before it ends the harness's own line.
    writeln!(std::io::stdout(), "\nconformance: {count} cases").expect("standard output");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count >= CASES_MIN, "only {count} cases");
}
