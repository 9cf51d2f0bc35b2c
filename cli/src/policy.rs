//! `warren policy test`: needs no agent.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use local_config::conformance::{self, Case, Difference, Got};
use serde::Serialize;

use crate::output::{Format, Output, or_dash, table};
use crate::{Failed, Finding};

/// Largest file of cases, in bytes. A larger one is refused.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Most files in a folder. One with more is refused.
const FILES_MAX: usize = 10_000;

/// Decides every case of the files, and of the `.yaml` files in the folders.
pub(crate) fn test(output: &mut Output, paths: &[PathBuf]) -> Result<Finding, Failed> {
    let decided = decide(paths).map_err(Failed::Input)?;
    let wrong = decided.iter().filter(|decided| !decided.differences.is_empty()).count();
    match output.format {
        Format::Json => output.json(&document(&decided, wrong))?,
        Format::Table => output.text(&render(&decided, wrong))?,
    }
    Ok(if wrong == 0 { Finding::Good } else { Finding::Bad })
}

/// A case and what became of it.
struct Decided {
    file: String,
    case: Case,
    got: Got,
    differences: Vec<Difference>,
}

/// Everything that is wrong with any of the files, or every case.
fn decide(paths: &[PathBuf]) -> Result<Vec<Decided>, Vec<String>> {
    let (mut decided, mut mistakes) = (Vec::new(), Vec::new());
    for path in paths {
        match files(path) {
            Ok(files) => {
                for file in files {
                    match read(&file) {
                        Ok(cases) => decided.extend(cases),
                        Err(mistake) => mistakes.push(mistake),
                    }
                }
            }
            Err(mistake) => mistakes.push(mistake),
        }
    }
    if mistakes.is_empty() { Ok(decided) } else { Err(mistakes) }
}

/// The file itself, or what a folder holds that ends in `.yaml`, by name.
fn files(path: &Path) -> Result<Vec<PathBuf>, String> {
    let failed = |error: io::Error| format!("{}: {error}", path.display());
    if !fs::metadata(path).map_err(failed)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        if file.extension().is_some_and(|extension| extension == "yaml") {
            files.push(file);
        }
        if files.len() > FILES_MAX {
            return Err(format!("{}: more than {FILES_MAX} files", path.display()));
        }
    }
    if files.is_empty() {
        return Err(format!("{}: no file that ends in .yaml", path.display()));
    }
    files.sort_unstable();
    Ok(files)
}

fn read(path: &Path) -> Result<Vec<Decided>, String> {
    let file = path.display().to_string();
    let failed = |error: io::Error| format!("{file}: {error}");
    let mut text = String::new();
    let opened = File::open(path).map_err(failed)?;
    opened.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    if u64::try_from(text.len()).map_or(true, |bytes| bytes > FILE_BYTES_MAX) {
        return Err(format!("{file}: larger than {FILE_BYTES_MAX} bytes"));
    }
    let cases = conformance::parse(&file, &text).map_err(|errors| errors.to_string())?;
    let decide = |case: Case| {
        let got = case.judge();
        let differences = case.differences(&got);
        Decided { file: file.clone(), case, got, differences }
    };
    Ok(cases.into_iter().map(decide).collect())
}

fn render(decided: &[Decided], wrong: usize) -> String {
    let rows = decided.iter().map(|Decided { case, got, differences, .. }| {
        vec![
            if differences.is_empty() { "ok" } else { "WRONG" }.to_owned(),
            got.code.to_string(),
            or_dash(got.policy.as_ref().map(ToString::to_string).as_deref()),
            or_dash(got.rule.map(|rule| rule.to_string()).as_deref()),
            case.name.clone(),
        ]
    });
    let mut lines = vec![table(&["RESULT", "CODE", "POLICY", "RULE", "CASE"], rows.collect())];
    lines.push(String::new());
    for Decided { file, case, differences, .. } in decided {
        let place = format!("{file}:{}: {}", case.line, case.name);
        lines.extend(differences.iter().map(|difference| format!("{place}: {difference}")));
    }
    lines.push(format!("{} cases, {wrong} wrong", decided.len()));
    lines.join("\n")
}

/// The answer for programs.
#[derive(Serialize)]
struct Document<'d> {
    cases: Vec<Entry<'d>>,
    total: usize,
    wrong: usize,
}

#[derive(Serialize)]
struct Entry<'d> {
    file: &'d str,
    line: u64,
    name: &'d str,
    /// It got its verdict.
    right: bool,
    code: &'static str,
    policy: Option<String>,
    rule: Option<usize>,
    nearest_miss: Option<&'d str>,
    dry_run: &'d [String],
    differences: Vec<EntryDifference<'d>>,
}

#[derive(Serialize)]
struct EntryDifference<'d> {
    field: &'static str,
    expected: &'d str,
    got: &'d str,
}

fn document(decided: &[Decided], wrong: usize) -> Document<'_> {
    let cases = decided.iter().map(Entry::of).collect();
    Document { cases, total: decided.len(), wrong }
}

impl<'d> Entry<'d> {
    fn of(decided: &'d Decided) -> Self {
        let Decided { file, case, got, differences } = decided;
        Self {
            file,
            line: case.line,
            name: &case.name,
            right: differences.is_empty(),
            code: got.code.as_str(),
            policy: got.policy.as_ref().map(ToString::to_string),
            rule: got.rule,
            nearest_miss: got.nearest_miss.as_deref(),
            dry_run: &got.dry_run,
            differences: differences.iter().map(EntryDifference::of).collect(),
        }
    }
}

impl<'d> EntryDifference<'d> {
    fn of(difference: &'d Difference) -> Self {
        let Difference { field, expected, got } = difference;
        Self { field, expected, got }
    }
}
